"""Rows compared: same and nearly the same ones, and three parts to train on, to choose by and to judge by."""

from __future__ import annotations

import hashlib
import marshal
import math
import random
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import numpy as np

from playground.data.example import TOOLS, Example, Judged, Passage, Preference, Row, RowWarning, texts_of
from playground.errors import InputError

R = TypeVar("R", bound=Row)

VALIDATION, TEST, TEST_AT_MOST = 0.1, 0.15, 0.3
"""Shares that are held back unless a person says otherwise; for the verdict as many rows as it needs, between two."""
VERDICT_ROWS = 68
"""What a verdict needs: ``evaluation.decision.planned_rows`` of its default bar and margin for one rung, which this
layer cannot ask; a test holds the two together."""
MOST_VALIDATION = 32
"""Rows at most: each costs time at every measurement."""
FEWEST_ROWS, FEWEST_FOR_TEST = 10, 20
"""Below these many rows all are trained on, or there is no test part."""


class SplitBy(NamedTuple):
    """Columns of a file that its parts follow, "" = none. group: rows of one value never stand in two parts. time: the
    newest rows are the test part."""

    group: str = ""
    time: str = ""


BY_CHANCE = SplitBy()


@dataclass(frozen=True)
class Columns:
    """What these columns hold: row -> its group, row -> its time in seconds; empty cells have no place here."""

    by: SplitBy = BY_CHANCE
    groups: Mapping[int, str] = field(default_factory=dict)
    times: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part, in the file's order."""

    train: tuple[int, ...]  # learned from, and few-shot examples come from here
    validation: tuple[int, ...]  # early stopping, samples, races, choosing prompts
    test: tuple[int, ...]  # seen by nothing but the verdict
    seed: int
    by: SplitBy = BY_CHANCE

    def without(self, rows: Collection[int]) -> Parts:
        """The parts that remain when these rows are left out."""
        kept = [tuple(row for row in one if row not in rows) for one in (self.train, self.validation, self.test)]
        return Parts(kept[0], kept[1], kept[2], self.seed, self.by)

    def as_record(self) -> dict[str, Any]:
        """As run.json holds it: the two held-back parts by row, the rest by its count; the columns it was split by."""
        held_back = {"validation": list(self.validation), "test": list(self.test)}
        by = {name: column for name, column in self.by._asdict().items() if column}
        return {"seed": self.seed, "train": len(self.train), **held_back, **by}


def share_for_test(rows: int) -> float:
    """The share of so many rows that is held back for the verdict unless a person says otherwise, in whole per cent."""
    return min(TEST_AT_MOST, max(TEST, math.ceil(100 * VERDICT_ROWS / max(1, rows)) / 100))


def split(
    rows: Sequence[Row],
    seed: int,
    validation: float = VALIDATION,
    test: float | None = None,
    columns: Columns | None = None,
    own: Mapping[int, str] | None = None,
) -> Parts:
    """The same rows and seed give the same parts; rows with the same prompt (or raw text) stay together.

    validation, test: shares wanted, each from 0, together below 1; raises InputError for others. test None =
    ``share_for_test``. columns: what else keeps rows together, or tells which are the newest. 1. Few rows: all are
    trained on. 2. Test is drawn before validation. 3. A part stays empty where one prompt makes up most rows. 4. With
    times the newest rows are the test part; rows of one time by chance. 5. own: rows that the file itself has for
    ``validation`` or ``test``; each of the two that it has is not drawn, and takes other rows of the same prompt along.
    """
    columns, own = columns or Columns(), own or {}
    test = share_for_test(len(rows)) if test is None else test
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise InputError(f"The {name} share is {share}; it takes a number from 0 (none) to below 1, such as 0.1.")
    if validation + test >= 1:
        what = f"Validation ({validation}) and test ({test}) leave nothing to train on"
        raise InputError(f"{what}. Together they stay below 1.")
    order, drawn = _together(rows, columns.groups), dict[int, str]()
    for group in order if own else ():  # 5
        kinds = {own.get(rows[place].row) for place in group}
        if kind := next((kind for kind in ("test", "validation") if kind in kinds), ""):
            drawn |= dict.fromkeys(group, kind)
    has = {*drawn.values()}
    order = [group for group in order if group[0] not in drawn]
    random.Random(seed).shuffle(order)
    for name, share, most, fewest in (  # 1, 2
        ("test", test, len(rows), FEWEST_FOR_TEST),
        ("validation", validation, MOST_VALIDATION, FEWEST_ROWS),
    ):
        if len(rows) >= fewest and share and name not in has:
            wanted = min(most, max(1, round(len(rows) * share)))
            newest = columns.by.time and name == "test"
            for group in _newest(order, wanted, rows, columns.times) if newest else _draw(order, wanted):
                drawn |= dict.fromkeys(group, name)
            order = [group for group in order if group[0] not in drawn]
    named: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for place, row in enumerate(rows):
        named[drawn.get(place, "train")].append(row.row)
    return Parts(tuple(named["train"]), tuple(named["validation"]), tuple(named["test"]), seed, columns.by)


