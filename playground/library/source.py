"""Where an adapter lies among other files, and which of them are taken: nothing else is opened, so it may be whatever it is."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from playground.errors import AdapterError
from playground.library.files import JSON_LIMIT_BYTES, copy_file, is_plain_file, plain_text
from playground.library.safety import CARD, CONFIG, RECORD, SIZE_LIMIT_BYTES, WEIGHTS, what_lacks
from playground.library.vocabulary import ADDED, LIMIT_BYTES, TOKENIZER

KEPT, COMPARED = (CONFIG, WEIGHTS, CARD, RECORD), (TOKENIZER, ADDED)
"""What an adapter is made of, and what is only compared with the base's tokenizer."""
KNOWN = (*KEPT, *COMPARED)
DEPTH, LOOKED_AT, TOLD = 4, 5_000, 8
"""How deep below a named folder an adapter is looked for, among how many files, and how many others are named."""
_LIMITS = {WEIGHTS: SIZE_LIMIT_BYTES, TOKENIZER: LIMIT_BYTES, ADDED: LIMIT_BYTES}


def place_of(files: Collection[str]) -> str:
    """The folder among paths with / in which an adapter lies, with its /, "" = the top: the one that is least deep.

    Raises AdapterError where several lie equally deep.
    """
    whole = {_folder(file) for file in files if file.endswith(CONFIG) and PurePosixPath(file).name == CONFIG}
    whole = {folder for folder in whole if folder + WEIGHTS in files} or whole
    least = min((folder.count("/") for folder in whole), default=0)
    found = sorted(folder for folder in whole if folder.count("/") == least)
    if len(found) > 1:
        raise AdapterError(
            f"There are {len(found)} adapters in it: {_listed([one.rstrip('/') for one in found])}. Name one of them, or pack it alone."
        )
    return found[0] if found else ""


def left_of(files: Iterable[str], place: str) -> list[str]:
    """What is left of ``files`` when an adapter is taken from ``place``: names in that folder, folders with a /."""
    beside = {name + slash for name, slash, _ in (file.removeprefix(place).partition("/") for file in files)}
    return sorted(beside - set(KEPT))


def check_size(name: str, size: int) -> None:
    """Raise AdapterError when a known file is larger than such a file may be."""
    if size > (limit := _LIMITS.get(name, JSON_LIMIT_BYTES)):
        raise AdapterError(f"{name} has {size} bytes; at most {limit} are taken. Make it smaller.")


def left_words(left: Sequence[str]) -> str:
    return f"left where it was: {_listed(left)}"


def copy_known(folder: Path, target: Path) -> list[str]:
    """Copy an adapter's known files out of ``folder`` (or the one below it that holds them) into ``target``; returns the names of the rest.

    A link is followed only to a plain file inside the named folder, or inside the ``blobs`` of the hub's cache that the folder belongs to.
    Raises AdapterError.
    """
    files = sorted(entry.name for entry in os.scandir(folder) if entry.name in (CONFIG, WEIGHTS))
    files = files or _below(folder)
    place = place_of(files)
    source = folder / place
    for name in KNOWN:
        if os.path.lexists(source / name) and (file := _real(source / name, folder)) is not None:
            check_size(name, file.stat().st_size)
            copy_file(file, target / name)
    beside = [f"{entry.name}/" if os.path.isdir(entry.path) else entry.name for entry in os.scandir(source)]
    if not is_plain_file(target / CONFIG) or not is_plain_file(target / WEIGHTS):
        raise AdapterError(what_lacks(source.name, beside))
    return left_of(beside, "")


def _real(path: Path, named: Path) -> Path | None:
    """The plain file that ``path`` is or leads to; None for what is no file. Raises AdapterError for a link that leads out."""
    if not path.is_symlink():
        return path if is_plain_file(path) else None
    cache = next(
        (p.parent for p in (named, *named.parents) if p.name == "snapshots" and p.parent.name.startswith("models--")), None
    )
    roots = [named, *([cache / "blobs"] if cache else [])]
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise AdapterError(f"{path.name} is a link to a file that is not there. Put the file itself in its place.") from error
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
        found += [(below / name).as_posix() for name in files if name in (CONFIG, WEIGHTS)]
    return found


def _folder(file: str) -> str:
    return file[: len(file) - len(PurePosixPath(file).name)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(plain_text(name, 60) for name in names[:TOLD]) + more
