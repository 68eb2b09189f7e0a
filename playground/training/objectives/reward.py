"""Reward models, and learning by rewards.

``reward``: a model that reads a request with an answer and gives one number (Bradley and Terry 1952, as used by Ouyang
et al. 2022, arXiv:2203.02155), its scores kept near zero in the mean (Eisenstein et al. 2023, arXiv:2312.09244).
``grpo``: learning from its own replies and what they are worth (Shao et al. 2024, arXiv:2402.03300). A reply counts for
more or less than the other replies to the same prompt; there is no reference model (beta = 0). A reward is a check's
grade, or a reward model's score, from 0 to 1 each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from playground.errors import InputError, RunFailedError
from playground.evaluation.checks import parse_check
from playground.methods import register_with_peft
from playground.methods.method import Method
from playground.training.model import load_for_training, trainable, training_dtype
from playground.training.objectives import Pair, Row, Sample, Setup, Writes, collated, generate
from playground.training.objectives.preference import Tokenised, batches, build, evaluating
from playground.training.spec import REPLIES, REWARD_MODEL, RunSpec, reply_tokens

CENTRE = 0.01
"""How much the square of two scores' sum weighs beside the loss."""
EVAL_PROMPTS = 8
"""Held-out prompts that are answered at every checkpoint."""
Reward = Callable[[Sequence[list[int]], Sequence[list[int]], Sequence[str]], list[float]]
"""(prompts' token ids, replies' token ids, replies' texts) -> what each is worth."""


class _Reward(Tokenised, RewardTrainer):
    pass


class Scorer:
    """The better answer gets the higher score."""

    figures: tuple[str, ...] = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")

    def load(self, spec: RunSpec, method: Method) -> Any:
        return load_for_training(Path(spec.base_path), method, spec.rank, spec.seed, spec.method_options, scorer=True)

    def trainer(self, setup: Setup) -> Trainer:
        options: dict[str, Any] = {"max_length": None, "center_rewards_coefficient": CENTRE}
        made: Trainer = build(_Reward, RewardConfig, setup, as_wholes(setup.rows), **options)
        return made

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
        {f"{side}_ids": row.prompt_ids + getattr(row, side).completion_ids for side in ("chosen", "rejected")}
        for row in rows
        if isinstance(row, Pair)
    ]


