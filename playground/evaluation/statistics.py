"""Intervals for shares and their paired differences, bootstrap and permutation tests for everything else.

Yes/no figures never go through the bootstrap: at 40 examples and a true share of 0.95 it covers 84 %, where Wilson's
interval keeps its promise. scipy.stats is imported where it is needed, since that takes a second."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

Kind = Literal["yes-no", "mean", "corpus"]
Holds = Sequence[bool] | np.ndarray
ALPHA = 0.05
POWER = 0.8
LEVEL = 0.95
RESAMPLES, SEED = 2_000, 20_260
HIERARCHICAL = 5_000  # resamples over draws and examples
FLIPS, SIGNIFICANCE_SEED = 10_000, 20_261
EXACT_ROWS = 13  # up to so many examples all 2^n flips are gone through
MOST_ROWS = 20_000  # more examples are not worth naming: nobody writes them
AT_ONCE = 2_000_000  # drawn examples in memory together, over all resamples of a batch


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts that add over examples. rows: [examples, counts]. pool: summed counts [..., counts] -> figures [...]."""

    rows: np.ndarray
    pool: Callable[[np.ndarray], np.ndarray]

    def figure(self) -> float:
        """The figure of all examples."""
        return float(self.pool(self.rows.sum(axis=0)))


@dataclass(frozen=True)
class Measured:
    """values: one an example, None where the metric says nothing of it. pooled: of the whole set. kind: ``yes-no``
    (values are 0 and 1), ``mean`` or ``corpus`` (by the tally). words: what is measured and its unit, for a person.
    examples: the values' example numbers; empty = 0, 1, 2 ... draws: [draws, values], of which the values are means;
    None = of one draw."""

    name: str
    values: tuple[float | None, ...]
    pooled: float
    kind: Kind
    higher_is_better: bool
    words: str
    examples: tuple[int, ...] = ()
    tally: Tally | None = field(default=None, compare=False, repr=False)
    draws: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def numbers(self) -> tuple[int, ...]:
        return self.examples or tuple(range(len(self.values)))

    @cached_property
    def by_example(self) -> dict[int, float | None]:
        """Example number -> its value."""
        return dict(zip(self.numbers, self.values, strict=True))


def tally_of(values: Sequence[float] | np.ndarray) -> Tally:
    """A mean as a tally: sum and count."""
    return Tally(np.column_stack([np.asarray(values, dtype=float), np.ones(len(values))]), mean)


