"""``status``, ``runs`` and ``adapters`` look: they say what is so, whoever works in the home, and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from playground.cli.device import status
from playground.db import RunStore
from playground.gpu.device import CpuDevice, CudaDevice, NoCuda, find_device, torch_cuda
from playground.settings import PROJECT_ROOT, Settings
from playground.training.processes import started_s
from playground.workspace.visitors import Home


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Where a detached worker trains, as it were: this very process."""
    settings = Settings(home=tmp_path / "home")
    store = RunStore(settings.database)
    store.add(
        run="r1",
        owner="local",
        name="mine",
        method="lora",
        state="QUEUED",
        created_s=1.0,
        steps=9,
        needs_bytes=7_000_000,
    )
    store.begin("r1", time.time())
    store.update("r1", pid=os.getpid(), pid_started_s=started_s(os.getpid()))
    (settings.runs_dir / "r1").mkdir(parents=True)
    return settings


def test_a_detached_worker_counts_where_nobody_owns_the_home(home: Settings) -> None:
    state, words, code = status(home, None)
    assert code == 0
    assert [lease["label"] for lease in state["leases"]] == ["Training mine"]
    assert state["used_bytes"] == 7_000_000
    assert "running: Training mine" in words
    Home.take(home).release()  # it is not kept


def test_a_command_that_works_in_the_home_is_not_waited_for(home: Settings) -> None:
    owner = Home.take(home)
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


def test_a_card_is_known_without_torch() -> None:
    code = """
import sys
from playground.gpu.device import CudaDevice, default_budget, find_device

class Card(CudaDevice):
    name = "H200"

    def memory(self):
        return 10, 9

device = find_device(Card, lambda: True)
assert (device.name, device.total_bytes, device.free_bytes, default_budget(device)) == ("H200", 10, 9, 8)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, timeout=60).returncode == 0


def test_where_torch_will_find_no_card_there_is_none() -> None:
    def refuses() -> Any:
        raise NoCuda("no device")

    assert isinstance(find_device(refuses, lambda: True), CpuDevice)
    assert isinstance(find_device(Card, lambda: False), CpuDevice)
    assert isinstance(find_device(Card, lambda: True), CudaDevice)


def test_what_torch_was_built_for_is_read_off_its_files() -> None:
    import torch

    assert torch_cuda() == int((torch.version.cuda or "0").partition(".")[0])
