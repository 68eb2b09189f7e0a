"""Runs that are killed, frozen, hung, starved or cancelled, a few of each; tests/soak makes the long form of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from playground.db import ENDED, RunStore
from playground.errors import DiskFullError, InputError
from playground.runs.progress import Patience
from playground.services import Services, build_services
from playground.settings import PROJECT_ROOT, Settings
from playground.training.checkpoint import newest_complete
from playground.training.events import EventReader
from tests.soak import torture
from tests.soak.torture import request, wait_for, wait_state, workers


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model gains nothing from more, and workers of several tests share the machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_worker_killed_while_it_saves_and_elsewhere(services: Services, tmp_path: Path) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(1)
    expected = torture.reference_loss(services, file)
    rounds = [torture.kill_worker(services, file, chance, in_save=in_save) for in_save in (True, False)]
    assert [one.loss for one in rounds] == pytest.approx([expected] * 2, abs=1e-6)
    assert sum(one.during == "save" for one in rounds) >= 1
    assert max(one.noticed_s for one in rounds) < Patience().stall_floor_s


@pytest.mark.parametrize(("moment", "worker_too"), [("marked", False), ("running", True)])
def test_an_app_killed(settings: Settings, tmp_path: Path, moment: str, worker_too: bool) -> None:
    found = torture.kill_app(settings, torture.rows_file(tmp_path), random.Random(2), moment, worker_too=worker_too)
    assert found.true_s < 30


def test_the_real_app_killed_and_opened_again(settings: Settings, tmp_path: Path) -> None:
    """``python -m playground serve``: the worker goes on alone and is found by the next app."""
    onlooker = build_services(settings)
    env = os.environ | {"PLAYGROUND_HOME": str(settings.home), "PLAYGROUND_BASE": settings.base}
    command = [sys.executable, "-m", "playground", "serve"]
    app = subprocess.Popen(command, cwd=PROJECT_ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: onlooker.training.store.supervisor(), "supervised")
        run = onlooker.training.start(request(torture.rows_file(tmp_path), steps=4000))

        def training() -> int | None:
            view = onlooker.training.show(run)
            assert view.state not in ENDED, view
            return view.pid if view.step >= 1 else None

        pid = wait_for(training, "training", within_s=400)
    finally:
        app.kill()
        app.wait()
    again = build_services(settings)
    again.training.start_supervisor()
    try:
        assert again.training.show(run).pid == pid
        assert [lease.lane for lease in again.manager.leases()] == ["train"]
        again.training.cancel(run)
        assert wait_state(again, run, *ENDED).state == "CANCELLED"
        assert again.manager.leases() == []
        assert not workers(settings.home)
    finally:
        again.close()


@pytest.mark.parametrize("during", ["queued", "loading", "running", "saving"])
def test_cancelled(services: Services, tmp_path: Path, during: str) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(during)
    for _ in range(2 if during == "queued" else 1):
        assert torture.cancel(services, file, chance, during).ended_s < 60


def test_memory_that_runs_out_is_told_with_a_setting_that_works(services: Services, tmp_path: Path) -> None:
    torture.starve(services, tmp_path, 32, 36, 1_500_000_000)


def test_a_frozen_worker_is_noticed(services: Services, tmp_path: Path) -> None:
    """Within ten seconds, as the soak measures; here a busy machine may take longer, but never as long as one that
    still computes."""
    assert torture.freeze(services, torture.rows_file(tmp_path), random.Random(3)) < Patience().stall_floor_s


def test_a_hung_worker_is_noticed(services: Services, tmp_path: Path) -> None:
    assert torture.hang(services, torture.rows_file(tmp_path), random.Random(4)) < Patience().stall_floor_s


def test_a_run_cancelled_by_another_process_gives_back_its_place(services: Services, tmp_path: Path) -> None:
    """What the owner asked the device for goes with the run, or the next one would wait for ever."""
    file = torture.rows_file(tmp_path)
    first, second, third = (services.training.start(request(file, steps=4000)) for _ in range(3))
    wait_state(services, first, "RUNNING")
    other = build_services(services.settings)
    other.training.cancel(second)
    other.training.cancel(first)
    wait_state(services, first, "CANCELLED")
    assert wait_state(services, third, "RUNNING").place == 0
    services.training.cancel(third)
    wait_state(services, third, "CANCELLED")
    assert services.manager.leases() == services.manager.queue() == []


def test_waiting_runs_are_started_in_the_order_they_were_moved_to(services: Services, tmp_path: Path) -> None:
    file = torture.rows_file(tmp_path)
    busy = services.training.start(request(file, steps=4000))
    one, two, three = (services.training.start(request(file, steps=1)) for _ in range(3))
    assert [services.training.show(run).place for run in (one, two, three)] == [1, 2, 3]
    build_services(services.settings).training.move(three, "first")  # another process: the owner honours it
    services.training.move(one, "down")
    assert [services.training.show(run).place for run in (three, two, one)] == [1, 2, 3]
    assert [request.label for request in services.manager.queue()] == ["Training t"] * 3
    services.training.cancel(busy)
    for run in (one, two, three):
        assert wait_state(services, run, *ENDED).state == "DONE"
    started = [services.training.store.get(run).started_s for run in (three, two, one)]
    assert started == sorted(started)


def test_a_worker_that_is_not_wanted_does_not_begin(services: Services, settings: Settings, tmp_path: Path) -> None:
    """Too late, or beside another: neither touches the run."""
    run = services.training.start(request(torture.rows_file(tmp_path), steps=4000))
    view = wait_for(lambda: (view := services.training.show(run)).step >= 1 and view, "training")
    place, before = settings.runs_dir / run, len(EventReader(settings.runs_dir / run).read())
    command = [sys.executable, "-m", "playground.training.worker", str(place), str(settings.database)]
    for attempt in ("1", "7"):
        assert subprocess.run([*command, attempt], capture_output=True, timeout=60, cwd=PROJECT_ROOT).returncode == 3
    services.training.cancel(run)
    wait_state(services, run, "CANCELLED")
    ended = EventReader(place).read()
    assert [event["event"] for event in ended].count("started") == 1
    assert len(ended) >= before
    assert subprocess.run([*command, "1"], capture_output=True, timeout=60, cwd=PROJECT_ROOT).returncode == 3
    assert len(EventReader(place).read()) == len(ended)
    assert view.pid not in workers(settings.home)


# -- the disk ------------------------------------------------------------------------------------------------------


def test_files_that_may_not_grow(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files, given to the worker by a wrapper around Python: no right of root is needed."""
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nulimit -f 400\nexec {sys.executable} "$@"\n')  # blocks of 512 or 1024 bytes
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    run = services.training.start(request(torture.rows_file(tmp_path), method="full"))
    view = wait_state(services, run, *ENDED)
    assert view.state == "FAILED"
    assert "The disk is full" in view.error
    assert "resume" in view.error
    assert services.manager.leases() == []
    monkeypatch.undo()
    services.training.resume(run)
    assert wait_state(services, run, *ENDED).state == "DONE"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with torture.small_disk(tmp_path / "small") as folder:
            yield folder
    except PermissionError:
        pytest.skip("mounting a small disk needs root")


