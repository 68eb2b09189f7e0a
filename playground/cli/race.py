"""``race`` and ``races``: several methods on the same rows, one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playground.cli.arguments import mapping_of
from playground.cli.common import Progress, owned_or_served, services_for
from playground.errors import InputError
from playground.services.container import Services
from playground.services.race import RaceRequest, RaceView
from playground.services.race_store import DONE
from playground.services.race_table import record, text
from playground.settings import Settings

Outcome = tuple[dict[str, Any], str, int]


def race(settings: Settings, options: Any) -> Outcome:
    """Queue a race and follow it to its end; where an app serves this home, that app runs and measures it."""
    services = services_for(settings, options.base)
    progress = Progress()
    methods = tuple(name.strip() for name in options.methods.split(",") if name.strip())
    request = RaceRequest(
        Path(options.file), methods, options.steps, options.minutes, options.check, options.name, options.objective,
        options.batch_size, options.max_tokens, options.seed, mapping_of(options.map),
    )  # fmt: skip
    services.data.check(request.file, request.mapping, request.owner)  # a bad file is told before a base is fetched
    services.bases.resolve(progress.base)
    progress.end()
    with owned_or_served(settings) as home:
        started = services.race.start(request)
        if home is not None:
            services.training.start_supervisor()
            services.race.start_measuring()
        return _followed(services, started, progress, owner=home is not None)


def _followed(services: Services, started: str, progress: Progress, *, owner: bool) -> Outcome:
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
        raise _Cancelled(f"The race was cancelled. python -m playground races show {started} has what was measured.")
    return record(view), text(view), 0 if any(entry.state == "DONE" for entry in view.race.entries) else 1


class _Cancelled(InputError):
    """It did not come to its end."""

    exit_code = 1


def races(settings: Settings, options: Any) -> Outcome:
    """List, show, cancel or remove. Never imports torch."""
    services = Services(settings)
    if options.action == "cancel":
        services.race.cancel(options.race)
    if options.action == "remove":
        services.race.remove(options.race)
        return {"removed": options.race}, f"{options.race} is forgotten; its runs and adapters stay.", 0
    if options.action in ("show", "cancel"):
        view = services.race.show(options.race)
        return record(view), "\n".join(part for part in (_line(view), text(view)) if part), 0
    views = services.race.races()
    listed = "\n".join(f"{v.race.race}  {v.race.state:<9}  {v.measured} of {v.of} methods  {v.race.name}" for v in views)
    short = [
        {"race": v.race.race, "name": v.race.name, "state": v.race.state, "methods": v.of, "measured": v.measured} for v in views
    ]
    return {"races": short}, listed or "No races yet. python -m playground race FILE begins one.", 0


def _line(view: RaceView) -> str:
    return ", ".join(part for part in (view.race.message, _time(view)) if part)


def _time(view: RaceView) -> str:
    if view.seconds_left is None:
        return ""
    return f"about {view.seconds_left / 60:.0f} min left" if view.seconds_left >= 90 else f"about {view.seconds_left:.0f} s left"
