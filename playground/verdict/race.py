"""Method races: several methods on the same rows with the same budget, run one after another, then measured alike.

A race is a record, and its runs are runs like any other: they wait in the same queue, and a restart loses nothing. The
process that owns the home measures; every other process only looks. Measuring begins when all runs have ended, so that
it slows none of them down.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from playground.db import ENDED
from playground.errors import CancelledError, InputError, NotFoundError, PlaygroundError
from playground.evaluation.checks import parse_check
from playground.jobs import Job, Jobs
from playground.library.card import AdapterCard
from playground.methods import all_methods
from playground.models.adapters import AdapterService
from playground.runs.progress import RunView
from playground.runs.service import TrainingService
from playground.settings import Settings
from playground.training.spec import RunSpec
from playground.verdict.race_plan import Lane, Measuring, RaceRequest, lanes
from playground.verdict.race_store import CANCELLED, DONE, LIVE, MEASURING, RUNNING, Entry, Race, RaceStore, RaceView
from playground.workspace.examples import DataService

__all__ = ["RaceRequest", "RaceService", "RaceView"]

TICK_S = 1.0
MEASURE_S = 60.0
"""What measuring one method takes, until one has been measured."""
_FIGURES = {
    "eval_loss",
    "trainable_params",
    "total_params",
    "peak_memory_bytes",
    "seconds",
    "tokens_per_s",
    "memory_ratio",
}
_LOG = logging.getLogger(__name__)


class RaceService:
    """Every process may start, look and cancel; only the home's owner (``start_measuring``) measures."""

    def __init__(
        self,
        settings: Settings,
        training: TrainingService,
        data: DataService,
        adapters: AdapterService,
        measuring: Measuring,
        jobs: Jobs,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._training, self._data, self._adapters = settings, training, data, adapters
        self._measuring, self._jobs, self._clock = measuring, jobs, clock
        self.store = RaceStore(settings.database)
        self._job: Job | None = None

    # -- a race --------------------------------------------------------------------------------------------------

    def plan(self, request: RaceRequest) -> list[Lane]:
        """Every method's run, in their order. Raises InputError that names every method which cannot run."""
        self._check(request)
        return lanes(request, self._training.plan)

    def start(self, request: RaceRequest) -> str:
        """Queue every method's run; returns the race's id. Raises InputError when one of them could never start, and
        then none is."""
        planned = self.plan(request)
        now = self._clock()
        race = time.strftime("%Y%m%d-%H%M%S-", time.localtime(now)) + "r" + secrets.token_hex(2)
        started: list[Entry] = []
        try:
            for lane in planned:
                run = self._training.start(lane.request)
                started.append(Entry(lane.request.method, run, lane.plan.steps, lane.plan.seconds, lr=lane.plan.lr))
            file = Path(request.file)
            name, check, entries = (request.name.strip() or file.stem)[:80], self._check(request), tuple(started)
            budget = (request.steps, request.minutes)
            self.store.add(Race(race, request.owner, name, file.name, now, RUNNING, check, *budget, entries))
        except BaseException:
            for entry in started:
                with contextlib.suppress(PlaygroundError):
                    self._training.cancel(entry.run, request.owner)
            raise
        return race

    def races(self, owner: str = "local") -> list[RaceView]:
        """The person's races, newest first."""
        mine = [race for race in self.store.all() if self._visible(race, owner)]
        return [self._view(race) for race in mine]

    def show(self, race: str, owner: str = "local") -> RaceView:
        """Raises NotFoundError."""
        return self._view(self._own(race, owner))

    def cancel(self, race: str, owner: str = "local") -> None:
        """Cancel every run that has not ended, and the measuring. What is known by then stays; a race that has ended
        stays as it is."""
        found = self._own(race, owner)
        if found.state not in LIVE:
            return
        self.store.change(
            found.race, lambda one: replace(one, state=CANCELLED, message="") if one.state in LIVE else one
        )
        for entry in reversed(found.entries):  # those that wait first, so that none of them begins
            with contextlib.suppress(NotFoundError):
                self._training.cancel(entry.run, found.owner)

    def remove(self, race: str, owner: str = "local") -> None:
        """Forget a race that has ended; its runs and adapters stay. Raises InputError while it lives."""
        found = self._own(race, owner)
        if found.state in LIVE:
            raise InputError(f"{found.name} has not ended. Cancel it first.")
        self.store.remove(found.race)

    def follow(self, race: str, owner: str = "local", poll_s: float = 0.5) -> Iterator[RaceView]:
        """The race's view again and again until it has ended; for the command line."""
        while True:
            view = self.show(race, owner)
            yield view
            if not view.live:
                return
            time.sleep(poll_s)

    # -- measuring -----------------------------------------------------------------------------------------------

    def start_measuring(self) -> None:
        """This process owns the home: it measures what has run from now on, also races that an earlier process
        began."""
        self._job = self._jobs.start("races", self._watch, "The measuring of races")

    def _watch(self, job: Job) -> None:
        while not job.stopping:
            try:
                self.tick()
            except Exception:  # a hiccup of the disk must not end it; the next look tries again
                _LOG.warning("a look at the races failed", exc_info=True)
            job.pause(TICK_S)

    def tick(self) -> None:
        """Take over how runs ended; measure a race all of whose runs have."""
        runs = {row.run for row in self._training.store.all()}
        for race in reversed(self.store.all()):
            if self._settings.shared and race.state not in LIVE and runs.isdisjoint(e.run for e in race.entries):
                self.store.remove(race.race)  # its visitor's data is gone
                continue
            if any(entry.state not in ENDED for entry in race.entries):
                race = self._taken_over(race)
            if race.state in LIVE and all(entry.state in ENDED for entry in race.entries):
                self._measure(race)

    def _taken_over(self, race: Race) -> Race:
        """The race with the figures of every run that has ended by now."""
        now = [self._now(entry, race.owner)[0] for entry in race.entries if entry.state not in ENDED]
        ended = {entry.run: entry for entry in now if entry.state in ENDED}
        if not ended:
            return race
        begun = next((e.eval_loss[0] for e in ended.values() if e.eval_loss and e.eval_loss[0][0] == 0), None)

        def change(one: Race) -> Race:
            base = one.base if begun is None or one.base.eval_loss else replace(one.base, eval_loss=[begun])
            return replace(one, entries=tuple(ended.get(e.run, e) for e in one.entries), base=base)

        return self.store.change(race.race, change)

    def _measure(self, race: Race) -> None:
        if race.state == RUNNING:
            race = self._change(race, state=MEASURING)
        try:
            if race.check and race.base.measured_s is None:
                self._measure_base(race)
            for entry in race.entries:
                if entry.state == "DONE" and entry.measured_s is None:
                    self._measure_one(race, entry)
            self._change(race, state=DONE, message="")
        except CancelledError:
            return  # by a person, which the record says, or because this process ends: the next one goes on

    def _measure_base(self, race: Race) -> None:
        run = next((entry.run for entry in race.entries if entry.state == "DONE"), None)
        if run is None:
            return
        started, base = time.monotonic(), race.base
        try:
            base = self._with_adherence(base, None, run, race, "The base")
        except PlaygroundError as error:
            base = replace(base, reason=_unless_cancelled(error))
        self._change(race, base=replace(base, measured_s=time.monotonic() - started))

    def _measure_one(self, race: Race, entry: Entry) -> None:
        """What cannot be measured is said in the entry; the others go on."""
        started, who = time.monotonic(), all_methods()[entry.method].label
        try:
            card = self._adapters.get(entry.adapter or "", race.owner)
            entry = replace(entry, figures=entry.figures | {"bytes": card.bytes})
            if race.check:
                entry = self._with_adherence(entry, card, entry.run, race, who)
            entry = replace(entry, forgot=self._measuring.forgot(card, race.owner, self._teller(race, who)))
        except PlaygroundError as error:
            entry = replace(entry, reason=f"Not all of it could be measured: {_unless_cancelled(error)}")
        entry = replace(entry, measured_s=time.monotonic() - started)
        self.store.change(
            race.race, lambda one: replace(one, entries=tuple(entry if e.run == entry.run else e for e in one.entries))
        )

    def _with_adherence(self, entry: Entry, card: AdapterCard | None, run: str, race: Race, who: str) -> Entry:
        spec, tell = RunSpec.read(self._settings.runs_dir / run), self._teller(race, who)
        passed, asked = self._measuring.adherence(card, spec, race.check, race.owner, tell)
        return replace(entry, passed=passed if asked else None, asked=asked)

    def _teller(self, race: Race, who: str) -> Callable[[str], None]:
        """Writes what is being done into the record, once a second at most. Raises CancelledError where the race was
        cancelled, or this process ends."""
        written_s = 0.0

        def tell(words: str) -> None:
            nonlocal written_s
            if self._job is not None:
                self._job.check()
            if time.monotonic() - written_s >= TICK_S:
                written_s = time.monotonic()
                self._change(race, message=f"Measuring {who}: {words}")

        return tell

    def _change(self, race: Race, **values: object) -> Race:
        """Raises CancelledError when it has been cancelled meanwhile."""
        found = self.store.change(race.race, lambda one: one if one.state == CANCELLED else replace(one, **values))  # type: ignore[arg-type]
        if found.state == CANCELLED:
            raise CancelledError("The race was cancelled.")
        return found

    # -- inside --------------------------------------------------------------------------------------------------

    def _check(self, request: RaceRequest) -> str:
        """How replies are judged: as asked, or as the shipped set says. Raises InputError."""
        if request.check.strip():
            spec = request.check.strip()
            parse_check(spec, files=not self._settings.shared)
            return spec
        shipped = {one.file.resolve(): one.check for one in self._data.sets()}
        return shipped.get(Path(request.file).resolve(), "")

    def _view(self, race: Race) -> RaceView:
        """With what its runs say just now, where they have not ended."""
        entries, left = [], 0.0
        known = [entry.measured_s for entry in race.entries if entry.measured_s is not None]
        measure_s = sum(known) / len(known) if known else MEASURE_S
        for entry in race.entries:
            if entry.state not in ENDED:
                entry, seconds = self._now(entry, race.owner)
                left += seconds
            left += measure_s if entry.measured_s is None and entry.state not in ("FAILED", "CANCELLED") else 0.0
            entries.append(entry)
        done = sum(entry.measured_s is not None or entry.state in ("FAILED", "CANCELLED") for entry in entries)
        message = race.message if race.state == MEASURING else _training_words(entries) if race.state == RUNNING else ""
        shown = replace(race, entries=tuple(entries), message=message)
        return RaceView(shown, left if race.state in LIVE else None, done, len(entries))

    def _now(self, entry: Entry, owner: str) -> tuple[Entry, float]:
        """The entry as its run is now, and seconds that the run still takes."""
        try:
            view = self._training.show(entry.run, owner)
        except NotFoundError:
            return replace(entry, state="CANCELLED", reason="The run was removed."), 0.0
        return with_view(entry, view), 0.0 if view.state in ENDED else (view.seconds_left or entry.planned_s)

    def _visible(self, race: Race, owner: str) -> bool:
        return not self._settings.shared or race.owner == owner

    def _own(self, race: str, owner: str) -> Race:
        """Raises NotFoundError, which names the owner's own races only."""
        mine = [one for one in self.store.all() if self._visible(one, owner)]
        found = next((one for one in mine if one.race == race), None)
        if found is None:
            there = ", ".join(one.race for one in mine[:5]) or "none yet"
            raise NotFoundError(f"There is no race {race[:80]!r}. The newest are: {there}.")
        return found


def with_view(entry: Entry, view: RunView) -> Entry:
    """The entry with what its run says."""
    reason = (view.error or f"The run ended as {view.state}.") if view.state in ("FAILED", "CANCELLED") else ""
    figures = {name: one for name, one in view.summary.items() if name in _FIGURES and one is not None}
    loss, eval_loss = ([list(point) for point in points] for points in (view.loss, view.eval_loss))
    entry = replace(entry, state=view.state, reason=reason, adapter=view.adapter, loss=loss, eval_loss=eval_loss)
    return replace(entry, figures=entry.figures | figures)


def _unless_cancelled(error: PlaygroundError) -> str:
    """An error's words; a cancel goes on up."""
    if isinstance(error, CancelledError):
        raise error
    return str(error)


def _training_words(entries: list[Entry]) -> str:
    """Which of them trains, and how far it is."""
    place, entry = next(((n, e) for n, e in enumerate(entries, 1) if e.state in ("RUNNING", "STOPPING")), (0, None))
    if entry is None:
        return "Waiting for the device"
    step = int(entry.loss[-1][0]) if entry.loss else 0
    return f"{all_methods()[entry.method].label}, {place} of {len(entries)}: step {step} of {entry.steps}"
