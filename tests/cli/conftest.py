from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.cli.main import main
from playground.settings import Settings

Call = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def call(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """(words) -> exit code, the JSON that ends stdout, stderr; on the tiny base and a home of its own, in this
    process."""
    monkeypatch.setenv("PLAYGROUND_HOME", str(settings.home))
    monkeypatch.setenv("PLAYGROUND_BASE", settings.base)

    def run(*words: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]), err

    return run


@pytest.fixture
def refused(call: Call, rows_file: Path) -> Callable[..., str]:
    """(words, FILE standing for a file of rows) -> the one message of a wrong call: on stderr, in the JSON, with exit
    code 2."""

    def run(*words: object) -> str:
        code, found, err = call(*(str(word).replace("FILE", str(rows_file)) for word in words))
        assert code == 2, found
        assert err.strip().endswith(found["error"])
        assert "Traceback" not in err
        return str(found["error"])

    return run


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """24 good rows and one without an answer."""
    file = tmp_path / "rows.csv"
    lines = [f"Say {n},Number {n} gladly" for n in range(24)]
    file.write_text("question,answer\n" + "\n".join([*lines, "No answer,"]) + "\n")
    return file
