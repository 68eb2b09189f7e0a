"""``check``, ``train``, ``runs``; ``race`` and ``races``: several methods on the same rows."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playground.cli.common import Outcome, Progress, mapping_of, owned_or_served, request_of, services_for
from playground.data.advice import as_json, as_text, repair_words
from playground.db import ACTIVE
from playground.errors import CancelledError, InputError, RunFailedError
from playground.library.card import RECORD
from playground.plain import and_left, duration, plural
from playground.runs.progress import RunView, ordinal, write_curves
from playground.runs.recipe import KINDS
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.settings import Settings
from playground.verdict.race import RaceRequest, RaceView
from playground.verdict.race_store import DONE, record, text
from playground.workspace.visitors import LOCAL


def check(settings: Settings, options: Namespace) -> Outcome:
    services, progress = services_for(settings, options.base), Progress()
    file = fetched(services, options, progress)
    checked = services.data.check(file, mapping_of(options), LOCAL, progress.share("Reading"))
    progress.end()
    services.bases.resolve(progress.base)
    progress.end()
    tokens = services.data.tokens(checked, options.max_tokens, on_progress=progress.share("Counting tokens"))
    progress.end()
    advice = services.data.advice(checked, tokens)
    parts = services.data.split(file, checked.usable, TrainRequest(file).seed, checked=checked)
    found, words = as_json(checked, tokens, advice, parts.as_record()), as_text(checked, tokens, advice)
    if options.row is not None:
        row = services.data.row(checked, options.row, options.max_tokens)
        marks = {True: "learned", False: "only read"}
        turns = (f"{turn['role']} ({marks[turn['learned']]}): {turn['content']}" for turn in row["turns"])
        return found | {"row": row}, "\n".join((f"Row {options.row}", *turns, "", row["text"])), 0
    return found, words, 0


def fetched(services: Services, options: Namespace, progress: Progress) -> Path:
    """The file or folder that is named; of a data set, its first rows as a file."""
    following = progress.share("Fetching the data set's first rows")
    file, said = services.data.fetch(options.file, LOCAL, following, options.first, options.split)
    progress.end()
    if said:
        options.split = ""  # it is the only one in the file
        progress.say(said, always=True)
    return file


def train(settings: Settings, options: Namespace) -> Outcome:
    """Queue a run, or one a seed, and follow it to its end; where an app serves this home, that app runs it."""
    services, progress = services_for(settings, options.base), Progress()
    file = fetched(services, options, progress)
    request = request_of(options, file)
    checked = services.data.check(request.file, request.mapping, request.owner)  # before a base is fetched
    services.bases.resolve(progress.base)
    progress.end()
    if options.elsewhere:
        return _elsewhere(services, request, options.elsewhere)
    with owned_or_served(settings) as home:
        plan = services.training.plan(request)
        runs = [services.training.start(one) for one in request.seeded(options.seeds)]
        if checked.bad:
            used = f"{checked.good} of {checked.rows} rows can be used"
            progress.say(f"{used}, {len(checked.bad)} cannot (see check).", always=True)
        if checked.repairs:
            progress.say(f"Repaired: {'; '.join(repair_words(checked))}.", always=True)
        held = f"{plan.validation_rows} are held back to choose by, {plan.test_rows} for a verdict."
        progress.say(f"Learns from {plan.rows} rows; {held}", always=True)
        progress.say(f"About {duration(plan.seconds)}. {plan.teaches}".strip(), always=True)
        found, words, code = follow_runs(services, runs, home is not None, options.detach, progress)
        return found | ({"runs": runs} if len(runs) > 1 else {}), words, code


def _elsewhere(services: Services, request: TrainRequest, asked: str) -> Outcome:
    """Write what trains a run elsewhere, in place of starting it. asked: FORM=DIR. Raises InputError."""
    kind, _, where = asked.partition("=")
    folder = Path(where).expanduser()
    if not where or kind not in KINDS:
        raise InputError(f"--elsewhere is {asked!r}; it takes FORM=DIR. Forms: {', '.join(KINDS)}.")
    if folder.exists():
        raise InputError(f"{folder} exists. Name a new folder; nothing is overwritten.")
    files, plan = services.training.bundle(request, kind), services.training.plan(request)
    folder.mkdir(parents=True)
    for name, held in files.items():
        (folder / name).write_text(held, encoding="utf-8", errors="replace")
    held = f"{plural(plan.test_rows, 'row')} held out for the verdict stayed here." if plan.test_rows else ""
    said = f"Written to {folder}: {', '.join(files)}. {held}".rstrip()
    back = f"What comes back: python -m playground adapters import {folder / 'out' / 'final'}"
    return {"folder": str(folder), "files": [*files]}, f"{said}\n{back}" if RECORD in files else said, 0


def follow_runs(services: Services, runs: Sequence[str], owner: bool, detach: bool, progress: Progress) -> Outcome:
    """Start what is queued, if this process owns the home, and follow it; the outcome is the first run's. Raises
    RunFailedError where one failed, once all have ended."""
    if owner:
        services.training.start_supervisor()
    if detach:
        return _left(services, runs[0], owner, progress)
    views = [_followed(services, runs[at:], progress) for at in range(len(runs))]
    services.close()
    failed = [view.error or f"{view.name} ended as {view.state}." for view in views if view.state != "DONE"]
    if failed:
        raise RunFailedError(" ".join(failed))
    words = [
        f"Done: adapter {view.adapter} after {view.step} steps, {view.summary.get('seconds')} s." for view in views
    ]
    return _summed_up(views[0]), "\n".join(words), 0


def _followed(services: Services, runs: Sequence[str], progress: Progress) -> RunView:
    """The first of the runs as it ended; an interrupt cancels all of them."""
    view = services.training.show(runs[0])
    try:
        for view in services.training.follow(runs[0], poll_s=0.3):
            progress.say(_line(view))
    except KeyboardInterrupt:
        for run in reversed(runs):
            services.training.cancel(run)
        progress.say("Cancelling")
        *_, view = services.training.follow(runs[0])
    progress.end()
    return view


JOIN_S = 60.0
"""How long a cluster may take to be reached, or a Ray on this machine to start."""
SUMMARY = (
    *("rows_used", "rows_bad", "steps", "seconds", "tokens_per_s", "loss", "eval_loss", "trainable_params"),
    *("total_params", "peak_memory_bytes", "estimated_memory_bytes"),
)


def _summed_up(view: RunView) -> dict[str, Any]:
    run = {"run": view.run, "state": view.state, "adapter": view.adapter}
    return run | {name: view.summary.get(name) for name in SUMMARY}


def _left(services: Services, run: str, owner: bool, progress: Progress) -> Outcome:
    """Wait for its start, not for its end; where it does not start, say who will do that."""
    cluster = services.training.cluster
    view = _settled(services, run, "QUEUED", (10 if cluster is None else JOIN_S) if owner else 0)
    services.close()
    if view.state == "QUEUED" and view.pid is None:
        taken = "The device is taken" if cluster is None else "The cluster does not answer"
        now = taken if owner else "Another process works in this home and starts it when its turn comes"
        later = "" if owner else "should that end before, "
        then = "the app starts it, or the next command that trains here, or"
        progress.say(f"{run} waits. {now}; {later}{then}: python -m playground runs resume {run}", always=True)
    return _summed_up(view), f"{run} is {view.state}. python -m playground runs show {run} follows it.", 0


def _settled(services: Services, run: str, state: str, seconds: float) -> RunView:
    """The run once it has left a state, or as it is after so long."""
    until = time.monotonic() + seconds
    while (view := services.training.show(run)).state == state and time.monotonic() < until:
        time.sleep(0.1)
    return view


def runs(settings: Settings, options: Namespace) -> Outcome:
    """List, show, move, cancel, resume, or write curves. Never imports torch."""
    services = build_services(settings)
    training = services.training
    if options.action == "cancel":
        training.cancel(options.run)
        view = _settled(services, options.run, "STOPPING", 15)
        return _short(view), f"{view.run} is {view.state}.", 0
    if options.action == "resume":
        with owned_or_served(settings) as home:
            if training.show(options.run).state != "QUEUED":  # one that waits unsupervised is just started
                training.resume(options.run)
            return follow_runs(services, [options.run], home is not None, options.detach, Progress())
    if options.action == "move":
        training.move(options.run, options.to)
        view = training.show(options.run)
        return _short(view), f"{view.run} is {view.message}.", 0
    if options.action == "curves":
        file = write_curves(training.show(options.run), Path(options.dir), options.format)
        return {"run": options.run, "file": str(file)}, f"Written to {file}.", 0
    if options.action == "show":
        view = training.show(options.run)
        lines = _row(view), view.message if view.state in ACTIVE else "", _memory(view), view.error
        return _short(view), "\n".join(filter(None, lines)), 0
    views = training.runs()
    listed = "\n".join(_row(view) for view in views) or "No runs yet. python -m playground train FILE begins one."
    return {"runs": [_short(view) for view in views]}, listed, 0


def _short(view: RunView) -> dict[str, Any]:
    names = ("run", "state", "method", "step", "steps", "adapter", "error", "pid", "place")
    return {name: getattr(view, name) for name in names} | {"memory_ratio": view.summary.get("memory_ratio")}


def _row(view: RunView) -> str:
    place = f"  {ordinal(view.place)} in line" if view.place else ""
    steps = f"step {view.step} of {view.steps}  {view.adapter or view.name}"
    return f"{view.run}  {view.state:<9}  {view.method:<6}  {steps}{place}"


def _memory(view: RunView) -> str:
    """Was the estimate right?"""
    if not (ratio := view.summary.get("memory_ratio")):
        return ""
    said, peak = view.summary["estimated_memory_bytes"] / 1e9, view.summary["peak_memory_bytes"] / 1e9
    return f"Memory: {said:.2f} GB estimated, {peak:.2f} GB at its peak (ratio {ratio:.2f})"


def _line(view: RunView) -> str:
    if view.state != "RUNNING" or not view.step:
        return f"{view.state.capitalize()}: {view.message}" if view.message else view.state.capitalize()
    loss = next((f", loss {value:.3f}" for step, value in view.loss if step == view.step), "")
    speed = f"{view.tokens_per_s or 0:.0f} tokens/s"
    return f"Step {view.step} of {view.steps}{loss}, {speed}{and_left(view.seconds_left)}"


SHARED = ("steps", "minutes", "check", "name", "objective", "batch_size", "max_tokens", "seed")


def race(settings: Settings, options: Namespace) -> Outcome:
    """Queue a race and follow it to its end; where an app serves this home, that app runs and measures it."""
    services, progress = services_for(settings, options.base), Progress()
    methods = tuple(name.strip() for name in options.methods.split(",") if name.strip())
    asked = {name: getattr(options, name) for name in SHARED}
    request = RaceRequest(Path(options.file), methods=methods, mapping=mapping_of(options), **asked)
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
    """owner: this process measures it, or will where the one that did is gone. Raises CancelledError."""
    view = services.race.show(started)
    progress.say(f"Race {started}: {view.of} methods{and_left(view.seconds_left)}", always=True)
    try:
        for view in services.race.follow(started):
            progress.say(_race_line(view))
            if not owner and view.live and services.training.take_over():
                services.race.start_measuring()
                owner = True
    except KeyboardInterrupt:
        services.race.cancel(started)
        view = services.race.show(started)
    progress.end()
    services.close()
    if view.race.state != DONE:
        told = f"python -m playground races show {started} has what was measured."
        raise CancelledError(f"The race was cancelled. {told}")
    return record(view), text(view), 0 if any(entry.state == "DONE" for entry in view.race.entries) else 1


def races(settings: Settings, options: Namespace) -> Outcome:
    """List, show, cancel or remove. Never imports torch."""
    service = build_services(settings).race
    if options.action == "cancel":
        service.cancel(options.race)
    if options.action == "remove":
        service.remove(options.race)
        return {"removed": options.race}, f"{options.race} is forgotten; its runs and adapters stay.", 0
    if options.action in ("show", "cancel"):
        view = service.show(options.race)
        return record(view), "\n".join(filter(None, (_race_line(view), text(view)))), 0
    short = [
        {"race": v.race.race, "name": v.race.name, "state": v.race.state, "methods": v.of, "measured": v.measured}
        for v in service.races()
    ]
    listed = ["{race}  {state:<9}  {measured} of {methods} methods  {name}".format_map(row) for row in short]
    return {"races": short}, "\n".join(listed) or "No races yet. python -m playground race FILE begins one.", 0


def _race_line(view: RaceView) -> str:
    return f"{view.race.message}{and_left(view.seconds_left)}"
