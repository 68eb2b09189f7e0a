"""Settings that leave and come back."""

import ast
import json
import re
import runpy
import shlex
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from safetensors import safe_open

from playground.cli.common import build_parser, request_of
from playground.gpu.device import CpuDevice, CudaDevice
from playground.library.bases import BaseShapes
from playground.methods.method import Options
from playground.runs import recipe
from playground.runs.planner import Plan, rewarded_by
from playground.runs.progress import RunView, write_curves
from playground.runs.request import CONTENT_STEPS, TrainRequest, begins_with, content_steps, presets_for
from playground.services import build_services
from playground.verdict.handover import Handover
from tests.refused import refused
from tests.ui.fakes import card

PLAN = Plan(1, 2, 3.0, 4, 6, 100, 48, 5e-4, 16, validation_rows=6)
COLUMNS = {"prompt": "Note A", "completion": "Note B"}
FEW = {"mapping": COLUMNS, "turns": "last", "leave_out": ("duplicate",), "test": 0.2}
REQUEST = TrainRequest(Path("ward notes.csv"), "mine", "lora", options=Options(rslora=True), **FEW)
FULL = replace(
    REQUEST,
    rewards=("json", "json-schema:/home/ann/ward.json"),
    early_stop=3,
    accumulate=2,
    start="mine_before",
    docs=Path("/home/ann/ward notes.md"),
    limit_memory_bytes=2_300_000_000,
    mapping=COLUMNS | {"repair": "rows", "sheet": "May", "encoding": "cp1250", "split": "train"},
)
"""With everything that a run can be told."""


def test_settings_come_back_as_they_went_and_other_files_by_their_names():
    record = json.loads(json.dumps(recipe.settings(FULL, PLAN, "grpo")))
    assert "/home/ann" not in json.dumps(record)
    back = recipe.with_settings(TrainRequest(Path("other.csv"), "other"), record)
    assert (back.file, back.name) == (Path("other.csv"), "other"), "the file and its name stay the person's"
    assert (back.method, back.steps, back.lr, back.rank, back.options) == ("lora", 48, 5e-4, 16, Options(rslora=True))
    assert (back.rewards, back.early_stop, back.start) == (("json", "json-schema:ward.json"), 3, "mine_before")
    assert (back.docs, back.limit_memory_bytes) == (Path("ward notes.md"), 2_300_000_000)
    assert recipe.settings(back, PLAN, "grpo") == record
    sly = recipe.with_settings(REQUEST, {"docs": "/etc/passwd", "rewards": ["json-schema:/etc/passwd"]})
    assert (sly.docs, sly.rewards) == (Path("passwd"), ("json-schema:passwd",)), "a file of settings opens nothing"


class Card(CudaDevice):
    name = "card"
    total_bytes = free_bytes = 10**12


def test_on_a_card_a_run_is_long_enough_for_content_and_fits_its_memory_and_on_a_processor_it_is_said(
    settings, rows_file
):
    plans = {}
    for device in (Card(), CpuDevice()):
        training = build_services(settings, device=device).training
        plans[device.kind] = training.plan(TrainRequest(rows_file, "mine"))
    assert (plans["cuda"].steps, plans["cpu"].steps) == (CONTENT_STEPS, 20)
    assert "Form and content" in plans["cuda"].teaches
    assert re.search(r"Form only: 20 steps go .* Content takes about 150 steps, .*(s|min|h)\.", plans["cpu"].teaches)
    services = build_services(settings, device=Card())
    whole = services.training.plan(request := TrainRequest(rows_file, "mine"))
    least = services.training.plan(replace(request, accumulate=8)).memory_bytes
    budget = (whole.memory_bytes + least) // 2
    smaller = build_services(replace(settings, budget_bytes=budget), device=Card()).training.plan(request)
    assert least <= smaller.memory_bytes <= budget
    assert not smaller.blocked
    assert re.search(r"computed in [248] parts", smaller.teaches)


