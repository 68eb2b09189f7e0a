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


def _group(row: Row) -> object:
    if isinstance(row, Passage):
        return _plain(row.text)
    return tuple((turn.role, _plain(turn.content)) for turn in row.prompt)


def _plain(text: str) -> str:
    letters = "".join(char if char.isalnum() else " " for char in text.casefold())
    return " ".join(letters.split()) or " ".join(text.split())
