"""The home's one SQLite file (WAL mode): runs, races and visits. The only module that speaks SQL. Several processes use
it; it is readable by its owner alone, and what is deleted leaves the disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playground.errors import DiskFullError, InputError, NotFoundError, PlaygroundError
from playground.library.files import private_folder

SCHEMA = 2
STATES = ("QUEUED", "RUNNING", "STOPPING", "DONE", "FAILED", "CANCELLED")
ACTIVE = ("QUEUED", "RUNNING", "STOPPING")
ENDED = ("DONE", "FAILED", "CANCELLED")
WORKER_TIMEOUT_S = 30.0

DatabaseError = sqlite3.Error

_RUNS = """
CREATE TABLE IF NOT EXISTS runs (
  run TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, method TEXT NOT NULL, state TEXT NOT NULL,
  created_s REAL NOT NULL, place REAL NOT NULL, step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL,
  adapter TEXT, error TEXT, pid INTEGER, pid_started_s REAL, stopping_s REAL, keep INTEGER NOT NULL DEFAULT 0,
  needs_bytes INTEGER NOT NULL, summary TEXT NOT NULL DEFAULT '{}'
)
"""
_SUPERVISOR = "one INTEGER PRIMARY KEY CHECK (one = 1), pid INTEGER NOT NULL, pid_started_s REAL NOT NULL"
_SINCE_2 = (
    "ALTER TABLE runs ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE runs ADD COLUMN started_s REAL",
    "ALTER TABLE runs ADD COLUMN retried INTEGER NOT NULL DEFAULT 0",
    f"CREATE TABLE supervisor ({_SUPERVISOR})",
)
_RACES = "race TEXT PRIMARY KEY, owner TEXT NOT NULL, created_s REAL NOT NULL, record TEXT NOT NULL"
_VISITS = "owner TEXT PRIMARY KEY, seen_s REAL NOT NULL, left_s REAL NOT NULL DEFAULT 0"
_LAST = "(SELECT COALESCE(MAX(place), 0) + 1 FROM runs)"
_FIRST = "(SELECT COALESCE(MIN(place), 0) - 1 FROM runs)"


def connect(path: Path, timeout_s: float = 30.0, *, create: bool = True) -> sqlite3.Connection:
    """A connection that overwrites what it deletes. create: make the file and its folder; else a missing file raises
    sqlite3.OperationalError."""
    if create:
        private_folder(path.parent)
        # SQLite reports errors best. An existing file is not opened here: closing it would free SQLite's locks.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}", uri=True, timeout=timeout_s)
    try:
        db.execute("PRAGMA secure_delete = ON")
    except BaseException:
        db.close()
        raise
    return db


def wipe(path: Path, timeout_s: float = 30.0) -> None:
    """Remove deleted rows from file and write-ahead log. Raises sqlite3.Error where others use it for too long."""
    with contextlib.closing(connect(path, timeout_s, create=False)) as db:
        db.execute("VACUUM")
        busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("the log still holds what was deleted: others read it")


class _Tables:
    """One connection a thread; every write is one transaction. table, columns: created where they are missing."""

    table = columns = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def _read(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        return self._connection().execute(statement, values).fetchall()

    def _changed(self, statement: str, *values: Any) -> bool:
        with self._write() as db:
            return db.execute(statement, values).rowcount > 0

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone from its first read on. Raises DiskFullError."""
        try:
            db = self._connection()
            with db:
                db.execute("BEGIN IMMEDIATE")
                yield db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
                free = shutil.disk_usage(self._path.parent).free
                there = f"{free / 1e6:.1f} MB of disk are free. Free some space, then try again."
                raise DiskFullError(f"The record of runs cannot be written ({error}); {there}") from error
            raise

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = connect(self._path)
            try:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA journal_mode = WAL")
                if self.table:
                    with db:
                        db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({self.columns})")
            except BaseException:
                db.close()
                raise
            self._local.db = db
        return db


