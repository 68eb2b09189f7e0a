"""The child process of ``limits.probe``: decode a file under limits of the operating system, and end with 0 if that can be done."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from playground.data.workbook import decode_parquet, decode_xlsx
from playground.errors import InputError


def limit(memory_bytes: int, seconds: int) -> None:
    """Of this process: address space and processor time; nothing where the system knows no such limits (Windows)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def main(path: str, upload_bytes: str, memory_bytes: str, seconds: str) -> int:
    """0: it can be decoded, or the decoder refuses it in words, which the reader will say better. 1: no memory."""
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
        return int("allocat" in str(error).lower() or "memory" in str(error).lower())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
