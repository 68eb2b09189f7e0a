"""One thread that computes. Everything that multiplies large matrices for one engine runs on it, in turn.

Not only for safety: every thread that enters a parallel region keeps a team of OpenMP workers, and with more workers than cores they
stop spinning and sleep between regions. A second thread that had computed once made every later step 1.5 times slower (measured:
27 against 42 ms). A thread's team goes when the thread ends.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from playground.errors import BaseUnavailableError

T = TypeVar("T")
IDLE_S = 30.0
GONE = "The base has left memory. Ask again."


class Compute:
    """Jobs in the order they came. The thread starts with the first job and ends after IDLE_S without one.

    idle: called on the thread before it ends. It may be called while jobs come in; these are done next. before: called on the thread
    before every job.
    """

    def __init__(
        self, idle: Callable[[], None] = lambda: None, idle_s: float = IDLE_S, before: Callable[[], None] = lambda: None
    ) -> None:
        self.idle, self._idle_s, self._before = idle, idle_s, before
        self._jobs: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def post(self, job: Callable[[], Any]) -> None:
        """Do it some time; its result and its errors are its own affair. Raises BaseUnavailableError after ``close``."""
        with self._lock:
            if self._closed:
                raise BaseUnavailableError(GONE)
            self._put(job)

    def run(self, job: Callable[[], T]) -> T:
        """Do it after what waits already, and return what it returns or raise what it raises; else as ``post``."""
        if threading.current_thread() is self._thread:
            return job()
        done: Future[T] = Future()
        self.post(_told(job, done))
        return done.result()

    def close(self, last: Callable[[], None]) -> None:
        """Do ``last`` after what waits already, and nothing after it: the thread ends and holds nothing. A second time does nothing."""
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                return
            self._closed, self.idle = True, lambda: None
            self._put(_told(last, done))
        done.result()

    def _put(self, job: Callable[[], Any]) -> None:
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_s)
            except queue.Empty:
                self.idle()  # without the lock: it may wait for somebody who is just posting a job
                if self._ended():
                    return
                continue
            try:
                with contextlib.suppress(Exception):  # it shares out cores, a courtesy: the job is not
                    self._before()
                job()
            finally:
                del job  # it may hold the model
            if self._closed and self._ended():
                return

    def _ended(self) -> bool:
        """Whether the thread may end: nothing waits, and whoever comes next starts another."""
        with self._lock:
            if not self._jobs.empty():
                return False
            self._thread = None
            return True


def _told(job: Callable[[], T], done: Future[T]) -> Callable[[], None]:
    """A job that hands on what it returns or raises."""

    def work() -> None:
        try:
            done.set_result(job())
        except BaseException as error:
            done.set_exception(error)

    return work


def run_alone(job: Callable[[], T]) -> T:
    """On a thread of its own that ends with it: for long work that must not hold up the others."""
    own = Compute(idle_s=0.0)
    return own.run(job)
