"""From answers to a verdict's record: its checks, what its sides are, the facts beside the figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playground.data.split import row_hash
from playground.errors import InputError, PlaygroundError
from playground.evaluation.checks import Check, parse_check
from playground.evaluation.cost import Prices
from playground.evaluation.inferred import looks_like
from playground.evaluation.questions import Facts, Questions, SideKind
from playground.evaluation.scored import Answered
from playground.evaluation.verdict import SideFacts, conclude
from playground.library.card import AdapterCard
from playground.library.files import read_json, sha256_of
from playground.services.answering import Answering
from playground.services.bases import BaseService
from playground.services.data import DataService
from playground.services.sides import Side, side_as_json
from playground.services.verdict_files import answers_of, row_of
from playground.services.verdict_request import VerdictRequest

FEWEST_OTHERS = 5
"""Rows that are not judged by; with fewer, the form of the references is read from those that are."""


@dataclass(frozen=True)
class Kept:
    """What is saved: record, the lines of the rows file, and the references that the form was read from."""

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    known: list[str]


class RecordMaker:
    """Makes them; keeps nothing."""

    def __init__(self, bases: BaseService, data: DataService, answering: Answering) -> None:
        self._bases, self._data, self._answering = bases, data, answering

    def make(self, request: VerdictRequest, answers: Collection[Answered], about: Mapping[str, Any]) -> Kept:
        """about: what else the record says; sides that ``failed`` are not in it. Raises InputError when no example was answered by every
        other side."""
        able = tuple(side for side in request.sides if side.label not in about.get("failed", {}))
        request = replace(request, sides=able or request.sides)
        said: dict[str, list[Answered]] = {side.label: [] for side in request.sides}
        for answer in answers:
            said[answer.side].append(answer)
        cards = dict(zip(said, self._answering.cards(request), strict=True))
        known = self._known(request, answers)
        checks = _checks(request, known)
        if not set.intersection(*({answer.example for answer in one} for one in said.values())):
            raise InputError("No example was answered by every side.")
        judged = conclude(
            said, _sides(request, cards), checks, request.questions, request.prices, self._facts(request, answers, cards),
            self._references(request),
        )  # fmt: skip
        base = self._bases.resolve()
        told = {
            "file": request.file.name, "data_sha256": sha256_of(_files(request.file)), "base": base.id, "base_fingerprint": base.fingerprint,
            "seed": request.seed, "repeats": request.repeats, "max_tokens": request.max_tokens, "temperature": request.temperature,
            "checks": [check.spec for check in checks], "tried": request.tried, "device": _device(answers),
        }  # fmt: skip
        rows = [row_of(answer, judged.measured[answer.side]) for one in said.values() for answer in one]
        return Kept(judged.record | told | dict(about), sorted(rows, key=lambda row: row["example"]), known)

    def again(self, kept: Kept, request: VerdictRequest, questions: Questions, prices: Prices) -> Kept:
        """Costs and choice by other answers and prices; the figures stay as they were."""
        record = kept.record
        facts = Facts(**{**record["facts"], "currency": prices.unit})
        sides = [
            SideFacts(side["side"], side["kind"], side["training_s"], {name: side[name] for name in DESCRIBED if name in side})
            for side in record["sides"]
        ]
        checks, references = _checks(request, kept.known), self._references(request)
        judged = conclude(answers_of(kept.rows), sides, checks, questions, prices, facts, references)
        return replace(kept, record=judged.record | {name: record[name] for name in record if name not in judged.record})

    def _references(self, request: VerdictRequest) -> list[str] | None:
        """All answers of the file, by which these are labels or are not; None where it is gone."""
        try:
            return [one.completion for one in self._data.check(request.file, request.mapping, request.owner).examples]
        except PlaygroundError:
            return None

    def _known(self, request: VerdictRequest, answers: Collection[Answered]) -> list[str]:
        """References that are not judged by, where there are some; else those that are."""
        judged = {answer.example: answer.reference for answer in answers}
        if request.rows is None:
            return list(judged.values())
        checked = self._data.check(request.file, request.mapping, request.owner)
        others = [example.completion for example in checked.examples if example.row not in set(request.rows)]
        return others if len(others) >= FEWEST_OTHERS else list(judged.values())

    def _facts(self, request: VerdictRequest, answers: Collection[Answered], by_side: Mapping[str, AdapterCard | None]) -> Facts:
        cards = {card.id: card for card in by_side.values() if card is not None}.values()
        trained = {known for card in cards for known in _run(card).get("row_hashes") or ()}
        rows = [card.rows for card in cards if card.rows]
        checked, asked = self._data.check(request.file, request.mapping, request.owner), {answer.example for answer in answers}
        poor = max((_poor(_run(card)) for card in cards), default=0.0)
        if cards and request.examples is not None:  # what the adapters learned from, or what is like it
            learned = self._data.check(
                request.examples, request.mapping if request.examples == request.file else None, request.owner
            )
            conflicts = sum(warning.kind == "conflict" for warning in learned.warnings)
            poor = max(poor, (len(learned.bad) + learned.duplicates + conflicts) / max(1, learned.rows))
        overlap = sum(row_hash(example) in trained for example in checked.examples if example.row in asked)
        return Facts(min(rows) if rows else None, poor, overlap, request.prices.unit)


DESCRIBED = ("model", "adapter_sha256", "shots", "documents", "prompt")
"""What a side is, beside its name and kind."""


def _checks(request: VerdictRequest, known: Sequence[str]) -> list[Check]:
    """The person's checks, then what the references look like."""
    checks = [parse_check(spec) for spec in dict.fromkeys(request.checks)]
    inferred = looks_like(known)
    return [*checks, inferred] if inferred is not None else checks


def _sides(request: VerdictRequest, cards: Mapping[str, AdapterCard | None]) -> list[SideFacts]:
    found = []
    for side in request.sides:
        card = cards[side.label]
        said = (
            side.model,
            card.sha256 if card else None,
            side.shots,
            side.docs.name if side.docs else None,
            side_as_json(side)["system_prompt"],
        )
        training_s = float(_run(card).get("seconds") or 0.0)
        found.append(SideFacts(side.label, _kind(side), training_s, dict(zip(DESCRIBED, said, strict=True))))
    return found


def _kind(side: Side) -> SideKind:
    if side.model != "base":
        return "tuned+documents" if side.docs else "tuned"
    return "documents" if side.docs else "few-shot" if side.shots else "prompt" if side.system_prompt.strip() else "base"


def _run(card: AdapterCard | None) -> dict[str, Any]:
    """The record of the run that made an adapter, {} where there is none."""
    if card is None:
        return {}
    try:
        return dict(read_json(card.path / "run.json"))
    except (PlaygroundError, OSError, ValueError):
        return {}


def _poor(run: Mapping[str, Any]) -> float:
    """The share of a run's rows that could not be used."""
    bad, used = (int(run.get(name) or 0) for name in ("rows_bad", "rows_used"))
    return bad / max(1, bad + used)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _device(answers: Collection[Answered]) -> dict[str, Any]:
    stamp = next((answer.stamp for answer in answers if answer.stamp), None) or {}
    return {name: stamp.get(name) for name in ("device", "dtype", "rows")}
