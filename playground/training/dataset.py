"""A checked file -> tokenised training and validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playground.data.example import Checked, Example, Judged, Message, Passage, Preference
from playground.data.render import Packed, Rendered, pack, render_example
from playground.data.retrieval import add_passages, read_documents
from playground.data.split import part, row_hash, split
from playground.errors import InputError, RunFailedError
from playground.methods import get_method
from playground.training.spec import OBJECTIVES, RunSpec

HASHES = 100_000
"""Rows that an adapter's record names at most."""


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


@dataclass(frozen=True)
class TrainingData:
    """train, validation: what the training loop reads. rows_*: rows of the person's file. hashes: of the rows that are
    trained on. questions: what each of the validation rows asks, for a person; empty for raw text."""

    train: Sequence[Row]
    validation: Sequence[Row]
    rows_used: int
    rows_held_back: int
    rows_bad: int
    hashes: list[str]
    questions: Sequence[str] = ()


def prepare(spec: RunSpec, checked: Checked, tokenizer: Any) -> TrainingData:
    """Raises RunFailedError when the file holds another kind of rows, or none that fits."""
    holds = OBJECTIVES[spec.objective]
    if checked.objective not in holds:
        kind, needs = checked.objective.replace("_", " "), " or ".join(holds).replace("_", " ")
        raise RunFailedError(f"{spec.data} holds {kind} rows; {spec.objective} needs {needs} rows.")
    documents = read_documents(Path(spec.docs_path)) if spec.docs_path else None
    left_out = set(spec.left_out)
    usable: list[Source] = [row for row in checked.usable if row.row not in left_out]
    tokenised: dict[int, list[Row]] = {}
    if spec.objective != "pretrain":
        for source in usable:
            asked = add_passages(source, documents) if documents and isinstance(source, Example) else source
            try:
                tokenised[source.row] = rows_of(tokenizer, asked, spec)
            except InputError:  # its answer is longer than the limit
                continue
        usable = [row for row in usable if row.row in tokenised]
    if not usable:
        raise RunFailedError(
            f"No row of {spec.data} fits {spec.max_tokens} tokens. Raise the limit or shorten the answers."
        )
    validation, test = spec.split.get("validation"), spec.split.get("test", [])
    if validation is None:
        validation = split(usable, spec.seed, test=0).validation
    held = {*validation, *test}
    train_rows = [row for row in usable if row.row not in held]
    if not train_rows:
        raise RunFailedError(
            f"{spec.data}: every row is held back and none is left to train on. Hold back fewer, or add rows."
        )
    validation_rows = part(usable, validation)

    def tokens(rows: Sequence[Source]) -> Sequence[Row]:
        if spec.objective == "pretrain":
            passages = [row for row in rows if isinstance(row, Passage)]
            return pack(tokenizer, passages, spec.max_tokens, together=not get_method(spec.method).virtual)
        return [one for row in rows for one in tokenised[row.row]]

    return TrainingData(
        train=tokens(train_rows),
        validation=tokens(validation_rows),
        rows_used=len(train_rows),
        rows_held_back=len(usable) - len(train_rows),
        rows_bad=checked.rows - len(usable) - len(left_out),
        hashes=[row_hash(row) for row in train_rows[:HASHES]],
        questions=[_question(row) for row in validation_rows for _ in tokenised.get(row.row, ())],
    )


def rows_of(tokenizer: Any, source: Source, spec: RunSpec) -> list[Row]:
    """What ``source`` gives the objective of ``spec``: one row, or two for ``kto`` where the file holds pairs.

    Each is at most ``spec.max_tokens`` long: the prompt's start goes, the answer stays. Raises InputError when an
    answer alone is longer."""

    def answered(prompt: tuple[Message, ...], answer: str) -> Rendered:
        return render_example(tokenizer, Example((*prompt, Message("assistant", answer)), source.row), spec.max_tokens)

    if isinstance(source, Example):
        return [render_example(tokenizer, source, spec.max_tokens, spec.turns)]
    if isinstance(source, Judged):
        return [Marked(answered(source.prompt, source.completion), source.good)]
    if isinstance(source, Passage):
        return []
    chosen, rejected = (answered(source.prompt, answer) for answer in (source.chosen, source.rejected))
    kept = min(len(chosen.prompt_ids), len(rejected.prompt_ids))
    pair = Pair(_cut(chosen, kept), _cut(rejected, kept))
    return [Marked(pair.chosen, True), Marked(pair.rejected, False)] if spec.objective == "kto" else [pair]


def _cut(row: Rendered, kept: int) -> Rendered:
    """The row with the last ``kept`` tokens of its prompt."""
    gone = len(row.prompt_ids) - kept
    return row if not gone else replace(row, prompt_ids=row.prompt_ids[gone:], cut=row.cut + gone)


def _question(source: Source) -> str:
    """The last thing that was asked before the answer."""
    if isinstance(source, Passage):
        return ""
    turns = source.messages[:-1] if isinstance(source, Example) else source.prompt
    return next((turn.content for turn in reversed(turns) if turn.role == "user"), turns[-1].content if turns else "")
