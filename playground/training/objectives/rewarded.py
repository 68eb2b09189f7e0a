"""Learning from its own replies and what they are worth: ``grpo`` (Shao et al. 2024, arXiv:2402.03300), with checks or a reward
model. A reply counts for more or less than the other replies to the same prompt; there is no reference model (beta = 0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from playground.errors import RunFailedError
from playground.training.cost import REPLIES, reply_tokens
from playground.training.objectives.objective import Objective, Sample, Setup, Writes, written
from playground.training.objectives.rewards import Reward, rewards_of
from playground.training.objectives.rows import Row
from playground.training.objectives.trl import QUIET, Ready, dataset, given_model

EVAL_PROMPTS = 8
"""Held-out prompts that are answered at every checkpoint."""


class _GRPO(Ready, GRPOTrainer):
    """Prompts are our tokens: TRL would put a second start token before a rendered prompt where the tokenizer has one."""

    rendered: dict[str, list[int]]

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        return [self.rendered[prompt] for prompt in prompts], None, {}


class Grpo(Writes):
    """Rewards are averaged, so that a reply is worth from 0 to 1."""

    figures: tuple[str, ...] = (
        "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio", "entropy",
    )  # fmt: skip

    def __init__(self) -> None:
        self._rewards: dict[str, Reward] = {}
        self._most, self._limit = 0, 0
        self._said: dict[tuple[int, ...], str] = {}

    def trainer(self, setup: Setup) -> Trainer:
        spec = setup.spec
        self._rewards, self._limit = rewards_of(spec, setup.tokenizer), spec.max_tokens
        self.figures = (*self.figures, *(f"rewards/{name}/mean" for name in self._rewards))
        self._most = reply_tokens((row.tokens - len(row.prompt_ids) for row in setup.rows), spec.max_tokens)
        prompts = {}
        for row in setup.rows:
            ids = self._fitted(row.prompt_ids)
            prompts[setup.tokenizer.decode(ids)] = ids
        if not prompts:
            raise RunFailedError("grpo needs at least one prompt. Add rows.")
        arguments = {
            **setup.arguments,
            "per_device_train_batch_size": REPLIES * min(-(-spec.batch_size // REPLIES), len(prompts)),
        }
        with given_model(setup, copied=False):
            trainer = _GRPO(
                model=setup.model,
                reward_funcs=[_as_trl(name, reward) for name, reward in self._rewards.items()],
                args=GRPOConfig(
                    **arguments, **QUIET, num_generations=REPLIES, max_completion_length=self._most, beta=0.0,
                    reward_weights=[1 / len(self._rewards)] * len(self._rewards),
                ),
                train_dataset=dataset([{"prompt": text, "prompt_ids": ids} for text, ids in prompts.items()]),
                processing_class=setup.tokenizer,
            )  # fmt: skip
        trainer.rendered = prompts
        return cast(Trainer, trainer)

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        """1 less the mean worth of greedy replies, which are kept to be shown."""
        prompts = [self._fitted(row.prompt_ids) for row in rows[:EVAL_PROMPTS]]
        ids, texts = self._written(trainer, prompts)
        self._said = {tuple(prompt): text for prompt, text in zip(prompts, texts, strict=True)}
        figures: dict[str, float] = {}
        for name, reward in self._rewards.items():
            worth = reward(prompts, ids, texts)
            figures[f"rewards/{name}/mean"] = sum(worth) / len(worth)
        figures["reward"] = sum(figures.values()) / len(figures)
        return 1 - figures["reward"], figures

    def say(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """What it answered when it was measured."""
        prompts = [self._fitted(sample.row.prompt_ids) for sample in samples]
        if all(tuple(prompt) in self._said for prompt in prompts):
            return [self._said[tuple(prompt)] for prompt in prompts]
        return self._written(trainer, prompts)[1]

    def _written(self, trainer: Any, prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[str]]:
        """Greedy replies as token ids and as text."""
        tokenizer = trainer.processing_class
        ids = written(trainer.model, tokenizer, prompts, self._most)
        return ids, [str(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _fitted(self, prompt: list[int]) -> list[int]:
        """A prompt that leaves room for the reply: its start goes."""
        return prompt[-max(1, self._limit - self._most) :]


def _as_trl(name: str, reward: Reward) -> Any:
    def worth(prompts: Any, completions: Any, completion_ids: Any, prompt_ids: Any, **rest: Any) -> list[float]:
        return reward(prompt_ids, completion_ids, completions)

    worth.__name__ = name
    return worth


def make(name: str) -> Objective:
    return Grpo()
