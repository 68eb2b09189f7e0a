"""Which column is what: a person's own mapping first, then the columns' names, else what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from playground.data import column_profile as aliases
from playground.data.column_profile import Column, listed, named, profile, spelling
from playground.data.records import Records
from playground.errors import InputError


@dataclass(frozen=True)
class Guess:
    """mapping: role -> column. confidence: from 0 to 1. why: the evidence for it."""

    mapping: dict[str, str]
    confidence: float = 0.0
    why: str = ""


def guess_roles(columns: list[Column], given: Mapping[str, str]) -> Guess:
    """1. preference; 2. two answers and which is better; 3. chat; 4. prompt and answer by name or content; 5. raw
    text."""
    sft = not {"prompt", "input", "completion"}.isdisjoint(given)
    if "completion" not in given:
        guess = _preference(columns, given) or _two_answers(columns)  # 1, 2
        if guess:
            return guess
    chat = given.get("messages") or (None if sft else _chat(columns))
    if chat:  # 3
        rest = [column for column in columns if column.name != chat]
        label = named(rest, aliases.LABELS, "flag")
        kind = next((column.kind for column in columns if column.name == chat), "turns")
        certain = _rank(chat, aliases.CHATS) is not None and kind == "turns"
        why = f"told from the list of turns in {chat}" + (f" and the yes or no in {label}" if label else "")
        tools = named(columns, {"tools": 0, "functions": 1})
        why += f"; {tools} is not trained on" if tools else ""
        return Guess(
            _roles(messages=chat, label=label, **_system(columns)),
            0.98 if certain else 0.8 if kind == "turns" else 0.6,
            why,
        )
    pair = _pair(columns, given)
    if pair:  # 4
        (prompt, completion), confidence, why = pair
        rest = [column for column in columns if column.name not in (prompt, completion)]
        extra = named(rest, aliases.INPUTS) if _rank(prompt, aliases.ASKS_FOR_INPUT) is not None else None
        label = named(rest, aliases.LABELS, "flag")
        if label:
            confidence, why = min(confidence, 0.85), f"{why}, and from the yes or no in {label}"
        return Guess(
            _roles(prompt=prompt, completion=completion, input=extra, label=label, **_system(columns)), confidence, why
        )
    return _text(columns)  # 5


def _preference(columns: list[Column], given: Mapping[str, str]) -> Guess | None:
    chosen = given.get("chosen") or named(columns, aliases.CHOSEN)
    rejected = given.get("rejected") or named(columns, aliases.REJECTED)
    confidence, why = 0.97, f"told from the names {chosen} and {rejected}"
    rest = [column for column in columns if column.name not in (chosen, rejected)]
    if not (chosen and rejected):
        found = {column.name for column in columns}
        ends = (
            (".1", ".2", 0.7, "two answers in one list, the better first"),
            (".best", ".worst", 0.8, "answers with scores"),
        )
        for better, worse, sure, how in ends:
            stem = next((name.removesuffix(better) for name in sorted(found) if name.endswith(better)), None)
            if stem and stem + worse in found and _mostly(columns, stem + better):
                chosen, rejected, confidence, why = stem + better, stem + worse, sure, f"told from {stem}: {how}"
                rest = [column for column in columns if not column.name.startswith(stem)]
                break
        else:
            return None
    return Guess(_roles(chosen=chosen, rejected=rejected, prompt=_asked(rest), **_system(rest)), confidence, why)


def _two_answers(columns: list[Column]) -> Guess | None:
    two = aliases.two_answers(tuple(column.name for column in columns))
    rest = [column for column in columns if two and column.name not in two[:2]]
    label = named(rest, aliases.WINNERS, "text", "number", "flag")
    if two is None or label is None:
        return None
    first, second, _ = two
    rest = [column for column in rest if column.name != label]
    why = f"told from {first} and {second}, and from {label} that says which is better"
    return Guess(_roles(chosen=first, rejected=second, label=label, prompt=_asked(rest), **_system(rest)), 0.85, why)


def _asked(columns: list[Column]) -> str | None:
    """The prompt of two answers: a text, or the turns before them."""
    rest = [column for column in columns if column.rank(aliases.SYSTEMS) is None and not column.is_meta]
    return (
        named(rest, aliases.PROMPTS, "text", "turns", "number")
        or named(rest, aliases.CHATS, "turns")
        or named(rest, aliases.INPUTS, "text", "turns")
    )


def _mostly(columns: list[Column], name: str) -> bool:
    return any(column.name == name and column.filled > 0.5 for column in columns)


def _chat(columns: list[Column]) -> str | None:
    by_name = named(columns, aliases.CHATS, "turns")
    if by_name:
        return by_name
    turns = [column for column in columns if column.kind == "turns"]
    if len(turns) == 1 and named(columns, aliases.COMPLETIONS) is None:
        return turns[0].name
    texts = named(columns, aliases.CHATS, "texts")
    if texts and named(columns, aliases.COMPLETIONS, "text") is None:
        return texts
    written = named([column for column in columns if column.transcript], aliases.CHATS)
    if written and named(columns, aliases.COMPLETIONS) is None:
        return written
    certain = named(columns, {"messages": 0, "conversations": 1})
    return (
        certain if certain and not (named(columns, aliases.PROMPTS) and named(columns, aliases.COMPLETIONS)) else None
    )


def _pair(columns: list[Column], given: Mapping[str, str]) -> tuple[tuple[str, str], float, str] | None:
    """((prompt, completion), how sure, why): by name, one of them by name, or by what two columns hold."""
    able = [column for column in columns if _may_be_trained_on(column)]
    prompt = given.get("prompt") or named([c for c in able if c.kind != "texts"], aliases.PROMPTS)
    if "prompt" not in given and prompt and _rank(prompt, aliases.INPUTS) is not None:
        prompt = named(able, aliases.ASKS_FOR_INPUT) or prompt  # an instruction goes before its input
    rest = [column for column in able if column.name != prompt]
    flags_last = [
        column for column in rest if not (column.kind == "flag" and column.rank(aliases.LABELS) is not None)
    ] or rest
    completion = given.get("completion") or named(flags_last, aliases.COMPLETIONS) or named(rest, aliases.COMPLETIONS)
    if prompt and completion:
        ranks = (_rank(prompt, aliases.PROMPTS) or 0) + (_rank(completion, aliases.COMPLETIONS) or 0)
        label = next((c for c in able if c.name == completion and _rank(c.name, aliases.LABELS) is not None), None)
        why = f"told from the names {prompt} and {completion}" + ("; the label is the answer" if label else "")
        return (prompt, completion), 0.98 if ranks <= 10 else 0.9 if ranks <= 60 else 0.85, why
    telling = [column for column in able if column.is_content and column.name not in (prompt, completion)]
    if prompt or completion:
        other = _only(telling)
        corpus = "prompt" not in given and prompt is not None and _rank(prompt, aliases.TEXTS) is not None
        if other is None or (corpus and other.kind != "text"):  # a corpus with a score beside each text
            return None
        pair = (prompt, other.name) if prompt else (other.name, completion or "")
        return pair, 0.6, f"told from the name {prompt or completion} and from what {other.name} holds"
    two = telling if len(telling) == 2 else [column for column in telling if column.is_prose]
    if len(two) != 2 or any(is_headless(column.name) for column in columns):
        return None
    first, second = two
    swap = not first.is_prose and first.distinct <= 0.5 and second.is_prose  # a category before its text
    if swap:
        first, second = second, first
    return (first.name, second.name), 0.4, "told from what the columns hold, not from their names"


def _may_be_trained_on(column: Column) -> bool:
    labels = column.kind == "texts" and column.rank(aliases.KINDS) is not None
    useless = labels or column.kind in ("other", "turn") or column.is_identifier
    return not useless and column.rank(aliases.SYSTEMS) is None


def _rank(name: str, ranks: Mapping[str, int]) -> float | None:
    return Column(name, "text", 1.0, 1.0, 1.0, False).rank(ranks)


def _only(columns: list[Column]) -> Column | None:
    prose = [column for column in columns if column.is_prose]
    return columns[0] if len(columns) == 1 else prose[0] if len(prose) == 1 else None


def _text(columns: list[Column]) -> Guess:
    by_name = named(columns, aliases.TEXTS, "text")
    if by_name:
        alone = len(columns) == 1
        if named(columns, {"role": 0, "speaker": 1}, "text"):
            why = f"told from the name {by_name}; each row seems to be one turn, and turns are not joined into chats"
            return Guess({"text": by_name}, 0.4, why)
        return Guess(
            {"text": by_name}, 0.95 if alone else 0.8, f"told from the name {by_name}: no column holds an answer"
        )
    only = _only([column for column in columns if column.is_content])
    half = only is not None and any(only.rank(ranks) is not None for ranks in (aliases.PROMPTS, aliases.COMPLETIONS))
    if only is None or half or is_headless(only.name):
        return Guess({})
    return Guess({"text": only.name}, 0.5, f"told from what {only.name} holds: the only column of text")


def _system(columns: list[Column]) -> dict[str, str | None]:
    return {"system": named(columns, aliases.SYSTEMS, "text", "turn")}


def is_headless(name: str) -> bool:
    """A column name that is a sentence or a number: the table has no line of names."""
    words = len(name.split())
    sentence = words >= 7 or (words >= 3 and name.endswith((".", "?", "!")))
    return len(name) > 60 or sentence or re.fullmatch(r"[\d.,\s-]+", name) is not None


def _roles(**roles: str | None) -> dict[str, str]:
    return {role: column for role, column in roles.items() if column is not None}


FORMATS: tuple[tuple[str, str, frozenset[str], frozenset[str]], ...] = (
    ("preference", "preference", frozenset({"chosen", "rejected"}), frozenset({"prompt", "input", "system", "label"})),
    ("unpaired-preference", "unpaired_preference", frozenset({"messages", "label"}), frozenset({"system"})),
    (
        "unpaired-preference",
        "unpaired_preference",
        frozenset({"prompt", "completion", "label"}),
        frozenset({"input", "system"}),
    ),
    ("chat", "sft", frozenset({"messages"}), frozenset({"system"})),
    ("instruction", "sft", frozenset({"prompt", "input", "completion"}), frozenset({"system"})),
    ("prompt-completion", "sft", frozenset({"prompt", "completion"}), frozenset({"system"})),
    ("text", "text", frozenset({"text"}), frozenset()),
)
"""(format, objective, the roles it needs, the roles it may have).

