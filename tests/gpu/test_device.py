"""The device, asked through stand-ins of NVIDIA's libraries, and cores shared out between chat and a run."""

import ctypes
import importlib.util
import json
import os
import platform
import subprocess
import sys
from subprocess import PIPE
from types import SimpleNamespace

import pytest
import torch  # before anything is replaced

from playground.engine.load import pick_device
from playground.gpu.device import (
    FILE,
    CpuDevice,
    NvidiaDevice,
    Precision,
    find_device,
    other_cards,
    processor,
    usable_cores,
)
from playground.gpu.manager import LINGER_S, LOOK_S, Lanes
from playground.gpu.precision import measure
from playground.settings import PROJECT_ROOT
from playground.training.model import precision
from tests.refused import refused

NUMBER, SAME = bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"


def libcuda(code=0, version=13_000):
    """Each function writes where it is told to and answers 0, or ``code``."""

    def init(flags):  # its name is told
        return code

    return SimpleNamespace(
        cuInit=init,
        cuDriverGetVersion=lambda at: setattr(at._obj, "value", version),
        cuDeviceGet=lambda at, ordinal: setattr(at._obj, "value", ordinal),
        cuDeviceGetCount=lambda at: setattr(at._obj, "value", 2),
        cuDeviceGetUuid_v2=lambda at, device: at.__setitem__(slice(0, 16), NUMBER),
    )


def pynvml(known):
    """It knows one device."""
    return SimpleNamespace(
        NVMLError=LookupError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={known: known}.__getitem__,
        nvmlDeviceGetName=lambda handle: f"H200 {handle[:3]}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=100, free=90),
    )


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """(libcuda, pynvml) are there, and a torch that was built for CUDA 12."""
    (tmp_path / "version.py").write_text("cuda: str | None = '12.8'\n")
    found, find = SimpleNamespace(origin=str(tmp_path / "__init__.py")), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: found if name == "torch" else find(name, *of))

    def install(cuda, management):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda)
        monkeypatch.setitem(sys.modules, "pynvml", management)

    return install


@pytest.mark.parametrize("kind", ["GPU", "MIG"])
def test_a_card_or_a_part_of_one_is_found_by_its_id(installed, kind):
    installed(libcuda(), pynvml(f"{kind}-{SAME}"))
    card = find_device(there=lambda: True)
    assert isinstance(card, NvidiaDevice)
    assert (card.name, card.total_bytes, card.free_bytes) == (f"H200 {kind}", 100, 90)
    assert [one.card for one in other_cards(card)] == [1]
    assert other_cards(CpuDevice()) == []


@pytest.mark.parametrize(
    ("cuda", "management", "error"),
    [
        (libcuda(100), None, "init answers 100"),
        (libcuda(version=11_000), None, "older than what torch was built for"),
        (libcuda(), pynvml("GPU-other"), f"MIG-{SAME}"),
        (libcuda(), None, "pynvml"),
    ],
)
def test_where_the_driver_cannot_be_asked_torch_is(installed, cuda, management, error):
    installed(cuda, management)
    refused(error, NvidiaDevice, error=(OSError, ImportError))
    assert isinstance(find_device(there=lambda: True), CpuDevice), "this torch has no card either"


@pytest.mark.parametrize(
    ("built", "system", "kind", "name"),
    [
        ("hip: str | None = '7.1.0'", "linux", "cuda", "MI300X"),
        ("xpu: str | None = '20250301'", "linux", "xpu", "Arc B580"),
        ("", "darwin", "mps", "Apple GPU"),
        ("", "linux", "cpu", "CPU"),
    ],
)
def test_every_maker_s_card_has_one_answer_everywhere(installed, monkeypatch, tmp_path, built, system, kind, name):
    """torch's own answers stand in for cards that are not here."""
    installed(None, None)
    (tmp_path / "version.py").write_text(f"cuda: str | None = None\n{built}\n")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
    for module in (torch.cuda, torch.xpu):
        monkeypatch.setattr(module, "get_device_name", lambda place: name)
        monkeypatch.setattr(module, "mem_get_info", lambda: (90, 100))
    found = find_device(there=lambda: False)
    assert (found.kind, found.name.partition(",")[0]) == (kind, name)
    assert kind in ("cpu", "mps") or (found.total_bytes, found.free_bytes) == (100, 90)
    assert pick_device()[0].type == kind
    assert (pick_device()[1] == torch.float32) == (kind == "cpu")
    assert precision().compute == (torch.bfloat16 if kind in ("cuda", "xpu") else torch.float32)


