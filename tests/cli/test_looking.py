"""``status``, ``runs`` and ``adapters`` look: they say what is so, whoever works in the home, and without torch."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from playground.cli import training
from playground.cli.common import Progress
from playground.cli.device import status
from playground.db import RunStore
from playground.errors import RunFailedError
from playground.gpu.device import CpuDevice, CudaDevice, NoCuda, find_device, torch_built_for
from playground.runs.progress import RunView
from playground.settings import PROJECT_ROOT, Settings
from playground.training.processes import started_s
from playground.verdict.race import RaceView
from playground.verdict.race_store import Entry, Race
from playground.workspace.visitors import Home

ABOUT = {"run": "r1", "owner": "local", "name": "mine", "method": "lora", "state": "QUEUED", "created_s": 1.0}


def test_a_detached_worker_counts_and_a_command_that_works_in_the_home_is_not_waited_for(tmp_path):
    """The worker is this very process, as it were."""
    home = Settings(home=tmp_path / "home")
    store = RunStore(home.database)
    store.add(**ABOUT, steps=9, needs_bytes=7_000_000)
    store.begin("r1", time.time())
    store.update("r1", pid=os.getpid(), pid_started_s=started_s(os.getpid()))
    (home.runs_dir / "r1").mkdir(parents=True)
    state, words, code = status(home, None)
    assert (code, state["used_bytes"], "running: Training mine" in words) == (0, 7_000_000, True)
    assert [lease["label"] for lease in state["leases"]] == ["Training mine"]
    owner = Home.take(home)  # it was not kept
    try:
        state, _, code = status(home, None)
    finally:
        owner.release()
    assert (code, state["used_bytes"], RunStore(home.database).get("r1").state) == (0, 7_000_000, "RUNNING")


LOOK = """
import sys
from playground.cli.main import main
from playground.gpu.device import CudaDevice, default_budget, find_device
from playground.methods import all_methods

assert all_methods()
for verb in ("runs", "races", "adapters", "status"):
    assert main([verb]) == 0
card = type("Card", (CudaDevice,), {"name": "H200", "memory": lambda self: (10, 9)})
device = find_device(card, lambda: True)
assert (device.name, device.total_bytes, device.free_bytes, default_budget(device)) == ("H200", 10, 9, 8)
assert not {"torch", "transformers", "peft", "gradio"} & sys.modules.keys()
"""


def test_looking_never_imports_torch_and_knows_a_card_without_it(tmp_path):
    env = os.environ | {"PLAYGROUND_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", LOOK], cwd=PROJECT_ROOT, env=env, timeout=60, check=True)


def test_where_torch_will_find_no_card_there_is_none_and_what_it_was_built_for_is_read_off_its_files():
    import torch

    def refuses():
        raise NoCuda("no device")

    assert isinstance(find_device(refuses, lambda: True), CpuDevice)
    assert isinstance(find_device(CudaDevice, lambda: False), CpuDevice)
    assert torch_built_for()[0] == next((kind for kind in ("cuda", "hip", "xpu") if getattr(torch.version, kind)), "")


WAITS = RunView("r1", "mine", "QUEUED", "lora", 0, 9, None, None, None, 1.0)
RACE = Race("q1", "local", "two", "rows.csv", 1.0, "RUNNING", "", 2, None, (Entry("lora", "r1", state="DONE"),))


def test_a_detached_run_that_waits_says_who_starts_it(capsys):
    services = SimpleNamespace(training=SimpleNamespace(show=lambda run: WAITS, cluster=None), close=lambda: None)
    found, words, code = training.follow_runs(services, ["r1"], False, True, Progress())
    assert (found["state"], code, "r1 is QUEUED" in words) == ("QUEUED", 0, True)
    told = capsys.readouterr().err
    assert "r1 waits. Another process works in this home and starts it" in told
    assert "python -m playground runs resume r1" in told


@pytest.mark.parametrize(("owner", "free"), [(False, [False, False, True]), (True, [])])
def test_a_race_is_measured_by_whoever_follows_it_when_its_owner_is_gone(owner, free):
    """free: whether the home can be taken, at each time it is tried, and not again once one owns it."""
    tries, measured = iter(free), [owner]

    def view(state="RUNNING"):
        return RaceView(replace(RACE, state=state), 1.0, 0, 1)

    def follow(id):
        yield from [view()] * 4
        yield view("DONE" if any(measured) else "CANCELLED")

    race = SimpleNamespace(show=lambda id: view(), follow=follow, start_measuring=lambda: measured.append(True))
    home = SimpleNamespace(take_over=lambda: next(tries))
    services = SimpleNamespace(training=home, race=race, close=lambda: None)
    found, _, code = training.follow_race(services, "q1", Progress(), owner=owner)
    assert (found["state"], code, measured.count(True), [*tries]) == ("DONE", 0, 1, [])


def test_a_waiting_run_is_resumed_as_it_is(tmp_path):
    """Nobody looks after it: ``runs resume`` does, and does not take it for one that has ended."""
    settings = Settings(home=tmp_path / "home")
    RunStore(settings.database).add(**ABOUT, steps=9, needs_bytes=10**15)
    with pytest.raises(RunFailedError, match="budget can be free"):  # requested from a device that can never hold it
        training.runs(settings, SimpleNamespace(action="resume", run="r1", detach=False))
