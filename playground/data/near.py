"""Which texts are nearly the same: MinHash over runs of three words (Broder, 1997), then the words themselves compared.

100,000 texts of a hundred words take some seconds, and a few hundred bytes each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

_WORD = re.compile(r"\w+")
_RUN = 3  # words
_BANDS, _DEPTH = 6, 4
"""Texts meet if all hashes of one band are the same: 94 in 100 pairs of likeness 0.8 meet, 2 in 100 of likeness 0.25."""
_FEWEST_WORDS = 8  # a shorter text with one word changed is another text
_MOST_WORDS = 2_000  # of a text that are looked at
_AT_ONCE = 500_000  # words hashed at once: about 40 MB while it lasts
_SHARE, _MOST_CHANGED = 0.1, 6  # words that may differ: a tenth of the longer text, and six at most
_TRIED = 20  # earlier texts of its band that a text is compared with


def near_pairs(texts: Sequence[str], cancelled: Callable[[], bool] | None = None) -> list[tuple[int, int]]:
    """(earlier, later) places of texts that differ in a few words, in case or in punctuation, each later one once.

    The very same text is not meant, and texts that differ in a number differ. Same texts in the same order give the same pairs.
    """
    keys, places, sizes = _band_keys(texts, cancelled)
    found: dict[int, int] = {}
    words: dict[int, Counter[str]] = {}
    for band in range(_BANDS if len(places) else 0):
        order = np.argsort(keys[:, band], kind="stable")
        ordered = keys[order, band]
        edges = np.flatnonzero(np.diff(ordered)) + 1
        starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(ordered)]])
        for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
            if cancelled is not None and cancelled():
                return []
            _compare(places[order[start:end]].tolist(), texts, sizes, words, found)
        words.clear()
    return sorted(((earlier, later) for later, earlier in found.items()), key=lambda pair: pair[1])


def _compare(
    members: list[int], texts: Sequence[str], sizes: dict[int, int], words: dict[int, Counter[str]], found: dict[int, int]
) -> None:
    firsts: list[int] = []  # those that are not nearly the same as an earlier one
    for place in members:
        if place in found:
            continue
        like = [first for first in firsts if abs(sizes[first] - sizes[place]) <= _allowed(max(sizes[first], sizes[place]))]
        if any(texts[first] == texts[place] for first in like):
            continue
        for each in (place, *like) if like else ():
            if each not in words:
                words[each] = Counter(_words(texts[each]))
        near = next((first for first in like if _nearly(words[first], words[place])), None)
        if near is not None:
            found[place] = near
        elif len(firsts) < _TRIED:
            firsts.append(place)


def _allowed(size: int) -> int:
    """How many of a text's words may differ."""
    return min(_MOST_CHANGED, max(1, int(size * _SHARE)))


def _nearly(one: Counter[str], other: Counter[str]) -> bool:
    gone, come = one - other, other - one
    numbers = any(char.isdigit() for word in (*gone, *come) for char in word)
    return max(gone.total(), come.total()) <= _allowed(max(one.total(), other.total())) and not numbers


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())[:_MOST_WORDS]


def _band_keys(texts: Sequence[str], cancelled: Callable[[], bool] | None) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """(band keys, one row a text; the places of these texts; place -> words). Texts of too few words are left out."""
    keys: list[np.ndarray] = []
    places: list[int] = []
    sizes: dict[int, int] = {}
    known: dict[str, int] = {}
    batch: list[int] = []
    starts: list[int] = []
    for place, text in enumerate(texts):
        words = _words(text)
        if len(words) >= _FEWEST_WORDS:
            places.append(place)
            sizes[place] = len(words)
            starts.append(len(batch))
            batch += [known[word] if word in known else _remember(known, word) for word in words]
        if len(batch) >= _AT_ONCE:
            keys.append(_hashed(batch, starts))
            batch, starts = [], []
            if cancelled is not None and cancelled():
                break
    if batch:
        keys.append(_hashed(batch, starts))
    held = np.concatenate(keys) if keys else np.zeros((0, _BANDS), np.uint64)
    return held, np.array(places[: len(held)], np.int64), sizes


def _remember(known: dict[str, int], word: str) -> int:
    value = crc32(word.encode("utf-8", "replace"))
    if len(known) < 500_000:
        known[word] = value
    return value


def _hashed(batch: list[int], starts: list[int]) -> np.ndarray:
    """The words' hashes of many texts, one after the other -> the smallest of each hash function for each text, in bands."""
    words = np.array(batch, np.uint64)
    odd = np.random.default_rng(7).integers(1, 2**63, 3 + _BANDS * (_DEPTH + 1), np.uint64) * np.uint64(2) + np.uint64(1)
    runs = np.zeros(len(words), np.uint64)
    for step in range(_RUN):  # the last runs of a text reach into the next one: they are taken out below
        runs[: len(words) - step] += words[step:] * odd[step]
    last = np.array([*starts[1:], len(words)]) - (_RUN - 1)
    for step in range(_RUN - 1):
        runs[last + step] = runs[last - 1]
    runs ^= runs >> np.uint64(29)
    keys = np.zeros((len(starts), _BANDS), np.uint64)
    for band in range(_BANDS):
        for depth in range(_DEPTH):
            mixed = runs * odd[3 + band * _DEPTH + depth]
            mixed ^= mixed >> np.uint64(32)
            mixed *= odd[3 + _BANDS * _DEPTH + band]
            smallest = np.minimum.reduceat(mixed, np.array(starts))
            keys[:, band] = keys[:, band] * np.uint64(0x9E3779B97F4A7C15) + (smallest ^ (smallest >> np.uint64(31)))
    return keys
