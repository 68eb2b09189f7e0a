from __future__ import annotations

import json
from dataclasses import replace

from playground.verdict.race import RaceView
from playground.verdict.race_store import HEAD, NONE, Entry, Race, cells, eval_loss, record, status, text

FORGOT = {"loss_before": 3.0, "loss_after": 3.25, "tokens": 90, "right_before": 20, "right_after": 18, "questions": 40}
FIGURES = {"eval_loss": 0.5004, "trainable_params": 2_442_240, "bytes": 9_816_440, "peak_memory_bytes": 4_562_259_968}
DONE = Entry("lora", "r1", 20, state="DONE", adapter="mine", passed=15, asked=16, measured_s=9.0, lr=1e-3)
DONE = replace(DONE, figures=FIGURES | {"seconds": 61.2, "tokens_per_s": 183.4}, forgot=FORGOT | {"divergence": None})
WAITS = Entry("full", "r2", 20)
BASE = Entry("", passed=0, asked=16, eval_loss=[[0, 3.1]])
VIEW = RaceView(Race("x", "local", "n", "f.jsonl", 1.0, "RUNNING", "json", 20, None, (DONE, WAITS), BASE), 90.0, 1, 2)


def test_a_line_is_as_long_as_the_head_whatever_is_known() -> None:
    line = "LoRA|0.001|0.500|15 of 16|2,442,240|9.8 MB|4.56 GB|61|183|+0.25|18 of 40, was 20|–"
    assert cells(DONE) == line.split("|")
    assert cells(WAITS) == ["Full", *[NONE] * (len(HEAD) - 1)]
    assert eval_loss(WAITS) is None
    assert cells(BASE)[:4] == ["Base, untrained", NONE, "3.100", "0 of 16"]


def test_what_is_missing_says_why() -> None:
    assert status(WAITS) == "waits"
    assert status(replace(WAITS, state="RUNNING", loss=[[3, 1.0]])) == "step 3 of 20"
    assert status(replace(WAITS, state="DONE")) == "trained, not measured yet"
    assert status(replace(WAITS, state="FAILED", reason="Memory ran out.")) == "Memory ran out."
    assert status(DONE) == status(BASE) == ""


def test_text_and_json_hold_every_method() -> None:
    lines = text(VIEW).splitlines()
    assert len(lines) == 5
    assert lines[-1] == "Full: waits"
    found = json.loads(json.dumps(record(VIEW), allow_nan=False))
    assert [one["method"] for one in found["rows"]] == ["lora", "full"]
    assert found["rows"][0]["eval_loss"] == 0.5004
    assert found["base"]["passed"] == 0
    assert (found["race"], found["state"], found["steps"]) == ("x", "RUNNING", 20)
