"""Headers of safetensors files, and a base's layout read from them."""

import json
import struct

import pytest

from playground.errors import BaseUnavailableError
from playground.library.bases import BaseShapes
from playground.library.files import read_header
from playground.methods.shapes import layer_of

from .conftest import base_tensors, cases, header, refused, safetensors, sharded_base


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
    assert case["why"] in refused("damaged or is not safetensors", read_header, path)


def test_refuses_false_lengths_empty_and_missing_files_links_and_pointers(tmp_path):
    path = tmp_path / "x.safetensors"
    for length in (0, 1, 10**6, 2**63):  # of a header, which the file cannot hold
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        refused(r"claims \d+ bytes|invalid JSON|invalid header length", read_header, path)
    path.write_bytes(b"")
    refused("header too small", read_header, path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9784\n")
    refused("a pointer, not the weights: run git lfs pull", read_header, path)
    refused("missing", read_header, tmp_path / "none")
    (tmp_path / "link").symlink_to(safetensors(path, header({"a": (2,)})))
    refused("not a regular file", read_header, tmp_path / "link")


def test_reads_one_file_also_one_that_a_hub_cache_links_to_and_ties_the_head(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(safetensors(tmp_path / "blob", header(base_tensors())))
    base = BaseShapes.from_folder(tmp_path, fingerprint="ff")
    assert base.shapes["model.layers.1.mlp.down_proj.weight"] == (8, 12)
    assert (base.linear("lm_head"), base.linear("model.norm")) == ((32, 8), None)
    assert (base.hidden, base.layers, base.key_value_width, base.fingerprint) == (8, 2, 4, "ff")


def test_reads_the_shards_that_an_index_names_and_no_others_and_says_what_there_is(tmp_path):
    index = sharded_base(tmp_path)
    assert set(base_tensors()) < set(BaseShapes.from_folder(tmp_path).shapes)
    for file in ("../outside.safetensors", "/etc/passwd", "a/b.safetensors", 3):
        index.write_text(json.dumps({"weight_map": {"a": file}}))
        refused("does not name", BaseShapes.from_folder, tmp_path, error=BaseUnavailableError)
    pickled, none = tmp_path / "pickled", tmp_path / "none"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").touch()
    for folder, why in ((pickled, r"pytorch_model\.bin"), (none, "no such folder")):
        refused(why, BaseShapes.from_folder, folder, error=BaseUnavailableError)


def test_gpt2_layers_are_stored_the_other_way_round_and_without_the_first_part_of_the_name(tmp_path):
    safetensors(tmp_path / "model.safetensors", header({"wte.weight": (32, 8), "h.0.attn.c_attn.weight": (8, 24)}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 2}))
    base = BaseShapes.from_folder(tmp_path)
    assert (base.linear("transformer.h.0.attn.c_attn"), base.linear("lm_head")) == ((24, 8), (32, 8))
    assert base.key_value_width == 8


def test_a_packed_weight_exists_but_has_no_known_width_and_layers_have_numbers(tmp_path):
    tensors = header({"model.layers.0.self_attn.q_proj.weight": (32, 1)}, "U8")
    base = BaseShapes.from_folder(safetensors(tmp_path / "model.safetensors", tensors).parent)
    assert base.linear("model.layers.0.self_attn.q_proj") == (-1, -1)
    assert base.linear("model.layers.0.self_attn.v_proj") is None
    names = ("model.layers.12.mlp", "h.3.attn.weight", "model.norm", "gpt_neox.layers.0")
    assert [layer_of(name) for name in names] == [12, 3, None, 0]
