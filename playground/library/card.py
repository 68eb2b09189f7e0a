"""What the library knows about one adapter: read from its folder, never from its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playground.errors import AdapterError
from playground.library.base_shapes import shards
from playground.library.files import is_plain_file, read_json, sha256_of
from playground.library.safetensors_header import read_header
from playground.methods import method_of
from playground.plain import plain_number, plain_text

SCHEMA = 1
"""Version of run.json that this code writes."""

NOTES = "import_notes"
"""Key of run.json for what an import changed and left out."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class AdapterCard:
    """One adapter.

    name: what a person reads. method: such as ``lora``. base: what it was trained on. base_fingerprint: of that base's
    weights, '' =
    unknown. rank: of LoRA and DoRA. bytes: of the weights on disk. rows: training rows, 0 = unknown. created_s: seconds
    since 1970.
    shipped: came with the app. kind: ``peft`` for a PEFT folder, ``full`` for a whole model. trained_on: the data
    file's name.
    objective: such as ``sft``; ``reward`` is never a side of a comparison. virtual_tokens: how many it puts before a
    text. notes: what its
    import changed and left out.
    """

    id: str
    name: str
    method: str
    base: str
    base_fingerprint: str
    rank: int | None
    bytes: int
    sha256: str
    rows: int
    created_s: float
    shipped: bool
    kind: Literal["peft", "full"]
    path: Path
    owner: str
    trained_on: str
    objective: str = ""
    virtual_tokens: int = 0
    notes: tuple[str, ...] = ()


def read_card(folder: Path, *, shipped: bool = False) -> AdapterCard:
    """Describe the adapter in ``folder``. Raises AdapterError when it is damaged.

    run.json may be missing (an adapter made elsewhere); ``adapter_config.json`` then says what can be known.
    """
    folder = Path(folder)
    if folder.is_symlink() or not folder.is_dir():
        raise AdapterError(f"{folder} is not a folder of an adapter.")
    run = read_run(folder)
    kind: Literal["peft", "full"] = "peft" if (folder / "adapter_config.json").exists() else "full"
    config = read_json(folder / ("adapter_config.json" if kind == "peft" else "config.json"))
    weights = weight_files(folder, kind)
    for file in weights:
        read_header(file)  # finds a file that was cut off
    known = run.get("sha256")
    return AdapterCard(
        id=folder.name,
        name=plain_text(run.get("name"), 100) or folder.name,
        method=plain_text(run.get("method"), 40) or (method_of(config) if kind == "peft" else "full"),
        base=plain_text(run.get("base")) or plain_text(config.get("base_model_name_or_path")) or "unknown",
        base_fingerprint=plain_text(run.get("base_fingerprint"), 64),
        rank=_rank(run, config),
        bytes=sum(file.stat().st_size for file in weights),
        sha256=known if isinstance(known, str) and _SHA256.fullmatch(known) else sha256_of(weights),
        rows=int(plain_number(run.get("rows_used")) or 0),
        created_s=float(plain_number(run.get("created_s")) or weights[0].stat().st_mtime),
        shipped=shipped,
        kind=kind,
        path=folder,
        owner=plain_text(run.get("owner")) or "local",
        trained_on=plain_text(run.get("data")),
        objective=plain_text(run.get("objective"), 40),
        virtual_tokens=int(plain_number(config.get("num_virtual_tokens")) or 0) if kind == "peft" else 0,
        notes=tuple(plain_text(note, 400) for note in notes[:10]) if isinstance(notes := run.get(NOTES), list) else (),
    )


def read_run(folder: Path) -> dict[str, Any]:
    """The record of the run that made it, or {} where there is none. Raises AdapterError when it cannot be
    understood."""
    path = folder / "run.json"
    if not path.exists() and not path.is_symlink():
        return {}
    run = read_json(path)
    schema = run.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise AdapterError(
            f"run.json in {folder.name} has schema {plain_text(repr(schema), 20)}; this version reads {SCHEMA}. "
            "It was written by a newer version: update the playground."
        )
    return run


def weight_files(folder: Path, kind: str) -> list[Path]:
    """The files that hold the weights, in the order in which they are hashed. Raises AdapterError when one is
    missing."""
    name = "adapter_model.safetensors" if kind == "peft" else "model.safetensors"
    index = folder / f"{name}.index.json"
    files = (
        shards(index) if kind == "full" and is_plain_file(index) and not (folder / name).exists() else [folder / name]
    )
    for file in files:
        if not is_plain_file(file):
            raise AdapterError(f"{folder.name} lacks {file.name}. Remove this adapter, or put the file back.")
    return files


def _rank(run: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    rank = plain_number(config.get("r")) if config.get("peft_type") == "LORA" else None
    rank = rank or plain_number(run.get("rank"))
    return int(rank) if rank else None
