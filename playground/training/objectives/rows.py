"""A file's row -> what an objective learns from it, as tokens. Everything goes through the one renderer; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from playground.data.example import Example, Judged, Message, Passage, Preference
from playground.data.pack import Packed
from playground.data.render import Rendered, render_example
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

    Each is at most ``spec.max_tokens`` long: the prompt's start goes, the answer stays. Raises InputError when an answer alone is longer.
    """
    if isinstance(source, Example):
        return [render_example(tokenizer, source, spec.max_tokens, spec.turns)]
    if isinstance(source, Preference):
        pair = _pair(tokenizer, source, spec.max_tokens)
        return [Marked(pair.chosen, True), Marked(pair.rejected, False)] if spec.objective == "kto" else [pair]
    if isinstance(source, Judged):
        return [Marked(_answered(tokenizer, source.prompt, source.completion, source.row, spec.max_tokens), source.good)]
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
