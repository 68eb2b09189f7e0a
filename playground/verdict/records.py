"""The record of a verdict: made of what was asked and answered, and made again by other answers of the person."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from playground.chat.compare import Side
from playground.data.example import Example, uses_tools
from playground.data.render import encode
from playground.data.split import overlaps, part, unseen
from playground.data.tools import OPEN
from playground.errors import InputError, PlaygroundError
from playground.evaluation.checks import Check, parse_check
from playground.evaluation.comparison import Facts
from playground.evaluation.criterion import Criterion, Tool, judges_in, mark_key, parse_criteria, suggested
from playground.evaluation.decision import MOST_LEAKED, Rung, confidence_sequence
from playground.evaluation.form import looks_like
from playground.evaluation.values import is_blank
from playground.evaluation.verdict import Answered, Judged, SideFacts, conclude
from playground.library.adapters import AdapterCard
from playground.library.card import read_run, united
from playground.library.files import file_sha256
from playground.models.bases import BaseService
from playground.training.spec import RunSettings, settings_of
from playground.verdict.files import answer_of, row_of
from playground.verdict.request import VerdictRequest
from playground.workspace.examples import DataService

NEAR = 0.999
"""The most that a reply is worth that does not pass."""
WHERE = "It is in the Device panel, under Another base; then it can be a side as well."
FEWEST_OTHERS = 5
"""Rows that are not judged by; with fewer, the form of the references is read from those that are."""


class Kept(NamedTuple):
    """What is saved: record, the lines of the rows file, and the references that the form was read from."""

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    known: list[str]


class SoFar(NamedTuple):
    """What is known of a side while rows run. low, high: a confidence sequence's."""

    side: str
    passed: int
    n: int
    low: float
    high: float


Cards = Callable[[VerdictRequest], list[AdapterCard | None]]
"""Whose weights answer each side, None = those of the base in use."""


