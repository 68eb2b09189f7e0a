"""What a folder tells: an adapter's card, headers of safetensors files, and a base's layout read from them."""

import hashlib
import json
import re
import struct

import pytest

from playground.errors import BaseUnavailableError
from playground.library.adapters import read_card
from playground.library.bases import BaseShapes
from playground.library.card import write_model_card
from playground.library.files import read_header
from playground.methods import method_of
from playground.methods.shapes import layer_of

from .conftest import a_run, adapter, base_tensors, cases, header, lora_config, refused, safetensors, sharded_base

METHODS = {"LORA": "lora", "IA3": "ia3", "PREFIX_TUNING": "p-tuning-v2", "PROMPT_TUNING": "prompt"}
METHODS |= {"P_TUNING": "p-tuning", "BOTTLENECK": "bottleneck", None: "unknown"}


def test_methods_have_the_names_of_the_command_line_and_a_full_fine_tune_is_read_in_one_file_or_several(tmp_path):
    assert {peft_type: method_of({"peft_type": peft_type}) for peft_type in METHODS} == METHODS
    assert method_of({"peft_type": "PREFIX_TUNING", "prefix_projection": True}) == "prefix"
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_text(json.dumps(a_run(method="full", rank=None)))
    sharded_base(tmp_path)
    card = read_card(tmp_path)
    parts = [(tmp_path / f"m-{i}.safetensors").read_bytes() for i in (1, 2)]
    assert (card.kind, card.method, card.rank, card.bytes) == ("full", "full", None, len(b"".join(parts)))
    assert card.sha256 == hashlib.sha256(b"".join(parts)).hexdigest()
    one = safetensors(tmp_path / "model.safetensors", header(base_tensors()))
    assert read_card(tmp_path).bytes == one.stat().st_size


def test_the_record_tells_and_without_one_the_config_and_strange_values_do_not_get_through(tmp_path):
    folder = adapter(tmp_path / "hospital", run=a_run())
    card = read_card(folder)
    weights = folder / "adapter_model.safetensors"
    assert (card.id, card.name, card.method, card.rank) == ("hospital", "Hospital reports", "lora", 4)
    assert (card.base, card.rows, card.trained_on) == ("smollm2-135m", 160, "reports.jsonl")
    assert (card.created_s, card.owner, card.kind, card.objective) == (1000.0, "local", "peft", "sft")
    assert (card.bytes, card.sha256) == (weights.stat().st_size, hashlib.sha256(weights.read_bytes()).hexdigest())
    assert (card.shipped, read_card(folder, shipped=True).shipped) == (False, True)
    for recorded, kept in (("0" * 64, True), ("nonsense", False)):
        assert (read_card(adapter(folder, run=a_run(sha256=recorded))).sha256 == recorded) == kept
    card = read_card(adapter(tmp_path / "a", lora_config(use_dora=True)))
    assert (card.name, card.method, card.rank, card.rows, card.owner) == ("a", "dora", 4, 0, "local")
    assert (card.base, card.created_s > 0) == ("somebody/small-base", True)
    run = a_run(name="a\x00b\n\u202ec" * 200, rows_used="many", created_s=True, data=["x"], owner=None, base=3)
    card = read_card(adapter(tmp_path / "a", run=run))
    assert (len(card.name), card.name.isprintable(), card.created_s > 1) == (100, True, True)
    assert (card.rows, card.trained_on, card.owner, card.base) == (0, "", "local", "somebody/small-base")


DEEP = '{"r": ' + "[" * 50_000 + "]" * 50_000 + "}"
UNREADABLE = {
    "run.json": ["", "[]", "{nonsense", '{"schema": 2}', '{"schema": "x"}', '{"created_s": Infinity}', DEEP],
    "adapter_config.json": ["", "[]", "{", '{"r": NaN}', DEEP],
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_record_or_a_config_that_cannot_be_understood(tmp_path, name):
    folder = adapter(tmp_path / "a")
    for text in UNREADABLE[name]:
        (folder / name).write_text(text)
        refused(re.escape(name), read_card, folder)
    refused("not a folder", read_card, tmp_path / "none")


@pytest.mark.parametrize("case", cases("cards"), ids=str)
def test_the_model_card_says_what_where_and_how(tmp_path, case):
    folder = adapter(tmp_path / "a")
    write_model_card(folder, {} if case["run"] is None else a_run(**case["run"]))
    text = (folder / "README.md").read_text()
    assert [word for word in case["there"] if word not in text] == []
    assert [word for word in case["absent"] if word in text] == []


NESTED = {"why": "recursion limit", "data": 0, "header": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"}


@pytest.mark.parametrize("case", [*cases("headers"), NESTED], ids=lambda case: case["why"])
def test_refuses_what_is_not_sound(tmp_path, case):
    fields = case["header"].encode("latin-1") if isinstance(case["header"], str) else case["header"]
    path = safetensors(tmp_path / "x.safetensors", fields, case["data"])
    assert case["why"] in refused("damaged or is not safetensors", read_header, path)


def test_reads_names_types_and_shapes_and_refuses_false_lengths_missing_files_links_and_pointers(tmp_path):
    fields = header({"a": (2, 3), "b": (4,)})
    path = safetensors(tmp_path / "x.safetensors", fields | {"__metadata__": {"format": "pt"}}, data=40)
    entries = read_header(path)
    found = {name: (e.dtype, e.shape, e.end - e.begin) for name, e in entries.items()}
    assert found == {"a": ("F32", (2, 3), 24), "b": ("F32", (4,), 16)}
    assert entries["b"].end == path.stat().st_size
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
