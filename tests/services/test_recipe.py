"""Settings that leave and come back."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from playground.cli.arguments import build_parser, mapping_of
from playground.errors import InputError
from playground.methods.options import Options
from playground.services import recipe
from playground.services.planning import Plan, TrainRequest

PLAN = Plan(1, 2, 3.0, 4, 5, 6, 100, 48, 5e-4, 16)
REQUEST = TrainRequest(
    Path("ward notes.csv"), "mine", "lora", options=Options(rslora=True), mapping={"prompt": "Note A", "completion": "Note B"}, turns="last",
    leave_out=("duplicate",), test=0.2,
)  # fmt: skip


def test_settings_come_back_as_they_went() -> None:
    record = json.loads(json.dumps(recipe.settings(REQUEST, PLAN, "sft")))
    back = recipe.with_settings(TrainRequest(Path("other.csv"), "other"), record)
    assert (back.file, back.name) == (Path("other.csv"), "other"), "the file and its name stay the person's"
    assert (back.method, back.steps, back.lr, back.rank, back.options) == ("lora", 48, 5e-4, 16, Options(rslora=True))
    assert recipe.settings(back, PLAN, "sft") == record


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, "no file of settings"),
        ({"prompt": "a", "completion": "b"}, "no file of settings: completion, prompt"),
        ({"steps": "many"}, "steps is 'many'; it takes a number"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"method": "ia3", "options": {"rslora": True}}, "does not take --rslora"),
        ({"options": []}, "options an object"),
    ],
)
def test_what_is_no_file_of_settings(record: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        recipe.with_settings(REQUEST, record)


def test_the_command_line_is_read_back_as_the_same_run() -> None:
    words = shlex.split(recipe.command(REQUEST, PLAN, "sft", "ward notes.csv"))
    assert words[:4] == ["python", "-m", "playground", "train"]
    options = build_parser().parse_args(words[3:])
    assert (options.file, options.method, options.steps, options.lr, options.rank) == ("ward notes.csv", "lora", 48, 5e-4, 16)
    assert (options.turns, options.test, options.leave_out, options.rslora) == ("last", 0.2, ["duplicate"], True)
    assert mapping_of(options.map) == REQUEST.mapping


@pytest.mark.parametrize("objective", ["sft", "pretrain", "dpo"])
def test_an_axolotl_file_is_yaml_with_what_was_set(objective: str) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = yaml.safe_load(recipe.axolotl(REQUEST, PLAN, objective, "smollm2-135m"))
    assert (found["base_model"], found["adapter"], found["lora_r"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "lora", 16)
    assert (found["max_steps"], found["learning_rate"], found["peft_use_rslora"]) == (48, 5e-4, True)
    assert found["datasets"][0]["path"] == "good-rows.jsonl"
    assert found.get("rl") == ("dpo" if objective == "dpo" else None)


@pytest.mark.parametrize("objective", ["sft", "pretrain", "dpo", "kto", "reward"])
def test_a_trl_script_is_python_that_says_what_was_set(objective: str) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=16, lora_alpha=32, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    script = recipe.trl(REQUEST, PLAN, objective, "smollm2-135m", config)
    ast.parse(script)
    assert "LoraConfig(lora_alpha=32, r=16, target_modules='all-linear', task_type='CAUSAL_LM', use_rslora=True)" in script
    assert "max_steps=48, learning_rate=0.0005" in script


def test_what_others_do_not_have_is_said() -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="Axolotl has no prefix"):
        recipe.axolotl(replace(REQUEST, method="prefix"), PLAN, "sft", "b")
    with pytest.raises(InputError, match="more than a short script"):
        recipe.trl(REQUEST, PLAN, "grpo", "b", None)
