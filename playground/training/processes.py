"""A worker's process as both sides see it: start, recognise (pid and start time) and stop it, its lock and record, and
its heartbeat.

Before it does anything a worker locks the run's folder and writes its pid into the record of runs: one that begins is
in the record, whatever became of the process that started it. The lock is freed with its holder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from playground.settings import PASSED, PROJECT_ROOT
from playground.training.run_files import DISK_FULL_FILE

LOG = "worker.log"
ATTEMPT = "-- attempt"  # begins the line between two workers of one run in their common log
LOG_BYTES = 32768
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc keeps freed blocks from step to step: measured 1.3 times faster, and up to twice the memory."""
ON_A_CARD = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Rows of many lengths leave holes that torch's segments of fixed size cannot use (PyTorch's notes on CUDA memory)."""
LOW_MEMORY = "lean"
"""A file in a run's folder: memory matters more than speed, so the worker does without ``ALLOCATOR``. It says RAN_OUT
where memory has run out once: then a worker also recomputes activations, and computes a step in twice as many parts."""
RAN_OUT = "ran out"
LOCK = "worker.lock"
CARD = "card"
"""A file in a run's folder: which of the CUDA devices of the app its worker sees, from 0."""
WAIT_S = 3.0
"""A worker waits so long for the folder: whoever records how the previous one ended holds it for a moment."""
HEARTBEAT = "heartbeat"
BEAT_S = 2.0
NOT_WANTED = 4  # exit code of a worker that is not wanted any more

tokens_per_s: float | None = None
"""How fast training is before any run has been measured; None = as the estimate knows it for two CPU cores."""
longest_s: float | None = None
"""How long a run may take here; None = as long as it takes."""
_children: dict[int, subprocess.Popen[bytes]] = {}


def card_of(run_dir: Path) -> int:
    """The CUDA device that a run's worker was given, 0 = the first."""
    with contextlib.suppress(OSError, ValueError):
        return int((run_dir / CARD).read_text())
    return 0


def worker_environment(env: Mapping[str, str], *, low_memory: bool = False, card: int = 0) -> dict[str, str]:
    """What a worker sees of ``env``. low_memory: freed memory goes back at once. Of several CUDA devices it sees one,
    the session manager's choice; on more transformers' Trainer would split its batches over all of them."""
    kept = ON_A_CARD | {name: env[name] for name in PASSED if name in env} | ({} if low_memory else ALLOCATOR)
    there = [one.strip() for one in env["CUDA_VISIBLE_DEVICES"].split(",")] if "CUDA_VISIBLE_DEVICES" in env else None
    seen = str(card) if there is None else there[card if card < len(there) else 0]
    kept |= {"CUDA_VISIBLE_DEVICES": seen, "HF_HUB_OFFLINE": "1"}
    return kept | {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}


def start_worker(run_dir: Path, database: Path | None, attempt: int) -> tuple[int, float]:
    """Start a worker in its own process group, its output in worker.log. Returns (pid, start time). Raises OSError.
    database: where it enters the record; None = on a node of a cluster: it ends with the process that began it."""
    for left in (HEARTBEAT, DISK_FULL_FILE):  # of the attempt before
        (run_dir / left).unlink(missing_ok=True)
    with (run_dir / LOG).open("ab") as log:
        log.write(f"{ATTEMPT} {attempt}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "playground.training.worker", str(run_dir), str(database or ""), str(attempt)],
            cwd=PROJECT_ROOT,
            env=worker_environment(os.environ, low_memory=(run_dir / LOW_MEMORY).exists(), card=card_of(run_dir)),
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


ON_CLUSTER = 2**23
"""Runs on a cluster are known by a number from here on, above the largest process id of any system."""


def is_alive(pid: int | None, start: float | None) -> bool:
    """Whether this very process still runs. Reaps it when it is a child of ours that has ended."""
    if pid is None:
        return False
    if (child := _children.get(pid)) is not None:  # a zombie whose threads still end lives until it can be reaped
        return child.poll() is None
    now = started_s(pid)
    return now is not None and (start is None or abs(now - start) < 1.0)


def activity(pid: int) -> tuple[float, bool]:
    """(processor time of a process so far in hundredths of a second plus its page faults, whether its main thread
    sleeps just now). The first stands still while nothing is done; sleeping is told on Linux only, and waiting for a
    disk is not sleeping."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        faults, user, system = (float(fields[place]) for place in (9, 11, 12))  # major faults; hundredths of a second
        return faults + user + system, fields[0] == "S"
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
    """SIGTERM, or SIGKILL, to the worker's whole process group; where there are no groups (Windows) both end it and
    its children at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL if hard else signal.SIGTERM)
            return
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def attempt_log(run_dir: Path) -> str:
    """What the newest worker printed, its end where that is long; for one that died without saying why."""
    try:
        with (run_dir / LOG).open("rb") as log:
            log.seek(max(0, (run_dir / LOG).stat().st_size - LOG_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return text.rpartition(ATTEMPT)[2].partition("\n")[2].strip()


@contextlib.contextmanager
def folder_lock(run_dir: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold a run's folder; gives False when another process holds it for longer than ``wait_s``. Raises OSError."""
    lock = FileLock(run_dir / LOCK)
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=wait_s)
    try:
        yield lock.is_locked
    finally:
        lock.release()


class Heartbeat(threading.Thread):
    """Touches a file every two seconds, so that a frozen worker differs from a busy one; ends the whole process once
    ``wanted`` says no, or the run's folder is gone."""

    def __init__(self, run_dir: Path, wanted: Callable[[], bool]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._file, self._wanted, self._done = run_dir / HEARTBEAT, wanted, threading.Event()
        self._file.touch()

    def run(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                os.utime(self._file)  # needs no room on the disk
                wanted = self._wanted()
            except FileNotFoundError:
                wanted = False
            except OSError:
                continue
            if not wanted and not self._done.is_set():
                print("The run is not in the record any more; its worker ends.", file=sys.stderr, flush=True)
                os._exit(NOT_WANTED)

    def stop(self) -> None:
        self._done.set()


def last_beat(run_dir: Path) -> int | None:
    """When the worker last touched its heartbeat (nanoseconds, the file's own clock), None before the first time."""
    try:
        return (run_dir / HEARTBEAT).stat().st_mtime_ns
    except OSError:
        return None
