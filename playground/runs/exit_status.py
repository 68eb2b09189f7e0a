"""Is a worker frozen, or hung, and how did it end? Pure functions of what was seen and when.

When to end a worker (``Pulse``):

1. Until its first sign of life a worker may take ``starting_s``: Python starts, and enters the record.
2. A sign of life comes every two seconds from a thread of its own. None for ``silent_s``, and no processor time used
either:
   the process is frozen. (A library that loads from a slow disk may hold up that thread; it still uses some time.)
3. Progress is anything new in its log: a step, an evaluation, a checkpoint. A worker with a heartbeat and none of it
while its main thread
   sleeps (waits, and not for a disk) and next to no processor time is used hangs: after ``idle_s``, or where a sign of
   progress
   usually takes long, after some of those; before it has made any, after ``idle_loading_s``.
4. One that makes none and is busy hangs too, once it takes far longer than it ever did (``stall_bound_s``); before it
has made any,
   after ``loading_s``: large models load slowly.

Time counts by looks, each for ``LOOK_S`` at most: where the machine slept, or the looking process itself was stopped,
the
worker has not been silent.

How it ended (``ending_of``): its record, its last event and its exit code in, the run's state and the sentence for a
person out.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from playground.db import RunRow
from playground.training.failure import DISK, MEMORY, OTHER, reason_in


@dataclass(frozen=True)
class Ending:
    """state: DONE, CANCELLED or FAILED. reason: of a failure, ``memory``, ``disk`` or ``other``. error: the sentence.
    died: it did not fail, it was ended; nothing speaks against going on."""

    state: str
    error: str | None = None
    reason: str = OTHER
    died: bool = False


def ending_of(
    row: RunRow, last: dict[str, Any] | None, *, ended_for: str = "", exit_code: int | None = None, log: str = ""
) -> Ending:
    """last: the last event of this attempt. ended_for: why it was ended from here. exit_code: negative = the signal,
    None = unknown.
    log: what it printed."""
    kind = (last or {}).get("event")
    if kind == "done":
        return Ending("DONE")
    if row.state == "STOPPING" or kind == "cancelled":
        return Ending("CANCELLED", "Cancelled.")
    if last is not None and kind == "failed":
        return Ending("FAILED", str(last.get("message", "")), str(last.get("reason", OTHER)))
    if ended_for:
        return Ending("FAILED", ended_for, died=True)
    reason = reason_in(log)
    if reason == MEMORY:
        return Ending("FAILED", "The device ran out of memory.", MEMORY)
    if reason == DISK:
        return Ending("FAILED", "The disk is full. Free some space, then resume the run.", DISK)
    how = [_signal(-exit_code)] if exit_code is not None and exit_code < 0 else []
    how += [line] if (line := _telling_line(log)) else []
    why = f" ({'; '.join(how)})" if how else ""
    return Ending("FAILED", f"The training process was killed or died{why}.", died=True)


def _telling_line(log: str) -> str:
    """The line that names the fault; the last one where none stands out."""
    lines = [line for line in log.splitlines() if line.strip()]
    fatal = next((line for line in lines if line.startswith("Fatal Python error: ")), None)
    return (fatal or (lines[-1] if lines else "")).removeprefix("Fatal Python error: ")[:200]


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


LOOK_S = 2.0
BUSY = 5.0
"""Units of processor time (hundredths of a second, and page faults) a second; below that next to nothing is done."""
GAPS = 50
"""So many of the latest signs of progress are remembered."""
FEW = 4


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent before it is ended; seconds."""

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
    return max(
        patience.stall_floor_s, patience.stall_factor * statistics.median(gaps), patience.longest_factor * max(gaps)
    )


def idle_bound_s(gaps: Sequence[float], patience: Patience) -> float:
    """The same for a worker that does nothing meanwhile."""
    if len(gaps) < FEW:
        return patience.idle_loading_s
    return max(patience.idle_s, patience.idle_factor * statistics.median(gaps))


class Pulse:
    """One worker's signs of life, as seen from outside."""

    def __init__(self, patience: Patience | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience or Patience(), clock
        self._at: float | None = None
        self._seen: tuple[int | None, float] = (None, -1.0)
        self._progress = 0
        self._silent_s = 0.0
        self._still_s = 0.0
        self._idle_s = 0.0
        self._gaps: list[float] = []

    def look(self, beat: int | None, used: float, sleeps: bool, progress: int) -> str:
        """beat: when the worker gave its last sign of life, None before the first. used: its processor time so far.
        sleeps: whether
        its main thread does, just now. progress: events in its log. Returns why it should be ended, "" while it is
        well."""
        now = self._clock()
        passed = 0.0 if self._at is None else min(max(0.0, now - self._at), LOOK_S)
        first, self._at = self._at is None, now
        idle = sleeps and used - self._seen[1] <= BUSY * passed
        self._silent_s = 0.0 if (beat, used) != self._seen else self._silent_s + passed
        self._still_s += passed
        self._idle_s = self._idle_s + passed if idle else 0.0
        self._seen = (beat, used)
        if progress != self._progress:
            if not first:  # what was there when we first looked came at times we do not know
                self._gaps = [*self._gaps, self._still_s][-GAPS:]
            self._progress, self._still_s, self._idle_s = progress, 0.0, 0.0
        if self._silent_s > (self._patience.starting_s if beat is None else self._patience.silent_s):
            return f"The training process gave no sign of life for {self._silent_s:.0f} s, so it was ended."
        usual = f", where {statistics.median(self._gaps):.1f} s are usual" if len(self._gaps) >= FEW else ""
        if beat is not None and self._idle_s > idle_bound_s(self._gaps, self._patience):
            return f"Training hung: it did nothing at all for {self._idle_s:.0f} s{usual}, so its process was ended."
        if self._still_s > stall_bound_s(self._gaps, self._patience):
            return f"Training made no progress for {self._still_s:.0f} s{usual}, so its process was ended."
        return ""
