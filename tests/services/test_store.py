"""The record of runs: its queue, its attempts, its schemas, and what becomes of a change while the disk is full."""

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from playground.db import RunStore
from playground.errors import BusyError, DiskFullError, NotFoundError, PlaygroundError
from playground.services import build_services
from playground.settings import Settings
from playground.workspace.visitors import OWNER, TABS_MAX, Sessions, Visit, bytes_in, new_token, owner_of
from tests.refused import refused
from tests.services.conftest import Clock, add, full_disk
from tests.shared.conftest import alone, ended_run, hers, incoming, lora, prepared, services, shared_settings

FIRST_SCHEMA = """
CREATE TABLE runs (
  run TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, method TEXT NOT NULL, state TEXT NOT NULL,
  created_s REAL NOT NULL, place REAL NOT NULL, step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL,
  adapter TEXT, error TEXT, pid INTEGER, pid_started_s REAL, stopping_s REAL, keep INTEGER NOT NULL DEFAULT 0,
  needs_bytes INTEGER NOT NULL, summary TEXT NOT NULL DEFAULT '{}'
);
INSERT INTO runs (run, owner, name, method, state, created_s, place, steps, needs_bytes)
VALUES ('old', 'local', 'n', 'lora', 'FAILED', 1.7e9, 1.7e9, 5, 1);
PRAGMA user_version = 1;
"""
"""With one run."""


def order(store):
    return "".join(row.run for row in store.active())


@pytest.fixture
def store(tmp_path):
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
def test_moves(store, run, to, expected):
    store.move(run, to)
    assert order(store) == expected


def test_only_waiting_runs_move_an_attempt_begins_once_and_a_run_put_back_shuts_out_the_late_worker(store, tmp_path):
    store.begin("a", 1.0)
    refused("only a QUEUED run", store.move, "a", "down")
    refused("is no place", store.move, "b", "sideways")
    add(store, "x", owner="bob")
    add(store, "y", owner="bob")
    store.move("y", "first", "bob")
    assert order(store) == "abcdyx"
    with ThreadPoolExecutor(6) as pool:
        began = list(pool.map(lambda _: RunStore(tmp_path / "p.sqlite").begin("c", 2.0), range(6)))
    assert sorted(began, key=str) == [1, *[None] * 5]


def test_put_back_shuts_out_the_late_worker_and_a_resumed_run_is_the_last_a_retried_one_the_first(store):
    assert store.begin("b", 1.0) == 1
    assert store.put_back("b", 1)
    assert order(store) == "abcd", "it keeps its place"
    assert store.begin("b", 2.0) == 2
    store.update("b", pid=7)
    assert not store.put_back("b", 2), "its worker is there"
    store.update("b", pid=None, state="QUEUED")
    store.update("a", state="FAILED", step=7)
    assert store.requeue("a", ("FAILED",), step=5)
    assert (order(store), store.get("a").step) == ("bcda", 5), "where it goes on"
    store.update("d", state="RUNNING")
    assert store.requeue("d", ("RUNNING",), first=True, retried=True)
    assert (order(store), store.get("d").retried) == ("dbca", 1)


def test_a_database_of_the_first_schema_is_taken_over_and_a_newer_one_refused(tmp_path):
    file = tmp_path / "p.sqlite"

    def run(statements):
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.executescript(statements)

    run(FIRST_SCHEMA)
    store = RunStore(file)
    assert (store.get("old").attempt, store.get("old").state) == (0, "FAILED")
    add(store, "new")
    assert store.get("new").place > 1.7e9
    assert RunStore(file).get("old").run == "old"
    run("PRAGMA user_version = 99")
    refused("newer version", RunStore, file, error=PlaygroundError)


def test_a_change_waits_while_the_disk_is_full(store, tmp_path):
    with full_disk():
        refused("disk are free", store.update, "a", state="FAILED", error=DiskFullError)
        store.update_or_defer("b", state="FAILED", error="No.")
        store.flush()
        assert (store.get("b").state, order(store)) == ("FAILED", "acd")
        assert RunStore(tmp_path / "p.sqlite").get("b").state == "QUEUED"
    store.flush()
    assert RunStore(tmp_path / "p.sqlite").get("b").error == "No."


