"""``check``, ``train`` and ``runs``."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from playground.cli.arguments import mapping_of, request_of
from playground.cli.common import Outcome, Progress, owned_or_served, services_for
from playground.data.check import as_json, as_text
from playground.data.split import split
from playground.errors import RunFailedError
from playground.runs.progress import RunView, ordinal, write_curves
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.settings import Settings
from playground.workspace.visitors import LOCAL


def check(settings: Settings, options: Namespace) -> Outcome:
    services = services_for(settings, options.base)
    progress = Progress()
    file = services.data.fetch(options.file, LOCAL, progress.share("Fetching the data set's first rows"))
    checked = services.data.check(file, mapping_of(options.map), LOCAL, progress.share("Reading"))
    progress.end()
    services.bases.resolve(progress.base)
    progress.end()
    tokens = services.data.tokens(checked, options.max_tokens, on_progress=progress.share("Counting tokens"))
    progress.end()
    advice = services.data.advice(checked, tokens)
    seed = TrainRequest(file).seed
    parts = split(checked.usable, seed, test=services.data.test_share(file))
    return as_json(checked, tokens, advice, parts.as_record()), as_text(checked, tokens, advice), 0


def train(settings: Settings, options: Namespace) -> Outcome:
    """Queue a run and follow it to its end; where an app serves this home, that app runs it."""
    services = services_for(settings, options.base)
    progress = Progress()
    file = services.data.fetch(options.file, LOCAL, progress.share("Fetching the data set's first rows"))
    progress.end()
    request = request_of(options, file)
    checked = services.data.check(request.file, request.mapping, request.owner)  # before a base is fetched
    services.bases.resolve(progress.base)
    progress.end()
    with owned_or_served(settings) as home:
        plan = services.training.plan(request)
        run = services.training.start(request)
        if checked.bad:
            progress.say(
                f"{checked.good} of {checked.rows} rows can be used, {len(checked.bad)} cannot (see check).",
                always=True,
            )
        held = f"{plan.validation_rows} are held back to choose by, {plan.test_rows} for a verdict."
        progress.say(f"Learns from {plan.rows} rows; {held}", always=True)
        return follow_run(services, run, home is not None, options.detach, progress)


def follow_run(services: Services, run: str, owner: bool, detach: bool, progress: Progress) -> Outcome:
    """Start what is queued, if this process owns the home, and follow it."""
    if owner:
        services.training.start_supervisor()
    if detach:
        return _left(services, run, owner, progress)
    view = services.training.show(run)
    try:
        for view in services.training.follow(run, poll_s=0.3):
            progress.say(_line(view))
    except KeyboardInterrupt:
        services.training.cancel(run)
        for view in services.training.follow(run):
            progress.say("Cancelling")
    progress.end()
    services.close()
    code = 0 if view.state == "DONE" else 1
    if code:
        raise RunFailedError(view.error or f"The run ended as {view.state}.")
    return _json(view), f"Done: adapter {view.adapter} after {view.step} steps, {view.summary.get('seconds')} s.", code


def _left(services: Services, run: str, owner: bool, progress: Progress) -> Outcome:
    """Wait for its start, not for its end; where it does not start, say who will do that."""
    view = services.training.show(run)
    until = time.monotonic() + 10
    while owner and view.state == "QUEUED" and time.monotonic() < until:
        time.sleep(0.1)
        view = services.training.show(run)
    services.close()
    if view.state == "QUEUED":
        now = "The device is taken" if owner else "Another process works in this home and starts it when its turn comes"
        later = "" if owner else "should that end before, "
        progress.say(
            f"{run} waits. {now}; {later}the app starts it, or the next command that trains here, or: python -m"
            f" playground runs resume {run}",
            always=True,
        )
    return _json(view), f"{run} is {view.state}. python -m playground runs show {run} follows it.", 0


def runs(settings: Settings, options: Namespace) -> Outcome:
    """List, show, move, cancel or resume. Never imports torch."""

    services = build_services(settings)
    training = services.training
    if options.action == "cancel":
        training.cancel(options.run)
        view = training.show(options.run)
        until = time.monotonic() + 15
        while view.state == "STOPPING" and time.monotonic() < until:
            time.sleep(0.2)
            view = training.show(options.run)
        return _short(view), f"{view.run} is {view.state}.", 0
    if options.action == "resume":
        with owned_or_served(settings) as home:
            if training.show(options.run).state != "QUEUED":  # one that waits unsupervised is just started
                training.resume(options.run)
            return follow_run(services, options.run, home is not None, options.detach, Progress())
    if options.action == "move":
        training.move(options.run, options.to)
        view = training.show(options.run)
        return _short(view), f"{view.run} is {view.message}.", 0
    if options.action == "curves":
        file = write_curves(training.show(options.run), Path(options.dir), options.format)
        return {"run": options.run, "file": str(file)}, f"Written to {file}.", 0
    if options.action == "show":
        view = training.show(options.run)
        return _short(view), "\n".join(line for line in (_row(view), _memory(view), view.error) if line), 0
    views = training.runs()
    text = "\n".join(_row(view) for view in views) or "No runs yet. python -m playground train FILE begins one."
    return {"runs": [_short(view) for view in views]}, text, 0


def _short(view: RunView) -> dict[str, Any]:
    names = ("run", "state", "method", "step", "steps", "adapter", "error", "pid", "place")
    return {name: getattr(view, name) for name in names} | {"memory_ratio": view.summary.get("memory_ratio")}


def _json(view: RunView) -> dict[str, Any]:
    names = [
        "rows_used",
        "rows_bad",
        "steps",
        "seconds",
        "tokens_per_s",
        "loss",
        "eval_loss",
        "trainable_params",
        "total_params",
    ]
    names += ["peak_memory_bytes", "estimated_memory_bytes"]
    run = {"run": view.run, "state": view.state, "adapter": view.adapter}
    return run | {name: view.summary.get(name) for name in names}


def _row(view: RunView) -> str:
    place = f"  {ordinal(view.place)} in line" if view.place else ""
    return (
        f"{view.run}  {view.state:<9}  {view.method:<6}  step {view.step} of {view.steps} "
        f" {view.adapter or view.name}{place}"
    )


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
    left = f", {view.seconds_left:.0f} s left" if view.seconds_left else ""
    return f"Step {view.step} of {view.steps}{loss}, {view.tokens_per_s or 0:.0f} tokens/s{left}"
