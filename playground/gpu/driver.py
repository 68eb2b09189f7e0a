"""What NVIDIA's driver says of the first CUDA device, asked through its own libraries: no torch, no context, no memory taken."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import re
import uuid
from pathlib import Path
from typing import Any, Protocol

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
        """Raises NoCuda where there is no device that the installed torch can use, OSError where the driver cannot be asked."""
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
        """The same device as the management library knows it: both give it the same id, of a card or of a part of one."""
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
    """The version of CUDA, before the point, that the installed torch was built for; 0 = none. Read from its files, not imported."""
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
