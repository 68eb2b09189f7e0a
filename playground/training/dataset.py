"""A checked file -> tokenised training and validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.example import Checked, Example, Passage
from playground.data.render import pack
from playground.data.retrieval import add_passages, read_documents
from playground.data.split import part, row_hash, split
from playground.errors import InputError, RunFailedError
from playground.methods import get_method
from playground.training.objectives.objective import Row, Source, rows_of
from playground.training.spec import OBJECTIVES, RunSpec

HASHES = 100_000
"""Rows that an adapter's record names at most."""


@dataclass(frozen=True)
class TrainingData:
    """train, validation: what the training loop reads. rows_*: rows of the person's file. hashes: of the rows that are
    trained on.

    questions: what each of the validation rows asks, for a person; empty for raw text.
    """

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
        asked = [add_passages(row, documents) if documents and isinstance(row, Example) else row for row in usable]
        tokenised = _tokenised(tokenizer, asked, spec)
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

    bad = checked.rows - len(usable) - len(left_out)
    hashes = [row_hash(row) for row in train_rows[:HASHES]]
    questions = [_question(row) for row in validation_rows for _ in tokenised.get(row.row, ())]
    held_back = len(usable) - len(train_rows)
    train, validation_tokens = tokens(train_rows), tokens(validation_rows)
    return TrainingData(train, validation_tokens, len(train_rows), held_back, bad, hashes, questions)


def _tokenised(tokenizer: Any, sources: Sequence[Source], spec: RunSpec) -> dict[int, list[Row]]:
    """Row number -> its rows as tokens; those whose answer is longer than the limit are left out."""
    rows = {}
    for source in sources:
        try:
            rows[source.row] = rows_of(tokenizer, source, spec)
        except InputError:
            continue
    return rows


def _question(source: Source) -> str:
    """The last thing that was asked before the answer."""
    if isinstance(source, Passage):
        return ""
    turns = source.messages[:-1] if isinstance(source, Example) else source.prompt
    return next((turn.content for turn in reversed(turns) if turn.role == "user"), turns[-1].content if turns else "")
