"""The record of races: one JSON value a race in the database, so that several processes see the same and a restart loses nothing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from playground.errors import NotFoundError, PlaygroundError
from playground.library.database import connect

SCHEMA = 1
RUNNING, MEASURING, DONE, CANCELLED = "RUNNING", "MEASURING", "DONE", "CANCELLED"
LIVE = (RUNNING, MEASURING)
_TABLE = (
    "CREATE TABLE IF NOT EXISTS races (race TEXT PRIMARY KEY, owner TEXT NOT NULL, created_s REAL NOT NULL, record TEXT NOT NULL)"
)


@dataclass(frozen=True)
class Entry:
    """One method in a race. method: its name, "" = the base, for comparison. run: its run's id. lr: its learning rate, 0 = unknown.
    planned_s: how long the run was thought to take, in seconds.

    state, reason: how the run ended, and why where it was not well; reason also says what could not be measured. adapter: what it made.
    figures: what the run's summary says (eval_loss, trainable_params, peak_memory_bytes, seconds, tokens_per_s) and bytes, of the
    adapter on disk. loss, eval_loss: (step, value). passed, asked: greedy replies on validation rows that keep the format, None = no
    check. forgot: ``evaluation.forgetting.Forgetting`` as a record. measured_s: seconds that measuring took; None = not measured yet.
    """

    method: str
    run: str = ""
    steps: int = 0
    planned_s: float = 0.0
    state: str = ""
    reason: str = ""
    adapter: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    loss: list[list[float]] = field(default_factory=list)
    eval_loss: list[list[float]] = field(default_factory=list)
    passed: int | None = None
    asked: int = 0
    forgot: dict[str, Any] | None = None
    measured_s: float | None = None
    lr: float = 0.0


@dataclass(frozen=True)
class Race:
    """One race. file: the examples' name. check: as it was written, "" = none. steps, minutes: the budget of each method, one of them.
    state: RUNNING while its runs train, MEASURING, DONE or CANCELLED. message: what it is doing, in words."""

    race: str
    owner: str
    name: str
    file: str
    created_s: float
    state: str
    check: str
    steps: int | None
    minutes: float | None
    entries: tuple[Entry, ...]
    base: Entry = Entry("")
    message: str = ""
    schema: int = SCHEMA

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Race:
        """From its record, of this schema or an older one; what it does not know is left out. Raises PlaygroundError for a newer one."""
        if record.get("schema", SCHEMA) > SCHEMA:
            raise PlaygroundError(
                f"The race {record.get('race')} was written by a newer version (schema {record['schema']}; this one knows {SCHEMA}). Update."
            )
        values = _known(cls, record)
        values["entries"] = tuple(Entry(**_known(Entry, entry)) for entry in values["entries"])
        values["base"] = Entry(**_known(Entry, values.get("base", {"method": ""})))
        return cls(**values | {"schema": SCHEMA})


def _known(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in record.items() if name in names}


class RaceStore:
    """Safe from several threads and processes."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def add(self, race: Race) -> None:
        with self._open() as db:
            db.execute("INSERT INTO races VALUES (?, ?, ?, ?)", (race.race, race.owner, race.created_s, _written(race)))

    def all(self) -> list[Race]:
        """Newest first."""
        with self._open() as db:
            rows = db.execute("SELECT record FROM races ORDER BY created_s DESC, race DESC").fetchall()
        return [Race.of(json.loads(row[0])) for row in rows]

    def get(self, race: str) -> Race:
        """Raises NotFoundError."""
        with self._open() as db:
            row = db.execute("SELECT record FROM races WHERE race = ?", (race,)).fetchone()
        if row is None:
            raise NotFoundError(f"There is no race {race[:80]!r}.")
        return Race.of(json.loads(row[0]))

    def change(self, race: str, change: Callable[[Race], Race]) -> Race:
        """Read, change, write, and nobody comes in between. Raises NotFoundError."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT record FROM races WHERE race = ?", (race,)).fetchone()
            if row is None:
                raise NotFoundError(f"There is no race {race[:80]!r}.")
            changed = change(Race.of(json.loads(row[0])))
            db.execute("UPDATE races SET record = ? WHERE race = ?", (_written(changed), race))
            return changed

    def remove(self, race: str) -> None:
        with self._open() as db:
            db.execute("DELETE FROM races WHERE race = ?", (race,))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Opened each time: it is asked about once a second, from any thread."""
        db = connect(self._database)
        try:
            with db:
                db.execute(_TABLE)
                yield db
        finally:
            db.close()


def _written(race: Race) -> str:
    return json.dumps(asdict(race), allow_nan=False)
