"""The TRL script that the settings become, run as it is on the rows that are handed out with it."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from playground.runs.recipe import ROWS
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.settings import Settings
from tests.training.test_objectives import answers, judged, pairs


def texts(path: Path, count: int = 16) -> Path:
    path.write_text("\n".join(json.dumps({"text": f"The ward counts to {n}. " * 4}) for n in range(count)))
    return path


@pytest.mark.parametrize(
    ("objective", "rows", "method"),
    [
        *(("sft", answers, "lora"), ("sft", answers, "prefix"), ("pretrain", texts, "full")),
        *(("dpo", pairs, "lora"), ("kto", judged, "dora"), ("reward", pairs, "ia3")),
    ],
)
def test_it_trains(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    rows: Callable[[Path], Path],
    method: str,
) -> None:
    services = build_services(settings)
    file = rows(tmp_path / "mine.jsonl")
    request = TrainRequest(file, "mine", method, objective, steps=2, batch_size=4, max_tokens=96, save_steps=2)
    script = services.training.recipe(request, "trl")
    there = tmp_path / "elsewhere"
    there.mkdir()
    (there / "train.py").write_text(script)
    good = services.data.good_rows_file(file, services.data.check(file))
    (there / ROWS).write_bytes(good.read_bytes())
    monkeypatch.chdir(there)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    runpy.run_path("train.py", run_name="__main__")
    (weights,) = (there / "out" / "final").glob("*model.safetensors")
    with safe_open(weights, framework="numpy") as opened:
        assert list(opened.keys())
