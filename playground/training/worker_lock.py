"""One run, one worker: a lock on the run's folder, and the worker's own pid in the record of runs.

Both are taken by the worker itself, before it does anything. So it does not matter at which moment the process that
started it
was killed: a worker that begins is in the record, and one that is not in the record does not begin. The lock belongs to
the
operating system and goes with its holder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from playground.db import DatabaseError, enter_run, works_on

LOCK = "worker.lock"
WAIT_S = 3.0
"""A worker waits so long for the folder: whoever records how the previous one ended holds it for a moment."""


@contextlib.contextmanager
def folder_lock(run_dir: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold a run's folder; gives False when another process holds it for longer than ``wait_s``. Raises OSError."""
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@dataclass(frozen=True)
class Record:
    """The record of runs, as its worker sees it. attempt: which start this is."""

    database: Path
    run: str
    attempt: int

    def enter(self) -> bool:
        """Write this process into the record. False when the run was cancelled, ended, or is on another attempt by
        now."""
        pid = os.getpid()
        return enter_run(self.database, self.run, self.attempt, pid, psutil.Process(pid).create_time())

    def is_mine(self) -> bool:
        """Whether the run still lives and this process is its worker. A record that cannot be read proves nothing:
        True."""
        try:
            return works_on(self.database, self.run, self.attempt, os.getpid())
        except DatabaseError:
            return True