def test_five_passes_or_what_is_in_reach_and_one_at_least():
    cases = {40: 150, 240: 150, 800: 500, 8_000: 2_000, 80_000: 10_000}
    assert {rows: content_steps(rows) for rows in cases} == cases
    assert content_steps(800, objective="dpo") == 100
    assert [one.steps for one in presets_for(8_000)] == [20, 150, 500]
    assert [one.steps for one in presets_for(8_000, gpu=True)] == [2_000, 20, 150]


def test_the_learning_rate_is_the_base_s_own_and_the_objective_s(services, rows_file, tmp_path):
    file = tmp_path / "pairs.jsonl"
    pair = {"prompt": "p", "chosen": "Good.", "rejected": "Bad."}
    file.write_text("\n".join(json.dumps(pair | {"prompt": f"p {n}"}) for n in range(30)))
    sft, dpo = (services.training.plan(TrainRequest(one, "mine", steps=1)).lr for one in (rows_file, file))
    assert dpo == pytest.approx(sft * 0.1)


def test_what_is_left_out_moves_no_row_of_the_verdict_and_a_reading_reaches_plans(
    services, rows_file, tmp_path, settings
):
    lines = rows_file.read_text("utf-8").splitlines()
    (file := tmp_path / "again.jsonl").write_text("\n".join([*lines, *lines[:9]]), "utf-8")
    whole = services.data.split(file, (checked := services.data.check(file)).usable, 7, checked=checked)
    left = {one.row for one in checked.warnings if one.kind == "duplicate"}
    plan = services.training.plan(TrainRequest(file, "mine", steps=1, leave_out=("duplicate",)))
    assert (len(left), plan.test_rows) == (9, len({*whole.test} - left))
    assert plan.rows == len({*whole.train} - left)
    data, training = services.data, services.training
    rows = [f"Która godzina {n}?;{n} rano;{'test' if n > 25 else 'train'}" for n in range(30)]
    (tmp_path / "rows.csv").write_bytes("\n".join(["prompt;completion;split", *rows]).encode("cp1250"))
    said = {"encoding": "windows-1250"}
    checked = data.check(tmp_path / "rows.csv", said)
    assert data.split(tmp_path / "rows.csv", checked.usable, 7, checked=checked).test == (27, 28, 29, 30)
    plan = training.plan(TrainRequest(tmp_path / "rows.csv", "mine", steps=1, mapping=said))
    assert (plan.test_rows, plan.rows + plan.validation_rows) == (4, 26)
    assert training.plan(TrainRequest(tmp_path / "rows.csv", "mine", steps=1, mapping={"split": "train"})).rows <= 26
    copy = data.edited(tmp_path / "rows.csv", {1: {"completion": "zaraz"}}, "local", said)
    again = data.check(copy)
    assert (again.encoding, again.examples[0].completion, len(again.held)) == ("utf-8", "zaraz", 4)
    assert again.examples[1].prompt == checked.examples[1].prompt


@pytest.mark.parametrize(("request_", "objective"), [(REQUEST, "sft"), (FULL, "grpo")])
def test_the_command_line_is_read_back_as_the_same_run(request_, objective):
    words = shlex.split(recipe.command(request_, PLAN, objective, "ward notes.csv"))
    assert words[:4] == ["python", "-m", "playground", "train"]
    back = request_of(build_parser().parse_args(words[3:]), request_.file)
    decided = {"steps": 48, "lr": 5e-4, "rank": 16, "objective": objective}
    rewards = tuple(one.replace("/home/ann/", "") for one in request_.rewards)
    docs = request_.docs and Path(request_.docs.name)
    assert back == replace(request_, rewards=rewards, docs=docs, **decided)


WRONG = map(json.loads, Path(__file__).with_name("wrong_settings.jsonl").read_text("utf-8").splitlines())


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case["says"])
def test_what_is_no_file_of_settings(case):
    refused(case["says"], recipe.with_settings, REQUEST, case["record"])


LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def trl(config, objective="sft", **changes):
    script = recipe.trl(replace(REQUEST, **changes), PLAN, objective, "smollm2-135m", config)
    ast.parse(script)
    return script


def axolotl(objective="sft", **changes):
    return recipe.axolotl(replace(REQUEST, **changes), PLAN, objective, "smollm2-135m")


