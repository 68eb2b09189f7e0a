"""A sign of life every two seconds, from a thread of its own: whoever looks can tell a frozen worker from a busy one."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

FILE = "heartbeat"
BEAT_S = 2.0
GONE = 4
"""Exit code of a worker that is not wanted any more."""


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
    """When the worker last gave a sign of life (nanoseconds, the file's own clock), None before its first."""
    try:
        return (run_dir / FILE).stat().st_mtime_ns
    except OSError:
        return None
