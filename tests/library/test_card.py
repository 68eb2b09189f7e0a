from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from playground.errors import AdapterError
from playground.library.card import read_card, write_model_card
from playground.methods import method_of

from .conftest import a_run, adapter, base_tensors, cases, header, lora_config, safetensors


def test_reads_run_json(tmp_path):
    folder = adapter(tmp_path / "hospital", run=a_run())
    card = read_card(folder)
    weights = folder / "adapter_model.safetensors"
    assert (card.id, card.name, card.method, card.rank) == ("hospital", "Hospital reports", "lora", 4)
    assert (card.base, card.rows, card.trained_on) == ("smollm2-135m", 160, "reports.jsonl")
    assert (card.created_s, card.owner, card.kind, card.objective) == (1000.0, "local", "peft", "sft")
    assert card.bytes == weights.stat().st_size
    assert card.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not card.shipped
    assert read_card(folder, shipped=True).shipped


def test_the_hash_is_taken_from_run_json_where_it_stands(tmp_path):
    assert read_card(adapter(tmp_path / "a", run=a_run(sha256="0" * 64))).sha256 == "0" * 64
    assert read_card(adapter(tmp_path / "b", run=a_run(sha256="nonsense"))).sha256 != "nonsense"


def test_without_run_json_the_config_tells(tmp_path):
    card = read_card(adapter(tmp_path / "a", lora_config(use_dora=True)))
    assert (card.name, card.method, card.rank, card.rows, card.owner) == ("a", "dora", 4, 0, "local")
    assert card.base == "somebody/small-base"
    assert card.created_s > 0


METHODS = {"LORA": "lora", "IA3": "ia3", "PREFIX_TUNING": "p-tuning-v2", "PROMPT_TUNING": "prompt"}
METHODS |= {"P_TUNING": "p-tuning", "BOTTLENECK": "bottleneck", None: "unknown"}


def test_methods_have_the_names_of_the_command_line():
    assert {peft_type: method_of({"peft_type": peft_type}) for peft_type in METHODS} == METHODS
    assert method_of({"peft_type": "PREFIX_TUNING", "prefix_projection": True}) == "prefix"


def full_model(folder, shards=False):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps(a_run(method="full", rank=None)))
    names = list(base_tensors().items())
    if not shards:
        safetensors(folder / "model.safetensors", header(dict(names)))
        return folder
    parts = {"m-1.safetensors": dict(names[:4]), "m-2.safetensors": dict(names[4:])}
    for file, tensors in parts.items():
        safetensors(folder / file, header(tensors))
    weight_map = {name: file for file, tensors in parts.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_a_full_fine_tune(tmp_path):
    one, two = read_card(full_model(tmp_path / "one")), read_card(full_model(tmp_path / "two", shards=True))
    assert (one.kind, one.method, one.rank) == ("full", "full", None)
    assert two.bytes == sum(p.stat().st_size for p in (tmp_path / "two").glob("*.safetensors"))
    whole = b"".join((tmp_path / "two" / f"m-{i}.safetensors").read_bytes() for i in (1, 2))
    assert two.sha256 == hashlib.sha256(whole).hexdigest()


def test_strange_values_do_not_get_through(tmp_path):
    run = a_run(name="a\x00b\n\u202ec" * 200, rows_used="many", created_s=True, data=["x"], owner=None, base=3)
    card = read_card(adapter(tmp_path / "a", run=run))
    assert len(card.name) == 100
    assert card.name.isprintable()
    assert (card.rows, card.trained_on, card.owner, card.base) == (0, "", "local", "somebody/small-base")
    assert card.created_s > 1


@pytest.mark.parametrize("text", ["", "[]", "{nonsense", '{"schema": 2}', '{"schema": "x"}', '{"created_s": Infinity}'])
def test_a_run_json_that_cannot_be_understood(tmp_path, text):
    folder = adapter(tmp_path / "a")
    (folder / "run.json").write_text(text)
    with pytest.raises(AdapterError, match=r"run\.json"):
        read_card(folder)


def test_missing_or_cut_weights(tmp_path):
    folder = adapter(tmp_path / "a", run=a_run(sha256="0" * 64))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(AdapterError, match="damaged"):
        read_card(folder)
    weights.unlink()
    with pytest.raises(AdapterError, match="lacks adapter_model"):
        read_card(folder)
    with pytest.raises(AdapterError, match="not a folder"):
        read_card(tmp_path / "none")


@pytest.mark.parametrize("case", cases("cards"), ids=str)
def test_the_model_card_says_what_where_and_how(tmp_path, case):
    folder = adapter(tmp_path / "a")
    write_model_card(folder, {} if case["run"] is None else a_run(**case["run"]))
    text = (folder / "README.md").read_text()
    assert [word for word in case["there"] if word not in text] == []
    assert [word for word in case["absent"] if word in text] == []


def test_looking_at_adapters_loads_nothing_heavy():
    code = (
        "import sys, playground.library.adapters, playground.library.card;"
        "print(sorted({'torch','peft','transformers','gradio','numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
