"""What one file may hold: rows, lines, columns, cells and unpacked bytes, counted *while* it is read, so that a few
kilobytes of upload cannot take the machine's memory or hours of its time; and the progress of a long check."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from playground.errors import InputError

UNPACKED = 10
"""A compressed file may unpack to this many times the upload limit."""
COLUMNS = 1000
LONGEST_LINE = 16 * 1024 * 1024
"""Characters of one line of JSONL, or of one cell."""
_ROW_BYTES = 100
_MIN_ROWS = 100_000
_LINES_A_ROW = 4
_CELLS_A_ROW = 40
KEEP_FEWER = "Keep fewer rows, or split the file."


@dataclass(frozen=True)
class Limits:
    """name: the file's, for messages. upload_bytes: the largest file taken; the other limits grow with it. Checks raise
    InputError."""

    name: str
    upload_bytes: int

    @property
    def unpacked_bytes(self) -> int:
        return UNPACKED * self.upload_bytes

    @property
    def rows(self) -> int:
        """One for every 100 bytes of the largest upload: 209,715 at 20 MB, 2,684,354 at 256 MB."""
        return max(_MIN_ROWS, self.upload_bytes // _ROW_BYTES)

    def check_unpacked(self, count: int) -> None:
        if count > self.unpacked_bytes:
            raise InputError(f"{self.name} unpacks to more than {UNPACKED} times the size limit. Keep fewer rows.")

    def check_rows(self, count: int) -> None:
        self._check(count, self.rows, "rows", KEEP_FEWER)

    def check_lines(self, count: int) -> None:
        """Lines of a text: a quoted cell or a passage may have several."""
        self._check(count, _LINES_A_ROW * self.rows, "lines", KEEP_FEWER)

    def check_cells(self, count: int) -> None:
        self._check(count, _CELLS_A_ROW * self.rows, "cells", "Keep fewer columns or rows.")

    def _check(self, count: int, most: int, what: str, fix: str) -> None:
        if count > most:
            raise InputError(f"{self.name} has more than {most:,} {what}, the most that are read here. {fix}")

    def check_line(self, count: int, number: int) -> None:
        if count > LONGEST_LINE:
            raise InputError(
                f"{self.name}: line {number:,} is longer than {LONGEST_LINE:,} characters. Cut it into several lines."
            )

    def check_columns(self, count: int) -> None:
        if count > COLUMNS:
            raise InputError(
                f"{self.name} has {count:,} columns; at most {COLUMNS} are read. Keep the ones to train on."
            )

    def check_whole(self, count: int) -> None:
        """count: bytes of a document that can only be parsed as one piece."""
        if count > self.upload_bytes:
            raise InputError(
                f"{self.name} unpacks to one JSON document of more than {self.upload_bytes:,} bytes, the most that is "
                "parsed in one piece. Save it as JSONL, one object a line."
            )


OnProgress = Callable[[float], None]
"""Called with a share from 0 to 1."""


class Progress:
    """Calls ``on_progress`` at most ten times a second; with 1 always, and never with less than before."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._last, self._share = -1.0, 0.0

    def at(self, share: float) -> None:
        """share: of the whole work, from 0 to 1."""
        if self._on_progress is None:
            return
        share = min(1.0, max(share, self._share))
        now = time.monotonic()
        if share >= 1 > self._share or now - self._last >= 0.1:
            self._last, self._share = now, share
            self._on_progress(share)

    def part(self, start: float, end: float) -> OnProgress:
        """A callback for one part of the work: its 0 is ``start`` of the whole, its 1 is ``end``."""
        return lambda share: self.at(start + (end - start) * min(1.0, share))
