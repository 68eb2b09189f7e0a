"""The installed transformers and TRL have the private parts that training relies on."""

from __future__ import annotations

import inspect

import pytest
from transformers import Trainer
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.orpo import ORPOTrainer

from playground.training.model import trainable

USED = {
    Trainer: ("_load_from_checkpoint", "_get_train_sampler", "_get_num_items_in_batch", "_prepare_inputs"),
    **dict.fromkeys((DPOTrainer, KTOTrainer, RewardTrainer), ("_prepare_dataset", "create_model_card")),
    ORPOTrainer: ("tokenize_row", "get_batch_loss_metrics"),
}


def test_what_is_called_and_overridden_is_there() -> None:
    for owner, names in USED.items():
        assert [name for name in names if not callable(getattr(owner, name, None))] == []
    assert {"batch_samples", "device"} <= set(inspect.signature(Trainer._get_num_items_in_batch).parameters)


def test_only_a_subclass_takes_a_model_s_place() -> None:
    with pytest.raises(TypeError, match="TrainableLM is no int"):
        trainable(1)
