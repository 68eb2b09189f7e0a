"""The answer: keep the prompt, few-shot, documents, fine-tune, both, or too little evidence. By stated rules, from
measured figures."""

from __future__ import annotations

from collections.abc import Mapping

from playground.evaluation.checks import is_check
from playground.evaluation.comparison import (
    ANSWERS,
    NO_FACTS,
    TUNED,
    UNTUNED,
    WORDS,
    Choice,
    Contest,
    Facts,
    Questions,
    Reason,
    SideKind,
    Table,
    link,
    money,
)
from playground.evaluation.cost import SideCost

FEWEST_EXAMPLES = 10
"""With fewer test examples nothing is concluded."""
MOST_OVERLAP = 0.05
"""The share of test examples that a side may have been trained on."""
GAIN, BIG_GAIN, NO_WORSE = 0.05, 0.20, 0.10
"""Least gain worth a change; gain that is worth it whatever the payback; most that the interval may leave open where
two count as equally good. Shares (5 points of a hundred) for yes/no metrics; of the other side's figure for all
others."""
BAR, BAR_LOW = 0.95, 0.80
"""An untuned side does it already: its share, and the low end of its interval."""
FEWEST_ROWS, MOST_POOR = 30, 0.25
"""Rows to train on, and the share of them that is poor."""
PAYBACK_MONTHS = {"never": 12, "monthly": 1, "weekly": 0}
"""Months within which training is to be paid back, by how often the task changes."""
WORTH_SAVING = 500.0
"""A year's saving, in the prices' currency, from which it is worth fine-tuning for cost alone."""
BESIDE = ("accuracy", "rouge_l", "token_f1", "groundedness")
"""On these the side that is chosen is compared as well, and said where it is behind."""


def main_metric(table: Table) -> str | None:
    """What the choice is made by: 1. the first check, as they were given; 2. accuracy, where the answers are labels; 3.
    like-references; 4. rouge_l; 5. token_f1; None where nothing of it was measured. A metric counts only where all
    sides have it."""
    common = [name for name in table.about if all(name in side for side in table.sides.values())]
    checks = [name for name in common if is_check(name)]
    for name in (*checks[:1], "accuracy", "like-references", "rouge_l", "token_f1"):
        if name in common:
            return name
    return None


def choose(
    table: Table,
    metric: str | None,
    kinds: Mapping[str, SideKind],
    costs: Mapping[str, SideCost],
    questions: Questions,
    facts: Facts = NO_FACTS,
) -> Choice:
    """The answer, by these rules; the first that fits decides. A gain is *shown* where its adjusted p-value is at most
    0.05.

    1. No metric, or fewer than 10 test examples: not enough evidence. 2. Set aside (decides nothing by itself): tuned
    sides, where more than 5 % of the test examples were trained on; then sides slower than the latency limit, unless
    all are. Sides that were not timed stay, and that is said. 3. The best untuned side is the better of base and
    prompt, or what has a shown gain of at least 5 points over it; where that is not at the bar of rule 5, also what
    leads it by 5 points and is at the bar by itself. No untuned side is left: not enough evidence. 4. The best tuned
    side is found likewise: the plain one, the one with documents where that gain is shown, and either where only its
    gain over the best untuned side is shown. As good, and much cheaper: it is not behind, the interval leaves at most
    10 points open, the task never changes, training is paid back within 12 months, a year saves at least 500, and 8 to
    10 do not forbid it: fine-tune. 5. The best untuned side is at the bar (95 %, low end of the interval at least 80
    %): that side. 6. No other side leads it by 5 points: that side. 7. A side does, and that is not shown: not enough
    evidence, with how many examples would do. 8. Fewer than 30 rows trained on, or more than 25 % poor ones: the best
    untuned side. 9. The task changes weekly: the best untuned side. 10. Training costs more than the budget: the best
    untuned side. 11. The gain is below 20 points, and at the given volume training is not paid back within 12 months (1
    where the task changes monthly): the best untuned side. 12. Fine-tune, with documents where that side won.

    costs may lack sides; rules 4, 10 and 11 are then silent, and that is said. Raises ValueError for a side without a
    kind."""
    if missing := [side for side in table.sides if side not in kinds]:
        raise ValueError(f"No kind was given for {', '.join(missing)}.")
    return _Case(table, metric or "", kinds, costs, questions, facts).decided()