@pytest.mark.parametrize("objective", ["sft", "pretrain", "dpo"])
def test_an_axolotl_file_is_yaml_with_what_was_set(objective):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = yaml.safe_load(axolotl(objective))
    said = {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "adapter": "lora", "lora_r": 16}
    said |= {"max_steps": 48, "learning_rate": 5e-4, "peft_use_rslora": True}
    assert found.items() >= said.items()
    assert found["datasets"][0]["path"] == recipe.ROWS
    assert ("test_datasets" in found, found["val_set_size"]) == (True, 0)
    assert found.get("rl") == ("dpo" if objective == "dpo" else None)


@pytest.mark.parametrize(("objective", "task"), [("sft", "CAUSAL_LM"), ("reward", "SEQ_CLS")])
def test_a_trl_script_is_python_that_says_what_was_set(objective, task):
    script = trl(LoraConfig(use_rslora=True, **LORA), objective)
    said = f"LoraConfig(lora_alpha=32, r=16, target_modules='all-linear', task_type='{task}', use_rslora=True)"
    assert said in script
    assert "max_steps=48, learning_rate=0.0005" in script
    assert "EarlyStopping" not in script


def test_pissa_and_a_step_in_parts_are_pefts_own_and_one_for_others():
    """Here it is a LoRA of twice the rank, half of which stays; elsewhere the same beginning has a name."""
    pissa, ours = Options(pissa=True), LoraConfig(**LORA | {"r": 32})
    said = "init_lora_weights='pissa', lora_alpha=16, r=16, target_modules='all-linear', task_type='CAUSAL_LM')"
    assert said in trl(ours, options=pissa)
    file = axolotl(options=pissa)
    assert all(line in file for line in ('peft_init_lora_weights: "pissa"', "lora_r: 16\n", "lora_alpha: 16\n"))
    for form in (partial(trl, ours), axolotl):
        refused("cannot begin so over a base in 4 bits", form, method="qlora", options=pissa)
        refused("the base that dpo compares with", form, "dpo", options=pissa)
    assert "micro_batch_size: 2\ngradient_accumulation_steps: 4\n" in axolotl(accumulate=4)
    script = trl(LoraConfig(r=16), accumulate=4)
    assert "per_device_train_batch_size=2,\n    gradient_accumulation_steps=4,\n    lr_sch" in script


def test_a_run_that_stops_early_and_virtual_tokens_that_begin_as_a_text_do_so_elsewhere():
    script = trl(LoraConfig(r=16), early_stop=3)
    assert "callbacks=[EarlyStoppingCallback(3)]" in script
    assert "eval_strategy='steps', eval_steps=10, load_best_model_at_end=True" in script
    assert "early_stopping_patience: 3\n" in axolotl(early_stop=3)
    told = Options(init_text="Write it's report")
    script = trl(PromptTuningConfig(num_virtual_tokens=16, task_type="CAUSAL_LM"), method="prompt", options=told)
    assert "prompt_tuning_init='TEXT', prompt_tuning_init_text=\"Write it's report\"" in script
    assert "tokenizer_name_or_path='HuggingFaceTB/SmolLM2-135M-Instruct'" in script
    prefix = PrefixTuningConfig(num_virtual_tokens=16)
    refused("A TRL script has no place for --init-text", trl, prefix, method="p-tuning-v2", options=told)


@pytest.mark.parametrize(
    ("lost", "flags"),
    [
        ({"method": "full", "options": Options(layers=3)}, "--layers"),
        ({"start": "mine"}, "--from"),
        ({"docs": Path("notes.md"), "limit_memory_bytes": 10**9}, "--docs, --memory-limit"),
    ],
)
def test_what_a_form_cannot_hold_is_named(lost, flags):
    changes = {"options": Options(), **lost}
    refused(f"A TRL script has no place for {flags}. Take the command line", trl, None, **changes)
    refused(f"An Axolotl file has no place for {flags}. Take the command line", axolotl, **changes)
    refused("Axolotl has no prefix", axolotl, method="prefix")
    refused("more than a short script", trl, None, "grpo")


