"""What each of TRL's trainers is told, and what none of them may do here.

Rows reach TRL as our renderer's token ids, so that what is trained on is what is asked later; TRL would render and tokenise
prompt and answer in its own way. Nothing is sent anywhere, and no model card is written beside the checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset

from playground.training.objectives.objective import Setup

logging.getLogger("trl").setLevel(logging.ERROR)

QUIET: dict[str, Any] = {"gradient_checkpointing": False, "disable_dropout": True}
"""TRL computes the forward pass twice to save memory unless told otherwise."""


class Ready:
    """Before one of TRL's trainers in the bases of a class: rows are tokens already."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """TRL would tell its makers which model is trained on what kind of data."""

    def create_model_card(self, *rest: Any, **named: Any) -> None:
        """The card is ours, and written once, when the adapter is published."""


def dataset(rows: Sequence[dict[str, Any]]) -> Dataset:
    """Rows as TRL's trainers take them, in memory."""
    return Dataset.from_list(list(rows))


@contextlib.contextmanager
def given_model(setup: Setup, *, copied: bool) -> Iterator[None]:
    """Around the making of a trainer that compares with a reference: the model stays as it was made.

    1. TRL lays a copy of every adapter beside it as its reference. That is right for one that has learned already (``copied``); for a
    new one the reference is the base, reached by switching the adapter off, and a copy of some kinds would change the base's weights.
    2. It turns the trained weights of a 4-bit base into bf16, which many processors compute a hundred times slower.
    """
    model = setup.model
    weights = dict(model.named_parameters())
    before = {name: weight.data for name, weight in weights.items() if weight.requires_grad}
    peft = hasattr(model, "peft_config")
    if peft and not copied:
        model.add_adapter = lambda *rest, **named: None
        model.get_parameter = lambda name: torch.empty_like(weights[name.replace(".ref.", ".default.")])
    try:
        yield
    finally:
        if peft and not copied:
            del model.add_adapter, model.get_parameter
    for name, weight in model.named_parameters():
        if name in before:
            weight.data = before[name]


def mean_figures(trainer: Any, names: Sequence[str]) -> dict[str, float]:
    """What an evaluation noted down, averaged, and forgotten by the trainer: it would mix it into a later one."""
    noted = trainer._metrics["eval"]
    found = {name: sum(noted[name]) / len(noted[name]) for name in names if noted.get(name)}
    noted.clear()
    return found


@contextlib.contextmanager
def evaluating(trainer: Any) -> Iterator[None]:
    """Dropout off, no gradients; the model's mode is put back."""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        trainer.model.train(was_training)


def batches(trainer: Any, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """Collated rows on the model's device, and how many there are in each batch."""
    size = trainer.args.per_device_train_batch_size
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        yield trainer._prepare_inputs(trainer.data_collator(part)), len(part)
