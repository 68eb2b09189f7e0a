"""Which column is what: from the names, else from what the columns hold; a person's own mapping goes first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from playground.data import names
from playground.data.guess import Guess, guess_roles, is_headless
from playground.data.look import Column, look
from playground.data.records import Records, listed, spelling
from playground.errors import InputError

FORMATS: tuple[tuple[str, str, frozenset[str], frozenset[str]], ...] = (
    ("preference", "preference", frozenset({"chosen", "rejected"}), frozenset({"prompt", "input", "system", "label"})),
    ("unpaired-preference", "unpaired_preference", frozenset({"messages", "label"}), frozenset({"system"})),
    ("unpaired-preference", "unpaired_preference", frozenset({"prompt", "completion", "label"}), frozenset({"input", "system"})),
    ("chat", "sft", frozenset({"messages"}), frozenset({"system"})),
    ("instruction", "sft", frozenset({"prompt", "input", "completion"}), frozenset({"system"})),
    ("prompt-completion", "sft", frozenset({"prompt", "completion"}), frozenset({"system"})),
    ("text", "text", frozenset({"text"}), frozenset()),
)
"""(format, objective, the roles it needs, the roles it may have).

A preference's label says which of two answers is the better one; chosen is then the first of them, rejected the second."""

ROLES = ("prompt", "input", "completion", "system", "messages", "chosen", "rejected", "label", "text")
ALIASES = {"instruction": "prompt", "question": "prompt"} | dict.fromkeys(("answer", "response", "output"), "completion")
SAY = "Say which column is which: prompt=COLUMN completion=COLUMN (on the command line: --map prompt=COLUMN completion=COLUMN)."


@dataclass(frozen=True)
class Shape:
    """What a file is. mapping: role -> column.

    confidence: how sure that is, from 0 to 1; 1 where the person said it. why: what it was told from.
    lowest: the number that stands for the first of two answers, where a label says which is the better.
    """

    format: str
    objective: str
    mapping: dict[str, str]
    confidence: float = 1.0
    why: str = ""
    lowest: int = 0


def detect(records: Records, mapping: Mapping[str, str] | None = None) -> Shape:
    """The file's format, what it can train and which column is what.

    1. a complete mapping by the person stands as it is; 2. an incomplete one is completed by the guess; 3. else the guess.
    Raises InputError when a role or column is unknown, or nothing can be guessed.
    """
    given = _given(records, mapping or {})
    shape = _shape(Guess(given, 1.0, "as you said"), records)  # 1
    if shape:
        return shape
    every = look(records)
    columns = [column for column in every if column.name not in given.values()]
    guess = guess_roles(columns, given)
    if given:
        guess = Guess({**guess.mapping, **given}, guess.confidence, f"partly as you said, the rest {guess.why}")
    shape = _shape(_doubted(guess, every), records)  # 2, 3
    if shape:
        return shape
    found = f"The file has the columns {listed(records.columns)}" if records.columns else "The file has no columns"
    if given:
        said = " ".join(f"{role}={column}" for role, column in given.items())
        needs = "; ".join(" + ".join(role for role in ROLES if role in needed) for _, _, needed, _ in FORMATS)
        raise InputError(f"{said} is not enough to train on, or does not go together. {found}. What goes together: {needs}.")
    first = next((column.name for column in columns if is_headless(column.name)), None)
    if first is not None and records.columns:
        found = f"The first line looks like data, not like column names: {first[:60]!r}"
        raise InputError(f"{found}. Add a line such as prompt,completion above it.")
    raise InputError(f"{found}; which is the prompt and which the answer cannot be told from that. {SAY}")


def _given(records: Records, mapping: Mapping[str, str]) -> dict[str, str]:
    by_spelling = {spelling(column): column for column in reversed(records.columns)}
    given: dict[str, str] = {}
    has = f"The file has the columns {listed(records.columns)}"
    for role, column in mapping.items():
        plain = ALIASES.get(role.strip().lower(), role.strip().lower())
        if plain not in ROLES:
            raise InputError(f"There is no role {role!r}. Roles are {', '.join(ROLES)}.")
        name = column if column in records.columns else by_spelling.get(spelling(column))
        if name is None:
            raise InputError(f"There is no column {column!r}. {has}. Give one of these for {plain}.")
        if plain in given or name in given.values():
            raise InputError(f"{plain}={name}: a role takes one column, and a column one role. {has}.")
        given[plain] = name
    return given


def _shape(guess: Guess, records: Records) -> Shape | None:
    mapping = guess.mapping
    roles = set(mapping)
    for name, objective, needed, extra in FORMATS:
        if needed <= roles <= needed | extra:
            alpaca = name == "prompt-completion" and spelling(mapping["prompt"]) in ("instruction", "instructions")
            ordered = {role: mapping[role] for role in ROLES if role in mapping}
            kind = "instruction" if alpaca else name
            return Shape(kind, objective, ordered, round(guess.confidence, 2), guess.why, _lowest(records, mapping))
    return None


def _lowest(records: Records, given: Mapping[str, str]) -> int:
    """What numbers stand for the first answer: by what the label column holds, else by the names of the two columns."""
    if not {"chosen", "rejected", "label"} <= given.keys():
        return 0
    two = names.two_answers((given["chosen"], given["rejected"]))
    values = {str(record.get(given["label"])).strip().removesuffix(".0") for record in records.some()}
    if any(re.fullmatch(r"-\d+", value) for value in values):
        return -1
    return 1 if "2" in values or (two and two[2] and "0" not in values) else 0


def _doubted(guess: Guess, columns: list[Column]) -> Guess:
    """Less sure where a role's column is mostly empty."""
    sparse = [
        c.name
        for c in columns
        if c.filled < 0.5 and guess.mapping.get("system") != c.name and guess.mapping.get("input") != c.name
    ]
    empty = [name for name in guess.mapping.values() if name in sparse]
    if not empty:
        return guess
    return Guess(guess.mapping, guess.confidence * 0.7, f"{guess.why}; most rows have no {listed(empty)}")