def mean(sums: np.ndarray) -> np.ndarray:
    """[..., (sum, count)] -> means."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def mcnemar_exact(a: Holds, b: Holds) -> float:
    """Two-sided exact p-value (McNemar 1947): of the examples in which only one holds, are as many a's as b's? 1 where
    there is no such example. Raises ValueError for unequal lengths."""
    from scipy import stats

    _, only_a, only_b, _ = paired_counts(a, b)
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_p(first: Tally, second: Tally) -> float:
    """Two-sided p-value of the difference of two figures of the same examples, by a sign-flip permutation test (Noreen
    1989, Riezler and Maxwell 2005). Up to 13 examples all swaps are gone through, beyond that 10,000 drawn with a fixed
    seed; scipy's ``permutation_test`` takes four to ten times as long. Raises ValueError for unequal lengths."""
    n = len(first.rows)
    if n != len(second.rows) or n == 0:
        raise ValueError(f"Pairs need two lists of one length; these have {n} and {len(second.rows)}.")
    swaps = np.array(list(itertools.product((0.0, 1.0), repeat=n))) if n <= EXACT_ROWS else None
    observed = abs(first.figure() - second.figure())
    least = observed - 1e-9 * max(1.0, abs(first.figure()), abs(second.figure()))
    whole, other, gap = first.rows.sum(axis=0), second.rows.sum(axis=0), second.rows - first.rows
    rng = np.random.default_rng(SIGNIFICANCE_SEED)
    hits, batch = 0, max(1, AT_ONCE // n)
    total = FLIPS if swaps is None else len(swaps)
    for done in range(0, total, batch):
        size = min(batch, total - done)
        chosen = (rng.random((size, n)) < 0.5).astype(float) if swaps is None else swaps[done : done + size]
        moved = chosen @ gap
        with np.errstate(all="ignore"):
            hits += int(np.sum(np.abs(first.pool(whole + moved) - second.pool(other - moved)) >= least))
    return hits / total if swaps is not None else (hits + 1) / (total + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for how many there are (Holm 1979), in the order they came."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        adjusted[at] = worst = max(worst, min(1.0, (len(p_values) - place) * p_values[at]))
    return adjusted


@dataclass(frozen=True)
class Interval:
    """A figure of n examples, its 95 % interval, and how that was made; ``point`` = there was no spread to judge by."""

    value: float
    low: float
    high: float
    n: int
    method: str = ""


def wilson(passed: int, n: int, level: float = LEVEL) -> Interval:
    """The score interval of a share (Wilson 1927). Raises ValueError unless 0 <= passed <= n and n > 0."""
    if not 0 <= passed <= n or n == 0:
        raise ValueError(f"{passed} of {n} is not a share.")
    from scipy import stats

    found = stats.binomtest(passed, n).proportion_ci(level, method="wilson")
    share = passed / n  # which rounding may leave just outside
    return Interval(share, min(float(found.low), share), max(float(found.high), share), n, "Wilson")


def newcombe_paired(a: Holds, b: Holds, level: float = LEVEL) -> Interval:
    """The difference of two shares of the same examples, a minus b (Newcombe 1998, Statistics in Medicine 17,
    2635-2650, method 10): two Wilson intervals, joined by the correlation of the pairs, whose estimate is drawn towards
    0 where it is positive. Raises ValueError for unequal lengths or none."""
    both, only_a, only_b, neither = paired_counts(a, b)
    n = both + only_a + only_b + neither
    first, second = wilson(both + only_a, n, level), wilson(both + only_b, n, level)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = float(both * neither - only_a * only_b)
    if cross > 0:
        cross = max(0.0, cross - n / 2)
    phi = cross / math.sqrt(margins) if margins else 0.0
    difference = (only_a - only_b) / n

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down * down - 2 * phi * down * up + up * up))

    low = difference - reach(first.value - first.low, second.high - second.value)
    high = difference + reach(first.high - first.value, second.value - second.low)
    return Interval(difference, max(-1.0, low), min(1.0, high), n, "Newcombe")


