"""Method races: several methods on the same rows with the same budget, one after another, then measured alike by the
process that owns the home, once all runs have ended, so that it slows none of them down."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean

from playground.chat.batching import Asked, Batches
from playground.data.example import Example, Preference
from playground.data.render import encode, render_prompt
from playground.data.split import part
from playground.db import ENDED, DatabaseError
from playground.engine.request import Sampling
from playground.errors import CancelledError, InputError, NotFoundError, PlaygroundError
from playground.evaluation.checks import parse_check
from playground.jobs import Job, Jobs
from playground.library.adapters import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.runs.progress import RunView
from playground.runs.service import TrainingService
from playground.settings import Settings
from playground.training.spec import RunSpec
from playground.verdict import race_store
from playground.verdict.losses import ForgettingService, texts
from playground.verdict.race_store import CANCELLED, LIVE, Entry, Lane, Race, RaceRequest, RaceView, label
from playground.workspace.examples import DataService
from playground.workspace.visitors import LOCAL

__all__ = ["RaceRequest", "RaceService", "RaceView"]

TICK_S = 1.0
MEASURE_S = 60.0  # what measuring one method takes, until one has been measured
ROWS = 16  # validation rows that are answered: enough to tell 0 from 16, little enough for two cores
SHORTEST, LONGEST = 32, 256
"""Tokens that a reply may take: a quarter more than the file's own answers need, within these."""
_FIGURES = {"eval_loss", "trainable_params", "total_params", "peak_memory_bytes", "memory_ratio"}
_FIGURES |= {"seconds", "tokens_per_s"}
ERRORS = (OSError, DatabaseError, PlaygroundError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError)
"""Of the disk, the database, and what a library raises on one race's rows: the others are measured all the same."""
_LOG = logging.getLogger(__name__)
Tell = Callable[[str], None]


