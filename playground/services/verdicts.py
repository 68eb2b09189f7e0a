"""Verdicts: several sides on a person's held-out examples, measured in the background, kept in the home folder."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from playground.errors import BusyError, CancelledError, InputError, NotFoundError, PlaygroundError
from playground.evaluation.checks import parse_checks
from playground.evaluation.cost import Prices
from playground.evaluation.questions import Questions
from playground.services import processes
from playground.services.adapters import AdapterService
from playground.services.answering import Answering
from playground.services.bases import BaseService
from playground.services.bench_best import tried_for
from playground.services.data import DataService
from playground.services.forgetting import ForgettingService
from playground.services.measuring import Measuring, Work
from playground.services.quota import Quota
from playground.services.sides import Side
from playground.services.verdict_files import DONE, FAILED, LIVE, MEASURING, STOPPED, State, VerdictFiles
from playground.services.verdict_record import Kept, RecordMaker
from playground.services.verdict_request import VERDICT, VerdictRequest, named, request_from
from playground.settings import Settings

__all__ = ["VerdictRequest", "VerdictService", "VerdictView"]

SHOTS = 4
"""Answered examples of the ready-made few-shot side."""
VERDICT_BYTES = 5_000_000
"""Room on disk that one is counted with before it begins."""
LIVE_OF_ONE = 3
"""Verdicts of one person that may wait or run."""
LIVE_OF_ALL = 32
"""The same of everybody together: each has a thread, and takes turns with all others."""
KEPT = "What was measured by then is kept."
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerdictView:
    """A verdict as it is now. done, of: replies. message: what it is doing. seconds_left: an estimate, None before there is one.
    record: once it has ended and something could be compared."""

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

    @property
    def live(self) -> bool:
        return self.state in LIVE


class VerdictService:
    """Measuring lives in threads of this process, a person's verdicts one after another; whoever looks only looks."""

    def __init__(
        self, settings: Settings, bases: BaseService, data: DataService, adapters: AdapterService, answering: Answering,
        forgetting: ForgettingService, quota: Quota, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._settings, self._adapters, self._quota = settings, adapters, quota
        self._answering, self._clock = answering, clock
        self.files = VerdictFiles(settings.home / "verdicts")
        self._measuring, self._records = Measuring(answering, forgetting, self.files), RecordMaker(bases, data, answering)
        self._work: dict[str, Work] = {}
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.RLock()

    # -- what a person does --------------------------------------------------------------------------------------

    def start(self, request: VerdictRequest) -> str:
        """Check it, and measure in the background; returns its id. Raises InputError, NotFoundError."""
        request = self._told(request)
        state = self._admit(request)
        threading.Thread(target=self._measure, args=(state.id, request), name=f"verdict-{state.id}", daemon=True).start()
        return state.id

    def run(self, request: VerdictRequest) -> Iterator[VerdictView]:
        """The same here and now, for the command line: yields how far it is, the last time when it has ended. Closing it stops it."""
        request = self._told(request)
        state = self._admit(request)
        thread = threading.Thread(target=self._measure, args=(state.id, request), daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)
                yield self.show(state.id, request.owner)
        finally:
            if (work := self._work.get(state.id)) is not None:
                work.stop.set()
            thread.join()
        yield self.show(state.id, request.owner)

    def views(self, owner: str = "local", purpose: str | None = VERDICT) -> list[VerdictView]:
        """The person's verdicts, newest first. purpose: those measured for it, None = for any."""
        mine = [state for state in self.files.all() if self._mine(state, owner)]
        return [self._view(state, whole=False) for state in mine if purpose in (None, state.purpose)]

    def show(self, id: str, owner: str = "local") -> VerdictView:
        """Raises NotFoundError."""
        return self._view(self._own(id, owner), whole=True)

    def stop(self, id: str, owner: str = "local") -> None:
        """End it and keep what is measured. One that has ended stays as it is."""
        state = self._own(id, owner)
        if (work := self._work.get(state.id)) is not None:
            work.stop.set()

    def remove(self, id: str, owner: str = "local") -> None:
        """Delete it, stopped first if it runs."""
        state = self._own(id, owner)
        self.stop(id, owner)
        if (work := self._work.get(state.id)) is not None:
            with self._lock:
                work.state = replace(work.state, state=STOPPED)
        self.files.remove(state.id)

    def rows(self, id: str, owner: str = "local") -> list[dict[str, Any]]:
        """The rows file: one object an example and side."""
        return self.files.rows(self._own(id, owner).id)

    def export(self, id: str, how: str, owner: str = "local") -> Path:
        """As ``html`` (one file that needs nothing else), ``jsonl`` or ``csv``, in a folder that nobody can guess. Raises InputError
        when there is nothing to export yet."""
        return self.files.write(self._own(id, owner).id, how, self._quota.room(owner, VERDICT_BYTES, "The export"))

    def again(self, id: str, questions: Questions, prices: Prices, owner: str = "local") -> VerdictView:
        """Costs and choice by other answers and prices, from what was measured: nothing is asked again. Raises InputError."""
        state = self._own(id, owner)
        record = self.files.record(state.id)
        if record is None:
            raise InputError("There is nothing to judge anew: no example was answered by every side.")
        request = replace(request_from(self.files.request(state.id)), questions=questions, prices=prices)
        kept = Kept(record, self.files.rows(state.id), self.files.known(state.id))
        made = self._records.again(kept, request, questions, prices)
        self.files.save(state.id, made.record, made.rows, made.known)
        return self._view(state, whole=True)

    def line_up(self, file: Path, adapter: str, prompt: str, docs: Path | None, owner: str = "local") -> tuple[Side, ...]:
        """The ready-made sides: base, with the prompt, with a few answered examples, with documents, and the adapter (with documents).
        file: where shots come from. adapter: "" = none. docs: None = no sides with documents."""
        sides = [Side("base", name="Base")]
        if prompt.strip():
            sides.append(Side("base", prompt.strip(), name="Base + prompt"))
        sides.append(Side("base", prompt.strip(), SHOTS, file, f"Base + {SHOTS} shots"))
        if docs is not None:
            sides.append(Side("base", prompt.strip(), name="Base + documents", docs=docs))
        if adapter:
            name = self._adapters.get(adapter, owner).name
            sides.append(Side(adapter, name=name))
            if docs is not None:
                sides.append(Side(adapter, name=f"{name} + documents", docs=docs))
        return tuple(sides)

    # -- measuring -----------------------------------------------------------------------------------------------

    def _told(self, request: VerdictRequest) -> VerdictRequest:
        """The same with how its prompt was found, where a bench found it."""
        if request.tried or request.purpose != VERDICT:
            return request
        return replace(request, tried=tried_for(self.files, request))

    def _admit(self, request: VerdictRequest) -> State:
        request = named(request)
        parse_checks(request.checks, files=not self._settings.shared)
        replies = self._answering.replies(request)
        self._quota.check_disk(request.owner, VERDICT_BYTES, "A verdict")
        with self._lock:  # whoever looks before it is in ``_work`` would take it for one that was left behind
            live = [state for state in self.files.all() if state.owner == request.owner and self._state(state).state in LIVE]
            if len(live) >= LIVE_OF_ONE:
                raise InputError(f"{len(live)} verdicts of yours are waiting or running. Let one end, or stop it, and try again.")
            if len(self._work) >= LIVE_OF_ALL:
                raise BusyError(
                    f"{len(self._work)} verdicts of several people are waiting or running. Try again in a few minutes."
                )
            self._quota.take_replies(request.owner, replies, "The verdict" if request.purpose == VERDICT else "The prompt bench")
            try:
                state = self.files.new(request.owner, request.name, request.as_json(), self._clock(), request.purpose)
                state = self.files.put(replace(state, pid=os.getpid(), pid_started_s=processes.started_s(os.getpid()) or 0.0))
            except BaseException:
                self._quota.give_back_replies(request.owner, replies)
                raise
            self._work[state.id] = Work(state, replies=replies)
        return state

    def _measure(self, id: str, request: VerdictRequest) -> None:
        work = self._work[id]
        state, said = DONE, ""
        try:
            with self._in_turn(work):
                try:
                    work.state = self.files.put(replace(work.state, state=MEASURING))
                    self._measuring.run(work, request)
                except CancelledError:
                    state, said = STOPPED, "Stopped."
                except PlaygroundError as error:
                    state, said = FAILED, str(error)
                except OSError as error:
                    state, said = FAILED, f"{error.strerror or error}. Free some space on the disk and measure again."
                except Exception as error:
                    _LOG.exception("verdict %s", id)
                    state, said = FAILED, f"The measuring stopped ({type(error).__name__}: {str(error)[:200]}). Measure again."
                self._settle(work, request, state, said)
        except CancelledError as error:
            self._end(work, STOPPED, str(error))
        finally:
            self._work.pop(id, None)
            self._quota.give_back_replies(request.owner, work.replies)

    @contextlib.contextmanager
    def _in_turn(self, work: Work) -> Iterator[None]:
        """One verdict of a person at a time; those of several people take turns on the device, batch by batch. Raises CancelledError for
        one that is stopped while it waits."""
        with self._lock:
            turn = self._turns.setdefault(work.state.owner, threading.Lock())
        while not turn.acquire(timeout=0.2):
            if work.stop.is_set():
                raise CancelledError("Stopped before it began.")
        try:
            yield
        finally:
            turn.release()

    def _settle(self, work: Work, request: VerdictRequest, state: str, said: str) -> None:
        """From answers to the record, on disk; then the end as it came."""
        work.progress = replace(work.progress, phase="Judging", waiting="")
        about = {
            "id": work.state.id, "name": work.state.name, "created_s": work.state.created_s, "state": state,
            "timings": work.timings, "forgetting": work.forgotten, "refusals": work.refusals,
            "failed": dict(work.failed),
            "seconds": round(time.monotonic() - work.began_s, 1) if work.began_s else 0.0,
        }  # fmt: skip
        try:
            made = self._records.make(request, work.answers.values(), about)
            self.files.save(work.state.id, made.record, made.rows, made.known)
        except PlaygroundError as error:  # nothing to compare, or the file or an adapter is gone
            self._end(work, FAILED if state == DONE else state, f"{said} {error}".strip())
        except OSError as error:
            self._end(work, FAILED, f"{error.strerror or error}. Free some space on the disk and measure again.")
        except Exception as error:
            _LOG.exception("verdict %s", work.state.id)
            self._end(work, FAILED, f"The judging stopped ({type(error).__name__}: {str(error)[:200]}). Measure again.")
        else:
            left_out = " ".join(f"{label} was left out: {why}" for label, why in work.failed.items())
            self._end(work, state, " ".join(filter(None, (f"{said} {KEPT}" if said else "", left_out))))

    # -- inside --------------------------------------------------------------------------------------------------

    def _end(self, work: Work, state: str, error: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self.files.folder(work.state.id).is_dir():  # it may have been removed meanwhile
                work.state = self.files.put(replace(work.state, state=state, error=error))

    def _state(self, state: State) -> State:
        """As it truly is: what a process measured that has ended since is stopped, with what it had measured by then."""
        if state.state not in LIVE or state.id in self._work or processes.is_alive(state.pid, state.pid_started_s):
            return state
        with self._lock:
            now = self.files.state(state.id)
            if (
                now is None or now.state not in LIVE or state.id in self._work
            ):  # ended or begun meanwhile, or found by another thread
                return now or state
            work = Work(now)
            work.answers = {(answer.example, answer.side): answer for answer in self.files.answers(state.id)}
            with contextlib.suppress(PlaygroundError, KeyError, TypeError):
                self._settle(work, request_from(self.files.request(state.id)), STOPPED, "The app ended while it was measured.")
            if work.state.state in LIVE:
                self._end(work, STOPPED, "The app ended while it was measured. Measure it again.")
            return work.state

    def _view(self, state: State, *, whole: bool) -> VerdictView:
        work, state = self._work.get(state.id), self._state(state)
        if work is None or state.state not in LIVE:
            record = self.files.record(state.id) if whole else None
            return VerdictView(
                state.id, state.name, state.state, created_s=state.created_s, error=state.error, record=record, purpose=state.purpose
            )  # fmt: skip
        step = work.progress
        message = step.waiting or step.phase
        return VerdictView(
            state.id, state.name, state.state, step.done, step.of, message, work.seconds_left, state.created_s, state.error, purpose=state.purpose
        )  # fmt: skip

    def _mine(self, state: State, owner: str) -> bool:
        return not self._settings.shared or state.owner == owner

    def _own(self, id: str, owner: str) -> State:
        state = self.files.state(id) if id else None
        if state is None or not self._mine(state, owner):
            raise NotFoundError(f"There is no verdict {id[:40]!r}. Open the Verdict tab to see those there are.")
        return state
