"""Every side's figures with their intervals, every pair of sides with what is known of their difference, and what a
choice is made from and says (``decision``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from playground.errors import InputError
from playground.evaluation.cost import SideCost, break_even
from playground.evaluation.statistics import (
    ALPHA,
    Interval,
    Kind,
    Measured,
    Tally,
    bootstrap,
    holm,
    mcnemar_exact,
    mean_rows,
    newcombe_paired,
    normal_quantile,
    paired_p,
    rows_needed,
    tally_of,
    wilson,
)


@dataclass(frozen=True)
class About:
    """What a metric is, whoever it was measured on."""

    kind: Kind
    higher_is_better: bool
    words: str


@dataclass(frozen=True)
class Pair:
    """Side a against side b on the examples that both answered. difference: a's figure less b's; low, high: its 95 %
    interval, not adjusted. p_adjusted: by Holm over all pairs of this metric. enough: p_adjusted is at most 0.05.
    rows_needed: where it is not enough, how many examples would show this difference in four cases of five, at the
    level that the strictest step of Holm asks; None = no difference, or more examples than anybody writes."""

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
    """sides: side -> metric -> figure with its 95 % interval, of all examples of the side. about: metric -> what it
    is."""

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

    1. yes/no: Wilson's interval, Newcombe's for a difference, exact McNemar. 2. Everything else: bootstrap over
    examples, and a sign-flip permutation test. 3. Holm over the pairs of one metric. A metric that only one side has
    (groundedness) makes no pair, nor do sides without a common example."""
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
        return Pair(
            *self._names, self._first.name, interval.value, interval.low, interval.high, p, p, False, None, self.n
        )

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


def side_link(side: str, metric: str) -> str:
    """The id of one side's figure."""
    return f"side|{side}|{metric}"


def pair_link(a: str, b: str, metric: str) -> str:
    """The id of a pair's difference; sides in the order the table holds them."""
    return f"pair|{a}|{b}|{metric}"


def cost_link(side: str) -> str:
    """The id of what a side costs."""
    return f"cost|{side}"


def question_link(name: str) -> str:
    """The id of a question's answer: volume, changes, latency_s, budget."""
    return f"question|{name}"


def fact_link(name: str) -> str:
    """The id of a fact about the data: rows_trained, poor_share, overlap."""
    return f"fact|{name}"


def figure(table: Table, interval: Interval, metric: str) -> str:
    """``38 of 40`` for yes/no, else the number with two digits."""
    if table.about[metric].kind == "yes-no":
        return f"{round(interval.value * interval.n)} of {interval.n}"
    return f"{interval.value:.2f}"


def gain_words(table: Table, gain: float, metric: str) -> str:
    """A difference: percentage points for yes/no, else the number."""
    if table.about[metric].kind == "yes-no":
        points = round(abs(gain) * 100)
        return f"{points} point{'s' * (points != 1)}"
    return f"{abs(gain):.2f}"


