"""A reward model: ``reward``. It reads a request with an answer and gives one number (Bradley and Terry 1952, as used
by Ouyang et al. 2022, arXiv:2203.02155). Scores are kept near zero in the mean (Eisenstein et al. 2023,
arXiv:2312.09244)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer
from trl import RewardConfig, RewardTrainer

from playground.methods.method import Method
from playground.training.internals import collated
from playground.training.model import load_for_training
from playground.training.objectives.objective import Objective, Pair, Row, Sample, Setup
from playground.training.objectives.trl import Tokenised, batches, build, evaluating
from playground.training.spec import RunSpec

CENTRE = 0.01
"""How much the square of two scores' sum weighs beside the loss."""


class _Reward(Tokenised, RewardTrainer):
    pass


class Scorer:
    """The better answer gets the higher score."""

    figures: tuple[str, ...] = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")

    def load(self, spec: RunSpec, method: Method) -> Any:
        return load_for_training(Path(spec.base_path), method, spec.rank, spec.seed, spec.method_options, scorer=True)

    def trainer(self, setup: Setup) -> Trainer:
        options: dict[str, Any] = {"max_length": None, "center_rewards_coefficient": CENTRE}
        return cast(Trainer, build(_Reward, RewardConfig, setup, as_wholes(setup.rows), **options))

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        losses, better, gaps = [], [], []
        with evaluating(trainer):
            for batch, count in batches(trainer, as_wholes(rows)):
                chosen, rejected = trainer.model(**batch, use_cache=False).logits.float().squeeze(-1).split(count)
                gap = chosen - rejected
                losses += (-torch.nn.functional.logsigmoid(gap)).tolist()
                better += (gap > 0).float().tolist()
                gaps += gap.tolist()
        return sum(losses) / len(losses), {"accuracy": sum(better) / len(better), "margin": sum(gaps) / len(gaps)}

    def answers(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """It writes nothing: the scores of both answers."""
        pairs = [sample.row for sample in samples if isinstance(sample.row, Pair)]
        with evaluating(trainer):
            batch, count = collated(trainer, as_wholes(pairs)), len(pairs)
            scores = trainer.model(**batch, use_cache=False).logits.float().squeeze(-1).tolist()
        said = []
        for pair, chosen, rejected in zip(pairs, scores[:count], scores[count:], strict=True):
            first = f"{chosen:+.2f} for the better answer: {_short(pair.chosen.completion_text)}"
            said.append(f"{first}\n{rejected:+.2f} for the other: {_short(pair.rejected.completion_text)}")
        return said


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 80 else plain[:79] + "…"


def as_wholes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Prompt and answer in one, as TRL's collator takes them."""
    return [
        {
            "chosen_ids": row.prompt_ids + row.chosen.completion_ids,
            "rejected_ids": row.prompt_ids + row.rejected.completion_ids,
        }
        for row in rows
        if isinstance(row, Pair)
    ]


def make(name: str) -> Objective:
    return Scorer()
