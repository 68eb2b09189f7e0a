"""Examples -> a part to train on and a part to measure the loss on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from playground.data.example import Example
from playground.errors import InputError

MOST = 32
"""Rows for validation at most: a loss on these is steady enough, and each costs time at every measurement."""
FEWEST_ROWS = 10
"""Below this many rows all of them are trained on."""


def split(examples: Sequence[Example], seed: int, validation: float = 0.1) -> tuple[list[Example], list[Example]]:
    """(train, validation), each in the file's order; the same seed gives the same split.

    Rows with the same prompt (case and spaces aside) stay together. validation: the share wanted, from 0 (none) to below 1.
    There is no validation part when there are few rows, or one prompt makes up most of them. Raises InputError for another share.
    """
    if not 0 <= validation < 1:
        raise InputError(f"The validation share is {validation}; it takes a number from 0 (none) to below 1, such as 0.1.")
    if validation == 0 or len(examples) < FEWEST_ROWS:
        return list(examples), []
    wanted = min(MOST, max(1, round(len(examples) * validation)))
    groups: dict[object, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        groups[tuple((turn.role, " ".join(turn.content.split()).casefold()) for turn in example.prompt)].append(place)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    held: set[int] = set()
    for group in order:
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held:  # every prompt has more rows than wanted: take the smallest, if enough stays to train on
        smallest = min(order, key=len)
        held.update(smallest if len(smallest) <= min(MOST, len(examples) // 2) else ())
    train = [example for place, example in enumerate(examples) if place not in held]
    return train, [example for place, example in enumerate(examples) if place in held]
