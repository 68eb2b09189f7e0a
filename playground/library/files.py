"""Careful reading and writing: JSON objects, durable moves, hashes, safetensors headers. Nothing here follows a link.
A safetensors file (https://huggingface.co/docs/safetensors) is the header's length in 8 bytes, little-endian; the
header, JSON ``{name: {dtype, shape, data_offsets}}``; the data, without holes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

from playground.errors import AdapterError
from playground.plain import plain_text

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer

JSON_LIMIT_BYTES, _CHUNK_BYTES = 4 * 1024 * 1024, 1024 * 1024


def private_folder(folder: Path) -> None:
    """Make a folder that nobody else can enter. One that is there and belongs to this person becomes so too, unless
    others are meant to enter it: the root, the person's own home, a folder like /tmp."""
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


def _refuse_other_files(path: Path) -> None:
    if not is_plain_file(path):
        raise AdapterError(f"{path.name} is missing from {path.parent.name}, or is not a regular file.")


_LFS_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """Raise AdapterError for what git leaves of a large file until ``git lfs pull`` (git-lfs, docs/spec.md)."""
    with path.open("rb") as reading:
        if reading.read(len(_LFS_POINTER)) == _LFS_POINTER:
            what = "the weights" if path.suffix == ".safetensors" else "the file"
            where = f"{path.name} in {path.parent.name} is a pointer, not {what}"
            raise AdapterError(f"{where}: run git lfs pull in its folder, or download the file itself.")


