"""Numbers that no run can have, and faults of our own: one sentence, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from playground.cli.main import ERRORS, main
from playground.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLAYGROUND_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--epochs", "1", "--batch-size", "0"], "Batch size is 0; it goes from 1 to 1024."),
        (["--epochs", "nan"], "Epochs is nan; it lies above 0"),
        (["--epochs", "inf"], "Epochs is inf; it lies above 0"),
        (["--lr", "0"], "The learning rate is 0.0; it lies above 0"),
        (["--lr", "nan"], "The learning rate is nan; it lies above 0"),
        (["--rank", "0"], "Rank is 0; it goes from 1 to 256."),
        (["--seed", "-1"], "Seed is -1; it goes from 0"),
        (["--test", "1"], "The test share is 1.0; it goes from 0 (none) to below 1"),
        (["--memory-limit", "nan"], "--memory-limit is nan; it takes a number of gigabytes"),
        (["--memory-limit", "-1"], "The memory limit is -1000000000"),
    ],
)
def test_it_is_told_and_exits_2(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert main(["train", "rows.csv", *words, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["error"] == err.strip()
    assert err.startswith(says)


def test_every_fault_is_told_at_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "rows.csv", "--steps", "0", "--batch-size", "-2", "--lr", "7", "--max-tokens", "3"]) == 2
    told = capsys.readouterr().err
    assert "Steps is 0; " in told
    assert all(
        fault in told for fault in ("; batch size is -2; ", "; the learning rate is 7.0; ", "; max tokens is 3; ")
    )


def test_a_fault_of_ours_is_one_sentence_and_its_place_is_in_a_file(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    Settings(home=home).database.write_text("This is no database, whatever its name says. " * 40)
    assert main(["runs", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["error"] == err.strip()
    assert "Something went wrong inside the program (DatabaseError: file is not a database)." in err
    assert "Traceback" not in out + err
    assert "Traceback" in (home / ERRORS).read_text()
