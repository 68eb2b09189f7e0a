"""How answers are read and their values compared: the fields of JSON and of ``Key: value`` lines, numbers in any
notation, words without case and punctuation."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import combinations, islice
from string import punctuation
from typing import Any, Literal

import regex

from playground.evaluation.form import ALONE, collapsed, folded, key_of

FieldKind = Literal["exact", "number", "text"]
LEAST_F1 = 0.6
"""A text is right from this token F1 on (a field, where all its numbers are right too), or from a higher one."""
TEXT_WORDS = 4
"""A field is free text where its middle value has at least so many words, or its values are seldom alike."""
NEARLY_ALL = 0.95
_SIGN = re.compile(f"([{ALONE}])")
_BARE = regex.compile(rf"[\p{{P}}{re.escape(punctuation)}]")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_KEY = re.compile(
    r"[ \t]*(?:(?:#{1,6}|[-*•+]|\d{1,2}[.)])[ \t]+)?[*_]{0,2}([^\W\d_][^\n:：{}\[\]\"]{0,40}?)[*_]{0,2}[ \t]*"
    r"[:：](?!//)[*_]{0,2}(.*)"
)
_ITEM = re.compile(r"[ \t]+\S|[-*•+][ \t]|\d{1,2}[.)][ \t]")
_FENCE = re.compile(r"^```\w*\s*|\s*```$")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*")
_WITHIN = re.compile(r"((?<=\d)[.,:/-](?=\d)|(?<![\w.])-(?=\d)|(?<=\w)[+#]+(?!\w))")
"""Punctuation that tells 1.5 from 15, -5 from 5, and C++ from C."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_UNITS = {"$": "usd", "€": "eur", "euro": "eur", "£": "gbp", "¥": "jpy", "₺": "try", "tl": "try", "₹": "inr", "%": "%"}
_UNIT = "|".join(map(re.escape, (*_UNITS, "usd", "eur", "gbp", "jpy", "try", "inr", "chf", "cny")))
_AMOUNT = re.compile(rf"([-+]?)({_UNIT})?\s*([-+]?)(\d[\d .,'_]*)(?<! )\s*({_UNIT})?")
_MARKS = ((",", "."), (".", ","), (" ", "."), (" ", ","), ("'", "."), ("_", "."))
"""Of thousands, and of decimals."""
MISSING = object()
ITEMS = "items"
"""What the field of an answer is called that is a JSON list."""


