"""A run as seen from outside: what its event log adds up to, whether its worker still lives, and how it ended.

When a worker is killed (``Pulse``):

1. Until its first heartbeat it may take ``starting_s``: Python starts, and the worker enters the record.
2. A thread of its own beats every two seconds. No beat for ``silent_s`` and no processor time: the process is frozen.
   (A library that loads from a slow disk may hold up that thread; it still uses some processor time.)
3. Progress is anything new in its log. A worker that beats, makes none, and whose main thread sleeps (not for a disk)
   while next to no processor time is used, hangs: after ``idle_s``, or a multiple of the usual gap between two signs of
   progress; before there is a usual gap, after ``idle_loading_s``.
4. One that is busy and makes none hangs once it takes far longer than it ever did (``stall_bound_s``); before there is
   a usual gap, after ``loading_s``, since large models load slowly.

Time counts by looks, ``LOOK_S`` each at most: where the machine slept, or the looking process was stopped, the worker
has not been silent.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.db import RunRow
from playground.errors import InputError
from playground.training.failure import DISK, MEMORY, OTHER, reason_in
from playground.training.run_files import LAST, EventReader

Points = list[tuple[int, float]]
"""(step, value)."""
Event = Mapping[str, Any]

CURVES = ("lr", "grad_norm", "tokens_per_s", "memory_bytes")
FORMATS = ("csv", "tensorboard")
LOOK_S = 2.0
BUSY = 5.0
"""Units of processor time (hundredths of a second, and page faults) a second; below that next to nothing is done."""
GAPS = 50
"""So many of the latest gaps between signs of progress are remembered."""
FEW = 4
_OF_THE_RECORD = ("run", "name", "state", "method", "steps", "adapter", "error", "pid", "created_s", "summary")


@dataclass
class RunView:
    """A run's record and log in one value.

    loss, eval_loss, curves (``CURVES``; memory_bytes is the peak): (step, value). samples: (step, text) of the first
    held-out prompt. replies: of each such prompt its text and (step, text). figures: the objective's own, newest.
    stopped: why it ended early, "" = it did not. message: what it is doing, in words. seconds_left: an estimate, None
    before the first step. summary: figures of a run that is DONE. live: its name as a side while it trains, "" = none
    yet. place: among the waiting runs, from 1; 0 = it does not wait. resume_step: where a failed or cancelled run would
    go on.
    """

    run: str
    name: str
    state: str
    method: str
    step: int
    steps: int
    adapter: str | None
    error: str | None
    pid: int | None
    created_s: float
    loss: Points = field(default_factory=list)
    eval_loss: Points = field(default_factory=list)
    samples: list[tuple[int, str]] = field(default_factory=list)
    replies: list[tuple[str, list[tuple[int, str]]]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)
    stopped: str = ""
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    message: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    place: int = 0
    resume_step: int = 0
    live: str = ""


class RunLog:
    def __init__(self, run_dir: Path) -> None:
        self._reader = EventReader(run_dir)
        self._points: dict[str, dict[int, float | None]] = {name: {} for name in ("loss", "eval_loss", *CURVES)}
        self._replies: dict[int, tuple[str, dict[int, str]]] = {}
        self._figures: dict[str, float] = {}
        self._tokens_per_s: float | None = None
        self._seconds_left: float | None = None
        self._message = self._stopped = ""
        self._attempt: int | None = None
        self._step = 0
        self._last: Event | None = None
        self.events = 0

    def refresh(self) -> RunLog:
        """Take in what was written since the last call."""
        for event in self._reader.read():
            self.events += 1
            kind, step = event.get("event"), event.get("step", 0)
            if kind == "started":  # a new attempt: what it repeats replaces what was there
                self._attempt, self._step = event.get("attempt"), step
                self._last, self._seconds_left, self._message, self._stopped = None, None, "", ""
            elif kind == "state":
                self._message = event["message"]
            elif kind == "step":
                self._step, self._figures = step, event.get("figures", {})
                self._tokens_per_s, self._seconds_left = event["tokens_per_s"], event["seconds_left"]
                for name in ("loss", *CURVES):
                    self._points[name][step] = event.get(name)
            elif kind == "eval":
                self._points["eval_loss"][step] = event["loss"]
            elif kind == "sample":
                self._replies.setdefault(event.get("index", 0), (event.get("prompt", ""), {}))[1][step] = event["text"]
            elif kind == "stopped":
                self._stopped = event["message"]
            elif kind in LAST:
                self._last = event
        return self

    def last_of(self, attempt: int) -> Event | None:
        """How this attempt ended, by its worker's last event; None if there is none. Other attempts do not count."""
        return self._last if self._last is not None and self._last.get("attempt", attempt) == attempt else None

    def step_of(self, row: RunRow) -> int:
        """How far a run is: by its worker, or by the record while the worker of its newest attempt said nothing."""
        return self._step if row.state in ("RUNNING", "STOPPING") and self._attempt == row.attempt else row.step

    def view(self, row: RunRow) -> RunView:
        replies = [(prompt, sorted(said.items())) for _, (prompt, said) in sorted(self._replies.items())]
        curves = {name: _measured(points) for name, points in self._points.items()}
        return RunView(
            **{name: getattr(row, name) for name in _OF_THE_RECORD},
            step=self.step_of(row),
            loss=curves.pop("loss"),
            eval_loss=curves.pop("eval_loss"),
            samples=list(replies[0][1]) if replies else [],
            replies=replies,
            figures=dict(self._figures),
            curves={name: curve for name, curve in curves.items() if curve},
            stopped=self._stopped,
            tokens_per_s=self._tokens_per_s,
            seconds_left=self._seconds_left if row.state == "RUNNING" else None,
            message=self._message,
        )


