"""Every side's figures with their intervals, every pair of sides with what is known of their difference, what a choice
(``decision``) is made from, and what an answer says beside it: why, what qualifies it, and what would help."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from playground.errors import InputError
from playground.evaluation import statistics as st
from playground.evaluation.cost import Prices
from playground.evaluation.decision import GUARDS, NONE, TUNED, UNSURE, WEAK, WORDS, Decision, Guard, Standing, Terms
from playground.evaluation.statistics import ALPHA, Interval, Kind, Measured, Tally

if TYPE_CHECKING:
    from playground.evaluation.verdict import SideFacts


@dataclass(frozen=True)
class About:
    """What a metric is, whoever it was measured on."""

    kind: Kind
    higher_is_better: bool
    words: str


@dataclass(frozen=True)
class Pair:
    """Side a against side b on the examples that both answered. difference: a's figure less b's; low, high: its 95 %
    interval, not adjusted. p_adjusted: by Holm over all pairs of this metric. enough: p_adjusted is at most 0.05."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    enough: bool
    n: int


@dataclass(frozen=True)
class Table:
    """sides: side -> metric -> figure with its 95 % interval, of all examples of the side. about: metric -> what it
    is."""

    sides: dict[str, dict[str, Interval]]
    pairs: tuple[Pair, ...]
    about: dict[str, About]


def compare_sides(measured: Mapping[str, Mapping[str, Measured]]) -> Table:
    """Figures and pairs of all sides, in the order they come; side -> metric -> what was measured.

    1. yes/no: Wilson's interval, Newcombe's for a difference, exact McNemar. 2. Everything else: bootstrap over
    examples, and a sign-flip permutation test. 3. Holm over the pairs of one metric. A metric that only one side has
    (groundedness) makes no pair, nor do sides without a common example. 4. Of several draws: the hierarchical bootstrap
    over draws and examples, and never less than what the examples alone say."""
    about: dict[str, About] = {}
    for metrics in measured.values():
        for name, one in metrics.items():
            about.setdefault(name, About(one.kind, one.higher_is_better, one.words))
    sides = {side: {name: _interval(one) for name, one in metrics.items()} for side, metrics in measured.items()}
    pairs: list[Pair] = []
    for name in about:
        having = [side for side in measured if name in measured[side]]
        found = [_pair(a, b, measured[a][name], measured[b][name]) for a, b in itertools.combinations(having, 2)]
        common = [pair for pair in found if pair.n]
        for pair, adjusted in zip(common, st.holm([pair.p_value for pair in common]), strict=True):
            pairs.append(replace(pair, p_adjusted=adjusted, enough=adjusted <= ALPHA))
    return Table(sides, tuple(pairs), about)


def _interval(one: Measured) -> Interval:
    """A side's figure with its interval, over the examples that have a value."""
    known = [value for value in one.values if value is not None]
    if one.draws is not None:
        found = st.hierarchical_bootstrap(one.draws[:, ~np.isnan(one.draws[0])])
        if one.kind != "yes-no":
            return found
        found = st.widest(found, st.wilson(math.floor(sum(known) + 1e-9), len(known)))
        return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))
    if one.kind == "yes-no":
        return st.wilson(round(sum(known)), len(known))
    return replace(st.bootstrap(one.tally or st.tally_of(known)), value=one.pooled)


def _pair(a: str, b: str, first: Measured, second: Measured) -> Pair:
    """One metric of two sides on their common examples, not adjusted; n is 0 where there are none."""
    here, there = _places(first), _places(second)
    common = [number for number in here if number in there]
    mine, theirs = [here[number] for number in common], [there[number] for number in common]
    x = np.array([first.values[at] or 0 for at in mine], dtype=float)
    y = np.array([second.values[at] or 0 for at in theirs], dtype=float)
    if not common:
        interval, p = Interval(0, 0, 0, 0), 1.0
    elif first.draws is not None or second.draws is not None:
        many, others = _draws(first, mine, x), _draws(second, theirs, y)
        interval = st.paired_draws(many, others) if first.kind == "yes-no" else st.hierarchical_bootstrap(many, others)
        p = st.hierarchical_paired_p(many, others)
    elif first.kind == "yes-no":
        interval, p = st.newcombe_paired(x > 0, y > 0), st.mcnemar_exact(x > 0, y > 0)
    else:
        one, other = _part(first, mine, x), _part(second, theirs, y)
        interval, p = st.bootstrap(one, other), st.paired_p(one, other)
    figures = interval.value, interval.low, interval.high, p, p
    return Pair(a, b, first.name, *figures, enough=False, n=len(common))


