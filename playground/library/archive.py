"""Adapters as zip files. An archive is judged by its table of contents before a byte of it is written."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from playground.errors import AdapterError
from playground.library.files import is_plain_file, plain_text
from playground.library.safety import CONFIG, SIZE_LIMIT_BYTES, WEIGHTS, what_lacks
from playground.library.source import KNOWN, check_size, left_of, place_of

RATIO_LIMIT = 200
"""How many times larger than the archive its contents may be, once they pass RATIO_FREE_BYTES."""
RATIO_FREE_BYTES = 16 * 1024 * 1024
ENTRIES_LIMIT, _DIRECTORY_LIMIT_BYTES = 2_000, 1024 * 1024
"""Files that an archive may list: a Trainer's folder with all its checkpoints has a few hundred. Few of them are unpacked."""


def unpack(zip_path: Path, target: Path) -> list[str]:
    """Unpack an adapter's known files into ``target`` (created; must be empty), from the folder in the archive that holds them.

    Returns the names of what was left in the archive. Raises AdapterError, and leaves nothing behind, when the archive is damaged, too
    large, or holds links or paths that lead elsewhere.
    """
    if not is_plain_file(zip_path):
        raise AdapterError(f"{zip_path} is not a file. Name a zip of an adapter's folder.")
    if target.exists() and any(target.iterdir()):
        raise AdapterError(f"{target} is not empty. Name a new folder.")
    created = not target.exists()
    try:
        _check_directory(zip_path)
        with zipfile.ZipFile(zip_path) as archive:
            plan, left = _plan(archive, zip_path)
            target.mkdir(parents=True, exist_ok=True)
            for info, name in plan:
                with archive.open(info) as reading, (target / name).open("xb") as out:
                    shutil.copyfileobj(reading, out, 1024 * 1024)
    except AdapterError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as exc:
        _clear(target, created)
        why = plain_text(str(exc), 100)
        raise AdapterError(f"{zip_path.name} is damaged or is not a zip file ({why}). Make it again.") from exc
    except BaseException:
        _clear(target, created)
        raise
    return left


def pack(folder: Path, zip_path: Path) -> Path:
    """Write the regular files of ``folder`` into a zip, inside one folder of its name. Raises AdapterError if it exists."""
    if zip_path.exists() or zip_path.is_symlink():
        raise AdapterError(f"{zip_path} exists already. Name another folder, or delete it first.")
    zip_path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=zip_path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
                for path in sorted(p for p in folder.iterdir() if is_plain_file(p) and not p.name.startswith(".")):
                    # A fixed date: the same adapter gives the same archive.
                    info = zipfile.ZipInfo(f"{folder.name}/{path.name}", (1980, 1, 1, 0, 0, 0))
                    info.external_attr = (stat.S_IFREG | 0o644) << 16
                    info.file_size = path.stat().st_size
                    with path.open("rb") as reading, archive.open(info, "w") as member:
                        shutil.copyfileobj(reading, member, 1024 * 1024)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, zip_path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return zip_path


def _clear(target: Path, created: bool) -> None:
    """Take away what was written. ``target`` was empty or absent before."""
    if target.is_dir():
        for path in target.iterdir():
            path.unlink()
        if created:
            target.rmdir()


def _check_directory(zip_path: Path) -> None:
    """Refuse an absurd table of contents before ``zipfile`` reads it into memory (it trusts the sizes written there)."""
    size = zip_path.stat().st_size
    if size > SIZE_LIMIT_BYTES:
        raise AdapterError(f"{zip_path.name} has {size} bytes; at most {SIZE_LIMIT_BYTES} are taken.")
    with zip_path.open("rb") as reading:
        reading.seek(max(0, size - 65_557 - 20))
        tail = reading.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise AdapterError(f"{zip_path.name} is damaged or is not a zip file. Make it again from the adapter's folder.")
    entries, directory = struct.unpack_from("<HI", tail, at + 10)
    if tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
        raise AdapterError(f"{zip_path.name} is a 64-bit zip; no adapter needs that. Pack it with an ordinary zip tool.")
    if entries > ENTRIES_LIMIT or directory > _DIRECTORY_LIMIT_BYTES:
        raise AdapterError(_too_many(zip_path, entries))


def _plan(archive: zipfile.ZipFile, zip_path: Path) -> tuple[list[tuple[zipfile.ZipInfo, str]], list[str]]:
    """(what to unpack and under which plain name, the names of the rest). Raises AdapterError for an archive that cannot be trusted."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        parts = _parts(info, zip_path)
        # What a Mac adds to every zip it makes.
        if not info.is_dir() and parts[0] != "__MACOSX" and parts[-1] != ".DS_Store":
            if "/".join(parts) in found:
                raise AdapterError(f"{zip_path.name} holds two files of one name. Pack the adapter's folder again.")
            found["/".join(parts)] = info
    if not found:
        raise AdapterError(f"{zip_path.name} is empty. Pack the adapter's folder into it.")
    place = place_of(found)
    plan = [(found[place + name], name) for name in KNOWN if place + name in found]
    for info, name in plan:
        _check_entry(info, zip_path, name)
        check_size(name, info.file_size)
    if not {CONFIG, WEIGHTS} <= {name for _, name in plan}:
        raise AdapterError(what_lacks(zip_path.name, [name.removeprefix(place) for name in found]))
    total = sum(info.file_size for info, _ in plan)
    packed = zip_path.stat().st_size
    if total > SIZE_LIMIT_BYTES or (total > RATIO_FREE_BYTES and total > RATIO_LIMIT * packed):
        raise AdapterError(
            f"{zip_path.name} would unpack from {packed} to {total} bytes; at most {SIZE_LIMIT_BYTES}, and {RATIO_LIMIT} "
            "times its own size, are taken. If it is sound, unpack it yourself and import the folder."
        )
    return plan, left_of(found, place)


def _parts(info: zipfile.ZipInfo, zip_path: Path) -> list[str]:
    """The parts of an entry's path. Raises AdapterError for one that leads out; the rest is asked only of what is unpacked."""
    path = info.orig_filename.rstrip("/")
    if {"", ".."} & set(re.split(r"[/\\]", path)) or PureWindowsPath(path).is_absolute():
        told = plain_text(info.orig_filename) or "a file without a name"
        raise AdapterError(
            f"{zip_path.name} contains {told}, a path that could lead elsewhere. Pack the folder again, with plain names."
        )
    return path.split("/")


def _check_entry(info: zipfile.ZipInfo, zip_path: Path, name: str) -> None:
    where = f"{zip_path.name} contains {name}"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise AdapterError(f"{where}, a link or a special file. Put the file itself in its place and pack the folder again.")
    if info.header_offset < 0:
        raise AdapterError(f"{zip_path.name} is damaged: its beginning is missing. Make it again from the adapter's folder.")
    if info.flag_bits & 0x1:
        raise AdapterError(f"{where}, which is locked with a password. Pack the folder without one.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AdapterError(f"{where}, packed in an unusual way. Pack the folder with an ordinary zip tool.")


def _too_many(zip_path: Path, count: int) -> str:
    return (
        f"{zip_path.name} lists {count} files, or very long names; at most {ENTRIES_LIMIT} are taken. Pack one adapter's folder."
    )
