"""What a run learns by: the interface of objectives, and what those share whose models write replies. One file a
family, imported when needed, because TRL takes seconds to import."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer

from playground.methods.method import Method
from playground.training.dataset import Row
from playground.training.model import load_for_training
from playground.training.spec import RunSpec

SAMPLE_TOKENS = 64
_MODULES = {"sft": "sft", "pretrain": "sft", "reward": "reward", "grpo": "reward"}
"""The rest is ``preference``."""


@dataclass(frozen=True)
class Setup:
    """What a Trainer is made of. rows, validation: of the objective's own kind. arguments: of TrainingArguments."""

    model: Any
    tokenizer: Any
    rows: Sequence[Row]
    validation: Sequence[Row]
    spec: RunSpec
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """A held-out row that is asked at every checkpoint. question: for a person; "" for raw text."""

    question: str
    row: Row


class Objective(Protocol):
    """One way to learn. figures: which of the Trainer's own figures belong into the events of a step."""

    figures: tuple[str, ...]

    def load(self, spec: RunSpec, method: Method) -> Any:
        """The model to train: the base with the method's part on top."""
        ...

    def trainer(self, setup: Setup) -> Trainer:
        """Made anew for every run. Raises RunFailedError when the rows cannot make a batch."""
        ...

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        """The loss on held-out rows, lower is better, and its figures. The model's mode is put back."""
        ...

    def answers(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """What the model answers to each sample now."""
        ...


def get_objective(name: str) -> Objective:
    """The objective called ``name``, one of ``spec.OBJECTIVES``."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # ORPO's import warns that it is experimental
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'preference')}")
    made: Objective = module.MADE[name]()
    return made


class Writes:
    """What is the same for every objective whose model writes replies."""

    figures: tuple[str, ...] = ()

    def load(self, spec: RunSpec, method: Method) -> Any:
        start = Path(spec.start_path) if spec.start_path else None
        model = load_for_training(Path(spec.base_path), method, spec.rank, spec.seed, spec.method_options, start=start)
        if start is not None and hasattr(model, "peft_config"):
            # PEFT would ask a hub for a base of that name at every checkpoint
            model.peft_config["default"].base_model_name_or_path = spec.base_path
        return model

    def answers(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """Greedy replies of SAMPLE_TOKENS at most, one batch."""
        ids = generate(trainer.model, tokenizer, [sample.row.prompt_ids for sample in samples], SAMPLE_TOKENS)
        return [str(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def generate(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Greedy replies to prompts of token ids, ``most`` tokens each at most, up to and with the end token. The model's
    mode is put back. One batch; prompts are padded on the left."""
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        ids[place, longest - len(prompt) :] = torch.tensor(prompt)
        mask[place, longest - len(prompt) :] = 1
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=most,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
            )
    finally:
        model.train(was_training)
    ends = tokenizer.eos_token_id
    rows: list[list[int]] = out[:, longest:].tolist()
    return [row[: row.index(ends) + 1] if ends in row else row for row in rows]