def _draws(one: Measured, places: list[int], values: np.ndarray) -> np.ndarray:
    return values[None] if one.draws is None else one.draws[:, places]


def _places(one: Measured) -> dict[int, int]:
    """example number -> place, of the examples that count."""
    return {number: at for at, number in enumerate(one.numbers) if one.tally is not None or one.values[at] is not None}


def _part(one: Measured, places: list[int], values: np.ndarray) -> Tally:
    return st.tally_of(values) if one.tally is None else Tally(one.tally.rows[places], one.tally.pool)


@dataclass(frozen=True)
class NotWorse:
    """Whether a side is not worse than another one by more than the margin (non-inferiority, Newcombe 1998).
    difference: of the shares that pass, side less than, with its interval; level: of that, two-sided, of which only
    the lower end is tested. planned: rows that would tell of two equal sides."""

    side: str
    than: str
    passed: tuple[float, float]
    n: int
    difference: float
    low: float
    high: float
    level: float
    margin: float
    shown: bool
    planned: int

    @property
    def words(self) -> str:
        more = f"worse than {self.than} by more than {100 * self.margin:.0f} points"
        is_open = not self.shown and self.high >= -self.margin
        claim = f"That {self.side} is not {more} is not shown" if is_open else f"{self.side} is {more}"
        claim = f"{self.side} is not {more}" if self.shown else claim
        span = f"{100 * self.level:.0f} % interval {100 * self.low:+.0f} to {100 * self.high:+.0f}"
        right = f"right in {self.passed[0]:g} against {self.passed[1]:g} of {self.n}"
        text = f"{claim}: {right}, {100 * self.difference:+.0f} points ({span})"
        return f"{text}; about {self.planned:,} rows would tell." if is_open else f"{text}."


def not_worse(
    sides: Mapping[str, np.ndarray], than: Mapping[str, np.ndarray], alpha: float, margin: float, planned: int
) -> list[NotWorse]:
    """Each of the sides against each of the others. [draws, rows] of each: whether it passes. alpha: what all of them
    may spend together; 0 = nothing can be shown."""
    found, share = [], (alpha or ALPHA) / max(1, len(sides) * len(than))
    for (side, mine), (other, theirs) in itertools.product(sides.items(), than.items()):
        level = 1 - 2 * share
        if len(mine) == len(theirs) == 1:
            ends = st.newcombe_paired(mine[0] > 0, theirs[0] > 0, level)
        else:
            ends = st.paired_draws(mine, theirs, level)
        passed = float(mine.mean(axis=0).sum()), float(theirs.mean(axis=0).sum())
        about = ends.value, ends.low, ends.high, level, margin, alpha > 0 and ends.low >= -margin, planned
        found.append(NotWorse(side, other, passed, mine.shape[1], *about))
    return found


def link(kind: Literal["side", "pair", "cost", "question", "fact"], *names: str) -> str:
    """The id of a figure: ``side|SIDE|METRIC``, ``pair|A|B|METRIC`` with the sides in the table's order,
    ``cost|SIDE``, ``question|NAME`` of the answer to a question, ``fact|NAME`` of the data."""
    return "|".join((kind, *names))


