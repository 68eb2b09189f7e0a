"""Headers of safetensors files, and a base's layout read from them."""

from __future__ import annotations

import json
import struct

import pytest

from playground.errors import AdapterError, BaseUnavailableError
from playground.library.bases import BaseShapes
from playground.library.files import read_header
from playground.methods.shapes import layer_of

from .conftest import base_tensors, cases, header, safetensors

GOOD = header({"a": (2,), "b": (2,)})


def test_reads_names_types_and_shapes(tmp_path):
    fields = header({"a": (2, 3), "b": (4,)})
    path = safetensors(tmp_path / "x.safetensors", fields | {"__metadata__": {"format": "pt"}}, data=40)
    entries = read_header(path)
    found = {name: (e.dtype, e.shape, e.end - e.begin) for name, e in entries.items()}
    assert found == {"a": ("F32", (2, 3), 24), "b": ("F32", (4,), 16)}
    assert entries["b"].end == path.stat().st_size


DEEP = {"why": "recursion limit", "data": 0, "header": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"}


@pytest.mark.parametrize("case", [*cases("headers"), DEEP], ids=lambda case: case["why"])
def test_refuses_what_is_not_sound(tmp_path, case):
    fields = case["header"].encode("latin-1") if isinstance(case["header"], str) else case["header"]
    path = safetensors(tmp_path / "x.safetensors", fields, case["data"])
    with pytest.raises(AdapterError, match="damaged or is not safetensors") as caught:
        read_header(path)
    assert case["why"] in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63])
def test_refuses_a_header_length_that_the_file_cannot_hold(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(AdapterError, match=r"claims \d+ bytes|invalid JSON|invalid header length"):
        read_header(path)


def test_refuses_an_empty_file_a_missing_file_a_link_and_a_pointer(tmp_path):
    path = tmp_path / "e.safetensors"
    path.touch()
    (tmp_path / "l.safetensors").symlink_to(safetensors(tmp_path / "x.safetensors", GOOD))
    for name, why in (("e", "header too small"), ("none", "missing"), ("l", "not a regular file")):
        with pytest.raises(AdapterError, match=why):
            read_header(tmp_path / f"{name}.safetensors")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9784\n")
    with pytest.raises(AdapterError, match="a pointer, not the weights: run git lfs pull"):
        read_header(path)


# -- a base ------------------------------------------------------------------------------------------------------------


def test_reads_one_file_and_ties_the_head(tmp_path):
    safetensors(tmp_path / "model.safetensors", header(base_tensors()))
    base = BaseShapes.from_folder(tmp_path, fingerprint="ff")
    assert base.shapes["model.layers.1.mlp.down_proj.weight"] == (8, 12)
    assert base.linear("lm_head") == (32, 8)
    assert base.linear("model.norm") is None
    assert (base.hidden, base.layers, base.key_value_width, base.fingerprint) == (8, 2, 4, "ff")


def test_reads_the_shards_that_an_index_names_and_no_others(tmp_path):
    names = list(base_tensors().items())
    parts = {"model-1.safetensors": dict(names[:3]), "model-2.safetensors": dict(names[3:])}
    for file, tensors in parts.items():
        safetensors(tmp_path / file, header(tensors))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, tensors in parts.items() for name in tensors}}))
    assert set(base_tensors()) < set(BaseShapes.from_folder(tmp_path).shapes)
    for file in ("../outside.safetensors", "/etc/passwd", "a/b.safetensors", 3):
        index.write_text(json.dumps({"weight_map": {"a": file}}))
        with pytest.raises(BaseUnavailableError, match="does not name"):
            BaseShapes.from_folder(tmp_path)


def test_reads_files_that_a_hub_cache_links_to(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(safetensors(tmp_path / "blob", header(base_tensors())))
    assert BaseShapes.from_folder(tmp_path).layers == 2


def test_says_what_there_is_when_there_are_no_safetensors(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    for folder, why in ((tmp_path, r"pytorch_model\.bin"), (tmp_path / "none", "no such folder")):
        with pytest.raises(BaseUnavailableError, match=why):
            BaseShapes.from_folder(folder)


def test_gpt2_layers_are_stored_the_other_way_round_and_without_the_first_part_of_the_name(tmp_path):
    safetensors(tmp_path / "model.safetensors", header({"wte.weight": (32, 8), "h.0.attn.c_attn.weight": (8, 24)}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 2}))
    base = BaseShapes.from_folder(tmp_path)
    assert base.linear("transformer.h.0.attn.c_attn") == (24, 8)
    assert base.linear("lm_head") == (32, 8)
    assert base.key_value_width == 8


def test_a_packed_weight_exists_but_has_no_known_width(tmp_path):
    tensors = header({"model.layers.0.self_attn.q_proj.weight": (32, 1)}, "U8")
    base = BaseShapes.from_folder(safetensors(tmp_path / "model.safetensors", tensors).parent)
    assert base.linear("model.layers.0.self_attn.q_proj") == (-1, -1)
    assert base.linear("model.layers.0.self_attn.v_proj") is None


def test_layer_numbers():
    names = ("model.layers.12.mlp", "h.3.attn.weight", "model.norm", "gpt_neox.layers.0")
    assert [layer_of(name) for name in names] == [12, 3, None, 0]
