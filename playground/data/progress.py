"""How far a long check has come, told about ten times a second however often it is asked to."""

from __future__ import annotations

import time
from collections.abc import Callable

Tell = Callable[[float], None]
"""Called with a share from 0 to 1."""


class Progress:
    """``at(share)`` passes on to ``tell`` at most every ``every`` seconds; 1 always, and never a step back."""

    def __init__(self, tell: Tell | None, every: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._every, self._clock = tell, every, clock
        self._last, self._share = -every, 0.0

    def at(self, share: float) -> None:
        """share: of the whole work, from 0 to 1."""
        if self._tell is None:
            return
        share = min(1.0, max(share, self._share))
        now = self._clock()
        if share >= 1 > self._share or now - self._last >= self._every:
            self._last, self._share = now, share
            self._tell(share)

    def part(self, start: float, end: float) -> Tell:
        """A function for one part of the work: its 0 is ``start`` of the whole, its 1 is ``end``."""
        return lambda share: self.at(start + (end - start) * min(1.0, share))
