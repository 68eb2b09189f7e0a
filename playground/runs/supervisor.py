"""Supervises the runs that have not ended: starts what may start, detects workers that died, hang or are frozen,
records how they ended.

One process supervises, the home's owner. Another one (the command line) leaves the record alone while the supervisor
lives; where there is none it records what has ended, but starts nothing.

A start is: QUEUED -> RUNNING in the record, the process, its pid in the record. The worker enters the record itself
before it does anything (``training.processes``). So after a kill at any moment between, either the worker is found by
its pid, or the run goes back into the queue and the late worker is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from playground.db import DatabaseError, RunRow, RunStore
from playground.errors import BusyError, CancelledError, DiskFullError, PlaygroundError
from playground.gpu.manager import DeviceManager, Lease, Request
from playground.runs.cluster import RayWorkers
from playground.runs.progress import Ending, Event, Pulse, RunLog, ending_of
from playground.runs.runner import Workers
from playground.settings import Settings
from playground.training import processes
from playground.training.failure import DISK, MEMORY, disk_words, reason_of
from playground.training.run_files import find_published, keep_checkpoint, marked_step, read_disk_full_event
from playground.training.spec import RunSpec

KILL_AFTER_S = 10.0
"""A cancelled worker may take so long to leave by itself."""
TICK_S = 0.5
ENTER_S = 60.0
"""A run that is marked as started and has no worker after that has none."""
_SUMMARY = (
    *(
        "objective",
        "rows_used",
        "rows_bad",
        "steps",
        "epochs",
        "tokens_per_s",
        "loss",
        "eval_loss",
        "best",
        "kept_step",
    ),
    *("figures", "stopped", "trainable_params", "total_params", "estimated_memory_bytes", "seconds"),
    *("peak_memory_bytes", "memory_ratio"),
)
"""What of a worker's last event, or of its adapter's record, the run keeps."""

_LOG = logging.getLogger(__name__)


class RunQueue:
    """The waiting runs' requests to the device. One thread at a time. The device serves one session's by age: where the
    order changes, those that now come too early are withdrawn, the last of them first, and requested again."""

    def __init__(self, manager: DeviceManager) -> None:
        self._manager = manager
        self._requests: dict[str, Request] = {}

    def ask(self, rows: Sequence[RunRow]) -> dict[str, PlaygroundError]:
        """Ask for every row, in this order; withdraw all others. Returns what can never fit, and why."""
        waiting = {row.run for row in rows}
        for run in [run for run in self._requests if run not in waiting]:
            self.drop(run)
        refused: dict[str, PlaygroundError] = {}
        for owner in dict.fromkeys(row.owner for row in rows):
            refused |= self._ask_in_order([row for row in rows if row.owner == owner])
        return refused

    def granted(self, run: str) -> Lease | None:
        """The run's lease, once; it is the caller's from then on."""
        request = self._requests.get(run)
        if request is None or request.lease is None:
            return None
        del self._requests[run]
        return request.lease

    def drop(self, run: str) -> None:
        """Leave the device's queue, or give back what was granted and not taken."""
        if (request := self._requests.pop(run, None)) is not None:
            request.cancel()

    def place(self, run: str) -> int:
        """Its place in the device's queue from 1, 0 when it is not there."""
        request = self._requests.get(run)
        return request.position if request is not None else 0

    def _ask_in_order(self, rows: Sequence[RunRow]) -> dict[str, PlaygroundError]:
        late: list[str] = []
        newest, gap = 0, False
        for row in rows:
            request = self._requests.get(row.run)
            if request is None:
                gap = True
            elif gap or request.number < newest:
                late.append(row.run)
                gap = True  # whoever follows it must be asked for after it
            else:
                newest = request.number
        for run in reversed(late):  # the last first: nobody who comes later must be served in between
            self.drop(run)
        refused: dict[str, PlaygroundError] = {}
        for row in rows:
            if row.run in self._requests:
                continue
            label = f"Training {row.name}"
            try:
                self._requests[row.run] = self._manager.request("train", row.owner, label, row.needs_bytes)
            except BusyError:
                break  # the device's queue is full; the runs keep their places in ours
            except CancelledError:
                continue
            except PlaygroundError as error:
                refused[row.run] = error
        return refused


@dataclass
class _Followed:
    """What this process holds for a run: its log, its lease, and what it knows of its worker."""

    log: RunLog
    pulse: Pulse
    lease: Lease | None = None
    asked_to_stop: bool = False
    killed_for: str = ""


@contextlib.contextmanager
def _guarded(what: str) -> Iterator[None]:
    try:
        yield
    except Exception:  # one run's fault must not stop the supervision of the others; the next tick tries again
        _LOG.warning("supervising %s failed", what, exc_info=True)


