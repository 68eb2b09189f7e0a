"""The record of runs: one SQLite file (WAL), so that several processes see the same truth and a restart loses nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playground.errors import DiskFullError, InputError, NotFoundError, PlaygroundError
from playground.library.database import connect

SCHEMA = 2
STATES = ("QUEUED", "RUNNING", "STOPPING", "DONE", "FAILED", "CANCELLED")
ACTIVE = ("QUEUED", "RUNNING", "STOPPING")
ENDED = ("DONE", "FAILED", "CANCELLED")
MOVES = ("up", "down", "first", "last")

_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
  run TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, method TEXT NOT NULL, state TEXT NOT NULL,
  created_s REAL NOT NULL, place REAL NOT NULL, step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL,
  adapter TEXT, error TEXT, pid INTEGER, pid_started_s REAL, stopping_s REAL, keep INTEGER NOT NULL DEFAULT 0,
  needs_bytes INTEGER NOT NULL, summary TEXT NOT NULL DEFAULT '{}'
)
"""
_SINCE_2 = (
    "ALTER TABLE runs ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE runs ADD COLUMN started_s REAL",
    "ALTER TABLE runs ADD COLUMN retried INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE supervisor (one INTEGER PRIMARY KEY CHECK (one = 1), pid INTEGER NOT NULL, pid_started_s REAL NOT NULL)",
)
_LAST = "(SELECT COALESCE(MAX(place), 0) + 1 FROM runs)"


@dataclass(frozen=True)
class RunRow:
    """One run as recorded. place: its order in the queue. pid, pid_started_s: the worker while it lives.

    stopping_s: when a cancel was asked for. keep: the newest checkpoint is to become an adapter. summary: what the run measured.
    attempt: how often it was started; a worker of an earlier attempt has no say. started_s: when the last one was.
    retried: whether memory ran out and it was put back by itself.
    """

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