def test_a_quota_sees_a_change_that_waits(tmp_path):
    """One store in a process: two would each have pending writes of their own."""
    services = build_services(Settings(home=tmp_path / "home", shared=True, session_runs=1))
    add(services.training.store, "r")
    assert "1 run of yours" in services.quota.run_refused("ann", 0, 1, 1.0)
    with full_disk():
        services.training.store.update_or_defer("r", state="FAILED")
        assert "run of yours" not in services.quota.run_refused("ann", 0, 1, 1.0)


def test_a_visit_is_written_once_a_minute_a_tab_belongs_to_its_first_and_owners_are_safe_names(tmp_path):
    clock = Clock(1_000_000)
    sessions = Sessions(tmp_path / "db.sqlite", clock)
    sessions.seen("anna")
    clock.now_s += 30
    sessions.seen("anna")
    assert sessions.visits()["anna"].seen_s == 1_000_000
    clock.now_s += 40
    sessions.seen("anna")
    assert Sessions(tmp_path / "db.sqlite", clock).visits() == {"anna": Visit("anna", 1_000_070)}
    sessions.forget("anna")
    assert sessions.visits() == {}
    sessions.leave("anna")
    clock.now_s += 100
    sessions.seen("anna")
    assert sessions.visits()["anna"] == Visit("anna", 1_000_170, 1_000_070), "leaving outlives later visits"
    sessions = Sessions(tmp_path / "db.sqlite")
    sessions.claim("tab", "anna")
    sessions.claim("tab", "anna")
    refused("There is no such page", sessions.claim, "tab", "ben", error=NotFoundError)
    for number in range(TABS_MAX):
        sessions.claim(f"tab {number}", "anna")
    sessions.claim("tab", "ben")  # the oldest are forgotten, so that the list does not grow for ever
    token = new_token()
    given = ((token, ""), ("", "tab"), ("", ""), ("", ""), ("../..", "tab"), ("", "\ud800"))
    owners = {owner_of(*one) for one in given}
    assert len(owners) == 5, "a token that is none counts as no token"
    assert all(OWNER.fullmatch(owner) for owner in owners)
    assert owner_of(token, "one") == owner_of(token, "two")
    assert token not in owner_of(token, "")


__all__ = ["alone", "hers", "lora", "prepared", "services", "shared_settings"]


def test_every_kind_is_listed_and_goes_item_by_item_a_damaged_adapter_too(alone, hers):
    incoming(alone.settings, "left.csv", b"x" * 700)
    items = alone.storage.items()
    assert [item.kind for item in items] == ["base", "adapter", "run", "checkpoints", "upload", "passing"]
    sizes = {item.kind: item.bytes for item in items}
    assert sizes["checkpoints"] == 5000
    assert sizes["base"] == bytes_in(alone.settings.bases_dir / "smollm2-135m") > 1_000_000
    assert sizes["upload"] == hers.upload.stat().st_size
    assert alone.storage.free_bytes() > 0
    broken = alone.settings.adapters_dir / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    freed = alone.storage.remove("checkpoints", hers.run)
    assert (freed.bytes, freed.count("checkpoints")) == (5000, 1)
    assert alone.training.show(hers.run).state == "FAILED"
    items = alone.storage.items()
    assert ("broken", "broken, damaged") in [(item.id, item.name) for item in items]
    for item in items:
        assert alone.storage.remove(item.kind, item.id).items == (item,)
        refused("There is no", alone.storage.remove, item.kind, item.id, error=NotFoundError)
    assert alone.storage.items() == alone.training.runs() == []
    assert len(alone.adapters.list()) == 3, "what ships stays"
    assert not broken.exists()


def test_by_kind_and_what_is_in_use_stays(alone, hers):
    waiting = ended_run(alone, "local", "waiting", "QUEUED")
    freed = alone.storage.remove_kind("checkpoints")
    assert ([item.id for item in freed.items], [item.id for item in freed.stayed]) == ([hers.run], [waiting])
    assert [item.stays for item in alone.storage.remove_kind("base").stayed] == ["it is in use"]
    refused("smollm2-135m stays: it is in use", alone.storage.remove, "base", "smollm2-135m", error=BusyError)
    alone.training.cancel(waiting)
    for kind, count in (("run", 2), ("base", 1), ("upload", 1)):
        assert alone.storage.remove_kind(kind).count(kind) == count
    refused("There is no kind", alone.storage.remove_kind, "everything")


def test_sizes_follow_no_links(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"12345")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    assert bytes_in(tmp_path / "a") == 5
    assert bytes_in(tmp_path / "b") < 5 + len(str(tmp_path / "a"))
    assert bytes_in(tmp_path / "nothing") == 0
