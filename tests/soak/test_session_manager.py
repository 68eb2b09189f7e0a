"""The long form of tests/services/test_workers.py: each fault many times on the tiny model (about two hours), and a few
times on the default base (about twenty minutes). By hand:

    OMP_NUM_THREADS=1 nice python -m pytest -m soak tests/soak/test_session_manager.py

What was measured goes into benchmarks/results/session_manager.json, each part under its own key.
"""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from playground.db import ENDED
from playground.services import build_services
from playground.settings import Settings
from playground.training.run_files import EventReader, newest_complete, step_of
from tests.services.conftest import make_lora, put_rows, services, supervised
from tests.soak import torture
from tests.soak.torture import SAVE_STEPS, STEPS, request, wait_state, workers
from tests.waiting import clock, wait_for

__all__ = ["make_lora", "services"]
pytestmark = pytest.mark.soak
file = pytest.fixture(lambda tmp_path: put_rows(tmp_path / "rows.jsonl"))


@dataclass(frozen=True)
class Scale:
    """How often each fault is made. prefix: of its results' keys. words, limit_bytes: of a run without memory."""

    prefix: str
    kills: int
    app_kills: int
    cancels: int
    starved: int
    stopped: int
    left: int
    words: tuple[int, int]
    limit_bytes: tuple[float, float]
    chance: random.Random = field(default_factory=random.Random)

    def rounds(self, key, count, one):
        """``one`` so many times; what is measured is recorded after each: spread, at its worst, counted."""
        made = {}
        for number in range(count):
            for name, value in one(number).items():
                made.setdefault(name, []).append(value)
            sums = {
                name: torture.spread if name.endswith("_s") else Counter if isinstance(values[0], str) else max
                for name, values in made.items()
            }
            said = {name: sums[name](values) for name, values in made.items()}
            torture.record(self.prefix + key, rounds=number + 1, of=count, **said)
        return made


SCALES = {
    "tiny": Scale("", 50, 20, 300, 20, 10, 100, (30, 60), (1.4e9, 1.8e9)),
    "default": Scale("default_base_", 3, 4, 4, 3, 3, 3, (60, 60), (2.6e9, 2.6e9)),
}
tiny_alone = pytest.mark.parametrize("scale", ["tiny"], indirect=True)


@pytest.fixture(params=["tiny", pytest.param("default", marks=pytest.mark.real)])
def scale(request, monkeypatch):
    if request.param == "tiny":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return replace(SCALES[request.param], chance=random.Random(11))


@pytest.fixture
def settings(scale, tiny_base, real_base, tmp_path):
    return Settings(home=tmp_path / "home", base=str(real_base.path if scale.prefix else tiny_base))


def at_step(services, run, step):
    """Wait until a run is there; the worker's pid."""
    return wait_for(lambda: (view := services.training.show(run)).step >= step and view.pid, "there", every_s=0.002)


def await_moment(services, run, moment, chance):
    """Until it loads, is at some step, or saves; or until it has ended, whatever was wanted."""
    wait_for(lambda: services.training.show(run).state != "QUEUED", "begun", every_s=0.001)
    if moment not in ("running", "saving"):
        time.sleep(chance.uniform(0, 5 if moment == "loading" else 12))
        return
    step = chance.randint(1, STEPS - 2)

    def there():
        view = services.training.show(run)
        return view.state in ENDED or (torture.is_saving(services, run) if moment == "saving" else view.step >= step)

    wait_for(there, moment, every_s=0.0005 if moment == "saving" else 0.002)


def ended(services, run, words, within_s=180.0):
    """Wait until a run has FAILED with ``words`` and holds nothing; the seconds that took."""
    began = clock()
    view = wait_state(services, run, *ENDED, within_s=within_s)
    took_s = clock() - began
    assert view.state == "FAILED", view
    assert words in view.error, view
    assert services.manager.leases() == []
    return took_s


def last_loss(services, run):
    view = wait_state(services, run, *ENDED)
    assert view.state == "DONE", view
    return float(view.summary["loss"]["last"])


