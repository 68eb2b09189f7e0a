"""Files that the project has never seen, with other columns; they are not part of it and are named by
PLAYGROUND_REAL_DATA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from playground.settings import PROJECT_ROOT, Settings

FOLDER = os.environ.get("PLAYGROUND_REAL_DATA", "")


@pytest.mark.skipif(not FOLDER, reason="PLAYGROUND_REAL_DATA is unset: no folder of real data sets")
@pytest.mark.parametrize("name", ["banking77_train.csv", "e2e_devset.csv", "mts_dialog_validation.csv"])
def test_a_file_never_seen_trains_and_compares(name: str, settings: Settings) -> None:
    env = os.environ | {"PLAYGROUND_HOME": str(settings.home), "PLAYGROUND_BASE": settings.base}

    def call(*words: str) -> dict:
        command = [sys.executable, "-m", "playground", *words, "--json"]
        done = subprocess.run(command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    file = str(Path(FOLDER) / name)
    assert call("check", file)["good"] > 50
    adapter = call("train", file, "--steps", "2", "--batch-size", "2", "--max-tokens", "512")["adapter"]
    replies = call(
        "compare", "--side", "model=base", "--side", f"model={adapter}", "--ask", "Hello", "--max-tokens", "4"
    )["replies"]
    assert len(replies) == 2