@pytest.mark.parametrize(
    ("gain", "chosen"),
    [
        ((2.5, 2.2), ("bf16", "bf16")),
        ((1.2, 2.2), ("fp32", "bf16")),
        ((2.5, 0.2), ("fp32", "fp32")),  # prompts are read in products like those of training
        ((2.5, 1.1), ("bf16", "fp32")),
    ],
)
def test_a_processor_computes_in_what_was_measured_on_it_and_replies_and_training_are_judged_apart(
    tmp_path, gain, chosen
):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 576, "intermediate_size": 1536}))
    kept = {processor(): dict(zip(("chat", "train"), gain, strict=True)), "another": {"chat": 9, "train": 9}}
    (tmp_path / FILE).write_text(json.dumps(kept))
    auto = Precision("auto", tmp_path)
    assert (auto.of(tmp_path), auto.of(tmp_path, "train")) == chosen
    assert auto.weight_bytes(tmp_path) == 4  # in bf16 in two layouts
    assert auto.weight_bytes(tmp_path, "train") == (2 if chosen[1] == "bf16" else 4)
    assert f"{gain[0]} times" in auto.words
    for setting in ("fp32", "bf16", "fp16"):
        said = Precision(setting, tmp_path)
        train = "fp32" if setting == "fp16" else setting
        assert (said.of(tmp_path), said.of(tmp_path, "train"), said.words) == (setting, train, "")
    assert Precision("auto", tmp_path, "cuda").of(tmp_path) == "auto"
    for config in ({"hidden_size": 64, "intermediate_size": 128}, {"n_embd": 768, "quantization_config": {"a": 1}}, []):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert (auto.of(tmp_path), auto.weight_bytes(tmp_path)) == ("fp32", 4)


@pytest.mark.parametrize("before", [None, "{", "[]", json.dumps({processor(): {"chat": "much"}})])
def test_a_processor_is_measured_once_for_all_that_ask_in_a_home(tmp_path, before):
    (tmp_path / "config.json").write_text(json.dumps({"n_embd": 128, "n_inner": 512}))
    if before is not None:
        (tmp_path / FILE).write_text(before)
    first = Precision("auto", tmp_path)
    assert first.words == ""
    chosen = first.of(tmp_path), first.of(tmp_path, "train")
    kept = (tmp_path / FILE).read_text()
    again = Precision("auto", tmp_path)
    assert (again.of(tmp_path), again.of(tmp_path, "train")) == chosen
    assert (tmp_path / FILE).read_text() == kept
    assert again.words
    assert min(measure((64, 128))) > 0


WITHOUT_POSIX = """
import os, psutil, subprocess, sys
import playground.training.model  # and what others import
for name in [name for name in sys.modules if name.startswith(("playground.training", "playground.gpu"))]:
    del sys.modules[name]
sys.modules["resource"] = None
del os.killpg, os.getuid, os.fork, os.sched_getaffinity
from playground.gpu.device import usable_cores
from playground.training.model import held_bytes, limit_memory, peak_memory_bytes
from playground.training.processes import is_alive, stop

forks = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
child = subprocess.Popen([sys.executable, "-c", forks], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert child.stdout.readline() == b"1\\n" and is_alive(child.pid, None)
below = psutil.Process(child.pid).children()[0]
stop(child.pid, hard=True)
child.wait(20), below.wait(20)
assert not is_alive(child.pid, None) and not is_alive(below.pid, None)
limit_memory(1 << 50)
assert usable_cores() > 0 and held_bytes() > 0 and peak_memory_bytes() > 0
"""


def test_without_posix_a_worker_ends_with_its_children_and_memory_is_measured():
    subprocess.run([sys.executable, "-c", WITHOUT_POSIX], cwd=PROJECT_ROOT, timeout=120, check=True)


HOLDER = """
import sys; from pathlib import Path; from playground.gpu.manager import Lanes
lanes = Lanes(Path(sys.argv[1])); lanes.enter('chat'); print('in', flush=True); input()
"""


def test_a_lane_beside_a_busy_one_gets_its_part_and_all_again_a_little_later(tmp_path, clock):
    app, worker = Lanes(tmp_path, 4, clock), Lanes(tmp_path, 4, clock)
    worker.enter("train")
    assert (app.threads("chat"), worker.threads("train")) == (2, 4), "nobody chats"
    app.enter("chat")
    clock.now_s += LOOK_S
    assert (app.threads("chat"), worker.threads("train")) == (2, 2)
    app.leave("chat")
    clock.now_s += LINGER_S / 2
    assert worker.threads("train") == 2, "the conversation may go on"
    clock.now_s += LINGER_S
    assert worker.threads("train") == 4


def test_a_pause_shorter_than_the_look_changes_nothing(tmp_path, clock):
    app, worker = Lanes(tmp_path, 2, clock), Lanes(tmp_path, 2, clock)
    app.leave("chat")  # it had not entered, and enters twice: both harmless
    app.enter("chat")
    app.enter("chat")
    assert worker.threads("train") == 1
    for _ in range(20):
        app.leave("chat")
        app.enter("chat")
        clock.now_s += LOOK_S
        assert worker.threads("train") == 1
    app.leave("chat")
    assert Lanes(tmp_path, 2, clock).threads("train") == 2


def test_a_process_that_was_killed_holds_nothing(tmp_path, clock):
    worker = Lanes(tmp_path, 2, clock)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=PIPE, stdout=PIPE, text=True) as holder:
        assert (holder.stdout.readline(), worker.threads("train")) == ("in\n", 1)
        holder.kill()
    clock.now_s += LINGER_S
    assert worker.threads("train") == 2


def test_where_nothing_can_be_written_everybody_uses_all_cores(tmp_path):
    (tmp_path / "file").touch()
    app, worker = Lanes(tmp_path / "file" / "home", 2), Lanes(tmp_path / "file" / "home", 2)
    app.enter("chat")
    assert worker.threads("train") == 2
    app.leave("chat")
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_that_wait_soon_sleep_unless_a_person_wants_them_otherwise(given, spins):
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, playground; print(os.environ.get('GOMP_SPINCOUNT'))"
    said = subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT_ROOT, env=env | given, text=True)
    assert said.strip() == spins
