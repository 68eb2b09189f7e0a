"""Learning from pairs of answers: ``dpo`` (Rafailov et al. 2023, arXiv:2305.18290) and ``orpo`` (Hong et al. 2024,
arXiv:2403.07691).

Learning from single answers that were found good or bad: ``kto`` (Ethayarajh et al. 2024, arXiv:2402.01306).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

from transformers import Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from playground.errors import RunFailedError
from playground.training.objectives.objective import Marked, Objective, Pair, Row, Setup, Writes
from playground.training.objectives.trl import Tokenised, batches, build, evaluating, measured_loss

FIGURES = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


class _DPO(Tokenised, DPOTrainer):
    pass


class _ORPO(Tokenised, ORPOTrainer):
    """ORPO's NLL part is taken over prompt and answer, as TRL computes it."""

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        """Rows come with their tokens; the prompt's are not learned in the part about odds."""
        prompt = feature["prompt_ids"]
        row: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            ids = prompt + feature[f"{side}_ids"]
            row[f"{side}_input_ids"], row[f"{side}_attention_mask"] = ids, [1] * len(ids)
            row[f"{side}_labels"] = [-100] * len(prompt) + feature[f"{side}_ids"]
        return row


class _Rows(list[Any]):
    """ORPO's trainer maps its rows three times: twice for what is done already, once to ``tokenize_row``."""

    def map(self, function: Any, **named: Any) -> _Rows:
        return _Rows(function(row) for row in self) if getattr(function, "__name__", "") == "tokenize_row" else self


class Dpo(Writes):
    """The better answer becomes likelier than the other one, measured from where the model began."""

    figures: tuple[str, ...] = FIGURES

    def trainer(self, setup: Setup) -> Trainer:
        copied = bool(setup.spec.start)
        return cast(Trainer, build(_DPO, DPOConfig, setup, as_pairs(setup.rows), max_length=None, copied=copied))

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        return measured_loss(trainer, as_pairs(rows), FIGURES)


class Orpo(Writes):
    """Fine-tuning on the better answer, with a price on the odds of the other one; no reference model."""

    figures: tuple[str, ...] = (*FIGURES, "nll_loss", "log_odds_ratio")

    def trainer(self, setup: Setup) -> Trainer:
        rows, longest = _Rows(as_pairs(setup.rows)), setup.spec.max_tokens
        return cast(Trainer, build(_ORPO, ORPOConfig, setup, rows, max_length=longest))

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        total = 0.0
        sums = dict.fromkeys(self.figures, 0.0)
        with evaluating(trainer):
            for batch, count in batches(trainer, [trainer.tokenize_row(row) for row in as_pairs(rows)]):
                loss, figures = trainer.get_batch_loss_metrics(trainer.model, batch, "eval")
                total += float(loss) * count
                for name in sums:
                    sums[name] += figures[f"eval_{name}"] * count
        return total / len(rows), {name: value / len(rows) for name, value in sums.items()}


def as_pairs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """As TRL's collator for pairs takes them."""
    return [
        {
            "prompt_ids": row.prompt_ids,
            "chosen_ids": row.chosen.completion_ids,
            "rejected_ids": row.rejected.completion_ids,
        }
        for row in rows
        if isinstance(row, Pair)
    ]


FEWEST = 2
"""Rows in a batch: an answer is compared with another row's."""
HEAVIEST = 10.0


class _KTO(Tokenised, KTOTrainer):
    pass


class Kto(Writes):
    """Good answers become likelier, bad ones less likely, each against the drift of the batch."""

    figures: tuple[str, ...] = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")

    def trainer(self, setup: Setup) -> Trainer:
        rows = [row for row in setup.rows if isinstance(row, Marked)]
        if len(rows) < FEWEST:
            raise RunFailedError(
                f"kto compares answers within a batch and needs {FEWEST} rows; there is {len(rows)}. Add rows."
            )
        size = max(FEWEST, setup.arguments["per_device_train_batch_size"])
        random.Random(setup.spec.seed).shuffle(rows)  # the trainer takes them in order: each names its neighbour
        good = sum(row.good for row in rows)
        options = {"per_device_train_batch_size": size, "max_length": None, **weights(good, len(rows) - good)}
        copied = bool(setup.spec.start)
        return cast(Trainer, build(_KTO, KTOConfig, setup, as_marked(rows, size), copied=copied, **options))

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        marked = as_marked([row for row in rows if isinstance(row, Marked)], trainer.args.per_device_train_batch_size)
        return measured_loss(trainer, marked, self.figures)


def weights(good: int, bad: int) -> dict[str, Any]:
    """What the two kinds weigh, so that neither is drowned out by the other (equation 8: a ratio from 1 to 4/3)."""
    if not good or not bad:
        return {}
    return {
        "desirable_weight": min(HEAVIEST, max(1.0, bad / good)),
        "undesirable_weight": min(HEAVIEST, max(1.0, good / bad)),
    }


def as_marked(rows: Sequence[Marked], size: int) -> list[dict[str, Any]]:
    """As TRL's collator takes them, in batches of ``size``: each row carries the answer of the one before it in its
    batch, the first that of the last, for the drift (KL) of the batch. A batch of one borrows from the row before."""
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
    if name == "kto":
        return Kto()
    return Dpo() if name == "dpo" else Orpo()
