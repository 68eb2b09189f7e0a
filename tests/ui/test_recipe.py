"""A run's settings, taken away and brought back through the form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gradio as gr

from playground.methods.options import Options
from playground.ui import form, plan, recipe, train
from playground.ui.source import Source
from playground.ui.wiring import Visitor
from tests.ui.fakes import FakeServices

SOURCE = Source(Path("rows.jsonl"), "rows", "rows", {"prompt": "patient"}, good=2, leave_out=("duplicate",))


def test_the_form_and_a_request_are_the_same_thing() -> None:
    values = (20, 1e-3, 8, 4, 512, 3, 10, 20, True, False, 0, "", "", "sft", "", 2)
    request = plan.request_of(SOURCE, "local", "mine", "lora", *values)
    assert (request.options, request.early_stop, request.objective) == (Options(rslora=True), 2, "sft")
    assert plan.request_of(SOURCE, "local", "mine", "lora", *plan.values_of(request)) == request


def test_rewards_are_one_a_line_and_for_grpo_alone() -> None:
    values = [*plan.BLANK]
    values[-3:] = ["grpo", "json\n ends-with:Dr. Sharma \n\n", 0]
    assert plan.request_of(SOURCE, "local", "m", "lora", *values).rewards == ("json", "ends-with:Dr. Sharma")
    values[-3] = "sft"
    assert plan.request_of(SOURCE, "local", "m", "lora", *values).rewards == ()


def test_what_rows_can_train_is_offered_the_usual_first() -> None:
    assert [objective for _, objective in plan.aims_of("preference")] == ["dpo", "orpo", "reward", "kto"]
    assert [objective for _, objective in plan.aims_of("text")] == ["pretrain"]
    assert plan.aims_of("sft")[0][1] == "sft"


def test_the_form_has_a_place_for_every_value(services: FakeServices) -> None:
    with gr.Blocks():
        tab = train.build(services)
    assert len((*tab.settings, *tab.options, *tab.aims)) == plan.FIELDS
    assert form.aims.__doc__


def test_a_settings_file_fills_the_form(services: FakeServices, me: Visitor, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(
        json.dumps(
            {"method": "lora", "steps": 33, "rank": 4, "turns": "last", "leave_out": ["conflict"], "options": {"pissa": True}}
        )
    )
    source, method, *values, said = recipe.bring(services, me, str(file), SOURCE)
    assert (source.turns, source.leave_out, method, values[0], values[2]) == ("last", ("conflict",), "lora", 33, 4)
    assert values[8:10] == [False, True]
    assert "are in the form" in said["value"]
    for content, says in (("[1]", "no file of settings"), ("{", "no JSON"), ('{"steps": "x"}', "takes a number")):
        file.write_text(content)
        assert says in recipe.bring(services, me, str(file), SOURCE)[-1]["value"]
    file.write_text(json.dumps({"early_stop": 2, "objective": "grpo", "rewards": ["json", "max-words:9"], "save_steps": 10}))
    assert recipe.bring(services, me, str(file), SOURCE)[-4:-1] == ["grpo", "json\nmax-words:9", 2]
    file.write_text(json.dumps({"start": "mine", "docs": "notes.md", "save_steps": 33}))
    said = recipe.bring(services, me, str(file), SOURCE)[-1]["value"]
    assert all(name in said for name in ("The form has no place for", "save_steps", "(start)", "(docs)"))
    assert "Drop a file" in recipe.bring(services, me, str(file), replace(SOURCE, path=None))[-1]["value"]


def test_the_plan_takes_every_value_of_the_form(services: FakeServices, me: Visitor) -> None:
    """As the page hands them over: settings, options, aims."""
    shown, blocked, start, fold = plan.refresh(services, me, SOURCE, "mine", "lora", *plan.BLANK)
    assert "Learns from" in shown
    assert (blocked["visible"], start["interactive"]) == (False, True)
    assert "learning rate" in fold["label"]
    values = [*plan.BLANK]
    values[8:10] = [True, True]
    assert "rsLoRA, PiSSA" in plan.refresh(services, me, SOURCE, "mine", "lora", *values)[3]["label"]
    assert plan.start(services, me, SOURCE, "mine", "lora", *plan.BLANK)[0] == "r1"
