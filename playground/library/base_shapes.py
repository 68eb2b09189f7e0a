"""What a base looks like from outside: the names and shapes of its weights, read from file headers only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.errors import AdapterError, BaseUnavailableError
from playground.library.files import plain_number, read_json
from playground.library.safetensors_header import FLOATS, read_header

UNKNOWN_SHAPE: tuple[int, ...] = ()
"""Shape of a weight that is stored packed (a quantised base): it exists, but its file does not say how wide it is."""

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_INPUT_BY_OUTPUT = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")


@dataclass(frozen=True)
class BaseShapes:
    """shapes: weight name -> shape as stored. config: the base's config.json. fingerprint: of the weights, '' = unknown. folder: where
    they were read from, None = nowhere."""

    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    folder: Path | None = None

    @classmethod
    def from_folder(cls, path: Path, fingerprint: str = "") -> BaseShapes:
        """Read ``model.safetensors``, or the shards its index names. Raises BaseUnavailableError."""
        path = Path(path)
        try:
            shapes = {name: shape for file in _weight_files(path) for name, shape in _read(file).items()}
            config = read_json((path / "config.json").resolve()) if (path / "config.json").is_file() else {}
        except AdapterError as exc:
            raise BaseUnavailableError(f"The base in {path} cannot be read. {exc}") from exc
        tied = next((shape for name, shape in shapes.items() if name.endswith(_EMBEDDINGS)), None)
        if tied is not None and "lm_head.weight" not in shapes:
            shapes["lm_head.weight"] = tied
        return cls(shapes, config, fingerprint, path)

    def weight(self, module: str) -> tuple[int, ...] | None:
        """Shape of ``<module>.weight``; checkpoints may leave out the first part of the name (``transformer.``)."""
        for name in (module, module.partition(".")[2], f"model.{module}"):
            if (shape := self.shapes.get(f"{name}.weight")) is not None:
                return shape
        return None

    def linear(self, module: str) -> tuple[int, int] | None:
        """(outputs, inputs) of a linear layer, (-1, -1) when stored packed, None when there is no such layer."""
        if f"{module}.weight".endswith(_EMBEDDINGS):
            return None
        shape = self.weight(module)
        if shape == UNKNOWN_SHAPE:
            return -1, -1
        if shape is None or len(shape) != 2:
            return None
        # GPT-2 stores its layers as inputs x outputs; its head is an ordinary linear layer.
        turned = self.config.get("model_type") in _INPUT_BY_OUTPUT and not module.endswith("lm_head")
        return (shape[1], shape[0]) if turned else (shape[0], shape[1])

    def linears(self) -> list[str]:
        """Paths of the linear layers inside the decoder's layers, as the files name them."""
        names = (name.removesuffix(".weight") for name in self.shapes if name.endswith(".weight"))
        return [name for name in names if layer_of(name) is not None and self.linear(name) is not None]

    def layers_beside(self, names: Iterable[str], modules: Iterable[str]) -> set[int]:
        """Indices of the decoder layers of ``names`` in the stacks that an adapter's ``modules`` lie in. A file may hold other towers, and
        layers past the config's count that no model loads (next-token layers)."""
        stacks = {_stack(module) for module in modules}
        # as ``weight`` looks them up
        stacks |= {name for stack in stacks for name in (stack.partition(".")[2], f"model.{stack}".rstrip("."))}
        found = {index for name in names if (index := layer_of(name)) is not None and _stack(name) in stacks}
        return {index for index in found if index < (self._said_layers or index + 1)}

    @property
    def hidden(self) -> int | None:
        """Width of a token's embedding."""
        for name, shape in self.shapes.items():
            if name.endswith(_EMBEDDINGS) and len(shape) == 2:
                return shape[1]
        return self._number("hidden_size")

    @property
    def layers(self) -> int | None:
        """How many decoder layers there are."""
        found = {index for name in self.shapes if (index := layer_of(name)) is not None}
        return min(max(found) + 1, self._said_layers or max(found) + 1) if found else self._said_layers

    @property
    def _said_layers(self) -> int | None:
        text = self.config.get("text_config")
        value = plain_number(text.get("num_hidden_layers")) if isinstance(text, Mapping) else None
        return int(value) if value else self._number("num_hidden_layers")

    @property
    def key_value_width(self) -> int | None:
        """Width of one layer's keys: key-value heads x their size."""
        for name, shape in self.shapes.items():
            if name.endswith(".k_proj.weight") and len(shape) == 2:
                return shape[0]
        heads = self._number("num_attention_heads") or self._number("n_head")
        if not heads or not self.hidden:
            return None
        return (self._number("num_key_value_heads") or heads) * (self._number("head_dim") or self.hidden // heads)

    def _number(self, key: str) -> int | None:
        value = plain_number(self.config.get(key))
        return int(value) if value else None


def layer_of(name: str) -> int | None:
    """Index of the decoder layer that a weight or module belongs to."""
    match = _LAYER.search(f"{name}.")
    return int(match[1]) if match else None


def _stack(name: str) -> str:
    """What stands before a layer's index: ``model`` in ``model.layers.3.mlp``."""
    match = _LAYER.search(f"{name}.")
    return name[: match.start()] if match else ""


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
    names = set(table.values()) if isinstance(table, dict) and all(isinstance(v, str) for v in table.values()) else set()
    if not names or not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors", name) for name in names):
        raise AdapterError(f"{index.name} does not name its safetensors files.")
    return [index.parent / name for name in sorted(names)]


def _read(file: Path) -> dict[str, tuple[int, ...]]:
    # A linked file is fine here: the hub's own cache is made of links.
    return {name: e.shape if e.dtype in FLOATS else UNKNOWN_SHAPE for name, e in read_header(file.resolve()).items()}
