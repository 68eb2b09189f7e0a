"""What a sample of each column holds; and what a cell says of an answer: good or bad, or which of two is the better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from playground.data import column_aliases
from playground.data.column_aliases import leaf, spelling
from playground.data.readers.records import Records
from playground.data.turns import is_turn, is_turns, read_transcript


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TRUE = _words("""
    true yes 1 1.0 good y t up 👍 thumbs_up thumbsup like liked positive desirable chosen accept accepted correct +1
""")
_FALSE = _words("""
    false no 0 0.0 bad n f down 👎 thumbs_down thumbsdown dislike disliked negative undesirable rejected reject
    incorrect -1
""")
_FIRST = _words("a j first left chosen")
_SECOND = _words("b k second right rejected")
_STEM = re.compile(
    r"^(model|response|answer|completion|output|option|assistant|reply|conversation|text|candidate|choice)[\s_-]*"
)


def truth(value: object) -> bool | None:
    """A label as true or false; None when it is neither."""
    word = str(value).strip().casefold()
    return True if word in _TRUE else False if word in _FALSE else None


def first_won(value: object, lowest: int) -> bool | None:
    """Whether a cell names the first of two answers as the better: ``a``, ``model_b``, ``response 1``; None when
    neither.

    lowest: the number that stands for the first answer, 0 or 1; below 0: a negative number does, a positive is the
    second."""
    word = _STEM.sub("", str(value).strip().casefold()).removesuffix(".0")
    if lowest < 0 and re.fullmatch(r"-?\d+", word):
        return None if int(word) == 0 else int(word) < 0
    if word in _FIRST or word == str(lowest):
        return True
    return False if word in _SECOND or word == str(lowest + 1) else None


@dataclass(frozen=True)
class Column:
    """What a sample of one column holds.

    filled: share of sampled records that have a value. words: mean number of words. distinct: share of different
    values.
    transcript: most values are chats written as one text, ``Human: … Assistant: …``.
    """

    name: str
    kind: str  # turns, turn, texts, text, number, flag, other
    filled: float
    words: float
    distinct: float
    constant: bool
    transcript: bool = False

    @property
    def is_identifier(self) -> bool:
        plain = spelling(leaf(self.name))
        ends = re.search(r"[_\s-](id|idx|uuid)$", self.name.lower()) or re.search(r"[a-z]I[dD]$", self.name)
        return plain in column_aliases.IDENTIFIERS or plain.startswith("unnamed") or ends is not None

    @property
    def is_meta(self) -> bool:
        """Whether its name says that it is about the row rather than of it; all that is inside such a column is as
        well."""
        *parents, last = self.name.split(".")
        return spelling(last) in column_aliases.META or any(
            spelling(parent) in column_aliases.META for parent in parents
        )

    @property
    def is_content(self) -> bool:
        """Whether it may be a prompt or an answer by what it holds."""
        return (
            self.kind in ("text", "number", "flag")
            and not self.is_meta
            and not self.is_identifier
            and not self.constant
        )

    @property
    def is_prose(self) -> bool:
        return self.kind == "text" and self.words >= 1.5

    def rank(self, ranks: Mapping[str, int]) -> float | None:
        """How well its name fits a role, 0 the best; a nested column goes by its last part if its whole name says
        nothing."""
        whole = ranks.get(spelling(self.name))
        if whole is not None or "." not in self.name:
            return whole
        *parents, last = self.name.split(".")
        inner = ranks.get(spelling(last))
        return (
            None if inner is None or any(spelling(parent) in column_aliases.META for parent in parents) else inner + 0.5
        )


def profile_columns(records: Records) -> list[Column]:
    """Every column, by the records' sample."""
    sample = records.some()
    return [_column(name, [record.get(name) for record in sample]) for name in records.columns]


def named(columns: Iterable[Column], ranks: Mapping[str, int], *kinds: str) -> str | None:
    """The best-named column of these kinds; one that most records have goes before one that few have."""
    able = [
        (rank, column)
        for column in columns
        if (rank := column.rank(ranks)) is not None and (not kinds or column.kind in kinds)
    ]
    best = min(able, key=lambda item: (item[1].filled < 0.5, item[0]), default=None)
    return best[1].name if best else None


def _column(name: str, values: list[Any]) -> Column:
    present = [
        value for value in values if value not in (None, []) and not (isinstance(value, str) and not value.strip())
    ]
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
        transcript=sum(bool(read_transcript(text)) for text in texts) * 2 > count,
    )


def _kind(values: list[Any]) -> str:
    def most(true: Iterable[object]) -> bool:
        return sum(map(bool, true)) * 2 > len(values)

    if most(is_turns(value) for value in values):
        return "turns"
    if most(is_turn(value) for value in values):
        return "turn"
    if most(isinstance(value, list) and value and isinstance(value[0], str) for value in values):
        return "texts"
    if most(isinstance(value, list | dict) for value in values) or not values:
        return "other"
    if most(truth(value) is not None for value in values):
        return "flag"
    if most(re.fullmatch(r"[-+]?\d+([.,]\d+)*", str(value).strip()) for value in values):
        return "number"
    return "text"
