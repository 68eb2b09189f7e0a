"""How did a worker end? Pure: its record, its last word and its exit in, the run's state and the sentence for a person out."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from playground.services.store import RunRow
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
    """last: the last event of this attempt. ended_for: why it was ended from here. exit_code: negative = the signal, None = unknown.
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