class _Case:
    def __init__(
        self,
        table: Table,
        metric: str,
        kinds: Mapping[str, SideKind],
        costs: Mapping[str, SideCost],
        questions: Questions,
        facts: Facts,
    ) -> None:
        having = tuple(side for side, found in table.sides.items() if metric in found)
        self._of = Contest(table, metric, kinds, costs, having)
        self._questions, self._facts = questions, facts
        self._reasons: list[Reason] = []

    def decided(self) -> Choice:
        n = max((self._of.interval(side).n for side in self._of.only), default=0)
        if n < FEWEST_EXAMPLES:  # 1
            self._say(Reason(f"{n} test examples were measured.", n, link("fact", "examples")))
            return self._unsure(1, f"{n} test examples are too few to conclude anything.", FEWEST_EXAMPLES)
        self._set_aside(n)  # 2
        of = self._of
        untuned = self._at_the_bar(self._standing(("base", "prompt"), ("few-shot", "documents")))
        if untuned is None:  # 3
            return self._unsure(3, "there is no untuned side to judge the others by.", None, of.best(of.only))
        least = of.share(GAIN, untuned)
        tuned = self._tuned(untuned, least)
        if tuned is not None:
            self._say_unknown_costs(tuned, untuned)
        if tuned is not None and self._cheaper(tuned, untuned):  # 4
            return self._keep(tuned, 4, untuned, "It is as good, and much cheaper at your volume.")
        self._say(of.compared(tuned, untuned) if tuned else None)
        second = tuned or of.best(side for side in of.only if ANSWERS[of.kinds[side]] != ANSWERS[of.kinds[untuned]])
        if self._good_enough(untuned):  # 5
            return self._keep(untuned, 5, second, "That is as good as it needs to be.")
        ahead = tuned if tuned and of.gain(tuned, untuned) >= least else self._open(untuned, least)
        if ahead is None:  # 6
            return self._keep(untuned, 6, second, "No other side is ahead by enough to matter." if second else "")
        if not of.shown(ahead, untuned):  # 7
            self._say(of.compared(ahead, untuned))
            pair = of.pair(ahead, untuned)
            lead = f"{ahead} leads {untuned} by {of.lead(ahead, untuned)}, which may be chance."
            return self._unsure(7, lead, pair.rows_needed if pair else None, ahead)
        against = self._against(ahead, untuned)
        if against is not None:  # 8 to 11
            rule, reason = against
            self._say(reason)
            return self._keep(untuned, rule, ahead, reason.text)
        return self._keep(ahead, 12, untuned, "The gain is more than chance.")

    def _set_aside(self, n: int) -> None:
        overlap, limit = self._facts.overlap, self._questions.latency_s
        tuned = self._of.of_kind(TUNED)
        if overlap and tuned:
            text = f"{overlap} of {n} test examples were trained on"
            if overlap > MOST_OVERLAP * n:
                text += ", so the tuned sides are left out. Judge them by examples they have not seen"
                self._without(tuned)
            self._say(Reason(text + ".", overlap, link("fact", "overlap")))
        if limit is None:
            return
        found = self._of.table.sides
        times = {side: found[side]["seconds"].value for side in self._of.only if "seconds" in found[side]}
        untimed = [side for side in self._of.only if side not in times]
        if untimed:
            who = (
                f"{', '.join(untimed)} {'was' if len(untimed) == 1 else 'were'} not timed"
                if times
                else "No side was timed"
            )
            text = f"{who}, so your limit of {limit:g} s could not be checked{' there' if times else ''}."
            self._say(Reason(text, limit, link("question", "latency_s")))
        slow = [side for side, seconds in times.items() if seconds > limit]
        for side in slow:
            text = f"{side} takes {times[side]:.1f} s an answer, above your limit of {limit:g} s."
            self._say(Reason(text, times[side], link("side", side, "seconds")))
        if len(slow) < len(self._of.only):
            self._without(slow)
        else:
            self._say(
                Reason("No side keeps to the limit, so it decides nothing.", limit, link("question", "latency_s"))
            )

    def _without(self, sides: list[str]) -> None:
        of = self._of
        self._of = Contest(
            of.table, of.metric, of.kinds, of.costs, tuple(side for side in of.only if side not in sides)
        )

    def _standing(self, first: tuple[SideKind, ...], then: tuple[SideKind, ...]) -> str | None:
        """The best of the first kinds, or what has a shown gain over it; the best of ``then`` where there is none of
        the first."""
        of = self._of
        standing = of.best(of.of_kind(first))
        if standing is None:
            return of.best(of.of_kind(then))
        least = of.share(GAIN, standing)
        better = of.best(
            side for side in of.of_kind(then) if of.gain(side, standing) >= least and of.shown(side, standing)
        )
        if better is not None:
            self._say(of.compared(better, standing))
        return better or standing

    def _good_enough(self, side: str) -> bool:
        of, interval = self._of, self._of.interval(side)
        return of.yes_no and of.sign > 0 and interval.value >= BAR and interval.low >= BAR_LOW

    def _at_the_bar(self, standing: str | None) -> str | None:
        """``standing``, or the untuned side that does the job by itself where that one does not, though its lead may be
        chance."""
        of = self._of
        if standing is None or self._good_enough(standing):
            return standing
        least = of.share(GAIN, standing)
        better = of.best(
            side for side in of.of_kind(UNTUNED) if of.gain(side, standing) >= least and self._good_enough(side)
        )
        if better is not None:
            self._say(of.compared(better, standing))
        return better or standing

    def _tuned(self, untuned: str, least: float) -> str | None:
        of = self._of
        standing = self._standing(("tuned",), ("tuned+documents",))
        if standing is None or (of.gain(standing, untuned) >= least and of.shown(standing, untuned)):
            return standing
        shown = [side for side in of.of_kind(TUNED) if of.gain(side, untuned) >= least and of.shown(side, untuned)]
        return of.best(shown) or standing

    def _open(self, untuned: str, least: float) -> str | None:
        """Whoever else leads by enough to matter: that is not shown, else it would stand in the place of
        ``untuned``."""
        of = self._of
        return of.best(
            side for side in of.of_kind((*UNTUNED, *TUNED)) if side != untuned and of.gain(side, untuned) >= least
        )

    def _cheaper(self, tuned: str, untuned: str) -> bool:
        of, volume = self._of, self._questions.volume
        requests, worst = of.payback(tuned, untuned), of.worst_gain(tuned, untuned)
        if self._questions.changes != "never" or not volume or requests is None or worst is None:
            return False
        saving = 12 * volume * (of.costs[untuned].per_request - of.costs[tuned].per_request)
        as_good = of.gain(tuned, untuned) >= 0 and worst >= -of.share(NO_WORSE, untuned)
        if (
            not as_good
            or requests / volume > PAYBACK_MONTHS["never"]
            or saving < WORTH_SAVING
            or self._unfit(tuned) is not None
        ):
            return False
        self._say(of.compared(tuned, untuned))
        text = f"At your volume {tuned} saves {money(saving, self._facts.currency)} a year."
        self._say(Reason(text, saving, link("cost", tuned)))
        return True

    def _say_unknown_costs(self, tuned: str, untuned: str) -> None:
        costs, questions = self._of.costs, self._questions
        unknown = [side for side in (tuned, untuned) if side not in costs]
        if questions.volume and unknown:
            text = f"What {' and '.join(unknown)} cost{'s' * (len(unknown) == 1)} is not known in full, "
            text += "so your volume could not be weighed."
            self._say(Reason(text, questions.volume, link("question", "volume")))
        if questions.budget is not None and tuned not in costs:
            text = f"What {tuned} costs is not known in full, so your budget could not be weighed."
            self._say(Reason(text, questions.budget, link("question", "budget")))

    def _unfit(self, tuned: str) -> tuple[int, Reason] | None:
        """Rules 8 to 10: what speaks against training at all, the first of it."""
        facts, questions, currency = self._facts, self._questions, self._facts.currency
        rows, once = facts.rows_trained, self._of.costs[tuned].once if tuned in self._of.costs else 0.0
        if rows is not None and rows < FEWEST_ROWS:  # 8
            text = f"The tuned model learned from {rows} rows; "
            text += f"fewer than {FEWEST_ROWS} are learned by heart. Collect more."
            return 8, Reason(text, rows, link("fact", "rows_trained"))
        if facts.poor_share > MOST_POOR:
            text = f"{facts.poor_share:.0%} of the rows are bad, repeated or contradict each other. Mend them first."
            return 8, Reason(text, facts.poor_share, link("fact", "poor_share"))
        if questions.changes == "weekly":  # 9
            text = "The task changes every week: a prompt is changed in a minute, "
            text += "a model would be trained again each time."
            return 9, Reason(text, None, link("question", "changes"))
        if questions.budget is not None and once > questions.budget:  # 10
            text = f"Training costs {money(once, currency)}; your budget is {money(questions.budget, currency)}."
            return 10, Reason(text, once, link("question", "budget"))
        return None

    def _against(self, tuned: str, untuned: str) -> tuple[int, Reason] | None:
        """Rules 8 to 11."""
        of, volume, changes = self._of, self._questions.volume, self._questions.changes
        if (unfit := self._unfit(tuned)) is not None:
            return unfit
        known = tuned in of.costs and untuned in of.costs
        if not volume or not known or of.gain(tuned, untuned) >= of.share(BIG_GAIN, untuned):
            return None
        requests = of.payback(tuned, untuned)  # 11
        if requests is None:
            text = f"An answer of {tuned} costs no less, so its training is never paid back, and the gain is modest."
            return 11, Reason(text, None, link("cost", tuned))
        if requests / volume > PAYBACK_MONTHS[changes]:
            text = (
                f"Training is paid back after {requests:,} requests, {requests / volume:,.1f} months at your volume, "
            )
            text += "and the gain is modest."
            return 11, Reason(text, requests, link("cost", tuned))
        return None

    def _say(self, reason: Reason | None) -> None:
        if reason is not None and all(reason.link != said.link for said in self._reasons):
            self._reasons.append(reason)

    def _keep(self, side: str, rule: int, other: str | None, because: str) -> Choice:
        of = self._of
        interval, answer = of.interval(side), ANSWERS[of.kinds[side]]
        text = f"{side} reaches {of.figure(side)} on {of.metric}"
        if of.yes_no and of.sign > 0 and interval.value < 0.5:
            text += ": not half of them yet"
        self._say(Reason(text + ".", interval.value, link("side", side, of.metric)))
        if other is not None:
            self._beside(side, other)
        sentence = f"{WORDS[answer]}: {side} reaches {of.figure(side)} on {of.metric}"
        sentence += f", {other} {of.figure(other)}. {because}" if other is not None else f". {because}"
        runner_up = ANSWERS[of.kinds[other]] if other is not None else None
        return Choice(
            answer, sentence.strip(), tuple(self._reasons), runner_up if runner_up != answer else None, side, rule
        )

    def _beside(self, side: str, other: str) -> None:
        """What else there is to know: where the chosen side is shown to be behind, and when training is paid back."""
        of = self._of
        for name in BESIDE:
            pair = of.table.pair(side, other, name)
            if name != of.metric and pair is not None and pair.enough and pair.difference < 0:
                self._say(of.compared(side, other, name))
        tuned, untuned = (side, other) if of.kinds[side] in TUNED else (other, side)
        requests = of.payback(tuned, untuned) if of.kinds[tuned] in TUNED and of.kinds[untuned] not in TUNED else None
        if requests is not None:
            once = money(of.costs[tuned].once, self._facts.currency)
            text = f"Training ({once}) is paid back after {requests:,} requests."
            self._say(Reason(text, requests, link("cost", tuned)))

    def _unsure(self, rule: int, lead: str, rows: int | None, leader: str | None = None) -> Choice:
        sentence = f"{WORDS['not-enough-evidence']}: {lead}"
        if rows is not None:
            sentence += f" {'At least' if rule == 1 else 'About'} {rows:,} test examples would tell."
        runner_up = ANSWERS[self._of.kinds[leader]] if leader is not None else None
        return Choice("not-enough-evidence", sentence, tuple(self._reasons), runner_up, None, rule, rows)