@dataclass(frozen=True)
class RunRow:
    """One run as recorded. place: its order in the queue. pid, pid_started_s: the worker while it lives. stopping_s:
    when a cancel was asked for. keep: the newest checkpoint is to become an adapter. summary: what the run measured.
    attempt: how often it was started; a worker of an earlier attempt may not write. started_s: when the last one was.
    retried: whether memory ran out and it was requeued automatically."""

    run: str
    owner: str
    name: str
    method: str
    state: str
    created_s: float
    place: float
    step: int
    steps: int
    adapter: str | None
    error: str | None
    pid: int | None
    pid_started_s: float | None
    stopping_s: float | None
    keep: int
    needs_bytes: int
    summary: dict[str, Any]
    attempt: int = 0
    started_s: float | None = None
    retried: int = 0


class RunStore(_Tables):
    """The table of runs and who supervises them. Safe from several threads and processes.

    A write raises DiskFullError while the disk is full; ``update_or_defer`` keeps it as a pending write instead. One
    object per process, since pending writes are seen by its own readers only.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._pending: dict[str, dict[str, Any]] = {}
        self._pending_lock = threading.Lock()
        with self._write() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                newer = f"a newer version (schema {version}; this one knows {SCHEMA})"
                raise PlaygroundError(f"{path} was written by {newer}. Update, or use another home folder.")
            if version < SCHEMA:
                for statement in (_RUNS, *_SINCE_2, f"PRAGMA user_version = {SCHEMA}"):
                    db.execute(statement)

    def add(self, **values: Any) -> None:
        """Record a new run; the last in the queue."""
        names, marks = ", ".join(values), _marks(values)
        self._changed(f"INSERT INTO runs ({names}, place) VALUES ({marks}, {_LAST})", *values.values())

    def update(self, run: str, *, only_from: tuple[str, ...] | None = None, **values: Any) -> bool:
        """Change a run; with ``only_from`` just where it is in one of these states. Returns whether it was changed."""
        if "summary" in values:
            values["summary"] = json.dumps(values["summary"], allow_nan=False)
        states, changes = only_from or STATES, ", ".join(f"{name} = ?" for name in values)
        statement = f"UPDATE runs SET {changes} WHERE run = ? AND state IN ({_marks(states)})"
        return self._changed(statement, *values.values(), run, *states)

    def remove(self, run: str, *, only_from: tuple[str, ...]) -> bool:
        """Delete a run that is in one of these states. Returns whether it was."""
        gone = self._changed(f"DELETE FROM runs WHERE run = ? AND state IN ({_marks(only_from)})", run, *only_from)
        with self._pending_lock:
            self._pending.pop(run, None)
        return gone

    def begin(self, run: str, now_s: float) -> int | None:
        """QUEUED -> RUNNING. Returns the number of the new attempt, None when the run is not queued any more."""
        with self._write() as db:
            done = db.execute(
                "UPDATE runs SET state = 'RUNNING', pid = NULL, pid_started_s = NULL, error = NULL, attempt = attempt +"
                " 1, started_s = ? WHERE run = ? AND state = 'QUEUED'",
                (now_s, run),
            )
            row = db.execute("SELECT attempt FROM runs WHERE run = ?", (run,)).fetchone()
        return int(row[0]) if done.rowcount else None

    def put_back(self, run: str, attempt: int) -> bool:
        """RUNNING -> QUEUED at its old place; the worker of this attempt, which never came, cannot enter any more."""
        started = "run = ? AND attempt = ? AND state = 'RUNNING' AND pid IS NULL"
        return self._changed(f"UPDATE runs SET state = 'QUEUED' WHERE {started}", run, attempt)

    def requeue(
        self, run: str, only_from: tuple[str, ...], *, step: int = 0, first: bool = False, retried: bool = False
    ) -> bool:
        """Queue once more, last or first, to go on from ``step``. Returns whether it was in one of these states."""
        self._flush_run(run)
        return self._changed(
            f"UPDATE runs SET state = 'QUEUED', place = {_FIRST if first else _LAST}, pid = NULL, pid_started_s = NULL,"
            " stopping_s = NULL, keep = 0, error = NULL, step = ?, retried = ? WHERE run = ? AND state IN"
            f" ({_marks(only_from)})",
            *(step, int(retried), run, *only_from),
        )

    def move(self, run: str, to: str | int, owner: str | None = None) -> None:
        """Move a waiting run among the waiting runs (``owner``'s only, if named). to: up, down, first, last, or a place
        from 1. Raises InputError when the run is not waiting."""
        whose, values = (" AND owner = ?", (owner,)) if owner is not None else ("", ())
        with self._write() as db:
            waiting = f"SELECT run, place FROM runs WHERE state = 'QUEUED'{whose} ORDER BY place, run"
            rows = db.execute(waiting, values).fetchall()
            order, places = [row["run"] for row in rows], [row["place"] for row in rows]
            if run not in order:
                raise InputError(f"{run[:80]} is not waiting; only a QUEUED run can be moved.")
            was = order.index(run)
            named = {"up": was - 1, "down": was + 1, "first": 0, "last": len(order)}
            wanted = named.get(to) if isinstance(to, str) else to - 1
            if wanted is None:
                raise InputError(f"{to!r} is no place. There is {', '.join(named)}, or a number from 1.")
            order.insert(min(max(0, wanted), len(order) - 1), order.pop(was))
            db.executemany("UPDATE runs SET place = ? WHERE run = ?", list(zip(places, order, strict=True)))

    def update_or_defer(self, run: str, **values: Any) -> None:
        """As ``update``; with the disk full it is pending: this process sees it, ``flush`` writes it."""
        try:
            self.update(run, **values)
        except DiskFullError:
            with self._pending_lock:
                self._pending.setdefault(run, {}).update(values)

    def flush(self) -> None:
        """Write the pending changes, if there is room by now."""
        for run in list(self._pending):
            with contextlib.suppress(DiskFullError):
                self._flush_run(run)

    def _flush_run(self, run: str) -> None:
        with self._pending_lock:
            pending = dict(self._pending.get(run, {}))
        if pending:
            self.update(run, **pending)
            with self._pending_lock:
                self._pending.pop(run, None)

    def get(self, run: str) -> RunRow:
        """Raises NotFoundError."""
        rows = self._rows("WHERE run = ?", run)
        if not rows:
            there = ", ".join(row.run for row in self.all()[:5]) or "none yet"
            raise NotFoundError(f"There is no run {run[:80]!r}. The newest are: {there}.")
        return rows[0]

    def all(self) -> list[RunRow]:
        """Newest first."""
        return self._rows("ORDER BY created_s DESC, run DESC")

    def active(self) -> list[RunRow]:
        """Runs that have not ended, in the order of the queue."""
        rows = self._rows(f"WHERE state IN ({_marks(ACTIVE)}) ORDER BY place, run", *ACTIVE)
        return [row for row in rows if row.state in ACTIVE]  # a pending write may have ended it

    def set_supervisor(self, pid: int, pid_started_s: float) -> None:
        self._changed("INSERT OR REPLACE INTO supervisor VALUES (1, ?, ?)", pid, pid_started_s)

    def clear_supervisor(self, pid: int) -> None:
        self._changed("DELETE FROM supervisor WHERE pid = ?", pid)

    def supervisor(self) -> tuple[int, float] | None:
        """(pid, start time) of the process that looked after the runs last; it may be gone."""
        rows = self._read("SELECT pid, pid_started_s FROM supervisor")
        return (rows[0][0], rows[0][1]) if rows else None

    def _rows(self, clause: str, *values: Any) -> list[RunRow]:
        found = self._read(f"SELECT * FROM runs {clause}", *values)
        rows = [RunRow(**{**dict(row), "summary": json.loads(row["summary"])}) for row in found]
        with self._pending_lock:
            return [replace(row, **self._pending[row.run]) if row.run in self._pending else row for row in rows]


def _marks(values: Any) -> str:
    return ", ".join("?" * len(values))


def enter_run(database: Path, run: str, attempt: int, pid: int, pid_started_s: float) -> bool:
    """Write a worker's process into the record. False when the run no longer waits for this attempt."""
    with _existing(database) as db:
        done = db.execute(
            "UPDATE runs SET pid = ?, pid_started_s = ? WHERE run = ? AND attempt = ? AND state = 'RUNNING' AND (pid IS"
            " NULL OR pid = ?)",
            (pid, pid_started_s, run, attempt, pid),
        )
        return done.rowcount == 1


def works_on(database: Path, run: str, attempt: int, pid: int) -> bool:
    """Whether the run still lives and this process is its worker."""
    with _existing(database) as db:
        row = db.execute("SELECT state, attempt, pid FROM runs WHERE run = ?", (run,)).fetchone()
    return row is not None and row[0] in ("RUNNING", "STOPPING") and row[1:] == (attempt, pid)


@contextlib.contextmanager
def _existing(database: Path) -> Iterator[sqlite3.Connection]:
    """A transaction in a database that must not be created anew, empty, where it is gone."""
    with contextlib.closing(connect(database, WORKER_TIMEOUT_S, create=False)) as db, db:
        yield db


class RaceTable(_Tables):
    """Races as JSON records. Safe from several threads and processes."""

    table, columns = "races", _RACES

    def add_record(self, race: str, owner: str, created_s: float, record: dict[str, Any]) -> None:
        text = json.dumps(record, allow_nan=False)
        self._changed("INSERT INTO races VALUES (?, ?, ?, ?)", race, owner, created_s, text)

    def records(self) -> list[dict[str, Any]]:
        """Newest first."""
        return [json.loads(row[0]) for row in self._read("SELECT record FROM races ORDER BY created_s DESC, race DESC")]

    def change_record(self, race: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Read, change and write in one transaction. Raises NotFoundError."""
        with self._write() as db:
            row = db.execute("SELECT record FROM races WHERE race = ?", (race,)).fetchone()
            if row is None:
                raise NotFoundError(f"There is no race {race[:80]!r}.")
            record = change(json.loads(row[0]))
            db.execute("UPDATE races SET record = ? WHERE race = ?", (json.dumps(record, allow_nan=False), race))
            return record

    def remove(self, race: str) -> None:
        self._changed("DELETE FROM races WHERE race = ?", race)


@dataclass(frozen=True)
class Visit:
    """seen_s: last request. left_s: everything made before this moment is to go, 0 = nothing. Seconds since 1970."""

    owner: str
    seen_s: float
    left_s: float = 0.0


class VisitTable(_Tables):
    """When each visitor was last here. Safe from several threads and processes."""

    table, columns = "visitors", _VISITS

    def seen(self, owner: str, now_s: float) -> None:
        self._upsert("(owner, seen_s) VALUES (?, ?)", "seen_s", owner, now_s)

    def left(self, owner: str, now_s: float) -> None:
        self._upsert("(owner, seen_s, left_s) VALUES (?, ?, ?)", "left_s", owner, now_s, now_s)

    def all(self) -> dict[str, Visit]:
        return {row[0]: Visit(*row) for row in self._read("SELECT owner, seen_s, left_s FROM visitors")}

    def remove(self, owner: str) -> None:
        self._changed("DELETE FROM visitors WHERE owner = ?", owner)

    def _upsert(self, new: str, column: str, *values: Any) -> None:
        self._changed(f"INSERT INTO visitors {new} ON CONFLICT DO UPDATE SET {column} = excluded.{column}", *values)
