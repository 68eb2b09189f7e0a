"""A side that cannot run never takes the others down."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from playground.chat.batching import Asked, Written
from playground.chat.compare import Side, all_replies
from playground.engine.request import Sampling
from playground.errors import InputError, RunFailedError
from playground.models.bases import kv_bytes_per_token
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.verdict.request import VerdictRequest
from tests.services.conftest import last, whole_model

SHORT = Sampling(max_tokens=5)
LONG = "Take your time. " * 400
"""More tokens than the tiny base holds."""
HEAD = "adapts lm_head, which lies outside the decoder's layers"


@pytest.fixture
def head(services, make_lora):
    """An adapter on the base's head, in the library since before import refused such."""
    folder = services.settings.adapters_dir / "head"
    shutil.copytree(make_lora(8, target_modules=["q_proj", "lm_head"]), folder)
    weights = folder / "adapter_model.safetensors"  # PEFT saves the embeddings with it, which import has always refused
    save_file({name: tensor for name, tensor in load_file(weights).items() if "lora_" in name}, weights)
    return folder.name


def test_import_listing_training_exporting_and_comparing_say_the_same_of_an_adapter(
    services, head, rows_file, make_lora
):
    services.bases.engine()
    (row,) = [row for row in services.adapters.list() if row.card.id == head]
    assert (row.usable, HEAD in row.reason) == (False, True)
    assert head not in {card.id for card in services.completion.adapters()}
    for refused in (
        lambda: services.adapters.import_file(services.settings.adapters_dir / head),
        lambda: services.training.start(TrainRequest(rows_file, "more", steps=1, start=head, method="lora")),
        lambda: last(services.exporter.export(head, "merged")),
        lambda: services.adapters.attach(head),
        lambda: services.verdicts.start(VerdictRequest(rows_file, (Side("base"), Side(head)), limit=2)),
    ):
        with pytest.raises(InputError, match=HEAD):
            refused()
    sound = services.adapters.import_file(make_lora(9)).id
    base, broken, mine = last(services.compare.ask([Side("base"), Side(head), Side(sound)], [[]] * 3, "Hello", SHORT))
    assert HEAD in broken.error
    assert (base.error, mine.error) == ("", "")
    assert base.completion_tokens == mine.completion_tokens == 5


@pytest.mark.parametrize(
    ("prompt", "says"), [(LONG, "this base holds 1024"), ("Be \ud800 brief.", "half a character")], ids=["long", "half"]
)
def test_a_prompt_that_cannot_be_taken_is_its_own_sides_fault(services, prompt, says):
    sides = [Side("base", prompt, name="wrong"), Side("base"), Side("base", "Be brief.")]
    wrong, plain, told = last(services.compare.ask(sides, [[]] * 3, "Hello", SHORT))
    assert says in wrong.error
    assert (plain.completion_tokens, told.completion_tokens, plain.stamp["rows"]) == (5, 5, 2)
    assert services.manager.leases() == []


def test_whatever_one_adapter_does_when_it_is_read_the_others_answer(services, make_lora, tmp_path):
    mine = services.adapters.import_file(make_lora(9)).id
    gone = services.adapters.import_file(Path(shutil.copytree(make_lora(10), tmp_path / "gone"))).id
    services.bases.engine()
    card = services.adapters.get(gone)
    (card.path / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    asked = [Asked(one, "Hello", SHORT) for one in (services.adapters.get(mine), card, None)]
    written: list[Written] = last(services.batches.run(asked, "a"))
    assert [one.failure is None for one in written] == [True, False, True]


def test_the_command_lines_replies_go_on_without_a_side_that_failed(services, head):
    sides = [Side("base"), Side(head)]
    replies = all_replies(services.compare, sides, ["Hello", "And then?"], SHORT)
    told = [(reply["side"], reply["turn"], "error" in reply) for reply in replies]
    assert told == [("base", 0, False), (head, 0, True), ("base", 1, False)]
    assert replies[2]["text"]
    with pytest.raises(RunFailedError, match=rf"{head}: .*{HEAD}"):
        all_replies(services.compare, sides[1:], ["Hello"], SHORT)


def test_models_that_do_not_fit_together_answer_one_after_another(services, tiny_base):
    services.bases.engine()
    budget = int(1.6 * services.bases.resident()[1]) + 1024 * kv_bytes_per_token(tiny_base, 4)
    home = services.settings.home.parent / "tight"
    tight = build_services(replace(services.settings, home=home, budget_bytes=budget))
    whole = tight.adapters.get(whole_model(tight, tiny_base))
    asked = [Asked(whole, "Hello", SHORT), Asked(None, "Hello", SHORT)]
    written: list[Written] = last(tight.batches.run(asked, "a"))
    assert [one.state.completion_tokens for one in written] == [5, 5], [one.failure for one in written]
    assert written[0].state.text == written[1].state.text
    tight.close()


def test_a_verdict_leaves_a_side_out_that_cannot_answer_and_judges_the_rest(services, rows_file):
    sides = (Side("base", name="Base"), Side("base", LONG, name="Long"), Side("base", "Be glad.", name="Told"))
    request = VerdictRequest(rows_file, sides, ("contains:gladly",), limit=4, max_tokens=4, repeats=2, forgetting=False)
    view = last(services.verdicts.run(request))
    assert view.state == "DONE", view.error
    assert view.error.startswith("Long was left out: The prompt is ")
    assert [side["side"] for side in view.record["sides"]] == ["Base", "Told"]
    assert (view.record["examples"], list(view.record["failed"])) == (4, ["Long"])
    assert {(row["side"], row["loss"] > 0) for row in services.verdicts.rows(view.id)} == {
        ("Base", True),
        ("Told", True),
    }
    alone = last(services.verdicts.run(replace(request, sides=sides[1:2])))
    assert (alone.state, "Long: The prompt is" in alone.error) == ("FAILED", True)
