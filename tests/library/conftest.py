"""Adapters and bases small enough to write by hand: headers that are true, weights that are zero."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from tests.engine.conftest import make_lora

__all__ = ["make_lora"]

WIDTH, INNER, LAYERS = 8, 12, 2
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "U8": 1, "I64": 8}


def cases(name: str) -> list[dict[str, Any]]:
    """The lines of a table beside the tests."""
    return [json.loads(line) for line in Path(__file__).with_name(f"{name}.jsonl").read_text().splitlines()]


def header(tensors: dict[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, Any]:
    fields, at = {}, 0
    for name, shape in tensors.items():
        size = math.prod(shape) * ITEM_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return fields


def safetensors(path: Path, fields: dict[str, Any] | bytes, data: int | None = None) -> Path:
    raw = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    if data is None:
        data = 0 if isinstance(fields, bytes) else max((f["data_offsets"][1] for f in fields.values()), default=0)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return path


def base_tensors(width: int = WIDTH, layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32, width), "model.norm.weight": (width,)}
    for i in range(layers):
        tensors |= {
            f"model.layers.{i}.self_attn.q_proj.weight": (width, width),
            f"model.layers.{i}.self_attn.k_proj.weight": (width // 2, width),
            f"model.layers.{i}.mlp.down_proj.weight": (width, INNER),
        }
    return tensors


def base_shapes(width: int = WIDTH, layers: int = LAYERS, fingerprint: str = "") -> BaseShapes:
    return BaseShapes({**base_tensors(width, layers), "lm_head.weight": (32, width)}, {}, fingerprint)


def lora_tensors(rank: int = 4, width: int = WIDTH, layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        stem = f"base_model.model.model.layers.{i}"
        tensors |= {
            f"{stem}.self_attn.q_proj.lora_A.weight": (rank, width),
            f"{stem}.self_attn.q_proj.lora_B.weight": (width, rank),
            f"{stem}.mlp.down_proj.lora_A.weight": (rank, INNER),
            f"{stem}.mlp.down_proj.lora_B.weight": (width, rank),
        }
    return tensors


def lora_config(**changes: Any) -> dict[str, Any]:
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "somebody/small-base"}
    return {**lora, "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj", "down_proj"], **changes}


def adapter(
    folder: Path,
    config: dict[str, Any] | None = None,
    tensors: dict[str, tuple[int, ...]] | None = None,
    run: dict[str, Any] | None = None,
    dtype: str = "F32",
) -> Path:
    """A complete adapter folder; a LoRA that fits ``base_shapes()`` unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(lora_config() if config is None else config))
    safetensors(folder / "adapter_model.safetensors", header(lora_tensors() if tensors is None else tensors, dtype))
    if run is not None:
        (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.fixture
def now():
    """[seconds]: the library's clock."""
    return [5000.0]


@pytest.fixture
def own(tmp_path):
    return tmp_path / "home" / "adapters"


@pytest.fixture
def library(tmp_path, own, now):
    return AdapterLibrary(own, tmp_path / "shipped", lambda: now[0])


def a_run(**changes: Any) -> dict[str, Any]:
    about = {"schema": 1, "run": "r1", "name": "Hospital reports", "owner": "local", "created_s": 1000.0}
    base = {"method": "lora", "base": "smollm2-135m", "base_fingerprint": "ab" * 8, "objective": "sft", "rank": 4}
    training = {"rows_used": 160, "data": "reports.jsonl", "seed": 7, "steps": 20, "seconds": 118.2}
    return {**about, **base, **training, "loss": {"first": 2.5, "last": 0.4}, **changes}
