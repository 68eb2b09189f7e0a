"""Verdicts: several sides on a person's held-out examples, measured in the background, kept in the home folder."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from playground.chat.compare import Side
from playground.data.example import Example
from playground.errors import BusyError, CancelledError, InputError, NotFoundError, PlaygroundError
from playground.evaluation.checks import Check, parse_checks
from playground.evaluation.comparison import Questions
from playground.evaluation.cost import Prices
from playground.evaluation.criterion import Criterion, judges_in
from playground.evaluation.form import REFERENCES
from playground.evaluation.verdict import Answered
from playground.jobs import Job, Jobs, sentence
from playground.library.files import file_sha256
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.models.endpoints import PREFIX
from playground.settings import Settings
from playground.training import processes
from playground.verdict.answers import Answering
from playground.verdict.bench import tried_for
from playground.verdict.files import DONE, FAILED, LIVE, MEASURING, STOPPED, VERDICT, State, VerdictFiles, row_of
from playground.verdict.judges import Judges, Trust
from playground.verdict.losses import ForgettingService
from playground.verdict.measuring import Measuring, Work
from playground.verdict.records import Kept, RecordMaker, SoFar
from playground.verdict.request import Size, VerdictRequest, request_from
from playground.verdict.search import Searching
from playground.workspace.examples import DataService
from playground.workspace.visitors import LOCAL, Quota

__all__ = ["VerdictRequest", "VerdictService", "VerdictView"]

SHOTS = 4
"""Answered examples of the ready-made few-shot side."""
VERDICT_BYTES = 5_000_000
"""Disk that one is counted with before it begins."""
LIVE_OF_ONE = 3
"""Verdicts of one person that may wait or run."""
LIVE_OF_ALL = 32
"""The same of everybody together: each takes turns on the device with all others."""
KEPT = "What was measured by then is kept."
AGAIN = "What it answered is kept: it can be asked the rest again (the Verdict tab, or verdict --extend)."
APP_ENDED = "The app ended while it was measured."
_KEY = "verdict "


@dataclass(frozen=True)
class VerdictView:
    """A verdict as it is now. done, of: replies, or seconds of a search, as unit says. message: what it is doing.
    seconds_left: an estimate, None before there is one. record: once it has ended and something could be compared.
    so_far: each side's passes while rows run. may_grow: it stated a maximum of rows that it has not reached. failed:
    sides that were left out. look: how many times it was concluded from."""

    id: str
    name: str
    state: str
    done: int = 0
    of: int = 0
    message: str = ""
    seconds_left: float | None = None
    created_s: float = 0.0
    error: str = ""
    record: dict[str, Any] | None = None
    purpose: str = VERDICT
    so_far: tuple[SoFar, ...] = ()
    may_grow: bool = False
    failed: tuple[str, ...] = ()
    look: int = 0
    unit: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


class VerdictService:
    """One job a verdict: one person's come one after another, those of several take turns batch by batch."""

    def __init__(
        self,
        settings: Settings,
        bases: BaseService,
        data: DataService,
        adapters: AdapterService,
        answering: Answering,
        forgetting: ForgettingService,
        quota: Quota,
        jobs: Jobs,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds since 1970; ticks: of a search's budget."""
        self._settings, self._bases, self._adapters = settings, bases, adapters
        self._quota, self._jobs = quota, jobs
        self._answering, self._clock = answering, clock
        self.files = VerdictFiles(settings.home / "verdicts")
        self.judges = Judges(bases, adapters, answering.batches, shared=settings.shared)
        self._records = RecordMaker(bases, data, answering.cards)
        self._search = Searching(answering, bases, self._records, self.files, self.judges.marking, ticks)
        self._measuring = Measuring(answering, forgetting, self.files, self.judges.marking, self._search)
        self._lock = threading.RLock()

    def start(self, request: VerdictRequest) -> str:
        """Check it, and measure in the background; returns its id. Raises InputError, NotFoundError, BusyError."""
        return self._begin(request)[0]

    def run(self, request: VerdictRequest) -> Iterator[VerdictView]:
        """The same for the command line: yields how far it is, the last time when it has ended. Closing it stops it."""
        id, job = self._begin(request)
        with contextlib.closing(job.follow()) as steps:
            for _ in steps:
                yield self.show(id, request.owner)
        yield self.show(id, request.owner)

    def extension(
        self, id: str, rows: int | None = None, owner: str = LOCAL, file: Path | None = None
    ) -> VerdictRequest:
        """The request that measures a verdict further: what is not answered of the rows that were begun (a side that
        failed is asked again), and the next rows, up to ``rows`` in all (None = the maximum that it stated, 0 = none).
        One that failed as a whole may go on to the rows that it was to measure. file: the same rows and more of them,
        None = as before. Raises InputError where nothing is left, no maximum was stated, or what was measured has
        changed."""
        state = self._own(id, owner)
        record, before = self.files.record(id), request_from(self.files.request(id))
        if state.state in LIVE or record is None:
            raise InputError(f"{state.name} is still measured, or measured nothing. Wait for its end, or measure anew.")
        if (base := self._bases.resolve()).id != record["base"]:
            raise InputError(
                f"{state.name} was measured on {record['base']}; the base is now {base.id}. Choose that one."
            )
        before, most = replace(before, file=file or before.file), before.maximum
        there = self._answering.examples(replace(before, limit=most or before.limit))
        work = self._before(replace(before, extends=id))
        self._refuse_changed(before, work, there)
        complete = work.complete({side.label for side in before.sides} - record.get("failed", {}).keys())
        limit = max((at for at, one in enumerate(there, 1) if one.row in complete), default=0)
        if most is not None:
            limit = max(limit, most if rows is None else min(rows, most))
        elif state.state == FAILED:
            limit = len(there)
        asked = [one.row for one in there[:limit] for side in before.sides if (one.row, side.label) not in work.answers]
        if (most is None and (rows or 0) > limit) or not (asked or most):
            raise InputError(
                f"{state.name} stated no maximum of rows, so looking again would not hold its 5 % of error. "
                "Measure a new verdict on new rows, and state a maximum this time."
            )
        if not asked:
            raise InputError(
                f"All {len(complete)} rows that {state.name} may look at are measured: its maximum is {most}, there "
                f"are {len(there)}, and {'all' if rows is None else rows} are asked for."
            )
        looked = {(record["ladder"] or [{"n": record["examples"]}])[0]["n"]} if {*asked} - complete and most else {}
        return replace(before, limit=limit, looks=tuple(sorted({*before.looks, *looked})), extends=id)

    def _refuse_changed(self, before: VerdictRequest, work: Work, there: Sequence[Example]) -> None:
        """Raises InputError where a measured row, or a server that answered, is no longer what it was."""
        now = {one.row: one.completion for one in there}
        if changed := [one.example for one in work.answers.values() if now.get(one.example) != one.reference]:
            raise InputError(
                f"Row {changed[0]} of {before.file.name} is no longer what was measured. New rows go to the end of the "
                "file; measure a new verdict on a file that has changed."
            )
        servers = dict(zip((side.label for side in before.sides), self._answering.endpoints(before), strict=True))
        for one in work.answers.values():
            if (server := servers[one.side]) is not None and one.stamp is not None:
                had = one.stamp["endpoint"]
                if any(had[name] != server.about[name] for name in ("model", "host")):
                    raise InputError(
                        f"{one.side} was answered by {had['model']} at {had['host']}; {server.name} is now "
                        f"{server.label}. Set that one up again, or measure a new verdict."
                    )

    def views(self, owner: str = LOCAL, purpose: str | None = VERDICT) -> list[VerdictView]:
        """The person's verdicts, newest first. purpose: those measured for it, None = for any."""
        mine = [state for state in self.files.all() if self._mine(state, owner)]
        return [self._view(state, whole=False) for state in mine if purpose in (None, state.purpose)]

    def show(self, id: str, owner: str = LOCAL) -> VerdictView:
        """Raises NotFoundError."""
        return self._view(self._own(id, owner), whole=True)

    def stop(self, id: str, owner: str = LOCAL) -> None:
        """End it and keep what is measured. One that has ended stays as it is."""
        if (job := self._jobs.get(_KEY + self._own(id, owner).id)) is not None:
            job.stop()

    def remove(self, id: str, owner: str = LOCAL) -> None:
        """Delete it, stopped first if it runs."""
        self.stop(id, owner)
        self.files.remove(id)

    def rows(self, id: str, owner: str = LOCAL) -> list[dict[str, Any]]:
        """The rows file: one object an example and side."""
        return self.files.rows(self._own(id, owner).id)

    def export(self, id: str, how: str, owner: str = LOCAL) -> Path:
        """As ``html``, ``jsonl`` or ``csv``, in a folder that nobody can guess. Raises InputError."""
        return self.files.write(self._own(id, owner).id, how, self._quota.room(owner, VERDICT_BYTES, "The export"))

    def again(self, id: str, questions: Questions, prices: Prices, owner: str = LOCAL) -> VerdictView:
        """Costs and choice by other answers and prices, from what was measured. Raises InputError."""
        state = self._own(id, owner)
        record = self.files.record(id)
        if record is None:
            raise InputError("There is nothing to judge anew: no example was answered by every side.")
        request = replace(request_from(self.files.request(id)), questions=questions, prices=prices)
        made = self._records.again(Kept(record, self.files.rows(id), self.files.known(id)), request)
        self.files.save(id, *made)
        return self._view(state, whole=True)

    def leaving(self, request: VerdictRequest) -> str:
        """What a person agrees to before it is measured: rows that go to other machines, in words; "" = none. Raises
        InputError, NotFoundError."""
        return self._answering.leaving(request, self._before(request).answers)

    def size(self, request: VerdictRequest) -> Size:
        """How many rows and replies it takes. Raises InputError, NotFoundError."""
        return self._answering.size(request)

    def recorded(self, request: VerdictRequest) -> list[str]:
        """What is there of each recorded side's replies to the rows that are judged by, in words. Raises InputError,
        NotFoundError."""
        return self._answering.recorded_words(request)

    def stated(self, request: VerdictRequest) -> tuple[Criterion | None, list[Check]]:
        """(what is right by a request, None = the form alone; its checks). Raises InputError."""
        checks = parse_checks(request.checks, files=not self._settings.shared)
        return self._records.criterion(request), checks

    def trusted(self, judge: str, file: str, owner: str = LOCAL) -> Trust:
        """How far a judge goes with the person, where that is enough for it to say what is right of this file's rows.
        Raises InputError that says what is missing, NotFoundError."""
        return self.judges.trusted(self.files, judge, owner, file)

    def line_up(
        self, file: Path, adapter: str, prompt: str, docs: Path | None, owner: str = LOCAL, form: bool = False
    ) -> tuple[Side, ...]:
        """The ready-made sides. file: where shots come from. adapter: "" = none. docs: None = none with documents.
        form: whether one is held to the form of the references."""
        prompt = prompt.strip()
        sides = [Side("base", name="Base")]
        if prompt:
            sides.append(Side("base", prompt, name="Base + prompt"))
        if form:
            name = "Base + prompt + form" if prompt else "Base + form"
            sides.append(Side("base", prompt, shots_from=file, name=name, format=REFERENCES))
        sides.append(Side("base", prompt, SHOTS, file, f"Base + {SHOTS} shots"))
        if docs is not None:
            sides.append(Side("base", prompt, name="Base + documents", docs=docs))
        if adapter:
            name = self._adapters.get(adapter, owner).name
            with_docs = [Side(adapter, name=f"{name} + documents", docs=docs)] if docs is not None else []
            sides += [Side(adapter, name=name), *with_docs]
        more = " + prompt" if prompt else ""
        servers = [(PREFIX + one.name, one.name) for one in self._answering.batches.endpoints.usable()]
        others = [(one.id, one.name) for one in self._bases.others()]
        return (*sides, *(Side(model, prompt, name=name + more) for model, name in [*others, *servers]))

    # -- measuring -----------------------------------------------------------------------------------------------

    def _begin(self, request: VerdictRequest) -> tuple[str, Job]:
        owner, verdict = request.owner, request.purpose == VERDICT
        if not request.tried and verdict:
            request = replace(request, tried=tried_for(self.files, request))
        request = replace(request, name=request.name if request.name.strip() else request.file.stem)
        if not request.max_tokens:
            request = replace(request, max_tokens=self._answering.reply_limit(request))
        most_s = 60 * self._settings.session_minutes
        if self._settings.is_visitor(owner) and (request.budget_s or 0.0) > most_s:
            raise InputError(f"A search takes {most_s // 60} minutes at most here. Give it a smaller budget.")
        parse_checks(request.checks, files=not self._settings.shared)
        request = self._answering.formed(request)
        work = self._before(request)
        replies = self._answering.replies(request, work.answers)
        if not request.send and (leaves := self._answering.leaving(request, work.answers)):
            raise InputError(f"{leaves} Agree to that first (--send, or the question before Measure).")
        self._records.criterion(request)  # before hours of measuring, not after
        work.judges = self._judged_by(request)
        replies += replies // request.replies_each * len(work.judges)
        self._quota.check_disk(owner, VERDICT_BYTES, "A verdict")
        with self._lock:
            if request.extends and self._own(request.extends, owner).state in LIVE:
                raise InputError(f"{request.name} is measured further already. Wait for its end, and try again.")
            live = sum(self._state(state).state in LIVE for state in self.files.all() if state.owner == owner)
            if live >= LIVE_OF_ONE:
                words = f"{live} verdicts of yours are waiting or running"
                raise InputError(f"{words}. Let one end, or stop it, and try again.")
            if (everybody := self._jobs.count(_KEY)) >= LIVE_OF_ALL:
                raise BusyError(f"{everybody} verdicts of several people wait or run. Try again in a few minutes.")
            self._quota.take_replies(owner, replies, "The verdict" if verdict else "The prompt bench")
            with contextlib.ExitStack() as undo:
                undo.callback(self._quota.give_back_replies, owner, replies)
                work.state = self.files.new(
                    owner, request.name, request.as_json(), self._clock(), request.purpose, os.getpid(), request.extends
                )
                undo.pop_all()
            id, measure = work.state.id, partial(self._measure, work, request, replies)
            return id, self._jobs.start(_KEY + id, measure, "The verdict", turn=f"verdicts of {owner}")

    def _judged_by(self, request: VerdictRequest) -> list[dict[str, Any]]:
        """The judges that say what is right, with how far each goes with the person. Raises InputError for one that
        may not, or that is another one than in the verdict that this extends; NotFoundError."""
        found = []
        for name in judges_in(request.right):
            trust = self.trusted(name, request.file.name, request.owner)
            key, agreed = self.judges.get(name, request.owner).key, trust.agreed
            said = {"kappa": agreed.kappa, "low": agreed.low, "labels": agreed.n, "labels_right": agreed.right}
            found.append({"judge": name, "key": key, **said, "files": list(trust.files), "words": trust.words})
        if request.extends:
            before = {one["judge"]: one["key"] for one in (self.files.record(request.extends) or {}).get("judges", ())}
            if changed := [one["judge"] for one in found if before.get(one["judge"]) != one["key"]]:
                raise InputError(
                    f"judge:{changed[0]} is another model now than when this verdict was measured. Choose that one, or "
                    "measure a new verdict."
                )
        return found

    def _before(self, request: VerdictRequest) -> Work:
        """What is measured already: of an extension; of any other verdict nothing."""
        if not (id := request.extends):
            return Work(State("", request.owner, request.name, 0.0))
        record, work = self.files.record(id) or {}, Work(self._own(id, request.owner))
        work.answers, work.before = self.files.answers(id), record.get("failed", {})
        work.forgotten, work.refusals = (dict(record.get(name, {})) for name in ("forgetting", "refusals"))
        work.measured_s = record.get("search", record).get("seconds", 0.0)
        spent = record.get("spent", {"amount": 0.0, "requests": 0})
        work.spending.spent, work.spending.requests = spent["amount"], spent["requests"]
        return work

    def _used(self, request: VerdictRequest, id: str) -> set[int]:
        """Rows of the request's file that earlier verdicts of the same person measured."""
        if not request.file.exists():  # which is said when it is read
            return set()
        sha256 = file_sha256(request.file)
        mine = [one.id for one in self.files.all() if one.owner == request.owner and one.purpose == VERDICT]
        same = [one for one in mine if one != id and (self.files.record(one) or {}).get("data_sha256") == sha256]
        return {row["example"] for one in same for row in self.files.rows(one)}

    def _measure(self, work: Work, request: VerdictRequest, replies: int, job: Job) -> None:
        job.report("Waiting for its turn")
        try:
            if job.stopping:
                self._end(work, STOPPED, "Stopped before it began.")
                return
            state, said = DONE, ""
            try:
                work.state = self.files.put(replace(work.state, state=MEASURING))
                self._measuring.run(work, request, job)
            except CancelledError:
                state, said = STOPPED, "Stopped."
            except Exception as error:  # of whatever library: what was measured by then is concluded from
                state, said = FAILED, sentence(error, "The measuring", "Measure again.")
            job.report("Judging", job.progress.done, job.progress.of)
            self._conclude(work, request, state, said)
        finally:
            self._quota.give_back_replies(request.owner, replies)

    def _conclude(self, work: Work, request: VerdictRequest, state: str, said: str) -> None:
        """From answers to the record, on disk; then the final state."""
        work.leave_behind(side.label for side in request.sides)
        about = {"id": work.state.id, "name": work.state.name, "created_s": work.state.created_s, "state": state}
        about |= {"timings": work.timings, "forgetting": work.forgotten, "refusals": work.refusals}
        seconds = round(work.measured_s + (time.monotonic() - work.began_s if work.began_s else 0.0), 1)
        spent = {"amount": work.spending.spent, "requests": work.spending.requests, "cap": request.spend_cap}
        about |= {"failed": dict(work.failed), "seconds": seconds, "judges": work.judges, "spent": spent}
        try:
            used, answers, rest = self._used(request, work.state.id), list(work.answers.values()), list[Answered]()
            if request.budget_s is not None:
                request, about["search"] = self._search.outcome(work, seconds)
                last = {side.label for side in request.sides}
                answers, rest = ([one for one in answers if (one.side in last) is so] for so in (True, False))
            kept = self._records.make(request, answers, about, used)
            rows = [*kept.rows, *(row_of(one, {}) for one in rest)]
            self.files.save(work.state.id, kept.record, rows, kept.known, work.aside.values())
        except PlaygroundError as error:  # nothing to compare, or the file or an adapter is gone
            self._end(work, FAILED if state == DONE else state, f"{said} {error}".strip())
        except Exception as error:  # the statistics of any data: the answers stay on disk
            self._end(work, FAILED, sentence(error, "The judging", "Measure again."))
        else:
            left_out = [f"{label} was left out: {why}" for label, why in work.failed.items()]
            left_out += [AGAIN] if left_out and request.budget_s is None else []
            self._end(work, state, " ".join([*([f"{said} {KEPT}"] if said else []), *left_out, *work.notes]))

    # -- inside --------------------------------------------------------------------------------------------------

    def _end(self, work: Work, state: str, error: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self.files.folder(work.state.id).is_dir():  # it may have been removed meanwhile
                work.state = self.files.put(replace(work.state, state=state, error=error))

    def _state(self, state: State) -> State:
        """As it truly is: STOPPED, with what it had measured, where its process has ended."""
        if state.state not in LIVE or processes.is_alive(state.pid, state.pid_started_s):
            return state
        with self._lock:
            now = self.files.state(state.id)
            if now is None or now.state not in LIVE:  # removed, or found by another thread
                return now or state
            work = Work(now)
            with contextlib.suppress(PlaygroundError, KeyError, TypeError):
                request = request_from(self.files.request(state.id))
                work = self._before(replace(request, extends=now.id, owner=now.owner))
                work.measured_s += self.files.took_s(now.id)
                with contextlib.suppress(PlaygroundError):  # its labels or its judge are gone
                    work.judges = self._judged_by(request)
                self._conclude(work, request, STOPPED, APP_ENDED)
            if work.state.state in LIVE:
                self._end(work, STOPPED, f"{APP_ENDED} Measure it again.")
            return work.state

    def _view(self, state: State, *, whole: bool) -> VerdictView:
        job, state = self._jobs.get(_KEY + state.id), self._state(state)
        about = {name: getattr(state, name) for name in ("created_s", "error", "purpose")}
        view = VerdictView(state.id, state.name, state.state, **about)
        if job is None or not view.live:
            record = self.files.record(state.id)
            may_grow = record is not None and record["examples"] < (record.get("maximum") or 0)
            look = record.get("look", 1) if record is not None else 0
            failed = tuple((record or {}).get("failed", ()))
            return replace(view, record=record if whole else None, may_grow=may_grow, failed=failed, look=look)
        now = job.progress
        message = now.waiting or now.phase or "Waiting for its turn"
        view = replace(view, done=now.done, of=now.of, message=message, seconds_left=job.seconds_left)
        with contextlib.suppress(PlaygroundError):
            request = request_from(self.files.request(state.id))
            if state.purpose != VERDICT and request.budget_s is None:
                return view
            view = replace(view, unit="" if request.budget_s is None else " s")
            if answers := self.files.answers(state.id):
                view = replace(view, so_far=self._records.so_far(request, answers.values()))
        return view

    def _mine(self, state: State, owner: str) -> bool:
        return not self._settings.shared or state.owner == owner

    def _own(self, id: str, owner: str) -> State:
        state = self.files.state(id) if id else None
        if state is None or not self._mine(state, owner):
            raise NotFoundError(f"There is no verdict {id[:40]!r}. Open the Verdict tab to see those there are.")
        return state
