"""A guess of which column is what: from their names, else from what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from playground.data import names
from playground.data.look import Column, named


@dataclass(frozen=True)
class Guess:
    """role -> column, how sure, and what it was told from."""

    mapping: dict[str, str]
    confidence: float = 0.0
    why: str = ""


def guess_roles(columns: list[Column], given: Mapping[str, str]) -> Guess:
    """1. preference; 2. two answers and which is better; 3. chat; 4. prompt and answer by name or content; 5. raw text."""
    sft = not {"prompt", "input", "completion"}.isdisjoint(given)
    if "completion" not in given:
        guess = _preference(columns, given) or _two_answers(columns)  # 1, 2
        if guess:
            return guess
    chat = given.get("messages") or (None if sft else _chat(columns))
    if chat:  # 3
        rest = [column for column in columns if column.name != chat]
        label = named(rest, names.LABELS, "flag")
        kind = next((column.kind for column in columns if column.name == chat), "turns")
        certain = _rank(chat, names.CHATS) is not None and kind == "turns"
        why = f"told from the list of turns in {chat}" + (f" and the yes or no in {label}" if label else "")
        tools = named(columns, {"tools": 0, "functions": 1})
        why += f"; {tools} is not trained on" if tools else ""
        return Guess(
            _roles(messages=chat, label=label, **_system(columns)), 0.98 if certain else 0.8 if kind == "turns" else 0.6, why
        )
    pair = _pair(columns, given)
    if pair:  # 4
        (prompt, completion), confidence, why = pair
        rest = [column for column in columns if column.name not in (prompt, completion)]
        extra = named(rest, names.INPUTS) if _rank(prompt, names.ASKS_FOR_INPUT) is not None else None
        label = named(rest, names.LABELS, "flag")
        if label:
            confidence, why = min(confidence, 0.85), f"{why}, and from the yes or no in {label}"
        return Guess(_roles(prompt=prompt, completion=completion, input=extra, label=label, **_system(columns)), confidence, why)
    return _text(columns)  # 5


def _preference(columns: list[Column], given: Mapping[str, str]) -> Guess | None:
    chosen = given.get("chosen") or named(columns, names.CHOSEN)
    rejected = given.get("rejected") or named(columns, names.REJECTED)
    confidence, why = 0.97, f"told from the names {chosen} and {rejected}"
    rest = [column for column in columns if column.name not in (chosen, rejected)]
    if not (chosen and rejected):
        found = {column.name for column in columns}
        ends = ((".1", ".2", 0.7, "two answers in one list, the better first"), (".best", ".worst", 0.8, "answers with scores"))
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
    two = names.two_answers(tuple(column.name for column in columns))
    rest = [column for column in columns if two and column.name not in two[:2]]
    label = named(rest, names.WINNERS, "text", "number", "flag")
    if two is None or label is None:
        return None
    first, second, _ = two
    rest = [column for column in rest if column.name != label]
    why = f"told from {first} and {second}, and from {label} that says which is better"
    return Guess(_roles(chosen=first, rejected=second, label=label, prompt=_asked(rest), **_system(rest)), 0.85, why)


def _asked(columns: list[Column]) -> str | None:
    """The prompt of two answers: a text, or the turns before them."""
    rest = [column for column in columns if column.rank(names.SYSTEMS) is None and not column.is_meta]
    return (
        named(rest, names.PROMPTS, "text", "turns", "number")
        or named(rest, names.CHATS, "turns")
        or named(rest, names.INPUTS, "text", "turns")
    )


def _mostly(columns: list[Column], name: str) -> bool:
    return any(column.name == name and column.filled > 0.5 for column in columns)


def _chat(columns: list[Column]) -> str | None:
    by_name = named(columns, names.CHATS, "turns")
    if by_name:
        return by_name
    turns = [column for column in columns if column.kind == "turns"]
    if len(turns) == 1 and named(columns, names.COMPLETIONS) is None:
        return turns[0].name
    texts = named(columns, names.CHATS, "texts")
    if texts and named(columns, names.COMPLETIONS, "text") is None:
        return texts
    written = named([column for column in columns if column.transcript], names.CHATS)
    if written and named(columns, names.COMPLETIONS) is None:
        return written
    certain = named(columns, {"messages": 0, "conversations": 1})
    return certain if certain and not (named(columns, names.PROMPTS) and named(columns, names.COMPLETIONS)) else None


def _pair(columns: list[Column], given: Mapping[str, str]) -> tuple[tuple[str, str], float, str] | None:
    """((prompt, completion), how sure, why): by name, one of them by name, or by what two columns hold."""
    able = [
        c for c in columns
        if not (c.kind == "texts" and c.rank(names.KINDS) is not None)
        and c.kind not in ("other", "turn") and not c.is_identifier and c.rank(names.SYSTEMS) is None
    ]  # fmt: skip
    prompt = given.get("prompt") or named([c for c in able if c.kind != "texts"], names.PROMPTS)
    if "prompt" not in given and prompt and _rank(prompt, names.INPUTS) is not None:
        prompt = named(able, names.ASKS_FOR_INPUT) or prompt  # an instruction goes before its input
    rest = [column for column in able if column.name != prompt]
    flags_last = [column for column in rest if not (column.kind == "flag" and column.rank(names.LABELS) is not None)] or rest
    completion = given.get("completion") or named(flags_last, names.COMPLETIONS) or named(rest, names.COMPLETIONS)
    if prompt and completion:
        ranks = (_rank(prompt, names.PROMPTS) or 0) + (_rank(completion, names.COMPLETIONS) or 0)
        label = next((c for c in able if c.name == completion and _rank(c.name, names.LABELS) is not None), None)
        why = f"told from the names {prompt} and {completion}" + ("; the label is the answer" if label else "")
        return (prompt, completion), 0.98 if ranks <= 10 else 0.9 if ranks <= 60 else 0.85, why
    telling = [column for column in able if column.tells and column.name not in (prompt, completion)]
    if prompt or completion:
        other = _only(telling)
        corpus = "prompt" not in given and prompt is not None and _rank(prompt, names.TEXTS) is not None
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


def _rank(name: str, ranks: Mapping[str, int]) -> float | None:
    return Column(name, "text", 1.0, 1.0, 1.0, False).rank(ranks)


def _only(columns: list[Column]) -> Column | None:
    prose = [column for column in columns if column.is_prose]
    return columns[0] if len(columns) == 1 else prose[0] if len(prose) == 1 else None


def _text(columns: list[Column]) -> Guess:
    by_name = named(columns, names.TEXTS, "text")
    if by_name:
        alone = len(columns) == 1
        if named(columns, {"role": 0, "speaker": 1}, "text"):
            why = f"told from the name {by_name}; each row seems to be one turn, and turns are not joined into chats"
            return Guess({"text": by_name}, 0.4, why)
        return Guess({"text": by_name}, 0.95 if alone else 0.8, f"told from the name {by_name}: no column holds an answer")
    only = _only([column for column in columns if column.tells])
    half = only is not None and any(only.rank(ranks) is not None for ranks in (names.PROMPTS, names.COMPLETIONS))
    if only is None or half or is_headless(only.name):
        return Guess({})
    return Guess({"text": only.name}, 0.5, f"told from what {only.name} holds: the only column of text")


def _system(columns: list[Column]) -> dict[str, str | None]:
    return {"system": named(columns, names.SYSTEMS, "text", "turn")}


def is_headless(name: str) -> bool:
    """A column name that is a sentence or a number: the table has no line of names."""
    words = len(name.split())
    sentence = words >= 7 or (words >= 3 and name.endswith((".", "?", "!")))
    return len(name) > 60 or sentence or re.fullmatch(r"[\d.,\s-]+", name) is not None


def _roles(**roles: str | None) -> dict[str, str]:
    return {role: column for role, column in roles.items() if column is not None}
