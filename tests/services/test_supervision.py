"""Runs from their queue to their end with workers that a test plays, a session manager that is real, and a clock in
hand. Real workers are killed in test_workers.py."""

import signal
from pathlib import Path
from string import ascii_lowercase

import pytest

from playground.db import RunRow, RunStore, enter_run
from playground.gpu.manager import DeviceManager
from playground.runs.progress import ending_of
from playground.runs.service import TrainingService
from playground.runs.supervisor import ENTER_S, KILL_AFTER_S, RunQueue
from playground.settings import Settings
from playground.workspace.visitors import Home, HomeTaken, Quota
from tests.refused import refused
from tests.services.conftest import FixedDevice, Workers, add, put_checkpoint

RUN = "r1"


def step(number):
    return "step", {"step": number, "loss": 1.0, "tokens_per_s": 9.0, "seconds_left": 1.0}


@pytest.fixture
def workers(tmp_path):
    return Workers(Settings(home=tmp_path / "home"))


def service(workers):
    """As another process would have its own."""
    nobody = None  # what plans a run is not asked
    manager, quota = DeviceManager(FixedDevice(100, 100)), Quota(workers.settings, nobody, nobody)
    store = RunStore(workers.settings.database)
    return TrainingService(workers.settings, store, manager, nobody, nobody, nobody, quota, workers, workers.clock)


def queue(training, workers, run):
    (workers.settings.runs_dir / run).mkdir(parents=True)
    (workers.settings.runs_dir / run / "run.json").write_text("{}")
    add(training.store, run, owner="local", steps=500, needs_bytes=10)


@pytest.fixture
def training(workers):
    """With one run in its queue."""
    made = service(workers)
    queue(made, workers, RUN)
    yield made
    made.close()


def begun(training, workers):
    """As a supervisor does it. Returns the attempt."""
    attempt = training.store.begin(RUN, 1.0) or 0
    pid, since = workers.start_worker(workers.settings.runs_dir / RUN, Path("db"), attempt)
    training.store.update(RUN, pid=pid, pid_started_s=since)
    return attempt


def states(training, *runs):
    return [training.show(run).state for run in runs]


@pytest.mark.parametrize("checkpoint", [0, 5])
def test_a_resumed_run_is_where_its_checkpoint_is(training, workers, checkpoint):
    attempt = begun(training, workers)
    assert training.show(RUN).step == 0, "before the first"
    workers.writes(("started", {"attempt": attempt, "step": 0}), *map(step, range(1, 8)))
    assert training.show(RUN).step == 7
    if checkpoint:
        put_checkpoint(workers.settings.runs_dir / RUN, checkpoint)
    workers.alive.clear()
    view = training.show(RUN)
    assert (view.state, view.step, view.resume_step) == ("FAILED", 7, checkpoint)
    training.resume(RUN)
    assert (training.show(RUN).state, training.show(RUN).step) == ("QUEUED", checkpoint)
    attempt = begun(training, workers)
    assert training.show(RUN).step == checkpoint, "its worker has said nothing yet"
    workers.writes(("started", {"attempt": attempt, "step": checkpoint}), step(checkpoint + 1))
    assert training.show(RUN).step == training.store.get(RUN).step == checkpoint + 1


def test_whoever_follows_a_waiting_run_takes_the_place_of_an_owner_that_is_gone(training, workers):
    owner = Home.take(workers.settings)
    followed = training.follow(RUN, poll_s=0.01)
    assert [next(followed).state, next(followed).state] == ["QUEUED", "QUEUED"], "somebody owns the home"
    owner.release()
    next(followed)
    refused("", Home.take, workers.settings, error=HomeTaken)
    assert next(view for view in followed if view.state != "QUEUED").state == "RUNNING"
    training.close()
    Home.take(workers.settings).release()  # it has it no longer


def test_waiting_runs_are_started_in_the_order_they_were_moved_to(training, workers):
    training.start_supervisor()
    for run in ("one", "two", "three"):
        queue(training, workers, run)
    training.tick()
    assert [training.show(run).place for run in (RUN, "one", "two", "three")] == [0, 1, 2, 3]
    service(workers).move("three", "first")  # another process: the owner honours it
    training.move("one", "down")
    assert [training.show(run).place for run in ("three", "two", "one")] == [1, 2, 3]
    for run in (RUN, "three", "two", "one"):
        assert states(training, run) == ["RUNNING"]
        workers.ends(run, 1)
        training.tick()
    assert workers.started == [RUN, "three", "two", "one"]
    ended = [training.show(run) for run in workers.started]
    assert {(view.state, view.step, view.steps) for view in ended} == {("DONE", 5, 500)}, "of a run that stopped early"
    assert [view.adapter for view in ended] == workers.started


def test_a_run_cancelled_by_another_process_gives_back_its_place(training, workers):
    """What the owner asked the device for goes with the run, or the next one would wait for ever."""
    training.start_supervisor()
    queue(training, workers, "second")
    queue(training, workers, "third")
    assert states(training, RUN, "second", "third") == ["RUNNING", "QUEUED", "QUEUED"]
    other = service(workers)
    other.cancel("second")
    other.cancel(RUN)
    training.tick()
    assert states(training, RUN, "second", "third") == ["CANCELLED", "CANCELLED", "RUNNING"]
    assert training.show("third").place == 0
    workers.deaf = True
    training.cancel("third")
    assert states(training, "third") == ["STOPPING"]
    workers.clock.now_s += KILL_AFTER_S + 1
    training.tick()
    assert states(training, "third") == ["CANCELLED"], "one that does not listen is killed"
    queue(training, workers, "fourth")
    assert states(training, "fourth") == ["RUNNING"], "nothing is held any more"


