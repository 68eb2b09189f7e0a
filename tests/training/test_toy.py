"""A method is one file: a LoRA on the queries alone, dropped into the package, goes from plan to export."""

import importlib
import sys
from contextlib import closing
from pathlib import Path

import pytest
from safetensors import safe_open

import playground.methods
from playground.engine.engine import Engine
from playground.engine.request import AdapterFile, Row, Sampling
from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from playground.library.exporting import merge
from playground.methods import all_methods
from playground.methods.method import NO_OPTIONS
from playground.runs.request import TrainRequest
from playground.services import build_services

FILE = '''
"""LoRA on the queries alone."""

from playground.methods.lora import Lora


class QueryLora(Lora):
    name = "q-lora"
    label = "Query LoRA"
    cost = "a toy"
    explain = "It adapts the queries alone. It is a test."
    summary = "Query LoRA: LoRA on the queries"
    order = 1.5
    targets = ("q_proj",)
    exceptions = {"kto": "it is a toy. Choose LoRA."}
'''


@pytest.fixture
def toy(tmp_path):
    """The file, on the package's path for as long as a test lasts."""
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "query_lora.py").write_text(FILE)
    playground.methods.__path__.append(str(tmp_path / "toys"))
    importlib.invalidate_caches()
    all_methods.cache_clear()
    yield all_methods()["q-lora"]
    playground.methods.__path__.remove(str(tmp_path / "toys"))
    sys.modules.pop("playground.methods.query_lora", None)
    all_methods.cache_clear()


def test_a_method_from_one_file_goes_all_the_way(toy, settings, spec_in, run_worker, tiny_base, tmp_path):
    spec = spec_in(tmp_path, method="q-lora", lr=2e-2, save_steps=4)
    with closing(build_services(settings)) as services:
        services.bases.resolve()
        assert [method.name for method in services.training.methods()][:3] == ["lora", "q-lora", "qlora"]
        plan = services.training.plan(TrainRequest(file=Path(spec.file), method="q-lora", steps=4))
        assert plan.blocked == ""
        saved = toy.saves(services.bases.weights(), plan.rank, NO_OPTIONS)
    assert {name.split(".")[-3] for name in saved} == {"q_proj"}

    done = run_worker(spec, tmp_path / "run")[-1]
    assert done["event"] == "done", done

    library = AdapterLibrary(tmp_path / "adapters", tmp_path / "shipped")
    card = library.get(done["adapter"])
    assert (card.method, card.rank) == ("q-lora", 4)
    assert "Query LoRA: LoRA on the queries" in (card.path / "README.md").read_text()
    with safe_open(card.path / "adapter_model.safetensors", framework="pt") as held:
        assert all(".q_proj." in name for name in held.keys())  # noqa: SIM118 - the handle has no iterator

    engine = Engine(tiny_base)
    engine.attach(AdapterFile("toy", card.path, card.sha256))
    sampling = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True)
    *_, (plain, tuned) = engine.stream([Row("Say number 3", None, sampling), Row("Say number 3", "toy", sampling)])
    assert plain.tokens != tuned.tokens

    again = AdapterLibrary(tmp_path / "elsewhere", tmp_path / "shipped")
    imported = again.import_path(library.export(card.id, tmp_path / "out"), BaseShapes.from_folder(tiny_base))
    assert imported.method == "q-lora", "its record is believed, since the file can be one of its"
    merge(imported, tiny_base, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