def p_words(p: float) -> str:
    """A p-value, as one writes it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def money(amount: float, currency: str) -> str:
    """An amount with its currency; small ones keep two digits that say something."""
    return f"{amount:,.2f} {currency}" if amount >= 0.01 or amount == 0 else f"{amount:.2g} {currency}"


Changes = Literal["never", "monthly", "weekly"]
CHANGES: tuple[Changes, ...] = ("never", "monthly", "weekly")


@dataclass(frozen=True)
class Questions:
    """What a person answers. volume: requests a month, None = not said. changes: how often the task does. latency_s:
    the most seconds that an answer may take. budget: the most that training and its labels may cost, in the prices'
    currency. forgets: the most points of general questions that a tuned model may lose. None = no limit. Raises
    InputError."""

    volume: int | None = None
    changes: Changes = "never"
    latency_s: float | None = None
    budget: float | None = None
    forgets: float | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value!r}; it takes a number from 0"
            for name in ("volume", "latency_s", "budget", "forgets")
            if (value := getattr(self, name)) is not None and not value >= 0
        ]
        if self.changes not in CHANGES:
            faults.append(f"changes is {self.changes!r}; there are {', '.join(CHANGES)}")
        if faults:
            raise InputError("The answers cannot be used: " + "; ".join(faults) + ".")


@dataclass(frozen=True)
class Facts:
    """rows_trained: examples that the tuned sides learned from, None = not known. poor_share: of these, bad, repeated
    or contradictory ones, 0 to 1. overlap: test examples that a tuned side was trained on. leaked: tuned side -> share
    of the test examples that it may know, None = nobody knows what it was trained on. overlaps: tuned side -> how many
    it may know, each by the first that holds: the same row (``rows``), the same prompt (``prompts``), nearly the same
    one (``near``); None = its record is older and does not tell. used_before: test examples that an earlier verdict of
    this person measured. judge: how far the judge that says what is right goes with the person,
    in words; "" = there is none. forgotten: tuned side -> (points of general questions lost, the 95 % interval's two
    ends), where it was measured. undertrained: tuned side -> why it may have been trained too little. left_out: rows
    that were not judged by because a tuned side may know them. grown: tuned side -> (another that learned a part of its
    rows by the same settings, how many, how many it learned itself). larger: what to try where no untuned side is right
    in half of the rows, a sentence."""

    rows_trained: int | None = None
    poor_share: float = 0.0
    overlap: int = 0
    leaked: Mapping[str, float | None] = field(default_factory=dict)
    used_before: int = 0
    judge: str = ""
    overlaps: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    forgotten: Mapping[str, Sequence[float]] = field(default_factory=dict)
    undertrained: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0
    grown: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    larger: str = "Try a larger base or an endpoint."


_OVERLAPS = {"rows": "the same row", "prompts": "the same prompt", "near": "nearly the same prompt"}


def overlap_words(found: Mapping[str, int | None]) -> str:
    """How many rows a side may know and how, of those ways that could be looked for, and which could not."""
    counts = ", ".join(f"{count} {_OVERLAPS[name]}" for name, count in found.items() if count is not None)
    others = " and ".join(_OVERLAPS[name] for name, count in found.items() if count is None)
    counts = counts or "not known"
    return f"{counts} ({others}: not looked for, its record has no hashes for it)" if others else counts


@dataclass(frozen=True)
class Reason:
    """One sentence, its number, and the id of the figure that it comes from (``wording`` makes these)."""

    text: str
    number: float | None
    link: str


PASS = "pass"
"""The metric that decides."""
TIMED = 20
"""Replies of a side that are timed one by one; with fewer, no limit of seconds is applied."""


def guards_of(
    decision: Decision,
    timed: Mapping[str, Interval],
    sides: Sequence[SideFacts],
    unpriced: tuple[str, ...],
    questions: Questions,
    prices: Prices,
    facts: Facts,
    *,
    form_only: bool,
) -> list[Guard]:
    """The decision's, and what else qualifies the answer: conditions that could not be looked at among it. timed: side
    -> its seconds; unpriced: sides of which nobody knows what their training cost."""
    guards = [
        replace(one, sentence=f"{one.sentence} {facts.larger}") if one.name == WEAK else one for one in decision.guards
    ]
    guards += (Guard("undertrained", text, (side,)) for side, text in facts.undertrained.items())
    if facts.left_out:
        text = f"{facts.left_out} rows were left out: a tuned side may have been trained on them, or nearly."
        guards.append(Guard("seen-rows", text))
    replies = {side.name: timed[side.name].n if side.name in timed else 0 for side in sides if not side.is_recorded}
    few, by_seconds = tuple(name for name, n in replies.items() if n < TIMED), prices.device_per_hour is not None
    if few and (questions.latency_s is not None or by_seconds):
        text = f"{', '.join(few)}: not timed well enough ({min(replies.values())} replies; {TIMED} are needed)"
        if questions.latency_s is not None:
            text += f", so your limit of {questions.latency_s:g} s was not applied"
        text += ", and what a reply costs by its seconds is rough" * by_seconds
        guards.append(Guard("timing", f"{text}.", few))
    unknown = tuple(side.name for side in sides if side.is_tuned and side.name not in facts.forgotten)
    if questions.forgets is not None and unknown:
        text = f"What {', '.join(unknown)} forgot was not measured, so your limit of it was not applied."
        guards.append(Guard("forgetting", text, unknown))
    if questions.budget is not None and unpriced:
        text = f"What training {', '.join(unpriced)} cost is not known, so your budget was not applied to it."
        guards.append(Guard("budget", text, unpriced))
    if form_only:
        text = "Only the form was looked at, as you asked: nothing here says that a reply is right."
        guards.append(Guard("form-only", text))
    if facts.judge:
        guards.append(Guard("judge", f"What is right was said by a model: {facts.judge}"))
    if facts.used_before:
        text = f"{facts.used_before} of these rows were used by an earlier verdict; what it chose fits them too well."
        guards.append(Guard("rows-used-before", text))
    return guards


def what_helps(decision: Decision, table: Table, facts: Facts, terms: Terms) -> list[Reason]:
    """Where nothing is chosen: what most wrong replies of the best side lack, and what would most likely help it."""
    best = next((one for one in decision.standings if one.side == decision.best and one.side != decision.side), None)
    if best is None or decision.choice not in (NONE, UNSURE):
        return []
    found = table.sides[best.side]
    parts = {"format": "the form"} | {name: name.removeprefix("field:") for name in found if name.startswith("field:")}
    if len(parts) == 1:
        parts["content"] = "the content"
    wrong = {name: round((1 - found[name].value) * found[name].n) for name in parts if name in found}
    most = sorted((name for name in wrong if wrong[name]), key=lambda name: -wrong[name])
    if not most:
        return []
    said = ", ".join(f"{parts[name]} in {wrong[name]}" for name in most[:3])
    if best.side in facts.undertrained:
        then = "Train it longer first."
    elif best.rung not in TUNED:
        is_tuned_there = any(one.rung in TUNED for one in decision.standings)
        then = facts.larger if is_tuned_there else "Fine-tune on your rows, and measure that beside it."
    elif most[0] == "format":
        then = "A form is learned in few steps: train it longer, or force it by a constraint."
    else:
        then = _by_rows(best.side, table, facts, terms)
    text = f"{best.side} is wrong by {said} of {found[most[0]].n} replies. {then}"
    return [Reason(text, found[most[0]].value, link("side", best.side, most[0]))]


def _by_rows(best: str, table: Table, facts: Facts, terms: Terms) -> str:
    """What more training rows would do, by a side that learned a part of another's."""
    for many, (few, fewer, rows) in facts.grown.items():
        pairs = (one for one in table.pairs if one.metric == PASS and {one.a, one.b} == {many, few})
        if best in (many, few) and (pair := next(pairs, None)) is not None:
            ends = pair.difference, pair.low, pair.high
            added, low, high = (100 * end for end in (ends if pair.a == many else (-ends[0], -ends[2], -ends[1])))
            likely = "more rows still help" if low > 0 else "whether more rows help is not shown"
            likely = "as many more would hardly help; try a larger base" if high <= 100 * terms.margin else likely
            return f"From {fewer} to {rows} training rows: {added:+.0f} points ({low:+.0f} to {high:+.0f}); {likely}."
    show = "Whether rows do, a side shows that learned half of them (train --rows)."
    return f"More rows like those, more steps on them, or a larger base may help. {show}"