class Supervisor:
    """remedy: what to say, and to keep in the summary, for a run whose memory ran out. workers: on a cluster they need
    nothing of this device, and the cluster queues them."""

    def __init__(
        self,
        settings: Settings,
        store: RunStore,
        manager: DeviceManager,
        remedy: Callable[[RunSpec], tuple[str, dict[str, object]]],
        workers: Workers = processes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._store, self._manager, self._remedy = settings, store, manager, remedy
        self._workers, self._clock = workers, clock
        self._cluster = workers if isinstance(workers, RayWorkers) else None
        self._queue = RunQueue(manager)
        self._followed: dict[str, _Followed] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lock = threading.RLock()

    @property
    def owning(self) -> bool:
        """Whether this process starts runs."""
        return self._thread is not None

    def start(self) -> None:
        """This process owns the home: it supervises the runs from now on."""
        with contextlib.suppress(DiskFullError):
            self._store.set_supervisor(os.getpid(), processes.started_s(os.getpid()) or 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, args=(self._stop,), name="runs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop supervising; workers go on."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
            with contextlib.suppress(PlaygroundError, DatabaseError, OSError):
                self._store.clear_supervisor(os.getpid())

    def _supervise(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with _guarded("the runs"):
                self.tick()
                self._manager.tick()
            stop.wait(TICK_S)

    def tick(self) -> None:
        """Bring every run that has not ended to its true state; start what may start, if this process owns the home."""
        with self.lock:
            self._store.flush()
            rows = self._store.active()
            for run in set(self._followed) - {row.run for row in rows}:  # another process ended it
                self._release(run)
            supervisor = None if self.owning else self._store.supervisor()
            elsewhere = supervisor is not None and processes.is_alive(*supervisor)
            for row in rows:
                if row.state != "QUEUED":
                    with _guarded(row.run):
                        self._check(row, read_only=elsewhere)
            if self.owning and not self._stop.is_set():
                self._start_what_may([row for row in rows if row.state == "QUEUED"])

    def place(self, run: str) -> int:
        """Its place among the runs that wait, from 1; 0 when it does not wait."""
        waiting = [row.run for row in self._store.active() if row.state == "QUEUED"]
        return self._queue.place(run) or (waiting.index(run) + 1 if run in waiting else 0)

    def forget(self, run: str) -> None:
        """Read its log anew; give back what is held for it."""
        with self.lock:
            self._release(run)
            self._followed.pop(run, None)

    def _check(self, row: RunRow, *, read_only: bool) -> None:
        followed = self.follow(row.run)
        log = followed.log.refresh()
        if self._cluster is None and (row.pid or 0) >= processes.ON_CLUSTER:
            return  # only who can ask the cluster knows
        alive = self._workers.is_alive(row.pid, row.pid_started_s)
        if alive and followed.lease is None and self._cluster is None:  # it outlived the process that started it
            card = processes.card_of(self._settings.runs_dir / row.run)
            followed.lease = self._manager.adopt("train", row.owner, f"Training {row.name}", row.needs_bytes, card)
        if read_only:
            return
        if alive:
            if (step := log.step_of(row)) != row.step:
                with contextlib.suppress(DiskFullError):
                    self._store.update(row.run, step=step)
            self._watch(row, followed)
        elif row.pid is not None or row.state == "STOPPING":
            self._record_end(row, followed)
        elif self.owning or self._clock() - (row.started_s or 0.0) > ENTER_S:
            self._store.put_back(row.run, row.attempt)  # its worker never came; one that comes now is refused
            self._release(row.run)

    def _watch(self, row: RunRow, followed: _Followed) -> None:
        """A worker that lives: ask it to stop where that is wanted, kill it where it does not listen or hangs."""
        assert row.pid is not None
        if row.state == "STOPPING":
            if not followed.asked_to_stop:
                followed.asked_to_stop = True
                self._workers.stop(row.pid, hard=False)
            elif row.stopping_s and self._clock() - row.stopping_s > KILL_AFTER_S:
                self._workers.stop(row.pid, hard=True)
        if self._cluster is not None:
            return  # its process is watched on its node
        beat = processes.last_beat(self._settings.runs_dir / row.run)
        if reason := followed.pulse.look(beat, *self._workers.activity(row.pid), followed.log.events):
            followed.killed_for = reason
            self._workers.stop(row.pid, hard=True)

    def _start_what_may(self, rows: Sequence[RunRow]) -> None:
        if self._cluster is not None:
            for row in rows if rows and self._cluster.ready() else ():
                with _guarded(row.run):
                    self._begin(row)
            return
        for run, error in self._queue.ask(rows).items():
            self._store.update_or_defer(run, state="FAILED", error=str(error))
        for row in rows:
            if (lease := self._queue.granted(row.run)) is not None:
                self.follow(row.run).lease = lease
                with _guarded(row.run):
                    self._begin(row)

    def _begin(self, row: RunRow) -> None:
        """The lease is there, or a cluster: mark the run, start its worker, write down who that is."""
        pid = None
        try:
            attempt = self._store.begin(row.run, self._clock())
            if attempt is None:  # cancelled a moment ago, by another process
                self._release(row.run)
                return
            followed = self.follow(row.run)  # nothing of an earlier worker counts
            followed.pulse, followed.asked_to_stop, followed.killed_for = Pulse(), False, ""
            run_dir = self._settings.runs_dir / row.run
            (run_dir / processes.CARD).write_text(str(followed.lease.card if followed.lease is not None else 0))
            pid, since = self._workers.start_worker(run_dir, self._settings.database, attempt)
            self._store.update(row.run, only_from=("RUNNING", "STOPPING"), pid=pid, pid_started_s=since)
        except (PlaygroundError, DatabaseError, OSError, RuntimeError) as error:  # RuntimeError: no thread can start
            if pid is not None:
                self._workers.stop(pid, hard=True)  # it cannot enter a record that cannot be written either
            full = isinstance(error, DiskFullError) or reason_of(error) == DISK
            words = f"The training process could not be started ({error})."
            words = disk_words(self._settings.home, 0) if full else words
            self._store.update_or_defer(row.run, state="FAILED", error=words, pid=None)
            self._release(row.run)

    def _record_end(self, row: RunRow, followed: _Followed) -> None:
        """Record how a worker that is gone ended. The folder's lock proves that nobody else does."""
        run_dir = self._settings.runs_dir / row.run
        if not run_dir.is_dir():
            self._close(row, Ending("FAILED", "The run's files are gone. Start it anew."), None)
            return
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # no room for the lock's file: then nobody else can have taken it either
                if not stack.enter_context(processes.folder_lock(run_dir)):
                    return
            row = self._store.get(row.run)
            if row.state not in ("RUNNING", "STOPPING"):
                self._release(row.run)
                return
            last = followed.log.refresh().last_of(row.attempt) or read_disk_full_event(run_dir, row.attempt)
            code, log = processes.exit_code(row.pid), processes.attempt_log(run_dir)
            ending = ending_of(row, last, followed.killed_for, code, log)
            if ending.state != "DONE" and (made := find_published(run_dir)) is not None:
                ending, last = Ending("DONE"), {**made[1], "adapter": made[0]}  # killed before it could say so
            elif ending.reason == MEMORY and self.owning and not row.retried and self._retry(row):
                self._release(row.run)
                return
            self._close(row, ending, last)

    def _retry(self, row: RunRow) -> bool:
        """Memory ran out for the first time: unload the models that idle, and put the run at the head of the queue
        again, to go on with a worker that is slower and takes less."""
        freed = self._manager.unload_idle() if self._cluster is None else []
        with contextlib.suppress(OSError):
            (self._settings.runs_dir / row.run / processes.LOW_MEMORY).write_text(processes.RAN_OUT)
        _LOG.info("memory ran out in %s; unloaded %s; it is tried once more", row.run, freed or "nothing")
        step = marked_step(self._settings.runs_dir / row.run)
        return self._store.requeue(row.run, ("RUNNING",), step=step, first=True, retried=True)

    def _close(self, row: RunRow, ending: Ending, last: Event | None) -> None:
        run_dir = self._settings.runs_dir / row.run
        changes: dict[str, object] = {"state": ending.state, "pid": None, "step": self.follow(row.run).log.step_of(row)}
        if ending.state == "DONE" and last is not None:
            summary = {key: last[key] for key in _SUMMARY if key in last}
            step = last.get("steps") or row.steps  # fewer than were asked for where it was stopped early
            changes |= {"adapter": last["adapter"], "error": None, "step": step, "summary": summary}
        elif ending.state == "CANCELLED":
            changes["adapter"], changes["error"] = self._kept(row)
        else:
            changes["error"], changes["summary"] = self._failure(row, ending)
        self._store.update_or_defer(row.run, **changes)
        if ending.state == "DONE":
            shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        self._release(row.run)

    def _kept(self, row: RunRow) -> tuple[str | None, str]:
        """The adapter made of the newest checkpoint, where that was wished, and the sentence."""
        if not row.keep:
            return None, "Cancelled."
        try:
            adapter = keep_checkpoint(self._settings.runs_dir / row.run)
        except (OSError, PlaygroundError) as error:
            full = disk_words(self._settings.home, 0) if reason_of(error) == DISK else str(error)
            return None, f"Cancelled. Its newest checkpoint could not be kept: {full}"
        return adapter, "Cancelled; the newest checkpoint was kept." if adapter else "Cancelled."

    def _failure(self, row: RunRow, ending: Ending) -> tuple[str, dict[str, object]]:
        run_dir = self._settings.runs_dir / row.run
        words, summary = ending.error or "Training failed.", dict[str, object]()
        if ending.reason == MEMORY:
            with contextlib.suppress(PlaygroundError):
                more, summary = self._remedy(RunSpec.read(run_dir))
                words = f"{words} {more}"
        elif ending.died:
            step = marked_step(run_dir)
            words += f" Resume it: it goes on from step {step}." if step else " Resume it: it starts again from step 0."
        return words, summary

    def _release(self, run: str) -> None:
        self._queue.drop(run)
        followed = self._followed.get(run)
        if followed is not None and followed.lease is not None:
            followed.lease.close()
            followed.lease = None

    def follow(self, run: str) -> _Followed:
        """What is held for a run, from its first look on."""
        if run not in self._followed:
            self._followed[run] = _Followed(RunLog(self._settings.runs_dir / run), Pulse())
        return self._followed[run]
