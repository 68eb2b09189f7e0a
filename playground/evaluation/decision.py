"""The answer of a verdict: the first rung of the ladder that is shown good enough, by a protocol fixed before the first
reply.

A *rung* is an approach (``LADDER``, cheapest to own first). A row passes where its reply has the form AND the content
asked for. Family of tests: one side a rung, by Holm at 5 % (1 % a rung where there are five).

The decision tree; its numbers stand in the code and in docs/decision.md, and each leaf has a sentence and a test:

1. **Limits.** Sides that break what the person stated before (latency, budget, forgetting, "must run here") are taken
   out; they are listed and decide nothing.
2. **Guards.** Leakage above 5 % sets a tuned side aside; more than 5 % of replies cut off by the token limit, any side.
   A side set aside cannot be chosen, and is not counted as "not good enough" either. 5a where no side is left.
3. **Good enough**: the pass rate is at or above the bar, and its exact one-sided lower bound (Clopper and Pearson 1934)
   at or above bar - margin. The first such rung is the answer: 3a where an untuned side passes half of the rows or
   there is none, 3b where there are some and none does (the answer holds for this base only).
4. **Nothing is good enough**: every rung's exact one-sided upper bound, 5 % shared over the rungs, is below the bar,
   also of a side set aside, whose replies that were cut off count as right.
5. **Not enough evidence**: 5a nothing is left to judge; 5b too few rows, or too little of the 5 % left at this look,
   for anything to be shown; 5c neither 3 nor 4 is shown. It comes with the number of rows planned from bar and margin,
   never from the observed effect.

Beside an answer: what each other rung would add, and whether the chosen side is *as good as the best* (the upper bound
of every paired difference, other - chosen, is at most the margin: non-inferiority, Newcombe 1998; no difference shown
is never equality). Looks at a growing set of rows spend the 5 % by Lan and DeMets (1983) in the shape of O'Brien and
Fleming; each look is tested at what it adds, so that the sum bounds the error whatever the dependence.

Several draws of a side (training seeds, shot draws): below five the first one decides, as was stated beforehand, and
the others show their spread. From five on both must hold: the exact test of the mean passes over the draws, rounded
down, and the hierarchical bootstrap over draws and rows; of each bound the outer one is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np

from playground.evaluation import statistics as st

Rung = Literal[
    "base", "prompt", "constraint", "few-shot", "documents", "larger-model", "fine-tune", "fine-tune+documents"
]
LADDER: tuple[Rung, ...] = get_args(Rung)
TUNED: tuple[Rung, ...] = ("fine-tune", "fine-tune+documents")
WORDS = {
    "prompt": "Keep the prompt",
    "constraint": "Constrain its form",
    "few-shot": "Show it examples",
    "documents": "Give it documents",
    "larger-model": "Prompt a larger model",
    "fine-tune": "Fine-tune",
    "fine-tune+documents": "Fine-tune and give it documents",
    "none-good-enough": "Nothing is good enough yet",
    "not-enough-evidence": "Not enough evidence",
}
"""Each choice as a person reads it."""
GUARDS = {
    "leakage": "Trained on",
    "unknown-training": "Unknown",
    "seen-rows": "Rows left out",
    "cut-off": "Cut off",
    "weak-base": "This base only",
    "rows-used-before": "Used before",
    "form-only": "Form only",
    "judge": "A model judged",
    "limit": "Left out",
    "undertrained": "Trained too little",
    "timing": "Not timed well enough",
    "forgetting": "Forgetting unknown",
    "budget": "Cost unknown",
}
"""What each guard of an answer is called in a few words."""
NONE, UNSURE, WEAK = "none-good-enough", "not-enough-evidence", "weak-base"
MOST_LEAKED, MOST_CUT_OFF, HALF = 0.05, 0.05, 0.5
DISCORDANCE = 0.2
"""Share of rows on which two equal sides are expected to differ, for planning: about what the shipped sets show."""
FEWEST_DRAWS = 5
"""Draws of a side from which on these count; fewer are shown."""


@dataclass(frozen=True)
class Terms:
    """What is stated before the first reply. bar: share of rows that must pass. margin: the smallest difference that
    matters. maximum: most rows that a verdict may be extended to, None = it cannot be."""

    bar: float = 0.90
    margin: float = 0.05
    maximum: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.margin < self.bar <= 1:
            raise ValueError(
                f"A bar of {self.bar:.0%} with a margin of {self.margin:.0%} cannot be tested: "
                "the margin is above 0 and below the bar, and the bar is at most 100 %."
            )
        if self.maximum is not None and self.maximum < 1:
            raise ValueError(f"The maximum is {self.maximum} rows; it is at least 1, or is not stated.")

    @property
    def floor(self) -> float:
        """What the lower bound must reach."""
        return self.bar - self.margin


@dataclass(frozen=True)
class Candidate:
    """A side as it was measured. passed: [rows], the same rows in the same order for every side; cut_off: share of its
    replies that the token limit ended; leaked: share of the rows that it may have been trained on (exact, same prompt
    or near-duplicate), None = unknown; leaks: how many in which way, in words; limit: the person's limit that it
    breaks, "" = none; draws: [draws, rows] where there are five or more, of which ``passed`` is the mean."""

    name: str
    rung: Rung
    passed: np.ndarray
    cut_off: float = 0.0
    leaked: float | None = 0.0
    limit: str = ""
    cost: float | None = None
    leaks: str = ""
    draws: np.ndarray | None = None

    @property
    def by_draw(self) -> np.ndarray:
        """[draws, rows]"""
        return self.draws if self.draws is not None else self.passed[None].astype(float)

    def on(self, rows: np.ndarray) -> Candidate:
        """rows: [rows], which of them."""
        return replace(self, passed=self.passed[rows], draws=None if self.draws is None else self.draws[:, rows])


@dataclass(frozen=True)
class Standing:
    """One rung of the family, judged. p_value: of "its true pass rate is below bar - margin", adjusted by Holm. low,
    high: the exact bounds that the tree uses, each one-sided. adds: best estimate and 95 % interval of what it adds to
    the chosen side, None for that side itself."""

    side: str
    rung: Rung
    passed: int
    n: int
    low: float
    high: float
    p_value: float
    good_enough: bool
    below_the_bar: bool
    set_aside: str = ""
    adds: tuple[float, float, float] | None = None

    @property
    def rate(self) -> float:
        return self.passed / self.n if self.n else 0.0


@dataclass(frozen=True)
class Guard:
    """Something that stops, or qualifies, the answer for some sides. name: one of ``GUARDS``. sides: () = for all."""

    name: str
    sentence: str
    sides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """choice: as the contract names it. leaf: of the tree. side: the chosen one, "" = none. planned_rows: for 80 %
    power at the bar's upper half. alpha: what this look may spend. as_good_as_best: None where no side is chosen.
    by_cost: whether the rungs are in the order of their measured cost."""

    standings: tuple[Standing, ...]
    guards: tuple[Guard, ...]
    planned_rows: int | None
    alpha: float
    look: int
    left_out: tuple[str, ...]
    by_cost: bool
    choice: str = UNSURE
    leaf: str = "5a"
    side: str = ""
    sentence: str = ""
    as_good_as_best: bool | None = None
    best: str = ""


def family(candidates: Sequence[Candidate], validation: np.ndarray | None = None) -> list[Candidate]:
    """One side a rung, in the order of the ladder: of several that no guard sets aside, the one that passes most
    validation rows (the first among equals, or where no row is for that). validation: [rows], which of them; they are
    then no test rows. Raises ValueError where a rung has several sides and nothing says which rows these are."""
    kept = []
    for rung in LADDER:
        rivals = [one for one in candidates if one.rung == rung and not one.limit]
        if len(rivals) > 1 and validation is None:
            raise ValueError(f"{len(rivals)} sides stand on the rung {rung}; they compete on validation rows.")
        rivals = [one for one in rivals if not _guards([one], aside=True)] or rivals
        kept += [max(rivals, key=lambda one: float(one.passed[validation].sum()))] if len(rivals) > 1 else rivals
    return kept


def spent(fraction: float, alpha: float = st.ALPHA) -> float:
    """Error spent at this fraction of the maximum of rows (Lan and DeMets 1983, shaped as by O'Brien and Fleming)."""
    if fraction >= 1:
        return alpha
    normal = NormalDist()
    return 2 * (1 - normal.cdf(normal.inv_cdf(1 - alpha / 2) / math.sqrt(fraction))) if fraction > 0 else 0.0


def level(n: int, terms: Terms, looks: Sequence[int] = ()) -> float:
    """What the look at n rows may spend, after looks at these numbers of rows. Without a stated maximum the first look
    spends everything, and a second one nothing."""
    if terms.maximum is None:
        return 0.0 if looks else st.ALPHA
    before = spent(max(looks) / terms.maximum) if looks else 0.0
    return max(0.0, spent(n / terms.maximum) - before)


def decide(
    candidates: Sequence[Candidate],
    terms: Terms,
    *,
    validation: np.ndarray | None = None,
    looks: Sequence[int] = (),
    by_cost: bool = False,
) -> Decision:
    """Walk the tree above. by_cost: order rungs by measured total cost, where every one of them has it, in place of the
    ladder's order. Raises ValueError for sides of unequal rows."""
    lengths = {len(one.passed) for one in candidates}
    if len(lengths) > 1:
        raise ValueError(f"Sides have different numbers of rows: {sorted(lengths)}.")
    left_out = tuple(f"{one.name}: {one.limit}" for one in candidates if one.limit)  # 1
    tested = family(candidates, validation)
    by_cost = by_cost and all(one.cost is not None for one in tested)
    if by_cost:
        tested.sort(key=lambda one: one.cost or 0.0)
    if validation is not None and validation.any() and len(tested) < len(candidates) - len(left_out):
        tested = [one.on(~validation) for one in tested]
    n = len(tested[0].passed) if tested else 0
    alpha = level(n, terms, looks)
    guards, planned = _guards(tested), planned_rows(terms, max(1, len(tested)))
    aside = {side: one.name for one in reversed(guards) if one.name in ("leakage", "cut-off") for side in one.sides}
    standings = [replace(one, set_aside=aside.get(one.side, "")) for one in _judged(tested, terms, alpha)]
    made = Decision(tuple(standings), tuple(guards), planned, alpha, len(looks) + 1, left_out, by_cost)
    able = [one for one in standings if not one.set_aside]  # 2
    if not able:  # 5a
        text = "Nothing is left to judge: every side was set aside, breaks a limit of yours, or was not measured."
        return replace(made, sentence=text)
    good = next((one for one in able if one.good_enough), None)
    if good is not None:  # 3
        return _chosen(made, good, tested, terms)
    best = max(able, key=lambda one: one.rate)
    right = f"{best.side} is right in {best.passed} of {best.n}"
    if all(one.below_the_bar for one in standings):  # 4
        text = f"{right}, and no side can reach {terms.bar:.0%} (each upper bound is below it)."
        return replace(made, choice=NONE, leaf="4", sentence=text, best=best.side)
    fewest = fewest_rows(terms, len(tested), alpha)
    if fewest is None or n < fewest:  # 5b
        if n >= (fewest_rows(terms, len(tested)) or math.inf):
            then = "Look again with more rows." if alpha else "Measure a new verdict on new rows."
            text = f"Of the {st.ALPHA:.0%} of error that all looks share, {alpha:.2%} is left for this one at {n} rows"
            return replace(made, leaf="5b", sentence=f"{text}: it can show nothing. {then}")
        return replace(made, leaf="5b", sentence=f"{_too_few(n, terms)}. {_plan(planned)}")
    text = f"{right}; its true share lies between {best.low:.0%} and {best.high:.0%}, and the bar is {terms.bar:.0%}."
    return replace(made, leaf="5c", sentence=f"{text} {_plan(planned, n)}", best=best.side)  # 5c


def _too_few(rows: int, terms: Terms) -> str:
    many = f"{rows} row{'s' * (rows != 1)}"
    return f"{many} cannot show that anything is right {terms.bar:.0%} of the time, even if every reply is"


def _plan(rows: int | None, there: int = 0) -> str:
    """there: rows that were measured; where these are no fewer than planned, the side is closer to the bar than the
    plan took it to be."""
    if not rows:
        return "No number of rows anybody writes would tell."
    if there >= rows:
        return (
            f"The {rows} rows of the plan tell a side half-way above the bar; nearer to it, it takes more than {there}."
        )
    return f"About {rows} rows would tell in four cases of five."


def _judged(tested: Sequence[Candidate], terms: Terms, alpha: float) -> list[Standing]:
    from scipy import stats  # takes a second to import

    share = alpha / max(1, len(tested))
    counts = [(math.floor(one.passed.sum() + 1e-9), len(one.passed)) for one in tested]
    raw = [float(stats.binom.sf(x - 1, n, terms.floor)) if n else 1.0 for x, n in counts]
    for at, one in enumerate(tested):
        if one.draws is not None and raw[at] < 1:
            raw[at] = max(raw[at], st.hierarchical_p(one.draws, terms.floor))
    made = []
    for one, (x, n), p in zip(tested, counts, st.holm(raw), strict=True):
        low = float(stats.beta.ppf(share, x, n - x + 1)) if x else 0.0
        high = float(stats.beta.ppf(1 - share, x + 1, n - x)) if x < n else 1.0
        # what was cut off might have passed
        most = min(n, x + round(one.cut_off * n)) if one.cut_off > MOST_CUT_OFF else x
        below = bool(n) and most < n and float(stats.beta.ppf(1 - share, most + 1, n - most)) < terms.bar
        if one.draws is not None and n:
            over = st.hierarchical_bootstrap(one.draws, level=1 - 2 * share)
            below = below and over.high + (most - x) / n < terms.bar
            low, high = max(0.0, min(low, over.low)), min(1.0, max(high, over.high))
        good = bool(n) and x / n >= terms.bar and p <= alpha and alpha > 0
        made.append(Standing(one.name, one.rung, x, n, low, high, p, good, below))
    return made


def _guards(tested: Sequence[Candidate], *, aside: bool = False) -> list[Guard]:
    """aside: only those that set a side aside."""
    tuned = [one for one in tested if one.rung in TUNED]
    found = []
    for one in tuned:
        if one.leaked is not None and one.leaked > MOST_LEAKED:
            how = f": {one.leaks}" * bool(one.leaks)
            text = f"{one.name} may have been trained on {one.leaked:.0%} of these rows{how}."
            found.append(Guard("leakage", f"{text} Leave these rows out, or judge it by others.", (one.name,)))
    unknown = tuple(one.name for one in tuned if one.leaked is None)
    if unknown and not aside:
        text = f"What {', '.join(unknown)} was trained on is unknown, so these rows may be among it."
        found.append(Guard("unknown-training", text, unknown))
    if cut := {one.name: f"{one.cut_off:.0%} of {one.name}" for one in tested if one.cut_off > MOST_CUT_OFF}:
        text = f"The token limit cut replies off ({', '.join(cut.values())}). Raise it."
        found.append(Guard("cut-off", text, tuple(cut)))
    untuned = [one for one in tested if one.rung not in TUNED and len(one.passed)]
    if not aside and untuned and all(one.passed.mean() < HALF for one in untuned):
        text = "No untuned side is right in half of the rows: this holds for this base only."
        found.append(Guard(WEAK, text))
    return found


def _chosen(made: Decision, good: Standing, tested: Sequence[Candidate], terms: Terms) -> Decision:
    by_name = {one.name: one for one in tested}

    def against(side: str, level: float = st.LEVEL) -> st.Interval:
        one, other = by_name[side], by_name[good.side]
        if one.draws is None and other.draws is None:
            return st.newcombe_paired(one.passed, other.passed, level)
        return st.paired_draws(one.by_draw, other.by_draw, level)

    able = [one for one in made.standings if not one.set_aside]
    others, best = [one for one in able if one.side != good.side], max(able, key=lambda one: one.rate)
    as_good = all(against(one.side, 1 - 2 * made.alpha).high <= terms.margin for one in others)
    adds = {one.side: against(one.side) for one in made.standings if one.side != good.side}
    text = f"{good.side} is right in {good.passed} of {good.n}, at least {good.low:.0%} in the long run: "
    text += f"good enough for a bar of {terms.bar:.0%}."
    if best.rate > good.rate:
        points = f"{100 * (best.rate - good.rate):.0f} points"
        text += (
            f" {best.side} would add {points} ({100 * adds[best.side].low:+.0f} to {100 * adds[best.side].high:+.0f})."
        )
    if others and as_good:
        text += " It is as good as the best."
    elif others:
        text += f" That it is as good as the best is not shown; about {rows_for_equality(terms):,} rows would tell."
    return replace(
        made,
        choice="prompt" if good.rung == "base" else good.rung,
        leaf="3b" if any(one.name == WEAK for one in made.guards) else "3a",
        side=good.side,
        sentence=text,
        standings=tuple(
            replace(one, adds=(found.value, found.low, found.high)) if (found := adds.get(one.side)) else one
            for one in made.standings
        ),
        as_good_as_best=as_good if others else None,
        best=best.side,
    )


def least_passes(n: int, terms: Terms, rungs: int = 1, alpha: float = st.ALPHA) -> int | None:
    """Passes of n rows from which a rung is shown good enough whatever the others do; None = not even n."""
    from scipy import stats

    needed = max(math.ceil(terms.bar * n - 1e-9), int(stats.binom.isf(alpha / rungs, n, terms.floor)) + 1)
    return needed if needed <= n else None


def fewest_rows(terms: Terms, rungs: int = 1, alpha: float = st.ALPHA) -> int | None:
    """Rows of which all must pass to show anything."""
    if alpha <= 0 or terms.floor >= 1:
        return None
    return math.ceil(math.log(alpha / rungs) / math.log(terms.floor))


def power(n: int, rate: float, terms: Terms, rungs: int = 1, alpha: float = st.ALPHA) -> float:
    """How often a side whose true pass rate this is would be shown good enough."""
    from scipy import stats

    needed = least_passes(n, terms, rungs, alpha)
    return float(stats.binom.sf(needed - 1, n, rate)) if needed is not None else 0.0


def planned_rows(terms: Terms, rungs: int = 1) -> int | None:
    """Rows with which a side half-way between the bar and 100 % is shown good enough in four cases of five. From bar,
    margin and number of rungs alone."""
    rate = (1 + terms.bar) / 2
    n = fewest_rows(terms, rungs) or math.inf
    while n <= st.MOST_ROWS:
        if all(power(int(n) + more, rate, terms, rungs) >= st.POWER for more in (0, 3, 7, 10)):
            return int(n)
        n += max(1, n // 200)
    return None


def rows_for_equality(terms: Terms) -> int:
    """Rows with which two equal sides, that differ on ``DISCORDANCE`` of them, are shown to be within the margin in
    four cases of five."""
    normal = NormalDist()
    z = normal.inv_cdf(1 - st.ALPHA) + normal.inv_cdf(st.POWER)
    return math.ceil(z * z * DISCORDANCE / terms.margin**2)


def power_words(rows: int, terms: Terms, rungs: int) -> str:
    """What so many rows can show of so many rungs by a first look, in words, before anything is measured."""
    needed, planned = least_passes(rows, terms, rungs, level(rows, terms)), planned_rows(terms, rungs)
    can = f"a side is shown good enough from {needed} right replies of {rows} on" if needed is not None else ""
    can = can or _too_few(rows, terms)
    return f"With {rungs} rung{'s' * (rungs != 1)} of the ladder, {can}. {_plan(planned)}"


def confidence_sequence(passed: int, n: int, alpha: float = st.ALPHA) -> tuple[float, float]:
    """An interval of a pass rate that holds at every n at once, so that it may be watched while rows run: the
    beta-binomial mixture martingale with a uniform prior (Robbins 1970) stays below 1/alpha."""
    if n == 0:
        return 0.0, 1.0
    from scipy import optimize

    mixture, tiny = math.lgamma(passed + 1) + math.lgamma(n - passed + 1) - math.lgamma(n + 2), 1e-12

    def excess(p: float) -> float:
        """Of the log of the martingale over that of 1/alpha: below 0 inside."""
        return mixture - passed * math.log(p) - (n - passed) * math.log1p(-p) - math.log(1 / alpha)

    centre = min(max(passed / n, tiny), 1 - tiny)
    low = float(optimize.brentq(excess, tiny, centre)) if passed else 0.0
    return low, float(optimize.brentq(excess, centre, 1 - tiny)) if passed < n else 1.0
