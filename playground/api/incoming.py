"""How much of what browsers have sent may lie and wait, for one visitor and in all."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from playground.services.cleaning import INCOMING_S, TICK_S

VISITOR_UPLOADS = 5
"""Uploads of the largest size that one visitor may have waiting, where the app is shared."""
ALL_UPLOADS = 50
FILES_MAX = 5_000
"""Files that may lie in the folder, however small."""
WAITS_S = INCOMING_S + TICK_S
"""After so long a file has been removed."""


class Incoming:
    """Counts bytes as they arrive; each counts until its file is sure to be gone. Visitors without a cookie share one share.

    folder: where the files lie. largest_bytes: of one upload. clock: seconds, monotonic.
    """

    def __init__(self, folder: Path, largest_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._largest, self._clock = folder, largest_bytes, clock
        self._lock = threading.Lock()
        self._arrived: deque[tuple[float, str, int]] = deque()
        self._bytes: Counter[str] = Counter()

    def refusal(self, visitor: str, count: int) -> str:
        """Why ``count`` more bytes of a visitor are not taken, or "" and they are counted."""
        with self._lock:
            self._forget()
            if self._bytes[visitor] + count > VISITOR_UPLOADS * self._largest:
                return f"You have sent {self._bytes[visitor] >> 20} MB in the last {WAITS_S / 60:.0f} minutes. Wait a little, then send more."
            if self._bytes.total() + count > ALL_UPLOADS * self._largest:
                return "Too many files have been sent to this app in the last minutes. Try again in a quarter of an hour."
            self._bytes[visitor] += count
            self._arrived.append((self._clock() + WAITS_S, visitor, count))
            return ""

    def is_crowded(self) -> bool:
        """Whether too many files lie there already."""
        try:
            with os.scandir(self._folder) as entries:
                return sum(1 for _ in entries) >= FILES_MAX
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        while self._arrived and self._arrived[0][0] <= self._clock():
            _, visitor, count = self._arrived.popleft()
            self._bytes[visitor] -= count
            if self._bytes[visitor] <= 0:
                del self._bytes[visitor]
