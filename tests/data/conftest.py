"""Files for the tests of the readers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.parquet


def put(folder: Path, name: str, content: Any) -> Path:
    """A file of this name. content: bytes, text, or what makes them."""
    path = folder / name
    content = content() if callable(content) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def book(*rows: list[Any]) -> bytes:
    held = openpyxl.Workbook()
    for row in rows:
        held.active.append(row)
    out = io.BytesIO()
    held.save(out)
    return out.getvalue()


def parquet(**columns: list[Any]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()