class ScoredBy:
    """A trained reward model: the base with adapter and head, or a whole model. The reward is its score's logistic."""

    def __init__(self, base: Path, folder: Path, tokenizer: Any) -> None:
        """Raises InputError when it cannot be loaded."""
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification

        register_with_peft()
        whole = not (folder / "adapter_config.json").is_file()
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder if whole else base,
                num_labels=1,
                dtype=training_dtype(),
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
            )
            model.config.pad_token_id = tokenizer.pad_token_id
            self._model = model if whole else trainable(PeftModel.from_pretrained(model, folder))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The reward model {folder.name} cannot be loaded: {str(error)[:200]}. Train it again."
            ) from error
        self._model.eval().requires_grad_(False)
        if torch.cuda.is_available():
            self._model.to("cuda")
        self._pad = tokenizer.pad_token_id

    def __call__(self, prompts: Sequence[list[int]], replies: Sequence[list[int]], texts: Sequence[str]) -> list[float]:
        rows = [torch.tensor([*prompt, *reply]) for prompt, reply in zip(prompts, replies, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        device = next(self._model.parameters()).device
        with torch.no_grad():
            scores = self._model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        worth: list[float] = scores.float().squeeze(-1).sigmoid().tolist()
        return worth


def reward_of(name: str, spec: RunSpec, tokenizer: Any) -> Reward:
    """A reward by its name, as it was written. Raises InputError for one that cannot be read."""
    if name.startswith(REWARD_MODEL):
        return ScoredBy(Path(spec.base_path), Path(spec.reward_files[name]), tokenizer)
    kind, _, _ = name.partition(":")
    worth = parse_check(f"{kind}:{spec.reward_files[name]}" if name in spec.reward_files else name).grade
    return lambda prompts, replies, texts: [worth(text) for text in texts]


class _GRPO(Tokenised, GRPOTrainer):
    """Prompts are our tokens: TRL would add a second start token."""

    rendered: dict[str, list[int]]

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        return [self.rendered[prompt] for prompt in prompts], None, {}


class Grpo(Writes):
    """Rewards are averaged, so that a reply is worth from 0 to 1."""

    figures: tuple[str, ...] = (
        *("reward", "reward_std", "frac_reward_zero_std"),
        *("completions/mean_length", "completions/clipped_ratio", "entropy"),
    )

    def __init__(self) -> None:
        self._rewards: dict[str, Reward] = {}
        self._most, self._limit = 0, 0
        self._replies: dict[tuple[int, ...], str] = {}

    def trainer(self, setup: Setup) -> Trainer:
        spec = setup.spec
        self._rewards = {name: reward_of(name, spec, setup.tokenizer) for name in spec.rewards}
        self._limit = spec.max_tokens
        self.figures = (*self.figures, *(f"rewards/{name}/mean" for name in self._rewards))
        self._most = reply_tokens((row.tokens - len(row.prompt_ids) for row in setup.rows), spec.max_tokens)
        fitted = [self._fitted(row.prompt_ids) for row in setup.rows]
        prompts = {setup.tokenizer.decode(ids): ids for ids in fitted}
        if not prompts:
            raise RunFailedError("grpo needs at least one prompt. Add rows.")
        options: dict[str, Any] = {
            "per_device_train_batch_size": REPLIES * min(-(-spec.batch_size // REPLIES), len(prompts)),
            "num_generations": REPLIES,
            "max_completion_length": self._most,
            "beta": 0.0,
            "reward_weights": [1 / len(self._rewards)] * len(self._rewards),
        }
        rows = [{"prompt": text, "prompt_ids": ids} for text, ids in prompts.items()]
        rewards = {"reward_funcs": [_as_trl(name, reward) for name, reward in self._rewards.items()]}
        trainer = build(_GRPO, GRPOConfig, setup, rows, arguments=rewards, **options)
        trainer.rendered = prompts
        made: Trainer = trainer
        return made

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        """1 less the mean worth of greedy replies, which are kept to be shown."""
        prompts = [self._fitted(row.prompt_ids) for row in rows[:EVAL_PROMPTS]]
        ids, texts = self._written(trainer, prompts)
        self._replies = {tuple(prompt): text for prompt, text in zip(prompts, texts, strict=True)}
        figures: dict[str, float] = {}
        for name, reward in self._rewards.items():
            worth = reward(prompts, ids, texts)
            figures[f"rewards/{name}/mean"] = sum(worth) / len(worth)
        figures["reward"] = sum(figures.values()) / len(figures)
        return 1 - figures["reward"], figures

    def answers(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """The replies of the last measurement, where it had these prompts."""
        prompts = [self._fitted(sample.row.prompt_ids) for sample in samples]
        if all(tuple(prompt) in self._replies for prompt in prompts):
            return [self._replies[tuple(prompt)] for prompt in prompts]
        return self._written(trainer, prompts)[1]

    def _written(self, trainer: Any, prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[str]]:
        """Greedy replies as token ids and as text."""
        tokenizer = trainer.processing_class
        ids = generate(trainer.model, tokenizer, prompts, self._most)
        return ids, [str(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _fitted(self, prompt: list[int]) -> list[int]:
        """A prompt that leaves room for the reply: its start goes."""
        return prompt[-max(1, self._limit - self._most) :]


def _as_trl(name: str, reward: Reward) -> Any:
    def worth(prompts: Any, completions: Any, completion_ids: Any, prompt_ids: Any, **rest: Any) -> list[float]:
        return reward(prompt_ids, completion_ids, completions)

    worth.__name__ = name
    return worth


MADE = {"reward": Scorer, "grpo": Grpo}
