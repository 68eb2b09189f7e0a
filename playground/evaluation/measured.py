"""What one metric gave for one side: a value an example, the figure of the whole set, and how that figure comes from its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["yes-no", "mean", "corpus"]
Pool = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts that add up over examples, from which a figure is computed, so that drawing examples again is one matrix product.

    rows: [examples, counts]. pool: summed counts [..., counts] -> figures [...].
    """

    rows: np.ndarray
    pool: Pool

    def figure(self) -> float:
        """The figure of all examples."""
        return float(self.pool(self.rows.sum(axis=0)))


@dataclass(frozen=True)
class Measured:
    """values: one an example, in the examples' order; None where the metric says nothing of it. pooled: the figure of the whole set.

    kind: ``yes-no`` (values are 0 and 1), ``mean`` or ``corpus`` (the figure is not a mean of the values, but comes from the tally).
    words: what is measured and its unit, for a person. examples: the values' example numbers; empty = they are 0, 1, 2 ...
    """

    name: str
    values: tuple[float | None, ...]
    pooled: float
    kind: Kind
    higher_is_better: bool
    words: str
    examples: tuple[int, ...] = ()
    tally: Tally | None = field(default=None, compare=False, repr=False)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The examples' numbers."""
        return self.examples or tuple(range(len(self.values)))


def tally_of(values: Sequence[float]) -> Tally:
    """A mean as a tally: sum and count."""
    rows = np.column_stack([np.asarray(values, dtype=float), np.ones(len(values))])
    return Tally(rows, mean)


def mean(sums: np.ndarray) -> np.ndarray:
    """[..., (sum, count)] -> means."""
    return sums[..., 0] / sums[..., 1]


def averaged(
    name: str, values: Sequence[float | None], words: str, examples: Sequence[int] = (), *, yes_no: bool = False, higher: bool = True
) -> Measured:  # fmt: skip
    """A metric whose figure is the mean of its values. Raises ValueError where there is no value at all."""
    known = [value for value in values if value is not None]
    if not known:
        raise ValueError(f"{name} has no value.")
    kind: Kind = "yes-no" if yes_no else "mean"
    return Measured(name, tuple(values), float(np.mean(known)), kind, higher, words, tuple(examples))
