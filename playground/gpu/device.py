"""What the device is and how much memory it has. Behind a small protocol, so that tests hand in their own.

What NVIDIA's driver says of the first CUDA device, asked through its own libraries: no torch, no context, no memory
taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from playground.gpu.zero import without_device

_CUDA, _MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
_NAME_BYTES = 256
_NO_DEVICE = 100


class Driver(Protocol):
    """name for a person; memory: total and free bytes at this moment."""

    @property
    def name(self) -> str: ...
    def memory(self) -> tuple[int, int]: ...


class NoCuda(OSError):
    """torch will not find a CUDA device here either."""


class NvidiaDriver:
    """The first device that this process may see (``CUDA_VISIBLE_DEVICES`` counts), or a part of one (MIG)."""

    def __init__(self) -> None:
        """Raises NoCuda where there is no device that the installed torch can use, OSError where the driver cannot be
        asked."""
        if not torch_cuda():
            raise NoCuda("torch was built without CUDA")
        try:
            self._cuda = ctypes.CDLL(_CUDA)
        except OSError as error:
            raise NoCuda(str(error)) from error
        _call(self._cuda.cuInit, 0)
        version = ctypes.c_int()
        _call(self._cuda.cuDriverGetVersion, ctypes.byref(version))
        if version.value // 1000 < torch_cuda():
            raise OSError("the driver is older than what torch was built for")
        self._device = ctypes.c_int()
        _call(self._cuda.cuDeviceGet, ctypes.byref(self._device), 0)
        self._management = ctypes.CDLL(_MANAGEMENT)
        _call(self._management.nvmlInit_v2)
        self._handle = self._found()

    @property
    def name(self) -> str:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        _call(self._cuda.cuDeviceGetName, text, _NAME_BYTES, self._device)
        return text.value.decode(errors="replace")

    def memory(self) -> tuple[int, int]:
        total, now = ctypes.c_size_t(), _Memory()
        _call(self._cuda.cuDeviceTotalMem_v2, ctypes.byref(total), self._device)
        _call(self._management.nvmlDeviceGetMemoryInfo, self._handle, ctypes.byref(now))
        return total.value, min(total.value, now.free)

    def _found(self) -> Any:
        """The same device as the management library knows it: both give it the same id, of a card or of a part of
        one."""
        number = (ctypes.c_ubyte * 16)()
        _call(self._cuda.cuDeviceGetUuid_v2, number, self._device)
        handle = ctypes.c_void_p()
        for kind in ("MIG", "GPU"):
            with contextlib.suppress(OSError):
                wanted = f"{kind}-{uuid.UUID(bytes=bytes(number))}".encode()
                _call(self._management.nvmlDeviceGetHandleByUUID, wanted, ctypes.byref(handle))
                return handle
        raise OSError("the driver does not know its own device")


class _Memory(ctypes.Structure):
    """``nvmlMemory_t``, in bytes."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def torch_cuda() -> int:
    """CUDA's major version that the installed torch was built for; 0 = none. Read from its files, not imported."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return 0
    try:
        text = Path(found.origin).with_name("version.py").read_text()
    except OSError:
        return 0
    said = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+)", text, re.MULTILINE)
    return int(said[1]) if said else 0


def _call(function: Any, *values: Any) -> None:
    if code := function(*values):
        raise (NoCuda if code == _NO_DEVICE else OSError)(f"{function.__name__} answers {code}")


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
    """Whether the CUDA device computes bf16 natively; where torch emulates it, it is slower than fp16."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def find_device(driver: Callable[[], Driver] = NvidiaDriver, there: Callable[[], bool] = has_cuda) -> Device:
    """The device this process computes on. torch is asked only where the driver does not answer."""
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