def paired_counts(a: Holds, b: Holds) -> tuple[int, int, int, int]:
    """Examples where both hold, only a, only b, neither. Raises ValueError for unequal lengths or none."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"Pairs need two lists of one length; these have {len(a)} and {len(b)}.")
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    parts = first & second, first & ~second, ~first & second, ~first & ~second
    both, only_a, only_b, neither = (int(part.sum()) for part in parts)
    return both, only_a, only_b, neither


def bootstrap(first: Tally, second: Tally | None = None) -> Interval:
    """A figure's interval by drawing the examples again, with the same seed each time; with ``second``, that of the
    difference first minus second of the same examples. 1. BCa (Efron 1987), by scipy. 2. The percentile interval where
    BCa is not defined. 3. The point itself, method ``point``, where all resamples give one figure. An interval that
    leaves out the figure is widened to it. Raises ValueError for unequal lengths or no examples."""
    n = len(first.rows)
    if n == 0 or (second is not None and len(second.rows) != n):
        raise ValueError(f"A bootstrap needs examples, and pairs need as many of both; there are {n}.")

    def figure(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        times = _times(np.asarray(drawn, dtype=np.intp), n)
        figures = first.pool(times @ first.rows)
        return figures if second is None else figures - second.pool(times @ second.rows)

    value = float(figure(np.arange(n)))
    if n == 1:
        return Interval(value, value, value, n, "point")
    from scipy import stats

    options: dict[str, Any] = {"confidence_level": LEVEL, "vectorized": True, "batch": max(1, AT_ONCE // n)}
    examples, method = (np.arange(n),), "BCa bootstrap"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = stats.bootstrap(examples, figure, n_resamples=RESAMPLES, rng=SEED, method="BCa", **options)
        if np.ptp(found.bootstrap_distribution) <= 1e-12 * max(1.0, abs(value)):  # 3
            return Interval(value, value, value, n, "point")
        if not np.isfinite(found.confidence_interval).all():  # 2
            options |= {"n_resamples": 0, "bootstrap_result": found, "method": "percentile"}
            found, method = stats.bootstrap(examples, figure, **options), "percentile bootstrap"
    low, high = found.confidence_interval
    return Interval(value, min(float(low), value), max(float(high), value), n, method)


def hierarchical_bootstrap(values: np.ndarray, other: np.ndarray | None = None, level: float = LEVEL) -> Interval:
    """The interval of a mean over draws (training seeds, shot draws) and examples, both drawn again, with the same seed
    each time; with ``other``, of the difference values - other, whose examples are the same and whose draws are its
    own. values, other: [draws, examples]; one draw adds nothing. Percentiles, method ``point`` where all resamples give
    one figure. Raises ValueError for unequal numbers of examples or none."""
    drawn = _hierarchical(values, other)
    value, n = float(values.mean()) - (float(other.mean()) if other is not None else 0.0), values.shape[1]
    if np.ptp(drawn) <= 1e-12 * max(1.0, abs(value)):
        return Interval(value, value, value, n, "point")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), n, "hierarchical bootstrap")


def hierarchical_p(values: np.ndarray, at: float) -> float:
    """One-sided p-value of "the mean over all draws and examples there could be is at most ``at``"."""
    return float((np.sum(_hierarchical(values, None) <= at + 1e-12) + 1) / (HIERARCHICAL + 1))


def hierarchical_paired_p(values: np.ndarray, other: np.ndarray) -> float:
    """Two-sided p-value of the difference; never below that of the examples alone (``paired_p`` of the means)."""
    drawn = _hierarchical(values, other)
    fewer = min(np.sum(drawn <= 1e-12), np.sum(drawn >= -1e-12))
    examples = paired_p(tally_of(values.mean(axis=0)), tally_of(other.mean(axis=0)))
    return min(1.0, max(examples, 2 * float(fewer + 1) / (HIERARCHICAL + 1)))


def _hierarchical(values: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    """Resampled figures [HIERARCHICAL]. A few draws drawn again vary too little, by (k - 1) / k, and have no tails: how
    far drawing the draws moves a figure is widened such that it has Student's distribution with k - 1 degrees."""
    n = values.shape[1]
    if n == 0 or (other is not None and other.shape[1] != n):
        raise ValueError(f"A bootstrap needs examples, and pairs need as many of both; there are {n}.")
    rng, found = np.random.default_rng(SEED), []
    batch = max(1, AT_ONCE // n)
    for size in (min(batch, HIERARCHICAL - done) for done in range(0, HIERARCHICAL, batch)):
        examples = _times(rng.integers(n, size=(size, n)), n) / n
        figures = np.zeros(size)
        for one, sign in ((values, 1), (other, -1)):
            if one is None:
                continue
            k, fixed = len(one), examples @ one.mean(axis=0)
            if k > 1:
                draws = _times(rng.integers(k, size=(size, k)), k) / k
                moved = np.sum((draws @ one) * examples, axis=1) - fixed
                fixed = fixed + np.sqrt(k / rng.chisquare(k - 1, size)) * moved
            figures += sign * fixed
        found.append(figures)
    return np.concatenate(found)


def widest(first: Interval, second: Interval) -> Interval:
    """The first one's value; the outer ends of both."""
    method = f"{first.method}, {second.method}"
    return Interval(first.value, min(first.low, second.low), max(first.high, second.high), first.n, method)


def paired_draws(values: np.ndarray, other: np.ndarray, level: float = LEVEL) -> Interval:
    """The difference of two shares, each over its draws: the hierarchical bootstrap's interval, and never less than
    Newcombe's of the first draws. values, other: [draws, examples]."""
    examples = newcombe_paired(values[0] > 0, other[0] > 0, level)
    return widest(hierarchical_bootstrap(values, other, level), examples)


def _times(drawn: np.ndarray, n: int) -> np.ndarray:
    """Indices [..., any length] -> how often each of the n examples was drawn, [..., n]."""
    flat = drawn.reshape(-1, drawn.shape[-1])
    shifted = flat + n * np.arange(len(flat))[:, None]
    counts = np.bincount(shifted.ravel(), minlength=n * len(flat)).astype(float)
    return counts.reshape(*drawn.shape[:-1], n)
