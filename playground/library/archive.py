"""An adapter among other files, in a folder or a zip: only its known files are taken, and nothing else is opened. An
archive is judged by its table of contents before a byte of it is written."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PureWindowsPath

from playground.errors import AdapterError
from playground.library.card import CARD, CONFIG, OF_MLX, RECORD, RECORD_LIMIT_BYTES, WEIGHTS
from playground.library.files import JSON_LIMIT_BYTES, copy_file, is_plain_file, replacing
from playground.library.safety import ADDED, SIZE_LIMIT_BYTES, TOKENIZER, TOKENIZER_LIMIT_BYTES, what_lacks
from playground.plain import plain_text

KEPT, COMPARED = (CONFIG, WEIGHTS, CARD, RECORD), (TOKENIZER, ADDED)
"""What an adapter is made of, and what is only compared with the base's tokenizer."""
KNOWN = (*KEPT, *COMPARED, OF_MLX)
DEPTH, LOOKED_AT, TOLD = 4, 5_000, 8
"""How deep below a named folder an adapter is looked for, among how many files, and how many others are named."""
RATIO_LIMIT, RATIO_FREE_BYTES = 200, 16 * 1024 * 1024
"""How many times larger than the archive its contents may be, once they pass so many bytes."""
ENTRIES_LIMIT, _DIRECTORY_LIMIT_BYTES = 2_000, 1024 * 1024
"""Files that an archive may list: a Trainer's folder with all its checkpoints has a few hundred."""
_LIMITS = dict.fromkeys((WEIGHTS, OF_MLX), SIZE_LIMIT_BYTES) | dict.fromkeys(COMPARED, TOKENIZER_LIMIT_BYTES)
_LIMITS[RECORD] = RECORD_LIMIT_BYTES
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)


def place_of(files: Collection[str]) -> str:
    """The least deep folder among paths with / that holds an adapter, with its /, "" = the top. Raises AdapterError
    where several lie equally deep."""
    whole = {file.removesuffix(CONFIG) for file in files if file.rpartition("/")[2] == CONFIG}
    whole = {folder for folder in whole if folder + WEIGHTS in files or folder + OF_MLX in files} or whole
    least = min((folder.count("/") for folder in whole), default=0)
    found = sorted(folder for folder in whole if folder.count("/") == least)
    if len(found) > 1:
        said = f"There are {len(found)} adapters in it: {listed([one.rstrip('/') for one in found])}."
        raise AdapterError(f"{said} Name one of them, or pack it alone.")
    return found[0] if found else ""


def left_of(files: Iterable[str], place: str) -> list[str]:
    """What is left of ``files`` when an adapter is taken from ``place``: names in that folder, folders with a /."""
    beside = {name + slash for name, slash, _ in (file.removeprefix(place).partition("/") for file in files)}
    return sorted(beside - {*KEPT, *([] if WEIGHTS in beside else [OF_MLX])})


def check_size(name: str, size: int) -> None:
    if size > (limit := _LIMITS.get(name, JSON_LIMIT_BYTES)):
        raise AdapterError(f"{name} has {size} bytes; at most {limit} are taken. Make it smaller.")


def listed(names: Sequence[str]) -> str:
    """The first few names, for a person."""
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(plain_text(name, 60) for name in names[:TOLD]) + more


def copy_known(folder: Path, target: Path) -> list[str]:
    """Copy an adapter's known files out of ``folder``, or the one below that holds them; the names of the rest. A link
    is followed only to a plain file inside the named folder or the ``blobs`` of its hub cache. Raises AdapterError."""
    files = sorted(entry.name for entry in os.scandir(folder) if entry.name in (CONFIG, WEIGHTS, OF_MLX))
    source = folder / place_of(files or _below(folder))
    for name in KNOWN:
        if os.path.lexists(source / name) and (file := _real(source / name, folder)) is not None:
            check_size(name, file.stat().st_size)
            copy_file(file, target / name)
    for name in (CONFIG, WEIGHTS):
        if os.path.lexists(source / name) and not is_plain_file(target / name) and not (source / name).is_dir():
            raise AdapterError(f"{name} is no regular file. Put the file itself in its place.")
    beside = [f"{entry.name}/" if os.path.isdir(entry.path) else entry.name for entry in os.scandir(source)]
    if not is_plain_file(target / CONFIG) or not any(is_plain_file(target / name) for name in (WEIGHTS, OF_MLX)):
        raise AdapterError(what_lacks(source.name, beside))
    return left_of(beside, "")


def _real(path: Path, named: Path) -> Path | None:
    """The plain file that ``path`` is or leads to, or None. Raises AdapterError for a link that leads out."""
    if not path.is_symlink():
        return path if is_plain_file(path) else None
    caches = [place.parent for place in (named, *named.parents) if place.name == "snapshots"]
    roots = [named, *[cache / "blobs" for cache in caches if cache.name.startswith("models--")][:1]]
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        why = f"{path.name} is a link to a file that is not there. Put the file itself in its place."
        raise AdapterError(why) from error
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise AdapterError(f"{path.name} is a link that leads out of {named.name}; put the file itself in its place.")
    return real if is_plain_file(real) else None


def _below(folder: Path) -> list[str]:
    """Paths of an adapter's config and weights below a folder, a few folders deep. Linked folders are not entered."""
    found, looked = [], 0
    for place, folders, files in os.walk(folder):
        looked += len(folders) + len(files)
        if looked > LOOKED_AT:
            break
        below = Path(place).relative_to(folder)
        if len(below.parts) >= DEPTH:
            folders.clear()
        folders[:] = sorted(name for name in folders if name != ".git")
        found += [(below / name).as_posix() for name in files if name in (CONFIG, WEIGHTS, OF_MLX)]
    return found


