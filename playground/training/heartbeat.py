"""What a worker tells whoever watches its folder: a heartbeat every two seconds, so that a frozen worker is told from a
busy one, and its last event where the disk is full, written over space that was reserved at its start.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "heartbeat"
BEAT_S = 2.0
GONE = 4
"""Exit code of a worker that is not wanted any more."""
DISK_FULL_FILE = "last_word.json"
RESERVED_BYTES = 4096
MESSAGE_MAX = 1200
"""Characters; four bytes each at most, so that it always fits."""


class Heartbeat(threading.Thread):
    """Touches the file; ends the whole process once ``wanted`` says no, or the run's folder is gone."""

    def __init__(self, run_dir: Path, wanted: Callable[[], bool], beat_s: float = BEAT_S) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._file, self._wanted, self._beat_s = run_dir / FILE, wanted, beat_s
        self._done = threading.Event()
        self._file.touch()

    def run(self) -> None:
        while not self._done.wait(self._beat_s):
            try:
                os.utime(self._file)  # needs no room on the disk
                wanted = self._wanted()
            except FileNotFoundError:
                wanted = False
            except OSError:
                continue
            if not wanted and not self._done.is_set():
                print("The run is not in the record any more; its worker ends.", file=sys.stderr, flush=True)
                os._exit(GONE)

    def stop(self) -> None:
        self._done.set()


def last_beat(run_dir: Path) -> int | None:
    """When the worker last touched its heartbeat (nanoseconds, the file's own clock), None before the first time."""
    try:
        return (run_dir / FILE).stat().st_mtime_ns
    except OSError:
        return None


def reserve_disk_full_event(run_dir: Path) -> None:
    """Take the space. Raises OSError when there is none."""
    with (run_dir / DISK_FULL_FILE).open("wb") as handle:
        handle.write(b" " * RESERVED_BYTES)
        handle.flush()
        os.fsync(handle.fileno())


def write_disk_full_event(run_dir: Path, **event: Any) -> None:
    """Overwrite the reserved space in place; nothing is allocated. Raises OSError."""
    event["message"] = str(event.get("message", ""))[:MESSAGE_MAX]
    text = json.dumps(event, ensure_ascii=False).encode()[:RESERVED_BYTES].ljust(RESERVED_BYTES)
    with (run_dir / DISK_FULL_FILE).open("r+b") as handle:
        handle.write(text)


def read_disk_full_event(run_dir: Path, attempt: int) -> dict[str, Any] | None:
    """The last event that the worker of this attempt wrote there, None if it had no need to."""
    try:
        event = json.loads((run_dir / DISK_FULL_FILE).read_bytes().strip() or b"null")
    except (OSError, ValueError):
        return None
    return event if isinstance(event, dict) and event.get("attempt") == attempt else None