class RecordMaker:
    """Makes them; keeps nothing."""

    def __init__(self, bases: BaseService, data: DataService, cards: Cards) -> None:
        self._bases, self._data, self._cards = bases, data, cards

    def make(
        self,
        request: VerdictRequest,
        answers: Collection[Answered],
        about: Mapping[str, Any],
        used: Collection[int] = (),
    ) -> Kept:
        """about: what else the record says; who ``failed`` is left out. used: rows of this file that earlier verdicts
        measured. Raises InputError without a common example."""
        able = tuple(side for side in request.sides if side.label not in about.get("failed", {}))
        request = replace(request, sides=able or request.sides)
        by_side: dict[str, list[Answered]] = {side.label: [] for side in request.sides}
        for answer in answers:
            by_side[answer.side].append(answer)
        cards = self._cards(request)
        there = self._data.check(request.file, request.mapping, request.owner).examples
        judged_by = {answer.example: answer.reference for answer in answers}
        chosen = set(request.rows if request.rows is not None else (one.row for one in there))
        others = [one.completion for one in judged_at(there, request) if one.row not in chosen]
        known = others if len(others) >= FEWEST_OTHERS else list(judged_by.values())
        if not set.intersection(*({answer.example for answer in one} for one in by_side.values())):
            raise InputError("No example was answered by every side.")
        sides = _with_draws(request.sides, cards)
        sides = [
            _elsewhere(one, by_side[one.name]) or self._repeating(one, by_side[one.name], card)
            for one, card in zip(sides, cards, strict=True)
        ]
        facts = self._facts(request, [example for example in there if example.row in judged_by], cards)
        judge = " ".join(one["words"] for one in about.get("judges", ()))
        lost = {side: one["lost"] for side, one in about.get("forgetting", {}).items() if one.get("lost")}
        seen, used_before = rows_judged(request, there, cards)[1], len(judged_by.keys() & set(used))
        facts = replace(facts, used_before=used_before, judge=judge, forgotten=lost, left_out=seen)
        if (offer := self._bases.larger(cards)) is not None:
            named = f"{offer.known.name} fits this device ({offer.chat_bytes / 1e9:.1f} GB)"
            facts = replace(facts, larger=f"Try a larger base: {named}. {WHERE} Or try an endpoint.")
        base, checks = self._bases.resolve(), _checks(request, known)
        judged = self._judged(request, by_side, sides, checks, facts)
        asked = {
            "file": request.file.name,
            "data_sha256": file_sha256(request.file),
            "base": base.id,
            "base_fingerprint": base.fingerprint,
            "checks": [check.spec for check in checks],
            "device": _device(answers),
        } | {name: getattr(request, name) for name in ("seed", "repeats", "max_tokens", "temperature", "tried")}
        rows = [row_of(answer, judged.measured[answer.side]) for one in by_side.values() for answer in one]
        return Kept(judged.record | asked | dict(about), sorted(rows, key=lambda row: row["example"]), known)

    def criterion(self, request: VerdictRequest) -> Criterion | None:
        """What is right by the answers of the file. Raises InputError where the words of the request do not fit."""
        return self._right(request, ())[1]

    def so_far(self, request: VerdictRequest, answers: Collection[Answered]) -> tuple[SoFar, ...]:
        """Each side's passes among these answers, with an interval that holds at every number of rows."""
        answers = _judged_ones(request, answers)
        passes, found = self.passing(request, answers), []
        for side in request.sides:
            if side.draw > 1:
                continue
            right = [passes(one) for one in answers if one.side == side.label]
            found.append(SoFar(side.label, sum(right), len(right), *confidence_sequence(sum(right), len(right))))
        return tuple(found)

    def passing(self, request: VerdictRequest, answers: Sequence[Answered] = ()) -> Callable[[Answered], bool]:
        """What tells whether a reply passes: every check, and the criterion. answers: with the marks of judges."""
        _, criterion = self._right(request, answers)
        checks = [parse_check(spec) for spec in request.checks]

        def passes(one: Answered) -> bool:
            formed = not is_blank(one.reply, one.reference) and all(check.passes(one.reply) for check in checks)
            return formed and (criterion is None or criterion.mark(one.reply, one.reference, one.question).right)

        return passes

    def graded(self, request: VerdictRequest, answers: Sequence[Answered] = ()) -> Callable[[Answered], float]:
        """As ``passing``: 1 where a reply passes, below 1 how near it comes, by its checks and its content."""
        passes, criterion = self.passing(request, answers), self._right(request, answers)[1]
        checks = [parse_check(spec) for spec in request.checks]

        def grade(one: Answered) -> float:
            if passes(one):
                return 1.0
            kept = [float(check.passes(one.reply)) for check in checks]
            parts = [*kept, criterion.near(one.reply, one.reference)] if criterion is not None else kept
            return NEAR * sum(parts) / max(1, len(parts))

        return grade

    def again(self, kept: Kept, request: VerdictRequest) -> Kept:
        """Costs and choice by the request's answers and prices; the figures stay as they were."""
        record = kept.record
        facts = Facts(**{name: one for name, one in record["facts"].items() if name in Facts.__dataclass_fields__})
        sides = []
        for one in record["sides"]:
            said = {name: one[name] for name in DESCRIBED if name in one}
            beside = {"rows_trained": one.get("rows_trained"), "cached_tokens": one.get("cached_tokens_mean", 0.0)}
            sides.append(SideFacts(one["side"], one["kind"], one["training_s"], said, **beside))
            for draw in one.get("draws", ())[1:]:
                other = said | {name: draw[name] for name in ("model", "adapter_sha256")}
                drawn = (one["side"], one["drawn"])
                sides.append(SideFacts(draw["side"], one["kind"], one["training_s"], other, *drawn, **beside))
        answers = defaultdict[str, list[Answered]](list)
        for row in kept.rows:
            answers[row["side"]].append(answer_of(row))
        judged = self._judged(request, answers, sides, _checks(request, kept.known), facts)
        others = {name: record[name] for name in record if name not in judged.record}
        return kept._replace(record=judged.record | others)

    def _repeating(self, side: SideFacts, answers: Sequence[Answered], card: AdapterCard | None) -> SideFacts:
        """With the tokens that all of its prompts begin with; 0 with fewer than two different ones."""
        prompts = {answer.prompt for answer in answers}
        if len(prompts) < 2:
            return side
        first, last = (encode(self._bases.tokenizer(card), text) for text in (min(prompts), max(prompts)))
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        return replace(side, cached_tokens=sum(1 for _ in same))

    def _judged(
        self,
        request: VerdictRequest,
        answers: Mapping[str, Sequence[Answered]],
        sides: Sequence[SideFacts],
        checks: Sequence[Check],
        facts: Facts,
    ) -> Judged:
        answers = {side: _judged_ones(request, said) for side, said in answers.items()}
        if not all(answers.values()):
            raise InputError(f"No example was judged by {', '.join(judges_in(request.right))} on every side.")
        references, criterion = self._right(request, [one for said in answers.values() for one in said])
        terms = request.terms()
        asked = request.questions, request.prices, facts
        return conclude(answers, sides, checks, *asked, references, criterion, terms, request.looks)

    def _right(
        self, request: VerdictRequest, measured: Sequence[Answered]
    ) -> tuple[list[str] | None, Criterion | None]:
        """(all answers of the file, None where it is gone; what is right by these or by the measured ones). All answers
        tell whether these are labels; where the file is gone, that stays unknown."""
        references = None
        with contextlib.suppress(PlaygroundError):
            checked = self._data.check(request.file, request.mapping, request.owner)
            references = [one.completion for one in judged_at(checked.examples, request)]
        if request.form_only:
            return references, None
        texts = references or [one.reference for one in measured]
        if not (right := request.right or self._data.right_of(request.file)):
            return references, suggested(texts)
        marks = {
            mark_key(judge, one.question, one.reply, one.reference): said
            for one in measured
            for judge, said in one.marks.items()
        }
        return references, parse_criteria(right, texts, marks)

    def _facts(
        self, request: VerdictRequest, measured: Sequence[Example], by_side: Sequence[AdapterCard | None]
    ) -> Facts:
        """measured: the rows that are judged by."""
        by_side = [None if card is not None and card.is_base else card for card in by_side]
        cards = {card.id: card for card in by_side if card is not None}.values()
        runs = [_run(card) for card in cards]
        poor = 0.0
        for run in runs:
            bad, used = (int(run.get(name) or 0) for name in ("rows_bad", "rows_used"))
            poor = max(poor, bad / max(1, bad + used))
        if cards and request.examples is not None:  # what the adapters learned from, or what is like it
            learned = self._data.check_beside(request.examples, request.file, request.mapping, request.owner)
            conflicts = sum(warning.kind == "conflict" for warning in learned.warnings)
            poor = max(poor, (len(learned.bad) + learned.duplicates + conflicts) / max(1, learned.rows))
        trained = united(runs) if runs else {}
        overlap = overlaps(measured, {"row_hashes": trained.get("row_hashes")})["rows"] or 0
        rows = min((card.rows for card in cards if card.rows), default=None)
        sides = list(zip(request.sides, by_side, strict=True))
        found = {side.label: (run := _run(card), overlaps(measured, run)) for side, card in sides if card is not None}
        leaked = {label: _leaked(run, known, len(measured)) for label, (run, known) in found.items()}
        known = {label: known for label, (_, known) in found.items()}
        few = {label: why for label, (run, _) in found.items() if (why := undertrained(run))}
        few = {label: f"{label} may have been trained too little: {why}." for label, why in few.items()}
        grown = _grown({label: run for label, (run, _) in found.items()})
        return Facts(rows, poor, overlap, leaked, overlaps=known, undertrained=few, grown=grown)


