"""The command line as a person calls it: exit codes, one message on stderr, one JSON object at the end of stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from playground.cli.main import ERRORS
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.settings import PROJECT_ROOT, Settings
from playground.workspace.visitors import Home
from tests.cli.conftest import Call


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
    assert (code, mapped["good"]) == (0, 24)


def test_train_list_compare_export_import_remove(call: Call, rows_file: Path, tmp_path: Path) -> None:
    words = ("--steps", 4, "--batch-size", 4, "--name", "First one", "--rank", 2)
    code, trained, progress = call("train", rows_file, *words)
    assert code == 0, trained
    assert (trained["state"], trained["adapter"], trained["rows_bad"], trained["steps"]) == ("DONE", "first_one", 1, 4)
    assert set(trained) == {
        *("run", "state", "adapter", "rows_used", "rows_bad", "steps", "seconds", "tokens_per_s", "loss", "eval_loss"),
        *("trainable_params", "total_params", "peak_memory_bytes", "estimated_memory_bytes"),
    }
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
    asked = ("--ask", "Say 3", "--ask", "And 4?", "--examples", rows_file, "--max-tokens", 5)
    code, compared, _ = call("compare", *sides, *asked)
    assert code == 0, compared
    first = [(reply["side"], reply["turn"]) for reply in compared["replies"]][:3]
    assert first == [("base", 0), ("Mine", 0), ("base + 2 shots", 0)]
    assert len(compared["replies"]) == 6
    assert compared["replies"][1]["stamp"]["adapter"] == "first_one"

    assert call("adapters", "export", "first_one", tmp_path / "out")[0] == 0
    assert call("adapters", "remove", "first_one")[0] == 0
    code, imported, _ = call("adapters", "import", tmp_path / "out")
    assert code == 0, imported
    assert imported["adapters"][0] in call("adapters")[1]["adapters"]
    assert imported["adapters"][0]["rank"] == 2


def test_replay_gives_what_compare_printed_again(call: Call, tmp_path: Path) -> None:
    saved, sides = tmp_path / "saved.json", ("--side", "model=base", "--side", "model=base,name=Two")
    code, compared, _ = call("compare", *sides, "--ask", "Hello", "--max-tokens", 6, "--temperature", 1)
    assert code == 0, compared
    saved.write_text(json.dumps(compared))
    code, found, _ = call("replay", saved)
    assert (code, found["same"], found["first_difference"]) == (0, True, None)
    assert [one["same"] for one in found["replies"]] == [True, True]
    saved.write_text(json.dumps(compared["replies"][1] | {"text": compared["replies"][1]["text"][:3] + "\N{SNOWMAN}"}))
    code, found, _ = call("replay", saved)
    assert (code, found["same"], found["first_difference"]) == (0, False, 3)
    assert found["text"] == compared["replies"][1]["text"]


def test_a_detached_run_outlives_its_command_and_is_cancelled(settings: Settings, call: Call, rows_file: Path) -> None:
    """The command itself in a process of its own, as a person calls it."""
    env = os.environ | {"PLAYGROUND_HOME": str(settings.home), "PLAYGROUND_BASE": settings.base}
    command = [sys.executable, "-m", "playground", "train", str(rows_file), "--steps", "5000", "--detach", "--json"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])["run"]
    shown = call("runs", "show", run)[1]
    assert (shown["state"], bool(shown["pid"])) == ("RUNNING", True)
    code, cancelled, _ = call("runs", "cancel", run)
    assert (code, cancelled["state"]) == (0, "CANCELLED")
    assert call("runs", "show", run)[1]["pid"] is None


def test_waiting_runs_are_moved(call: Call, rows_file: Path, settings: Settings) -> None:
    services = build_services(settings)  # nobody supervises: they wait
    first, second = (services.training.start(TrainRequest(rows_file, name)) for name in ("one", "two"))
    assert call("runs", "move", second, "up")[1]["place"] == 1
    assert [(run["run"], run["place"]) for run in call("runs")[1]["runs"]] == [(second, 1), (first, 2)]


WRONG = tomllib.loads(Path(__file__).with_name("wrong_calls.toml").read_text("utf-8"))


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_call_is_one_message_and_exit_2(refused: Callable[..., str], words: str) -> None:
    said, expected = refused(*words.split()), WRONG[words]
    for part in [expected] if isinstance(expected, str) else expected:
        assert part in said


def test_a_fault_of_ours_is_one_sentence_and_its_place_is_in_a_file(call: Call, settings: Settings) -> None:
    settings.home.mkdir()
    settings.database.write_text("This is no database, whatever its name says. " * 40)
    code, found, err = call("runs")
    assert (code, found["error"], "Traceback" in err) == (1, err.strip(), False)
    assert "Something went wrong inside the program (DatabaseError: file is not a database)." in err
    assert "Traceback" in (settings.home / ERRORS).read_text()


def test_a_home_in_use_is_told_in_words(call: Call, settings: Settings) -> None:
    home = Home.take(settings)
    home.serves("http://127.0.0.1:1")  # an app: it is not waited for
    try:
        code, found, _ = call("demo")
    finally:
        home.release()
    assert (code, "PLAYGROUND_HOME" in found["error"]) == (1, True)


def test_status_and_doctor(call: Call, settings: Settings) -> None:
    code, status, _ = call("status")
    assert {"device", "budget_bytes", "used_bytes", "residents", "leases", "queue"} <= set(status)
    assert (code, status["disk"]["free_bytes"] > 0) == (0, True)
    code, doctor, _ = call("doctor", "--offline")
    assert {"device", "dtype", "threads", "base"} <= set(doctor)
    assert (code, doctor["base"]["path"]) == (0, settings.base)


FOLDER = os.environ.get("PLAYGROUND_REAL_DATA", "")


@pytest.mark.skipif(not FOLDER, reason="PLAYGROUND_REAL_DATA is unset: no folder of real data sets")
@pytest.mark.parametrize("name", ["banking77_train.csv", "e2e_devset.csv", "mts_dialog_validation.csv"])
def test_a_file_never_seen_trains_and_compares(call: Call, name: str) -> None:
    file = Path(FOLDER) / name
    assert call("check", file)[1]["good"] > 50
    adapter = call("train", file, "--steps", 2, "--batch-size", 2, "--max-tokens", 512)[1]["adapter"]
    sides = ("--side", "model=base", "--side", f"model={adapter}")
    assert len(call("compare", *sides, "--ask", "Hello", "--max-tokens", 4)[1]["replies"]) == 2
