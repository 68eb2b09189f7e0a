"""The worker thread of an engine: everything that multiplies large matrices runs on it, in turn.

Not only for safety: every thread that enters a parallel region keeps a team of OpenMP workers, and with more workers
than cores they stop spinning and sleep between regions. A second thread that had computed once made every later step
1.5 times slower (measured: 27 against 42 ms). A thread's team goes when the thread ends.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from playground.errors import BaseUnavailableError

T = TypeVar("T")
Job = Callable[[], object]
IDLE_S = 30.0
GONE = "The base has left memory. Ask again."


class WorkerThread:
    """Jobs in the order they came. The thread starts with the first job and ends after ``idle_s`` without one.

    idle: called on the thread before it ends; jobs that come in meanwhile are done next. before: called on it before
    every job.
    """

    def __init__(
        self, idle: Callable[[], None] = lambda: None, idle_s: float = IDLE_S, before: Callable[[], None] = lambda: None
    ) -> None:
        self.idle, self._idle_s, self._before = idle, idle_s, before
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def post(self, job: Job) -> None:
        """Queue a job, whose result and errors are its own affair. Raises BaseUnavailableError after ``close``."""
        with self._lock:
            if self._closed:
                raise BaseUnavailableError(GONE)
            self._put(job)

    def run(self, job: Callable[[], T]) -> T:
        """Queue a job and return its result or raise its error; on the thread itself at once. Raises as ``post``."""
        if threading.current_thread() is self.thread:
            return job()
        done: Future[T] = Future()
        self.post(lambda: _fulfil(done, job))
        return done.result()

    def close(self, last: Callable[[], None]) -> None:
        """Run ``last`` after the queued jobs, and nothing after it. A second time does nothing."""
        done: Future[None] = Future()
        with self._lock:
            if self._closed:
                return
            self._closed, self.idle = True, lambda: None
            self._put(lambda: _fulfil(done, last))
        done.result()

    def _put(self, job: Job) -> None:
        self._jobs.put(job)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="compute", daemon=True)
            self.thread.start()

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
                with contextlib.suppress(Exception):  # sharing out cores is a courtesy, the job is not
                    self._before()
                job()
            finally:
                del job  # it may hold the model
            if self._closed and self._ended():
                return

    def _ended(self) -> bool:
        """Whether the thread may end: nothing is queued, and the next job starts another."""
        with self._lock:
            if not self._jobs.empty():
                return False
            self.thread = None
            return True


def _fulfil(done: Future[T], job: Callable[[], T]) -> None:
    try:
        done.set_result(job())
    except BaseException as error:  # raised again where ``run`` waits
        done.set_exception(error)


def run_alone(job: Callable[[], T]) -> T:
    """On a thread of its own that ends with it: for long work that must not hold up the others."""
    return WorkerThread(idle_s=0.0).run(job)
