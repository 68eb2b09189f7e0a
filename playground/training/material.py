"""A checked file -> the rows that a run learns from and those it is measured on, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.example import Checked, Example, Passage
from playground.data.pack import Packed, pack
from playground.data.render import Rendered, render_example
from playground.data.split import part, row_hash, split
from playground.errors import InputError, RunFailedError
from playground.training.spec import OBJECTIVES, RunSpec

HASHES = 100_000
"""Rows that an adapter's record names at most."""


@dataclass(frozen=True)
class Material:
    """train, validation: what the loop reads. rows_*: rows of the person's file. hashes: of the rows that are trained on."""

    train: Sequence[Rendered | Packed]
    validation: Sequence[Rendered | Packed]
    rows_used: int
    rows_held_back: int
    rows_bad: int
    hashes: list[str]


def prepare(spec: RunSpec, checked: Checked, tokenizer: Any) -> Material:
    """Raises RunFailedError when the file holds another kind of rows, or none that fits."""
    if checked.objective != OBJECTIVES[spec.objective]:
        kind = checked.objective.replace("_", " ")
        raise RunFailedError(f"{spec.data} holds {kind} rows; {spec.objective} needs {OBJECTIVES[spec.objective]} rows.")
    left_out = set(spec.left_out)
    usable = [row for row in checked.usable if row.row not in left_out]
    rendered: dict[int, Rendered] = {}
    if spec.objective == "sft":
        rendered = _rendered(tokenizer, [row for row in usable if isinstance(row, Example)], spec)
        usable = [row for row in usable if row.row in rendered]
    if not usable:
        raise RunFailedError(f"No row of {spec.data} fits {spec.max_tokens} tokens. Raise the limit or shorten the answers.")
    validation, test = spec.split.get("validation"), spec.split.get("test", [])
    if validation is None:
        validation = split(usable, spec.seed, test=0).validation
    held = {*validation, *test}
    train_rows = [row for row in usable if row.row not in held]
    if not train_rows:
        raise RunFailedError(f"{spec.data}: every row is held back and none is left to train on. Hold back fewer, or add rows.")
    validation_rows = part(usable, validation)

    def tokens(rows: Sequence[Any]) -> Sequence[Rendered | Packed]:
        if spec.objective == "sft":
            return [rendered[row.row] for row in rows]
        return pack(tokenizer, [row for row in rows if isinstance(row, Passage)], spec.max_tokens)

    bad = checked.rows - len(usable) - len(left_out)
    hashes = [row_hash(row) for row in train_rows[:HASHES]]
    return Material(tokens(train_rows), tokens(validation_rows), len(train_rows), len(usable) - len(train_rows), bad, hashes)


def _rendered(tokenizer: Any, examples: Sequence[Example], spec: RunSpec) -> dict[int, Rendered]:
    """Row number -> rendered row; those whose answer is longer than the limit are left out."""
    rows = {}
    for example in examples:
        try:
            rows[example.row] = render_example(tokenizer, example, spec.max_tokens, spec.turns)
        except InputError:
            continue
    return rows