@lru_cache(maxsize=4096)
def squad_words(text: str) -> tuple[str, ...]:
    """The words without case, punctuation (but that inside numbers and names such as C++) and articles; in scripts
    without spaces each sign is one."""
    parts = _WITHIN.split(_THOUSANDS.sub("", folded(text)))
    bare = "".join(part if place % 2 else _BARE.sub("", part) for place, part in enumerate(parts))
    return tuple(_SIGN.sub(r" \1 ", _ARTICLE.sub(" ", bare)).split())


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, each as often as it occurs (Rajpurkar et al. 2016,
    arXiv:1606.05250). Both without a word = 1."""
    said, wanted = squad_words(reply), squad_words(reference)
    if not said or not wanted:
        return float(said == wanted)
    return 2 * (Counter(said) & Counter(wanted)).total() / (len(said) + len(wanted))


def is_blank(reply: str, reference: str = "") -> bool:
    """Nothing that anybody could use: empty, ``null``, empty JSON, or punctuation alone. But ``none`` or ``[]`` is an
    answer where the reference is one of these too."""
    if reply.strip() and reference.strip() and is_blank(reference):
        return False
    bare = reply.strip().strip("`\"'").strip()
    return bare.lower() in ("null", "none", "{}", "[]") or not re.search(r"\w", bare)


@lru_cache(maxsize=4096)
def fields_of(text: str) -> Mapping[str, Any]:
    """The fields of an answer: those of a JSON object (also one in a code fence or among words; nested ones as
    ``a.b``) or list (``items``), else its ``Key: value`` lines; {} for neither."""
    read = json_of(text)
    return _line_fields(text) if read is None else read


def json_of(text: str) -> dict[str, Any] | None:
    bare, decoder = _FENCE.sub("", text.strip()), json.JSONDecoder()
    starts = islice((found.start() for found in re.finditer(r"\{", bare)), 20)
    for start in (0, *starts):
        try:
            read, end = decoder.raw_decode(bare, start)
            if isinstance(read, dict) and (read or end == len(bare)):
                return flat(read)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, list) and start == 0 and end == len(bare):
            return {ITEMS: read}
    return None


def flat(read: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in read.items():
        made.update(flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value})
    return made


def _line_fields(text: str) -> dict[str, str]:
    """``Key: value`` lines. A value goes on over lines that are indented or list items, and, where it begins below its
    key, to the next empty line. One that is said twice and differently is both."""
    found: dict[str, str] = {}
    name, below = "", False
    for line in text.strip().splitlines():
        if key := _KEY.fullmatch(line):
            name, value = key.group(1).strip(), key.group(2).strip()
            below = not value
            if value and found.get(name, value) != value:
                value = f"{found[name]}\n{value}"
            found[name] = value or found.get(name, "")
        elif name and line.strip() and (below or _ITEM.match(line)):
            found[name] = f"{found[name]}\n{line.strip()}".strip()
        elif line.strip() or not below or found.get(name):
            name = ""
    return {name: value for name, value in found.items() if value}


def same_value(said: Any, wanted: Any, how: FieldKind, least: float | None = None) -> bool:
    """Whether one field is right. Numbers by value, however they are written; lists item by item in any order; free
    text by token F1 (``least``, 0.6 where it is None) and its numbers; everything else (ids, dates, enums) by its
    letters, without case and outer punctuation."""
    if said is MISSING:
        return False
    if list in (type(said), type(wanted)):
        return type(said) is type(wanted) and sorted(map(_key, said)) == sorted(map(_key, wanted))
    plain = any(value is None or isinstance(value, bool) for value in (said, wanted))
    if how == "text" and not plain:
        wanted, said = str(wanted), str(said)
        return _numbers(said) == _numbers(wanted) and token_f1(said, wanted) >= (least or LEAST_F1)
    by_value = how == "number" or isinstance(wanted, int | float)
    return _key(said) == _key(wanted) or (by_value and not plain and _same_number(said, wanted))


def _key(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return collapsed(folded(text)).strip(" .,;:!\"'*_`")


def _same_number(said: Any, wanted: Any) -> bool:
    (one, some), (other, others) = _amount(str(said)), _amount(str(wanted))
    return bool(some & others) and (one == other or not (one and other))


@lru_cache(maxsize=4096)
def _amount(text: str) -> tuple[str, frozenset[Decimal]]:
    """(currency or %, what a number may mean): 1,234 and 1.234 are two numbers each, by whose sign marks thousands.
    No number: neither. One that begins with 0 as ids do (007) is none."""
    found = _AMOUNT.fullmatch(folded(text).strip())
    if found is None or re.match(r"0\d", found.group(4)) or len(text) > 100:
        return "", frozenset()
    outer, first, inner, digits, last = found.groups()
    read = set()
    for group, mark in _MARKS:
        cut = re.fullmatch(rf"(\d+|\d{{1,3}}(?:[{group}]\d{{2,3}})*[{group}]\d{{3}})(?:[{mark}](\d+))?", digits)
        if cut:
            read.add(Decimal(f"{outer or inner}{cut.group(1).replace(group, '')}.{cut.group(2) or 0}"))
    unit = first or last or ""
    return _UNITS.get(unit, unit), frozenset(read)


def _numbers(text: str) -> list[str]:
    return sorted(_THOUSANDS.sub("", number).replace(",", ".") for number in _NUMBER.findall(text))


def same_words(reply: str, reference: str) -> bool:
    said, wanted = squad_words(reply), squad_words(reference)
    return (said == wanted if said and wanted else key_of(reply) == key_of(reference)) or _same_number(reply, reference)


@lru_cache(maxsize=8)
def common_fields(texts: tuple[str, ...]) -> Mapping[str, FieldKind]:
    """Fields that nearly all references have, with how each is compared; {} where there are none."""
    each = [fields_of(text) for text in texts]
    names = dict.fromkeys(name for one in each for name in one)
    common = [name for name in names if sum(name in one for one in each) >= NEARLY_ALL * len(each)]
    return {name: kind_of([one[name] for one in each if name in one]) for name in common}


@lru_cache(maxsize=8)
def thresholds(texts: tuple[str, ...]) -> Mapping[str, float]:
    """Free-text field -> the token F1 that tells its values apart."""
    return {
        name: threshold_of([str(one[name]) for text in texts if name in (one := fields_of(text))], numbers=True)
        for name, how in common_fields(texts).items()
        if how == "text"
    }


def kind_of(values: Sequence[Any]) -> FieldKind:
    known = [value for value in values if value is not None]
    if known and all(_amount(str(value))[1] and not isinstance(value, bool) for value in known):
        return "number"
    texts = [value for value in known if isinstance(value, str)]
    lengths = sorted(map(length, texts))
    free = bool(texts) and lengths[len(texts) // 2] >= TEXT_WORDS and len(set(map(_key, texts))) > len(texts) / 2
    return "text" if free else "exact"


def length(text: str) -> int:
    """Words; of scripts without spaces, two signs make about one."""
    return len(text.split()) + len(_SIGN.findall(text)) // 2


def threshold_of(texts: Sequence[str], *, numbers: bool = False) -> float:
    """From which token F1 on a reply says the same: at least 0.6, and where answers share much wording, what one pair
    of different ones in twenty reaches. Of up to 40 answers, evenly from all of them: neighbours are often alike.
    numbers: these are compared apart, so that only pairs with the same ones count."""
    some = dict.fromkeys(texts[:: math.ceil(len(texts) / 40) or 1])
    pairs = ((a, b) for a, b in combinations(some, 2) if not numbers or _numbers(a) == _numbers(b))
    others = sorted(token_f1(a, b) for a, b in pairs)
    alike = others[math.ceil(0.95 * len(others)) - 1] if others else 0.0
    return min(0.95, max(LEAST_F1, math.ceil(20 * alike + 1e-9) / 20))