def unpack(zip_path: Path, target: Path) -> list[str]:
    """Unpack an adapter's known files into ``target`` (created; must not be there); the names of the rest. Raises
    AdapterError, leaving nothing behind, for an archive that is damaged, too large, or holds links or ways out."""
    if not is_plain_file(zip_path):
        raise AdapterError(f"{zip_path} is not a file. Name a zip of an adapter's folder.")
    if os.path.lexists(target):
        raise AdapterError(f"{target} is there already. Name a new folder.")
    try:
        _check_directory(zip_path)
        with zipfile.ZipFile(zip_path) as archive:
            plan, left = _plan(archive, zip_path)
            target.mkdir(parents=True)
            for info, name in plan:
                with archive.open(info) as reading, (target / name).open("xb") as out:
                    shutil.copyfileobj(reading, out, 1024 * 1024)
        return left
    except BaseException as error:  # nothing is left behind, whatever went wrong
        shutil.rmtree(target, ignore_errors=True)
        if not isinstance(error, _DAMAGES):
            raise
        why = plain_text(str(error), 100)
        raise AdapterError(f"{zip_path.name} is damaged or is not a zip file ({why}). Make it again.") from error


def pack(folder: Path, zip_path: Path) -> Path:
    """Zip a folder's regular files and those of its folders, reproducibly, in one folder of its name. Raises
    AdapterError if it exists."""
    if os.path.lexists(zip_path):
        raise AdapterError(f"{zip_path} exists already. Name another folder, or delete it first.")
    zip_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(zip_path) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if is_plain_file(p) and not p.name.startswith(".")):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = path.stat().st_size
            with path.open("rb") as reading, archive.open(info, "w") as member:
                shutil.copyfileobj(reading, member, 1024 * 1024)
    return zip_path


def _check_directory(zip_path: Path) -> None:
    """Refuse an absurd table of contents before ``zipfile``, which trusts it, reads it into memory."""
    name, size = zip_path.name, zip_path.stat().st_size
    if size > SIZE_LIMIT_BYTES:
        raise AdapterError(f"{name} has {size} bytes; at most {SIZE_LIMIT_BYTES} are taken.")
    with zip_path.open("rb") as reading:
        reading.seek(max(0, size - 65_557 - 20))
        tail = reading.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise AdapterError(f"{name} is damaged or is not a zip file. Make it again from the adapter's folder.")
    entries, directory = struct.unpack_from("<HI", tail, at + 10)
    if tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
        raise AdapterError(f"{name} is a 64-bit zip; no adapter needs that. Pack it with an ordinary zip tool.")
    if entries > ENTRIES_LIMIT or directory > _DIRECTORY_LIMIT_BYTES:
        said = f"{name} lists {entries} files, or very long names; at most {ENTRIES_LIMIT} are taken."
        raise AdapterError(f"{said} Pack one adapter's folder.")


def _plan(archive: zipfile.ZipFile, zip_path: Path) -> tuple[list[tuple[zipfile.ZipInfo, str]], list[str]]:
    """(what to unpack and under which name, the names of the rest). Raises AdapterError for an unsafe archive."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        path = _path(info, zip_path)
        # What a Mac adds to every zip it makes.
        if not info.is_dir() and path.partition("/")[0] != "__MACOSX" and path.rpartition("/")[2] != ".DS_Store":
            if path in found:
                raise AdapterError(f"{zip_path.name} holds two files of one name. Pack the adapter's folder again.")
            found[path] = info
    if not found:
        raise AdapterError(f"{zip_path.name} is empty. Pack the adapter's folder into it.")
    place = place_of(found)
    plan = [(found[place + name], name) for name in KNOWN if place + name in found]
    for info, name in plan:
        _check_entry(info, zip_path, name)
        check_size(name, info.file_size)
    names = {name for _, name in plan}
    if CONFIG not in names or not names & {WEIGHTS, OF_MLX}:
        raise AdapterError(what_lacks(zip_path.name, [name.removeprefix(place) for name in found]))
    total = sum(info.file_size for info, _ in plan)
    packed = zip_path.stat().st_size
    if total > SIZE_LIMIT_BYTES or (total > RATIO_FREE_BYTES and total > RATIO_LIMIT * packed):
        said = f"{zip_path.name} would unpack from {packed} to {total} bytes; at most {SIZE_LIMIT_BYTES}, and"
        mend = "If it is sound, unpack it yourself and import the folder."
        raise AdapterError(f"{said} {RATIO_LIMIT} times its own size, are taken. {mend}")
    return plan, left_of(found, place)


def _path(info: zipfile.ZipInfo, zip_path: Path) -> str:
    """An entry's path. Raises AdapterError for one that leads out; the rest is asked only of what is unpacked."""
    path = info.orig_filename.rstrip("/")
    if {"", ".."} & set(re.split(r"[/\\]", path)) or PureWindowsPath(path).is_absolute():
        shown = plain_text(info.orig_filename) or "a file without a name"
        said = f"{zip_path.name} contains {shown}, a path that could lead elsewhere."
        raise AdapterError(f"{said} Pack the folder again, with plain names.")
    return path


def _check_entry(info: zipfile.ZipInfo, zip_path: Path, name: str) -> None:
    where = f"{zip_path.name} contains {name}"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        said = f"{where}, a link or a special file."
        raise AdapterError(f"{said} Put the file itself in its place and pack the folder again.")
    if info.header_offset < 0:
        why = f"{zip_path.name} is damaged: its beginning is missing."
        raise AdapterError(f"{why} Make it again from the adapter's folder.")
    if info.flag_bits & 0x1:
        raise AdapterError(f"{where}, which is locked with a password. Pack the folder without one.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AdapterError(f"{where}, packed in an unusual way. Pack the folder with an ordinary zip tool.")
