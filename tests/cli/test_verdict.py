"""``verdict``, ``bench`` and ``race`` as a person calls them, on the tiny base: their JSON and their files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from playground.evaluation.forgetting import material


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


def test_bench(done, rows_file, tmp_path):
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("Be glad.")
    second.write_text("Say the number, and be brief.")
    words = ("bench", rows_file, "--prompt", first, "--prompt", second, "--shots", "0,1", "--check", "contains:gladly")
    found = done(*words, "--limit", 2, "--max-tokens", 4)
    sides = [(side["side"], side["version"], side["shots"]) for side in found["sides"]]
    assert sides == [("v1", "v1", 0), ("v1 + 1 shot", "v1", 1), ("v2", "v2", 0), ("v2 + 1 shot", "v2", 1)]
    assert (found["metric"], found["examples"]) == ("pass", 2)
    assert {side["n"] for side in found["sides"]} == {2}
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
    assert set(one["score"]) == {"value", "low", "high", "n"}
    assert set(found["spent"]) == {"seconds", "tokens"}
    judged = done("verdict", rows_file, *side, "--max-tokens", 4, "--no-losses")
    assert judged["tried"] == found["best"]["sentence"]
    assert judged["examples"] == 7, "its test part alone"
    again = done("search", rows_file, "--resume", "--budget", 0.01)
    assert again["search"] == found["search"]
    assert again["spent"]["tokens"] >= found["spent"]["tokens"]


@pytest.mark.usefixtures("forks")
def test_a_race_from_start_to_table_and_again_later(call, rows_file, monkeypatch):
    few = replace(material(), texts=material().texts[:2], questions=material().questions[:2])
    monkeypatch.setattr("playground.verdict.losses.material", lambda: few)  # the whole text takes half a minute
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
