"""Adapters and bases small enough to write by hand: headers that are true, weights that are zero."""

import json
import math
import struct
from functools import partial
from pathlib import Path

import pytest

from playground.errors import AdapterError
from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from tests.engine.conftest import make_lora
from tests.refused import refused as refused_

__all__ = ["make_lora"]

WIDTH, INNER, LAYERS = 8, 12, 2
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "U8": 1, "I64": 8}
own = pytest.fixture(lambda tmp_path: tmp_path / "home" / "adapters")
library = pytest.fixture(lambda tmp_path, own, now: AdapterLibrary(own, tmp_path / "shipped", lambda: now[0]))


def cases(name):
    """The lines of a table beside the tests."""
    return [json.loads(line) for line in Path(__file__).with_name(f"{name}.jsonl").read_text().splitlines()]


refused = partial(refused_, error=AdapterError)


def changed(file, **changes):
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def header(tensors, dtype="F32"):
    fields, at = {}, 0
    for name, shape in tensors.items():
        size = math.prod(shape) * ITEM_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return fields


def safetensors(path, fields, data=None):
    raw = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    if data is None:
        data = max((f["data_offsets"][1] for f in fields.values()), default=0)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return path


def base_tensors(width=WIDTH, layers=LAYERS):
    ends = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width // 2, width)}
    ends |= {"mlp.down_proj": (width, INNER)}
    linear = {f"model.layers.{i}.{end}.weight": shape for i in range(layers) for end, shape in ends.items()}
    return {"model.embed_tokens.weight": (32, width), "model.norm.weight": (width,), **linear}


def base_shapes(width=WIDTH, layers=LAYERS, fingerprint=""):
    return BaseShapes({**base_tensors(width, layers), "lm_head.weight": (32, width)}, {}, fingerprint)


def sharded_base(folder):
    """A base in two files with their index; returns the index."""
    names = list(base_tensors().items())
    parts = {"m-1.safetensors": dict(names[:4]), "m-2.safetensors": dict(names[4:])}
    for file, tensors in parts.items():
        safetensors(folder / file, header(tensors))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, tensors in parts.items() for name in tensors}}))
    return index


def lora_tensors(rank=4, width=WIDTH, layers=LAYERS):
    tensors = {}
    for i in range(layers):
        for end, inner in (("self_attn.q_proj", width), ("mlp.down_proj", INNER)):
            part = f"base_model.model.model.layers.{i}.{end}.lora_"
            tensors |= {f"{part}A.weight": (rank, inner), f"{part}B.weight": (width, rank)}
    return tensors


def lora_config(**changes):
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "somebody/small-base"}
    return {**lora, "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj", "down_proj"], **changes}


def adapter(folder, config=None, tensors=None, run=None, dtype="F32"):
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


def a_run(**changes):
    about = {"schema": 1, "run": "r1", "name": "Hospital reports", "owner": "local", "created_s": 1000.0}
    base = {"method": "lora", "base": "smollm2-135m", "base_fingerprint": "ab" * 8, "objective": "sft", "rank": 4}
    training = {"rows_used": 160, "data": "reports.jsonl", "seed": 7, "steps": 20, "seconds": 118.2}
    return {**about, **base, **training, "loss": {"first": 2.5, "last": 0.4}, **changes}