def test_a_disk_that_fills_while_a_run_writes(small_disk: Path, settings: Settings, tmp_path: Path) -> None:
    built = build_services(replace(settings, home=small_disk))
    built.training.start_supervisor()
    try:
        asked = request(torture.rows_file(tmp_path), steps=400)
        run = built.training.start(asked)
        wait_for(lambda: built.training.show(run).step > torture.SAVE_STEPS, "past its first checkpoint")
        ballast = torture.fill(small_disk)
        view = wait_state(built, run, *ENDED)
        assert view.state == "FAILED"
        assert "The disk is full" in view.error
        assert newest_complete(small_disk / "runs" / run) is not None, "the last complete checkpoint still loads"
        assert built.manager.leases() == []
        torture.fill(small_disk)  # what the run had half written is gone again
        with pytest.raises((InputError, DiskFullError), match="ree some space"):
            built.training.start(asked)
        assert built.training.show(run).error == view.error, "the app goes on"
        ballast.unlink()
        wait_for(lambda: build_services(built.settings).training.show(run).error == view.error, "written down")
        built.training.resume(run)
        wait_for(lambda: built.training.show(run).step > view.resume_step, "going on")
        built.training.cancel(run)
        assert wait_state(built, run, *ENDED).state == "CANCELLED"
    finally:
        built.close()


def test_a_record_that_cannot_be_written_is_kept_in_mind(small_disk: Path) -> None:
    store = RunStore(small_disk / "p.sqlite")
    for number in range(40):
        store.add(
            run=f"r{number}", owner="a", name="n", method="lora", state="RUNNING", created_s=1.0, steps=5, needs_bytes=1
        )
    ballast = torture.fill(small_disk)
    words = "y" * 1_000_000  # more than the file has room for
    with pytest.raises(DiskFullError, match="disk are free"):
        store.update("r0", error=words)
    store.update_or_defer("r1", state="FAILED", error=words)
    assert (store.get("r1").state, len(store.active())) == ("FAILED", 39)
    assert RunStore(small_disk / "p.sqlite").get("r1").state == "RUNNING"
    ballast.unlink()
    store.flush()
    assert RunStore(small_disk / "p.sqlite").get("r1").error == words
