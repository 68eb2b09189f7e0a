"""What an answer of a verdict says beside its choice: why, what qualifies it, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from playground.evaluation.comparison import Facts, Questions, Reason, Table, link
from playground.evaluation.cost import Prices
from playground.evaluation.decision import GUARDS, NONE, TUNED, UNSURE, WEAK, WORDS, Decision, Guard, Standing, Terms
from playground.evaluation.statistics import Interval

if TYPE_CHECKING:
    from playground.evaluation.verdict import SideFacts

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
