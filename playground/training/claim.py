"""One run, one worker: a lock on the run's folder, and the worker's own pid in the record of runs.

Both are taken by the worker itself, before it does anything. So it does not matter at which moment the process that started it
was killed: a worker that begins is in the record, and one that is not in the record does not begin. The lock belongs to the
operating system and goes with its holder.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from playground.library.database import connect

LOCK = "worker.lock"
WAIT_S = 3.0
"""A worker waits so long for the folder: whoever settles how the one before it ended holds it for a moment."""
BUSY_S = 30.0
LIVING = ("RUNNING", "STOPPING")


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
    """The record of runs, as its worker sees it. database: the SQLite file of ``services.store``. attempt: which start this is."""

    database: Path
    run: str
    attempt: int

    def enter(self) -> bool:
        """Write this process into the record. False when the run was cancelled, ended, or is on another attempt by now."""
        pid = os.getpid()
        with self._open() as db:
            done = db.execute(
                "UPDATE runs SET pid = ?, pid_started_s = ? WHERE run = ? AND attempt = ? AND state = 'RUNNING' AND (pid IS NULL OR pid = ?)",
                (pid, psutil.Process(pid).create_time(), self.run, self.attempt, pid),
            )
            return done.rowcount == 1

    def is_mine(self) -> bool:
        """Whether the run still lives and this process is its worker. A record that cannot be read says nothing: True."""
        try:
            with self._open() as db:
                row = db.execute("SELECT state, attempt, pid FROM runs WHERE run = ?", (self.run,)).fetchone()
        except sqlite3.Error:
            return True
        return row is not None and row[0] in LIVING and row[1:] == (self.attempt, os.getpid())

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = connect(self.database, BUSY_S, create=False)  # a record that is gone must not be made anew, empty
        try:
            with db:
                yield db
        finally:
            db.close()
