"""Which column is what: from the names, else from what the columns hold; a person's own mapping goes first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from playground.data import names
from playground.data.records import Broken, Records, listed, spelling
from playground.data.turns import is_turns
from playground.errors import InputError

FORMATS: tuple[tuple[str, str, frozenset[str], frozenset[str]], ...] = (
    ("preference", "preference", frozenset({"chosen", "rejected"}), frozenset({"prompt", "input", "system"})),
    ("unpaired-preference", "unpaired_preference", frozenset({"messages", "label"}), frozenset({"system"})),
    ("unpaired-preference", "unpaired_preference", frozenset({"prompt", "completion", "label"}), frozenset({"input", "system"})),
    ("chat", "sft", frozenset({"messages"}), frozenset({"system"})),
    ("instruction", "sft", frozenset({"prompt", "input", "completion"}), frozenset({"system"})),
    ("prompt-completion", "sft", frozenset({"prompt", "completion"}), frozenset({"system"})),
    ("text", "text", frozenset({"text"}), frozenset()),
)
"""(format, objective, the roles it needs, the roles it may have)."""

ROLES = ("prompt", "input", "completion", "system", "messages", "chosen", "rejected", "label", "text")
ALIASES = {"instruction": "prompt", "question": "prompt"} | dict.fromkeys(("answer", "response", "output"), "completion")
SAY = "Say which column is which: prompt=COLUMN completion=COLUMN (on the command line: --map prompt=COLUMN completion=COLUMN)."

_TRUE = frozenset({"true", "yes", "1", "1.0", "good", "y", "t", "up", "👍"})
_FALSE = frozenset({"false", "no", "0", "0.0", "bad", "n", "f", "down", "👎"})
_SAMPLE = 500


@dataclass(frozen=True)
class Shape:
    """What a file is. mapping: role -> column."""

    format: str
    objective: str
    mapping: dict[str, str]


@dataclass(frozen=True)
class Column:
    """What a sample of one column holds.

    filled: share of sampled records that have a value. words: mean number of words. distinct: share of different values.
    """

    name: str
    kind: str  # turns, text, number, flag, other
    filled: float
    words: float
    distinct: float
    constant: bool

    @property
    def is_identifier(self) -> bool:
        plain = spelling(self.name)
        ends = re.search(r"[_\s-](id|idx|uuid)$", self.name.lower()) or re.search(r"[a-z]I[dD]$", self.name)
        return plain in names.IDENTIFIERS or plain.startswith("unnamed") or ends is not None

    @property
    def tells(self) -> bool:
        """Whether it may be a prompt or an answer by what it holds."""
        meta = self.is_identifier or spelling(self.name) in names.META
        return self.kind in ("text", "number", "flag") and not meta and not self.constant

    @property
    def is_prose(self) -> bool:
        return self.kind == "text" and self.words >= 1.5


def truth(value: object) -> bool | None:
    """A label as true or false; None when it is neither."""
    word = str(value).strip().casefold()
    return True if word in _TRUE else False if word in _FALSE else None


def detect(records: Records, mapping: Mapping[str, str] | None = None) -> Shape:
    """The file's format, what it can train and which column is what.

    1. a complete mapping by the person stands as it is; 2. an incomplete one is completed by the guess; 3. else the guess.
    Raises InputError when a role or column is unknown, or nothing can be guessed.
    """
    given = _given(records, mapping or {})
    shape = _shape(given)  # 1
    if shape:
        return shape
    columns = [column for column in _look(records) if column.name not in given.values()]
    guessed = _guess(columns, given)
    shape = _shape({**guessed, **given})  # 2, 3
    if shape:
        return shape
    found = f"The file has the columns {listed(records.columns)}" if records.columns else "The file has no columns"
    if given:
        said = " ".join(f"{role}={column}" for role, column in given.items())
        needs = "; ".join(" + ".join(role for role in ROLES if role in needed) for _, _, needed, _ in FORMATS)
        raise InputError(f"{said} is not enough to train on, or does not go together. {found}. What goes together: {needs}.")
    first = next((column.name for column in columns if _headless(column.name)), None)
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


def _shape(mapping: dict[str, str]) -> Shape | None:
    roles = set(mapping)
    for name, objective, needed, extra in FORMATS:
        if needed <= roles <= needed | extra:
            alpaca = name == "prompt-completion" and spelling(mapping["prompt"]) in ("instruction", "instructions")
            return Shape("instruction" if alpaca else name, objective, {role: mapping[role] for role in ROLES if role in mapping})
    return None


def _look(records: Records) -> list[Column]:
    sample = []
    step = max(1, len(records.rows) // _SAMPLE)  # over the whole file: a sorted file's start tells little
    for _, record in records.rows[::step]:
        if not isinstance(record, Broken):
            sample.append(record)
    return [_column(name, [record.get(name) for record in sample]) for name in records.columns]


def _column(name: str, values: list[Any]) -> Column:
    present = [value for value in values if value is not None and not (isinstance(value, str) and not value.strip())]
    count = max(1, len(present))
    texts = [str(value) for value in present if not isinstance(value, list | dict)]
    distinct = len(set(texts))
    return Column(
        name=name,
        kind=_kind(present),
        filled=len(present) / max(1, len(values)),
        words=sum(len(text[:2000].split()) for text in texts) / count,
        distinct=distinct / count,
        constant=distinct == 1 and count >= 5,
    )


def _kind(values: list[Any]) -> str:
    def most(true: Iterable[object]) -> bool:
        return sum(map(bool, true)) * 2 > len(values)

    if most(is_turns(value) for value in values):
        return "turns"
    if most(isinstance(value, list | dict) for value in values) or not values:
        return "other"
    if most(truth(value) is not None for value in values):
        return "flag"
    if most(re.fullmatch(r"[-+]?\d+([.,]\d+)*", str(value).strip()) for value in values):
        return "number"
    return "text"


def _named(columns: Iterable[Column], ranks: Mapping[str, int], *kinds: str) -> str | None:
    """The best-named column of these kinds; one that most records have goes before one that few have."""
    able = [column for column in columns if spelling(column.name) in ranks and (not kinds or column.kind in kinds)]
    best = min(able, key=lambda column: (column.filled < 0.5, ranks[spelling(column.name)]), default=None)
    return best.name if best else None


def _guess(columns: list[Column], given: Mapping[str, str]) -> dict[str, str]:
    """1. preference; 2. chat; 3. prompt and answer by name; 4. by what two columns hold; 5. raw text."""
    sft = not {"prompt", "input", "completion"}.isdisjoint(given)
    chosen = given.get("chosen") or _named(columns, names.CHOSEN)
    rejected = given.get("rejected") or _named(columns, names.REJECTED)
    if chosen and rejected and "completion" not in given:  # 1
        prompt = _named(columns, names.PROMPTS, "text", "turns", "number")
        return _without_none(chosen=chosen, rejected=rejected, prompt=prompt, **_system(columns))
    chat = given.get("messages") or (None if sft else _chat(columns))
    if chat:  # 2
        rest = [column for column in columns if column.name != chat]
        return _without_none(messages=chat, label=_named(rest, names.LABELS, "flag"), **_system(columns))
    pair = _pair(columns, given)
    if pair:
        prompt, completion = pair  # 3, 4
        rest = [column for column in columns if column.name not in pair]
        extra = _named(rest, names.INPUTS) if spelling(prompt) in names.ASKS_FOR_INPUT else None
        label = _named(rest, names.LABELS, "flag")
        return _without_none(prompt=prompt, completion=completion, input=extra, label=label, **_system(columns))
    return _text(columns)  # 5


def _chat(columns: list[Column]) -> str | None:
    by_name = _named(columns, names.CHATS, "turns")
    if by_name:
        return by_name
    turns = [column for column in columns if column.kind == "turns"]
    if len(turns) == 1 and _named(columns, names.COMPLETIONS) is None:
        return turns[0].name
    certain = _named(columns, {"messages": 0, "conversations": 1})
    return certain if certain and not (_named(columns, names.PROMPTS) and _named(columns, names.COMPLETIONS)) else None


def _pair(columns: list[Column], given: Mapping[str, str]) -> tuple[str, str] | None:
    able = [c for c in columns if c.kind != "other" and not c.is_identifier and spelling(c.name) not in names.SYSTEMS]
    prompt = given.get("prompt") or _named(able, names.PROMPTS)
    rest = [column for column in able if column.name != prompt]
    flags_last = [column for column in rest if not (column.kind == "flag" and spelling(column.name) in names.LABELS)] or rest
    completion = given.get("completion") or _named(flags_last, names.COMPLETIONS) or _named(rest, names.COMPLETIONS)
    if prompt and completion:
        return prompt, completion
    telling = [column for column in able if column.tells and column.name not in (prompt, completion)]
    if prompt or completion:
        other = _only(telling)
        corpus = "prompt" not in given and prompt is not None and spelling(prompt) in names.TEXTS
        if other is None or (corpus and other.kind != "text"):  # a corpus with a score beside each text
            return None
        return (prompt, other.name) if prompt else (other.name, completion or "")
    two = telling if len(telling) == 2 else [column for column in telling if column.is_prose]
    if len(two) != 2 or any(_headless(column.name) for column in columns):
        return None
    first, second = two
    swap = not first.is_prose and first.distinct <= 0.5 and second.is_prose  # a category before its text
    return (second.name, first.name) if swap else (first.name, second.name)


def _only(columns: list[Column]) -> Column | None:
    prose = [column for column in columns if column.is_prose]
    return columns[0] if len(columns) == 1 else prose[0] if len(prose) == 1 else None


def _text(columns: list[Column]) -> dict[str, str]:
    named = _named(columns, names.TEXTS, "text")
    if named:
        return {"text": named}
    only = _only([column for column in columns if column.tells])
    half = only is not None and (spelling(only.name) in names.PROMPTS or spelling(only.name) in names.COMPLETIONS)
    return {} if only is None or half or _headless(only.name) else {"text": only.name}


def _system(columns: list[Column]) -> dict[str, str | None]:
    return {"system": _named(columns, names.SYSTEMS, "text")}


def _headless(name: str) -> bool:
    """A column name that is a sentence or a number: the table has no line of names."""
    words = len(name.split())
    sentence = words >= 7 or (words >= 3 and name.endswith((".", "?", "!")))
    return len(name) > 60 or sentence or re.fullmatch(r"[\d.,\s-]+", name) is not None


def _without_none(**roles: str | None) -> dict[str, str]:
    return {role: column for role, column in roles.items() if column is not None}
