"""What one file may hold: rows, lines, columns, cells and unpacked bytes, counted *while* it is read, so that a few kilobytes of upload
cannot take the machine's memory or hours of its time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from playground.errors import InputError
from playground.settings import PROJECT_ROOT

UNPACKED = 10
"""A compressed file may unpack to this many times the upload limit."""
COLUMNS = 1000
LONGEST_LINE = 16 * 1024 * 1024
"""Characters of one line of JSONL, or of one cell."""
_ROW_BYTES = 100
_FEWEST_ROWS = 100_000
_LINES_A_ROW = 4
_CELLS_A_ROW = 40
_CHILD_BYTES = 1 << 29
_CHILD_S = 120
_CHILD_BYTES_A_S = 500_000
_CHILD_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Address space that a core more would reserve is nothing that the file takes, and the limit counts it."""
_KEEP = "Keep fewer rows, or split the file."


@dataclass(frozen=True)
class Limits:
    """name: the file's, for what is said of it. upload_bytes: the largest file taken; the other limits grow with it."""

    name: str
    upload_bytes: int

    @property
    def unpacked_bytes(self) -> int:
        return UNPACKED * self.upload_bytes

    @property
    def rows(self) -> int:
        """One for every 100 bytes of the largest upload: 209,715 at 20 MB, 2,684,354 at 256 MB."""
        return max(_FEWEST_ROWS, self.upload_bytes // _ROW_BYTES)

    @property
    def lines(self) -> int:
        """Of a text: a quoted cell or a passage may have several."""
        return _LINES_A_ROW * self.rows

    @property
    def cells(self) -> int:
        return _CELLS_A_ROW * self.rows

    def check_unpacked(self, count: int) -> None:
        """Raises InputError, as all of these do."""
        if count > self.unpacked_bytes:
            raise InputError(f"{self.name} unpacks to more than {UNPACKED} times the size limit. Keep fewer rows.")

    def check_rows(self, count: int) -> None:
        if count > self.rows:
            raise InputError(f"{self.name} has more than {self.rows:,} rows, the most that are read here. {_KEEP}")

    def check_lines(self, count: int) -> None:
        if count > self.lines:
            raise InputError(f"{self.name} has more than {self.lines:,} lines, the most that are read here. {_KEEP}")

    def check_line(self, count: int, number: int) -> None:
        if count > LONGEST_LINE:
            raise InputError(
                f"{self.name}: line {number:,} is longer than {LONGEST_LINE:,} characters. Cut it into several lines."
            )

    def check_columns(self, count: int) -> None:
        if count > COLUMNS:
            raise InputError(f"{self.name} has {count:,} columns; at most {COLUMNS} are read. Keep the ones to train on.")

    def check_cells(self, count: int) -> None:
        if count > self.cells:
            raise InputError(
                f"{self.name} has more than {self.cells:,} cells, the most that are read here. Keep fewer columns or rows."
            )

    def check_whole(self, count: int) -> None:
        """count: bytes of a document that can only be parsed as one piece."""
        if count > self.upload_bytes:
            raise InputError(
                f"{self.name} unpacks to one JSON document of more than {self.upload_bytes:,} bytes, the most that is parsed in one "
                "piece. Save it as JSONL, one object a line."
            )


def probe(path: Path, limits: Limits) -> None:
    """Decode a workbook or a Parquet file once in a child process with a limit on memory and processor time: their decoders allocate
    before anybody can count. Raises InputError when the child does not come through; what the decoder itself refuses is left to the reader."""
    there = path.stat()
    _probed(path, there.st_size, there.st_mtime_ns, limits)


@lru_cache(maxsize=64)
def _probed(path: Path, size: int, changed_ns: int, limits: Limits) -> None:
    memory, seconds = _CHILD_BYTES + 4 * limits.upload_bytes, _CHILD_S + size // _CHILD_BYTES_A_S
    asked = [str(path.resolve()), str(limits.upload_bytes), str(memory), str(seconds)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "playground.data.probe", *asked],
            cwd=PROJECT_ROOT,
            env=os.environ | _CHILD_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{limits.name} took longer than {2 * seconds} s to unpack. {_KEEP}") from None
    if done.returncode:
        raise InputError(
            f"{limits.name} needs more than {memory / 2**30:.1f} GB of memory, or {seconds} s, to unpack. {_KEEP} CSV and JSONL are read "
            "row by row."
        )
