"""The command line as a person calls it: exit codes, one message on stderr, one JSON object at the end of stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.services.container import Services
from playground.services.home import Home
from playground.services.training import TrainRequest
from playground.settings import PROJECT_ROOT, Settings

Call = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def call(settings: Settings) -> Call:
    """(words) -> exit code, the JSON, stderr; on the tiny base and a home of its own."""

    def run(*words: object, timeout: int = 120) -> tuple[int, dict[str, Any], str]:
        env = os.environ | {"PLAYGROUND_HOME": str(settings.home), "PLAYGROUND_BASE": settings.base}
        done = subprocess.run(
            [sys.executable, "-m", "playground", *map(str, words), "--json"],
            cwd=PROJECT_ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    lines = [f"Say {n},Number {n} gladly" for n in range(24)]
    file.write_text("question,answer\n" + "\n".join([*lines, "No answer,"]) + "\n")
    return file


def test_check(call: Call, rows_file: Path) -> None:
    code, found, _ = call("check", rows_file)
    assert code == 0
    assert (found["objective"], found["rows"], found["good"]) == ("sft", 25, 24)
    assert [bad["row"] for bad in found["bad"]] == [25]
    assert set(found) == {
        *("format", "objective", "rows", "good", "bad", "warnings", "duplicates", "tokens", "truncated"),
        *("mapping", "confidence", "why", "advice", "histogram", "padding", "split"),
    }
    assert (found["split"]["train"], len(found["split"]["validation"]), len(found["split"]["test"])) == (18, 2, 4)
    code, mapped, _ = call("check", rows_file, "--map", "prompt=answer", "completion=question")
    assert code == 0
    assert mapped["good"] == 24


def test_train_list_compare_export_import_remove(call: Call, rows_file: Path, tmp_path: Path) -> None:
    code, trained, progress = call("train", rows_file, "--steps", 4, "--batch-size", 4, "--name", "First one", "--rank", 2)
    assert code == 0, trained
    assert (trained["state"], trained["adapter"], trained["rows_bad"], trained["steps"]) == ("DONE", "first_one", 1, 4)
    assert set(trained) == {
        "run", "state", "adapter", "rows_used", "rows_bad", "steps", "seconds", "tokens_per_s", "loss", "eval_loss", "trainable_params",
        "total_params", "peak_memory_bytes", "estimated_memory_bytes",
    }  # fmt: skip
    assert "24 of 25 rows can be used" in progress
    assert "Learns from 18 rows; 2 are held back to choose by, 4 for a verdict." in progress
    assert trained["rows_used"] == 18
    _, runs, _ = call("runs")
    assert [(run["run"], run["state"], run["pid"]) for run in runs["runs"]] == [(trained["run"], "DONE", None)]
    shown = call("runs", "show", trained["run"])[1]
    assert shown["adapter"] == "first_one"
    ratio = trained["estimated_memory_bytes"] / trained["peak_memory_bytes"]
    assert shown["memory_ratio"] == pytest.approx(ratio, abs=0.001)

    sides = ["--side", "model=base", "--side", "model=first_one,name=Mine", "--side", "model=base,shots=2"]
    code, compared, _ = call("compare", *sides, "--ask", "Say 3", "--ask", "And 4?", "--examples", rows_file, "--max-tokens", 5)
    assert code == 0, compared
    assert [(reply["side"], reply["turn"]) for reply in compared["replies"]][:3] == [
        ("base", 0),
        ("Mine", 0),
        ("base + 2 shots", 0),
    ]
    assert len(compared["replies"]) == 6
    assert compared["replies"][1]["stamp"]["adapter"] == "first_one"

    assert call("adapters", "export", "first_one", tmp_path / "out")[0] == 0
    assert call("adapters", "remove", "first_one")[0] == 0
    code, imported, _ = call("adapters", "import", tmp_path / "out")
    assert code == 0, imported
    listed = call("adapters")[1]["adapters"]
    assert imported["adapters"][0] in listed
    assert imported["adapters"][0]["rank"] == 2


def test_replay_gives_what_compare_printed_again(call: Call, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    code, compared, _ = call(
        "compare",
        "--side",
        "model=base",
        "--side",
        "model=base,name=Two",
        "--ask",
        "Hello",
        "--max-tokens",
        6,
        "--temperature",
        1,
    )
    assert code == 0, compared
    saved.write_text(json.dumps(compared))
    code, found, _ = call("replay", saved)
    assert code == 0, found
    assert (found["same"], found["first_difference"], [one["same"] for one in found["replies"]]) == (True, None, [True, True])
    saved.write_text(json.dumps(compared["replies"][1] | {"text": compared["replies"][1]["text"][:3] + "\N{SNOWMAN}"}))
    code, found, _ = call("replay", saved)
    assert (code, found["same"], found["first_difference"]) == (0, False, 3)
    assert found["text"] == compared["replies"][1]["text"]
    assert {"same", "text", "first_difference"} <= set(found)


def test_a_detached_run_goes_on_alone_and_is_cancelled(call: Call, rows_file: Path) -> None:
    code, started, _ = call("train", rows_file, "--steps", 5000, "--detach")
    assert code == 0
    run = started["run"]
    shown = call("runs", "show", run)[1]
    assert shown["state"] == "RUNNING"
    assert shown["pid"]
    code, cancelled, _ = call("runs", "cancel", run)
    assert (code, cancelled["state"]) == (0, "CANCELLED")
    assert call("runs", "show", run)[1]["pid"] is None


def test_waiting_runs_are_moved(call: Call, rows_file: Path, settings: Settings) -> None:
    services = Services(settings)  # nobody supervises: they wait
    first, second = (services.training.start(TrainRequest(rows_file, name)) for name in ("one", "two"))
    assert call("runs", "move", second, "up")[1]["place"] == 1
    assert [(run["run"], run["place"]) for run in call("runs")[1]["runs"]] == [(second, 1), (first, 2)]
    code, told, _ = call("runs", "move", first, "sideways")
    assert code == 2
    assert "invalid choice" in told["error"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["fly"], 2, "invalid choice"),
        (["check", "nowhere.csv"], 2, "nowhere.csv"),
        (["train", "FILE", "--method", "magic"], 2, "There is no method 'magic'"),
        (["train", "FILE", "--method", "ia3", "--pissa"], 2, "IA³ does not take --pissa"),
        (["train", "FILE", "--method", "full", "--layers", 3], 2, "The base has 2 layers; 3 cannot be trained"),
        (["train", "FILE", "--method", "bottleneck", "--placement", "middle"], 2, "invalid choice: 'middle'"),
        (["train", "FILE", "--objective", "dpo"], 2, "dpo needs a better and a worse answer"),
        (["train", "FILE", "--strict"], 2, "row 25"),
        (["train", "FILE", "--steps", "many"], 2, "invalid int value"),
        (["train", "FILE", "--map", "prompt"], 2, "field=column"),
        (["train", "FILE", "--base", "not a base"], 2, "is not a base"),
        (["runs", "show", "none"], 2, "There is no run"),
        (["adapters", "export", "none", "x"], 2, "There is no adapter"),
        (["compare", "--side", "model=none", "--ask", "x"], 2, "There is no adapter"),
        (["compare", "--side", "base", "--ask", "x"], 2, "is not a side"),
        (["compare", "--side", "model=base", "--ask", "x", "--temperature", "9"], 2, "from 0 (greedy) to 2"),
        (["replay"], 2, "arguments are required: file"),
        (["replay", "nowhere.json"], 2, "nowhere.json cannot be read"),
        (["replay", "FILE"], 2, "is not JSON"),
    ],
)
def test_a_wrong_call_is_one_message_and_exit_2(call: Call, rows_file: Path, words: list[str], code: int, says: str) -> None:
    got, found, stderr = call(*[str(rows_file) if word == "FILE" else word for word in words])
    assert got == code
    assert says in found["error"]
    assert stderr.strip() == found["error"]
    assert "Traceback" not in stderr


def test_a_home_in_use_is_told_in_words(call: Call, settings: Settings) -> None:
    home = Home.take(settings)
    try:
        code, found, _ = call("demo")
        assert code == 1
        assert "PLAYGROUND_HOME" in found["error"]
    finally:
        home.release()


def test_status_and_doctor(call: Call, settings: Settings) -> None:
    code, status, _ = call("status")
    assert code == 0
    assert {"device", "budget_bytes", "used_bytes", "residents", "leases", "queue"} <= set(status)
    assert status["disk"]["free_bytes"] > 0
    code, doctor, _ = call("doctor", "--offline")
    assert code == 0
    assert {"device", "dtype", "threads", "base"} <= set(doctor)
    assert doctor["base"]["path"] == settings.base


@pytest.mark.parametrize("verb", ["runs", "adapters", "status"])
def test_looking_never_imports_torch(verb: str, tmp_path: Path) -> None:
    code = f"import sys; from playground.cli.main import main; main(['{verb}']); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, env=os.environ | {"PLAYGROUND_HOME": str(tmp_path)}, timeout=60
    )
    assert done.returncode == 0
