"""``verdict``: several sides on held-out examples, and what follows from it. ``bench`` and ``search``: versions of a
prompt on the validation part."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from playground.chat.compare import Side
from playground.chat.programs import parse_side
from playground.cli import common
from playground.errors import InputError, RunFailedError
from playground.evaluation.comparison import TIMED, Questions, money
from playground.evaluation.cost import Prices, read_prices
from playground.evaluation.decision import Terms
from playground.library.files import write_json
from playground.plain import and_left
from playground.report.format import draws_words
from playground.services import Services
from playground.settings import Settings
from playground.verdict.bench import best_of, figure
from playground.verdict.files import DONE
from playground.verdict.request import VerdictRequest
from playground.verdict.search import Found
from playground.verdict.service import VerdictView

NUMBERS = ("repeats", "limit", "max_tokens", "temperature", "seed", "name", "bar", "margin", "maximum")
SWITCHES = ("form_only", "unseen")
PUBLIC = (
    *("side", "metrics", "prompt_tokens_mean", "cached_tokens_mean", "completion_tokens_mean", "seconds_mean"),
    *("timed", "cost", "draws", "spread", "interval_over"),
)
PAIR = ("a", "b", "metric", "difference", "low", "high", "p_value", "p_adjusted")
RECORD = (
    *("examples", "choice", "reason", "reasons", "runner_up", "rows_needed", "main_metric", "overlap"),
    *("forgetting", "refusals", "seconds", "right", "bar", "margin", "maximum", "planned_rows", "guards"),
    *("ladder", "look", "alpha", "left_out", "by_cost", "made_up", "facts", "spent", "not_worse", "tried"),
)


def verdict(settings: Settings, options: Namespace) -> common.Outcome:
    takes = "verdict takes a file of held-out examples."
    file = existing(options.file, takes) if options.file or not options.extend else None
    out = Path(options.out or options.extend) if options.out or options.extend else None
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. --out names a folder for the report and the rows.")
    if options.extend:
        kept = [
            f"--{name}"
            for name in ("side", "right", "check", "form_only", "unseen", "maximum")
            if getattr(options, name)
        ]
        kept += [f"--{name}" for name in ("bar", "margin") if getattr(options, name) != getattr(Terms, name)]
        if kept:
            stated = ", ".join(kept).replace("_", "-")
            raise InputError(f"--extend keeps all that was stated before the first row; leave out {stated}.")
        services = common.services_for(settings, options.base)
        request = services.verdicts.extension(_written_to(Path(options.extend)), options.limit, file=file)
    else:
        assert file is not None
        services = common.services_for(settings, options.base)
        request = _request(services, options, file)
        common.refuse_missing(services, request.sides)
    view, record = measured(settings, services, request, options)
    folder = services.verdicts.files.folder(view.id)
    report, rows_file = services.verdicts.files.write(view.id, "html", out or folder), folder / "rows.jsonl"
    if out is not None:
        rows_file = services.verdicts.files.write(view.id, "jsonl", out)
        services.verdicts.files.write(view.id, "csv", out)
        write_json(out / f"verdict-{view.id}.json", record)
    found = {"verdict": view.id, "state": view.state} | {name: record[name] for name in RECORD}
    found |= {
        "sides": [{name: side[name] for name in PUBLIC} for side in record["sides"]],
        "pairs": [{name: pair[name] for name in PAIR} for pair in record["pairs"]],
        "failed": record.get("failed", {}),
        "judges": record.get("judges", []),
        "rows_file": str(rows_file),
        "report": str(report),
    }
    if view.state != DONE or view.error:
        return found | {"error": view.error}, f"{_words(record, report)}\n{view.state.capitalize()}: {view.error}", 1
    return found, _words(record, report), 0


def _request(services: Services, options: Namespace, file: Path) -> VerdictRequest:
    """What the words of ``verdict`` ask for; where a side takes what a search found on this very file, of its test part
    alone. Raises InputError."""
    if not options.side:
        raise InputError("Nothing answers yet. Name a --side, such as model=base, or --extend an earlier verdict.")
    source, found = Path(options.examples) if options.examples else None, list[Found]()

    def best() -> Side:
        found[:] = [services.search.found(source or file)]
        return found[0].side

    sides = tuple(parse_side(spec, source or file, best) for spec in options.side)
    return VerdictRequest(
        file=file,
        sides=sides,
        rows=services.search.unseen(found[0], file) if found else None,
        tried=found[0].best.sentence if found else "",
        checks=tuple(options.check),
        right=tuple(options.right),
        examples=source,
        mapping=common.mapping_of(options) or None,
        questions=_questions(options.answers),
        prices=read_prices(Path(options.prices)) if options.prices else Prices(),
        losses=not options.no_losses,
        forgetting=not options.no_forgetting,
        refusals=not options.no_refusals,
        **{name: getattr(options, name) for name in (*NUMBERS, *SWITCHES)},
    )


def _written_to(folder: Path) -> str:
    """The id of the verdict that --out wrote there. Raises InputError."""
    found = sorted(folder.glob("verdict-*.json")) if folder.is_dir() else []
    if not found:
        raise InputError(f"{folder} holds no verdict. --extend takes the folder that --out named.")
    return found[-1].stem.removeprefix("verdict-")


def existing(name: str, takes: str) -> Path:
    if not name:
        raise InputError(f"No file is named. {takes}")
    if not (file := Path(name)).exists():
        raise InputError(f"There is no file {file}. {takes}")
    return file


def measured(
    settings: Settings, services: Services, request: VerdictRequest, options: Namespace
) -> tuple[VerdictView, dict[str, Any]]:
    """(how it ended, its record), measured here or in the app that serves this home, once the person has agreed to
    what leaves this machine. Raises RunFailedError, InputError."""
    progress, view = common.Progress(), None
    cap = request.spend_cap if options.spend_cap is None else options.spend_cap
    request = replace(request, send=options.send, spend_cap=cap)
    if request.proposer or any(side.is_remote for side in request.sides):
        services.bases.resolve(progress.base)
        progress.end()
        request = replace(request, send=common.agreed(services.verdicts.leaving(request), request.send))
    for words in services.verdicts.recorded(request):
        progress.say(words, always=True)
    for view in _views(settings, services, request, progress):
        far = f"{view.message}: {view.done} of {view.of}{view.unit}{and_left(view.seconds_left)}"
        progress.say(far if view.live else view.state.capitalize())
    progress.end()
    if view is None or view.record is None:
        raise RunFailedError(view.error if view is not None and view.error else "Nothing was measured. Try again.")
    return view, view.record


def _views(
    settings: Settings, services: Services, request: VerdictRequest, progress: common.Progress
) -> Iterator[VerdictView]:
    with common.owned_or_served(settings) as home:
        if home is None:
            yield from common.judge_in_app(settings, request)
            return
        services.bases.engine(progress.base)
        progress.end()
        yield from services.verdicts.run(request)


def _words(record: dict[str, Any], report: Path) -> str:
    metric, lines, prices = record["main_metric"], [record["reason"], ""], Prices(**record["prices"])
    width = max(len(side["side"]) for side in record["sides"])
    for side in record["sides"]:
        one = side["metrics"].get(metric)
        figure = _interval(one, record["about"][metric]["kind"]) if one else ""
        alone = f", {side['seconds_mean']:.1f} s alone" if side["seconds_mean"] is not None else ""
        alone += f" (not timed well enough: {side['timed']} of {TIMED})" if alone and side["timed"] < TIMED else ""
        if record["questions"]["volume"] and (total := side["cost"]["total"]) is not None:
            alone += f", {money(total, prices.currency if side.get('endpoint') else prices.unit)} a year"
        drawn = f", {words}" if (words := draws_words(side)) else ""
        lines.append(f"{side['side']:<{width}}  {figure}  {side['prompt_tokens_mean']:.0f} tokens in{alone}{drawn}")
    lines += ["", *(reason["text"] for reason in record["reasons"])]
    for beside in ("forgetting", "refusals"):
        lines += [f"{side}: {said['words']}" for side, said in record[beside].items()]
    if (spent := record["spent"])["requests"]:
        lines.append(f"Endpoints: {spent['requests']} requests, {spent['amount']:.4g} {prices.currency}")
    measured = f"{metric}, {record['examples']} examples, {record['seconds']:.0f} s"
    return "\n".join([*lines, "", f"{measured}. Report: {report}"])


def _interval(one: dict[str, Any], kind: str) -> str:
    if kind == "yes-no":
        return f"{100 * one['value']:5.1f} % ({100 * one['low']:.0f} to {100 * one['high']:.0f})"
    return f"{one['value']:7.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _questions(path: str | None) -> Questions:
    """The person's answers from a JSON file. Raises InputError."""
    if path is None:
        return Questions()
    known = [one.name for one in fields(Questions)]
    takes = f"an object with {', '.join(known)}."
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}. --answers takes {takes}") from error
    if not isinstance(said, dict) or set(said) - set(known):
        raise InputError(f"{path} holds something else than these answers. It takes {takes}")
    try:
        return Questions(**said)
    except TypeError as error:
        raise InputError(f"{path}: {error}. changes is a word; the others are numbers.") from error


