"""The command line as a person calls it: exit codes, one message on stderr, one JSON object at the end of stdout."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from playground.cli.common import build_parser
from playground.cli.main import ERRORS
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.settings import PROJECT_ROOT
from playground.workspace.visitors import Home


@pytest.mark.parametrize(
    "verb", ["check", "train", "compare", "verdict", "bench", "search", "race", "adapters", "runs"]
)
def test_every_verb_says_what_it_takes(verb, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        build_parser().parse_args([verb, "--help"])
    assert f"playground {verb}" in capsys.readouterr().out


def test_check(done, rows_file):
    found = done("check", rows_file)
    assert (found["objective"], found["rows"], found["good"]) == ("sft", 25, 24)
    assert [bad["row"] for bad in found["bad"]] == [25]
    assert (found["split"]["train"], len(found["split"]["validation"]), len(found["split"]["test"])) == (15, 2, 7)
    assert done("check", rows_file, "--map", "prompt=answer", "completion=question")["good"] == 24
    row = done("check", rows_file, "--row", "2")["row"]
    assert [(turn["role"], turn["learned"]) for turn in row["turns"]] == [("user", False), ("assistant", True)]
    assert row["number"] == 2
    assert all(turn["content"] in row["text"] for turn in row["turns"])
    assert "<|im_start|>" in row["text"]


@pytest.mark.usefixtures("forks")
def test_train_list_compare_export_import_remove(call, done, rows_file, tmp_path, qwen):
    words = ("--steps", 4, "--batch-size", 4, "--name", "First one", "--rank", 2)
    code, trained, progress = call("train", rows_file, *words)
    assert code == 0, trained
    assert (trained["state"], trained["adapter"], trained["rows_bad"], trained["steps"]) == ("DONE", "first_one", 1, 4)
    assert set(trained) == {
        *("run", "state", "adapter", "rows_used", "rows_bad", "steps", "seconds", "tokens_per_s", "loss", "eval_loss"),
        *("trainable_params", "total_params", "peak_memory_bytes", "estimated_memory_bytes"),
    }
    assert "24 of 25 rows can be used" in progress
    assert "Learns from 15 rows; 2 are held back to choose by, 7 for a verdict." in progress
    assert trained["rows_used"] == 15
    assert [(run["run"], run["state"], run["pid"]) for run in done("runs")["runs"]] == [(trained["run"], "DONE", None)]
    shown = done("runs", "show", trained["run"])
    ratio = trained["estimated_memory_bytes"] / trained["peak_memory_bytes"]
    assert (shown["adapter"], shown["memory_ratio"]) == ("first_one", pytest.approx(ratio, abs=0.001))

    sides = ["--side", "model=base", "--side", "model=first_one,name=Mine", "--side", "model=base,shots=2"]
    asked = ("--ask", "Say 3", "--ask", "And 4?", "--examples", rows_file, "--max-tokens", 5)
    replies = done("compare", *sides, *asked)["replies"]
    first = [(reply["side"], reply["turn"]) for reply in replies][:3]
    assert (first, len(replies)) == ([("base", 0), ("Mine", 0), ("base + 2 shots", 0)], 6)
    assert replies[1]["stamp"]["adapter"] == "first_one"

    written = done("handover", "first_one", "--to", "vllm", "--out", tmp_path / "served")
    assert (written["same"], written["differences"], written["pairs"]) == (None, [], []), "nothing was asked"
    assert str(tmp_path / "served" / "adapters" / "first_one" / "adapter_model.safetensors") in written["files"]
    done("adapters", "export", "first_one", tmp_path / "out")
    done("adapters", "remove", "first_one")
    code, refused, _ = call("adapters", "import", tmp_path / "out", "--base", qwen)
    assert (code, "trained on another base" in refused["error"]) == (2, True)
    (imported,) = done("adapters", "import", tmp_path / "out")["adapters"]
    code, offline, _ = call("adapters", "import", "owner/name")
    assert (code, offline["error"].count(". ")) == (1, 1), "a sentence, and what to do"
    assert imported in done("adapters")["adapters"]
    assert imported["rank"] == 2


@pytest.mark.usefixtures("forks")
def test_repaired_rows_are_checked_trained_and_judged_alike(call, done, settings, tmp_path):
    turns = [{"role": role, "content": f"{role} says {{}}"} for role in ("user", "assistant", "user")]
    rows = [json.dumps({"messages": turns}).replace("{}", str(n)) for n in (*range(24), 0)]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(rows))
    code, _, said = call("check", file)
    assert (code, "Repair makes 25 of them usable (on the command line: --repair)" in said) == (2, True)
    checked = done("check", file, "--repair")
    kept = [{"kind": "end", "rows": [*range(1, 26)]}, {"kind": "duplicate", "rows": [25]}]
    assert [{name: one[name] for name in ("kind", "rows")} for one in checked["repairs"]] == kept
    assert (checked["rows"], checked["good"], checked["mapping"]) == (24, 24, {"messages": "messages"})
    words = ("--steps", 2, "--batch-size", 4, "--rank", 2, "--name", "mended")
    code, trained, said = call("train", file, "--repair", *words)
    assert (code, trained["rows_bad"], "Repaired: 25 rows: what stands after the last answer" in said) == (0, 0, True)
    record = json.loads((settings.adapters_dir / "mended" / "run.json").read_text())
    assert (record["mapping"], record["repairs"]) == ({"repair": "rows"}, kept)
    assert trained["rows_used"] == record["split"]["train"] == checked["split"]["train"]
    side = ("--side", "model=mended", "--max-tokens", 2, "--no-losses", "--no-forgetting")
    assert done("verdict", file, "--repair", *side)["overlap"] == trained["rows_used"], "the same rows"
    assert file.read_text() == "\n".join(rows)


@pytest.mark.usefixtures("forks")
def test_several_seeds_are_runs_on_the_same_rows_and_names_tell_them_apart(call, done, rows_file, settings):
    words = ("--steps", 4, "--batch-size", 4, "--rank", 2, "--name", "First one", "--seed", 3)
    found = done("train", rows_file, *words, "--seeds", 2)
    assert found["run"] == found["runs"][0]
    made = (settings.adapters_dir / name / "run.json" for name in ("first_one", "first_one-s2"))
    first, second = (json.loads(file.read_text()) for file in made)
    assert (first["seed"], second["seed"]) == (3, 4)
    assert (first["split"], first["row_hashes"]) == (second["split"], second["row_hashes"])
    assert done("train", rows_file, *words[:-4], "--name", "few", "--seed", 3, "--rows", 5)["rows_used"] == 5
    fewer = json.loads((settings.adapters_dir / "few" / "run.json").read_text())
    assert set(fewer["row_hashes"]) < set(first["row_hashes"]), "nested, and the same parts are held back"
    assert fewer["split"] | {"train": 0} == first["split"] | {"train": 0}
    code, _, said = call("train", rows_file, "--seeds", 0)
    assert (code, "from 1 to 20" in said) == (2, True)


def test_replay_gives_what_compare_printed_again(done, tmp_path):
    saved, sides = tmp_path / "saved.json", ("--side", "model=base", "--side", "model=base,name=Two")
    compared = done("compare", *sides, "--ask", "Hello", "--max-tokens", 6, "--temperature", 1)
    saved.write_text(json.dumps(compared))
    found = done("replay", saved)
    assert (found["same"], found["first_difference"]) == (True, None)
    assert [one["same"] for one in found["replies"]] == [True, True]
    reply = compared["replies"][1]
    saved.write_text(json.dumps(reply | {"text": reply["text"][:3] + "\N{SNOWMAN}"}))
    found = done("replay", saved)
    assert (found["same"], found["first_difference"], found["text"]) == (False, 3, reply["text"])


def test_a_detached_run_outlives_its_command_and_is_cancelled(settings, done, rows_file):
    """The command itself in a process of its own, as a person calls it."""
    env = os.environ | {"PLAYGROUND_HOME": str(settings.home), "PLAYGROUND_BASE": settings.base}
    command = [sys.executable, "-m", "playground", "train", str(rows_file), "--steps", "5000", "--detach", "--json"]
    ran = subprocess.run(command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    run = json.loads(ran.stdout.splitlines()[-1])["run"]
    shown = done("runs", "show", run)
    assert (shown["state"], bool(shown["pid"])) == ("RUNNING", True)
    assert done("runs", "cancel", run)["state"] == "CANCELLED"
    assert done("runs", "show", run)["pid"] is None


def test_waiting_runs_are_moved(done, rows_file, settings):
    services = build_services(settings)  # nobody supervises: they wait
    first, second = (services.training.start(TrainRequest(rows_file, name)) for name in ("one", "two"))
    assert done("runs", "move", second, "up")["place"] == 1
    assert [(run["run"], run["place"]) for run in done("runs")["runs"]] == [(second, 1), (first, 2)]


WRONG = tomllib.loads(Path(__file__).with_name("wrong_calls.toml").read_text("utf-8"))


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_call_is_one_message_and_exit_2(call, rows_file, words):
    """On stderr and in the JSON. FILE stands for a file of rows."""
    code, found, err = call(*(word.replace("FILE", str(rows_file)) for word in words.split()))
    assert (code, "Traceback" in err) == (2, False)
    assert err.strip().endswith(found["error"])
    expected = WRONG[words]
    parts = [expected] if isinstance(expected, str) else expected
    assert [part for part in parts if part not in found["error"]] == []


def test_a_fault_of_ours_is_one_sentence_and_its_place_is_in_a_file(call, settings):
    settings.home.mkdir()
    settings.database.write_text("This is no database, whatever its name says. " * 40)
    code, found, err = call("runs")
    assert (code, found["error"], "Traceback" in err) == (1, err.strip(), False)
    assert "Something went wrong inside the program (DatabaseError: file is not a database)." in err
    assert "Traceback" in (settings.home / ERRORS).read_text()


def test_a_home_in_use_is_told_in_words(call, settings):
    home = Home.take(settings)
    home.serves("http://127.0.0.1:1")  # an app: it is not waited for
    try:
        code, found, _ = call("demo")
    finally:
        home.release()
    assert (code, "PLAYGROUND_HOME" in found["error"]) == (1, True)


def test_status_and_doctor(done, settings):
    status, doctor = done("status"), done("doctor", "--offline")
    assert {"device", "budget_bytes", "used_bytes", "residents", "leases", "queue"} <= set(status)
    assert status["disk"]["free_bytes"] > 0
    assert {"device", "dtype", "threads", "base"} <= set(doctor)
    assert doctor["base"]["path"] == settings.base


def test_verdict(done, rows_file, tmp_path):
    out, prompt, answers, prices = (tmp_path / name for name in ("out", "prompt.txt", "answers.json", "prices.json"))
    prompt.write_text("Be glad.")
    answers.write_text('{"volume": 1000, "changes": "monthly"}')
    prices.write_text('{"currency": "EUR", "prompt_per_million": 2}')
    found = done(
        *("verdict", rows_file, "--side", "model=base,name=Base", "--side", f"model=base,prompt={prompt},name=Told"),
        *("--side", "model=base,shots=2,pick=nearest,name=Shown", "--check", "contains:gladly", "--limit", 12),
        *("--max-tokens", 4, "--answers", answers, "--prices", prices, "--out", out),
    )
    assert [side["side"] for side in found["sides"]] == ["Base", "Told", "Shown"]
    one = found["sides"][0]["metrics"]["contains:gladly"]
    assert one["low"] <= one["value"] <= one["high"]
    assert one["n"] == 12
    assert found["sides"][0]["seconds_mean"] > 0
    pairs = [pair for pair in found["pairs"] if pair["metric"] == "contains:gladly"]
    assert {(pair["a"], pair["b"]) for pair in pairs} == {("Base", "Told"), ("Base", "Shown"), ("Told", "Shown")}
    assert all(pair["p_adjusted"] >= pair["p_value"] for pair in pairs)
    assert found["choice"] in {"prompt", "few-shot", "not-enough-evidence"}
    assert found["overlap"] == 0
    rows = [json.loads(line) for line in Path(found["rows_file"]).read_text().splitlines()]
    assert len(rows) == 36
    assert set(rows[0]) >= {"example", "side", "prompt", "reply", "reference", "metrics", "stamp"}
    report = Path(found["report"]).read_text()
    assert report.lstrip().lower().startswith("<!doctype html")
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert {path.suffix for path in out.iterdir()} == {".html", ".jsonl", ".csv", ".json"}


def test_an_extension_keeps_what_was_stated_and_says_so(call, rows_file, tmp_path):
    code, found, _ = call("verdict", rows_file, "--extend", tmp_path, "--bar", 0.8, "--form-only")
    said = "--extend keeps all that was stated before the first row; leave out --form-only, --bar."
    assert (code, found["error"]) == (2, said)
    for words, said in ((("--extend", tmp_path), "holds no verdict"), (("--side", "model=base"), "No file is named")):
        code, found, _ = call("verdict", *words)
        assert (code, said in found["error"]) == (2, True), "with --extend the rows are those of before"


def test_bench(done, rows_file, tmp_path):
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("Be glad.")
    second.write_text("Say the number, and be brief.")
    words = ("bench", rows_file, "--prompt", first, "--prompt", second, "--shots", "0,1", "--check", "contains:gladly")
    found = done(*words, "--limit", 2, "--max-tokens", 4)
    sides = [(side["side"], side["version"], side["shots"]) for side in found["sides"]]
    assert sides == [("v1", "v1", 0), ("v1 + 1 shot", "v1", 1), ("v2", "v2", 0), ("v2 + 1 shot", "v2", 1)]
    assert (found["metric"], found["examples"], {side["n"] for side in found["sides"]}) == ("pass", 2, {2})
    assert found["best"]["prompt"] in (first.read_text(), second.read_text())
    assert found["best"]["sentence"].startswith("The best of 4 (2 prompts, with 0 or 1 shots) on 2 validation rows: ")


def test_search_and_a_verdict_on_what_it_found(call, done, rows_file, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("Be glad.")
    side = ("--side", "model=base,prompt=best,shots=best,name=Best")
    code, found, _ = call("verdict", rows_file, *side)
    assert (code, "python -m playground search" in found["error"]) == (2, True)
    words = ("--prompt", mine, "--shots", "0,2", "--check", "contains:gladly", "--max-tokens", 4)
    found = done("search", rows_file, "--budget", 0.05, *words)
    assert set(found) >= {"candidates", "best", "prompt_file", "spent"}
    assert Path(found["prompt_file"]).read_text().strip() == found["best"]["prompt"]
    one = found["candidates"][0]
    assert set(one) >= {"prompt", "shots", "score"}
    assert (set(one["score"]), set(found["spent"])) == ({"value", "low", "high", "n"}, {"seconds", "tokens"})
    judged = done("verdict", rows_file, *side, "--max-tokens", 4, "--no-losses")
    assert judged["tried"] == found["best"]["sentence"]
    assert judged["examples"] == 7, "its test part alone"
    again = done("search", rows_file, "--resume", "--budget", 0.01)
    assert again["search"] == found["search"]
    assert again["spent"]["tokens"] >= found["spent"]["tokens"]


@pytest.mark.usefixtures("forks")
def test_a_race_from_start_to_table_and_again_later(call, rows_file):
    words = ("--methods", "ia3,lora", "--steps", 1, "--batch-size", 4, "--check", "contains:gladly", "--name", "Two")
    code, found, progress = call("race", rows_file, *words)
    assert code == 0, found
    assert [row["method"] for row in found["rows"]] == ["lora", "ia3"]
    for row in found["rows"]:
        assert (row["state"], row["forgot"]["questions"], row["asked"]) == ("DONE", 2, 2)
    assert "left" in progress
    code, listed, _ = call("races")
    assert (code, [race["state"] for race in listed["races"]]) == (0, ["DONE"])
    assert call("races", "show", found["race"])[:2] == (0, found)
    assert call("races", "remove", found["race"])[:2] == (0, {"removed": found["race"]})
    assert call("races")[1] == {"races": []}
