"""The record of runs: one SQLite file (WAL), so that several processes see the same truth and a restart loses nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.errors import NotFoundError, PlaygroundError

SCHEMA = 1
STATES = ("QUEUED", "RUNNING", "STOPPING", "DONE", "FAILED", "CANCELLED")
ENDED = ("DONE", "FAILED", "CANCELLED")

_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
  run TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, method TEXT NOT NULL, state TEXT NOT NULL,
  created_s REAL NOT NULL, place REAL NOT NULL, step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL,
  adapter TEXT, error TEXT, pid INTEGER, pid_started_s REAL, stopping_s REAL, keep INTEGER NOT NULL DEFAULT 0,
  needs_bytes INTEGER NOT NULL, summary TEXT NOT NULL DEFAULT '{}'
)
"""


@dataclass(frozen=True)
class RunRow:
    """One run as recorded. place: its order in the queue. pid, pid_started_s: the worker while it lives.

    stopping_s: when a cancel was asked for. keep: the newest checkpoint is to become an adapter. summary: what the run measured.
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


class RunStore:
    """Reads and writes the table of runs. Safe from several threads and processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._local = threading.local()
        with self._db() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                raise PlaygroundError(
                    f"{path} was written by a newer version (schema {version}; this one knows {SCHEMA}). Update, or use another home folder."
                )
            db.execute(_TABLE)
            db.execute(f"PRAGMA user_version = {SCHEMA}")

    def add(self, **values: Any) -> None:
        """Record a new run; the last in the queue."""
        values["place"] = values["created_s"]
        names = ", ".join(values)
        with self._db() as db:
            db.execute(f"INSERT INTO runs ({names}) VALUES ({', '.join('?' * len(values))})", list(values.values()))

    def update(self, run: str, *, only_from: tuple[str, ...] | None = None, **values: Any) -> bool:
        """Change a run; with ``only_from`` just if it is still in one of these states. Returns whether it was changed."""
        if "summary" in values:
            values["summary"] = json.dumps(values["summary"], allow_nan=False)
        where, extra = "run = ?", [run]
        if only_from:
            where += f" AND state IN ({', '.join('?' * len(only_from))})"
            extra += only_from
        with self._db() as db:
            done = db.execute(
                f"UPDATE runs SET {', '.join(f'{name} = ?' for name in values)} WHERE {where}", [*values.values(), *extra]
            )
            return done.rowcount > 0

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
        return self._rows("WHERE state IN ('QUEUED', 'RUNNING', 'STOPPING') ORDER BY place, run")

    def _rows(self, clause: str, *values: Any) -> list[RunRow]:
        with self._db() as db:
            rows = db.execute(f"SELECT * FROM runs {clause}", values).fetchall()
        return [RunRow(**{**dict(row), "summary": json.loads(row["summary"])}) for row in rows]

    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self._path, timeout=30)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            self._local.db = db
        return db