class RunStore:
    """Reads and writes the table of runs. Safe from several threads and processes.

    What cannot be written because the disk is full raises DiskFullError; ``owe`` keeps it in mind instead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._owed: dict[str, dict[str, Any]] = {}
        self._owing = threading.Lock()
        with self._write() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                raise PlaygroundError(
                    f"{path} was written by a newer version (schema {version}; this one knows {SCHEMA}). Update, or use another home folder."
                )
            if version < SCHEMA:
                db.execute(_TABLE)
                for change in _SINCE_2:
                    db.execute(change)
                db.execute(f"PRAGMA user_version = {SCHEMA}")

    # -- writing -------------------------------------------------------------------------------------------------

    def add(self, **values: Any) -> None:
        """Record a new run; the last in the queue."""
        names = ", ".join(values)
        with self._write() as db:
            db.execute(
                f"INSERT INTO runs ({names}, place) VALUES ({', '.join('?' * len(values))}, {_LAST})", list(values.values())
            )

    def update(self, run: str, *, only_from: tuple[str, ...] | None = None, **values: Any) -> bool:
        """Change a run; with ``only_from`` just if it is still in one of these states. Returns whether it was changed."""
        if "summary" in values:
            values["summary"] = json.dumps(values["summary"], allow_nan=False)
        where, extra = "run = ?", [run]
        if only_from:
            where += f" AND state IN ({', '.join('?' * len(only_from))})"
            extra += only_from
        with self._write() as db:
            done = db.execute(
                f"UPDATE runs SET {', '.join(f'{name} = ?' for name in values)} WHERE {where}", [*values.values(), *extra]
            )
            return done.rowcount > 0

    def remove(self, run: str, *, only_from: tuple[str, ...]) -> bool:
        """Forget a run that is in one of these states. Returns whether it was."""
        with self._write() as db:
            gone = db.execute(
                f"DELETE FROM runs WHERE run = ? AND state IN ({', '.join('?' * len(only_from))})", [run, *only_from]
            )
        with self._owing:
            self._owed.pop(run, None)
        return gone.rowcount > 0

    def begin(self, run: str, now_s: float) -> int | None:
        """QUEUED -> RUNNING. Returns the number of the new attempt, None when the run is not queued any more."""
        with self._write() as db:
            done = db.execute(
                "UPDATE runs SET state = 'RUNNING', pid = NULL, pid_started_s = NULL, error = NULL, attempt = attempt + 1, started_s = ? "
                "WHERE run = ? AND state = 'QUEUED'",
                (now_s, run),
            )
            return int(db.execute("SELECT attempt FROM runs WHERE run = ?", (run,)).fetchone()[0]) if done.rowcount else None

    def put_back(self, run: str, attempt: int) -> bool:
        """RUNNING -> QUEUED for an attempt whose worker never entered the record: from now on it cannot. Keeps its place."""
        with self._write() as db:
            done = db.execute(
                "UPDATE runs SET state = 'QUEUED' WHERE run = ? AND attempt = ? AND state = 'RUNNING' AND pid IS NULL",
                (run, attempt),
            )
            return done.rowcount > 0

    def requeue(self, run: str, only_from: tuple[str, ...], *, step: int = 0, first: bool = False, retried: bool = False) -> bool:
        """Queue a run once more: as the last, or the first. step: from where it will go on. Returns whether it was in one of these states."""
        self._pay(run)
        place = "(SELECT COALESCE(MIN(place), 0) - 1 FROM runs)" if first else _LAST
        with self._write() as db:
            done = db.execute(
                f"UPDATE runs SET state = 'QUEUED', place = {place}, pid = NULL, pid_started_s = NULL, stopping_s = NULL, keep = 0, "
                f"error = NULL, step = ?, retried = ? WHERE run = ? AND state IN ({', '.join('?' * len(only_from))})",
                (step, int(retried), run, *only_from),
            )
            return done.rowcount > 0

    def move(self, run: str, to: str | int, owner: str | None = None) -> None:
        """Move a waiting run among the waiting runs (``owner``'s only, if named). to: one of MOVES, or a place from 1.

        Raises InputError when the run is not waiting.
        """
        whose, values = (" AND owner = ?", (owner,)) if owner is not None else ("", ())
        with self._write() as db:
            rows = db.execute(f"SELECT run, place FROM runs WHERE state = 'QUEUED'{whose} ORDER BY place, run", values).fetchall()
            order, places = [row["run"] for row in rows], [row["place"] for row in rows]
            if run not in order:
                raise InputError(f"{run[:80]} is not waiting; only a QUEUED run can be moved.")
            was = order.index(run)
            wanted = {"up": was - 1, "down": was + 1, "first": 0, "last": len(order)}.get(to) if isinstance(to, str) else to - 1
            if wanted is None:
                raise InputError(f"{to!r} is no place. There is {', '.join(MOVES)}, or a number from 1.")
            order.insert(min(max(0, wanted), len(order) - 1), order.pop(was))
            db.executemany("UPDATE runs SET place = ? WHERE run = ?", list(zip(places, order, strict=True)))

    def owe(self, run: str, **values: Any) -> None:
        """As ``update``; where the disk is full the change is kept in mind, seen by every reader here, and written later."""
        try:
            self.update(run, **values)
        except DiskFullError:
            with self._owing:
                self._owed.setdefault(run, {}).update(values)

    def settle(self) -> None:
        """Write what is owed, if there is room by now."""
        for run in list(self._owed):
            with contextlib.suppress(DiskFullError):
                self._pay(run)

    def _pay(self, run: str) -> None:
        with self._owing:
            owed = dict(self._owed.get(run, {}))
        if owed:
            self.update(run, **owed)
            with self._owing:
                self._owed.pop(run, None)

    # -- reading -------------------------------------------------------------------------------------------------

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
        rows = self._rows(f"WHERE state IN ({', '.join('?' * len(ACTIVE))}) ORDER BY place, run", *ACTIVE)
        return [row for row in rows if row.state in ACTIVE]

    # -- who supervises ------------------------------------------------------------------------------------------

    def set_supervisor(self, pid: int, pid_started_s: float) -> None:
        """This process looks after the runs from now on."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO supervisor VALUES (1, ?, ?)", (pid, pid_started_s))

    def clear_supervisor(self, pid: int) -> None:
        with self._write() as db:
            db.execute("DELETE FROM supervisor WHERE pid = ?", (pid,))

    def supervisor(self) -> tuple[int, float] | None:
        """(pid, start time) of the process that looked after the runs last; it may be gone."""
        row = self._db().execute("SELECT pid, pid_started_s FROM supervisor").fetchone()
        return (row[0], row[1]) if row else None

    # -- inside --------------------------------------------------------------------------------------------------

    def _rows(self, clause: str, *values: Any) -> list[RunRow]:
        found = self._db().execute(f"SELECT * FROM runs {clause}", values).fetchall()
        rows = [RunRow(**{**dict(row), "summary": json.loads(row["summary"])}) for row in found]
        with self._owing:
            return [replace(row, **self._owed[row.run]) if row.run in self._owed else row for row in rows]

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that sees nobody else's half. Raises DiskFullError."""
        try:
            db = self._db()
            with db:
                db.execute("BEGIN IMMEDIATE")
                yield db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
                free = shutil.disk_usage(self._path.parent).free
                raise DiskFullError(
                    f"The record of runs cannot be written ({error}); {free / 1e6:.1f} MB of disk are free. Free some space, then try again."
                ) from error
            raise

    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = connect(self._path)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            self._local.db = db
        return db
