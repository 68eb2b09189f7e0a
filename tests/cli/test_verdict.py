"""``verdict`` as a person calls it, on the tiny base: its JSON, its files, and what a wrong call is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Call, call, rows_file

__all__ = ["call", "rows_file"]


def test_verdict(call: Call, rows_file: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be glad.")
    answers, prices = tmp_path / "answers.json", tmp_path / "prices.json"
    answers.write_text('{"volume": 1000, "changes": "monthly"}')
    prices.write_text('{"currency": "EUR", "prompt_per_million": 2}')
    out = tmp_path / "out"
    code, found, said = call(
        *("verdict", rows_file, "--side", "model=base,name=Base", "--side", f"model=base,prompt={prompt},name=Told"),
        *("--side", "model=base,shots=2,pick=nearest,name=Shown", "--check", "contains:gladly", "--limit", 12, "--max-tokens", 4),
        *("--answers", answers, "--prices", prices, "--out", out),
    )
    assert code == 0, said
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere.csv", "--side", "model=base"), "There is no file"),
        (("{file}", "--side", "base"), "is not a side"),
        (("{file}", "--side", "model=base", "--side", "model=base"), "called the same"),
        (("{file}", "--side", "model=base", "--check", "nonsense"), "is not a check"),
        (("{file}", "--side", "model=base,docs=nowhere.txt"), "There is no file nowhere.txt"),
        (("{file}", "--side", "model=base", "--answers", "{file}"), "cannot be read as JSON"),
        (("{file}", "--side", "model=nobody"), "There is no adapter"),
    ],
)
def test_a_wrong_call_is_one_message_and_exit_2(call: Call, rows_file: Path, words: tuple[str, ...], told: str) -> None:
    code, found, said = call("verdict", *(word.replace("{file}", str(rows_file)) for word in words))
    assert code == 2
    assert told in said
    assert told in found["error"]
    assert "Traceback" not in said
