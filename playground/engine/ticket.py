"""Rows that were asked for together, as the one who asked sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from playground.engine.request import RowState


class Ticket:
    """Iterate for the rows' states; ``cancel`` on every way out. changed: guards every ticket of one scheduler."""

    def __init__(self, states: Sequence[RowState], changed: threading.Condition) -> None:
        self.states = list(states)
        self.started = time.perf_counter()
        self.cancelled = False
        self.error: BaseException | None = None
        self.version = 0
        self._changed = changed

    def cancel(self) -> None:
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[list[RowState]]:
        """Snapshots after each round until every row is done. Raises what stopped the batch."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self.version != seen or self.error is not None)  # type: ignore[misc]
                if self.error is not None:
                    raise self.error
                seen = self.version
                states = [replace(state) for state in self.states]
            yield states
            if all(state.finish for state in states):
                return
