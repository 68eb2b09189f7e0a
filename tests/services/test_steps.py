"""How far a run is: from its queue to its end, killed and resumed, with a worker that a test plays."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from playground.db import RunStore
from playground.gpu.manager import DeviceManager
from playground.runs.service import TrainingService
from playground.settings import Settings
from playground.training.checkpoint import mark_complete
from playground.training.events import EventWriter
from playground.workspace.quota import Quota
from playground.workspace.visitors import Home, HomeTaken

RUN = "r1"


@dataclass
class Device:
    name: str = "test"
    total_bytes: int = 100
    free_bytes: int = 100


@dataclass
class Workers:
    """Starts nothing; the test says who lives, and writes what the worker would."""

    runs_dir: Path
    alive: set[int] = field(default_factory=set)
    tokens_per_s: float | None = None

    def refused(self, seconds: float) -> str:
        return ""

    def start_worker(self, run_dir: Path, database: Path, attempt: int) -> tuple[int, float]:
        self.alive.add(attempt)
        return attempt, 1.0

    def is_alive(self, pid: int | None, start: float | None) -> bool:
        return pid in self.alive

    def stop(self, pid: int, *, hard: bool) -> None:
        self.alive.discard(pid)

    def activity(self, pid: int) -> tuple[float, bool]:
        return 0.0, False

    def writes(self, *events: tuple[str, dict[str, Any]]) -> None:
        writer = EventWriter(self.runs_dir / RUN)
        for kind, values in events:
            writer.write(kind, **values)
        writer.close()


def step(number: int) -> tuple[str, dict[str, Any]]:
    return "step", {"step": number, "loss": 1.0, "tokens_per_s": 9.0, "seconds_left": 1.0}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def workers(settings: Settings) -> Workers:
    return Workers(settings.runs_dir)


@pytest.fixture
def training(settings: Settings, workers: Workers) -> TrainingService:
    """With one run in its queue."""
    nobody: Any = None  # what plans a run is not asked
    store, manager = RunStore(settings.database), DeviceManager(Device())
    service = TrainingService(settings, store, manager, nobody, nobody, nobody, Quota(settings, store, nobody), workers)
    service.store.add(
        run=RUN, owner="local", name="mine", method="lora", state="QUEUED", created_s=1.0, steps=500, needs_bytes=10
    )
    (settings.runs_dir / RUN).mkdir(parents=True)
    (settings.runs_dir / RUN / "run.json").write_text("{}")
    return service


def begun(training: TrainingService, workers: Workers) -> int:
    """As the supervisor does it. Returns the attempt."""
    attempt = training.store.begin(RUN, 1.0)
    assert attempt is not None
    pid, since = workers.start_worker(workers.runs_dir / RUN, Path("db"), attempt)
    training.store.update(RUN, pid=pid, pid_started_s=since)
    return attempt


def saved(workers: Workers, number: int) -> None:
    folder = workers.runs_dir / RUN / "checkpoints" / f"checkpoint-{number}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("x")
    mark_complete(folder)


@pytest.mark.parametrize("checkpoint", [0, 5])
def test_a_resumed_run_is_where_its_checkpoint_is(training: TrainingService, workers: Workers, checkpoint: int) -> None:
    attempt = begun(training, workers)
    assert training.show(RUN).step == 0, "before the first"
    workers.writes(("started", {"attempt": attempt, "step": 0}), *map(step, range(1, 8)))
    assert training.show(RUN).step == 7
    if checkpoint:
        saved(workers, checkpoint)
    workers.alive.clear()
    view = training.show(RUN)
    assert (view.state, view.step, view.resume_step) == ("FAILED", 7, checkpoint)
    training.resume(RUN)
    assert (training.show(RUN).state, training.show(RUN).step) == ("QUEUED", checkpoint)
    attempt = begun(training, workers)
    assert training.show(RUN).step == checkpoint, "its worker has said nothing yet"
    workers.writes(("started", {"attempt": attempt, "step": checkpoint}))
    assert training.show(RUN).step == checkpoint
    workers.writes(step(checkpoint + 1))
    assert training.show(RUN).step == training.store.get(RUN).step == checkpoint + 1


def test_a_run_that_was_stopped_early_has_not_made_every_step(training: TrainingService, workers: Workers) -> None:
    attempt = begun(training, workers)
    workers.writes(
        ("started", {"attempt": attempt, "step": 0}),
        step(40),
        ("done", {"attempt": attempt, "adapter": "mine", "steps": 40}),
    )
    workers.alive.clear()
    view = training.show(RUN)
    assert (view.state, view.step, view.steps, view.adapter) == ("DONE", 40, 500, "mine")


def test_whoever_follows_a_waiting_run_takes_the_place_of_an_owner_that_is_gone(
    training: TrainingService, settings: Settings
) -> None:
    owner = Home.take(settings)
    followed = training.follow(RUN, poll_s=0.01)
    assert [next(followed).state, next(followed).state] == ["QUEUED", "QUEUED"], "somebody owns the home"
    owner.release()
    next(followed)
    try:
        with pytest.raises(HomeTaken):
            Home.take(settings)
        assert next(view for view in followed if view.state != "QUEUED").state == "RUNNING"
    finally:
        training.close()
    Home.take(settings).release()  # it has it no longer
