"""Rows -> three parts to train on, to choose by (validation) and to judge by (test); seeded, no prompt in two."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from playground.data.example import Passage, Row, texts_of
from playground.errors import InputError

R = TypeVar("R", bound=Row)

VALIDATION, TEST = 0.1, 0.15
"""Shares that are held back unless a person says otherwise."""
MOST_VALIDATION = 32
"""Rows for validation at most: a loss on these is steady enough, and each costs time at every measurement."""
MOST_TEST = 100
"""Rows for the verdict at most: an interval of about ten points either way, and each is answered by every side."""
FEWEST_ROWS = 10
"""Below this many rows all of them are trained on."""
FEWEST_FOR_TEST = 20
"""Below this many rows there is no test part: a share of fewer says nothing."""


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part, in the file's order.

    train: learned from, and few-shot examples come from here. validation: early stopping, samples, races, choosing
    prompts.
    test: seen by nothing but the verdict.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    seed: int

    def as_record(self) -> dict[str, Any]:
        """As run.json holds it: the two held-back parts by row, the rest by its count."""
        return {
            "seed": self.seed,
            "train": len(self.train),
            "validation": list(self.validation),
            "test": list(self.test),
        }


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
    drawn = _Draw(rows, seed)
    if len(rows) >= FEWEST_FOR_TEST and test:  # 1, 2
        drawn.draw("test", min(MOST_TEST, max(1, round(len(rows) * test))))
    if len(rows) >= FEWEST_ROWS and validation:
        drawn.draw("validation", min(MOST_VALIDATION, max(1, round(len(rows) * validation))))
    return drawn.parts()


def part(rows: Sequence[R], numbers: Sequence[int]) -> list[R]:
    """The rows with these numbers, in their own order."""
    wanted = set(numbers)
    return [row for row in rows if row.row in wanted]


def row_hash(row: Row) -> str:
    """16 hex digits that stand for a row's words (case and spaces aside), to find it again in another file."""
    words = "\x1f".join(" ".join(text.split()).casefold() for text in texts_of(row, system=False))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


class _Draw:
    """Groups of rows with one prompt in a seeded order, and the parts drawn from them."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self._rows, self._seed = rows, seed
        groups: dict[object, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[_group(row)].append(place)
        self._order = list(groups.values())
        random.Random(seed).shuffle(self._order)
        self._drawn: dict[int, str] = {}

    def draw(self, name: str, wanted: int) -> None:
        found: list[list[int]] = []
        count = 0
        for group in self._order:
            if count + len(group) <= wanted:
                found.append(group)
                count += len(group)
        if not found and self._order:  # 3: every prompt has more rows than wanted: the smallest, if enough are left
            smallest = min(self._order, key=len)
            left = sum(map(len, self._order)) - len(smallest)
            found = [smallest] if len(smallest) <= min(MOST_VALIDATION, left) else []
        for group in found:
            self._drawn.update(dict.fromkeys(group, name))
        self._order = [group for group in self._order if group[0] not in self._drawn]

    def parts(self) -> Parts:
        named: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
        for place, row in enumerate(self._rows):
            named[self._drawn.get(place, "train")].append(row.row)
        return Parts(tuple(named["train"]), tuple(named["validation"]), tuple(named["test"]), self._seed)


def _group(row: Row) -> object:
    if isinstance(row, Passage):
        return _plain(row.text)
    return tuple((turn.role, _plain(turn.content)) for turn in row.prompt)


def _plain(text: str) -> str:
    letters = "".join(char if char.isalnum() else " " for char in text.casefold())
    return " ".join(letters.split()) or " ".join(text.split())
