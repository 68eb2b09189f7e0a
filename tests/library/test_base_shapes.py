from __future__ import annotations

import json

import pytest

from playground.errors import BaseUnavailableError
from playground.library.bases import BaseShapes
from playground.methods.shapes import layer_of

from .conftest import base_tensors, header, safetensors


def test_reads_one_file_and_ties_the_head(tmp_path):
    safetensors(tmp_path / "model.safetensors", header(base_tensors()))
    base = BaseShapes.from_folder(tmp_path, fingerprint="ff")
    assert base.shapes["model.layers.1.mlp.down_proj.weight"] == (8, 12)
    assert base.linear("lm_head") == (32, 8)
    assert (base.hidden, base.layers, base.key_value_width, base.fingerprint) == (8, 2, 4, "ff")


def test_reads_the_shards_that_an_index_names(tmp_path):
    names = list(base_tensors().items())
    parts = {"model-1.safetensors": dict(names[:3]), "model-2.safetensors": dict(names[3:])}
    for file, tensors in parts.items():
        safetensors(tmp_path / file, header(tensors))
    weight_map = {name: file for file, tensors in parts.items() for name in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert set(base_tensors()) < set(BaseShapes.from_folder(tmp_path).shapes)


def test_reads_files_that_a_hub_cache_links_to(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(safetensors(blobs / "abc", header(base_tensors())))
    assert BaseShapes.from_folder(snapshot).layers == 2


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", 3])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, file):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(BaseUnavailableError, match="does not name"):
        BaseShapes.from_folder(tmp_path)


def test_says_what_there_is_when_there_are_no_safetensors(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(BaseUnavailableError, match=r"pytorch_model\.bin"):
        BaseShapes.from_folder(tmp_path)
    with pytest.raises(BaseUnavailableError, match="no such folder"):
        BaseShapes.from_folder(tmp_path / "none")


def test_gpt2_layers_are_stored_the_other_way_round_and_without_the_first_part_of_the_name(tmp_path):
    safetensors(tmp_path / "model.safetensors", header({"wte.weight": (32, 8), "h.0.attn.c_attn.weight": (8, 24)}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 2}))
    base = BaseShapes.from_folder(tmp_path)
    assert base.linear("transformer.h.0.attn.c_attn") == (24, 8)
    assert base.linear("lm_head") == (32, 8)
    assert base.key_value_width == 8


def test_a_packed_weight_exists_but_has_no_known_width(tmp_path):
    tensors = header({"model.layers.0.self_attn.q_proj.weight": (32, 1)}, "U8")
    safetensors(tmp_path / "model.safetensors", tensors)
    base = BaseShapes.from_folder(tmp_path)
    assert base.linear("model.layers.0.self_attn.q_proj") == (-1, -1)
    assert base.linear("model.layers.0.self_attn.v_proj") is None


def test_a_norm_is_not_a_linear_layer():
    assert BaseShapes({"model.norm.weight": (8,)}).linear("model.norm") is None


def test_layer_numbers():
    names = ("model.layers.12.mlp", "h.3.attn.weight", "model.norm", "gpt_neox.layers.0")
    assert [layer_of(name) for name in names] == [12, 3, None, 0]
