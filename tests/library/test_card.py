import hashlib
import json
import re

import pytest

from playground.library.adapters import read_card
from playground.library.card import write_model_card
from playground.methods import method_of

from .conftest import a_run, adapter, base_tensors, cases, header, lora_config, refused, safetensors, sharded_base


def test_the_record_tells_and_without_one_the_config(tmp_path):
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


METHODS = {"LORA": "lora", "IA3": "ia3", "PREFIX_TUNING": "p-tuning-v2", "PROMPT_TUNING": "prompt"}
METHODS |= {"P_TUNING": "p-tuning", "BOTTLENECK": "bottleneck", None: "unknown"}


def test_methods_have_the_names_of_the_command_line():
    assert {peft_type: method_of({"peft_type": peft_type}) for peft_type in METHODS} == METHODS
    assert method_of({"peft_type": "PREFIX_TUNING", "prefix_projection": True}) == "prefix"


def test_a_full_fine_tune_in_one_file_or_several(tmp_path):
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_text(json.dumps(a_run(method="full", rank=None)))
    sharded_base(tmp_path)
    card = read_card(tmp_path)
    parts = [(tmp_path / f"m-{i}.safetensors").read_bytes() for i in (1, 2)]
    assert (card.kind, card.method, card.rank, card.bytes) == ("full", "full", None, len(b"".join(parts)))
    assert card.sha256 == hashlib.sha256(b"".join(parts)).hexdigest()
    one = safetensors(tmp_path / "model.safetensors", header(base_tensors()))
    assert read_card(tmp_path).bytes == one.stat().st_size


def test_strange_values_do_not_get_through(tmp_path):
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