def _measured(points: Mapping[int, float | None]) -> Points:
    return [(step, value) for step, value in sorted(points.items()) if value is not None]


def ordinal(place: int) -> str:
    """1 -> 1st, 2 -> 2nd, 11 -> 11th."""
    suffix = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{suffix}"


def write_curves(view: RunView, folder: Path, how: str) -> Path:
    """Write every curve, by the name that loggers use (``train/loss``), below ``folder`` and return the file. Raises
    InputError for an unknown format, a run without curves, or a folder that cannot be written."""
    if how not in FORMATS:
        raise InputError(f"Curves can be written as {' or '.join(FORMATS)}; {how!r} is neither.")
    named = {"train/loss": view.loss, "eval/loss": view.eval_loss}
    named |= {f"train/{name}": curve for name, curve in view.curves.items()}
    curves = {name: curve for name, curve in named.items() if curve}
    if not curves:
        raise InputError(f"{view.name} has no curves yet: they come with its first steps.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _csv(curves, folder / f"{view.run}.csv") if how == "csv" else _events(curves, folder / view.run)
    except OSError as error:
        why = f"{error.strerror or error}. Name another folder."
        raise InputError(f"The curves cannot be written to {folder}: {why}") from error


def _csv(curves: Mapping[str, Points], file: Path) -> Path:
    """One line a step; empty where nothing was measured."""
    import pandas

    table = pandas.DataFrame({name: pandas.Series(dict(curve), dtype=object) for name, curve in curves.items()})
    partial = file.with_name(f".{file.name}")
    table.sort_index().to_csv(partial, index_label="step")
    os.replace(partial, file)
    return file


def _events(curves: Mapping[str, Points], folder: Path) -> Path:
    from tensorboardX import SummaryWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, curve in curves.items():
            for step, value in curve:
                writer.add_scalar(name, value, step)
    return next(folder.glob("events.out.tfevents.*"))


@dataclass(frozen=True)
class Ending:
    """state: DONE, CANCELLED or FAILED. error: the sentence for a person. reason: of a failure, ``memory``, ``disk`` or
    ``other``. died: it did not fail, it was killed; nothing speaks against resuming it."""

    state: str
    error: str | None = None
    reason: str = OTHER
    died: bool = False


def ending_of(
    row: RunRow, last: Event | None, killed_for: str = "", exit_code: int | None = None, log: str = ""
) -> Ending:
    """How a worker that is gone ended. last: the last event of this attempt. killed_for: why it was killed from here.
    exit_code: negative = the signal, None = unknown. log: what it printed."""
    kind = last.get("event") if last is not None else None
    if kind == "done":
        return Ending("DONE")
    if row.state == "STOPPING" or kind == "cancelled":
        return Ending("CANCELLED", "Cancelled.")
    if last is not None and kind == "failed":
        return Ending("FAILED", str(last.get("message", "")), str(last.get("reason", OTHER)))
    if killed_for:
        return Ending("FAILED", killed_for, died=True)
    reason = reason_in(log)
    if reason == MEMORY:
        return Ending("FAILED", "The device ran out of memory.", MEMORY)
    if reason == DISK:
        return Ending("FAILED", "The disk is full. Free some space, then resume the run.", DISK)
    how = [_signal(-exit_code)] if exit_code is not None and exit_code < 0 else []
    lines = [line for line in log.splitlines() if line.strip()]
    fatal = "Fatal Python error: "
    # The line that names the fault, or the last one; whoever is killed has none.
    if lines and exit_code != -int(getattr(signal, "SIGKILL", 9)):
        how.append(next((line for line in lines if line.startswith(fatal)), lines[-1]).removeprefix(fatal)[:200])
    why = f" ({'; '.join(how)})" if how else ""
    return Ending("FAILED", f"The training process was killed or died{why}.", died=True)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent before it is killed; seconds, and multiples of the usual gap."""

    starting_s: float = 60.0
    silent_s: float = 6.5
    idle_s: float = 6.0
    idle_factor: float = 3.0
    idle_loading_s: float = 60.0
    loading_s: float = 900.0
    stall_floor_s: float = 60.0
    stall_factor: float = 30.0
    longest_factor: float = 5.0


def stall_bound_s(gaps: Sequence[float], patience: Patience) -> float:
    """How long no progress is still believable. gaps: seconds between the signs of progress so far."""
    if len(gaps) < FEW:
        return patience.loading_s
    usual_s, longest_s = patience.stall_factor * statistics.median(gaps), patience.longest_factor * max(gaps)
    return max(patience.stall_floor_s, usual_s, longest_s)


def idle_bound_s(gaps: Sequence[float], patience: Patience) -> float:
    """The same for a worker that does nothing meanwhile."""
    if len(gaps) < FEW:
        return patience.idle_loading_s
    return max(patience.idle_s, patience.idle_factor * statistics.median(gaps))


class Pulse:
    def __init__(self, patience: Patience | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience or Patience(), clock
        self._at: float | None = None
        self._seen: tuple[int | None, float] = (None, -1.0)
        self._progress = 0
        self._silent_s = self._still_s = self._idle_s = 0.0
        self._gaps: list[float] = []

    def look(self, beat: int | None, used: float, sleeps: bool, progress: int) -> str:
        """Why the worker should be killed, "" while it is well. beat: when it last gave a sign of life, None before the
        first. used: its processor time. sleeps: whether its main thread does just now. progress: events in its log."""
        now, patience = self._clock(), self._patience
        passed = 0.0 if self._at is None else min(max(0.0, now - self._at), LOOK_S)
        first, self._at = self._at is None, now
        idle = sleeps and used - self._seen[1] <= BUSY * passed
        self._silent_s = 0.0 if (beat, used) != self._seen else self._silent_s + passed
        self._still_s += passed
        self._idle_s = self._idle_s + passed if idle else 0.0
        self._seen = (beat, used)
        if progress != self._progress:
            if not first:  # what was there at the first look came at times that nobody knows
                self._gaps = [*self._gaps, self._still_s][-GAPS:]
            self._progress, self._still_s, self._idle_s = progress, 0.0, 0.0
        if self._silent_s > (patience.starting_s if beat is None else patience.silent_s):
            return f"The training process gave no sign of life for {self._silent_s:.0f} s, so it was ended."
        usual = f", where {statistics.median(self._gaps):.1f} s are usual" if len(self._gaps) >= FEW else ""
        if beat is not None and self._idle_s > idle_bound_s(self._gaps, patience):
            return f"Training hung: it did nothing at all for {self._idle_s:.0f} s{usual}, so its process was ended."
        if self._still_s > stall_bound_s(self._gaps, patience):
            return f"Training made no progress for {self._still_s:.0f} s{usual}, so its process was ended."
        return ""
