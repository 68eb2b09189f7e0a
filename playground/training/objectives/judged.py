"""Learning from single answers that were found good or bad: ``kto`` (Ethayarajh et al. 2024, arXiv:2402.01306)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

from transformers import Trainer
from trl import KTOConfig, KTOTrainer

from playground.errors import RunFailedError
from playground.training.objectives.objective import Objective, Setup, Writes
from playground.training.objectives.rows import Marked, Row
from playground.training.objectives.trl import QUIET, Ready, batches, dataset, evaluating, given_model, mean_figures

FEWEST = 2
"""Rows in a batch: what it compares an answer with is another row's."""
HEAVIEST = 10.0


class _KTO(Ready, KTOTrainer):
    pass


class Kto(Writes):
    """Good answers become likelier than where the model began, bad ones less likely, each against the drift of the batch."""

    figures: tuple[str, ...] = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")

    def trainer(self, setup: Setup) -> Trainer:
        rows = [row for row in setup.rows if isinstance(row, Marked)]
        if len(rows) < FEWEST:
            raise RunFailedError(f"kto compares answers within a batch and needs {FEWEST} rows; there is {len(rows)}. Add rows.")
        size = max(FEWEST, setup.arguments["per_device_train_batch_size"])
        random.Random(setup.spec.seed).shuffle(rows)  # the trainer takes them in order, because each names its neighbour
        good = sum(row.good for row in rows)
        arguments = {**setup.arguments, "per_device_train_batch_size": size}
        with given_model(setup, copied=bool(setup.spec.start)):
            return cast(Trainer, _KTO(
                model=setup.model,
                args=KTOConfig(**arguments, **QUIET, max_length=None, **weights(good, len(rows) - good)),
                train_dataset=dataset(as_marked(rows, size)),
                processing_class=setup.tokenizer,
            ))  # fmt: skip

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        marked = as_marked([row for row in rows if isinstance(row, Marked)], trainer.args.per_device_train_batch_size)
        total = 0.0
        with evaluating(trainer):
            for batch, count in batches(trainer, marked):
                total += float(trainer.compute_loss(trainer.model, batch)) * count
        return total / len(marked), mean_figures(trainer, self.figures)


def weights(good: int, bad: int) -> dict[str, Any]:
    """What the two kinds weigh, so that neither is drowned out by the other (equation 8: a ratio from 1 to 4/3)."""
    if not good or not bad:
        return {}
    return {"desirable_weight": min(HEAVIEST, max(1.0, bad / good)), "undesirable_weight": min(HEAVIEST, max(1.0, good / bad))}


def as_marked(rows: Sequence[Marked], size: int) -> list[dict[str, Any]]:
    """As TRL's collator takes them, in batches of ``size``: each row carries the answer of the one before it in its batch, the first
    that of the last, for the drift (KL) of the batch. A batch of one borrows from the row before."""
    made: list[dict[str, Any]] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        for place, row in enumerate(part):
            other = part[place - 1] if len(part) > 1 else rows[start - 1]
            made.append(
                {
                    "prompt_ids": row.prompt_ids,
                    "completion_ids": row.answer.completion_ids,
                    "KL_completion_ids": other.answer.completion_ids,
                    "label": row.good,
                }
            )
    return made


def make(name: str) -> Objective:
    return Kto()
