"""What the device is and how much memory it has. Behind a small protocol, so that tests hand in their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from playground.gpu.driver import Driver, NoCuda, NvidiaDriver
from playground.gpu.zero import without_device

RESERVE_SHARE = 0.1
"""Part of the device's memory that stays untouched for the system and the page itself."""


class Device(Protocol):
    """name for a person; total and free memory in bytes at this moment."""

    @property
    def name(self) -> str: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...


class CpuDevice:
    """The machine's processor and memory, within a container's limit where there is one."""

    @property
    def name(self) -> str:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return f"CPU, {cores} {'core' if cores == 1 else 'cores'}"

    @property
    def total_bytes(self) -> int:
        import psutil

        return min(int(psutil.virtual_memory().total), _cgroup("memory.max", "memory/memory.limit_in_bytes"))

    @property
    def free_bytes(self) -> int:
        import psutil

        inside = _cgroup("memory.max", "memory/memory.limit_in_bytes") - _cgroup_used()
        return max(0, min(int(psutil.virtual_memory().available), inside))


class CudaDevice:
    """The first CUDA device. driver: who is asked; None = torch, for where the driver does not answer for itself."""

    def __init__(self, driver: Driver | None = None) -> None:
        self._driver = driver

    @property
    def name(self) -> str:
        if self._driver is not None:
            return self._driver.name
        import torch

        return str(torch.cuda.get_device_name(0))

    @property
    def total_bytes(self) -> int:
        return self._memory()[0]

    @property
    def free_bytes(self) -> int:
        return self._memory()[1]

    def _memory(self) -> tuple[int, int]:
        if self._driver is not None:
            return self._driver.memory()
        import torch

        free, total = torch.cuda.mem_get_info()
        return int(total), int(free)


def has_cuda() -> bool:
    """Whether an NVIDIA driver is loaded; told without importing torch."""
    return os.path.exists("/proc/driver/nvidia/version") or os.path.exists("/dev/nvidiactl")


def computes_bf16() -> bool:
    """Whether the CUDA device multiplies bf16 itself; torch also says yes where it only emulates it, several times slower than fp16."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def find_device(driver: Callable[[], Driver] = NvidiaDriver, there: Callable[[], bool] = has_cuda) -> Device:
    """The device this process computes on. torch is asked only where there may be one and the driver does not answer."""
    if not there() or without_device():
        return CpuDevice()
    try:
        return CudaDevice(driver())
    except NoCuda:
        return CpuDevice()
    except (OSError, AttributeError):  # a container without one of its libraries, or a library without such a function
        import torch

        return CudaDevice() if torch.cuda.is_available() else CpuDevice()


def default_budget(device: Device) -> int:
    """What may be used when nobody set a budget: what is free now, less a reserve."""
    return max(0, int(device.free_bytes - device.total_bytes * RESERVE_SHARE))


_NONE = 1 << 62


def _cgroup(*names: str) -> int:
    for name in names:
        try:
            text = Path("/sys/fs/cgroup", name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(int(text), _NONE)
    return _NONE


def _cgroup_used() -> int:
    used = _cgroup("memory.current", "memory/memory.usage_in_bytes")
    try:  # file cache is given back when it is needed
        stat = Path("/sys/fs/cgroup/memory.stat").read_text()
        cache = int(next(line.split()[1] for line in stat.splitlines() if line.startswith("inactive_file ")))
    except (OSError, StopIteration, ValueError):
        cache = 0
    return 0 if used == _NONE else max(0, used - cache)
