"""Answers of all sides -> one verdict: figures, differences, costs and the choice, as one record that can be saved and
shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from playground.evaluation import cost
from playground.evaluation.checks import Check
from playground.evaluation.comparison import (
    PASS,
    TIMED,
    Facts,
    NotWorse,
    Questions,
    Table,
    compare_sides,
    decided,
    guards_of,
    money,
    not_worse,
    overlap_words,
    what_helps,
)
from playground.evaluation.cost import Prices, SideCost, SideFigures, TokenPrices
from playground.evaluation.criterion import Criterion
from playground.evaluation.decision import (
    FEWEST_DRAWS,
    TUNED,
    Candidate,
    Decision,
    Rung,
    Terms,
    decide,
    rows_for_equality,
)
from playground.evaluation.form import labels_of
from playground.evaluation.statistics import Measured

SCHEMA = 2
"""Version of the record; 1 decided by the first check and twelve rules."""
VALIDATION_SEED = 16
EFFORT = ("seconds", "prompt_tokens", "completion_tokens")
"""Metrics of what a reply takes."""
VOLUME = 10_000
"""Requests a month where no volume is given: for the year that costs are shown of."""


@dataclass(frozen=True)
class Answered:
    """What one side said to one example.

    example: its number in the file. prompt: as it was rendered. seconds: from asked to answered, None where it was not
    timed. stamp: what the reply can be replayed from. passages: what a side with documents was given to read. repeats:
    replies of sampled repeats, ``reply`` not among them. loss: mean nats a token of the reference, where it was
    measured. finish: ``stop``, or ``length`` where the token limit ended the reply; "" = not known. marks: judge ->
    whether it calls the reply right. thought_tokens: of the completion's, those thought before the reply."""

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
    finish: str = ""
    marks: Mapping[str, bool] = field(default_factory=dict)
    thought_tokens: int = 0