BASE = BaseShapes({}, {}, fingerprint="f" * 64)
CARD = card("mine", path=Path("mine"), base="tiny", base_fingerprint="f" * 64, objective="sft", kind="full")
PLAIN = TrainRequest(Path("rows.jsonl"))


@pytest.mark.parametrize(
    ("request_changes", "card_changes", "objective", "words"),
    [
        ({}, {"base_fingerprint": "0" * 64, "base": "other"}, "sft", "trained on another base (other)"),
        ({"method": "dora"}, {}, "sft", "it is lora and the run dora; choose --method lora"),
        ({"method": "p-tuning"}, {"method": "p-tuning"}, "sft", "the run p-tuning; choose --method prompt"),
        ({"rank": 4}, {}, "sft", "its rank is 8, not 4"),
        ({"options": Options(pissa=True)}, {}, "sft", "pissa can only be set for a new adapter"),
        ({}, {"objective": "reward"}, "grpo", "reward models begin at the base"),
        ({}, {}, "reward", "reward models begin at the base"),
    ],
)
def test_only_an_adapter_of_this_base_and_method_is_gone_on_from(request_changes, card_changes, objective, words):
    assert begins_with(PLAIN, "grpo", CARD, BASE) is CARD
    assert begins_with(replace(PLAIN, method="qlora"), "dpo", CARD, BASE) is CARD, "QLoRA's adapter is a LoRA"
    tuned = replace(CARD, method="p-tuning")
    assert begins_with(replace(PLAIN, method="prompt"), "sft", tuned, BASE) is tuned, "what it made is a prompt"
    asked, there = replace(PLAIN, **request_changes), replace(CARD, **card_changes)
    assert words in refused("", begins_with, asked, objective, there, BASE)


def test_rewards_are_checks_and_reward_models_and_others_are_refused_in_words(tmp_path):
    schema = tmp_path / "s.json"
    schema.write_text("{}")
    asked = ("json", f"json-schema:{schema}", "model=judge")
    found = rewarded_by(asked, "grpo", lambda id: replace(CARD, id=id, objective="reward"), BASE)
    assert found == {"json": "", "json-schema:s.json": str(schema), "model=judge": "mine"}, "the record names no folder"
    for rewards, objective, words in (
        ((), "grpo", "grpo needs to know what a reply is worth"),
        (("json",), "sft", "takes no reward"),
        (("polite",), "grpo", "is not a check"),
        (("model=mine",), "grpo", "mine writes replies and scores none"),
    ):
        refused(words, rewarded_by, rewards, objective, lambda id: replace(CARD, id=id), BASE)


NEW = RunView("r1", "mine", "DONE", "lora", 2, 2, "mine", None, None, 1.0)
KNOWN = {"loss": [(1, 2.0), (2, 1.5)], "eval_loss": [(0, 2.2), (2, 1.6)], "curves": {"lr": [(1, 1e-3), (2, 5e-4)]}}
VIEW = replace(NEW, **KNOWN)


def test_curves_as_csv_and_as_an_event_file_that_is_replaced_when_written_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    write_curves(VIEW, tmp_path, "tensorboard")
    file = write_curves(VIEW, tmp_path, "tensorboard")
    assert [path.name for path in (tmp_path / "r1").iterdir()] == [file.name]
    data, found, at = file.read_bytes(), set(), 0
    while at < len(data):  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found |= {(value.tag, event.step, round(value.simple_value, 6)) for value in event.summary.value}
        at += 16 + length
    assert ("train/loss", 2, 1.5) in found
    assert ("eval/loss", 0, 2.2) in found
    assert len(found) == 6
    text = write_curves(VIEW, tmp_path / "new", "csv").read_text()
    assert text.split() == ["step,train/loss,eval/loss,train/lr", "0,,2.2,", "1,2.0,,0.001", "2,1.5,1.6,0.0005"]
    refused("csv or tensorboard", write_curves, VIEW, tmp_path, "excel")
    refused("no curves yet", write_curves, NEW, tmp_path, "csv")
    (tmp_path / "file").write_text("")
    refused("another folder", write_curves, VIEW, tmp_path / "file" / "below", "csv")


