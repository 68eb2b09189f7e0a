"""What computes: the device and its memory, ZeroGPU's lent device. torch is imported only where nothing else answers.

On ZeroGPU the app's own process never has the device. What needs it is a function wrapped by ``spaces.GPU``, which runs
in a fork (a daemon: no children) for some seconds; its arguments and results are pickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from playground.library.files import write_json

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


# -- what is computed in -----------------------------------------------------------------------------------------------

# On a GPU that follows from the device; on a processor it is measured when a model is first loaded there. Replies and
# training are judged apart: a reply reads every weight for a few rows, a step of training multiplies hundreds.

Use = Literal["chat", "train"]
Widths = tuple[int, int]
"""Of a model: hidden, and inside the MLP."""
FILE = "precision.json"
LEAST = 1.3
"""Times as fast as fp32 that bf16 must be: it rounds, and timings are short."""
SMALL = 50_000
"""Numbers in a weight below which nothing is measured: what surrounds the products takes longer."""
_measuring = threading.Lock()


class Gain(NamedTuple):
    """Times as fast as in fp32 that bf16 is here: replies, training."""

    chat: float
    train: float


@dataclass(frozen=True)
class Precision:
    """What every part asks: the engine, workers, estimates of memory. setting: as in ``Settings``. home: where a
    measurement is kept, None = nowhere. kind: of the device, as torch names it; "" = not known before it is lent."""

    setting: str = "auto"
    home: Path | None = None
    kind: str = "cpu"

    def of(self, folder: Path, use: Use = "chat") -> str:
        """A key of ``PRECISIONS`` for the model in ``folder``; "auto" where the device decides. Measures at most once,
        about half a second. A GPU trains in what suits it, and fp16 is no precision to train in."""
        if use == "train" and (self.kind != "cpu" or self.setting == "fp16"):
            return "auto" if self.kind != "cpu" else "fp32"
        if self.setting != "auto" or self.kind != "cpu":
            return self.setting
        widths = widths_of(folder)
        if widths is None or widths[0] * widths[1] < SMALL:
            return "fp32"
        gain = self._gain(widths)  # prompts are read in products like those of training
        faster = gain.train >= LEAST if use == "train" else gain.chat >= LEAST and gain.train >= 1
        return "bf16" if faster else "fp32"

    def weight_bytes(self, folder: Path, use: Use = "chat") -> int:
        """Bytes of one weight of a model that stays as it is. Replies in bf16 on a processor keep a second layout."""
        chosen = self.of(folder, use)
        if (chosen, use, self.kind) == ("bf16", "chat", "cpu"):
            return 4
        return 4 if chosen == "fp32" or (chosen == "auto" and self.kind not in ("cuda", "xpu", "mps")) else 2

    @property
    def words(self) -> str:
        """What was measured, for a person; "" where nothing was."""
        found = self._known() if self.setting == "auto" and self.kind == "cpu" else None
        if found is None:
            return ""
        chat, train = (f"{gain:.1f}" for gain in found)
        return f"bf16 measured here at {chat} times the speed of fp32 for replies, {train} for training"

    def _gain(self, widths: Widths) -> Gain:
        with _measuring:
            found = self._known()
            if found is None:
                from playground.gpu.precision import measure

                found = _here[processor()] = measure(widths)
                if self.home is not None:
                    with contextlib.suppress(OSError):
                        self.home.mkdir(parents=True, exist_ok=True)
                        write_json(self.home / FILE, self._kept() | {processor(): found._asdict()})
            return found

    def _known(self) -> Gain | None:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return Gain(**{use: float(value) for use, value in self._kept()[processor()].items()})
        return _here.get(processor()) if self.home is None else None

    def _kept(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            if self.home is not None and isinstance(kept := json.loads((self.home / FILE).read_text()), dict):
                return kept
        return {}


_here: dict[str, Gain] = {}
"""What this process has measured."""


def widths_of(folder: Path) -> Widths | None:
    """None for a model whose config does not tell, or whose weights are packed."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if config.get("quantization_config"):
            return None
        hidden = int(config.get("hidden_size") or config["n_embd"])
        return hidden, int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@cache
def processor() -> str:
    """Stands for this processor with the torch that is installed, which is not imported."""
    about = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        about += [line for line in first if line.startswith(("model name", "flags", "Features"))]
    torch = "none"
    with contextlib.suppress(PackageNotFoundError):
        torch = version("torch")
    return f"{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}, torch {torch}"


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