@dataclass(frozen=True)
class SideFacts:
    """What a side is. training_s: of its adapter, 0 for none; rows_trained: what it learned from, None = not known.
    described: model, prompt, shots, documents, format, think, endpoint. draw_of: the side that this one is another draw
    of, "" = none; drawn: what their draws are, ``shot draws`` or ``training seeds``. cached_tokens: of its prompts,
    those that every request repeats, or that a server read from its cache."""

    name: str
    kind: Rung
    training_s: float = 0.0
    described: Mapping[str, Any] = field(default_factory=dict)
    draw_of: str = ""
    drawn: str = ""
    rows_trained: int | None = None
    cached_tokens: float = 0.0

    @property
    def is_tuned(self) -> bool:
        return self.kind in TUNED

    @property
    def is_remote(self) -> bool:
        """Whether another server answered, now or when it was recorded, at its own prices."""
        return bool(self.described.get("endpoint") or self.is_recorded)

    @property
    def is_recorded(self) -> bool:
        """Whether its replies come from a file, and nobody was asked."""
        return bool(self.described.get("recorded"))

    @property
    def own(self) -> TokenPrices | None:
        """Prices of that server, None where they are not known."""
        prices = (self.described.get("endpoint") or self.described.get("recorded") or {}).get("prices")
        return TokenPrices(**prices) if prices else None


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
    criterion: Criterion | None = None,
    terms: Terms = Terms(),  # noqa: B008
    looks: Sequence[int] = (),
) -> Judged:
    """rows: side -> its answers; sides without any are left out of the figures. Only examples that every side has
    answered count, so that a verdict that was stopped in the middle compares like with like. references: all of the
    file, by which the answers are labels or are not; None = those of the rows that count, which a few asked rows may
    misjudge. criterion: of a right answer, None = the form alone decides. looks: numbers of rows of earlier looks. The
    draws of a side are one side of the record. Raises ValueError when no such example is there."""
    from playground.evaluation.metrics import metrics_for  # evaluate imports torch, which takes seconds

    there = [side for side in sides if rows.get(side.name)]
    common = set.intersection(*({row.example for row in rows[side.name]} for side in there)) if there else set()
    if not common:
        raise ValueError("No example was answered by every side.")
    kept = {
        side.name: sorted((row for row in rows[side.name] if row.example in common), key=lambda row: row.example)
        for side in there
    }
    labels = labels_of(references if references is not None else [row.reference for row in kept[there[0].name]])
    measured = {name: metrics_for(answers, checks, labels, criterion) for name, answers in kept.items()}
    every, there = there, [side for side in there if not side.draw_of]
    draws = {side.name: [side, *(one for one in every if one.draw_of == side.name)] for side in there}
    pooled = {name: _pooled([measured[one.name] for one in many]) for name, many in draws.items()}
    table = compare_sides(pooled)
    timed = {name: found["seconds"] for name, found in table.sides.items() if "seconds" in found}
    figures = {side.name: _figures(table, side) for side in there}
    costs = {side.name: _cost(side, figures[side.name], side.name in timed, questions, prices) for side in there}
    volume = questions.volume
    requests = 12 * (volume or VOLUME)
    candidates = []
    for side in there:
        passes, priced = pooled[side.name][PASS], costs[side.name]
        limit = _limit(table, draws[side.name], priced, questions, prices, facts)
        candidates.append(_candidate(table, side, passes, limit, priced.total(12 * (volume or 0)), facts))
    validation = _validation(there, sorted(common))
    decision = decide(candidates, terms, validation=validation, looks=looks, by_cost=bool(volume))
    against = _against(candidates, there, decision, validation, terms)
    decision = replace(decision, sentence=" ".join([decision.sentence, *(one.words for one in against)]))
    unpriced = tuple(name for name, one in costs.items() if not one.known)
    guards = guards_of(decision, timed, there, unpriced, questions, prices, facts, form_only=criterion is None)
    record = {
        "schema": SCHEMA,
        "examples": len(common),
        "labels": labels,
        "main_metric": PASS,
        "right": criterion.spec if criterion is not None else "",
        "right_words": criterion.label if criterion is not None else "The form alone",
        **asdict(terms),
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
                "seconds_mean": timed[side.name].value if side.name in timed else None,
                "timed": timed[side.name].n if side.name in timed else 0,
                "training_s": side.training_s,
                "rows_trained": side.rows_trained,
                "cached_tokens_mean": side.cached_tokens,
                "cost": {
                    **{name: getattr(costs[side.name], name) for name in ("per_request", "once", "known")},
                    "requests": requests,
                    "items": costs[side.name].items(requests),
                    "total": costs[side.name].total(requests),
                },
                "answers": len(kept[side.name]),
                **_drawn(draws[side.name], measured),
            }
            for side in there
        ],
        "about": {name: asdict(about) for name, about in table.about.items()},
        "pairs": [asdict(pair) for pair in table.pairs],
        **decided(decision, guards, volume, prices, what_helps(decision, table, facts, terms)),
        "not_worse": [asdict(one) for one in against],
        "overlap": facts.overlap,
        "facts": asdict(facts),
        "questions": asdict(questions),
        "prices": asdict(prices),
        "made_up": prices.made_up,
        "cost_curve": [asdict(point) for point in cost.curve(costs, requests)],
        "prompt_length": _prompt_length(there, figures, costs, prices, requests),
    }
    return Judged(_plain(record), measured)


