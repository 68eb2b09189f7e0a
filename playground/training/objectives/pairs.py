"""Learning from pairs of answers: ``dpo`` (Rafailov et al. 2023, arXiv:2305.18290) and ``orpo`` (Hong et al. 2024, arXiv:2403.07691)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import Trainer
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from playground.training.objectives.objective import Objective, Setup, Writes
from playground.training.objectives.rows import Pair, Row
from playground.training.objectives.trl import QUIET, Ready, batches, dataset, evaluating, given_model, mean_figures

FIGURES = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


class _DPO(Ready, DPOTrainer):
    pass


class _ORPO(Ready, ORPOTrainer):
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
        with given_model(setup, copied=bool(setup.spec.start)):
            return cast(Trainer, _DPO(
                model=setup.model,
                args=DPOConfig(**setup.arguments, **QUIET, max_length=None),
                train_dataset=dataset(as_pairs(setup.rows)),
                processing_class=setup.tokenizer,
            ))  # fmt: skip

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        total = 0.0
        with evaluating(trainer):
            for batch, count in batches(trainer, as_pairs(rows)):
                total += float(trainer.compute_loss(trainer.model, batch)) * count
        return total / len(rows), mean_figures(trainer, FIGURES)


class Orpo(Writes):
    """Fine-tuning on the better answer, with a price on the odds of the other one; no reference model."""

    figures: tuple[str, ...] = (*FIGURES, "nll_loss", "log_odds_ratio")

    def trainer(self, setup: Setup) -> Trainer:
        with given_model(setup, copied=False):
            return cast(Trainer, _ORPO(
                model=setup.model,
                args=ORPOConfig(**setup.arguments, **QUIET, max_length=setup.spec.max_tokens),
                train_dataset=_Rows(as_pairs(setup.rows)),
                processing_class=setup.tokenizer,
            ))  # fmt: skip

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
        {"prompt_ids": row.prompt_ids, "chosen_ids": row.chosen.completion_ids, "rejected_ids": row.rejected.completion_ids}
        for row in rows
        if isinstance(row, Pair)
    ]


def make(name: str) -> Objective:
    return Dpo() if name == "dpo" else Orpo()