def p_words(p: float) -> str:
    """A p-value, as one writes it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def money(amount: float, currency: str) -> str:
    """An amount with its currency; small ones keep two digits that say something."""
    return f"{amount:,.2f} {currency}" if amount >= 0.01 or amount == 0 else f"{amount:.2g} {currency}"


SideKind = Literal["base", "prompt", "few-shot", "documents", "tuned", "tuned+documents"]
Answer = Literal["prompt", "few-shot", "documents", "fine-tune", "fine-tune+documents", "not-enough-evidence"]
Changes = Literal["never", "monthly", "weekly"]
CHANGES: tuple[Changes, ...] = ("never", "monthly", "weekly")

SIMPLEST: tuple[SideKind, ...] = ("prompt", "base", "few-shot", "documents", "tuned", "tuned+documents")
"""The kinds, the simplest to keep first. Of a prompt and the bare base that do equally well, the prompt is what people
know."""
UNTUNED: tuple[SideKind, ...] = ("base", "prompt", "few-shot", "documents")
TUNED: tuple[SideKind, ...] = ("tuned", "tuned+documents")
ANSWERS: dict[SideKind, Answer] = {
    "base": "prompt",
    "prompt": "prompt",
    "few-shot": "few-shot",
    "documents": "documents",
    "tuned": "fine-tune",
    "tuned+documents": "fine-tune+documents",
}
"""What keeping a side means. A plain base that does it needs no training either, so it counts as prompting."""
WORDS: dict[Answer, str] = {
    "prompt": "Keep the prompt",
    "few-shot": "Show it examples",
    "documents": "Give it documents",
    "fine-tune": "Fine-tune",
    "fine-tune+documents": "Fine-tune and give it documents",
    "not-enough-evidence": "Not enough evidence",
}


@dataclass(frozen=True)
class Questions:
    """What a person answers. volume: requests a month, None = not said. changes: how often the task does. latency_s:
    the most seconds that an answer may take. budget: the most that training may cost, in the prices' currency. None =
    no limit. Raises InputError."""

    volume: int | None = None
    changes: Changes = "never"
    latency_s: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value!r}; it takes a number from 0"
            for name, value in (("volume", self.volume), ("latency_s", self.latency_s), ("budget", self.budget))
            if value is not None and not value >= 0
        ]
        if self.changes not in CHANGES:
            faults.append(f"changes is {self.changes!r}; there are {', '.join(CHANGES)}")
        if faults:
            raise InputError("The answers cannot be used: " + "; ".join(faults) + ".")


@dataclass(frozen=True)
class Facts:
    """rows_trained: examples that the tuned sides learned from, None = not known. poor_share: of these, bad, repeated
    or contradictory ones, 0 to 1. overlap: test examples that a tuned side was trained on. currency: of the costs."""

    rows_trained: int | None = None
    poor_share: float = 0.0
    overlap: int = 0
    currency: str = "USD"


NO_FACTS = Facts()


@dataclass(frozen=True)
class Reason:
    """One sentence, its number, and the id of the figure that it comes from (``wording`` makes these)."""

    text: str
    number: float | None
    link: str


@dataclass(frozen=True)
class Choice:
    """choice: the answer. sentence: for a person. reasons: in the order they came up. runner_up: the next best answer,
    or None. side: the side chosen, None without evidence. rule: number of the rule that decided (``choose``).
    rows_needed: test examples that would tell, where there is not enough evidence; None = more than anybody writes."""

    choice: Answer
    sentence: str
    reasons: tuple[Reason, ...]
    runner_up: Answer | None
    side: str | None
    rule: int
    rows_needed: int | None = None


@dataclass(frozen=True)
class Contest:
    """table, and the metric that decides. kinds, costs: of its sides. only: the sides that still take part, among those
    that have the metric."""

    table: Table
    metric: str
    kinds: Mapping[str, SideKind]
    costs: Mapping[str, SideCost]
    only: tuple[str, ...]

    @property
    def sign(self) -> float:
        """1 where a higher figure is better, else -1."""
        return 1.0 if self.table.about[self.metric].higher_is_better else -1.0

    @property
    def yes_no(self) -> bool:
        return self.table.about[self.metric].kind == "yes-no"

    def of_kind(self, kinds: Iterable[SideKind]) -> list[str]:
        """The sides of these kinds, in the table's order."""
        wanted = set(kinds)
        return [side for side in self.only if self.kinds[side] in wanted]

    def interval(self, side: str) -> Interval:
        return self.table.sides[side][self.metric]

    def best(self, sides: Iterable[str]) -> str | None:
        """The best figure; among equals the simplest kind, then the first."""
        ranked = sorted(
            sides, key=lambda side: (-self.sign * self.interval(side).value, SIMPLEST.index(self.kinds[side]))
        )
        return ranked[0] if ranked else None

    def pair(self, a: str, b: str) -> Pair | None:
        return self.table.pair(a, b, self.metric)

    def gain(self, a: str, b: str) -> float:
        """How much better a is than b; above 0 = better, whichever way the metric counts."""
        pair = self.pair(a, b)
        return self.sign * (pair.difference if pair else self.interval(a).value - self.interval(b).value)

    def shown(self, a: str, b: str) -> bool:
        """Whether their difference is more than chance."""
        pair = self.pair(a, b)
        return pair is not None and pair.enough

    def worst_gain(self, a: str, b: str) -> float | None:
        """The low end of the interval of a's gain over b."""
        pair = self.pair(a, b)
        return None if pair is None else pair.low if self.sign > 0 else -pair.high

    def share(self, share: float, side: str) -> float:
        """A share of a hundred for yes/no; of this side's figure for any other metric."""
        return share if self.yes_no else share * abs(self.interval(side).value)

    def payback(self, tuned: str, untuned: str) -> int | None:
        """Requests until the training is paid back; None = never, or the costs are not known."""
        if tuned not in self.costs or untuned not in self.costs:
            return None
        return break_even(self.costs[untuned].per_request, self.costs[tuned].per_request, self.costs[tuned].once)

    def figure(self, side: str) -> str:
        """A side's figure in words."""
        return figure(self.table, self.interval(side), self.metric)

    def lead(self, a: str, b: str) -> str:
        """By how much a leads b, in words."""
        return gain_words(self.table, self.gain(a, b), self.metric)

    def compared(self, a: str, b: str, metric: str | None = None) -> Reason | None:
        """How a and b differ, as a reason whose number is the linked pair's difference; None where they have no
        pair."""
        metric = metric or self.metric
        held = next((pair for pair in self.table.pairs if pair.metric == metric and {pair.a, pair.b} == {a, b}), None)
        pair = self.table.pair(a, b, metric)
        if held is None or pair is None:
            return None
        gain = pair.difference if self.table.about[metric].higher_is_better else -pair.difference
        how = (
            "level with"
            if gain == 0
            else f"{gain_words(self.table, gain, metric)} {'ahead of' if gain > 0 else 'behind'}"
        )
        sure = (
            f", which {'is more than' if pair.enough else 'may be'} chance ({p_words(pair.p_adjusted)})" if gain else ""
        )
        first, second = (figure(self.table, self.table.sides[side][metric], metric) for side in (a, b))
        where = "" if metric == self.metric else f" on {metric}"
        text = f"{a} ({first}) is {how} {b} ({second}){where}{sure}."
        return Reason(text, held.difference, pair_link(held.a, held.b, metric))
