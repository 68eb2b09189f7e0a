"""Regular expressions that people write, tried on texts that models write, with a time limit.

A pattern such as ``(a+)+b`` backtracks for years on a line of a's, and Python's ``re`` holds the GIL meanwhile. The
regex package releases it and takes a timeout."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import regex

PATIENCE_S = 0.5
"""Seconds that one pattern may take on one text; what takes longer does not match. Usual ones take microseconds."""
LONGEST = 10_000
"""Characters of a pattern, and of what its counted repeats stand for: ``(ab{20}){30}`` is 630. A compiled one keeps
some 300 bytes of each."""
_PIECE = re.compile(r"\\.|\(\?#[^)]*\)|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*),?(\d*)\}|[()]|[^()]", re.DOTALL)
_BRACE = re.compile(r"(\\N\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\})|\{", re.DOTALL)


@lru_cache(maxsize=64)
def compiled(pattern: str, dotall: bool = False) -> Any:
    """A pattern as Python's ``re`` means it; dotall: a dot is also the end of a line. Raises ValueError that says what
    is wrong with it.

    What ``re`` does not take is refused, and a ``{`` that counts nothing stays a brace, where regex alone would read
    ``{e}`` as "with errors"."""
    if len(pattern) > LONGEST:
        raise ValueError(f"it has {len(pattern):,} characters, and {LONGEST:,} are the most")
    if re.search(r"\(\?[a-zA-Z]*x", pattern):  # comments could hide repeats from the count
        raise ValueError("it is written with (?x); write it without spaces and comments")
    if (length := _written_out(pattern)) > LONGEST:
        raise ValueError(
            f"its repeats stand for {length:,} characters, and {LONGEST:,} are the most; use * or + for any number"
        )
    try:
        re.compile(pattern)
        braces = _BRACE.sub(lambda found: found[1] or r"\{", pattern)
        return regex.compile(
            braces, regex.DOTALL if dotall else 0, cache_pattern=False
        )  # the package's own cache holds 500
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # re.error, and whatever else a reader stumbles over, such as too large a number
        raise ValueError(str(error) or type(error).__name__) from error


def _written_out(pattern: str) -> int:
    """How many characters a pattern has with its counted repeats written out, as the compiler does. At least 1 for each
    repeat."""
    open_groups: list[int] = []
    length = last = 0  # of the group so far; of what a repeat after it would repeat
    for piece in _PIECE.finditer(pattern):
        if piece[0] == "(":
            open_groups.append(length)
            length = last = 0
        elif piece[0] == ")" and open_groups:
            last, length = max(1, length), open_groups.pop() + length
        elif piece[1] or piece[2]:
            times = max(int(number or 0) for number in piece.groups())
            length, last = length + last * max(0, times - 1), last * times
        else:
            length, last = length + 1, 1
    return length + sum(open_groups)


def matches(pattern: Any, text: str) -> bool:
    """Whether the whole text matches; False when the time limit was reached first."""
    return _in_time(pattern.fullmatch, text, PATIENCE_S)


def occurs(pattern: Any, text: str, patience_s: float = PATIENCE_S) -> bool:
    """Whether the pattern is somewhere in the text; False when the time limit was reached first."""
    return _in_time(pattern.search, text, patience_s)


def end_of(pattern: Any, text: str, start: int) -> int | None:
    """Where the first match from ``start`` on ends; None where there is none, or none in time."""
    try:
        found = pattern.search(text, start, timeout=PATIENCE_S, concurrent=True)
    except (TimeoutError, MemoryError):
        return None
    return None if found is None else int(found.end())


def _in_time(look: Any, text: str, patience_s: float) -> bool:
    try:
        return look(text, timeout=patience_s, concurrent=True) is not None
    except (TimeoutError, MemoryError):
        return False
