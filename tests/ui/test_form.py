"""A run's settings: in the form, in its plan, taken away and brought back."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from playground.errors import InputError
from playground.methods.method import Options
from playground.runs.request import FEWEST_STEPS, QUICK_S, Preset, within_reach
from playground.ui import form, train, words
from playground.ui.rows import Source
from tests.refused import refused
from tests.ui.conftest import says
from tests.ui.fakes import FakeTraining, row

SOURCE = Source(Path("rows.jsonl"), "rows", "rows", {"prompt": "patient"}, good=2, leave_out=("duplicate",))
SETTINGS = {"steps": 20, "lr": 1e-3, "rank": 8, "batch_size": 8, "max_tokens": 2048, "seed": 7}
RUN = {"source": SOURCE, "name": "mine", "method": "lora"}
OTHERS = {"rslora": True, "pissa": True, "layers": 2, "init_text": "Write a report", "placement": "pfeiffer"}
"""Options of four methods at once, as the form may hold them."""


def test_the_form_and_a_request_are_the_same_thing_and_every_field_has_a_widget(tab):
    assert set(tab.fields) == set(form.FIELDS)
    plain = vars(form.request_of(SOURCE, "local", "mine", "lora", {}))
    assert {name for name, field in form.FIELDS.items() if field.place != "option"} <= plain.keys()
    assert set(form.OPTIONS) == vars(Options()).keys()
    given = {**SETTINGS, "batch_size": 4, "seed": 3, "rslora": True, "early_stop": 2, "validation": 10}
    given |= {"objective": "sft"}
    request = form.request_of(SOURCE, "local", "mine", "lora", given)
    assert (request.options, request.early_stop, request.objective) == (Options(rslora=True), 2, "sft")
    assert (request.steps, request.seed, request.validation, request.mapping) == (20, 3, 0.1, {"prompt": "patient"})
    assert form.request_of(SOURCE, "local", "mine", "lora", form.settings_of(request)) == request


def test_a_method_shows_its_own_options_and_what_its_rank_means(services, call, tab):
    def chosen(name):
        updates = call(train.method_chosen, tab, method=name)
        return {field: updates[widget] for field, widget in tab.fields.items() if widget in updates}

    shown = {"lora": ["rslora", "pissa"], "full": ["layers"], "prompt": ["init_text"], "bottleneck": ["placement"]}
    for method, options in (shown | {"ia3": []}).items():
        updates = chosen(method)
        assert [option for option in form.OPTIONS if updates[option]["visible"]] == options
    assert (chosen("prefix")["rank"]["label"], chosen("ia3")["rank"]["visible"]) == ("Virtual tokens", False)
    assert chosen("lora")["lr"] is None, "by method, base, PiSSA and objective, as the plan says"


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("lora", {"rslora": True, "pissa": True}, "rank 8, rsLoRA, PiSSA"),
        ("full", {"layers": 2}, "the last 2 layers"),
        ("p-tuning-v2", {"init_text": "Write a report"}, "8 virtual tokens, begins as a text"),
        ("bottleneck", {"placement": "pfeiffer"}, "pfeiffer"),
        ("ia3", {}, "learning rate 1e-3, batch 8"),
    ],
)
def test_options_reach_the_run_and_those_of_another_method_do_not(services, call, tab, method, options, said):
    assert call(train.start, tab, **RUN | {"method": method}, **SETTINGS, **OTHERS) == {tab.followed: "r1"}
    (request,) = services.training.started
    assert (request.name, request.steps, request.lr, request.rank, request.owner) == ("mine", 20, 1e-3, 8, "local")
    assert request.options.chosen() == options
    assert said in form.settings_label(method, SETTINGS | OTHERS)


def test_the_plan_names_what_blocks_it_and_start_what_is_missing(services, call, tab):
    shown = call(train.refresh, tab, **RUN, **SETTINGS)
    assert set(shown) == set(tab.planned)
    says(shown[tab.plan], "1.2 M of 134.5 M weights (0.9 %)", "Learns from")
    assert (shown[tab.start]["interactive"], shown[tab.blocked]["visible"]) == (True, False)
    assert shown[tab.fold]["label"] == "Everything else: 20 steps, learning rate 1e-3, rank 8, batch 8, seed 7"
    services.training.blocked = "Full needs 5.1 GB. Choose LoRA."
    shown = call(train.refresh, tab, **RUN | {"method": "full"}, **SETTINGS)
    says(shown[tab.blocked], "Choose LoRA")
    assert shown[tab.start]["interactive"] is False
    shown = call(train.refresh, tab, **RUN, **SETTINGS | {"lr": 5})
    says(shown[tab.blocked], "learning rate is 5")
    assert (shown[tab.plan], shown[tab.start]["interactive"]) == ("", False)
    refused(words.TRAIN_EMPTY, call, train.start, tab, source=Source(), name="", method="lora", **SETTINGS)


def test_an_adapter_to_begin_with_brings_its_method_and_its_rank(services, call, tab):
    usable = [row("tuned", method="p-tuning"), row("mine", method="dora")]
    services.adapters.rows = [*usable, row("other", usable=False)]
    offered = call(train.starts, tab)[tab.fields["start"]]["choices"]
    assert offered == [*form.NEW, ("tuned", "tuned"), ("mine", "mine")]
    for start, method in (("mine", "dora"), ("tuned", "prompt"), ("", "lora")):
        chosen = call(train.begun, tab, start=start, method="lora")
        assert chosen[tab.method] == method
        assert ("rank" in chosen[tab.fields["rank"]].get("label", "").lower()) == (method != "prompt")
    request = form.request_of(SOURCE, "local", "m", "lora", SETTINGS | OTHERS | {"start": "mine"})
    assert (request.start, request.rank, request.options) == ("mine", None, Options())
    assert form.settings_label("lora", SETTINGS | {"start": "mine"}).startswith("Everything else: from mine, 20 steps")


def test_empty_fields_are_the_methods_defaults_rewards_are_grpos_and_what_rows_can_train_is_offered():
    empty = dict.fromkeys(form.FIELDS)
    request = form.request_of(SOURCE, "local", " ", "lora", empty)
    assert (request.name, request.steps, request.lr, request.rank) == ("rows", None, None, None)
    assert (request.batch_size, request.max_tokens, request.validation, request.options) == (8, 2048, None, Options())
    given = {"objective": "grpo", "rewards": "json\n ends-with:Dr. Sharma \n\n"}
    assert form.request_of(SOURCE, "local", "m", "lora", given).rewards == ("json", "ends-with:Dr. Sharma")
    assert form.request_of(SOURCE, "local", "m", "lora", given | {"objective": "sft"}).rewards == ()
    kinds = ("preference", "text", "sft", "prompts")
    aims = {kind: [objective for _, objective in form.aims_of(kind)] for kind in kinds}
    assert (aims["preference"], aims["text"]) == (["dpo", "orpo", "reward", "kto"], ["pretrain"])
    assert (aims["prompts"], aims["sft"][0]) == (["grpo"], "sft")
    names = {"hospital_reports": "hospital_reports-2", "my file (1)": "my_file_1", "///": "adapter"}
    assert {slug: train.free_name(slug, {"hospital_reports"}) for slug in names} == names


def test_a_settings_file_fills_the_form(services, call, tab, tmp_path):
    file = tmp_path / "settings.json"

    def brought(content):
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return call(form.bring, tab, uploaded=str(file), source=SOURCE)

    given = {"method": "lora", "steps": 33, "rank": 4, "turns": "last", "options": {"pissa": True}}
    filled = brought({**given, "leave_out": ["conflict"]})
    source, fields = filled[tab.source], {name: filled[widget] for name, widget in tab.fields.items()}
    assert (source.turns, source.leave_out, filled[tab.method]) == ("last", ("conflict",), "lora")
    assert (fields["steps"], fields["rank"], fields["rslora"], fields["pissa"]) == (33, 4, False, True)
    says(filled[tab.code_error], "are in the form")
    filled = brought({"early_stop": 2, "objective": "grpo", "rewards": ["json", "max-words:9"], "save_steps": 10})
    fields = {name: filled[widget] for name, widget in tab.fields.items()}
    assert (fields["objective"], fields["rewards"], fields["early_stop"]) == ("grpo", "json\nmax-words:9", 2)
    assert brought({"start": "mine"})[tab.fields["start"]]["value"] == "mine"
    for content, error in (("[1]", "no file of settings"), ("{", "no JSON"), ({"steps": "x"}, "takes a number")):
        refused(error, brought, content)
    with pytest.raises(InputError, match=r"The form has no place for .*save_steps.*\(docs\)"):
        brought({"docs": "notes.md", "save_steps": 33})
    says(call(form.bring, tab, uploaded=str(file), source=Source())[tab.code_error], "Drop a file")


@pytest.mark.parametrize(
    ("step_s", "steps"), [(1.0, 20), (8.4, 20), (8.5, 19), (12.0, 14), (40.0, FEWEST_STEPS), (900.0, FEWEST_STEPS)]
)
def test_a_quick_look_has_as_many_steps_as_three_minutes_hold(step_s, steps):
    offered = [Preset("quick", "Quick look", 20), Preset("good", "Good", 48)]
    quick, good = within_reach(offered, lambda steps: 12 + step_s * steps)
    assert (quick.steps, good) == (steps, offered[1])
    assert 12 + step_s * quick.steps <= QUICK_S or quick.steps == FEWEST_STEPS


class Slow(FakeTraining):
    """Seconds by the method: full takes 30 a step."""

    def plan(self, request):
        return replace(super().plan(request), seconds=12 + request.steps * (30 if request.method == "full" else 10))


def test_the_form_offers_what_its_own_plan_says(services, call, tab):
    services.training = Slow()
    steps = tab.fields["steps"]
    offered = call(train.presets, tab, source=SOURCE, method="lora", max_tokens=2048)
    assert offered[steps] == 16
    assert [label for label, _ in offered[tab.preset]["choices"]] == ["Quick look, about 3 min", "Good, about 8 min"]
    for preset, method, expected in (("quick", "lora", 16), ("quick", "full", 5), ("good", "lora", 48)):
        chosen = call(train.steps_of, tab, preset=preset, source=SOURCE, method=method, max_tokens=512)
        assert chosen == {steps: expected}
    times = call(train.preset_times, tab, source=SOURCE, method="full", max_tokens=512)[tab.preset]
    assert times.choices[0][0] == "Quick look, about 3 min"
    for handler in (train.presets, train.preset_times, partial(train.steps_of, preset="quick")):
        assert call(handler, tab, source=Source(), method="lora", max_tokens=512) == {}, "there are no rows yet"
