"""The sides on one metric: who leads, by how much, whether that is shown, and what it costs. ``choice`` decides by these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from playground.evaluation.compared import Pair, Table
from playground.evaluation.cost import SideCost, break_even
from playground.evaluation.intervals import Interval
from playground.evaluation.questions import SIMPLEST, Reason, SideKind
from playground.evaluation.wording import figure, gain_words, p_words, pair_link


@dataclass(frozen=True)
class Contest:
    """table, and the metric that decides. kinds, costs: of its sides. only: the sides that still take part, among those that have the
    metric."""

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
        ranked = sorted(sides, key=lambda side: (-self.sign * self.interval(side).value, SIMPLEST.index(self.kinds[side])))
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
        """How a and b differ, as a reason whose number is the linked pair's difference; None where they have no pair."""
        metric = metric or self.metric
        held = next((pair for pair in self.table.pairs if pair.metric == metric and {pair.a, pair.b} == {a, b}), None)
        pair = self.table.pair(a, b, metric)
        if held is None or pair is None:
            return None
        gain = pair.difference if self.table.about[metric].higher_is_better else -pair.difference
        how = "level with" if gain == 0 else f"{gain_words(self.table, gain, metric)} {'ahead of' if gain > 0 else 'behind'}"
        sure = f", which {'is more than' if pair.enough else 'may be'} chance ({p_words(pair.p_adjusted)})" if gain else ""
        first, second = (figure(self.table, self.table.sides[side][metric], metric) for side in (a, b))
        where = "" if metric == self.metric else f" on {metric}"
        text = f"{a} ({first}) is {how} {b} ({second}){where}{sure}."
        return Reason(text, held.difference, pair_link(held.a, held.b, metric))
