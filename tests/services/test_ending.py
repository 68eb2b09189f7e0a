from __future__ import annotations

import signal
from typing import Any

import pytest

from playground.db import RunRow
from playground.runs.progress import ending_of


def row(state: str = "RUNNING") -> RunRow:
    return RunRow("r", "local", "n", "lora", state, 0.0, 1.0, 0, 10, None, None, 5, 1.0, None, 0, 1, {}, 1)


@pytest.mark.parametrize(
    ("state", "last", "more", "ended", "words"),
    [
        ("RUNNING", {"event": "done"}, {}, "DONE", ""),
        ("STOPPING", {"event": "done"}, {}, "DONE", ""),
        ("STOPPING", None, {"exit_code": -9}, "CANCELLED", "Cancelled."),
        ("RUNNING", {"event": "cancelled"}, {}, "CANCELLED", "Cancelled."),
        ("STOPPING", {"event": "failed", "message": "x"}, {}, "CANCELLED", "Cancelled."),
        ("RUNNING", {"event": "failed", "message": "No.", "reason": "disk"}, {}, "FAILED", "No."),
        ("RUNNING", None, {"exit_code": -signal.SIGKILL}, "FAILED", "killed or died (SIGKILL)"),
        ("RUNNING", None, {"exit_code": 1, "log": "libgomp: oops"}, "FAILED", "died (libgomp: oops)"),
        ("RUNNING", None, {}, "FAILED", "killed or died."),
        ("RUNNING", None, {"killed_for": "It hung.", "exit_code": -9}, "FAILED", "It hung."),
        ("RUNNING", None, {"log": "terminate called: std::bad_alloc", "exit_code": -6}, "FAILED", "out of memory"),
    ],
)
def test_endings(state: str, last: Any, more: dict[str, Any], ended: str, words: str) -> None:
    found = ending_of(row(state), last, **more)
    assert found.state == ended
    assert words in (found.error or "")
