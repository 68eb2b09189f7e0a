"""Runs from queue to end with workers that a test plays, a real session manager and a clock in hand; and who hangs."""

import signal
from pathlib import Path
from string import ascii_lowercase

import pytest

from playground.db import RunRow, RunStore, enter_run
from playground.gpu.manager import DeviceManager
from playground.runs.progress import LOOK_S, Patience, Pulse, ending_of, stall_bound_s
from playground.runs.service import TrainingService
from playground.runs.supervisor import ENTER_S, KILL_AFTER_S, RunQueue
from playground.settings import Settings
from playground.training.processes import ON_CLUSTER
from playground.workspace.visitors import Home, HomeTaken, Quota
from tests.gpu.conftest import Clock
from tests.refused import refused
from tests.services.conftest import FixedDevice, Workers, add, put_checkpoint

RUN = "r1"
workers = pytest.fixture(lambda tmp_path: Workers(Settings(home=tmp_path / "home")))
manager = pytest.fixture(lambda: DeviceManager(FixedDevice(), 100))


def step(number):
    return "step", {"step": number, "loss": 1.0, "tokens_per_s": 9.0, "seconds_left": 1.0}


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


def test_a_run_of_a_cluster_is_not_ended_by_who_cannot_ask_the_cluster(training, workers):
    begun(training, workers)
    workers.alive.clear()
    training.store.update(RUN, pid=ON_CLUSTER + 7)
    assert states(training, RUN) == ["RUNNING"]
    training.store.update(RUN, pid=ON_CLUSTER - 7)
    assert states(training, RUN) == ["FAILED"], "a worker of this machine that is gone"


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
    assert (states(training, RUN), training.store.get(RUN).attempt) == (["RUNNING"], 2)
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
    assert (view.state, view.error, workers.started) == ("FAILED", lost["message"], [RUN, RUN])


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


def test_while_the_order_changes_nobody_later_is_served_and_who_leaves_it_gives_everything_back(manager):
    """``a`` is too large for now and holds the others back; without it ``b`` must not pass ``c``."""
    asked, busy = RunQueue(manager), manager.adopt("chat", "ann", "before", 50)
    a, b, c = row("a", 90), row("b", 20), row("c", 90)
    asked.ask([a, b, c])
    asked.ask([c, a, b])
    assert manager.leases() == [busy]
    busy.close()
    asked.granted("c").close()
    asked.ask([])
    ((run, error),) = asked.ask([row("a"), row("b"), row("c", 500)]).items()
    assert (run, "budget" in str(error), len(manager.leases())) == ("c", True, 1)
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


class Watched:
    """A worker as the supervisor sees it, looked at every half second."""

    def __init__(self, patience=None):
        self.clock = Clock()
        self.pulse = Pulse(patience, self.clock)
        self.beat = None
        self.used, self.progress = 0.0, 0

    def pass_s(self, seconds, *, beats=True, works=True, sleeps=False, every=0.5):
        """The first reason to end it. works: it uses processor time. sleeps: its main thread does."""
        end = self.clock.now_s + seconds
        while self.clock.now_s < end:
            self.clock.now_s += every
            if beats:
                self.beat = int(self.clock.now_s // 2)
            self.used += 100 * every if works else 0.2 * every if beats else 0.0  # the beat itself
            if reason := self.pulse.look(self.beat, self.used, sleeps, self.progress):
                return reason
        return ""

    def steps(self, seconds, **how):
        """Twenty signs of progress, so many seconds apart."""
        for _ in range(20):
            self.progress += 1
            assert self.pass_s(seconds, **how) == ""
        return self

    def found_after(self, words, **how):
        """Seconds until it is ended with these words."""
        began = self.clock.now_s
        assert words in self.pass_s(1000.0, **how)
        return self.clock.now_s - began


STILL = {"beats": False, "works": False}
ASLEEP = {"works": False, "sleeps": True}


@pytest.mark.parametrize(
    ("step_s", "how", "words", "least_s", "most_s"),
    [
        pytest.param(3, STILL, "no sign of life", 0, 8, id="frozen, within ten seconds"),
        pytest.param(0, STILL, "no sign of life", 60, 63, id="never comes up, a minute"),
        pytest.param(1, {}, "no progress for 60 s, where 1.0 s are usual", 58, 62, id="beats, but no progress"),
        pytest.param(1, ASLEEP, "nothing at all for 6 s, where 1.0 s are usual", 0, 7, id="waits for ever"),
        pytest.param(0, ASLEEP, "Training hung", 55, 65, id="waits as it loads, a minute"),
        pytest.param(0, {}, "no progress", 890, 910, id="loads"),
    ],
)
def test_who_is_found_and_when(step_s, how, words, least_s, most_s):
    worker = Watched().steps(step_s) if step_s else Watched()
    assert least_s <= worker.found_after(words, **how) <= most_s


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"beats": False}, id="a library holds up the beat and works"),
        pytest.param({"works": False}, id="it waits for a disk, which is no sleep"),
        pytest.param({"sleeps": True}, id="it waits for threads that work"),
    ],
)
def test_who_is_left_alone(how):
    assert Watched().steps(1).pass_s(50, **how) == ""


def test_neither_sleep_of_the_machine_nor_slow_steps_nor_what_was_in_the_log_before_accuse_the_worker():
    worker = Watched().steps(1)
    worker.clock.now_s += 3600  # both slept; the worker has not beaten yet when it is looked at
    assert (worker.pass_s(3, **STILL), worker.pass_s(10)) == ("", "")
    assert worker.pass_s(3 * LOOK_S + 1, beats=False, works=False, every=1000) == ""
    # a device that computes 20 seconds a step, while the processor has nothing to do
    Watched().steps(20, **ASLEEP).found_after("did nothing at all for 6", **ASLEEP)
    worker = Watched(Patience(loading_s=100))
    worker.progress = 500  # a worker that outlived the app: the whole log is read at once
    assert worker.found_after("no progress") > 90


@pytest.mark.parametrize(
    ("gaps", "bound"),
    [([], 900.0), ([1.0, 1.0], 900.0), ([0.1] * 10, 60.0), ([4.0] * 10, 120.0), ([4.0] * 10 + [40.0], 200.0)],
)
def test_the_bound_follows_what_is_usual(gaps, bound):
    assert stall_bound_s(gaps, Patience()) == bound
