"""``status``, ``runs`` and ``adapters`` look: they say what is so, whoever works in the home, and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.cli import training
from playground.cli.common import Progress
from playground.cli.device import status
from playground.db import RunStore
from playground.errors import RunFailedError
from playground.gpu.device import CpuDevice, CudaDevice, NoCuda, find_device, torch_cuda
from playground.runs.progress import RunView
from playground.services import build_services
from playground.settings import PROJECT_ROOT, Settings
from playground.training.processes import started_s
from playground.verdict.race import RaceView
from playground.verdict.race_store import Entry, Race
from playground.workspace.visitors import Home


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Where a detached worker trains, as it were: this very process."""
    settings = Settings(home=tmp_path / "home")
    store = RunStore(settings.database)
    about = {"run": "r1", "owner": "local", "name": "mine", "method": "lora", "state": "QUEUED"}
    store.add(**about, created_s=1.0, steps=9, needs_bytes=7_000_000)
    store.begin("r1", time.time())
    store.update("r1", pid=os.getpid(), pid_started_s=started_s(os.getpid()))
    (settings.runs_dir / "r1").mkdir(parents=True)
    return settings


def test_a_detached_worker_counts_and_a_command_that_works_in_the_home_is_not_waited_for(home: Settings) -> None:
    state, words, code = status(home, None)
    assert code == 0
    assert [lease["label"] for lease in state["leases"]] == ["Training mine"]
    assert state["used_bytes"] == 7_000_000
    assert "running: Training mine" in words
    owner = Home.take(home)  # it was not kept
    try:
        state, _, code = status(home, None)
    finally:
        owner.release()
    assert (code, state["used_bytes"]) == (0, 7_000_000)
    assert RunStore(home.database).get("r1").state == "RUNNING"


class Card(CudaDevice):
    name = "H200"

    def memory(self) -> tuple[int, int]:
        return 10, 9


def test_looking_never_imports_torch_and_knows_a_card_without_it(tmp_path: Path) -> None:
    code = """
import sys
from playground.cli.main import main
from playground.gpu.device import CudaDevice, default_budget, find_device

class Card(CudaDevice):
    name = "H200"

    def memory(self):
        return 10, 9

for verb in ("runs", "races", "adapters", "status"):
    assert main([verb]) == 0
device = find_device(Card, lambda: True)
assert (device.name, device.total_bytes, device.free_bytes, default_budget(device)) == ("H200", 10, 9, 8)
sys.exit("torch" in sys.modules)
"""
    env = os.environ | {"PLAYGROUND_HOME": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, env=env, timeout=60).returncode == 0


def test_where_torch_will_find_no_card_there_is_none() -> None:
    def refuses() -> Any:
        raise NoCuda("no device")

    assert isinstance(find_device(refuses, lambda: True), CpuDevice)
    assert isinstance(find_device(Card, lambda: False), CpuDevice)
    assert isinstance(find_device(Card, lambda: True), CudaDevice)


def test_what_torch_was_built_for_is_read_off_its_files() -> None:
    import torch

    assert torch_cuda() == int((torch.version.cuda or "0").partition(".")[0])


# -- runs and races that wait while another process owns the home -----------------------------------------------------

WAITS = RunView("r1", "mine", "QUEUED", "lora", 0, 9, None, None, None, 1.0)
RACE = Race("q1", "local", "two", "rows.csv", 1.0, "RUNNING", "", 2, None, (Entry("lora", "r1", state="DONE"),))


class Training:
    """free: whether the home can be taken, at each time it is tried."""

    def __init__(self, *free: bool) -> None:
        self.free, self.tried = list(free), 0

    def show(self, run: str) -> RunView:
        return WAITS

    def take_over(self) -> bool:
        self.tried += 1
        return self.free.pop(0)


class Races:
    def __init__(self, measures: bool = False) -> None:
        self.measures = measures

    def show(self, id: str) -> RaceView:
        return RaceView(RACE, 1.0, 0, 1)

    def follow(self, id: str) -> Iterator[RaceView]:
        yield from [self.show(id)] * 4
        yield replace(self.show(id), race=replace(RACE, state="DONE" if self.measures else "CANCELLED"))

    def start_measuring(self) -> None:
        assert not self.measures, "once"
        self.measures = True


def test_a_detached_run_that_waits_says_who_starts_it(capsys: pytest.CaptureFixture[str]) -> None:
    services: Any = SimpleNamespace(training=Training(), close=lambda: None)
    found, words, code = training.follow_run(services, "r1", False, True, Progress())
    assert (found["state"], code) == ("QUEUED", 0)
    assert "r1 is QUEUED" in words
    told = capsys.readouterr().err
    assert "r1 waits. Another process works in this home and starts it" in told
    assert "python -m playground runs resume r1" in told


@pytest.mark.parametrize(("owner", "free"), [(False, [False, False, True]), (True, [])])
def test_a_race_is_measured_by_whoever_follows_it_when_its_owner_is_gone(owner: bool, free: list[bool]) -> None:
    services: Any = SimpleNamespace(training=Training(*free), race=Races(owner), close=lambda: None)
    found, _, code = training.follow_race(services, "q1", Progress(), owner=owner)
    assert (found["state"], code) == ("DONE", 0)
    assert services.training.tried == len(free), "and not again once it owns the home"


def test_a_waiting_run_is_resumed_as_it_is(tmp_path: Path) -> None:
    """Nobody looks after it: ``runs resume`` does, and does not take it for one that has ended."""
    settings = Settings(home=tmp_path / "home")
    about = {"run": "r1", "owner": "local", "name": "mine", "method": "lora", "state": "QUEUED"}
    build_services(settings).training.store.add(**about, created_s=1.0, steps=9, needs_bytes=10**15)
    with pytest.raises(RunFailedError, match="budget can be free"):  # requested from a device that can never hold it
        training.runs(settings, SimpleNamespace(action="resume", run="r1", detach=False))
