r"""Rules for the settings of an ``adapter_config.json``, and its regular expressions over module names, matched under a
time limit.

PEFT matches ``target_modules`` with ``re.fullmatch`` and the keys of ``rank_pattern`` and ``alpha_pattern`` behind
``(.*\.)?``, the first that matches. ``re`` holds the interpreter and knows no time limit; ``regex`` does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import regex

from playground.errors import AdapterError
from playground.plain import plain_number, plain_text

KEYS_LIMIT, PATTERNS_LIMIT = 1_000, 50
"""Keys of one table, and those of them that are no plain names: a model of 140 layers has 980 linear ones."""
PAIRS_LIMIT = 2_000_000  # keys times names that are tried: seconds at most, in plain comparisons
LENGTH_LIMIT, DEPTH_LIMIT = 2_000, 20
REPEATS_LIMIT = 1_000  # what the counts ``{m,n}`` of one pattern may multiply up to: a name has a few hundred letters
TIMEOUT_S = 1.0  # seconds that all patterns of one setting may take on all names. Usual ones take milliseconds
RANK_LIMIT = 256

V = TypeVar("V")
Rule = Callable[[Any], str]  # takes a value; returns what is wrong with it, or ''
PLAIN = re.compile(r"\^?[\w.-]+")  # keys that are compared as names, and so may stay as they are
_COUNT = re.compile(r"\{(\d*),?(\d*)\}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def matching(setting: str, pattern: str, names: Iterable[str]) -> set[str]:
    """Those of ``names`` that the pattern matches whole. setting: its name, for the AdapterError."""
    until, compiled = time.monotonic() + TIMEOUT_S, _compiled(setting, pattern)
    return {name for name in names if _fullmatch(setting, compiled, name, until)}


def value_by_name(setting: str, patterns: Mapping[str, V], names: Collection[str]) -> dict[str, V]:
    """For each of ``names`` that a key matches: the value of the first such key. Raises AdapterError for too many keys
    or too slow ones."""
    slow = sum(not PLAIN.fullmatch(key) for key in patterns)
    if len(patterns) > KEYS_LIMIT or slow > PATTERNS_LIMIT or len(patterns) * len(names) > PAIRS_LIMIT:
        raise AdapterError(
            f"{setting} in adapter_config.json has {len(patterns):,} keys, {slow:,} of them patterns, for"
            f" {len(names):,} layers; at most {KEYS_LIMIT:,} names and {PATTERNS_LIMIT} patterns are taken. Save the"
            " adapter with fewer."
        )
    until = time.monotonic() + TIMEOUT_S
    tries = [
        (key, None if PLAIN.fullmatch(key) else _compiled(setting, rf"(.*\.)?({key})", key), value)
        for key, value in patterns.items()
    ]
    found: dict[str, V] = {}
    for name in names:
        for key, compiled, value in tries:
            if _ends_with(name, key) if compiled is None else _fullmatch(setting, compiled, name, until):
                found[name] = value
                break
    return found


def _ends_with(name: str, key: str) -> bool:
    """Whether ``(.*\\.)?(key)`` matches a name, for a plain key, where a dot stands for any letter; or ``^key``."""
    whole, key = key.startswith("^"), key.removeprefix("^")
    begin = len(name) - len(key)
    if begin < 0 or (begin and (whole or name[begin - 1] != ".")) or not name.endswith(key.rpartition(".")[2]):
        return False
    return name.endswith(key) or all(asked in (".", there) for asked, there in zip(key, name[begin:], strict=True))


def _compiled(setting: str, pattern: str, shown: str = "") -> regex.Pattern[str]:
    """shown: the pattern as the person wrote it."""
    shown, counts = shown or pattern, 1
    for low, high in _COUNT.findall(pattern):
        counts *= max(1, *(int(count[:9]) for count in (low, high) if count), 1)
    if len(pattern) > LENGTH_LIMIT or counts > REPEATS_LIMIT:
        why = f"is longer than {LENGTH_LIMIT:,} characters, or repeats more than {REPEATS_LIMIT:,} times"
        raise _bad_pattern(setting, shown, why)
    try:
        re.compile(pattern)
        if "{" in _COUNT.sub("", pattern):  # regex reads {e} as "with errors"
            raise ValueError("a brace that counts nothing")
        return regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
        raise _bad_pattern(setting, shown, f"cannot be read ({plain_text(str(error), 80)})") from error


def _fullmatch(setting: str, compiled: regex.Pattern[str], name: str, until: float) -> bool:
    try:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return compiled.fullmatch(name, timeout=left, concurrent=True) is not None
    except (TimeoutError, MemoryError):
        raise _bad_pattern(setting, compiled.pattern, f"takes more than {TIMEOUT_S:g} s to match") from None


def _bad_pattern(setting: str, pattern: str, why: str) -> AdapterError:
    return AdapterError(
        f"{setting} in adapter_config.json holds the pattern {plain_text(pattern, 80)}, which {why}. List the layers'"
        " names in its place."
    )


def says_nothing(value: Any, depth: int = 0) -> bool:
    """Null, false, empty, 0, or a table of such, a few tables deep."""
    deeper = isinstance(value, dict) and depth < DEPTH_LIMIT
    return all(says_nothing(each, depth + 1) for each in value.values()) if deeper else not value


def nothing(why: str) -> Rule:
    """Only a value that says nothing."""
    return lambda value: "" if says_nothing(value) else why


def one_of(*allowed: Any) -> Rule:
    """One of these strings, or None, True and False themselves (1 is not True)."""
    said = ", ".join("null" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in allowed)

    def rule(value: Any) -> str:
        right = any(value is v or (isinstance(v, str) and value == v) for v in allowed)
        return "" if right else f"it may be {said}"

    return rule


switch = one_of(True, False)


def whole(low: int, high: int, optional: bool = False) -> Rule:
    """An int from low to high; optional: or null."""

    def rule(value: Any) -> str:
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if right or (value is None and optional) else f"it must be a whole number from {low} to {high}"

    return rule


def number(low: float, high: float) -> Rule:
    """A finite number from low to high."""

    def rule(value: Any) -> str:
        found = plain_number(value)
        return "" if found is not None and low <= found <= high else f"it must be a number from {low:g} to {high:g}"

    return rule


def _pattern_fault(text: str) -> str:
    """PEFT matches these as regular expressions against every module: refuse those that could take for ever."""
    if len(text) > 500 or len(re.findall(r"[*+{]", text)) > 3 or re.search(r"[)*+}][*+{]|\\[0-9]|\(\?(?!:)", text):
        return "its pattern is too involved"
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return "it is not a pattern that can be read"
    return ""


def modules(value: Any) -> str:
    """A list of module names, one pattern, or null."""
    if value is None or isinstance(value, str):
        return _pattern_fault(value) if value is not None else ""
    right = isinstance(value, list) and len(value) <= 20_000 and all(map(is_name, value))
    return "" if right else "it must be a list of module names, or one pattern"


def is_name(value: Any) -> bool:
    """A module's name: letters, digits, dots, hyphens and underscores."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def patterns(of: Rule) -> Rule:
    """A table of patterns and values that ``of`` allows, or null."""

    def rule(value: Any) -> str:
        if not isinstance(value, dict) or len(value) > KEYS_LIMIT:
            limit = f"of at most {KEYS_LIMIT:,} module names and numbers"
            return "" if value is None else f"it must be a table {limit}"
        return next((why for key, each in value.items() if (why := _pattern_fault(key) or of(each))), "")

    return rule