class RaceService:
    """Every process may start, look and cancel; only the home's owner (``start_measuring``) measures."""

    def __init__(
        self,
        settings: Settings,
        training: TrainingService,
        bases: BaseService,
        data: DataService,
        adapters: AdapterService,
        batches: Batches,
        forgetting: ForgettingService,
        jobs: Jobs,
    ) -> None:
        self._settings, self._training, self._data, self._adapters = settings, training, data, adapters
        self._bases, self._batches, self._forgetting, self._jobs = bases, batches, forgetting, jobs
        self.store = race_store.RaceStore(settings.database)
        self._job: Job | None = None

    def plan(self, request: RaceRequest) -> list[Lane]:
        """Every method's run, in their order. Raises InputError that names every method which cannot run."""
        self._check(request)
        return race_store.lanes(request, self._training.plan)

    def start(self, request: RaceRequest) -> str:
        """Queue every method's run; returns the race's id. Raises InputError, and then none is queued."""
        planned, now = self.plan(request), time.time()
        race = time.strftime("%Y%m%d-%H%M%S-", time.localtime(now)) + "r" + secrets.token_hex(2)
        file = Path(request.file)
        name, check = (request.name.strip() or file.stem)[:80], self._check(request)
        started: list[Entry] = []
        with contextlib.ExitStack() as undo:
            for lane in planned:
                run = self._training.start(lane.request)
                undo.callback(self._cancel_run, run, request.owner)
                started.append(Entry(lane.request.method, run, lane.plan.steps, lane.plan.seconds, lr=lane.plan.lr))
            asked = (race_store.RUNNING, check, request.steps, request.minutes)
            self.store.add(Race(race, request.owner, name, file.name, now, *asked, tuple(started)))
            undo.pop_all()
        return race

    def races(self, owner: str = LOCAL) -> list[RaceView]:
        """The person's races, newest first."""
        return [self._view(race) for race in self._mine(owner)]

    def show(self, race: str, owner: str = LOCAL) -> RaceView:
        """Raises NotFoundError."""
        return self._view(self._own(race, owner))

    def cancel(self, race: str, owner: str = LOCAL) -> None:
        """Cancel its runs and its measuring; what is known by then stays. A race that has ended stays as it is."""
        found = self._own(race, owner)
        if found.state not in LIVE:
            return
        self.store.change(race, lambda one: replace(one, state=CANCELLED, message="") if one.state in LIVE else one)
        for entry in reversed(found.entries):  # those that wait first, so that none of them begins
            self._cancel_run(entry.run, found.owner)

    def remove(self, race: str, owner: str = LOCAL) -> None:
        """Forget a race that has ended; its runs and adapters stay. Raises InputError while it lives."""
        found = self._own(race, owner)
        if found.state in LIVE:
            raise InputError(f"{found.name} has not ended. Cancel it first.")
        self.store.remove(found.race)

    def follow(self, race: str, owner: str = LOCAL, poll_s: float = 0.5) -> Iterator[RaceView]:
        """The race's view again and again until it has ended; for the command line."""
        while (view := self.show(race, owner)).live:
            yield view
            time.sleep(poll_s)
        yield view

    def start_measuring(self) -> None:
        """Measure from now on what has run, earlier races too: for the process that owns the home."""
        self._job = self._jobs.start("races", self._watch, "The measuring of races")

    def _watch(self, job: Job) -> None:
        while not job.stopping:
            try:
                self.tick()
            except ERRORS:  # the next look tries again
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
                with contextlib.suppress(CancelledError):  # by a person, or this process ends: the next one goes on
                    self._measure(race)

    def _taken_over(self, race: Race) -> Race:
        """The race with the figures of every run that has ended by now."""
        now = [self._now(entry, race.owner)[0] for entry in race.entries if entry.state not in ENDED]
        ended = {entry.run: entry for entry in now if entry.state in ENDED}
        if not ended:
            return race
        begun = [e.eval_loss[0] for e in ended.values() if e.eval_loss and e.eval_loss[0][0] == 0][:1]

        def change(one: Race) -> Race:
            return _with(ended, replace(one, base=replace(one.base, eval_loss=one.base.eval_loss or begun)))

        return self.store.change(race.race, change)

    def _measure(self, race: Race) -> None:
        """Raises CancelledError."""
        if race.state == race_store.RUNNING:
            race = self._change(race, state=race_store.MEASURING)
        trained = [entry for entry in race.entries if entry.state == "DONE"]
        if race.check and race.base.measured_s is None and trained:
            self._change(race, base=self._measured(race, race.base, trained[0].run))
        for entry in trained:
            if entry.measured_s is None:
                found = {entry.run: self._measured(race, entry, entry.run)}
                self.store.change(race.race, partial(_with, found))
        self._change(race, state=race_store.DONE, message="")

    def _measured(self, race: Race, entry: Entry, run: str) -> Entry:
        """A method, or the base on the rows of a run; what cannot be measured is said in the entry."""
        started, owner = time.monotonic(), race.owner
        tell = self._teller(race, label(entry.method) if entry.method else "The base")
        try:
            card = self._adapters.get(entry.adapter or "", owner) if entry.method else None
            if card is not None:
                entry = replace(entry, figures=entry.figures | {"bytes": card.bytes})
            if race.check:
                passed, asked = self._adherence(card, run, race.check, owner, tell)
                entry = replace(entry, passed=passed if asked else None, asked=asked)
            if card is not None:
                with contextlib.closing(self._forgetting.measure([card], owner)) as steps:
                    for step in steps:
                        tell(step.waiting or f"what it forgot, {step.done} of {step.of}")
                entry = replace(entry, forgot=asdict(step.found[0]))
        except CancelledError:
            raise
        except PlaygroundError as error:
            entry = replace(entry, reason=f"{'Not all of it could be measured: ' if entry.method else ''}{error}")
        return replace(entry, measured_s=time.monotonic() - started)

    def _adherence(self, card: AdapterCard | None, run: str, check: str, session: str, tell: Tell) -> tuple[int, int]:
        """(greedy replies to the run's validation rows that pass the check, of how many; raw text asks nothing).
        card: None = the base. What ``tell`` raises ends it and frees the device. Raises InputError."""
        spec = RunSpec.read(self._settings.runs_dir / run)
        usable = self._data.check(Path(spec.file), spec.mapping or None, LOCAL).usable
        rows = part(usable, spec.split.get("validation", []))
        asked = [row.prompt for row in rows if isinstance(row, Example | Preference)][:ROWS]
        passes = parse_check(check).passes
        if not asked:
            return 0, 0
        answer = min(LONGEST, max(SHORTEST, spec.answer_max * 5 // 4))
        context, tokenizer = self._bases.context(), self._bases.tokenizer()
        think = card.think if card is not None else False  # a thought would not fit into so short a reply
        prompts = [render_prompt(tokenizer, messages, think) for messages in asked]
        if context is not None:
            before = card.virtual_tokens if card else 0
            answer = max(1, min(answer, context - before - max(len(encode(tokenizer, prompt)) for prompt in prompts)))
        said: list[str] = []
        batch = [Asked(card, prompt, Sampling(max_tokens=answer)) for prompt in prompts]
        with contextlib.closing(texts(self._batches, batch, session, said)) as steps:
            for waiting, done in steps:
                tell(waiting or f"{done} of {len(batch)} replies")
        return sum(map(passes, said)), len(said)

    def _teller(self, race: Race, who: str) -> Tell:
        """Writes what is done into the record, once a second. Raises CancelledError once race or process ends."""
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

    def _cancel_run(self, run: str, owner: str) -> None:
        with contextlib.suppress(PlaygroundError):
            self._training.cancel(run, owner)

    def _check(self, request: RaceRequest) -> str:
        """How replies are judged: as asked, or as the shipped set says. Raises InputError."""
        if spec := request.check.strip():
            parse_check(spec, files=not self._settings.shared)
            return spec
        shipped = self._data.shipped_with(Path(request.file))
        return shipped.check if shipped is not None else ""

    def _view(self, race: Race) -> RaceView:
        """With what its runs say just now, where they have not ended."""
        known = [entry.measured_s for entry in race.entries if entry.measured_s is not None]
        now = [(entry, 0.0) if entry.state in ENDED else self._now(entry, race.owner) for entry in race.entries]
        entries = tuple(entry for entry, _ in now)
        waits = sum(entry.measured_s is None and entry.state not in ("FAILED", "CANCELLED") for entry in entries)
        left = sum(seconds for _, seconds in now) + waits * (mean(known) if known else MEASURE_S)
        words = {race_store.RUNNING: _training_words(entries), race_store.MEASURING: race.message}
        shown = replace(race, entries=entries, message=words.get(race.state, ""))
        return RaceView(shown, left if race.state in LIVE else None, len(entries) - waits, len(entries))

    def _now(self, entry: Entry, owner: str) -> tuple[Entry, float]:
        """The entry as its run is now, and seconds that the run still takes."""
        try:
            view = self._training.show(entry.run, owner)
        except NotFoundError:
            return replace(entry, state="CANCELLED", reason="The run was removed."), 0.0
        return with_view(entry, view), 0.0 if view.state in ENDED else (view.seconds_left or entry.planned_s)

    def _mine(self, owner: str) -> list[Race]:
        return [race for race in self.store.all() if not self._settings.shared or race.owner == owner]

    def _own(self, race: str, owner: str) -> Race:
        """Raises NotFoundError, which names the owner's own races only."""
        mine = {one.race: one for one in self._mine(owner)}
        if race not in mine:
            there = ", ".join(list(mine)[:5]) or "none yet"
            raise NotFoundError(f"There is no race {race[:80]!r}. The newest are: {there}.")
        return mine[race]


def _with(changed: Mapping[str, Entry], race: Race) -> Race:
    """With some entries, by their runs, in the place of those there."""
    return replace(race, entries=tuple(changed.get(one.run, one) for one in race.entries))


def with_view(entry: Entry, view: RunView) -> Entry:
    """The entry with what its run says."""
    reason = (view.error or f"The run ended as {view.state}.") if view.state in ("FAILED", "CANCELLED") else ""
    figures = {name: one for name, one in view.summary.items() if name in _FIGURES and one is not None}
    loss, eval_loss = ([list(point) for point in points] for points in (view.loss, view.eval_loss))
    entry = replace(entry, state=view.state, reason=reason, adapter=view.adapter, loss=loss, eval_loss=eval_loss)
    return replace(entry, figures=entry.figures | figures)


def _training_words(entries: Sequence[Entry]) -> str:
    """Which of them trains, and how far it is."""
    for place, entry in enumerate(entries, 1):
        if entry.state in ("RUNNING", "STOPPING"):
            return f"{label(entry.method)}, {place} of {len(entries)}: step {entry.step} of {entry.steps}"
    return "Waiting for the device"
