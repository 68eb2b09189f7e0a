"""Background jobs of one process: started under a key, followed, stopped, waited for. A job reports how far it is and
looks at ``stopping`` between steps. Jobs of one ``turn`` run one after another in the order of their start, and hold no
thread while they wait. Everything that starts a thread for a job is here."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from playground.errors import CancelledError, InputError, PlaygroundError

CLOSE_S = 10.0
"""How long closing waits for the jobs that look at ``stopping``."""
_LOG = logging.getLogger(__name__)
Spawn = Callable[[Callable[[], None], str], object]
"""(run, name) -> runs it in another thread."""


def daemon_thread(run: Callable[[], None], name: str) -> None:
    """A daemon, so that a process can end while a download hangs."""
    threading.Thread(target=run, name=name, daemon=True).start()


def sentence(error: Exception, what: str, again: str = "Try again.") -> str:
    """What went wrong, for a person. what: the job, such as ``The judging``. An error that is not ours is logged in
    full and told by its type alone, since its text may hold a path or a key."""
    if isinstance(error, PlaygroundError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}. Free some space on the disk and {again[:1].lower()}{again[1:]}"
    _LOG.error("%s stopped", what, exc_info=error)
    return f"{what} stopped ({type(error).__name__}); the log has the details. {again}"


@dataclass(frozen=True)
class Progress:
    """done, of: units of this phase. waiting: for what, in words; "" while it runs."""

    phase: str = ""
    done: int = 0
    of: int = 0
    waiting: str = ""


class Job:
    """One piece of work. interruptible: it looks at ``stopping`` often. run: what is to be run once, None = it has
    begun. error: why it ended early, "" = it did not. failed: by an error, not stopped by a person."""

    def __init__(self, key: str, what: str, clock: Callable[[], float], begin: Callable[[Job], None]) -> None:
        self.key, self.what, self.progress, self.error, self.failed = key, what, Progress(), "", False
        self.run: Callable[[], None] | None = None
        self.interruptible = False
        self._clock, self._begin = clock, begin
        self._phase = ("", 0.0, 0, 0.0)
        self._stop, self._ended = threading.Event(), threading.Event()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def check(self, message: str = "Stopped.") -> None:
        """Raises CancelledError when somebody has stopped it."""
        if self.stopping:
            raise CancelledError(message)

    def pause(self, seconds: float) -> bool:
        """Wait so long, or until it is stopped; returns whether it is."""
        return self._stop.wait(seconds)

    def report(self, phase: str, done: int = 0, of: int = 0, waiting: str = "", *, after: float = 0.0) -> None:
        """after: what comes after this phase, as a share of it; for the seconds left."""
        if phase != self._phase[0]:
            self._phase = (phase, self._clock(), done, after)
        self.progress = Progress(phase, done, of, waiting)

    @property
    def live(self) -> bool:
        """It waits or runs."""
        return not self._ended.is_set()

    @property
    def seconds_left(self) -> float | None:
        """By the pace of this phase so far; None before there is a pace."""
        (_, began_s, before, after), now = self._phase, self.progress
        done = now.done - before
        return (self._clock() - began_s) / done * (now.of * (1 + after) - now.done) if done > 0 else None

    def stop(self) -> None:
        """Ask it to end at its next step. One that waits for its turn runs at once, so that it can clean up."""
        self._stop.set()
        self._begin(self)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Returns whether it has ended."""
        return self._ended.wait(timeout_s)

    def follow(self, poll_s: float = 0.2) -> Generator[Progress, None, None]:
        """How far it is, again and again until it has ended. Closing it stops the job and waits for its end."""
        try:
            while not self.wait(poll_s):
                yield self.progress
        finally:
            self.stop()
            self.wait()


Work = Callable[[Job], None]


class Jobs:
    """Live jobs by key. clock: seconds, monotonic. spawn: what runs a job."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, spawn: Spawn = daemon_thread) -> None:
        self._clock, self._spawn = clock, spawn
        self._live: dict[str, Job] = {}
        self._turns: dict[str, list[Job]] = {}
        self._lock = threading.RLock()

    def start(
        self, key: str, work: Work, what: str, *, busy: str = "", turn: str = "", interruptible: bool = True
    ) -> Job:
        """Run ``work`` in the background, exactly once, also where it is stopped before its turn. what: for a person,
        such as ``The judging``. busy: what to raise as InputError while a job with this key is live; "" = that job is
        returned. turn: jobs that share it run one after another. interruptible: closing waits for it."""
        with self._lock:
            if (there := self.get(key)) is not None and not busy:
                return there
            job = self._new(key, what, busy)
            job.run, job.interruptible = lambda: self._run(job, work, turn), interruptible
            before = self._turns.setdefault(turn, []) if turn else []
            before.append(job)
            if len(before) > 1:
                return job
        self._begin(job)
        return job

    @contextlib.contextmanager
    def here(self, key: str, what: str, busy: str) -> Iterator[Job]:
        """A job in the caller's own thread: the block. Raises InputError (``busy``) while one with this key is live."""
        with self._lock:
            job = self._new(key, what, busy)
        try:
            yield job
        finally:
            self._end(job, "")

    def get(self, key: str) -> Job | None:
        return self._live.get(key)

    def count(self, prefix: str) -> int:
        """Live jobs whose key begins so."""
        return sum(key.startswith(prefix) for key in list(self._live))

    def wait(self, key: str, timeout_s: float | None = None) -> bool:
        """Returns whether no job with this key is live."""
        return (job := self.get(key)) is None or job.wait(timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Stop all of them, and wait a while for those that look."""
        jobs, until = list(self._live.values()), self._clock() + timeout_s
        for job in jobs:
            job.stop()
        for job in jobs:
            if job.interruptible:
                job.wait(max(0.0, until - self._clock()))

    def _new(self, key: str, what: str, busy: str) -> Job:
        if key in self._live:
            raise InputError(busy)
        self._live[key] = job = Job(key, what, self._clock, self._begin)
        return job

    def _begin(self, job: Job) -> None:
        with self._lock:
            run, job.run = job.run, None
        if run is not None:
            self._spawn(run, job.key)

    def _run(self, job: Job, work: Work, turn: str) -> None:
        try:
            work(job)
        except CancelledError as error:
            job.error = str(error)
        except Exception as error:  # the job's last line of defence: whoever looks is told
            job.error, job.failed = sentence(error, job.what), True
        finally:
            self._end(job, turn)

    def _end(self, job: Job, turn: str) -> None:
        following: Job | None = None
        with self._lock:
            del self._live[job.key]
            if turn:
                waiting = self._turns[turn]
                waiting.remove(job)
                following = waiting[0] if waiting else None
                if not waiting:
                    del self._turns[turn]
        job._ended.set()
        if following is not None:
            self._begin(following)
