"""Cores are shared out between chat and a run: who computes is seen by every process of a home, and forgotten when it
ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from playground.gpu.device import LINGER_S, LOOK_S, Lanes, usable_cores
from playground.settings import PROJECT_ROOT

from .conftest import FakeClock

HOLDER = """
import sys; from pathlib import Path; from playground.gpu.device import Lanes
lanes = Lanes(Path(sys.argv[1])); lanes.enter('chat'); print('in', flush=True); input()
"""


def test_a_lane_beside_a_busy_one_gets_its_part_and_all_again_a_little_later(tmp_path: Path, clock: FakeClock) -> None:
    app, worker = Lanes(tmp_path, 4, clock), Lanes(tmp_path, 4, clock)
    worker.enter("train")
    assert (app.threads("chat"), worker.threads("train")) == (2, 4), "nobody chats"
    app.enter("chat")
    clock.now += LOOK_S
    assert (app.threads("chat"), worker.threads("train")) == (2, 2)
    app.leave("chat")
    clock.now += LINGER_S / 2
    assert worker.threads("train") == 2, "the conversation may go on"
    clock.now += LINGER_S
    assert worker.threads("train") == 4


def test_a_pause_shorter_than_the_look_changes_nothing(tmp_path: Path, clock: FakeClock) -> None:
    app, worker = Lanes(tmp_path, 2, clock), Lanes(tmp_path, 2, clock)
    app.leave("chat")  # it had not entered, and enters twice: both harmless
    app.enter("chat")
    app.enter("chat")
    assert worker.threads("train") == 1
    for _ in range(20):
        app.leave("chat")
        app.enter("chat")
        clock.now += LOOK_S
        assert worker.threads("train") == 1
    app.leave("chat")
    assert Lanes(tmp_path, 2, clock).threads("train") == 2


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path, clock: FakeClock) -> None:
    worker = Lanes(tmp_path, 2, clock)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "in\n"
        assert worker.threads("train") == 1
        holder.kill()
        holder.wait()
    clock.now += LINGER_S
    assert worker.threads("train") == 2


def test_where_nothing_can_be_written_everybody_uses_all_cores(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app, worker = Lanes(tmp_path / "file" / "home", 2), Lanes(tmp_path / "file" / "home", 2)
    app.enter("chat")
    assert worker.threads("train") == 2
    app.leave("chat")


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_that_wait_soon_sleep_unless_a_person_wants_them_otherwise(given: dict[str, str], spins: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, playground; print(os.environ.get('GOMP_SPINCOUNT'))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, env=env | given, capture_output=True, text=True
    )
    assert ran.stdout.strip() == spins
