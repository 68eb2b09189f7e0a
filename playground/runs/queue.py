"""The runs that wait, asked for on the device in their own order.

The device serves the requests of one session by age. So where the order of runs changes, those that now come too early
are
withdrawn, the last of them first, and requested again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from playground.db import RunRow
from playground.errors import BusyError, CancelledError, PlaygroundError
from playground.gpu.manager import DeviceManager, Lease, Request


@dataclass(frozen=True)
class Refused:
    """A run that can never start, and why."""

    run: str
    error: PlaygroundError


class RunQueue:
    """Holds the requests of waiting runs, and nothing else. One thread at a time."""

    def __init__(self, manager: DeviceManager) -> None:
        self._manager = manager
        self._requests: dict[str, Request] = {}

    def ask(self, rows: Sequence[RunRow]) -> list[Refused]:
        """Ask for every row, in this order; withdraw whoever is not in it. Returns those that can never fit."""
        waiting = {row.run for row in rows}
        for run in [run for run in self._requests if run not in waiting]:
            self.drop(run)
        refused: list[Refused] = []
        for owner in dict.fromkeys(row.owner for row in rows):
            refused += self._ask_in_order([row for row in rows if row.owner == owner])
        return refused

    def granted(self, run: str) -> Lease | None:
        """The run's lease, once; it is the caller's from then on."""
        request = self._requests.get(run)
        if request is None or request.lease is None:
            return None
        del self._requests[run]
        return request.lease

    def drop(self, run: str) -> None:
        """Leave the device's queue, or give back what was granted and not taken."""
        request = self._requests.pop(run, None)
        if request is not None:
            request.cancel()

    def place(self, run: str) -> int:
        """Its place in the device's queue from 1, 0 when it is not there."""
        request = self._requests.get(run)
        return request.position if request is not None else 0

    def _ask_in_order(self, rows: Sequence[RunRow]) -> list[Refused]:
        late: list[str] = []
        newest, gap = 0, False
        for row in rows:
            request = self._requests.get(row.run)
            if request is None:
                gap = True
            elif gap or request.number < newest:
                late.append(row.run)
                gap = True  # whoever follows it must be asked for after it
            else:
                newest = request.number
        for run in reversed(late):  # the last first: nobody who comes later must be served in between
            self.drop(run)
        refused: list[Refused] = []
        for row in rows:
            if row.run in self._requests:
                continue
            try:
                self._requests[row.run] = self._manager.request(
                    "train", row.owner, f"Training {row.name}", row.needs_bytes
                )
            except BusyError:
                break  # the device's queue is full; the runs keep their places in ours
            except CancelledError:
                continue
            except PlaygroundError as error:
                refused.append(Refused(row.run, error))
        return refused


def ordinal(place: int) -> str:
    """1 -> 1st, 2 -> 2nd, 11 -> 11th."""
    if place % 100 in (11, 12, 13):
        return f"{place}th"
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place % 10, 'th') }"
