"""Regular expressions over module names, as PEFT's configs hold them: few, short, without large repeats, and under a time limit.

PEFT matches ``target_modules`` with ``re.fullmatch`` and the keys of ``rank_pattern`` and ``alpha_pattern`` behind ``(.*\\.)?``, the first
that matches. ``re`` compiles a pattern anew once 512 others came between, holds the interpreter and knows no limit; ``regex`` does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import regex

from playground.errors import AdapterError
from playground.library.files import plain_text

KEYS_LIMIT, PATTERNS_LIMIT = 1_000, 50
"""Keys of one table, and those of them that are no plain names: a model of 140 layers has 980 linear ones, and PEFT writes names."""
PAIRS_LIMIT = 2_000_000
"""Keys times names that are tried: seconds at most, in plain comparisons."""
LENGTH_LIMIT = 2_000
REPEATS_LIMIT = 1_000
"""What the counts ``{m,n}`` of one pattern may multiply up to: a name has a few hundred letters."""
PATIENCE_S = 1.0
"""Seconds that all patterns of one setting may take on all names. Usual ones take milliseconds."""

V = TypeVar("V")
_COUNT = re.compile(r"\{(\d*),?(\d*)\}")
PLAIN = re.compile(r"\^?[\w.-]+")
"""Keys that are compared as names, and so may stay as they are."""


def matching(setting: str, pattern: str, names: Iterable[str]) -> set[str]:
    """Those of ``names`` that the pattern matches whole. setting: its name, for the AdapterError."""
    until, compiled = time.monotonic() + PATIENCE_S, _compiled(setting, pattern)
    return {name for name in names if _fits(setting, compiled, name, until)}


def value_by_name(setting: str, patterns: Mapping[str, V], names: Collection[str]) -> dict[str, V]:
    """For each of ``names`` that a key matches: the value of the first such key. Raises AdapterError for too many, or too slow ones."""
    slow = sum(not PLAIN.fullmatch(key) for key in patterns)
    if len(patterns) > KEYS_LIMIT or slow > PATTERNS_LIMIT or len(patterns) * len(names) > PAIRS_LIMIT:
        raise AdapterError(
            f"{setting} in adapter_config.json has {len(patterns):,} keys, {slow:,} of them patterns, for {len(names):,} layers; at most "
            f"{KEYS_LIMIT:,} names and {PATTERNS_LIMIT} patterns are taken. Save the adapter with fewer."
        )
    until = time.monotonic() + PATIENCE_S
    tries = [
        (key, None if PLAIN.fullmatch(key) else _compiled(setting, rf"(.*\.)?({key})", key), value)
        for key, value in patterns.items()
    ]  # fmt: skip
    found: dict[str, V] = {}
    for name in names:
        for key, compiled, value in tries:
            if _ends_with(name, key) if compiled is None else _fits(setting, compiled, name, until):
                found[name] = value
                break
    return found


def _ends_with(name: str, key: str) -> bool:
    """What ``(.*\\.)?(key)`` says of a name, for a key of letters, digits and dots, where a dot stands for any letter; or ``^key``."""
    whole, key = key.startswith("^"), key.removeprefix("^")
    begin = len(name) - len(key)
    if begin < 0 or (begin and (whole or name[begin - 1] != ".")) or not name.endswith(key.rpartition(".")[2]):
        return False
    return name.endswith(key) or all(asked in (".", there) for asked, there in zip(key, name[begin:], strict=True))


def _compiled(setting: str, pattern: str, told: str = "") -> Any:
    counts = 1
    for low, high in _COUNT.findall(pattern):
        counts *= max(1, *(int(count[:9]) for count in (low, high) if count), 1)
    if len(pattern) > LENGTH_LIMIT or counts > REPEATS_LIMIT:
        raise AdapterError(
            _said(
                setting,
                told or pattern,
                f"is longer than {LENGTH_LIMIT:,} characters, or repeats more than {REPEATS_LIMIT:,} times",
            )
        )
    try:
        re.compile(pattern)
        if "{" in _COUNT.sub("", pattern):  # regex reads {e} as "with errors"
            raise ValueError("a brace that counts nothing")
        return regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
        raise AdapterError(_said(setting, told or pattern, f"cannot be read ({plain_text(str(error), 80)})")) from error


def _fits(setting: str, compiled: Any, name: str, until: float) -> bool:
    try:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return compiled.fullmatch(name, timeout=left, concurrent=True) is not None
    except (TimeoutError, MemoryError):
        raise AdapterError(_said(setting, compiled.pattern, f"takes more than {PATIENCE_S:g} s to match")) from None


def _said(setting: str, pattern: str, why: str) -> str:
    return f"{setting} in adapter_config.json holds the pattern {plain_text(pattern, 80)}, which {why}. List the layers' names in its place."