A preference's label says which of two answers is the better one; chosen is then the first of them, rejected the
second."""

ROLES = ("prompt", "input", "completion", "system", "messages", "chosen", "rejected", "label", "text")
ALIASES = {"instruction": "prompt", "question": "prompt"} | dict.fromkeys(
    ("answer", "response", "output"), "completion"
)
_MAP = "prompt=COLUMN completion=COLUMN"
SAY = f"Say which column is which: {_MAP} (on the command line: --map {_MAP})."


@dataclass(frozen=True)
class Shape:
    """What a file is. mapping: role -> column.

    confidence: how sure that is, from 0 to 1; 1 where the person said it. why: the evidence for it.
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

    1. a complete mapping by the person stands as it is; 2. an incomplete one is completed by the guess; 3. else the
    guess. Raises InputError when a role or column is unknown, or nothing can be guessed."""
    given = _given(records, mapping or {})
    shape = _shape(Guess(given, 1.0, "as you said"), records)  # 1
    if shape:
        return shape
    sample = records.some()
    every = [profile(name, [record.get(name) for record in sample]) for name in records.columns]
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
        raise InputError(
            f"{said} is not enough to train on, or does not go together. {found}. What goes together: {needs}."
        )
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
    two = aliases.two_answers((given["chosen"], given["rejected"]))
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
