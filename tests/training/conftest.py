from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.training import worker
from playground.training.events import EventReader
from playground.training.spec import RunSpec

PLAIN = RunSpec(
    **{"run": "r1", "name": "Tiny run", "base": "tiny", "base_path": "p", "base_fingerprint": "f", "shipped_dir": "s"},
    **{"file": "f", "data": "d", "adapters_dir": "a", "method": "lora", "steps": 4, "lr": 1e-2, "rank": 4},  # type: ignore[arg-type]
)
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def plain_spec() -> RunSpec:
    """A spec without files."""
    return PLAIN


@pytest.fixture
def spec(tmp_path: Path, tiny_base: Path) -> RunSpec:
    """24 questions with answers on the tiny base, 4 steps."""
    file = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"Say number {n}", "completion": f"Number {n}, gladly."} for n in range(24)]
    file.write_text("\n".join(map(json.dumps, pairs)))
    places = {"base_path": str(tiny_base), "file": str(file), "data": file.name}
    folders = {"adapters_dir": str(tmp_path / "adapters"), "shipped_dir": str(tmp_path / "shipped")}
    return replace(PLAIN, **places, **folders, batch_size=4, save_steps=2, seed=3)


@pytest.fixture(scope="session")
def run_worker() -> Run:
    """(spec, folder, stop) -> the events of the run, in this process."""

    def run(spec: RunSpec, folder: Path, stop: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
        folder.mkdir(exist_ok=True)
        spec.write(folder)
        worker.run(folder, stop=stop)
        return EventReader(folder).read()

    return run
