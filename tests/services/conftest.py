from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from playground.services.container import Services
from playground.services.progress import RunView
from playground.settings import Settings
from tests.engine.conftest import make_lora

__all__ = ["make_lora"]


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    built = Services(settings)
    built.training.start_supervisor()
    yield built
    for view in built.training.runs():
        if view.state in ("QUEUED", "RUNNING"):
            built.training.cancel(view.run)
    until = time.monotonic() + 15
    while any(view.state == "STOPPING" for view in built.training.runs()) and time.monotonic() < until:
        time.sleep(0.05)
    built.close()


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}, gladly."}) for n in range(24)))
    return file


@pytest.fixture
def until() -> Callable[[Callable[[], RunView], Callable[[RunView], bool]], RunView]:
    """Poll a run until something holds, or fail after three minutes."""

    def wait(look: Callable[[], RunView], holds: Callable[[RunView], bool]) -> RunView:
        end = time.monotonic() + 180
        while not holds(view := look()):
            assert time.monotonic() < end, view
            time.sleep(0.05)
        return view

    return wait
