"""A side that cannot run never takes the others down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from playground.chat.batching import Asked, Written
from playground.chat.compare import Side, all_replies
from playground.engine.request import Sampling
from playground.errors import AdapterError, InputError, RunFailedError
from playground.models.bases import kv_bytes_per_token
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.settings import Settings
from playground.verdict.request import VerdictRequest
from tests.services.conftest import last, whole_model

SHORT = Sampling(max_tokens=5)
LONG = "Take your time. " * 400
"""More tokens than the tiny base holds."""
HEAD = "adapts lm_head, which lies outside the decoder's layers"


@pytest.fixture
def head(services: Services, make_lora: Callable[..., Path]) -> str:
    """An adapter on the base's head, in the library since before import refused such."""
    folder = services.settings.adapters_dir / "head"
    shutil.copytree(make_lora(8, target_modules=["q_proj", "lm_head"]), folder)
    weights = folder / "adapter_model.safetensors"  # PEFT saves the embeddings with it, which import has always refused
    save_file({name: tensor for name, tensor in load_file(weights).items() if "lora_" in name}, weights)
    return folder.name


def test_import_listing_training_exporting_and_comparing_say_the_same_of_an_adapter(
    services: Services, head: str, rows_file: Path, make_lora: Callable[..., Path]
) -> None:
    services.bases.engine()
    (row,) = [row for row in services.adapters.list() if row.card.id == head]
    assert not row.usable
    assert HEAD in row.reason
    assert head not in {card.id for card in services.completion.adapters()}
    with pytest.raises(AdapterError, match=HEAD):
        services.adapters.import_file(services.settings.adapters_dir / head)
    with pytest.raises(InputError, match=HEAD):
        services.training.start(TrainRequest(rows_file, "more", steps=1, start=head, method="lora"))
    with pytest.raises(InputError, match=HEAD):
        last(services.exporter.export(head, "merged"))
    with pytest.raises(AdapterError, match=HEAD):
        services.adapters.attach(head)
    with pytest.raises(InputError, match=HEAD):
        services.verdicts.start(VerdictRequest(rows_file, (Side("base"), Side(head)), limit=2))
    sound = services.adapters.import_file(make_lora(9)).id
    base, broken, mine = last(services.compare.ask([Side("base"), Side(head), Side(sound)], [[]] * 3, "Hello", SHORT))
    assert HEAD in broken.error
    assert (base.error, mine.error) == ("", "")
    assert base.completion_tokens == mine.completion_tokens == 5


def test_a_prompt_that_is_too_long_for_one_side_is_that_sides_fault(services: Services) -> None:
    sides = [Side("base", LONG, name="long"), Side("base"), Side("base", "Be brief.")]
    long, plain, told = last(services.compare.ask(sides, [[]] * 3, "Hello", SHORT))
    assert "this base holds 1024" in long.error
    assert (plain.completion_tokens, told.completion_tokens) == (5, 5)
    assert plain.stamp["rows"] == 2
    assert services.manager.leases() == []


def test_whatever_one_adapter_does_when_it_is_read_the_others_answer(
    services: Services, make_lora: Callable[..., Path], tmp_path: Path
) -> None:
    mine = services.adapters.import_file(make_lora(9)).id
    gone = services.adapters.import_file(Path(shutil.copytree(make_lora(10), tmp_path / "gone"))).id
    services.bases.engine()
    card = services.adapters.get(gone)
    (card.path / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    asked = [Asked(one, "Hello", SHORT) for one in (services.adapters.get(mine), card, None)]
    written: list[Written] = last(services.batches.run(asked, "a"))
    assert [one.failure is None for one in written] == [True, False, True]


def test_the_command_lines_replies_go_on_without_a_side_that_failed(services: Services, head: str) -> None:
    sides = [Side("base"), Side(head)]
    replies = all_replies(services.compare, sides, ["Hello", "And then?"], SHORT)
    assert [(reply["side"], reply["turn"], "error" in reply) for reply in replies] == [
        ("base", 0, False),
        (head, 0, True),
        ("base", 1, False),
    ]
    assert replies[2]["text"]
    with pytest.raises(RunFailedError, match=rf"{head}: .*{HEAD}"):
        all_replies(services.compare, sides[1:], ["Hello"], SHORT)


def test_models_that_do_not_fit_together_answer_one_after_another(services: Services, tiny_base: Path) -> None:
    services.bases.engine()
    size = services.bases.resident()[1]
    room = 1024 * kv_bytes_per_token(tiny_base, 4)
    tight = build_services(
        replace(services.settings, home=services.settings.home.parent / "tight", budget_bytes=int(1.6 * size) + room)
    )
    try:
        whole = tight.adapters.get(whole_model(tight, tiny_base))
        asked = [Asked(whole, "Hello", SHORT), Asked(None, "Hello", SHORT)]
        written: list[Written] = last(tight.batches.run(asked, "a"))
        assert [one.state.completion_tokens for one in written] == [5, 5], [one.failure for one in written]
        assert written[0].state.text == written[1].state.text
    finally:
        tight.close()


def test_a_verdict_leaves_a_side_out_that_cannot_answer_and_judges_the_rest(
    services: Services, rows_file: Path
) -> None:
    sides = (Side("base", name="Base"), Side("base", LONG, name="Long"), Side("base", "Be glad.", name="Told"))
    request = VerdictRequest(rows_file, sides, ("contains:gladly",), limit=4, max_tokens=4, repeats=2, forgetting=False)
    view = last(services.verdicts.run(request))
    assert view.state == "DONE", view.error
    assert view.error.startswith("Long was left out: The prompt is ")
    assert [side["side"] for side in view.record["sides"]] == ["Base", "Told"]
    assert view.record["examples"] == 4
    assert list(view.record["failed"]) == ["Long"]
    assert {row["side"] for row in services.verdicts.rows(view.id)} == {"Base", "Told"}
    assert all(row["loss"] > 0 for row in services.verdicts.rows(view.id))
    alone = last(services.verdicts.run(replace(request, sides=sides[1:2])))
    assert alone.state == "FAILED"
    assert "Long: The prompt is" in alone.error


def test_an_upload_of_a_trainers_folder_says_what_it_left(
    services: Services, make_lora: Callable[..., Path], settings: Settings
) -> None:
    folder = services.settings.home / "incoming" / "out"
    shutil.copytree(make_lora(11), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["auto_mapping"] = {"base_model_class": "LlamaForCausalLM", "parent_library": "os"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "optimizer.pt").write_bytes(b"no")
    card = services.adapters.import_file(folder)
    assert card.notes[0].startswith("auto_mapping is left out")
    assert "optimizer.pt" in card.notes[1]
