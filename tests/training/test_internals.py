"""The installed transformers, PEFT and TRL have the private parts that training relies on."""

from __future__ import annotations

import inspect

import pytest
from transformers import Trainer
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.orpo import ORPOTrainer

from playground.training import internals
from playground.training.objectives import trl


def test_what_is_called_and_overridden_is_there() -> None:
    for owner, names in internals.USED.items():
        assert [name for name in names if not callable(getattr(owner, name, None))] == []
    assert {"batch_samples", "device"} <= set(inspect.signature(Trainer._get_num_items_in_batch).parameters)
    used = dict.fromkeys((DPOTrainer, KTOTrainer, RewardTrainer), trl.USED)
    used[ORPOTrainer] = ("tokenize_row", "get_batch_loss_metrics")
    for owner, names in used.items():
        assert [name for name in names if not callable(getattr(owner, name, None))] == []


def test_only_a_subclass_takes_a_model_s_place() -> None:
    with pytest.raises(TypeError, match="int is no list"):
        internals.with_class([], int)
