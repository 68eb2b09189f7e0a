"""Start, recognise (by pid and start time) and stop worker processes, and what memory this one takes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from playground.settings import PROJECT_ROOT
from playground.training.heartbeat import DISK_FULL_FILE
from playground.training.heartbeat import FILE as HEARTBEAT

LOG = "worker.log"
ATTEMPT = "-- attempt"
"""Begins the line between two workers of one run in their common log."""
LOG_BYTES = 32768
PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    *("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "CUDA_DEVICE_ORDER", "CUDA_HOME", "HF_HOME", "HF_HUB_OFFLINE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"),
)
"""The only variables a worker inherits, so that no token reaches it."""
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc keeps freed blocks from step to step: measured 1.3 times faster, and up to twice the memory."""
LOW_MEMORY = "lean"
"""A file in a run's folder: memory matters more than speed, so the worker does without that."""


tokens_per_s: float | None = None
"""How fast training is before any run has been measured; None = as the estimate knows it for two CPU cores."""


def refused(seconds: float) -> str:
    """Why a run of this length cannot be started, or "": here it may take as long as it takes."""
    return ""


_children: dict[int, subprocess.Popen[bytes]] = {}


def worker_environment(env: Mapping[str, str], *, low_memory: bool = False) -> dict[str, str]:
    """What a worker sees of ``env``. low_memory: freed memory goes back at once. Of several CUDA devices it sees the
    one that the session manager budgets, the first: on more transformers' Trainer would split its batches over all of
    them."""
    kept = {name: env[name] for name in PASSED if name in env}
    kept["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return (
        kept
        | ({} if low_memory else ALLOCATOR)
        | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
    )


def start_worker(run_dir: Path, database: Path, attempt: int) -> tuple[int, float]:
    """Start a worker in its own process group, its output in worker.log. Returns (pid, start time). Raises OSError."""
    for left in (HEARTBEAT, DISK_FULL_FILE):  # of the attempt before
        (run_dir / left).unlink(missing_ok=True)
    with (run_dir / LOG).open("ab") as log:
        log.write(f"{ATTEMPT} {attempt}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "playground.training.worker", str(run_dir), str(database), str(attempt)],
            cwd=PROJECT_ROOT,
            env=worker_environment(os.environ, low_memory=(run_dir / LOW_MEMORY).exists()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _children[process.pid] = process
    return process.pid, started_s(process.pid) or 0.0


def started_s(pid: int) -> float | None:
    """When a living process began (seconds since 1970), or None: gone, or a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def is_alive(pid: int | None, start: float | None) -> bool:
    """Whether this very process still runs. Reaps it when it is a child of ours that has ended."""
    if pid is None:
        return False
    child = _children.get(pid)
    if (
        child is not None
    ):  # one of its threads may still end while it is a zombie already: it lives until it can be reaped
        return child.poll() is None
    now = started_s(pid)
    return now is not None and (start is None or abs(now - start) < 1.0)


def activity(pid: int) -> tuple[float, bool]:
    """(processor time in hundredths of a second and page faults of a process so far, whether its main thread sleeps
    just now). The first stands still while nothing is done; sleeping is told on Linux only, and waiting for a disk is
    not sleeping."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        faults, user, system = (float(fields[place]) for place in (9, 11, 12))  # major faults; hundredths of a second
        return faults + user + system, fields[0] == "S"
    except (OSError, IndexError, ValueError):
        pass
    try:
        times = psutil.Process(pid).cpu_times()
        return 100.0 * float(times.user + times.system), False
    except psutil.Error:
        return -1.0, False


def exit_code(pid: int | None) -> int | None:
    """Exit code of a child of ours, or the signal's number negative. None: it lives, or is not our child."""
    child = _children.get(pid or 0)
    return child.poll() if child is not None else None


def stop(pid: int, *, hard: bool) -> None:
    """SIGTERM, or SIGKILL, to the worker's whole process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL if hard else signal.SIGTERM)


def attempt_log(run_dir: Path) -> str:
    """What the newest worker printed, its end where that is long; for one that died without saying why."""
    try:
        with (run_dir / LOG).open("rb") as log:
            log.seek(max(0, (run_dir / LOG).stat().st_size - LOG_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return text.rpartition(ATTEMPT)[2].partition("\n")[2].strip()


def peak_memory_bytes() -> int:
    """This process's peak so far: on CUDA what its allocator held, elsewhere the resident set."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    if (held := own_bytes("VmHWM")) is not None:  # ru_maxrss would begin at what the process that started this one held
        return held
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def own_bytes(name: str) -> int | None:
    """A figure of Linux about this process, such as VmRSS; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError):
        return None
