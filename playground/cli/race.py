"""``race`` and ``races``: several methods on the same rows. ``bench``: versions of a prompt on the validation part."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from playground.cli.arguments import mapping_of
from playground.cli.common import Outcome, Progress, owned_or_served, services_for
from playground.cli.verdict import line, measured
from playground.errors import CancelledError, InputError, RunFailedError
from playground.services import Services, build_services
from playground.settings import Settings
from playground.verdict.bench import best_of, figure
from playground.verdict.race import RaceRequest, RaceView
from playground.verdict.race_store import DONE, record, text


def race(settings: Settings, options: Namespace) -> Outcome:
    """Queue a race and follow it to its end; where an app serves this home, that app runs and measures it."""
    services = services_for(settings, options.base)
    progress = Progress()
    methods = tuple(name.strip() for name in options.methods.split(",") if name.strip())
    request = RaceRequest(
        file=Path(options.file),
        methods=methods,
        steps=options.steps,
        minutes=options.minutes,
        check=options.check,
        name=options.name,
        objective=options.objective,
        batch_size=options.batch_size,
        max_tokens=options.max_tokens,
        seed=options.seed,
        mapping=mapping_of(options.map),
    )
    services.data.check(request.file, request.mapping, request.owner)  # a bad file is refused before a base is fetched
    services.bases.resolve(progress.base)
    progress.end()
    with owned_or_served(settings) as home:
        started = services.race.start(request)
        if home is not None:
            services.training.start_supervisor()
            services.race.start_measuring()
        return follow_race(services, started, progress, owner=home is not None)


def follow_race(services: Services, started: str, progress: Progress, *, owner: bool) -> Outcome:
    """owner: this process runs and measures it. It becomes that where the process that was is gone."""
    view = services.race.show(started)
    progress.say(f"Race {started}: {view.of} methods, {_time(view)}", always=True)
    try:
        for view in services.race.follow(started):
            progress.say(_line(view))
            if not owner and view.live and services.training.take_over():
                services.race.start_measuring()
                owner = True
    except KeyboardInterrupt:
        services.race.cancel(started)
        view = services.race.show(started)
    progress.end()
    services.close()
    if view.race.state != DONE:
        raise CancelledError(
            f"The race was cancelled. python -m playground races show {started} has what was measured."
        )
    return record(view), text(view), 0 if any(entry.state == "DONE" for entry in view.race.entries) else 1


def races(settings: Settings, options: Namespace) -> Outcome:
    """List, show, cancel or remove. Never imports torch."""
    services = build_services(settings)
    if options.action == "cancel":
        services.race.cancel(options.race)
    if options.action == "remove":
        services.race.remove(options.race)
        return {"removed": options.race}, f"{options.race} is forgotten; its runs and adapters stay.", 0
    if options.action in ("show", "cancel"):
        view = services.race.show(options.race)
        return record(view), "\n".join(part for part in (_line(view), text(view)) if part), 0
    views = services.race.races()
    listed = "\n".join(
        f"{v.race.race}  {v.race.state:<9}  {v.measured} of {v.of} methods  {v.race.name}" for v in views
    )
    short = [
        {"race": v.race.race, "name": v.race.name, "state": v.race.state, "methods": v.of, "measured": v.measured}
        for v in views
    ]
    return {"races": short}, listed or "No races yet. python -m playground race FILE begins one.", 0


def _line(view: RaceView) -> str:
    return ", ".join(part for part in (view.race.message, _time(view)) if part)


def _time(view: RaceView) -> str:
    if view.seconds_left is None:
        return ""
    return (
        f"about {view.seconds_left / 60:.0f} min left"
        if view.seconds_left >= 90
        else f"about {view.seconds_left:.0f} s left"
    )


def bench(settings: Settings, options: Namespace) -> Outcome:
    """Keep the versions, measure them, and say which is best. The rest of the file is not asked: a verdict may still
    judge by it."""
    file = Path(options.file)
    if not file.exists():
        raise InputError(f"There is no file {file}. bench takes a file of examples.")
    texts, shots = [(name, _text(name)) for name in options.prompt], _shots(options.shots)
    services, progress = services_for(settings, options.base), Progress()
    mapping = mapping_of(options.map) or None
    services.bench.rows(file, mapping=mapping, seed=options.seed)  # a wrong file is refused before anything is kept
    kept = {services.bench.keep(text, file).id: name for name, text in texts}
    checks = options.check or _checks(services, file)
    asked = {"limit": options.limit, "max_tokens": options.max_tokens, "seed": options.seed}
    request = services.bench.request(file, tuple(kept), shots, checks, mapping=mapping, **asked)
    view = None
    for view in measured(settings, services, request, progress):
        progress.say(line(view))
    progress.end()
    if view is None or view.record is None:
        raise RunFailedError(view.error if view is not None and view.error else "Nothing was measured. Try again.")
    services.bench.versions()  # the scores go to the versions
    return _outcome(view.record, view.id, view.state, kept)


def _outcome(record: dict[str, Any], id: str, state: str, kept: dict[str, str]) -> Outcome:
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
    found = {"bench": id, "state": state, "metric": metric, "sides": sides}
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


def _checks(services: Services, file: Path) -> list[str]:
    """What a shipped set's replies are judged by."""
    return [one.check for one in services.data.sets() if file.resolve() in (one.file.resolve(), one.heldout.resolve())]
