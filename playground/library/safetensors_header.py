"""The header of a safetensors file, read and checked without loading a weight, and the magnitudes of its numbers.

Layout: 8 bytes little-endian header length, that many bytes of JSON ``{name: {dtype, shape, data_offsets}}``, then the
data, without holes. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError
from playground.library.files import is_plain_file
from playground.plain import plain_text

if TYPE_CHECKING:
    import torch

HEADER_LIMIT_BYTES = 32 * 1024 * 1024
TENSORS_LIMIT = 200_000
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    "F4": 4,
}
_LFS_POINTER = b"version https://git-lfs"
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its type as the format names it, its shape, and how many bytes it takes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Name -> entry of every tensor. Raises AdapterError when the file is damaged, cut off, or not safetensors."""
    if not is_plain_file(path):
        raise AdapterError(f"{path.name} is missing from {path.parent.name}, or is not a regular file.")
    size = path.stat().st_size
    with path.open("rb") as reading:
        start = reading.read(8)
        if start == _LFS_POINTER[:8] and reading.read(len(_LFS_POINTER) - 8) == _LFS_POINTER[8:]:
            raise AdapterError(
                f"{path.name} in {path.parent.name} is a pointer, not the weights: run git lfs pull in its folder, or"
                " download the file itself."
            )
        if len(start) < 8:
            raise damaged(path, f"it is only {size} bytes long")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= min(HEADER_LIMIT_BYTES, size - 8):
            raise damaged(path, f"its header claims {length} bytes of a file of {size}")
        raw = reading.read(length)
    try:
        if not raw.startswith(b"{"):
            raise ValueError("it does not start with {")
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as exc:
        raise damaged(path, f"its header is not readable ({str(exc)[:120]})") from exc
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged(path, "its metadata is not a table of texts")
    if len(header) > TENSORS_LIMIT:
        raise damaged(path, f"it lists {len(header)} tensors")
    spans: list[tuple[int, int, str]] = []
    entries: dict[str, TensorEntry] = {}
    for name, fields in header.items():
        try:
            dtype, shape, begin, end = _fields(fields)
        except ValueError as exc:
            raise damaged(path, f"its tensor {name[:120]!r} {exc}") from exc
        spans.append((begin, end, name))
        entries[name] = TensorEntry(dtype, shape, end - begin)
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise damaged(path, f"its tensor {name[:120]!r} starts at byte {begin}, not at {position}")
        position = end
    if position != size - 8 - length:
        raise damaged(path, f"its tensors take {position} bytes, but {size - 8 - length} are there")
    return entries


def _fields(fields: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise ValueError(f"has the unknown type {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_size(d) for d in shape):
        raise ValueError("has a shape that is not a short list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(d) for d in offsets):
        raise ValueError("has offsets that are not two positions")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * ITEM_BITS[dtype]:
        raise ValueError(f"takes {end - begin} bytes, which is not what {shape} of {dtype} take")
    return dtype, tuple(shape), begin, end


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _without_repeats(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name appears twice")
    return table


def damaged(path: Path, why: str) -> AdapterError:
    """What to raise for a file of weights that cannot be read."""
    return AdapterError(
        f"{path.name} in {path.parent.name} is damaged or is not safetensors: {why}. Copy or download it again."
    )


LARGEST = 1e4
"""No number of an adapter is larger, its scale included: trained ones stay far below, and half precision (65504) holds
it."""


def check_magnitudes(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise AdapterError that names the first tensor with a number past LARGEST, an infinite one, or one that is none:
    it would make every
    reply overflow that is written with it. name: the adapter's."""
    import torch

    filled = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
    norms = (
        torch.stack(torch._foreach_norm([t.float() for t in filled.values()], float("inf"))).tolist() if filled else []
    )
    for key, norm in zip(filled, norms, strict=True):
        if not norm <= LARGEST:
            raise AdapterError(
                f"{name} holds {norm:.3g} in {plain_text(key)}, which is not a number that training makes: at most"
                f" {LARGEST:g} is taken. Train it again at a lower learning rate."
            )


def check_file(file: Path, factors: Mapping[str, float]) -> None:
    """The same for the tensors of a safetensors file, read one at a time; for those in ``factors`` also as these scale
    them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as held:
            for key in held.keys():  # noqa: SIM118 - the handle has no iterator
                tensor = held.get_tensor(key)
                check_magnitudes("This adapter", {key: tensor})
                if key in factors:
                    check_magnitudes("This adapter", {f"{key} (times its scale)": tensor.float() * factors[key]})
    except SafetensorError as error:
        raise damaged(file, plain_text(str(error), 120)) from error
