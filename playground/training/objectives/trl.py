"""TRL's trainers as this project uses them, its private parts included (``tests/training/test_internals.py`` checks
them).

Rows reach TRL as our renderer's token ids, so that what is trained on is what is asked later; TRL would render and
tokenise prompt and answer in its own way. Nothing is sent anywhere, and no model card is written beside the
checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset

from playground.training.internals import collated
from playground.training.objectives.objective import Setup

logging.getLogger("trl").setLevel(logging.ERROR)

QUIET: dict[str, Any] = {"gradient_checkpointing": False, "disable_dropout": True}
"""TRL computes the forward pass twice to save memory unless told otherwise."""


USED = ("_prepare_dataset", "create_model_card")


class Tokenised:
    """Mixed in before one of TRL's trainers: rows are token ids already."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """TRL would send its makers the kind of model and data."""

    def create_model_card(self, *rest: Any, **named: Any) -> None:
        """The card is ours, and written once, when the adapter is published."""


def build(
    trainer: Callable[..., Any],
    config: Callable[..., Any],
    setup: Setup,
    rows: list[dict[str, Any]],
    *,
    copied: bool = False,
    arguments: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """One of TRL's trainers. copied: see ``given_model``; arguments: of the trainer; settings: of its config."""
    data = Dataset.from_list(rows) if type(rows) is list else rows  # orpo's stand in for a data set themselves
    with given_model(setup, copied=copied):
        return trainer(
            model=setup.model,
            args=config(**{**setup.arguments, **QUIET, **settings}),
            train_dataset=data,
            processing_class=setup.tokenizer,
            **(arguments or {}),
        )


@contextlib.contextmanager
def given_model(setup: Setup, *, copied: bool) -> Iterator[None]:
    """While a trainer is built that compares with a reference: the model stays as it was made.

    1. TRL lays a copy of every adapter beside it as its reference. That is right for one that has learned already
       (``copied``); for a new one the reference is the base, reached by switching the adapter off, and a copy of some
       kinds would change the base's weights.
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


def measured_loss(trainer: Any, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The mean loss over ``rows``, and the named figures that the trainer logged on the way."""
    total = 0.0
    with evaluating(trainer):
        for batch, count in batches(trainer, rows):
            total += float(trainer.compute_loss(trainer.model, batch)) * count
    logged = trainer._metrics["eval"]
    found = {name: sum(logged[name]) / len(logged[name]) for name in names if logged.get(name)}
    logged.clear()  # the trainer would mix it into a later evaluation
    return total / len(rows), found


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
        part = rows[start : start + size]
        yield collated(trainer, part), len(part)
