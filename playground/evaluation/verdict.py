"""Answers of all sides -> one verdict: figures, differences, costs and the choice, as one record that can be saved and
shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from playground.evaluation import cost
from playground.evaluation.checks import Check
from playground.evaluation.comparison import TUNED, Facts, Questions, SideKind, Table, compare_sides
from playground.evaluation.cost import Prices, SideCost, SideFigures
from playground.evaluation.decision import choose, main_metric
from playground.evaluation.inferred_checks import labels_of
from playground.evaluation.statistics import Measured

SCHEMA = 1
"""Version of the record."""


@dataclass(frozen=True)
class Answered:
    """What one side said to one example.

    example: its number in the file. prompt: as it was rendered. seconds: from asked to answered, None where it was not
    timed. stamp: what the reply can be replayed from. passages: what a side with documents was given to read. repeats:
    replies of sampled repeats, ``reply`` not among them. loss: mean nats a token of the reference, where it was
    measured."""

    example: int
    side: str
    question: str
    prompt: str
    reply: str
    reference: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    stamp: dict[str, Any] | None
    passages: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()
    loss: float | None = None


@dataclass(frozen=True)
class SideFacts:
    """What a side is. training_s: of its adapter, 0 for none. described: model, prompt, shots, documents."""

    name: str
    kind: SideKind
    training_s: float = 0.0
    described: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_tuned(self) -> bool:
        return self.kind in TUNED


@dataclass(frozen=True)
class Judged:
    """A verdict's parts. measured: side -> metric -> values, for the rows file."""

    record: dict[str, Any]
    measured: dict[str, dict[str, Measured]]


def conclude(
    rows: Mapping[str, Sequence[Answered]],
    sides: Sequence[SideFacts],
    checks: Sequence[Check],
    questions: Questions = Questions(),  # noqa: B008  frozen, and its defaults say "not answered"
    prices: Prices = Prices(),  # noqa: B008
    facts: Facts = Facts(),  # noqa: B008
    references: Sequence[str] | None = None,
) -> Judged:
    """rows: side -> its answers; sides without any are left out of the figures. Only examples that every side has
    answered count, so that a verdict that was stopped in the middle compares like with like. references: all of the
    file, by which the answers are labels or are not; None = those of the rows that count, which a few asked rows may
    misjudge. Raises ValueError when no such example is there."""
    from playground.evaluation.metrics import metrics_for  # evaluate imports torch, which takes seconds

    there = [side for side in sides if rows.get(side.name)]
    common = set.intersection(*({row.example for row in rows[side.name]} for side in there)) if there else set()
    if not common:
        raise ValueError("No example was answered by every side.")
    kept = {side.name: [row for row in rows[side.name] if row.example in common] for side in there}
    labels = labels_of(references if references is not None else [row.reference for row in kept[there[0].name]])
    measured = {name: metrics_for(answers, checks, labels) for name, answers in kept.items()}
    table = compare_sides(measured)
    metric = main_metric(table)
    figures = {side.name: _figures(table, side) for side in there}
    once = {side.name: cost.training_cost(side.training_s, prices) if side.is_tuned else 0.0 for side in there}
    # by seconds, an answer's cost is known only where some were timed: nothing at all would be the cheapest there is
    costs = {
        name: SideCost(cost.cost_per_request(one, prices), once[name])
        for name, one in figures.items()
        if prices.device_per_hour is None or "seconds" in table.sides[name]
    }
    free = {side.name for side in there if side.is_tuned and not cost.is_training_known(side.training_s, prices)}
    whole = {name: one for name, one in costs.items() if name not in free}  # known in full
    choice = choose(table, metric, {side.name: side.kind for side in there}, whole, questions, facts)
    volume, priced = questions.volume or 10_000, {name: asdict(one) for name, one in costs.items()}
    record = {
        "schema": SCHEMA,
        "examples": len(common),
        "labels": labels,
        "main_metric": metric,
        "sides": [
            {
                "side": side.name,
                "kind": side.kind,
                **side.described,
                "metrics": {
                    name: {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
                    for name, one in table.sides[side.name].items()
                },
                "prompt_tokens_mean": figures[side.name].prompt_tokens,
                "completion_tokens_mean": figures[side.name].completion_tokens,
                "seconds_mean": figures[side.name].seconds if "seconds" in table.sides[side.name] else None,
                "training_s": side.training_s,
                "cost": {"per_request": None, "once": once[side.name]} | priced.get(side.name, {}),
                "answers": len(kept[side.name]),
            }
            for side in there
        ],
        "about": {name: asdict(about) for name, about in table.about.items()},
        "pairs": [asdict(pair) for pair in table.pairs],
        "choice": choice.choice,
        "reason": choice.sentence,
        "reasons": [asdict(reason) for reason in choice.reasons],
        "runner_up": choice.runner_up,
        "chosen_side": choice.side,
        "rule": choice.rule,
        "rows_needed": choice.rows_needed,
        "overlap": facts.overlap,
        "facts": asdict(facts),
        "questions": asdict(questions),
        "prices": asdict(prices),
        "cost_curve": [asdict(point) for point in cost.curve(costs, 12 * volume)] if costs else [],
        "prompt_length": _prompt_length([side for side in there if side.name in whole], figures, whole, prices, volume),
    }
    return Judged(_plain(record), measured)


def _figures(table: Table, side: SideFacts) -> SideFigures:
    found = table.sides[side.name]
    seconds = found["seconds"].value if "seconds" in found else 0.0
    return SideFigures(found["prompt_tokens"].value, found["completion_tokens"].value, seconds, side.is_tuned)


def _prompt_length(
    sides: Sequence[SideFacts],
    figures: Mapping[str, SideFigures],
    costs: Mapping[str, SideCost],
    prices: Prices,
    volume: int,
) -> dict[str, Any] | None:
    """The length of a prompt from which fine-tuning pays, at a year's requests (volume: a month's): of the
    longest-prompted untuned side against the first tuned one, of those whose cost is known in full; None without
    both."""
    tuned = next((side.name for side in sides if side.is_tuned), None)
    others = [side.name for side in sides if not side.is_tuned]
    untuned = max(others, key=lambda name: figures[name].prompt_tokens, default=None)
    if tuned is None or untuned is None:
        return None
    found = cost.prompt_length_curve(figures[untuned], figures[tuned], prices, costs[tuned].once, 12 * volume)
    return asdict(found) | {"untuned": untuned, "tuned": tuned, "requests": 12 * volume}


def _plain(value: Any) -> Any:
    """As JSON takes it: no NaN, no infinity, no tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
