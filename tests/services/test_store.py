"""The record of runs: its queue, its attempts, its schemas, and what becomes of a change while the disk is full."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from playground.db import RunStore
from playground.errors import DiskFullError, InputError, PlaygroundError
from playground.services import build_services
from playground.settings import Settings

FIRST_TABLE = """
CREATE TABLE runs (
  run TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, method TEXT NOT NULL, state TEXT NOT NULL,
  created_s REAL NOT NULL, place REAL NOT NULL, step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL,
  adapter TEXT, error TEXT, pid INTEGER, pid_started_s REAL, stopping_s REAL, keep INTEGER NOT NULL DEFAULT 0,
  needs_bytes INTEGER NOT NULL, summary TEXT NOT NULL DEFAULT '{}'
)
"""
"""As schema 1 had it."""


def add(store: RunStore, run: str, **more: Any) -> None:
    values = {"owner": "ann", "name": run, "method": "lora", "state": "QUEUED", "created_s": 1.0, "steps": 5}
    store.add(**{"run": run, "needs_bytes": 1} | values | more)


def order(store: RunStore) -> str:
    return "".join(row.run for row in store.active())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    made = RunStore(tmp_path / "p.sqlite")
    for run in "abcd":
        add(made, run)
    return made


@pytest.mark.parametrize(
    ("run", "to", "expected"),
    [
        *(("c", "up", "acbd"), ("a", "up", "abcd"), ("b", "down", "acbd"), ("d", "down", "abcd")),
        *(("d", "first", "dabc"), ("a", "last", "bcda"), ("d", 2, "adbc"), ("a", 99, "bcda")),
    ],
)
def test_moves(store: RunStore, run: str, to: str | int, expected: str) -> None:
    store.move(run, to)
    assert order(store) == expected


def test_only_waiting_runs_move_and_only_among_the_owners_own(store: RunStore) -> None:
    store.begin("a", 1.0)
    with pytest.raises(InputError, match="only a QUEUED run"):
        store.move("a", "down")
    with pytest.raises(InputError, match="is no place"):
        store.move("b", "sideways")
    add(store, "x", owner="bob")
    add(store, "y", owner="bob")
    store.move("y", "first", "bob")
    assert order(store) == "abcdyx"


def test_an_attempt_begins_once(store: RunStore, tmp_path: Path) -> None:
    began: list[int | None] = []
    starts = [lambda: began.append(RunStore(tmp_path / "p.sqlite").begin("a", 2.0))] * 6
    threads = [threading.Thread(target=start) for start in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(began, key=str) == [1, *[None] * 5]


def test_put_back_shuts_out_the_late_worker(store: RunStore) -> None:
    attempt = store.begin("b", 1.0)
    assert attempt == 1
    assert store.put_back("b", attempt)
    assert order(store) == "abcd", "it keeps its place"
    assert store.begin("b", 2.0) == 2
    store.update("b", pid=7)
    assert not store.put_back("b", 2), "its worker is there"


def test_a_resumed_run_is_the_last_and_a_retried_one_the_first(store: RunStore) -> None:
    store.update("a", state="FAILED")
    assert store.requeue("a", ("FAILED",))
    assert order(store) == "bcda"
    store.update("d", state="RUNNING")
    assert store.requeue("d", ("RUNNING",), first=True, retried=True)
    assert order(store) == "dbca"
    assert store.get("d").retried == 1
    store.update("b", state="FAILED", step=7)
    assert store.requeue("b", ("FAILED",), step=5)
    assert store.get("b").step == 5, "where it goes on"


def test_a_database_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "p.sqlite"
    with sqlite3.connect(file) as db:
        db.execute(FIRST_TABLE)
        db.execute(
            "INSERT INTO runs (run, owner, name, method, state, created_s, place, steps, needs_bytes) VALUES ('old',"
            " 'local', 'n', 'lora', 'FAILED', 1.7e9, 1.7e9, 5, 1)"
        )
        db.execute("PRAGMA user_version = 1")
    db.close()
    store = RunStore(file)
    assert (store.get("old").attempt, store.get("old").state) == (0, "FAILED")
    add(store, "new")
    assert store.get("new").place > 1.7e9
    assert RunStore(file).get("old").run == "old"


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.sqlite"
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(PlaygroundError, match="newer version"):
        RunStore(file)


FullDisk = Callable[[], AbstractContextManager[None]]


def test_a_change_waits_while_the_disk_is_full(store: RunStore, tmp_path: Path, full_disk: FullDisk) -> None:
    with full_disk():
        with pytest.raises(DiskFullError, match="disk are free"):
            store.update("a", state="FAILED")
        store.update_or_defer("b", state="FAILED", error="No.")
        store.flush()
        assert (store.get("b").state, order(store)) == ("FAILED", "acd")
        assert RunStore(tmp_path / "p.sqlite").get("b").state == "QUEUED"
    store.flush()
    assert RunStore(tmp_path / "p.sqlite").get("b").error == "No."


def test_a_quota_sees_a_change_that_waits(tmp_path: Path, full_disk: FullDisk) -> None:
    """One store in a process: two would each have pending writes of their own."""
    services = build_services(Settings(home=tmp_path / "home", shared=True, session_runs=1))
    add(services.training.store, "r")
    assert "1 run of yours" in services.quota.run_refused("ann", 0, 1, 1.0)
    with full_disk():
        services.training.store.update_or_defer("r", state="FAILED")
        assert "run of yours" not in services.quota.run_refused("ann", 0, 1, 1.0)
