"""Who computes now, in any process of one home, and how many threads each side may use meanwhile.

On a CPU every process that computes brings a team of OpenMP threads, one a core. Two teams hold up each other's cores
while they
spin: on two cores chat beside a run fell to a sixth of its speed, and the run to an eighth. So whoever computes holds
its lane's lock, a file in the home that the operating system frees when its holder dies, and each side asks before
every unit of work (a decode step, a forward pass) whether the other side's is held.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from playground.gpu.policy import threads_of

COMPUTING = ("chat", "train")
"""Who shares out the cores: the app, which decodes, and the workers, which train."""
LOOK_S = 0.2
"""A lane is looked at so often at most."""
LINGER_S = 2.0
"""So long a lane counts as busy after it was: a verdict goes from one batch to the next, a conversation pauses."""
WAIT_S = 0.1
"""Whoever looks at a lane holds its lock for a moment."""


def usable_cores() -> int:
    """Cores that this process may use; two threads of one core count once."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(usable, psutil.cpu_count(logical=False) or usable)


class Lanes:
    """The lanes of one home. Safe from several threads. Where ``folder`` cannot be written nobody is seen, and all use
    all cores.

    clock: seconds."""

    def __init__(self, folder: Path, cores: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._cores = usable_cores() if cores is None else cores
        self._lock = threading.Lock()
        self._mine: dict[str, FileLock] = {}
        self._looked_s: dict[str, float] = {}
        self._busy_s: dict[str, float] = {}
        self._again_s: dict[str, float] = {}

    def enter(self, lane: str) -> None:
        """This process computes in ``lane``, until ``leave`` or its end."""
        with self._lock, contextlib.suppress(OSError, Timeout, NotImplementedError):
            if lane in self._mine or self._clock() < self._again_s.get(lane, float("-inf")):
                return
            # where another process of this home computes in it, do not wait each time
            self._again_s[lane] = self._clock() + LINGER_S
            lock = self._file(lane)
            lock.acquire(timeout=WAIT_S, poll_interval=0.01)
            self._mine[lane] = lock
            del self._again_s[lane]

    def leave(self, lane: str) -> None:
        with self._lock:
            if (lock := self._mine.pop(lane, None)) is not None:
                lock.release()

    def threads(self, lane: str) -> int:
        """What ``lane`` may use now."""
        with self._lock:
            busy = {other for other in COMPUTING if other != lane and self._is_busy(other)}
            return threads_of(lane, self._cores, busy)

    def _is_busy(self, lane: str) -> bool:
        now = self._clock()
        if now - self._looked_s.get(lane, -LOOK_S) >= LOOK_S:
            self._looked_s[lane] = now
            if self._is_held(lane):
                self._busy_s[lane] = now
        return lane in self._busy_s and now - self._busy_s[lane] < LINGER_S

    def _is_held(self, lane: str) -> bool:
        if lane in self._mine:
            return True
        try:
            with self._file(lane).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # no lock can be had there: nobody is seen
            return False

    def _file(self, lane: str) -> FileLock:
        return FileLock(self._folder / f"{lane}.lock", thread_local=False)  # taken and given back by different threads


def use_share(lanes: Lanes, lane: str) -> None:
    """Let the calling thread compute with what ``lane`` may use, and no more threads than torch's own number."""
    import torch

    torch.set_num_threads(min(own_threads(), lanes.threads(lane)))  # 0.3 us


@functools.cache
def own_threads() -> int:
    """Threads that torch uses by itself: asked before it is told any other number."""
    import torch

    return torch.get_num_threads()
