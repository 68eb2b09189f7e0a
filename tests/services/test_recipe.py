"""Settings that leave and come back."""

from __future__ import annotations

import ast
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.cli.arguments import build_parser, request_of
from playground.errors import InputError
from playground.methods.method import Options
from playground.runs import recipe
from playground.runs.planner import Plan
from playground.runs.request import TrainRequest

PLAN = Plan(1, 2, 3.0, 4, 5, 6, 100, 48, 5e-4, 16)
REQUEST = TrainRequest(
    Path("ward notes.csv"),
    "mine",
    "lora",
    options=Options(rslora=True),
    mapping={"prompt": "Note A", "completion": "Note B"},
    turns="last",
    leave_out=("duplicate",),
    test=0.2,
)

FULL = replace(
    REQUEST,
    rewards=("json", "json-schema:/home/ann/ward.json"),
    early_stop=3,
    start="mine_before",
    docs=Path("/home/ann/ward notes.md"),
    limit_memory_bytes=2_300_000_000,
)
"""With everything that a run can be told."""


def test_settings_come_back_as_they_went() -> None:
    record = json.loads(json.dumps(recipe.settings(REQUEST, PLAN, "sft")))
    back = recipe.with_settings(TrainRequest(Path("other.csv"), "other"), record)
    assert (back.file, back.name) == (Path("other.csv"), "other"), "the file and its name stay the person's"
    assert (back.method, back.steps, back.lr, back.rank, back.options) == ("lora", 48, 5e-4, 16, Options(rslora=True))
    assert recipe.settings(back, PLAN, "sft") == record


def test_every_setting_is_taken_away_and_brought_back_and_other_files_by_their_names() -> None:
    record = json.loads(json.dumps(recipe.settings(FULL, PLAN, "grpo")))
    assert "/home/ann" not in json.dumps(record)
    back = recipe.with_settings(TrainRequest(Path("other.csv"), "other"), record)
    assert (back.rewards, back.early_stop, back.start) == (("json", "json-schema:ward.json"), 3, "mine_before")
    assert (back.docs, back.limit_memory_bytes) == (Path("ward notes.md"), 2_300_000_000)
    assert recipe.settings(back, PLAN, "grpo") == record
    sly = recipe.with_settings(REQUEST, {"docs": "/etc/passwd", "rewards": ["json-schema:/etc/passwd"]})
    assert (sly.docs, sly.rewards) == (Path("passwd"), ("json-schema:passwd",)), "a file of settings opens nothing"


@pytest.mark.parametrize(("request_", "objective"), [(REQUEST, "sft"), (FULL, "grpo")])
def test_the_command_line_is_read_back_as_the_same_run(request_: TrainRequest, objective: str) -> None:
    words = shlex.split(recipe.command(request_, PLAN, objective, "ward notes.csv"))
    assert words[:4] == ["python", "-m", "playground", "train"]
    back = request_of(build_parser().parse_args(words[3:]), request_.file)
    decided = {"steps": 48, "lr": 5e-4, "rank": 16, "objective": objective}
    rewards = tuple(one.replace("/home/ann/", "") for one in request_.rewards)
    docs = request_.docs and Path(request_.docs.name)
    assert back == replace(request_, rewards=rewards, docs=docs, **decided)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, "no file of settings"),
        ({"prompt": "a", "completion": "b"}, "no file of settings: completion, prompt"),
        ({"steps": "many"}, "steps is 'many'; it takes a number"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"method": "ia3", "options": {"rslora": True}}, "does not take --rslora"),
        ({"options": []}, "options an object"),
        ({"rewards": "json"}, "rewards are lists"),
        ({"docs": 3}, "docs is 3; it takes the name of a file"),
        ({"batch_size": None}, "batch_size is None; it takes a number"),
        ({"batch_size": 0, "lr": 7}, "The learning rate is 7; .*; batch size is 0; it goes from 1 to 1024"),
    ],
)
def test_what_is_no_file_of_settings(record: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        recipe.with_settings(REQUEST, record)


@pytest.mark.parametrize("objective", ["sft", "pretrain", "dpo"])
def test_an_axolotl_file_is_yaml_with_what_was_set(objective: str) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = yaml.safe_load(recipe.axolotl(REQUEST, PLAN, objective, "smollm2-135m"))
    assert (found["base_model"], found["adapter"], found["lora_r"]) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "lora",
        16,
    )
    assert (found["max_steps"], found["learning_rate"], found["peft_use_rslora"]) == (48, 5e-4, True)
    assert found["datasets"][0]["path"] == "good-rows.jsonl"
    assert found.get("rl") == ("dpo" if objective == "dpo" else None)