def decided(
    decision: Decision, guards: Sequence[Guard], volume: int | None, prices: Prices, helps: Sequence[Reason]
) -> dict[str, Any]:
    reasons = [
        Reason(_standing_words(one, decision), one.rate, link("side", one.side, PASS)) for one in decision.standings
    ]
    reasons += helps
    reasons += [
        Reason(f"{text[:1].upper()}{text[1:]}; it was left out.", None, link("fact", "limit"))
        for text in decision.left_out
    ]
    reasons += [Reason(guard.sentence, None, link("fact", guard.name)) for guard in guards]
    if volume and not decision.by_cost:
        text = "What a year costs is not known of every side, so the ladder is in its own order."
        reasons.append(Reason(text, None, link("question", "volume")))
    best = next(
        (one.rung for one in decision.standings if one.side == decision.best and one.side != decision.side), None
    )
    at = ", at example prices" if prices.made_up else ""
    order = f" The ladder is in the order of what a year costs{at}." if decision.by_cost else ""
    return {
        "choice": decision.choice,
        "reason": f"{WORDS[decision.choice]}: {decision.sentence}{order}",
        "reasons": [asdict(reason) for reason in reasons],
        "runner_up": None if best is None else "prompt" if best == "base" else best,
        "chosen_side": decision.side or None,
        "rule": decision.leaf,
        "rows_needed": decision.planned_rows if decision.choice == UNSURE else None,
        "planned_rows": decision.planned_rows,
        "look": decision.look,
        "alpha": decision.alpha,
        "as_good_as_best": decision.as_good_as_best,
        "ladder": [asdict(one) | {"rate": one.rate} for one in decision.standings],
        "left_out": list(decision.left_out),
        "by_cost": decision.by_cost,
        "guards": [asdict(guard) for guard in guards],
    }


def _standing_words(one: Standing, decision: Decision) -> str:
    text = f"{one.side}: {one.passed} of {one.n} right, in the long run {one.low:.0%} to {one.high:.0%}"
    if one.set_aside:
        return f"{text}. Set aside ({GUARDS[one.set_aside].lower()})."
    word = "shown good enough" if one.good_enough else "shown below the bar" if one.below_the_bar else "neither shown"
    return f"{text}: {word}."
