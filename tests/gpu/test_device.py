"""NVIDIA's driver is asked through its own libraries; here stand-ins for these."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch  # before anything is replaced  # noqa: F401

from playground.gpu.device import CpuDevice, NvidiaDevice, find_device

NUMBER = bytes(range(16))
SAME = "00010203-0405-0607-0809-0a0b0c0d0e0f"


class Cuda:
    """libcuda: each function writes where it is told to and answers 0, or ``code``."""

    def __init__(self, code: int = 0, version: int = 13_000) -> None:
        self.cuInit = lambda flags: code
        self.cuInit.__name__ = "cuInit"
        self.cuDriverGetVersion = lambda at: setattr(at._obj, "value", version)
        self.cuDeviceGet = lambda at, ordinal: setattr(at._obj, "value", ordinal)
        self.cuDeviceGetUuid_v2 = lambda at, device: at.__setitem__(slice(0, 16), NUMBER)


class Management(ModuleType):
    """pynvml, which knows one device."""

    class NVMLError(Exception):
        pass

    def __init__(self, known: str) -> None:
        super().__init__("pynvml")
        self.known, self.begun = known, False

    def nvmlInit(self) -> None:  # noqa: N802 - the library's own name
        self.begun = True

    def nvmlDeviceGetHandleByUUID(self, wanted: str) -> str:  # noqa: N802
        if not self.begun or wanted != self.known:
            raise self.NVMLError(wanted)
        return wanted

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return f"H200 {handle[:3]}"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=100, free=90)


@pytest.fixture
def torch_for_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.py").write_text("cuda: str | None = '12.8'\n")
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: found if name == "torch" else find(name, *rest)
    )


@pytest.mark.parametrize("kind", ["GPU", "MIG"])
def test_a_card_or_a_part_of_one_is_found_by_its_id(
    torch_for_cuda: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Cuda())
    monkeypatch.setitem(sys.modules, "pynvml", Management(f"{kind}-{SAME}"))
    card = find_device(there=lambda: True)
    assert isinstance(card, NvidiaDevice)
    assert (card.name, card.total_bytes, card.free_bytes) == (f"H200 {kind}", 100, 90)


@pytest.mark.parametrize(
    ("cuda", "management", "error"),
    [
        (Cuda(100), Management(""), "cuInit answers 100"),
        (Cuda(version=11_000), Management(""), "older than what torch was built for"),
        (Cuda(), Management("GPU-other"), f"MIG-{SAME}"),
        (Cuda(), None, "pynvml"),
    ],
)
def test_where_the_driver_cannot_be_asked_torch_is(
    torch_for_cuda: None, monkeypatch: pytest.MonkeyPatch, cuda: Cuda, management: Management | None, error: str
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda)
    monkeypatch.setitem(sys.modules, "pynvml", management)
    with pytest.raises((OSError, ImportError), match=error):
        NvidiaDevice()
    assert isinstance(find_device(there=lambda: True), CpuDevice), "this torch has no card either"
