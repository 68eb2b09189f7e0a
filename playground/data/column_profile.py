"""How people name columns, what a sample of each holds, and what a cell says of an answer."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.turns import is_turn, is_turns, read_transcript


def clean_name(name: object) -> str:
    """A column's name without invisible characters (byte-order mark, zero-width, control), outer spaces and quotes."""
    text = "" if name is None else str(name)
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if char in "\n\t" else char for char in text)
        text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc", "Cs"))
        text = re.sub(r"\s+", " ", text)
    return text.strip().strip("\"'").strip()


def spelling(name: str) -> str:
    """The name as it is compared: no case, accents, spaces or punctuation (``Prompt_Text`` is ``prompttext``)."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(char for char in plain if char.isalnum())


def leaf(name: str) -> str:
    """The last part of a nested column's name."""
    return name.rpartition(".")[2]


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: the first ``most``, each kept short."""
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


NAMES: dict[str, dict[str, int]] = {
    role: {spelling(word): rank for rank, word in reversed([*enumerate(words.split())])}
    for role, words in tomllib.loads(Path(__file__).with_name("column_names.toml").read_text(encoding="utf-8")).items()
}
"""Role -> how people name its column, by ``spelling`` -> its rank, 0 the likeliest."""

_TWO = re.compile(r"(?P<stem>\D*?)(?P<which>[ab]|[012])")


def two_answers(columns: Sequence[str]) -> tuple[str, str, int] | None:
    """(first, second, the number that the first goes by) of columns such as ``response_a`` and ``response_b``.

    The Stanford Human Preferences say 1 where ``human_ref_A`` is the better: there B comes first, with 0.
    """
    found: dict[tuple[str, str], str] = {}
    for column in columns:
        match = _TWO.fullmatch(spelling(column))
        if match and match["stem"] in NAMES["stems"]:
            found.setdefault((match["stem"], match["which"]), column)
    for (stem, which), column in found.items():
        for first, second, lowest in (("a", "b", 0), ("0", "1", 0), ("1", "2", 1)):
            if which == first and (stem, second) in found:
                other = found[stem, second]
                return (other, column, 0) if stem == "humanref" else (column, other, lowest)
    return None


def _each(words: str, value: bool) -> dict[str, bool]:
    return dict.fromkeys(words.split(), value)


_TRUTHS = _each("true yes 1 1.0 good y t up 👍 thumbs_up thumbsup like liked positive desirable", True)
_TRUTHS |= _each("chosen accept accepted correct +1", True)
_TRUTHS |= _each("false no 0 0.0 bad n f down 👎 thumbs_down thumbsdown dislike disliked negative", False)
_TRUTHS |= _each("undesirable rejected reject incorrect -1", False)
_FIRST, _SECOND = ("a", "j", "first", "left", "chosen"), ("b", "k", "second", "right", "rejected")
_STEM = re.compile(
    r"^(model|response|answer|completion|output|option|assistant|reply|conversation|text|candidate|choice)[\s_-]*"
)


def truth(value: object) -> bool | None:
    """A label as true or false; None when it is neither."""
    return _TRUTHS.get(str(value).strip().casefold())


def first_won(value: object, lowest: int) -> bool | None:
    """Whether a cell (``a``, ``model_b``, ``response 1``) says that the first of two answers is better; None: neither.

    lowest: the number that stands for the first answer, 0 or 1; below 0 every negative number does.
    """
    word = _STEM.sub("", str(value).strip().casefold()).removesuffix(".0")
    if lowest < 0 and re.fullmatch(r"-?\d+", word):
        return None if int(word) == 0 else int(word) < 0
    if word in _FIRST or word == str(lowest):
        return True
    return False if word in _SECOND or word == str(lowest + 1) else None


@dataclass(frozen=True)
class Column:
    """What a sample of one column holds."""

    name: str
    kind: str  # turns, turn, texts, text, number, flag, other
    filled: float  # share of sampled records that have a value
    words: float  # mean of a value
    distinct: float  # share of different values
    constant: bool
    transcript: bool  # most values are chats written as one text, ``Human: … Assistant: …``

    @property
    def is_identifier(self) -> bool:
        plain = spelling(leaf(self.name))
        ends = re.search(r"[_\s-](id|idx|uuid)$", self.name.lower()) or re.search(r"[a-z]I[dD]$", self.name)
        return plain in NAMES["identifiers"] or plain.startswith("unnamed") or ends is not None

    @property
    def is_meta(self) -> bool:
        """Whether its name, or that of a column around it, says that it is about the row rather than of it."""
        return any(spelling(part) in NAMES["meta"] for part in self.name.split("."))

    @property
    def is_content(self) -> bool:
        """Whether it may be a prompt or an answer by what it holds."""
        about = self.is_meta or self.is_identifier or self.constant
        return self.kind in ("text", "number", "flag") and not about

    @property
    def is_prose(self) -> bool:
        return self.kind == "text" and self.words >= 1.5


def rank(name: str, role: str) -> float | None:
    """How well a name fits a role, 0 the best; a nested column goes by its last part if its whole name says nothing."""
    ranks = NAMES[role]
    whole = ranks.get(spelling(name))
    if whole is not None or "." not in name:
        return whole
    *parents, last = map(spelling, name.split("."))
    return ranks[last] + 0.5 if last in ranks and NAMES["meta"].keys().isdisjoint(parents) else None


def named(columns: Iterable[Column], role: str, *kinds: str) -> str | None:
    """The best-named column of these kinds; one that most records have goes before one that few have."""
    able = [
        (column.filled < 0.5, place, column.name)
        for column in columns
        if (place := rank(column.name, role)) is not None and (not kinds or column.kind in kinds)
    ]
    return min(able, key=lambda item: item[:2])[2] if able else None


def profile(name: str, values: list[Any]) -> Column:
    """What a column holds, from a sample of its values."""
    present = [value for value in values if (value.strip() if isinstance(value, str) else value not in (None, []))]
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
    """The first kind that most values are of."""
    for kind, is_kind in _KINDS.items() if values else ():
        if sum(map(is_kind, values)) * 2 > len(values):
            return kind
    return "text" if values else "other"


_KINDS: dict[str, Callable[[Any], bool]] = {
    "turns": is_turns,
    "turn": is_turn,
    "texts": lambda value: isinstance(value, list) and bool(value) and isinstance(value[0], str),
    "other": lambda value: isinstance(value, list | dict),
    "flag": lambda value: truth(value) is not None,
    "number": lambda value: re.fullmatch(r"[-+]?\d+([.,]\d+)*", str(value).strip()) is not None,
}
