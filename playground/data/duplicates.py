"""Rows that repeat or contradict an earlier one (by digest), and texts that are nearly the same.

Near duplicates by MinHash over runs of three words (Broder, 1997), then the words themselves compared: 100,000 texts of
a hundred words take some seconds, and a few hundred bytes each.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np

from playground.data.example import Example, Judged, Passage, Preference, Row, RowWarning

_WORD = re.compile(r"\w+")
_RUN = 3  # words
_BANDS, _DEPTH = 6, 4
"""Texts are candidates if all hashes of one band are the same: 94 in 100 pairs of similarity 0.8 are, 2 in 100 of
similarity 0.25."""
_MIN_WORDS = 8  # a shorter text with one word changed is another text
_MAX_WORDS = 2_000  # of a text that are compared
_BATCH_WORDS = 500_000  # hashed at once: about 40 MB
_SHARE, _MAX_CHANGED = 0.1, 6  # words that may differ: a tenth of the longer text, and six at most
_MAX_COMPARED = 20  # earlier texts of its band that a text is compared with


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(earlier, later) places of texts that differ in a few words, none a number, in case or in punctuation."""
    keys, places, sizes = _band_keys(texts)
    found: dict[int, int] = {}
    words: dict[int, Counter[str]] = {}
    for band in range(_BANDS if len(places) else 0):
        order = np.argsort(keys[:, band], kind="stable")
        edges = np.flatnonzero(np.diff(keys[order, band])) + 1
        starts, ends = np.append(0, edges), np.append(edges, len(order))
        several = ends - starts > 1
        for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
            _compare(places[order[start:end]].tolist(), texts, sizes, words, found)
        words.clear()
    return sorted(((earlier, later) for later, earlier in found.items()), key=lambda pair: pair[1])


def _compare(
    members: list[int],
    texts: Sequence[str],
    sizes: dict[int, int],
    words: dict[int, Counter[str]],
    found: dict[int, int],
) -> None:
    firsts: list[int] = []  # those that are not nearly the same as an earlier one
    for place in members:
        if place in found:
            continue
        size = sizes[place]
        like = [first for first in firsts if abs(sizes[first] - size) <= _allowed(max(sizes[first], size))]
        if any(texts[first] == texts[place] for first in like):
            continue
        for each in (place, *like) if like else ():
            if each not in words:
                words[each] = Counter(_words(texts[each]))
        near = next((first for first in like if _is_near(words[first], words[place])), None)
        if near is not None:
            found[place] = near
        elif len(firsts) < _MAX_COMPARED:
            firsts.append(place)


def _allowed(size: int) -> int:
    """How many of a text's words may differ."""
    return min(_MAX_CHANGED, max(1, int(size * _SHARE)))


def _is_near(one: Counter[str], other: Counter[str]) -> bool:
    removed, added = one - other, other - one
    numbers = any(char.isdigit() for word in (*removed, *added) for char in word)
    return max(removed.total(), added.total()) <= _allowed(max(one.total(), other.total())) and not numbers


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())[:_MAX_WORDS]


def _band_keys(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """(band keys, one row a text; the places of these texts; place -> words). Texts of too few words are left out."""
    keys: list[np.ndarray] = []
    places: list[int] = []
    sizes: dict[int, int] = {}
    known: dict[str, int] = {}
    batch: list[int] = []
    starts: list[int] = []
    for place, text in enumerate(texts):
        words = _words(text)
        if len(words) >= _MIN_WORDS:
            places.append(place)
            sizes[place] = len(words)
            starts.append(len(batch))
            batch += [known.get(word) or _word_hash(known, word) for word in words]
        if len(batch) >= _BATCH_WORDS:
            keys.append(_hashed(batch, starts))
            batch, starts = [], []
    if batch:
        keys.append(_hashed(batch, starts))
    return np.concatenate(keys) if keys else np.zeros((0, _BANDS)), np.array(places, np.int64), sizes


def _word_hash(known: dict[str, int], word: str) -> int:
    value = crc32(word.encode("utf-8", "replace"))
    if len(known) < 500_000:
        known[word] = value
    return value


def _hashed(batch: list[int], starts: list[int]) -> np.ndarray:
    """The words' hashes of many texts, one after the other -> for each text the smallest of each function, in bands."""
    words = np.array(batch, np.uint64)
    odd = np.random.default_rng(7).integers(1, 2**63, _RUN + _BANDS * (_DEPTH + 1), np.uint64) * 2 + 1
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
            mixed = runs * odd[_RUN + band * _DEPTH + depth]
            mixed ^= mixed >> np.uint64(32)
            mixed *= odd[_RUN + _BANDS * _DEPTH + band]
            smallest = np.minimum.reduceat(mixed, np.array(starts))
            keys[:, band] = keys[:, band] * np.uint64(0x9E3779B97F4A7C15) + (smallest ^ (smallest >> np.uint64(31)))
    return keys


_CONFLICTS: dict[type, tuple[str, str]] = {
    Example: ("prompt", "another answer"),
    Judged: ("prompt and answer", "the opposite label"),
    Preference: ("prompt and answers", "the opposite choice"),
}


class Repeats:
    """Compares rows by two digests of 16 bytes each: of the whole row, and of what it answers."""

    def __init__(self) -> None:
        self._whole, self._prompts = bytearray(), bytearray()
        self._rows = array("q")
        self._kind: type = Passage

    def add(self, row: Row) -> None:
        """The rows of one file, or of several that train the same, in their order."""
        prompt = [part for turn in row.prompt for part in (turn.role, turn.content)]
        answers = row.answers
        if isinstance(row, Passage):
            whole, asked = [row.text], []
        elif isinstance(row, Judged):
            whole, asked = [*prompt, *answers, str(row.good)], [*prompt, *answers]
        else:
            whole, asked = [*prompt, *answers], [*prompt, *(sorted(answers) if isinstance(row, Preference) else ())]
        self._whole += _digest(whole)
        self._prompts += _digest(asked)
        self._rows.append(row.row)
        self._kind = type(row)

    def warnings(self) -> Iterator[RowWarning]:
        """``duplicate``: the same as an earlier row; ``conflict``: an earlier row's prompt, answered otherwise."""
        same, other = _CONFLICTS.get(self._kind, ("", ""))
        earlier = _first_places(self._whole)
        for place, first in earlier.items():
            yield RowWarning(self._rows[place], f"the same as row {self._rows[first]}", "duplicate")
        for place, first in _first_places(self._prompts).items() if same else ():
            if place not in earlier:
                yield RowWarning(self._rows[place], f"same {same} as row {self._rows[first]}, {other}", "conflict")


def _first_places(digests: bytearray) -> dict[int, int]:
    """The place of each digest that occurred before -> the place where it occurred first."""
    _, first, inverse = np.unique(np.frombuffer(digests, "S16"), return_index=True, return_inverse=True)
    firsts = first[inverse]
    later = np.flatnonzero(firsts != np.arange(len(firsts)))
    return dict(zip(later.tolist(), firsts[later].tolist(), strict=True))


def _digest(parts: Sequence[str]) -> bytes:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
