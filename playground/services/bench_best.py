"""Which prompt won a bench, in words, and whether a verdict asks with it. Decided from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.errors import InputError
from playground.services.prompts import Score
from playground.services.verdict_files import LIVE, State, VerdictFiles
from playground.services.verdict_request import BENCH, VerdictRequest


@dataclass(frozen=True)
class Best:
    """text, shots: what goes into the verdict. sentence: how it was found. side: its name in the bench."""

    text: str
    shots: int
    sentence: str
    side: str


def best_of(record: Mapping[str, Any]) -> Best:
    """The side with the best figure of the main metric; where several have it, the one with the fewest tokens, then the first.
    Raises InputError where nothing was measured."""
    metric, sides = record.get("main_metric"), record["sides"]
    if metric is None or not sides:
        raise InputError("Nothing was measured that prompts could be compared by. Give a check, such as contains:TEXT.")
    sign = 1 if record["about"][metric]["higher_is_better"] else -1
    best = max(sides, key=lambda side: (sign * side["metrics"][metric]["value"], -side["prompt_tokens_mean"]))
    prompts = len({side["prompt"] for side in sides})
    tried = f"{prompts} {'prompt' if prompts == 1 else 'prompts'}, {_shots([side['shots'] for side in sides])}"
    which = f"The best of {len(sides)} ({tried})" if len(sides) > 1 else f"The only one that was tried ({tried})"
    rows = f"{record['examples']} validation {'row' if record['examples'] == 1 else 'rows'}"
    return Best(best["prompt"], best["shots"], f"{which} on {rows}: {figure(record, best)}.", best["side"])


def figure(record: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    """``21 of 24``, or ``rouge_l 0.831``."""
    metric = record["main_metric"]
    one = side["metrics"][metric]
    if record["about"][metric]["kind"] == "yes-no":
        return f"{round(one['value'] * one['n'])} of {one['n']}"
    return f"{metric} {one['value']:.3f}"


def scores_of(record: Mapping[str, Any], file: str) -> dict[str, list[Score]]:
    """Prompt -> its scores in this bench."""
    metric, found = record.get("main_metric"), dict[str, list[Score]]()
    for side in record["sides"] if metric is not None else ():
        one = side["metrics"][metric]
        passed = round(one["value"] * one["n"]) if record["about"][metric]["kind"] == "yes-no" else None
        score = Score(
            file, side["shots"], str(metric), one["value"], one["n"], passed, side["prompt_tokens_mean"], record["created_s"], record["id"]
        )  # fmt: skip
        found.setdefault(side["prompt"], []).append(score)
    return found


def tried_for(files: VerdictFiles, request: VerdictRequest) -> str:
    """How the prompt of a verdict was found: the sentence of the newest bench on the same examples, where one of the sides is its best;
    "" otherwise. Rows that both use are told."""
    source = str(Path(request.examples or request.file).resolve())
    for state in files.all():
        asked = _asked(files, state, request.owner, source)
        record = files.record(state.id) if asked is not None else None
        if asked is None or record is None:
            continue
        try:
            best = best_of(record)
        except InputError:
            return ""
        if not any(
            (side.model, side.system_prompt.strip(), side.shots, side.docs) == ("base", best.text, best.shots, None)
            for side in request.sides
        ):
            return ""
        return best.sentence + _shared(files, state, asked, request)
    return ""


def _asked(files: VerdictFiles, state: State, owner: str, source: str) -> Mapping[str, Any] | None:
    """What an ended bench of this owner on this file asked; None for anything else."""
    if state.purpose != BENCH or state.owner != owner or state.state in LIVE:
        return None
    try:
        asked = files.request(state.id)
    except InputError:
        return None
    return asked if asked.get("file") == source else None


def _shared(files: VerdictFiles, state: State, asked: Mapping[str, Any], request: VerdictRequest) -> str:
    """A warning where the prompt was chosen on rows that it is judged by."""
    if str(Path(request.file).resolve()) != asked.get("file"):
        return ""
    chosen_by = {row["example"] for row in files.rows(state.id)}
    both = chosen_by if request.rows is None else chosen_by & set(request.rows)
    return f" {len(both)} of these rows are judged by too, which favours the prompt." if both else ""


def _shots(counts: Sequence[int]) -> str:
    there = sorted(set(counts))
    if there == [0]:
        return "without shots"
    words = " or ".join([", ".join(map(str, there[:-1])), str(there[-1])]) if len(there) > 1 else str(there[0])
    return f"with {words} {'shot' if there == [1] else 'shots'}"
