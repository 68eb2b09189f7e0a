"""Every side's figures with their intervals, and every pair of sides with what is known of their difference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from playground.evaluation.intervals import Interval, bootstrap, newcombe_paired, wilson
from playground.evaluation.measured import Kind, Measured, Tally, tally_of
from playground.evaluation.significance import ALPHA, holm, mcnemar_exact, mean_rows, normal_quantile, paired_p, rows_needed


@dataclass(frozen=True)
class About:
    """What a metric is, whoever it was measured on."""

    kind: Kind
    higher_is_better: bool
    words: str


@dataclass(frozen=True)
class Pair:
    """Side a against side b on the examples that both answered. difference: a's figure less b's; low, high: its 95 % interval, not
    adjusted. p_adjusted: by Holm over all pairs of this metric. enough: p_adjusted is at most 0.05. rows_needed: where it is not enough, how
    many examples would show this difference in four cases of five, at the level that the strictest step of Holm asks; None = no
    difference, or more examples than anybody writes."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    enough: bool
    rows_needed: int | None
    n: int


@dataclass(frozen=True)
class Table:
    """sides: side -> metric -> figure with its 95 % interval, of all examples of the side. about: metric -> what it is."""

    sides: dict[str, dict[str, Interval]]
    pairs: tuple[Pair, ...]
    about: dict[str, About]

    def pair(self, a: str, b: str, metric: str) -> Pair | None:
        """The pair as a against b, whichever way round it is held; None where there is none."""
        for pair in self.pairs:
            if pair.metric == metric and {pair.a, pair.b} == {a, b}:
                return pair if pair.a == a else _turned(pair)
        return None


def compare_sides(measured: Mapping[str, Mapping[str, Measured]]) -> Table:
    """Figures and pairs of all sides, in the order they come; side -> metric -> what was measured.

    1. yes/no: Wilson's interval, Newcombe's for a difference, exact McNemar. 2. Everything else: bootstrap over examples, and a sign-flip
    permutation test. 3. Holm over the pairs of one metric. A metric that only one side has (groundedness) makes no pair, nor do
    sides without a common example.
    """
    about: dict[str, About] = {}
    for metrics in measured.values():
        for name, one in metrics.items():
            about.setdefault(name, About(one.kind, one.higher_is_better, one.words))
    sides = {side: {name: interval_of(one) for name, one in metrics.items()} for side, metrics in measured.items()}
    pairs: list[Pair] = []
    for name in about:
        having = [side for side in measured if name in measured[side]]
        raw = [_Raw(a, b, measured[a][name], measured[b][name]) for a, b in itertools.combinations(having, 2)]
        common = [two for two in raw if two.n]
        found = [two.judged() for two in common]
        for two, pair, adjusted in zip(common, found, holm([pair.p_value for pair in found]), strict=True):
            enough = adjusted <= ALPHA
            rows = None if enough else two.rows_needed(pair, ALPHA / len(found))
            pairs.append(replace(pair, p_adjusted=adjusted, enough=enough, rows_needed=rows))
    return Table(sides, tuple(pairs), about)


def interval_of(one: Measured) -> Interval:
    """A side's figure with its interval, over the examples that have a value."""
    if one.kind == "yes-no":
        known = [value for value in one.values if value is not None]
        return wilson(round(sum(known)), len(known))
    tally = one.tally or tally_of([value for value in one.values if value is not None])
    return replace(bootstrap(tally), value=one.pooled)


class _Raw:
    """One metric of two sides on their common examples."""

    def __init__(self, a: str, b: str, first: Measured, second: Measured) -> None:
        self._names, self._first, self._second = (a, b), first, second
        here, there = _places(first), _places(second)
        common = [number for number in here if number in there]
        self._here, self._there = [here[number] for number in common], [there[number] for number in common]
        self.n = len(common)

    @property
    def _values(self) -> tuple[list[float], list[float]]:
        first = [self._first.values[at] for at in self._here]
        second = [self._second.values[at] for at in self._there]
        return [float(value or 0) for value in first], [float(value or 0) for value in second]

    @property
    def _tallies(self) -> tuple[Tally, Tally]:
        if self._first.tally is None or self._second.tally is None:
            a, b = self._values
            return tally_of(a), tally_of(b)
        return _part(self._first.tally, self._here), _part(self._second.tally, self._there)

    def judged(self) -> Pair:
        if self._first.kind == "yes-no":
            a, b = ([value > 0 for value in values] for values in self._values)
            interval, p = newcombe_paired(a, b), mcnemar_exact(a, b)
        else:
            first, second = self._tallies
            interval, p = bootstrap(first, other=second), paired_p(first, second)
        return Pair(*self._names, self._first.name, interval.value, interval.low, interval.high, p, p, False, None, self.n)

    def rows_needed(self, pair: Pair, alpha: float) -> int | None:
        if self._first.kind == "corpus":  # no differences to take the spread of: the interval's width gives it
            spread = (pair.high - pair.low) / (2 * normal_quantile(0.975)) * math.sqrt(self.n)
            rows = mean_rows(pair.difference, spread, alpha)
        else:
            rows = rows_needed(*self._values, yes_no=self._first.kind == "yes-no", alpha=alpha).rows
        return None if rows is None else max(rows, self.n + 1)


def _places(one: Measured) -> dict[int, int]:
    """example number -> place, of the examples that count."""
    numbers = one.numbers
    return {number: at for at, number in enumerate(numbers) if one.tally is not None or one.values[at] is not None}


def _part(tally: Tally, places: Sequence[int]) -> Tally:
    return Tally(tally.rows[np.asarray(places, dtype=int)], tally.pool)


def _turned(pair: Pair) -> Pair:
    return replace(pair, a=pair.b, b=pair.a, difference=-pair.difference, low=-pair.high, high=-pair.low)
