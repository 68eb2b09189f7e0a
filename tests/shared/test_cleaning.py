"""What goes by itself and when, with a clock in hand."""

import os
import time

import pytest

from playground.library.adapters import AdapterLibrary
from playground.runs.service import TrainingService
from playground.services import build_services
from playground.storage import EXPORTED_S, INCOMING_S, STAGED_S, Cleaner, StorageService
from playground.workspace.visitors import LOCAL, Sessions
from tests.services.conftest import Clock, Workers
from tests.shared.conftest import ANNA, BEN, adapter_of, ended_run, incoming, refused

HOUR = 3600.0
clock = pytest.fixture(lambda: Clock(time.time() + 10))


def storage_of(s, sessions, wait, training=None):
    parts = (s.settings, s.bases, s.adapters, training or s.training, s.demo, sessions, s.verdicts, s.bench.book)
    return StorageService(*parts, s.quota, wait)


def cleaner_of(services, clock):
    sessions = Sessions(services.settings.database, clock)
    storage = storage_of(services, sessions, lambda seconds: None)
    return Cleaner(services.settings, storage, sessions, clock), sessions


def test_things_go_a_day_after_the_last_visit(services, hers, clock, lora):
    clean, sessions = cleaner_of(services, clock)
    kept = adapter_of(services, lora, LOCAL, "operators")
    sessions.seen(ANNA)
    clock.now_s += 20 * HOUR
    sessions.seen(BEN)
    mine = services.data.keep_uploads([incoming(services.settings, "bens.jsonl")], BEN)
    clean.tick()
    assert len(services.storage.items(ANNA)) == 4
    clock.now_s += 3 * HOUR
    sessions.seen(ANNA)  # she is back
    clock.now_s += 23 * HOUR
    sessions.seen(BEN)
    clean.tick()
    assert len(services.storage.items(ANNA)) == 4
    clock.now_s += 1 * HOUR
    clean.tick()
    assert services.storage.items(ANNA) == []
    assert not any(one.exists() for one in (hers.upload, services.settings.runs_dir / hers.run))
    assert mine.is_file()
    assert services.adapters.get(kept).owner == LOCAL
    assert len([row for row in services.adapters.list(ANNA) if row.card.shipped]) == 3
    assert set(sessions.visits()) == {BEN}


def test_a_restart_does_not_begin_the_day_anew(services, hers, clock, lora):
    Sessions(services.settings.database, clock).seen(ANNA)
    clock.now_s += 20 * HOUR
    mine = adapter_of(services, lora, BEN, "bens")  # and no visit of his
    again = build_services(services.settings)
    clean, _ = cleaner_of(again, clock)
    clean.tick()
    assert (len(again.storage.items(ANNA)), len(again.storage.items(BEN))) == (4, 1)
    clock.now_s += 5 * HOUR
    clean.tick()
    assert (again.storage.items(ANNA), [item.id for item in again.storage.items(BEN)]) == ([], [mine])
    clock.now_s += 19 * HOUR
    clean.tick()
    assert again.storage.items(BEN) == []
    again.close()


def test_a_run_that_has_not_ended_stays_until_it_has(services, clock):
    clean, sessions = cleaner_of(services, clock)
    run = ended_run(services, ANNA, state="QUEUED")
    sessions.seen(ANNA)
    clock.now_s += 48 * HOUR
    clean.tick()
    assert services.training.show(run, ANNA).state == "QUEUED"
    assert (services.settings.runs_dir / run / "checkpoints").is_dir()
    services.training.cancel(run, ANNA)
    clean.tick()
    assert (services.storage.items(ANNA), sessions.visits()) == ([], {})


def test_deleting_takes_what_ends_later_alone(services, hers, clock, lora):
    sessions = Sessions(services.settings.database, clock)
    waits = []
    settings, store, quota = services.settings, services.training.store, services.quota
    library = AdapterLibrary(settings.adapters_dir, settings.shipped_adapters_dir)
    deaf = Workers(settings, alive={os.getpid()}, deaf=True)
    parts = (settings, store, services.manager, services.bases, services.data, library, quota, deaf)
    storage = storage_of(services, sessions, waits.append, TrainingService(*parts))
    stubborn, queued = (ended_run(services, ANNA, state=state) for state in ("STOPPING", "QUEUED"))
    store.update(stubborn, pid=os.getpid(), pid_started_s=None, stopping_s=time.time() + 1e6)
    done = storage.remove_everything(ANNA)
    assert (done.stopping, done.count("upload"), done.count("adapter"), done.count("run")) == (1, 1, 1, 2)
    assert not (settings.runs_dir / queued).exists(), "cancelled, and gone at once"
    assert 11 < sum(waits) < 14
    assert {item.id for item in services.storage.items(ANNA)} == {stubborn}
    clock.now_s += 60
    sessions.seen(ANNA)
    late = adapter_of(services, lora, ANNA, "what_the_run_made")
    new = services.data.keep_uploads([incoming(settings, "new.jsonl")], ANNA)
    os.utime(new.parent, (clock.now_s, clock.now_s))
    store.update(stubborn, state="CANCELLED", adapter=late, pid=None)
    Cleaner(settings, storage, sessions, clock).tick()
    assert [item.name for item in services.storage.items(ANNA)] == ["new.jsonl"]


def test_files_that_pass_through_go_in_any_mode(alone, clock):
    kept_s = {"uploads/gradio": INCOMING_S, "exports": EXPORTED_S, "adapters/.staging": STAGED_S}
    for where, after_s in kept_s.items():
        for name, age_s in (("old", after_s + 1), ("new", after_s - 60)):
            folder = alone.settings.home / where / name
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(b"x")
            os.utime(folder, (clock.now_s - age_s,) * 2)
    cleaner_of(alone, clock)[0].tick()
    left = [[folder.name for folder in (alone.settings.home / where).iterdir()] for where in kept_s]
    assert left == [["new"]] * 3


def test_one_persons_own_things_never_go_by_themselves(alone, hers, clock):
    clean, sessions = cleaner_of(alone, clock)
    sessions.seen(ANNA)
    clock.now_s += 1000 * HOUR
    clean.tick()
    assert len([item for item in alone.storage.items() if item.kind in ("adapter", "run", "upload")]) == 3
    refused("not shared", alone.storage.remove_everything, LOCAL)
