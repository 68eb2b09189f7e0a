"""The run's event log: one JSON object a line, written by the worker alone, followed by whoever looks.

Kinds: ``started`` (pid, attempt, step), ``state`` (message), ``plan`` (rows, weights), ``step`` (step, loss, lr,
grad_norm, tokens_per_s, seconds_left, memory_bytes: the peak so far, figures: the objective's own by name), ``eval``
(step, loss, figures), ``sample`` (step, index of the held-out prompt, prompt, text), ``saved`` (step), ``stopped``
(step, best_step, message: the run got no better), and one last ``done``, ``failed`` or ``cancelled``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground.errors import CancelledError

LOG = "events.jsonl"
LAST = ("done", "failed", "cancelled")
POINTS = 24
"""So many points of either loss an adapter's record keeps; the first and the last always."""


class EventWriter:
    """Appends events; each is one write to the file, so a killed worker loses none that it wrote.

    stop: asked after every step; where it says so, that step raises CancelledError."""

    def __init__(self, run_dir: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Raises OSError."""
        self._stop = stop
        path = run_dir / LOG
        self._torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def write(self, kind: str, **values: Any) -> None:
        """Numbers that are not finite become null. Raises OSError when the disk is full; the next event then closes
        what was torn."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        record = {"event": kind, "time_s": round(time.time(), 3)} | finite
        left = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        if self._torn:  # a killed worker's last line, or our own: close it, so that this one stays whole
            left = b"\n" + left
        while left:
            self._torn = True
            left = left[os.write(self._file, left) :]
        self._torn = False
        if kind == "step" and self._stop():
            raise CancelledError("The run was cancelled.")


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


def curve_of(run_dir: Path) -> dict[str, list[list[float]]]:
    """``{"training": [[step, loss], ...], "held_out": [...]}``, over all attempts; {} before any measurement."""
    found: dict[str, dict[int, float]] = {"training": {}, "held_out": {}}
    for event in EventReader(run_dir).read():
        name = {"step": "training", "eval": "held_out"}.get(event.get("event", ""))
        if name and event.get("loss") is not None:
            found[name][event["step"]] = round(event["loss"], 4)
    return {name: _thinned([[*point] for point in sorted(points.items())]) for name, points in found.items() if points}


def _thinned(points: list[list[float]]) -> list[list[float]]:
    if len(points) <= POINTS:
        return points
    return [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]
