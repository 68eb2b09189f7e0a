"""What computes: the device and its memory, ZeroGPU's lent device. torch is imported only where nothing else answers.

On ZeroGPU the app's own process never has the device. What needs it is a function wrapped by ``spaces.GPU``, which runs
in a fork (a daemon: no children) for some seconds; its arguments and results are pickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import multiprocessing
import os
import platform
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

RESERVE_SHARE = 0.1
"""Part of the device's memory that stays untouched for the system and the page itself."""
_NO_DEVICE = 100


class Device:
    """name for a person; total and free memory in bytes at this moment. kind: torch's name of what computes."""

    kind = "cpu"

    @property
    def name(self) -> str:
        raise NotImplementedError

    def memory(self) -> tuple[int, int]:
        raise NotImplementedError

    @property
    def total_bytes(self) -> int:
        return self.memory()[0]

    @property
    def free_bytes(self) -> int:
        return self.memory()[1]


class CudaDevice(Device):
    """A CUDA device that this process may see, the first unless told, as torch tells, whose context takes some of its
    memory; AMD's are some to torch (ROCm)."""

    kind = "cuda"

    def __init__(self, card: int = 0) -> None:
        self.card = card

    @property
    def count(self) -> int:
        """How many this process may see."""
        import torch

        return int(torch.cuda.device_count())

    @property
    def name(self) -> str:
        import torch

        return str(torch.cuda.get_device_name(self.card))

    def memory(self) -> tuple[int, int]:
        import torch

        free, total = torch.cuda.mem_get_info(self.card) if self.card else torch.cuda.mem_get_info()
        return int(total), int(free)


class NoCuda(OSError):
    """torch will not find a CUDA device here either."""


class NvidiaDevice(CudaDevice):
    """A device that this process may see (``CUDA_VISIBLE_DEVICES`` counts), or a part of one (MIG), as NVIDIA's driver
    knows it: no torch, no context, no memory taken."""

    def __init__(self, card: int = 0) -> None:
        """Raises NoCuda where torch has no device to use; OSError, ImportError where the driver cannot be asked."""
        super().__init__(card)
        kind, major = torch_built_for()
        if kind != "cuda":
            raise NoCuda("torch was built without CUDA")
        try:
            cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError as error:
            raise NoCuda(str(error)) from error
        _call(cuda.cuInit, 0)
        version, device, number = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
        _call(cuda.cuDriverGetVersion, ctypes.byref(version))
        if version.value // 1000 < major:
            raise OSError("the driver is older than what torch was built for")
        _call(cuda.cuDeviceGet, ctypes.byref(device), card)
        self._cuda = cuda
        _call(cuda.cuDeviceGetUuid_v2, number, device)  # the management library orders devices otherwise
        import pynvml

        self._nvml = pynvml
        same, find = uuid.UUID(bytes=bytes(number)), pynvml.nvmlDeviceGetHandleByUUID
        try:  # both libraries give a device the same id, of a card or of a part of one
            pynvml.nvmlInit()
            with contextlib.suppress(pynvml.NVMLError):
                self._handle = find(f"GPU-{same}")
                return
            self._handle = find(f"MIG-{same}")
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    @property
    def count(self) -> int:
        found = ctypes.c_int()
        _call(self._cuda.cuDeviceGetCount, ctypes.byref(found))
        return found.value

    @property
    def name(self) -> str:
        return str(self._nvml.nvmlDeviceGetName(self._handle))

    def memory(self) -> tuple[int, int]:
        now = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return int(now.total), int(now.free)


class IntelDevice(Device):
    """The first XPU of Intel's, as torch tells."""

    kind = "xpu"

    @property
    def name(self) -> str:
        import torch

        return str(torch.xpu.get_device_name(0))

    def memory(self) -> tuple[int, int]:
        import torch

        free, total = torch.xpu.mem_get_info()
        return int(total), int(free)


def torch_built_for() -> tuple[str, int]:
    """What the installed torch computes on beside processors, cuda, hip (ROCm), xpu, mps, or "", and the major version
    of that. Read from its files, not imported."""
    found, text = importlib.util.find_spec("torch"), ""
    if found is not None and found.origin is not None:
        with contextlib.suppress(OSError):
            text = Path(found.origin).with_name("version.py").read_text()
    if said := re.search(r"^(cuda|hip|xpu)\b[^=\n]*=\s*['\"](\d+)", text, re.MULTILINE):
        return said[1], int(said[2])
    return "mps" if found is not None and (sys.platform, platform.machine()) == ("darwin", "arm64") else "", 0


def _call(function: Any, *values: Any) -> None:
    if code := function(*values):
        raise (NoCuda if code == _NO_DEVICE else OSError)(f"{function.__name__} answers {code}")