def _judged_ones(request: VerdictRequest, answers: Collection[Answered]) -> list[Answered]:
    """Those that every judge of the criteria has marked."""
    judges = set(judges_in(request.right))
    return [one for one in answers if judges <= one.marks.keys()]


def rows_judged(
    request: VerdictRequest, there: Sequence[Example], cards: Sequence[AdapterCard | None]
) -> tuple[list[Example], int]:
    """The rows of the file to judge by, and how many were left out because a tuned side may know them."""
    rows = part(there, request.rows) if request.rows is not None else list(there)
    left = rows
    for card in {card.id: card for card in cards if card is not None and request.unseen}.values():
        left = unseen(left, _run(card))
    return judged_at(left[: request.limit], request), len(rows) - len(left)


def judged_at(there: Sequence[Example], request: VerdictRequest | None = None) -> list[Example]:
    """The rows as they are asked. A chat with tools is asked for its last call where calls are right: where the request
    says so, or says nothing and most rows call."""
    right = () if request is None else request.right or ("form",) * request.form_only
    at = [_to_call(one) for one in there]
    most = 2 * sum(OPEN in one.completion for one in at) > len(at)
    return at if Tool.kind in map(str.strip, right) or (most and not right) else [*there]


def _to_call(example: Example) -> Example:
    turns = example.messages if uses_tools(example.messages) else ()
    calls = [place for place, turn in enumerate(turns, 1) if turn.role == "assistant" and OPEN in turn.content]
    return replace(example, messages=turns[: calls[-1]]) if calls else example