def _together(rows: Sequence[Row], groups: Mapping[int, str]) -> list[list[int]]:
    """Places of rows that stay in one part: those with one prompt or of one group, and what these bring with them."""
    first: dict[object, int] = {}
    found = list(range(len(rows)))  # place -> an earlier one of the same part, itself = the first of them

    def root(place: int) -> int:
        while found[place] != place:
            found[place] = place = found[found[place]]
        return place

    for place, row in enumerate(rows):
        group = groups.get(row.row)
        for key in (_group(row), *([("group", group)] if group else ())):
            one, other = sorted((root(place), root(first.setdefault(key, place))))
            found[other] = one
    parts: dict[int, list[int]] = defaultdict(list)
    for place in range(len(rows)):
        parts[root(place)].append(place)
    return list(parts.values())


def _newest(order: list[list[int]], wanted: int, rows: Sequence[Row], times: Mapping[int, float]) -> list[list[int]]:
    """The groups with the newest rows, until these are as many as are wanted; at least one group is left."""
    ordered = sorted(order, key=lambda group: max(times.get(rows[place].row, -math.inf) for place in group))
    found: list[list[int]] = []
    while len(ordered) > 1 and sum(map(len, found)) < wanted:
        found.append(ordered.pop())
    return found


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


def columns_of(records: Iterable[tuple[int, object]], by: SplitBy, known: Sequence[str]) -> Columns:
    """What these columns hold. records: number and record of every row. known: the file's columns. Raises InputError
    for a column that is not there, and for what is no time."""
    for column in filter(None, by):
        if column not in known:
            raise InputError(f"There is no column {column!r} to split by. There are: {', '.join(known)}.")
    groups: dict[int, str] = {}
    times: dict[int, float] = {}
    for number, record in records:
        cells = record if isinstance(record, Mapping) else {}
        if by.group and (cell := str(cells.get(by.group) or "").strip()):
            groups[number] = cell
        if by.time and cells.get(by.time) not in (None, ""):
            times[number] = _seconds(cells[by.time], number, by.time)
    return Columns(by, groups, times)


def _seconds(cell: object, row: int, column: str) -> float:
    """A time as seconds since 1970: a date, ISO 8601, or a number, which is taken as it is. Raises InputError."""
    try:
        if isinstance(cell, date) and not isinstance(cell, datetime):
            cell = datetime.combine(cell, time())
        if not isinstance(cell, datetime):
            text = str(cell).strip()
            if re.fullmatch(r"-?\d+(\.\d+)?", text):
                return float(text)
            cell = datetime.fromisoformat(text)
        return (cell if cell.tzinfo else cell.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        why = f"Row {row} has {str(cell)[:40]!r} in the column {column}, which is no time."
        raise InputError(f"{why} Write times as 2026-01-31 or 2026-01-31T12:30, or as numbers.") from None


def part(rows: Sequence[R], numbers: Sequence[int]) -> list[R]:
    """The rows with these numbers, in their own order."""
    wanted = set(numbers)
    return [row for row in rows if row.row in wanted]


def row_hash(row: Row) -> str:
    """16 hex digits that stand for a row's words (case and spaces aside), to find it again in another file."""
    return _hash(texts_of(row, system=False))


def prompt_hash(row: Row) -> str:
    """The same of a row's prompt alone, "" for raw text."""
    return _hash(asked) if (asked := _asked(row)) else ""


def sketch(row: Row) -> str:
    """64 hex digits by which nearly the same prompt is found again, "" for one of too few words.

    MinHash of the prompt's words (Broder 1997): 4 bits of each of 64 smallest hashes (Li and König 2010). Its numbers
    stand in every hash, so that prompts with other numbers are never nearly the same.
    """
    words = _words(" ".join(_asked(row)))
    if len(words) < _MIN_WORDS:
        return ""
    seen: Counter[str] = Counter()
    hashes = []
    for word in words:
        seen[word] += 1
        hashes.append(crc32(f"{word} {seen[word]}".encode("utf-8", "replace")))
    numbers = crc32(" ".join(sorted(filter(_has_digit, words))).encode("utf-8", "replace"))
    mixed = (np.array(hashes, np.uint64)[:, None] ^ np.uint64(numbers << 32)) * _ODD[0]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _ODD[1]
    smallest = (mixed ^ (mixed >> np.uint64(32))).min(axis=0)
    return "".join(f"{one:x}" for one in ((smallest * _ODD[2]) >> np.uint64(60)).tolist())


_ODD = np.random.default_rng(11).integers(1, 2**63, (3, 64), np.uint64) * 2 + 1
_NEAR = 46
"""Digits of 64 that sketches of nearly the same prompt share: 95 in 100 pairs of similarity 0.78 do (one word of eight
is another one), 2 in 1,000 of 0.5; prompts of one template, in the shipped sets, reach 0.56."""
MOST_HASHED = 100_000
"""Trained rows that a record tells of at most."""
OVERLAPS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "rows": ("row_hashes", row_hash),
    "prompts": ("prompt_hashes", prompt_hash),
    "near": ("sketches", sketch),
}
"""How a row may have been trained on: itself, its prompt, nearly its prompt -> the record's list, and what is in it."""


