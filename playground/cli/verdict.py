"""``verdict``: several sides on held-out examples, and what follows from it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from playground.chat.compare import parse_side
from playground.cli.arguments import mapping_of
from playground.cli.common import Outcome, Progress, judge_in_app, owned_or_served, services_for
from playground.errors import InputError, RunFailedError
from playground.evaluation.comparison import Questions
from playground.evaluation.cost import Prices, read_prices
from playground.library.files import write_json
from playground.services import Services
from playground.settings import Settings
from playground.verdict.files import DONE
from playground.verdict.request import VerdictRequest
from playground.verdict.service import VerdictView

PUBLIC = ("side", "metrics", "prompt_tokens_mean", "completion_tokens_mean", "seconds_mean")
PAIR = ("a", "b", "metric", "difference", "low", "high", "p_value", "p_adjusted")
RECORD = (
    *("examples", "choice", "reason", "reasons", "runner_up", "rows_needed", "main_metric", "overlap"),
    *("forgetting", "refusals", "seconds"),
)


def verdict(settings: Settings, options: Namespace) -> Outcome:
    file = Path(options.file)
    if not file.exists():
        raise InputError(f"There is no file {file}. verdict takes a file of held-out examples.")
    source = Path(options.examples) if options.examples else file
    request = VerdictRequest(
        file=file,
        sides=tuple(parse_side(spec, source) for spec in options.side),
        checks=tuple(options.check),
        examples=Path(options.examples) if options.examples else None,
        mapping=mapping_of(options.map) or None,
        questions=_questions(options.answers),
        prices=read_prices(Path(options.prices)) if options.prices else Prices(),
        losses=not options.no_losses,
        forgetting=not options.no_forgetting,
        refusals=not options.no_refusals,
        **{name: getattr(options, name) for name in ("repeats", "limit", "max_tokens", "temperature", "seed", "name")},
    )
    out = Path(options.out) if options.out else None
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. --out names a folder for the report and the rows.")
    services, progress = services_for(settings, options.base), Progress()
    for side in request.sides:
        if side.model != "base":
            services.adapters.get(side.model)  # a wrong id is refused before anything is loaded
    view = None
    for view in measured(settings, services, request, progress):
        progress.say(line(view))
    progress.end()
    if view is None or view.record is None:
        raise RunFailedError(view.error if view is not None and view.error else "Nothing was measured. Try again.")
    return _outcome(services, view, out)


def measured(
    settings: Settings, services: Services, request: VerdictRequest, progress: Progress
) -> Iterator[VerdictView]:
    """How far it is, here or in the app that serves this home."""
    with owned_or_served(settings) as home:
        if home is None:
            yield from judge_in_app(settings, request)
            return
        services.bases.engine(progress.base)
        progress.end()
        yield from services.verdicts.run(request)


def _outcome(services: Services, view: VerdictView, out: Path | None) -> Outcome:
    record: dict[str, Any] = view.record or {}
    folder = services.verdicts.files.folder(view.id)
    rows_file = folder / "rows.jsonl"
    report = services.verdicts.files.write(view.id, "html", out or folder)
    if out is not None:
        rows_file = services.verdicts.files.write(view.id, "jsonl", out)
        services.verdicts.files.write(view.id, "csv", out)
        write_json(out / f"verdict-{view.id}.json", record)
    found = {"verdict": view.id, "state": view.state} | {name: record[name] for name in RECORD}
    found |= {
        "sides": [{name: side[name] for name in PUBLIC} for side in record["sides"]],
        "pairs": [{name: pair[name] for name in PAIR} for pair in record["pairs"]],
        "failed": record.get("failed", {}),
        "rows_file": str(rows_file),
        "report": str(report),
    }
    if view.state != DONE or view.error:
        return found | {"error": view.error}, f"{_words(record, report)}\n{view.state.capitalize()}: {view.error}", 1
    return found, _words(record, report), 0


def _words(record: dict[str, Any], report: Path) -> str:
    metric, lines = record["main_metric"], [record["reason"], ""]
    width = max(len(side["side"]) for side in record["sides"])
    for side in record["sides"]:
        one = side["metrics"].get(metric)
        figure = _figure(one, record["about"][metric]["kind"]) if one else ""
        alone = f", {side['seconds_mean']:.1f} s alone" if side["seconds_mean"] is not None else ""
        lines.append(f"{side['side']:<{width}}  {figure}  {side['prompt_tokens_mean']:.0f} tokens in{alone}")
    lines += ["", *(reason["text"] for reason in record["reasons"])]
    for beside in ("forgetting", "refusals"):
        lines += [f"{side}: {said['words']}" for side, said in record[beside].items()]
    return "\n".join(
        [*lines, "", f"{metric}, {record['examples']} examples, {record['seconds']:.0f} s. Report: {report}"]
    )


def _figure(one: dict[str, Any], kind: str) -> str:
    if kind == "yes-no":
        return f"{100 * one['value']:5.1f} % ({100 * one['low']:.0f} to {100 * one['high']:.0f})"
    return f"{one['value']:7.3f} ({one['low']:.3f} to {one['high']:.3f})"


def line(view: VerdictView) -> str:
    left = f", about {view.seconds_left:.0f} s left" if view.seconds_left else ""
    return f"{view.message}: {view.done} of {view.of}{left}" if view.live else view.state.capitalize()


def _questions(path: str | None) -> Questions:
    """The four answers from a JSON file. Raises InputError."""
    if path is None:
        return Questions()
    known = [one.name for one in fields(Questions)]
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as JSON: {error}. --answers takes an object with {', '.join(known)}."
        ) from error
    if not isinstance(said, dict) or set(said) - set(known):
        raise InputError(
            f"{path} holds something else than the four answers. It takes an object with {', '.join(known)}."
        )
    try:
        return Questions(**said)
    except TypeError as error:
        raise InputError(f"{path}: {error}. volume, latency_s and budget are numbers; changes is a word.") from error