def _leaked(run: Mapping[str, Any], known: Mapping[str, int | None], rows: int) -> float | None:
    """The share of so many rows that a run may have learned from; None = its record does not say what it learned
    from, or not all of it and what it says is too little to matter."""
    share = sum(count or 0 for count in known.values()) / max(1, rows)
    told = known["rows"] is not None and run.get("rows_known", True)
    return share if told or share > MOST_LEAKED else None


STILL_FALLING = 0.02
"""A held-out loss that ended lower than ever before by more than this share of it was still falling."""
LEAST_FALL = 0.005
"""And by more than so many nats a token: what is learned to the end falls by shares of nothing."""


def undertrained(run: Mapping[str, Any]) -> str:
    """Why a run may have been too short, by its record; "" where it does not say so."""
    steps, rows = (int(run.get(name) or 0) for name in ("steps", "rows_used"))
    seen, reasons = steps * int(run.get("batch_size") or 0), []
    if isinstance(
        epochs := run.get("epochs"), float
    ):  # a row of the file may be several to learn from, or a part of one
        seen = rows if epochs >= 1 else int(epochs * rows)
    if 0 < seen < rows and run.get("objective") != "grpo":  # whose steps are counted in replies
        reasons.append(f"it saw {seen} of its {rows} rows, which is less than one pass")
    held = [float(loss) for _, loss in (run.get("curve") or {}).get("held_out") or ()]
    if len(held) > 2 and held[-1] < min(held[:-1]) - max(STILL_FALLING * min(held[:-1]), LEAST_FALL):
        reasons.append(f"its held-out loss was still falling at its end, from {min(held[:-1]):.2g} to {held[-1]:.2g}")
    return "; ".join(reasons)


DESCRIBED = (
    *("model", "adapter_sha256", "shots", "documents", "prompt", "format", "think", "nearest", "picked"),
    *("endpoint", "recorded", "base_fingerprint"),
)
"""What a side is, beside its name and kind. base_fingerprint: of another base, None = it stands on the one in use."""


def _checks(request: VerdictRequest, known: Sequence[str]) -> list[Check]:
    """The person's checks, then what the references look like."""
    checks = [parse_check(spec) for spec in dict.fromkeys(request.checks)]
    inferred = looks_like(known)
    return [*checks, inferred] if inferred is not None else checks