def read_json(path: Path, limit: int = JSON_LIMIT_BYTES) -> dict[str, Any]:
    """The JSON object in a small file. Raises AdapterError when it is no regular file, too large, or no object."""
    _refuse_other_files(path)
    size, where = path.stat().st_size, f"{path.name} in {path.parent.name}"
    if size > limit:
        raise AdapterError(f"{path.name} is {size} bytes long; such a file has at most {limit}.")
    refuse_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse_constant)
    except (ValueError, RecursionError, OSError) as error:
        why = plain_text(str(error), 120) or type(error).__name__
        raise AdapterError(f"{where} is not readable JSON ({why}).") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{where} holds a {type(value).__name__}; it must hold a JSON object.")
    return value


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` in one step at the end: a reader sees all of it or the old one. mode:
    who may read it then; until then nobody else."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``path`` in one step."""
    with replacing(path, mode) as out:
        out.write(text.encode())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace ``path`` in one step."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a regular file: no links, no permissions, no overwriting."""
    handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as reading, target.open("xb") as out:
        shutil.copyfileobj(reading, out, _CHUNK_BYTES)


def sync_folder(folder: Path, *, with_files: bool = True) -> None:
    """Ask the system to put a folder's table of names, and the files in it, on the disk."""
    files = [path for path in folder.iterdir() if is_plain_file(path)] if with_files else []
    for path in [*files, folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


HEADER_LIMIT_BYTES, TENSORS_LIMIT = 32 * 1024 * 1024, 200_000
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class TensorEntry(NamedTuple):
    """A tensor: its type as the format names it, its shape, and its bytes [begin, end) in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path, most: int = TENSORS_LIMIT) -> dict[str, TensorEntry]:
    """Name -> entry of every tensor. Raises AdapterError when the file is damaged, cut off, or not safetensors, and
    where it has more than ``most``, or a header that is too long for them: the library takes a minute for 300,000."""
    from safetensors import SafetensorError, safe_open

    _refuse_other_files(path)
    refuse_pointer(path)
    with path.open("rb") as reading:
        length = int.from_bytes(reading.read(8), "little")
        try:
            if length > HEADER_LIMIT_BYTES * most // TENSORS_LIMIT:
                raise ValueError(f"its header claims {length} bytes")
            with safe_open(path, framework="np"):  # known types, sizes that their bytes fit, data without holes
                reading.seek(8)
                header = json.loads(reading.read(length), object_pairs_hook=_without_repeats)
        except (SafetensorError, ValueError) as error:
            raise damaged(path, plain_text(str(error), 160)) from error
    header.pop("__metadata__", None)
    if len(header) > most:
        raise damaged(path, f"it lists {len(header)} tensors")
    return {
        name: TensorEntry(about["dtype"], tuple(about["shape"]), *(8 + length + at for at in about["data_offsets"]))
        for name, about in header.items()
    }


def write_tensors(source: Path, target: Path, kept: Mapping[str, tuple[str, bool]]) -> None:
    """Write tensors of a sound safetensors file to another one. kept: name -> (its new name, whether it is
    transposed). Their numbers stay as they are, whatever their type."""
    import numpy

    entries, header, at = read_header(source), {}, 0
    for name, (new, turned) in sorted(kept.items()):
        held = entries[name]
        shape, size = held.shape[::-1] if turned else held.shape, held.end - held.begin
        header[new] = {"dtype": held.dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with replacing(target) as out, source.open("rb") as reading:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, (_, turned) in sorted(kept.items()):
            held = entries[name]
            reading.seek(held.begin)
            data = reading.read(held.end - held.begin)
            if turned and data:
                item = len(data) // math.prod(held.shape)
                data = numpy.frombuffer(data, f"u{item}").reshape(held.shape).T.tobytes()
            out.write(data)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name appears twice")
    return table


def damaged(path: Path, why: str) -> AdapterError:
    """What to raise for a file of weights that cannot be read."""
    where = f"{path.name} in {path.parent.name}"
    return AdapterError(f"{where} is damaged or is not safetensors: {why}. Copy or download it again.")


def shards(index: Path) -> list[Path]:
    """The files that a safetensors index names, sorted; each must lie beside it."""
    table = read_json(index.resolve()).get("weight_map")
    names = {name if isinstance(name, str) else "" for name in table.values()} if isinstance(table, dict) else set()
    if not names or not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors", name) for name in names):
        raise AdapterError(f"{index.name} does not name its safetensors files.")
    return [index.parent / name for name in sorted(names)]


LARGEST = 1e4  # no number of a trained adapter is larger, its scale included; half precision (65504) holds it


def check_magnitudes(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise AdapterError that names the first tensor with a number past LARGEST, an infinite one, or one that is none:
    it would make every reply overflow that is written with it. name: the adapter's."""
    import torch

    filled = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
    if not filled:
        return
    norms = torch.stack(torch._foreach_norm([tensor.float() for tensor in filled.values()], float("inf"))).tolist()
    for key, norm in zip(filled, norms, strict=True):
        if not norm <= LARGEST:
            said = f"{name} holds {norm:.3g} in {plain_text(key)}, which is not a number that training makes:"
            raise AdapterError(f"{said} at most {LARGEST:g} is taken. Train it again at a lower learning rate.")


def check_file(file: Path, factors: Mapping[str, float]) -> None:
    """The same for a sound safetensors file, read tensor by tensor; for those in ``factors`` also once scaled."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as held:
        for key in held.keys():  # noqa: SIM118 - the handle has no iterator
            tensor = held.get_tensor(key)
            check_magnitudes("This adapter", {key: tensor})
            if key in factors:
                check_magnitudes("This adapter", {f"{key} (times its scale)": tensor.float() * factors[key]})


DIGITS = 16  # hex digits of a fingerprint: 64 bits, enough that two bases on one disk never share one


def sha256_of(paths: list[Path]) -> str:
    """SHA-256 (hex) of the files' bytes, one after another. Remembered while size and time of change stay the same."""
    stats = [(path, path.stat()) for path in paths]
    return _sha256(tuple((str(path), s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats))


def file_sha256(path: Path) -> str:
    """Of a file's bytes, or of all files of a folder in their order."""
    return sha256_of(sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path])


@lru_cache(maxsize=512)
def _sha256(files: tuple[tuple[str, int, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for path, *_ in files:
        with open(path, "rb") as reading:
            hashlib.file_digest(reading, lambda: whole)
    return whole.hexdigest()


def digest(tensors: Iterable[tuple[str, str, tuple[int, ...], Buffer]]) -> str:
    """Fingerprint of ``(name, dtype, shape, buffer)`` items; they must come sorted by name."""
    whole = hashlib.sha256()
    for name, dtype, shape, data in tensors:
        whole.update(f"{name}|{dtype}|{list(shape)}|".encode())
        whole.update(data)
    return whole.hexdigest()[:DIGITS]


def file_fingerprint(folder: Path) -> str:
    """Fingerprint of the safetensors in ``folder``, read through a memory map (no torch). Raises ValueError if there
    are none, AdapterError for one that is damaged."""
    found: dict[str, tuple[Path, TensorEntry]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {name: (file, entry) for name, entry in read_header(file.resolve()).items()}
    if not found:
        raise ValueError(f"{folder} holds no safetensors")
    maps = {}
    for file in {file for file, _ in found.values()}:
        with file.open("rb") as handle:  # unmapped when the last view of it is gone
            maps[file] = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    return digest(
        (name, entry.dtype, entry.shape, maps[file][entry.begin : entry.end])
        for name, (file, entry) in sorted(found.items())
    )