class CpuDevice(Device):
    """The machine's processor and memory, within a container's limit where there is one."""

    @property
    def name(self) -> str:
        cores = _usable_cpus()
        return f"CPU, {cores} {'core' if cores == 1 else 'cores'}"

    def memory(self) -> tuple[int, int]:
        here, limit = psutil.virtual_memory(), _cgroup("memory.max", "memory/memory.limit_in_bytes") or 1 << 62
        used, cache = _cgroup("memory.current", "memory/memory.usage_in_bytes") or 0, 0
        with contextlib.suppress(OSError, StopIteration, ValueError):  # file cache is given back when it is needed
            stat = Path("/sys/fs/cgroup/memory.stat").read_text()
            cache = int(next(line.split()[1] for line in stat.splitlines() if line.startswith("inactive_file ")))
        return min(int(here.total), limit), max(0, min(int(here.available), limit - max(0, used - cache)))


class AppleDevice(Device):
    """Apple's GPU, whose memory is the machine's."""

    kind = "mps"

    @property
    def name(self) -> str:
        return "Apple GPU"

    def memory(self) -> tuple[int, int]:
        return CpuDevice().memory()


GPUS = (CudaDevice, IntelDevice, AppleDevice)
FAST = (CudaDevice, IntelDevice)
"""On these a run that teaches content takes minutes."""


def has_cuda() -> bool:
    """Whether an NVIDIA driver may be there, also Windows' own, which WSL hands on; told without importing torch."""
    traces = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
    return sys.platform == "win32" or any(os.path.exists(one) for one in traces)


def accelerator() -> str:
    """What torch computes on in this process: a kind of ``Device``. Engine and workers ask this; the session manager's
    ``find_device`` gives the same without importing torch. Of kinds that no device here has, and on ZeroGPU in the app
    itself, the processor."""
    import torch

    if without_device():
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found is not None and found.type in ("xpu", "mps") else "cpu"


def computes_bf16() -> bool:
    """Whether the CUDA device computes bf16 natively; where torch emulates it, it is slower than fp16."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on the device. From memory that is pinned the host does not wait for all that the device has yet to
    do, as it would otherwise; CUDA's allocator keeps that memory until the copy is made."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def find_device(card: Callable[[], CudaDevice] = NvidiaDevice, there: Callable[[], bool] = has_cuda) -> Device:
    """The device this process computes on. torch is asked only where the driver does not answer, and where it was
    built for a card of another maker."""
    if without_device():
        return CpuDevice()
    if there():
        try:
            return card()
        except NoCuda:
            pass
        except (OSError, AttributeError, ImportError):  # one of its libraries is not there, or has no such function
            return _as_torch_tells()
    return _as_torch_tells() if torch_built_for()[0] in ("hip", "xpu", "mps") else CpuDevice()


def other_cards(first: Device) -> list[Device]:
    """The CUDA devices of this process after the first; none where they cannot be asked."""
    try:
        return [type(first)(card) for card in range(1, first.count)] if isinstance(first, CudaDevice) else []
    except (OSError, AttributeError, RuntimeError):
        return []


def _as_torch_tells() -> Device:
    kind = accelerator()
    return next((one() for one in GPUS if one.kind == kind), CpuDevice())


def default_budget(device: Device) -> int:
    """What may be used when nobody set a budget: what is free now, less a reserve."""
    return max(0, int(device.free_bytes - device.total_bytes * RESERVE_SHARE))


def _cgroup(*names: str) -> int | None:
    """The number in the first of these files of the container that is there."""
    for name in names:
        with contextlib.suppress(OSError):
            if (text := Path("/sys/fs/cgroup", name).read_text().strip()).isdigit():
                return int(text)
    return None


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def usable_cores() -> int:
    """Cores that this process may use; two threads of one core count once."""
    return min(_usable_cpus(), psutil.cpu_count(logical=False) or _usable_cpus())


# -- ZeroGPU -----------------------------------------------------------------------------------------------------------

Wrap = Callable[..., Any]
"""``spaces.GPU``, or something that behaves like it: ``wrap(duration=seconds_of)(task)``."""
_main: int | None = None


def is_zero(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a ZeroGPU Space, as the ``spaces`` package itself tells."""
    return env.get("SPACES_ZERO_GPU", "").strip().lower() in ("1", "t", "true")


def prepare() -> Wrap | None:
    """On a ZeroGPU Space: ``spaces.GPU``; else None. Call it before anything imports torch."""
    if not is_zero():
        return None
    import spaces

    stay_on_cpu()
    wrap: Wrap = spaces.GPU
    return wrap


def stay_on_cpu() -> None:
    """This process is the one that never has the device; its forks may."""
    global _main
    _main = os.getpid()


def without_device() -> bool:
    """Whether this process must not touch CUDA: on ZeroGPU torch claims to have it before it is lent."""
    return _main == os.getpid()


def settle_fork() -> None:
    """First thing in a fork, which has none of its parent's threads: a pool of them, or a finaliser of the parent's
    garbage, would wait for them without end. Elsewhere it does nothing."""
    if multiprocessing.parent_process() is not None:
        gc.freeze()  # what came from the parent is never collected here
        import torch

        torch.set_num_threads(1)