def _facts_of(side: Side, card: AdapterCard | None) -> SideFacts:
    docs, other = side.docs.name if side.docs else None, card.sha256 if card is not None and card.is_base else None
    card = None if other else card
    think, sha256 = None if side.think is None else "on" if side.think else "off", card.sha256 if card else None
    how = side.format, think, side.nearest, list(side.picked)
    described = (side.model, sha256, side.shots, docs, side.system_prompt, *how)
    kind: Rung = "documents" if side.docs else "few-shot" if side.shots else "base"
    if side.is_remote or other or side.replies is not None:
        kind = "larger-model"
    elif side.adapter:
        kind = "fine-tune+documents" if side.docs else "fine-tune"
    elif kind == "base" and (side.format or side.system_prompt.strip()):
        kind = "constraint" if side.format else "prompt"
    training_s, about = (
        float(_run(card).get("seconds") or 0.0),
        dict(zip(DESCRIBED, (*described, None, None, other), strict=True)),
    )
    rows = (card.rows or None) if card is not None else None
    return SideFacts(side.label, kind, training_s, about, rows_trained=rows)


def _elsewhere(side: SideFacts, answers: Sequence[Answered]) -> SideFacts | None:
    """A side that another server answered, with that server and the tokens that it read from its cache, or one that is
    recorded, with its file; None for one of this machine."""
    if about := next((one.stamp["recorded"] for one in answers if one.stamp and "recorded" in one.stamp), None):
        several = sum("several" in (one.stamp or {}) for one in answers)
        return replace(side, described={**side.described, "recorded": {**about, "several": several}})
    stamps = [one.stamp for one in answers if one.stamp and "endpoint" in one.stamp]
    if not stamps:
        return None
    cached = sum(stamp["usage"]["cached_tokens"] for stamp in stamps) / len(stamps)
    return replace(side, described={**side.described, "endpoint": stamps[0]["endpoint"]}, cached_tokens=cached)


def _with_draws(sides: Sequence[Side], cards: Sequence[AdapterCard | None]) -> list[SideFacts]:
    """The sides; those that differ only in the draw of their shots, or in the seed of the run that made their adapter
    from the same rows by the same settings, are draws of the first of them."""
    first: dict[object, tuple[str, object]] = {}
    found = []
    for side, card in zip(sides, cards, strict=True):
        facts, run = _facts_of(side, card), _run(card)
        key: object = replace(side, draw=0)
        which, drawn = (side.draw, "shot draws") if side.draw else (run.get("seed"), "training seeds")
        if not side.draw and run.get("row_hashes") and "seed" in run:
            key = replace(side, model="", name=""), _settings(run), json.dumps([run.get("steps"), run["row_hashes"]])
        elif not side.draw:
            key = side
        head, draw = first.setdefault(key, (side.label, which))
        found.append(facts if head == side.label or draw == which else replace(facts, draw_of=head, drawn=drawn))
    return found


def _settings(run: Mapping[str, Any]) -> str:
    """What two runs have in common that differ in their seed, or in their rows and steps, alone."""
    mine = {*settings_of(RunSettings), "base_fingerprint", "mapping", "options", "rewards", "docs"}
    return json.dumps({name: run.get(name) for name in mine - {"seed", "steps", "limit_memory_bytes"}}, sort_keys=True)


def _grown(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, int, int]]:
    """Side -> (the one that learned the largest part of its rows by the same settings, its rows, own rows)."""
    rows = {side: set(run.get("row_hashes") or ()) for side, run in runs.items()}
    found = {}
    for many, few in sorted(itertools.permutations(runs, 2), key=lambda pair: len(rows[pair[1]])):
        if rows[few] and rows[few] < rows[many] and _settings(runs[few]) == _settings(runs[many]):
            found[many] = (few, len(rows[few]), len(rows[many]))
    return found


def _run(card: AdapterCard | None) -> dict[str, Any]:
    """The record of the run that made an adapter, {} where there is none."""
    with contextlib.suppress(PlaygroundError, OSError, ValueError):
        return read_run(card.path) if card is not None else {}
    return {}


def _device(answers: Collection[Answered]) -> dict[str, Any]:
    stamp = next((answer.stamp for answer in answers if answer.stamp and "device" in answer.stamp), None) or {}
    names = ("engine",) * ("engine" in stamp) + ("device", "dtype", "rows")
    return {name: stamp.get(name) for name in names}
