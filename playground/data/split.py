"""Rows compared: same and nearly the same ones, and three parts to train on, to choose by and to judge by."""

from __future__ import annotations

import hashlib
import random
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from playground.data.example import Example, Judged, Passage, Preference, Row, RowWarning, texts_of
from playground.errors import InputError

R = TypeVar("R", bound=Row)

VALIDATION, TEST = 0.1, 0.15
"""Shares that are held back unless a person says otherwise."""
MOST_VALIDATION, MOST_TEST = 32, 100
"""Rows at most: each costs time at every measurement, or is answered by every side; 100 are about ten points."""
FEWEST_ROWS, FEWEST_FOR_TEST = 10, 20
"""Below these many rows all are trained on, or there is no test part."""


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part, in the file's order."""

    train: tuple[int, ...]  # learned from, and few-shot examples come from here
    validation: tuple[int, ...]  # early stopping, samples, races, choosing prompts
    test: tuple[int, ...]  # seen by nothing but the verdict
    seed: int

    def as_record(self) -> dict[str, Any]:
        """As run.json holds it: the two held-back parts by row, the rest by its count."""
        held_back = {"validation": list(self.validation), "test": list(self.test)}
        return {"seed": self.seed, "train": len(self.train), **held_back}


def split(rows: Sequence[Row], seed: int, validation: float = VALIDATION, test: float = TEST) -> Parts:
    """The same rows and seed give the same parts; rows with the same prompt (or raw text) stay together.

    validation, test: shares wanted, each from 0, together below 1; raises InputError for others. 1. Few rows: all
    are trained on. 2. Test is drawn before validation. 3. A part stays empty where one prompt makes up most rows.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise InputError(f"The {name} share is {share}; it takes a number from 0 (none) to below 1, such as 0.1.")
    if validation + test >= 1:
        what = f"Validation ({validation}) and test ({test}) leave nothing to train on"
        raise InputError(f"{what}. Together they stay below 1.")
    groups: dict[object, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[_group(row)].append(place)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    drawn: dict[int, str] = {}
    for name, share, most, fewest in (  # 1, 2
        ("test", test, MOST_TEST, FEWEST_FOR_TEST),
        ("validation", validation, MOST_VALIDATION, FEWEST_ROWS),
    ):
        if len(rows) >= fewest and share:
            for group in _draw(order, min(most, max(1, round(len(rows) * share)))):
                drawn |= dict.fromkeys(group, name)
            order = [group for group in order if group[0] not in drawn]
    named: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for place, row in enumerate(rows):
        named[drawn.get(place, "train")].append(row.row)
    return Parts(tuple(named["train"]), tuple(named["validation"]), tuple(named["test"]), seed)


def _draw(order: list[list[int]], wanted: int) -> list[list[int]]:
    """The first groups that together have at most as many rows as are wanted."""
    found: list[list[int]] = []
    count = 0
    for group in order:
        if count + len(group) <= wanted:
            found.append(group)
            count += len(group)
    if found or not order:
        return found
    smallest = min(order, key=len)  # 3: every prompt has more rows than wanted: the smallest, if enough are left
    left = sum(map(len, order)) - len(smallest)
    return [smallest] if len(smallest) <= min(MOST_VALIDATION, left) else []


def part(rows: Sequence[R], numbers: Sequence[int]) -> list[R]:
    """The rows with these numbers, in their own order."""
    wanted = set(numbers)
    return [row for row in rows if row.row in wanted]


def row_hash(row: Row) -> str:
    """16 hex digits that stand for a row's words (case and spaces aside), to find it again in another file."""
    words = "\x1f".join(" ".join(text.split()).casefold() for text in texts_of(row, system=False))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def prompt_hash(row: Row) -> str:
    """The same of a row's prompt alone."""
    words = "\x1f".join(" ".join(text.split()).casefold() for text in list(texts_of(row, system=False))[:-1])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _group(row: Row) -> object:
    if isinstance(row, Passage):
        return _plain(row.text)
    return tuple((turn.role, _plain(turn.content)) for turn in row.prompt)


def _plain(text: str) -> str:
    letters = "".join(char if char.isalnum() else " " for char in text.casefold())
    return " ".join(letters.split()) or " ".join(text.split())


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
