"""Answers of all sides -> one verdict: figures, differences, costs and the choice, as one record that can be saved and
shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from playground.evaluation.checks import Check
from playground.evaluation.comparison import Table, compare_sides
from playground.evaluation.cost import (
    Prices,
    SideCost,
    SideFigures,
    cost_per_request,
    curve,
    is_training_known,
    prompt_length_curve,
    training_cost,
)
from playground.evaluation.decision import Choice, Facts, Questions, SideKind, choose, main_metric
from playground.evaluation.statistics import Measured
from playground.evaluation.text_metrics import labels_of

SCHEMA = 1
"""Version of the record."""
TUNED: tuple[SideKind, ...] = ("tuned", "tuned+documents")


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
    """What a side is. kind: as the choice needs it. training_s: of its adapter, 0 for none. described: model, prompt,
    shots, documents."""

    name: str
    kind: SideKind
    training_s: float = 0.0
    described: Mapping[str, Any] = field(default_factory=dict)


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
    costs = {side.name: _cost(table, side, prices) for side in there if _is_known(table, side, prices)}
    whole = {side.name: costs[side.name] for side in there if side.name in costs and _is_trained_known(side, prices)}
    choice = choose(table, metric, {side.name: side.kind for side in there}, whole, questions, facts)
    record = {
        "schema": SCHEMA,
        "examples": len(common),
        "labels": labels,
        "main_metric": metric,
        "sides": [_side(table, side, costs.get(side.name), prices, kept[side.name]) for side in there],
        "about": {name: asdict(about) for name, about in table.about.items()},
        "pairs": [_plain(asdict(pair)) for pair in table.pairs],
        **_chosen(choice),
        "overlap": facts.overlap,
        "facts": asdict(facts),
        "questions": asdict(questions),
        "prices": asdict(prices),
        **_curves(table, there, costs, whole, questions, prices),
    }
    return Judged(_plain(record), measured)


def _side(
    table: Table, side: SideFacts, cost: SideCost | None, prices: Prices, answers: Sequence[Answered]
) -> dict[str, Any]:
    """cost: None where an answer costs its seconds, and none was timed; then what training cost is known still."""
    found = table.sides[side.name]
    return {
        "side": side.name,
        "kind": side.kind,
        **side.described,
        "metrics": {
            name: {key: getattr(one, key) for key in ("value", "low", "high", "n")} for name, one in found.items()
        },
        "prompt_tokens_mean": found["prompt_tokens"].value,
        "completion_tokens_mean": found["completion_tokens"].value,
        "seconds_mean": found["seconds"].value if "seconds" in found else None,
        "training_s": side.training_s,
        "cost": asdict(cost) if cost is not None else {"per_request": None, "once": _once(side, prices)},
        "answers": len(answers),
    }


def _figures(table: Table, side: SideFacts) -> SideFigures:
    found = table.sides[side.name]
    seconds = found["seconds"].value if "seconds" in found else 0.0
    return SideFigures(found["prompt_tokens"].value, found["completion_tokens"].value, seconds, side.kind in TUNED)


def _is_known(table: Table, side: SideFacts, prices: Prices) -> bool:
    """Whether an answer's cost is: by seconds, only where some were timed. Nothing at all would be the cheapest there
    is."""
    return prices.device_per_hour is None or "seconds" in table.sides[side.name]


def _is_trained_known(side: SideFacts, prices: Prices) -> bool:
    return side.kind not in TUNED or is_training_known(side.training_s, prices.training, prices.training_per_hour)


def _cost(table: Table, side: SideFacts, prices: Prices) -> SideCost:
    return SideCost(cost_per_request(_figures(table, side), prices), _once(side, prices))


def _once(side: SideFacts, prices: Prices) -> float:
    return training_cost(side.training_s, prices) if side.kind in TUNED else 0.0


def _chosen(choice: Choice) -> dict[str, Any]:
    return {
        "choice": choice.choice,
        "reason": choice.sentence,
        "reasons": [asdict(reason) for reason in choice.reasons],
        "runner_up": choice.runner_up,
        "chosen_side": choice.side,
        "rule": choice.rule,
        "rows_needed": choice.rows_needed,
    }


def _curves(
    table: Table,
    sides: Sequence[SideFacts],
    costs: Mapping[str, SideCost],
    whole: Mapping[str, SideCost],
    questions: Questions,
    prices: Prices,
) -> dict[str, Any]:
    """Total costs over requests, a year's worth of them at the given volume (10,000 a month where none was given), and
    the length of a prompt from which fine-tuning pays: of the longest-prompted untuned side against the first tuned
    one. Sides whose cost is not known are left out; of the length, also those of which nobody knows what training cost
    (whole: the others)."""
    volume = questions.volume or 10_000
    drawn = curve(costs, 12 * volume) if costs else ()
    made: dict[str, Any] = {"cost_curve": [asdict(point) for point in drawn], "prompt_length": None}
    sides = [side for side in sides if side.name in whole]
    tuned = next((side for side in sides if side.kind in TUNED), None)
    untuned = max(
        (side for side in sides if side.kind not in TUNED),
        key=lambda side: table.sides[side.name]["prompt_tokens"].value,
        default=None,
    )
    if tuned is not None and untuned is not None:
        once = costs[tuned.name].once
        lengths = prompt_length_curve(_figures(table, untuned), _figures(table, tuned), prices, once, 12 * volume)
        made["prompt_length"] = asdict(lengths) | {
            "untuned": untuned.name,
            "tuned": tuned.name,
            "requests": 12 * volume,
        }
    return made


def _plain(value: Any) -> Any:
    """As JSON takes it: no NaN, no infinity, no tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