def test_an_app_killed_between_the_mark_and_the_worker_starts_it_anew_and_the_late_worker_is_refused(training, workers):
    late = training.store.begin(RUN, workers.clock())
    assert states(training, RUN) == ["RUNNING"], "a moment ago; whoever does not own the home waits"
    workers.clock.now_s += ENTER_S + 1
    assert states(training, RUN) == ["QUEUED"]
    training.start_supervisor()
    assert states(training, RUN) == ["RUNNING"]
    assert training.store.get(RUN).attempt == 2
    assert not enter_run(workers.settings.database, RUN, late or 0, 999, 1.0)


def test_memory_that_runs_out_is_tried_once_more_and_then_told(training, workers):
    training.start_supervisor()
    training.tick()
    lost = {"message": "The device ran out of memory at 8 rows a step.", "reason": "memory"}
    workers.ends(RUN, 1, "failed", **lost)
    training.tick()
    assert training.store.get(RUN).retried == 1
    assert (workers.settings.runs_dir / RUN / "lean").exists(), "the second worker takes less"
    training.tick()
    assert states(training, RUN) == ["RUNNING"]
    workers.ends(RUN, 2, "failed", **lost)
    view = training.show(RUN)
    assert (view.state, view.error) == ("FAILED", lost["message"])
    assert workers.started == [RUN, RUN]


def test_a_worker_that_cannot_be_started_fails_its_run_and_holds_nothing(training, workers):
    workers.fault = OSError(28, "No space left on device")
    training.start_supervisor()
    training.tick()
    assert "The disk is full" in (training.show(RUN).error or "")
    workers.fault = OSError("no process")
    training.resume(RUN)
    assert training.show(RUN).error == "The training process could not be started (no process)."
    workers.fault = None
    training.resume(RUN)
    assert states(training, RUN) == ["RUNNING"]


def row(run, needs=10, state="QUEUED"):
    return RunRow(run, "ann", run, "lora", state, 0.0, 1.0, 0, 10, None, None, None, None, None, 0, needs, {}, 1)


@pytest.fixture
def manager():
    return DeviceManager(FixedDevice(), 100)


def served(manager, asked, left):
    """Who is served, one after another, when the device comes free."""
    names = ""
    while here := [(name, lease) for name in left if (lease := asked.granted(name)) is not None]:
        ((name, lease),) = here
        names, left = names + name, left.replace(name, "")
        lease.close()
        asked.ask([*map(row, left)])
    assert manager.leases() == manager.queue() == []
    return names


@pytest.mark.parametrize("old", ["abcd", ascii_lowercase], ids=["few", "more than the device lets wait"])
def test_a_new_order_is_honoured(manager, old):
    asked, busy, new = RunQueue(manager), manager.adopt("train", "ann", "before", 10), "cadb" + old[:3:-1]
    asked.ask([*map(row, old)])
    asked.ask([*map(row, new)])
    assert [asked.place(name) for name in "cadb"] == [1, 2, 3, 4]
    busy.close()
    assert served(manager, asked, new) == new


def test_while_the_order_changes_nobody_who_comes_later_is_served(manager):
    """``a`` is too large for now and holds the others back; without it ``b`` must not pass ``c``."""
    asked, busy = RunQueue(manager), manager.adopt("chat", "ann", "before", 50)
    a, b, c = row("a", 90), row("b", 20), row("c", 90)
    asked.ask([a, b, c])
    asked.ask([c, a, b])
    assert manager.leases() == [busy]
    busy.close()
    assert asked.granted("c") is not None


def test_who_is_not_in_the_order_any_more_gives_everything_back_and_what_can_never_fit_is_refused(manager):
    asked = RunQueue(manager)
    ((run, error),) = asked.ask([row("a"), row("b"), row("c", 500)]).items()
    assert (run, "budget" in str(error)) == ("c", True)
    assert len(manager.leases()) == 1
    asked.ask([row("b")])
    assert asked.granted("b") is not None
    asked.ask([])
    assert manager.queue() == []


@pytest.mark.parametrize(
    ("state", "last", "more", "ended", "words"),
    [
        ("RUNNING", {"event": "done"}, {}, "DONE", ""),
        ("STOPPING", {"event": "done"}, {}, "DONE", ""),
        ("STOPPING", None, {"exit_code": -9}, "CANCELLED", "Cancelled."),
        ("RUNNING", {"event": "cancelled"}, {}, "CANCELLED", "Cancelled."),
        ("STOPPING", {"event": "failed", "message": "x"}, {}, "CANCELLED", "Cancelled."),
        ("RUNNING", {"event": "failed", "message": "No.", "reason": "disk"}, {}, "FAILED", "No."),
        ("RUNNING", None, {"exit_code": -signal.SIGKILL, "log": "warning: x"}, "FAILED", "killed or died (SIGKILL)."),
        ("RUNNING", None, {"exit_code": 1, "log": "libgomp: oops"}, "FAILED", "died (libgomp: oops)"),
        ("RUNNING", None, {}, "FAILED", "killed or died."),
        ("RUNNING", None, {"killed_for": "It hung.", "exit_code": -9}, "FAILED", "It hung."),
        ("RUNNING", None, {"log": "terminate called: std::bad_alloc", "exit_code": -6}, "FAILED", "out of memory"),
    ],
)
def test_endings(state, last, more, ended, words):
    found = ending_of(row("r", state=state), last, **more)
    assert found.state == ended
    assert words in (found.error or "")