def bench(settings: Settings, options: Namespace) -> common.Outcome:
    """Keep the versions, measure them on the validation part alone, and say which is best."""
    file = existing(options.file, "bench takes a file of examples.")
    texts, shots = [(name, _text(name)) for name in options.prompt], _shots(options.shots)
    services = common.services_for(settings, options.base, [Side(options.model)])
    mapping = common.mapping_of(options) or None
    services.bench.parts(file, mapping=mapping, seed=options.seed)  # a wrong file is refused before anything is kept
    kept = {services.bench.keep(text, file).id: name for name, text in texts}
    shipped = services.data.shipped_with(file)
    checks = options.check or ([shipped.check] if shipped is not None else [])
    asked = {name: getattr(options, name) for name in ("limit", "max_tokens", "seed")}
    request = services.bench.request(file, tuple(kept), shots, checks, options.model, mapping=mapping, **asked)
    view, record = measured(settings, services, request, options)
    services.bench.versions()  # the scores go to the versions
    best, metric = best_of(record), record["main_metric"]
    sides = [
        {
            "side": side["side"],
            "version": (version := side["side"].partition(" ")[0]),
            "file": kept.get(version, ""),
            "shots": side["shots"],
            **{name: side["metrics"][metric][name] for name in ("value", "low", "high", "n")},
            "prompt_tokens_mean": side["prompt_tokens_mean"],
        }
        for side in record["sides"]
    ]
    found = {"bench": view.id, "state": view.state, "metric": metric, "sides": sides}
    found |= {name: record[name] for name in ("examples", "seconds")}
    found["best"] = {"side": best.side, "prompt": best.text, "shots": best.shots, "sentence": best.sentence}
    width = max(len(side["side"]) for side in sides)
    lines = [
        f"{line['side']:<{width}}  {figure(record, side)}  {side['prompt_tokens_mean']:.0f} tokens in  {line['file']}"
        for line, side in zip(sides, record["sides"], strict=True)
    ]
    return found, "\n".join([*lines, "", f"{best.side}. {best.sentence} Judged by {metric}."]), 0


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompt file {name} cannot be read: {error}.") from error


