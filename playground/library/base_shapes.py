"""A base's layout, read from the headers of its files, and what a base can carry beside what fits it by its shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from playground.errors import AdapterError, BaseUnavailableError
from playground.library.files import read_json
from playground.library.safetensors_header import FLOATS, read_header
from playground.methods.shapes import EMBEDDINGS, UNKNOWN_SHAPE, BaseLayout, layer_of
from playground.plain import plain_number, plain_text


class BaseShapes(BaseLayout):
    """A base's layout that can be read from its folder."""

    @classmethod
    def from_folder(cls, path: Path, fingerprint: str = "") -> BaseShapes:
        """Read ``model.safetensors``, or the shards its index names. Raises BaseUnavailableError."""
        path = Path(path)
        try:
            # A linked file is fine here: the hub's own cache is made of links.
            entries = {name: e for file in _weight_files(path) for name, e in read_header(file.resolve()).items()}
            config = read_json((path / "config.json").resolve()) if (path / "config.json").is_file() else {}
        except AdapterError as exc:
            raise BaseUnavailableError(f"The base in {path} cannot be read. {exc}") from exc
        shapes = {name: e.shape if e.dtype in FLOATS else UNKNOWN_SHAPE for name, e in entries.items()}
        tied = next((shape for name, shape in shapes.items() if name.endswith(EMBEDDINGS)), None)
        if tied is not None and "lm_head.weight" not in shapes:
            shapes["lm_head.weight"] = tied
        return cls(shapes, config, fingerprint, path)


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return shards(index)
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
    raise BaseUnavailableError(
        f"{folder} holds no model.safetensors ({there or 'it is empty'}). Save the base with save_pretrained: "
        "only safetensors files are read."
    )


def shards(index: Path) -> list[Path]:
    """The files that a safetensors index names, sorted; each must lie beside it."""
    table = read_json(index.resolve()).get("weight_map")
    names = {name if isinstance(name, str) else "" for name in table.values()} if isinstance(table, dict) else set()
    if not names or not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors", name) for name in names):
        raise AdapterError(f"{index.name} does not name its safetensors files.")
    return [index.parent / name for name in sorted(names)]


BODY_ONLY = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures of the fast path: adapters lie on the linear layers of the decoder's layers, whatever path serves them
on this device."""
_WITH_KV_CACHE = ("full_attention", "sliding_attention", "chunked_attention")


def cannot_run(modules: Iterable[str], lead: int, base: Mapping[str, Any], *, prefix: bool) -> str:
    """Why an adapter cannot be asked on a base, or "".

    modules: the layers it changes; lead: tokens that it puts before the text; base: the base's config.json; prefix:
    those tokens are
    keys and values of every layer.
    """
    text = base["text_config"] if isinstance(base.get("text_config"), Mapping) else base
    outside = sorted(name for name in modules if layer_of(name) is None)
    if outside and base.get("model_type") in BODY_ONLY:
        return (
            f"adapts {plain_text(outside[0])}, which lies outside the decoder's layers: this base runs adapters on the"
            ' linear layers inside them. Train it without it (PEFT: target_modules="all-linear" leaves the head out)'
        )
    places = plain_number(text.get("max_position_embeddings") or text.get("n_positions"))
    if places and lead >= places:
        return f"puts {lead} tokens before the text, and this base holds {places}. Train it with fewer"
    kinds = text.get("layer_types")
    if prefix and isinstance(kinds, list) and any(kind not in _WITH_KV_CACHE for kind in kinds):
        return (
            "is keys and values for every layer, and this base has layers that keep none. Train prompt tuning or a LoRA"
        )
    return ""
