"""One number that stands for every weight of a model: SHA-256 over names, types, shapes and bytes, in the order of names."""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DIGITS = 16
"""Hex digits kept: 64 bits, enough that two bases on one disk never share one."""


def digest(tensors: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> str:
    """Fingerprint of ``(name, dtype, shape, buffer)`` items; they must come sorted by name."""
    whole = hashlib.sha256()
    for name, dtype, shape, data in tensors:
        whole.update(f"{name}|{dtype}|{list(shape)}|".encode())
        whole.update(data)
    return whole.hexdigest()[:DIGITS]


def file_fingerprint(folder: Path) -> str:
    """Fingerprint of the safetensors in ``folder``, read through a memory map (no torch). Raises ValueError if there are none."""
    entries: dict[str, tuple[Path, str, tuple[int, ...], int, int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                entries[name] = (file, entry["dtype"], tuple(entry["shape"]), 8 + size + start, 8 + size + end)
    if not entries:
        raise ValueError(f"{folder} holds no safetensors")
    maps: dict[Path, mmap.mmap] = {}
    try:
        for file in {entry[0] for entry in entries.values()}:
            with file.open("rb") as handle:
                maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        return digest(_slices(entries, maps))
    finally:
        for mapped in maps.values():
            mapped.close()


def _slices(entries: dict[str, Any], maps: dict[Path, mmap.mmap]) -> Iterable[tuple[str, str, tuple[int, ...], Any]]:
    for name in sorted(entries):
        file, dtype, shape, start, end = entries[name]
        with memoryview(maps[file]) as view, view[start:end] as part:
            yield name, dtype, shape, part
