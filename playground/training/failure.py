"""Why a run failed, in one sentence, and of which kind it is: memory and disk can be mended, and are told with figures."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playground.errors import PlaygroundError
from playground.training.spec import RunSpec

MEMORY, DISK, OTHER = "memory", "disk", "other"
_DISK_NUMBERS = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_DISK_SIGNS = (
    "no space left on device", "disk quota exceeded", "file too large", "database or disk is full", "pytorchstreamwriter failed",
    "file write failed", "unexpected pos", "iostream error", "(os error 28)", "(os error 27)",
)  # fmt: skip
_MEMORY_SIGNS = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc", "unable to mmap",
    "thread creation failed", "can't start new thread", "failed to map segment", "memoryerror",
)  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """reason: ``memory``, ``disk`` or ``other``. message: for a person."""

    reason: str
    message: str


def explain(error: BaseException, spec: RunSpec | None, run_dir: Path) -> Failure:
    """What an exception in a worker means. It is looked at with everything that it was raised from."""
    reason = reason_of(error)
    if reason == DISK:
        return Failure(DISK, disk_words(run_dir, spec.disk_bytes if spec else 0))
    if reason == MEMORY:
        rows = f" at {spec.batch_size} rows a step" if spec else ""
        return Failure(MEMORY, f"The device ran out of memory{rows}.")
    if isinstance(error, PlaygroundError):
        return Failure(OTHER, str(error))
    text = str(error).strip().splitlines()[0][:240] if str(error).strip() else "no message"
    return Failure(OTHER, f"Training stopped: {type(error).__name__}: {text}")


def reason_of(error: BaseException) -> str:
    """``memory``, ``disk`` or ``other``."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _DISK_NUMBERS:
            return DISK
        if isinstance(one, MemoryError) or (isinstance(one, OSError) and one.errno == errno.ENOMEM):
            return MEMORY
        if not isinstance(one, PlaygroundError) and (reason := reason_in(str(one))) != OTHER:
            return reason
    return OTHER


def reason_in(text: str) -> str:
    """The same, told from the words of a library or of a log."""
    text = text.lower()
    if any(sign in text for sign in _DISK_SIGNS):
        return DISK
    return MEMORY if any(sign in text for sign in _MEMORY_SIGNS) else OTHER


def disk_words(folder: Path, needs_bytes: int) -> str:
    """The sentence for a full disk. needs_bytes: what a run writes, about; 0 = unknown."""
    try:
        free = f": {size_words(shutil.disk_usage(folder).free)} free"
    except OSError:
        free = ""
    needs = f", the run needs about {size_words(needs_bytes)}" if needs_bytes else ""
    return f"The disk is full{free}{needs}. Free some space (runs and adapters can be deleted), then resume the run."


def size_words(value: int) -> str:
    """1.2 GB, or 3.4 MB below one."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__
