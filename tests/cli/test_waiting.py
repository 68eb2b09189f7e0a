"""Runs and races that wait while another process owns the home."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.cli import training
from playground.cli.common import Progress
from playground.errors import RunFailedError
from playground.runs.progress import RunView
from playground.services import build_services
from playground.settings import Settings
from playground.verdict.race import RaceView
from playground.verdict.race_store import Entry, Race

WAITS = RunView("r1", "mine", "QUEUED", "lora", 0, 9, None, None, None, 1.0)
RACE = Race("q1", "local", "two", "rows.csv", 1.0, "RUNNING", "", 2, None, (Entry("lora", "r1", state="DONE"),))


@dataclass
class Training:
    """free: whether the home can be taken, at each time it is tried."""

    free: list[bool] = field(default_factory=list)
    tried: int = 0

    def show(self, run: str) -> RunView:
        return WAITS

    def take_over(self) -> bool:
        self.tried += 1
        return self.free.pop(0)


@dataclass
class Races:
    measures: bool = False

    def show(self, id: str) -> RaceView:
        return RaceView(RACE, 1.0, 0, 1)

    def follow(self, id: str) -> Iterator[RaceView]:
        for _ in range(4):
            yield self.show(id)
        yield replace(self.show(id), race=replace(RACE, state="DONE" if self.measures else "CANCELLED"))

    def start_measuring(self) -> None:
        assert not self.measures, "once"
        self.measures = True


def test_a_detached_run_that_waits_says_who_starts_it(capsys: pytest.CaptureFixture[str]) -> None:
    services: Any = SimpleNamespace(training=Training(), close=lambda: None)
    found, words, code = training.follow_run(services, "r1", False, True, Progress())
    assert (found["state"], code) == ("QUEUED", 0)
    assert "r1 is QUEUED" in words
    told = capsys.readouterr().err
    assert "r1 waits. Another process works in this home and starts it" in told
    assert "python -m playground runs resume r1" in told


def test_a_race_is_measured_by_whoever_follows_it_when_its_owner_is_gone() -> None:
    services: Any = SimpleNamespace(training=Training([False, False, True]), race=Races(), close=lambda: None)
    found, _, code = training.follow_race(services, "q1", Progress(), owner=False)
    assert (found["state"], code) == ("DONE", 0)
    assert services.training.tried == 3, "and not again once it owns the home"


def test_an_owner_need_not_become_one() -> None:
    services: Any = SimpleNamespace(training=Training(), race=Races(True), close=lambda: None)
    training.follow_race(services, "q1", Progress(), owner=True)
    assert services.training.tried == 0


def test_a_waiting_run_is_resumed_as_it_is(tmp_path: Path) -> None:
    """Nobody looks after it: ``runs resume`` does, and does not take it for one that has ended."""
    settings = Settings(home=tmp_path / "home")
    build_services(settings).training.store.add(
        run="r1", owner="local", name="mine", method="lora", state="QUEUED", created_s=1.0, steps=9, needs_bytes=10**15
    )
    with pytest.raises(RunFailedError, match="budget can be free"):  # requested from a device that can never hold it
        training.runs(settings, SimpleNamespace(action="resume", run="r1", detach=False))