def test_kill_the_worker(scale, services, file):
    """kill -9 in the middle of a save, or whenever: noticed, resumed, and it ends as if nothing had been."""
    expected = last_loss(services, services.training.start(request(file)))

    def kill(number):
        run = services.training.start(request(file))
        view = wait_state(services, run, "RUNNING")
        step = scale.chance.randint(-6, STEPS - 1)  # below 0: while it loads
        if number % 3 == 0:
            most = min(scale.chance.randint(1, STEPS // SAVE_STEPS - 1), 2)

            def there():
                return len(torture.checkpoints(services, run)) >= most and torture.is_saving(services, run)

            wait_for(there, "saving", every_s=0.0005)
        elif step >= 0:
            at_step(services, run, step)
        else:
            time.sleep(scale.chance.uniform(0, 6))
        torture.kill_hard(view.pid or services.training.show(run).pid or 0)
        torn = not all(torture.checkpoints(services, run).values())
        noticed_s = ended(services, run, "killed or died", within_s=60)
        events = EventReader(services.settings.runs_dir / run).read()
        reached = max((event["step"] for event in events if event["event"] == "step"), default=0)
        lost = reached - services.training.show(run).resume_step
        assert 0 <= lost <= SAVE_STEPS, f"{lost} steps lost"
        services.training.resume(run)
        apart = abs(last_loss(services, run) - expected)
        return {"in_save": str(torn), "noticed_s": noticed_s, "lost_steps_worst": lost, "final_loss_apart_worst": apart}

    made = scale.rounds("kill_worker", scale.kills, kill)
    assert max(made["final_loss_apart_worst"]) <= 1e-6
    assert made["in_save"].count("True") >= scale.kills // 5
    assert max(made["noticed_s"]) < 10


def test_kill_the_app(scale, settings, file, tmp_path):
    """Two runs under an app that is killed -9, perhaps with a worker, and taken over. marked: no pid is written yet."""

    def kill(number):
        moment, worker_too = ("marked", "loading", "running", "saving", "any")[number % 5], number % 4 == 3
        here = replace(settings, home=tmp_path / f"home-{number}")
        onlooker = build_services(here)
        show = onlooker.training.show
        with torture.owner(here):
            runs = [onlooker.training.start(request(file)) for _ in range(2)]
            if moment == "marked":
                moment = moment if catch_marked(here.database, runs[0]) else "running"
            else:
                await_moment(onlooker, runs[0], moment, scale.chance)
        for pid in workers(here.home) if worker_too else ():
            torture.kill_hard(pid)
        began = clock()
        with torture.owner(here):
            wait_for(lambda: not untrue(onlooker), f"true: {untrue(onlooker)}", within_s=30)
            true_s = clock() - began
            for run in runs:
                if show(run).state == "FAILED":
                    assert worker_too, show(run)
                    onlooker.training.resume(run)
            for run in runs:
                while (view := show(run)).state not in ENDED:
                    living = workers(here.home)
                    assert len(set(living.values())) == len(living), f"one run, two workers: {living}"
                    time.sleep(0.2)
                assert view.state == "DONE", view
                assert_no_double(here, run)
            assert wait_for(lambda: not workers(here.home), "without orphans", within_s=60)
        return {"moments": moment, "worker_killed_too": str(worker_too), "true_state_s": true_s}

    scale.rounds("kill_app", scale.app_kills, kill)


def catch_marked(database, run):
    """Return in the moment between RUNNING and the pid; False when it was too short to be seen."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as db:
        look = "SELECT pid FROM runs WHERE run = ? AND state = 'RUNNING'"
        (pid,) = wait_for(lambda: db.execute(look, (run,)).fetchone(), "begun", every_s=0)
        return pid is None


def untrue(services):
    """What the record says and is not so."""
    living, known = workers(services.settings.home), {row.run: row for row in services.training.store.all()}
    at_work = {run: row for run, row in known.items() if row.state in ("RUNNING", "STOPPING")}
    wrong = [f"{run} has no worker" for run, row in at_work.items() if living.get(row.pid or 0) != run]
    orphans = [pid for pid, run in living.items() if run not in at_work or at_work[run].pid != pid]
    return wrong + [f"worker {pid} is an orphan" for pid in orphans]


def assert_no_double(settings, run):
    """In its log every attempt counts up by itself: two workers at once would show as steps that interleave."""
    events = [event for event in EventReader(settings.runs_dir / run).read() if event["event"] in ("started", "step")]
    assert events[0]["event"] == "started"
    for before, after in pairwise(events):
        assert "started" in (before["event"], after["event"]) or after["step"] == before["step"] + 1, after


def test_cancel(scale, services, file):
    """While it is queued, loading, running or saving. DONE: the cancel came when all was done."""

    def cancel(number):
        during = ("queued", "loading", "running", "saving")[number % 4]
        ahead = [services.training.start(request(file, steps=5000))] if during == "queued" else []
        for one in ahead:
            wait_state(services, one, "RUNNING")
        run = services.training.start(request(file))
        if ahead:
            assert services.training.show(run).state == "QUEUED"
        else:
            await_moment(services, run, during, scale.chance)
        began = clock()
        for one in (run, *ahead):
            services.training.cancel(one, keep=scale.chance.random() < 0.3)
        view = wait_state(services, run, *ENDED, within_s=60)
        ended_s = clock() - began
        assert all(wait_state(services, one, *ENDED, within_s=60).state == "CANCELLED" for one in ahead)
        assert view.state in ("CANCELLED", "DONE"), view
        assert services.manager.leases() == services.manager.queue() == []
        assert not workers(services.settings.home)
        return {"during": during, "ended_as": view.state, "ended_s": ended_s}

    scale.rounds("cancel", scale.cancels, cancel)


def test_out_of_memory(scale, services, tmp_path):
    """A run that takes more than it may: retried once, failed with a setting that would fit, and that one works."""

    def starve(number):
        words, limit_bytes = scale.chance.randint(*scale.words), int(scale.chance.uniform(*scale.limit_bytes))
        batch, file = (32, 48, 64)[number % 3], put_rows(tmp_path / "rows.jsonl", 80, words)
        sizes = {"steps": 3, "save_steps": 2, "batch_size": batch, "limit_memory_bytes": limit_bytes}
        asked = request(file, method="prompt", **sizes)
        run = services.training.start(asked)
        ended(services, run, "ran out of memory")
        assert services.training.store.get(run).attempt == 2, "tried once more by itself"
        view = services.training.show(run)
        assert "Start it with" in view.error, view.error
        named = {name: view.summary["smaller"][name] for name in ("method", "batch_size", "accumulate", "max_tokens")}
        last_loss(services, services.training.start(replace(asked, **named)))
        return {"settings_that_worked": f"{batch} rows, {words} words, {limit_bytes} bytes: {named}"}

    scale.rounds("out_of_memory", scale.starved, starve)


@pytest.mark.parametrize(("how", "words"), [("frozen", "no sign of life"), ("hung", "Training hung")])
def test_a_worker_that_does_nothing_is_noticed(scale, services, file, how, words):
    """Frozen: SIGSTOP. Hung: its main thread waits for ever to write into a pipe that nobody reads, in the middle of a
    save; its heart goes on beating. Resumed, it goes past that step."""

    def stop(_):
        run = services.training.start(request(file, steps=4000))
        pid = at_step(services, run, scale.chance.randint(5, 20))
        reached = services.training.show(run).step
        if how == "frozen":
            os.kill(pid, signal.SIGSTOP)
        else:
            reached = (reached // SAVE_STEPS + 5) * SAVE_STEPS
            folder = services.settings.runs_dir / run / "checkpoints" / f"checkpoint-{reached}"
            folder.mkdir()
            os.mkfifo(folder / "trainer_state.json")
            at_step(services, run, reached)
        noticed_s = ended(services, run, words)
        assert not workers(services.settings.home)
        services.training.resume(run)
        at_step(services, run, reached + 1)
        services.training.cancel(run)
        wait_state(services, run, *ENDED)
        return {"noticed_s": noticed_s}

    assert max(scale.rounds(f"{how}_worker", scale.stopped, stop)["noticed_s"]) < 10


@contextlib.contextmanager
def small_disk(folder):
    """A disk of its own at ``folder``; skips where mounting one is not allowed."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Take all the room there is; returns the file that holds it."""
    ballast = folder / "ballast"
    for block in (65536, 512, 1):
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as out:
            while True:
                out.write(bytes(block))
    return ballast


@tiny_alone
def test_disk_full(scale, settings, file, tmp_path):
    """The disk fills during a run: it fails and says why, its newest checkpoint loads, and with room it goes on."""
    with small_disk(tmp_path / "small") as folder, supervised(replace(settings, home=folder)) as built:

        def fill_disk(_):
            run = built.training.start(request(file, steps=200))
            at_step(built, run, scale.chance.randint(SAVE_STEPS + 1, 120))
            ballast = fill(folder)
            ended(built, run, "The disk is full")
            kept = newest_complete(built.settings.runs_dir / run)
            assert kept is not None
            ballast.unlink()
            built.training.resume(run)
            assert last_loss(built, run) > 0
            built.adapters.remove(built.training.show(run).adapter)
            return {"loaded_checkpoint_step": step_of(kept)}

        scale.rounds("disk_full", scale.stopped, fill_disk)


def test_clients_that_leave(scale, services):
    freed_s = torture.gone_away(services, scale.left)
    torture.record(scale.prefix + "client_gone", rounds=scale.left, lease_free_s=torture.spread(freed_s))


@tiny_alone
def test_swap_storm(services, make_lora):
    torture.record("swap_storm", threads=8, turns=500, memory_grown_bytes=torture.swap_storm(services, make_lora, 500))