@pytest.mark.parametrize(("kind", "words"), [("skypilot", "L4:1"), ("slurm", "--time=02:00:00"), ("hf-jobs", "l4x1")])
def test_a_launch_file_runs_the_one_script_and_brings_the_adapter_back(kind, words):
    request = replace(REQUEST, name="My run; rm -rf /", method="qlora")
    text = recipe.launch(kind, request, PLAN, "sft", "smollm2-135m")
    assert all(part in text for part in (words, "python train.py", "my-run-rm-rf", "adapters import", "bitsandbytes"))
    if kind == "skypilot":
        yaml = pytest.importorskip("yaml")
        assert yaml.safe_load(text)["run"] == "python train.py"
    else:
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
        assert text.startswith("#!/bin/bash\n")
        assert "upload" not in text or '--include train.py --include "*.jsonl" --include run.json ' in text


def trl_row(objective, n):
    ask, good = {"prompt": f"Say {n}"}, f"The ward counts to {n}, gladly."
    return {
        "sft": ask | {"completion": good},
        "pretrain": {"text": good * 4},
        **dict.fromkeys(("dpo", "reward"), ask | {"chosen": good, "rejected": "No."}),
        "kto": ask | {"completion": good if n % 2 else "No.", "label": bool(n % 2)},
    }[objective]


@pytest.mark.parametrize(
    ("objective", "method"),
    [("sft", "prefix"), ("pretrain", "full"), ("dpo", "lora"), ("kto", "dora"), ("reward", "ia3")],
)
def test_the_trl_script_trains_as_it_is_on_the_rows_beside_it(settings, tmp_path, monkeypatch, objective, method):
    services = build_services(settings)
    file, there = tmp_path / "mine.jsonl", tmp_path / "elsewhere"
    file.write_text("\n".join(json.dumps(trl_row(objective, n)) for n in range(60)))
    request = TrainRequest(file, "mine", method, objective, steps=1, batch_size=4, max_tokens=96, save_steps=1)
    there.mkdir()
    files = services.training.bundle(request, "trl")
    for name, text in files.items():
        (there / name).write_text(text)
    monkeypatch.chdir(there)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    runpy.run_path("train.py", run_name="__main__")
    (weights,) = (there / "out" / "final").glob("*model.safetensors")
    with safe_open(weights, framework="numpy") as opened:
        assert list(opened.keys())
    if objective == "sft":
        came_back(services, there / "out" / "final", files)


def came_back(services, folder, files):
    """What was trained elsewhere is imported: its manifest names the rows that it has not seen."""
    card = services.adapters.import_file(folder)
    back = services.handover.returned(card)
    held = back.held_out.read_text().splitlines()
    assert (card.method, card.trained_on, len(held)) == ("prefix", "mine.jsonl", 18)
    assert not {*held} & {*files[recipe.ROWS].splitlines(), *files[recipe.CHOOSING].splitlines()}
    assert "18 rows were held out of its training and are here; it has learned none of them" in back.words[-1]
    assert back.verdict.endswith(f"--side model=base --side model={card.id}")
    assert services.handover.request(Handover(card.id, "")).file == back.held_out
    assert "not here any more" in services.handover.returned(card, "somebodyelse").words[-1]
    manifest = json.loads((folder / "run.json").read_text())
    other = manifest | {"template_sha256": "1" * 64, "row_hashes": ["zz"], "lr": "fast"}
    for sha256, last in (("../../../etc", "not here any more"), ("ab" * 32, "not here any more")):
        (folder / "run.json").write_text(json.dumps(other | {"held_out": {"rows": 1, "sha256": sha256}}))
        words = services.handover.returned(services.adapters.import_file(folder)).words
        assert ("chat template" in words[1], last in words[2]) == (True, True)
    (folder / "run.json").write_text(json.dumps(other | {"base_fingerprint": "0" * 16}))
    refused("another base", services.adapters.import_file, folder)
    (folder / "run.json").write_text(json.dumps({"schema": 1, "held_out": 3, "template_sha256": None}))
    assert services.handover.returned(services.adapters.import_file(folder)) is None
