"""Start, recognise and stop the worker processes. A pid alone may be somebody else's by now; pid and start time are not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from playground.settings import PROJECT_ROOT
from playground.training.heartbeat import FILE as HEARTBEAT
from playground.training.last_word import FILE as LAST_WORD

LOG = "worker.log"
ATTEMPT = "-- attempt"
"""Begins the line between two workers of one run in their common log."""
LOG_BYTES = 32768
PASSED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "CUDA_DEVICE_ORDER", "CUDA_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "HF_HOME", "HF_HUB_OFFLINE", "USER",
    "LOGNAME",
)  # fmt: skip
"""The only variables a worker inherits, so that no token reaches it."""
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc keeps freed blocks instead of faulting them in again at every step: measured 1.3 times faster, and up to twice the memory."""
LEAN = "lean"
"""A file in a run's folder: memory matters more than speed, so the worker does without that."""


tokens_per_s: float | None = None
"""How fast training is before any run has been measured; None = as the estimate knows it for two CPU cores."""


def refused(seconds: float) -> str:
    """Why a run of this length cannot be started, or "": here it may take as long as it takes."""
    return ""


_children: dict[int, subprocess.Popen[bytes]] = {}


def worker_environment(env: Mapping[str, str], *, lean: bool = False) -> dict[str, str]:
    """What a worker sees of ``env``. lean: memory that is freed goes back at once. Of several CUDA devices it sees the one that the
    session manager budgets, the first: on more transformers' Trainer would split its batches over all of them."""
    kept = {name: env[name] for name in PASSED if name in env}
    kept["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return (
        kept
        | ({} if lean else ALLOCATOR)
        | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
    )


def start_worker(run_dir: Path, database: Path, attempt: int) -> tuple[int, float]:
    """Start a worker in its own process group, its output in worker.log. Returns (pid, start time). Raises OSError."""
    for left in (HEARTBEAT, LAST_WORD):  # of the attempt before
        (run_dir / left).unlink(missing_ok=True)
    with (run_dir / LOG).open("ab") as log:
        log.write(f"{ATTEMPT} {attempt}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "playground.training.worker", str(run_dir), str(database), str(attempt)],
            cwd=PROJECT_ROOT, env=worker_environment(os.environ, lean=(run_dir / LEAN).exists()), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
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
    if child is not None:  # one of its threads may still end while it is a zombie already: it lives until it can be reaped
        return child.poll() is None
    now = started_s(pid)
    return now is not None and (start is None or abs(now - start) < 1.0)


def activity(pid: int) -> tuple[float, bool]:
    """(processor time in hundredths of a second and page faults of a process so far, whether its main thread sleeps just now). The
    first stands still while nothing is done; sleeping is told on Linux only, and waiting for a disk is not sleeping."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return float(fields[9]) + float(fields[11]) + float(fields[12]), fields[0] == "S"  # major faults, user and system time
    except (OSError, IndexError, ValueError):
        pass
    try:
        times = psutil.Process(pid).cpu_times()
        return 100.0 * float(times.user + times.system), False
    except psutil.Error:
        return -1.0, False


def exit_code(pid: int | None) -> int | None:
    """How a child of ours ended: its exit code, or the signal's number negative. None: it lives, or another process started it."""
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
