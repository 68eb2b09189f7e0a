"""The run's event log: one JSON object a line, written by the worker alone, followed by whoever looks.

Kinds: ``state`` (message), ``plan`` (rows, weights), ``step`` (step, loss, lr, tokens_per_s), ``eval`` (step, loss),
``sample`` (step, prompt, text), ``saved`` (step), and one last ``done``, ``failed`` or ``cancelled``.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

LOG = "events.jsonl"
LAST = ("done", "failed", "cancelled")


class EventWriter:
    """Appends events; each line is flushed, so a killed worker loses none that it wrote."""

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / LOG
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:  # a killed worker's last line: close it, so that ours stays whole
            self._file.write("\n")

    def close(self) -> None:
        self._file.close()

    def write(self, kind: str, **values: Any) -> None:
        record = {"event": kind, "time_s": round(time.time(), 3)}
        record |= {
            key: (None if isinstance(value, float) and not math.isfinite(value) else value) for key, value in values.items()
        }
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()


class EventReader:
    """Reads what has come since the last call; a half-written last line waits for its end."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / LOG
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._offset)
                block = handle.read()
        except FileNotFoundError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = []
        for line in whole.splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:  # a line torn by a kill, closed by the resumed worker's first line
                continue
        return events