def hashes_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Rows as the record of an adapter that was trained on them has them: digits, no text."""
    rows = rows[:MOST_HASHED]
    return {name: [made for made in dict.fromkeys(map(make, rows)) if made] for name, make in OVERLAPS.values()}


def overlaps(rows: Sequence[Row], record: Mapping[str, Any]) -> dict[str, int | None]:
    """How many rows an adapter was trained on by its record, each counted by the first of ``OVERLAPS`` that holds;
    None = the record does not tell."""
    return _compared(rows, record)[1]


def unseen(rows: Sequence[R], record: Mapping[str, Any]) -> list[R]:
    """The rows that ``overlaps`` does not count."""
    return _compared(rows, record)[0]


def _compared(rows: Sequence[R], record: Mapping[str, Any]) -> tuple[list[R], dict[str, int | None]]:
    left, found = list(rows), dict[str, int | None]()
    for name, (listed, make) in OVERLAPS.items():
        told = record.get(listed)
        found[name] = None
        if isinstance(told, list) and (told or name != "rows"):
            there, made = set(told), [make(row) for row in left]
            again = _near_ones(made, told) if make is sketch else there.intersection(made)
            left = [row for row, one in zip(left, made, strict=True) if one not in again]
            found[name] = len(made) - len(left)
    return left, found


def _near_ones(made: Sequence[str], told: Sequence[str]) -> set[str]:
    """Those sketches that are nearly the same as one of an adapter's."""
    known = np.array([list(bytes.fromhex(one)) for one in told if len(one) == 64], np.uint8).reshape(-1, 32)
    found = set()
    for one in {*made} - {""}:
        differ = known ^ np.frombuffer(bytes.fromhex(one), np.uint8)
        shared = (differ >> 4 == 0).sum(axis=1) + (differ & 15 == 0).sum(axis=1)
        if (shared >= _NEAR).any():
            found.add(one)
    return found


def _asked(row: Row) -> list[str]:
    return [turn.content for turn in row.prompt if turn.role not in ("system", TOOLS)]


def _hash(texts: Sequence[str]) -> str:
    words = "\x1f".join(" ".join(text.split()).casefold() for text in texts)
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
_ODDS = np.random.default_rng(7).integers(1, 2**63, _RUN + _BANDS * (_DEPTH + 1), np.uint64) * 2 + 1
_OF_RUN, _OF_HASH, _OF_BAND = np.split(_ODDS, [_RUN, _RUN + _BANDS * _DEPTH])
_MIN_WORDS = 8  # a shorter text with one word changed is another text
_MAX_WORDS = 2_000  # of a text that are compared
_SHARE, _MAX_CHANGED = 0.1, 6  # words that may differ: a tenth of the longer text, and six at most
_MAX_COMPARED = 20  # earlier texts of its band that a text is compared with


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(earlier, later) places of texts that differ in a few words, none a number, in case or in punctuation."""
    keys, sizes = np.zeros((len(texts), _BANDS), np.uint64), dict[int, int]()
    for place, text in enumerate(texts):
        words = _words(text)
        if len(words) >= _MIN_WORDS:
            keys[place], sizes[place] = _band_keys(words), len(words)
    found: dict[int, int] = {}
    places = list(sizes)
    for band in keys[places].T:
        _, group, count = np.unique(band, return_inverse=True, return_counts=True)
        alike: dict[int, list[int]] = defaultdict(list)
        for at in np.flatnonzero(count[group] > 1).tolist():
            alike[int(group[at])].append(places[at])
        words_of: dict[int, Counter[str]] = {}
        for members in alike.values():
            _compare(members, texts, sizes, words_of, found)
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
    numbers = any(map(_has_digit, (*removed, *added)))
    return max(removed.total(), added.total()) <= _allowed(max(one.total(), other.total())) and not numbers


def _has_digit(word: str) -> bool:
    return any(char.isdigit() for char in word)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())[:_MAX_WORDS]


def _band_keys(words: Sequence[str]) -> np.ndarray:
    """The smallest hash of a text's runs of words by each function, those of a band in one."""
    hashes = np.array([crc32(word.encode("utf-8", "replace")) for word in words], np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(hashes, _RUN) @ _OF_RUN
    mixed = (runs ^ (runs >> np.uint64(29))) * _OF_HASH.reshape(_BANDS, _DEPTH, 1)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _OF_BAND[:, None, None]
    smallest = mixed.min(axis=2)  # [band, function]
    keys: np.ndarray = ((smallest ^ (smallest >> np.uint64(31))) * _OF_HASH[:_DEPTH]).sum(axis=1)
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


def _digest(parts: list[str]) -> bytes:
    return hashlib.blake2b(marshal.dumps(parts, 0), digest_size=16).digest()
