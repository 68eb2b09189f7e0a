"""The interface of objectives (a Trainer, a held-out loss, samples), and the tokenised rows they learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer

from playground.data.example import Example, Judged, Message, Passage, Preference
from playground.data.render import Packed, Rendered, render_example
from playground.methods.method import Method
from playground.training.model import load_for_training
from playground.training.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt; both rows hold the same prompt tokens."""

    chosen: Rendered
    rejected: Rendered

    @property
    def prompt_ids(self) -> list[int]:
        return self.chosen.prompt_ids

    @property
    def tokens(self) -> int:
        return self.chosen.tokens + self.rejected.tokens


@dataclass(frozen=True, slots=True)
class Marked:
    """One answer and whether it was good."""

    answer: Rendered
    good: bool

    @property
    def prompt_ids(self) -> list[int]:
        return self.answer.prompt_ids

    @property
    def tokens(self) -> int:
        return self.answer.tokens


Row = Rendered | Packed | Pair | Marked
Source = Example | Preference | Judged | Passage


def rows_of(tokenizer: Any, source: Source, spec: RunSpec) -> list[Row]:
    """What ``source`` gives the objective of ``spec``: one row, or two for ``kto`` where the file holds pairs.

    Each is at most ``spec.max_tokens`` long: the prompt's start goes, the answer stays. Raises InputError when an
    answer alone is longer.
    """
    if isinstance(source, Example):
        return [render_example(tokenizer, source, spec.max_tokens, spec.turns)]
    if isinstance(source, Preference):
        pair = _pair(tokenizer, source, spec.max_tokens)
        return [Marked(pair.chosen, True), Marked(pair.rejected, False)] if spec.objective == "kto" else [pair]
    if isinstance(source, Judged):
        return [
            Marked(_answered(tokenizer, source.prompt, source.completion, source.row, spec.max_tokens), source.good)
        ]
    return []


def _pair(tokenizer: Any, source: Preference, max_tokens: int) -> Pair:
    chosen = _answered(tokenizer, source.prompt, source.chosen, source.row, max_tokens)
    rejected = _answered(tokenizer, source.prompt, source.rejected, source.row, max_tokens)
    kept = min(len(chosen.prompt_ids), len(rejected.prompt_ids))
    return Pair(_cut(chosen, kept), _cut(rejected, kept))


def _answered(tokenizer: Any, prompt: tuple[Message, ...], answer: str, row: int, max_tokens: int) -> Rendered:
    return render_example(tokenizer, Example((*prompt, Message("assistant", answer)), row), max_tokens)


def _cut(row: Rendered, kept: int) -> Rendered:
    """The row with the last ``kept`` tokens of its prompt."""
    gone = len(row.prompt_ids) - kept
    return row if not gone else replace(row, prompt_ids=row.prompt_ids[gone:], cut=row.cut + gone)


SAMPLE_TOKENS = 64


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
    """One way to learn.

    figures: which of the Trainer's own figures belong into the events of a step.
    """

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
    mode is put back.

    One batch; prompts are padded on the left."""
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
