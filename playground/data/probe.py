"""The child process of ``limits.probe``: decode a file under limits of the operating system, and end with 0 if that can be done."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from playground.data.workbook import decode_parquet, decode_xlsx
from playground.errors import InputError

_NO_ROOM = ("allocat", "memory", "worker thread", "resource temporarily")
"""What libraries say when they are refused memory or a thread."""


def limit(memory_bytes: int, seconds: int) -> None:
    """Of this process: address space beyond what it has taken, and processor time; nothing where the system knows no such limits
    (Windows)."""
    try:
        import resource
    except ImportError:
        return
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        taken = 0
    for what, most in ((resource.RLIMIT_AS, taken + memory_bytes), (resource.RLIMIT_CPU, seconds)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def main(path: str, upload_bytes: str, memory_bytes: str, seconds: str) -> int:
    """0: it can be decoded, or the decoder refuses it in words, which the reader will say better. 1: no memory."""
    with contextlib.suppress(ImportError):  # before the limit, which is for what comes on top
        import openpyxl  # noqa: F401
        import pyarrow.parquet

        pyarrow.set_cpu_count(1)
    limit(int(memory_bytes), int(seconds))
    file = Path(path)
    try:
        decode = decode_parquet if file.suffix.lower() == ".parquet" else decode_xlsx
        decode(file, int(upload_bytes))
    except MemoryError:
        return 1
    except InputError:
        return 0
    except Exception as error:  # a damaged file fails anywhere inside its decoder, with any type
        return int(any(sign in str(error).lower() for sign in _NO_ROOM))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
