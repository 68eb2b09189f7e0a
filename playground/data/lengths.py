"""How long the rows are as the base sees them: which are cut and where, what padding costs, which cannot be learned."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from playground.data.example import BadRow, RowWarning

_SHUFFLES = 10
_ENOUGH_ROWS = 5_000  # from here on one random order tells as much as ten


@dataclass(frozen=True, slots=True)
class Cut:
    """A row that is cut: the first ``tokens`` of its ``prompt`` tokens do not fit beside its ``answer`` tokens."""

    row: int
    tokens: int
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Padding:
    """The share of a batch's positions that are padding, from 0 to 1: rows in random order, and rows of like length together."""

    batch_size: int
    random: float
    by_length: float


def _counts() -> array[int]:
    return array("L")


@dataclass(frozen=True)
class TokenReport:
    """Tokens per usable row, prompt and answer together, before anything is cut (nearest-rank percentiles).

    truncated: rows whose prompt is cut. warnings: those rows. bad: rows whose answer is too long, or teaches nothing.
    limit: the most tokens a row may have. packed: raw text, which is never cut or padded but read in pieces of ``limit`` tokens.
    rows, prompt_lengths, answer_lengths: the row numbers and tokens of every row that can be learned, in the file's order; of a
    preference its longer side; of raw text the answer is all of it.
    """

    min: int
    median: int
    p95: int
    max: int
    truncated: int = 0
    warnings: tuple[RowWarning, ...] = ()
    bad: tuple[BadRow, ...] = ()
    limit: int = 0
    packed: bool = False
    rows: array[int] = field(default_factory=_counts, repr=False)
    prompt_lengths: array[int] = field(default_factory=_counts, repr=False)
    answer_lengths: array[int] = field(default_factory=_counts, repr=False)

    @property
    def mean(self) -> float:
        """Mean tokens of a row that can be learned, each cut to the limit."""
        lengths = map(int.__add__, self.prompt_lengths, self.answer_lengths)
        return sum(min(self.limit, length) for length in lengths) / max(1, len(self.rows))

    @classmethod
    def of(
        cls, rows: array[int], prompts: array[int], answers: array[int], limit: int, *, packed: bool, bad: Sequence[BadRow] = ()
    ) -> TokenReport:
        """From the lengths of at least one row."""
        lengths = sorted(map(int.__add__, prompts, answers))
        report = cls(
            lengths[0], _rank(lengths, 0.5), _rank(lengths, 0.95), lengths[-1],
            bad=tuple(bad), limit=limit, packed=packed, rows=rows, prompt_lengths=prompts, answer_lengths=answers,
        )  # fmt: skip
        warnings = tuple(
            RowWarning(
                cut.row,
                f"cut: the first {cut.tokens} of {cut.prompt + cut.answer} tokens do not fit into {limit}; the answer is kept",
                "long",
            )
            for cut in report.cut
        )
        return cls(**{**vars(report), "truncated": len(warnings), "warnings": warnings})

    @property
    def lengths(self) -> array[int]:
        """Tokens of each row before anything is cut, in the order of ``rows``."""
        return array("L", map(int.__add__, self.prompt_lengths, self.answer_lengths))

    @property
    def cut(self) -> list[Cut]:
        """Where the limit cuts, in the file's order."""
        if self.packed:
            return []
        each = zip(self.rows, self.prompt_lengths, self.answer_lengths, strict=True)
        return [Cut(row, p + a - self.limit, p, a) for row, p, a in each if p + a > self.limit]

    def histogram(self, bins: int = 20) -> list[tuple[int, int, int]]:
        """(shortest, longest, rows) of each bin, both ends in it; of equal width, the last one open where a few rows are far longer.

        Their rows add up to all rows. Fewer bins where there are fewer lengths to tell apart.
        """
        lengths = self.lengths
        if not lengths:
            return []
        low, top = self.min, self.max if self.max <= 3 * self.p95 else 2 * self.p95
        width = max(1, math.ceil((top - low + 1) / max(1, bins)))
        found = [0] * math.ceil((top - low + 1) / width)
        for length in lengths:
            found[min(len(found) - 1, (length - low) // width)] += 1
        edges = [(low + place * width, low + (place + 1) * width - 1) for place in range(len(found))]
        edges[-1] = (edges[-1][0], self.max)
        return [(first, last, count) for (first, last), count in zip(edges, found, strict=True)]

    def padding(self, batch_size: int = 8, seed: int = 0) -> Padding:
        """As batches are built for training: prompts padded to the longest on the left, answers to the longest on the right."""
        prompts = [
            min(prompt, self.limit - answer) for prompt, answer in zip(self.prompt_lengths, self.answer_lengths, strict=True)
        ]
        answers = list(self.answer_lengths)
        size = max(1, batch_size)
        if self.packed or not answers:
            return Padding(size, 0.0, 0.0)
        tokens = sum(prompts) + sum(answers)

        def share(orders: Sequence[Sequence[int]]) -> float:
            room = 0
            for order in orders:
                for start in range(0, len(order), size):
                    batch = order[start : start + size]
                    room += len(batch) * (max(prompts[at] for at in batch) + max(answers[at] for at in batch))
            return 1 - len(orders) * tokens / room if room else 0.0

        places, chance = list(range(len(answers))), random.Random(seed)
        shuffles = [chance.sample(places, len(places)) for _ in range(1 if len(places) >= _ENOUGH_ROWS else _SHUFFLES)]
        together = sorted(places, key=lambda at: (prompts[at] + answers[at], answers[at]))
        return Padding(size, share(shuffles), share([together]))


Cancelled = Callable[[], bool]
"""Whether the person no longer waits."""


def _rank(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