def _pooled(draws: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    """Metrics of one side: what it takes (seconds, tokens) as the mean over its draws, an example at a time; from five
    draws on every figure so where a mean says something, with its draws for the interval; else those of the first."""
    found, counted = dict(draws[0]), len(draws) >= FEWEST_DRAWS
    for name, one in found.items() if len(draws) > 1 else ():
        there = [draw[name] for draw in draws if name in draw and draw[name].tally is None]
        many = [draw.values for draw in there if draw.numbers == one.numbers]
        by_draw = np.array(many, dtype=float)  # NaN where a draw has no value
        same = len(many) == len(draws) and bool((np.isnan(by_draw) == np.isnan(by_draw[0])).all())
        if same and (counted or name in EFFORT):
            means = tuple(None if math.isnan(value) else value for value in by_draw.mean(axis=0).tolist())
            pooled = float(np.nanmean(by_draw))
            found[name] = replace(one, values=means, pooled=pooled, draws=by_draw if counted else None)
    return found


def _drawn(draws: Sequence[SideFacts], measured: Mapping[str, Mapping[str, Measured]]) -> dict[str, Any]:
    """What the record says of a side's draws: each with the share that it passes, their spread, and which sources of
    variation the side's intervals hold."""
    many, what = len(draws), draws[-1].drawn
    if many == 1:
        return {"draws": [], "spread": None, "interval_over": "rows"}
    shares = [measured[one.name][PASS].pooled for one in draws]
    described = [{name: one.described.get(name) for name in ("model", "adapter_sha256")} for one in draws]
    over = f"rows, {many} {what}" if many >= FEWEST_DRAWS else f"rows, of the first of {many} {what}"
    return {
        "draws": [
            {"side": one.name, "value": share} | about
            for one, share, about in zip(draws, shares, described, strict=True)
        ],
        "drawn": what,
        "spread": [min(shares), max(shares)],
        "interval_over": over,
    }


def _cost(side: SideFacts, figures: SideFigures, timed: bool, questions: Questions, prices: Prices) -> SideCost:
    """By seconds, an answer's cost is known only where some were timed: nothing at all would be the cheapest there is;
    of another server, by its own prices, and who pays these hosts nothing. Of a tuned side its training must be known,
    and how many rows were labelled for it. The bare base has no prompt that could be revised."""
    priced = side.own is not None if side.is_remote else timed or prices.device_per_hour is None
    each = cost.cost_per_request(figures, prices) if priced else None
    prices = replace(prices, base_hosting_per_month=0.0) if side.is_remote else prices
    training = cost.training_cost(side.training_s, prices)
    changes = "never" if side.kind == "base" else questions.changes
    labelled = side.rows_trained is not None or not prices.label_each
    known = not side.is_tuned or (labelled and cost.is_training_known(side.training_s, prices))
    return SideCost(each, cost.beside(side.is_tuned, training, side.rows_trained, changes, prices), known)


def _limit(
    table: Table, draws: Sequence[SideFacts], priced: SideCost, questions: Questions, prices: Prices, facts: Facts
) -> str:
    """The person's limits that a side with these draws breaks, "" = none; of several, what the worst one forgot."""
    seconds, most, limits = table.sides[draws[0].name].get("seconds"), questions.latency_s, []
    if most is not None and seconds is not None and seconds.n >= TIMED and seconds.value > most:
        took = f"takes {seconds.value:.1f} s a reply ({seconds.low:.1f} to {seconds.high:.1f})"
        limits.append(f"{took}, above your limit of {most:g} s")
    if questions.budget is not None and priced.known and priced.once > questions.budget:
        limits.append(
            f"training costs {money(priced.once, prices.unit)}, above your {money(questions.budget, prices.currency)}"
        )
    forgot = [facts.forgotten[one.name] for one in draws if one.name in facts.forgotten]
    lost = max(forgot, key=lambda one: one[2], default=None)
    if questions.forgets is not None and lost is not None and lost[2] > questions.forgets:
        limits.append(
            f"may have lost up to {lost[2]:.0f} points of the general questions ({lost[0]:.0f} were measured"
            f"{f', of the worst of {len(forgot)} {draws[-1].drawn}' * (len(forgot) > 1)}), "
            f"above your limit of {questions.forgets:g}"
        )
    return "; ".join(limits)


def _candidate(
    table: Table, side: SideFacts, passes: Measured, limit: str, total: float | None, facts: Facts
) -> Candidate:
    """A side as the decision takes it: its passes in the order of the examples."""
    name, found = side.name, table.sides[side.name]
    passed = np.array(passes.values, dtype=float) if passes.draws is not None else np.array(passes.values) == 1
    cut_off = found["cut_off"].value if "cut_off" in found else 0.0
    leaks = overlap_words(facts.overlaps[name]) if name in facts.overlaps else ""
    leaked = facts.leaked.get(name, 0.0)
    return Candidate(name, side.kind, passed, cut_off, leaked, limit, total, leaks, passes.draws)


def _against(
    candidates: Sequence[Candidate],
    sides: Sequence[SideFacts],
    decision: Decision,
    validation: np.ndarray | None,
    terms: Terms,
) -> list[NotWorse]:
    """Whether what would take the place of a recorded model is not worse than it: the tuned sides that were tested and
    not set aside, or the chosen one where there are none, on the rows that decided."""
    recorded = [side.name for side in sides if side.is_recorded]
    able = [one for one in decision.standings if not one.set_aside and one.side not in recorded]
    new = [one for one in able if one.rung in TUNED] or [one for one in able if one.side == decision.side]
    if not recorded or not new:
        return []
    rows = np.ones(len(candidates[0].passed), dtype=bool)
    if validation is not None and new[0].n < len(rows):
        rows = ~validation
    passes = {one.name: one.on(rows).by_draw for one in candidates}
    mine, theirs = ({name: passes[name] for name in names} for names in ([one.side for one in new], recorded))
    return not_worse(mine, theirs, decision.alpha, terms.margin, rows_for_equality(terms))


def _validation(sides: Sequence[SideFacts], examples: Sequence[int]) -> np.ndarray | None:
    """Where several sides stand on one rung: a fifth of the examples, at least 10 and at most half, on which these
    compete; they are no test rows then. Drawn by the example's number alone, so that from some 50 on rows which are
    added later move none from one part to the other. None where there is one side a rung."""
    if len({side.kind for side in sides}) == len(sides):
        return None
    drawn = np.array([np.random.default_rng((VALIDATION_SEED, number)).random() for number in examples])
    fewest = np.sort(drawn)[min(len(drawn) // 2, 10) - 1] if len(drawn) > 1 else 0.0
    return np.asarray(drawn <= max(fewest, 0.2 if len(drawn) >= 50 else 0.0))


def _figures(table: Table, side: SideFacts) -> SideFigures:
    found = table.sides[side.name]
    seconds = found["seconds"].value if "seconds" in found else 0.0
    tokens = found["prompt_tokens"].value, found["completion_tokens"].value
    return SideFigures(*tokens, seconds, side.is_tuned, side.cached_tokens, side.own)


def _prompt_length(
    sides: Sequence[SideFacts],
    figures: Mapping[str, SideFigures],
    costs: Mapping[str, SideCost],
    prices: Prices,
    requests: int,
) -> dict[str, Any] | None:
    """The length of a prompt from which fine-tuning pays, at a year's requests: of the longest-prompted untuned side
    of this base against the first tuned one, of those whose cost is known in full; None without both."""
    sides = [side for side in sides if side.kind != "larger-model" and costs[side.name].total(requests) is not None]
    tuned = next((side.name for side in sides if side.is_tuned), None)
    others = [side.name for side in sides if not side.is_tuned]
    untuned = max(others, key=lambda name: figures[name].prompt_tokens, default=None)
    if tuned is None or untuned is None:
        return None
    more = costs[tuned].fixed - costs[untuned].fixed
    found = cost.prompt_length_curve(figures[untuned], figures[tuned], prices, more, requests)
    return asdict(found) | {"untuned": untuned, "tuned": tuned, "requests": requests}


def _plain(value: Any) -> Any:
    """As JSON takes it: no NaN, no infinity, no tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