@pytest.mark.parametrize("objective", ["sft", "pretrain", "dpo", "kto", "reward"])
def test_a_trl_script_is_python_that_says_what_was_set(objective: str) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=16, lora_alpha=32, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    script = recipe.trl(REQUEST, PLAN, objective, "smollm2-135m", config)
    ast.parse(script)
    task = "SEQ_CLS" if objective == "reward" else "CAUSAL_LM"
    assert (
        f"LoraConfig(lora_alpha=32, r=16, target_modules='all-linear', task_type='{task}', use_rslora=True)" in script
    )
    assert "max_steps=48, learning_rate=0.0005" in script


def test_pissa_is_peft_s_own_for_others() -> None:
    """Here it is a LoRA of twice the rank, half of which stays; elsewhere the same beginning has a name."""
    from peft import LoraConfig

    request = replace(REQUEST, options=Options(pissa=True))
    ours = LoraConfig(r=32, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    script = recipe.trl(request, PLAN, "sft", "b", ours)
    assert (
        "LoraConfig(init_lora_weights='pissa', lora_alpha=16, r=16, target_modules='all-linear', task_type='CAUSAL_LM')"
        in script
    )
    file = recipe.axolotl(request, PLAN, "sft", "b")
    assert all(line in file for line in ('peft_init_lora_weights: "pissa"', "lora_r: 16\n", "lora_alpha: 16\n"))
    for form in (lambda *some: recipe.trl(*some, "b", ours), lambda *some: recipe.axolotl(*some, "b")):
        with pytest.raises(InputError, match="cannot begin so over a base in 4 bits"):
            form(replace(request, method="qlora"), PLAN, "sft")
        with pytest.raises(InputError, match="the base that dpo compares with"):
            form(request, PLAN, "dpo")


def test_a_run_that_stops_early_stops_early_elsewhere() -> None:
    from peft import LoraConfig

    request = replace(REQUEST, early_stop=3)
    script = recipe.trl(request, PLAN, "sft", "b", LoraConfig(r=16))
    ast.parse(script)
    assert "callbacks=[EarlyStoppingCallback(3)]" in script
    assert "eval_strategy='steps', eval_steps=10, load_best_model_at_end=True" in script
    assert "early_stopping_patience: 3\n" in recipe.axolotl(request, PLAN, "sft", "b")
    assert "EarlyStopping" not in recipe.trl(REQUEST, PLAN, "sft", "b", LoraConfig(r=16))


def test_virtual_tokens_begin_as_the_text_where_peft_can() -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig

    request = replace(REQUEST, method="prompt", options=Options(init_text="Write it's report"))
    script = recipe.trl(
        request, PLAN, "sft", "smollm2-135m", PromptTuningConfig(num_virtual_tokens=16, task_type="CAUSAL_LM")
    )
    ast.parse(script)
    assert "prompt_tuning_init='TEXT', prompt_tuning_init_text=\"Write it's report\"" in script
    assert "tokenizer_name_or_path='HuggingFaceTB/SmolLM2-135M-Instruct'" in script
    with pytest.raises(InputError, match="A TRL script has no place for --init-text"):
        recipe.trl(replace(request, method="p-tuning-v2"), PLAN, "sft", "b", PrefixTuningConfig(num_virtual_tokens=16))


@pytest.mark.parametrize(
    ("lost", "flags"),
    [
        ({"method": "full", "options": Options(layers=3)}, "--layers"),
        ({"start": "mine"}, "--from"),
        ({"docs": Path("notes.md"), "limit_memory_bytes": 10**9}, "--docs, --memory-limit"),
    ],
)
def test_what_a_form_cannot_hold_is_named(lost: dict[str, Any], flags: str) -> None:
    request = replace(REQUEST, **{"options": Options(), **lost})
    with pytest.raises(InputError, match=f"A TRL script has no place for {flags}. Take the command line"):
        recipe.trl(request, PLAN, "sft", "b", None)
    with pytest.raises(InputError, match=f"An Axolotl file has no place for {flags}. Take the command line"):
        recipe.axolotl(request, PLAN, "sft", "b")


def test_what_others_do_not_have_is_said() -> None:
    with pytest.raises(InputError, match="Axolotl has no prefix"):
        recipe.axolotl(replace(REQUEST, method="prefix"), PLAN, "sft", "b")
    with pytest.raises(InputError, match="more than a short script"):
        recipe.trl(REQUEST, PLAN, "grpo", "b", None)