def _shots(said: str) -> list[int]:
    """``0,4`` -> [0, 4]. Raises InputError."""
    parts = [part.strip() for part in said.split(",")]
    if not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise InputError(f"--shots takes whole numbers with commas, such as 0,4; {said!r} is not that.")
    return [int(part) for part in parts]


def search(settings: Settings, options: Namespace) -> common.Outcome:
    """Let prompts with and without shots compete on the validation part until the budget is over; exit 1 where it was
    stopped before that."""
    file = existing(options.file, "search takes a file of examples.")
    texts = {f"p{at} ({Path(name).stem})": _text(name) for at, name in enumerate(options.prompt, 1)}
    shots = _shots(options.shots)
    services = common.services_for(settings, options.base, [Side(options.model)])
    budget_s = None if options.budget is None else 60 * options.budget
    asked = {name: getattr(options, name) for name in ("max_tokens", "seed", "form_only")}
    asked |= {"mapping": common.mapping_of(options) or None, "right": tuple(options.right)}
    asked |= {"proposer": services.endpoints.get(options.endpoint).name} if options.endpoint else {}
    if options.resume:
        id, before = services.search.newest(file)
        request = services.search.resume(id, budget_s or before.budget_s or 0.0)
    else:
        request = services.search.request(file, texts, shots, options.check, budget_s, options.model, **asked)
    view, record = measured(settings, services, request, options)
    best, about = best_of(record), record["search"]
    written = services.search.prompt_file(view.id)
    public = ("side", "prompt", "shots", "nearest", "picked", "score")
    found = {
        "search": view.id,
        "state": view.state,
        "candidates": [{name: one[name] for name in public} for one in about["candidates"] if one["score"]],
        "left_out": [{"side": one["side"], "why": one["left_out"]} for one in about["candidates"] if one["left_out"]],
        "best": {"side": best.side, "prompt": best.text, "shots": best.shots, "sentence": best.sentence}
        | {"nearest": best.nearest, "picked": list(best.picked)},
        "prompt_file": str(written),
        "spent": {"seconds": about["seconds"], "tokens": about["tokens"]},
        "rows": record["examples"],
        "right": record["right"],
    }
    width = max(len(one["side"]) for one in about["candidates"])
    lines = [f"{one['side']:<{width}}  {_score(one)}" for one in about["candidates"]]
    lines += ["", f"{best.side}. {best.sentence}", f"Its prompt: {written}"]
    lines += ["A verdict takes it by --side model=base,prompt=best,shots=best."]
    code = 0 if view.state == DONE else 1
    return found | ({"error": view.error} if code else {}), "\n".join(lines), code


def _score(one: dict[str, Any]) -> str:
    if (score := one["score"]) is None:
        return str(one["left_out"])
    interval = f"{100 * score['low']:.0f} to {100 * score['high']:.0f} %"
    return f"{one['passed']:>3} of {one['n']:>2}  ({interval})  {one['tokens']:.0f} tokens in"
