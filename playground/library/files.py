"""Careful reading and writing: JSON objects, durable moves, SHA-256 of files and of a model's weights. Nothing here
follows a link."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from playground.errors import AdapterError
from playground.plain import plain_text

if TYPE_CHECKING:
    from typing_extensions import Buffer

JSON_LIMIT_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


def private_folder(folder: Path) -> None:
    """Make a folder that nobody else can enter. One that is there and belongs to this person becomes so too, but not a
    place that others
    are meant to enter: the root, the person's own home, a folder like /tmp."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        there, common = folder.stat(), {Path("/"), Path(os.path.expanduser("~")).resolve()}
        mine = hasattr(os, "getuid") and there.st_uid == os.getuid()
        if mine and there.st_mode & 0o077 and not there.st_mode & stat.S_ISVTX and folder.resolve() not in common:
            folder.chmod(0o700)


def is_plain_file(path: Path) -> bool:
    """True for a regular file that is not reached through a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a small file. Raises AdapterError when it is no regular file, too large, or no object."""
    if not is_plain_file(path):
        raise AdapterError(f"{path.name} is missing from {path.parent.name}, or is not a regular file.")
    size = path.stat().st_size
    if size > JSON_LIMIT_BYTES:
        raise AdapterError(f"{path.name} is {size} bytes long; such a file has at most {JSON_LIMIT_BYTES}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError, OSError) as exc:
        raise AdapterError(
            f"{path.name} in {path.parent.name} is not readable JSON"
            f" ({plain_text(str(exc), 120) or type(exc).__name__})."
        ) from exc
    if not isinstance(value, dict):
        raise AdapterError(
            f"{path.name} in {path.parent.name} holds a {type(value).__name__}; it must hold a JSON object."
        )
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace ``path`` in one step, so that a reader sees the old text or the new one and never half of it."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """As ``write_json``, for any text."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a regular file: no links, no permissions, no overwriting."""
    handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as reading, target.open("xb") as out:
        while block := reading.read(_CHUNK_BYTES):
            out.write(block)


def sync_folder(folder: Path, *, with_files: bool = True) -> None:
    """Ask the system to put a folder's table of names, and the files in it, on the disk."""
    files = [path for path in folder.iterdir() if is_plain_file(path)] if with_files else []
    for path in [*files, folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_of(paths: list[Path]) -> str:
    """SHA-256 (hex) of the files' bytes, one after another. Remembered while size and time of change stay the same."""
    stats = [(path, path.stat()) for path in paths]
    return _sha256(tuple((str(path), s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats))


@lru_cache(maxsize=512)
def _sha256(files: tuple[tuple[str, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, *_ in files:
        with open(path, "rb") as reading:
            while block := reading.read(_CHUNK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


DIGITS = 16
"""Hex digits kept: 64 bits, enough that two bases on one disk never share one."""


def digest(tensors: Iterable[tuple[str, str, tuple[int, ...], Buffer]]) -> str:
    """Fingerprint of ``(name, dtype, shape, buffer)`` items; they must come sorted by name."""
    whole = hashlib.sha256()
    for name, dtype, shape, data in tensors:
        whole.update(f"{name}|{dtype}|{list(shape)}|".encode())
        whole.update(data)
    return whole.hexdigest()[:DIGITS]


def file_fingerprint(folder: Path) -> str:
    """Fingerprint of the safetensors in ``folder``, read through a memory map (no torch). Raises ValueError if there
    are none."""
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
    with contextlib.ExitStack() as open_maps:
        maps = {}
        for file in {entry[0] for entry in entries.values()}:
            with file.open("rb") as handle:
                maps[file] = open_maps.enter_context(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        return digest(_slices(entries, maps))


def _slices(
    entries: dict[str, tuple[Path, str, tuple[int, ...], int, int]], maps: dict[Path, mmap.mmap]
) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
    for name, (file, dtype, shape, start, end) in sorted(entries.items()):
        with memoryview(maps[file]) as view, view[start:end] as part:
            yield name, dtype, shape, part
