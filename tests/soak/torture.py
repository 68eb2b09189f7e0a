"""What is done to runs: killed, cancelled, starved. Everything is real: processes, signals, files, the tiny model.

Each function makes one round and returns what it measured; a round that finds the app wrong fails by assert. The tests
of every day make a few rounds, the soak makes as many as the session manager's issue asks for.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from playground.chat.compare import Side
from playground.db import ENDED
from playground.engine.request import AdapterFile, Row, Sampling
from playground.runs.progress import RunView
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.settings import PROJECT_ROOT, Settings
from playground.training.checkpoint import MARKER, newest_complete, step_of
from playground.training.processes import EventReader
from tests.services.conftest import last

PATIENCE_S = 180.0
_BEAT_S = 0.02
SAVE_STEPS = 4
STEPS = 24


def rows_file(folder: Path, words: int = 1, count: int = 24) -> Path:
    file = folder / f"rows-{words}-{count}.jsonl"
    answer = " gladly" * words
    file.write_text(
        "\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n},{answer}."}) for n in range(count))
    )
    return file


def request(file: Path, **more: Any) -> TrainRequest:
    return replace(TrainRequest(file, "t", steps=STEPS, batch_size=4, rank=2, save_steps=SAVE_STEPS), **more)


class _Clock(threading.Thread):
    """Seconds in which this machine really ran: a virtual one may be stopped for minutes, with all that is on it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.now_s = 0.0
        self.start()

    def run(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(_BEAT_S)
            now = time.monotonic()
            self.now_s += min(now - last, 1.0)
            last = now


_CLOCK = _Clock()


def clock() -> float:
    return _CLOCK.now_s


def wait_for(holds: Callable[[], Any], what: str, within_s: float = PATIENCE_S, every_s: float = 0.05) -> Any:
    """Until it holds; fails with ``what`` when it does not in time."""
    end = clock() + within_s
    while not (found := holds()):
        assert clock() < end, f"after {within_s:.0f} s: not {what}"
        time.sleep(every_s)
    return found


def wait_state(services: Services, run: str, *states: str, within_s: float = PATIENCE_S) -> RunView:
    def look() -> RunView | None:
        view = services.training.show(run)
        return view if view.state in states else None

    found: RunView = wait_for(look, f"{' or '.join(states)}: {services.training.show(run)}", within_s)
    return found


def checkpoints(services: Services, run: str) -> dict[int, bool]:
    """Step -> whether it is complete."""
    folder = services.settings.runs_dir / run / "checkpoints"
    return {int(one.name.rpartition("-")[2]): (one / MARKER).exists() for one in folder.glob("checkpoint-*")}


def is_saving(services: Services, run: str) -> bool:
    return not all(checkpoints(services, run).values())


def await_work(services: Services, run: str, during: str, chance: random.Random) -> None:
    """Until it is at some step, or saves; or until it has ended, whatever was wanted."""
    step = chance.randint(1, STEPS - 2)

    def there() -> bool:
        view = services.training.show(run)
        return view.state in ENDED or (is_saving(services, run) if during == "saving" else view.step >= step)

    wait_for(there, during, every_s=0.0005 if during == "saving" else 0.002)


def workers(home: Path) -> dict[int, str]:
    """pid -> run of every living worker of this home. A child of one that is about to run some other program is
    none."""
    found, parents = {}, {}
    for process in psutil.process_iter(["cmdline", "status", "ppid"]):
        words = process.info["cmdline"] or []
        if "playground.training.worker" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            place = Path(words[words.index("playground.training.worker") + 1])
            if place.parent == home / "runs":
                found[process.pid], parents[process.pid] = place.name, process.info["ppid"]
    return {pid: run for pid, run in found.items() if parents[pid] not in found}


def kill_hard(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


# -- the worker is killed ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Killed:
    """during: ``save`` when a half-written checkpoint was left, else the last step. noticed_s: until the run was
    FAILED."""

    during: str
    noticed_s: float
    lost_steps: int
    loss: float


def reference_loss(services: Services, file: Path) -> float:
    """The last loss of a run that nobody disturbs."""
    run = services.training.start(request(file))
    return last_loss(services, run)


def last_loss(services: Services, run: str) -> float:
    view = wait_state(services, run, *ENDED)
    assert view.state == "DONE", view
    return float(view.summary["loss"]["last"])


def kill_worker(services: Services, file: Path, chance: random.Random, in_save: bool) -> Killed:
    """Start, kill -9 (in the middle of a save, or whenever), see it noticed, resume, see it end as if nothing had
    been."""
    run = services.training.start(request(file))
    view = wait_state(services, run, "RUNNING")
    if in_save:
        nth = chance.randint(1, STEPS // SAVE_STEPS - 1)
        wait_for(
            lambda: is_saving(services, run) and len(checkpoints(services, run)) >= min(nth, 2),
            "saving",
            every_s=0.0005,
        )
    else:
        step = chance.randint(-6, STEPS - 1)  # below 0: while it loads
        if step >= 0:
            wait_for(lambda: services.training.show(run).step >= step, "at its step", every_s=0.002)
        else:
            time.sleep(chance.uniform(0, 6))
    kill_hard(view.pid or services.training.show(run).pid)
    killed_at = clock()
    torn = [step for step, complete in checkpoints(services, run).items() if not complete]
    view = wait_state(services, run, *ENDED, within_s=60)
    noticed_s = clock() - killed_at
    assert view.state == "FAILED", view
    assert "killed or died" in view.error
    assert services.manager.leases() == []
    reached = max(
        (event["step"] for event in EventReader(services.settings.runs_dir / run).read() if event["event"] == "step"),
        default=0,
    )
    lost = reached - view.resume_step
    assert 0 <= lost <= SAVE_STEPS, f"{lost} steps lost"
    services.training.resume(run)
    return Killed("save" if torn else str(reached), noticed_s, lost, last_loss(services, run))


# -- the app is killed ---------------------------------------------------------------------------------------------


@contextmanager
def owner(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process that supervises this home."""
    process = start_owner(settings)
    try:
        yield process
    finally:
        end_owner(process)


def end_owner(process: subprocess.Popen[str]) -> None:
    """kill -9."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def start_owner(settings: Settings) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.owner", str(settings.home), settings.base],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


MOMENTS = ("marked", "loading", "running", "saving", "any")
"""When the app is killed. marked: the run is RUNNING in the record and no pid is written yet."""


@dataclass(frozen=True)
class AppKilled:
    """moment: as reached. true_s: from the start of the new app's process until every run's state was true."""

    moment: str
    worker_too: bool
    states: tuple[str, ...]
    true_s: float


def kill_app(settings: Settings, file: Path, chance: random.Random, moment: str, *, worker_too: bool) -> AppKilled:
    """Two runs under an app; the app is killed -9 at the moment, and perhaps the worker with it; another app takes
    over."""
    onlooker = build_services(settings)
    app = start_owner(settings)
    try:
        first, second = (onlooker.training.start(request(file)) for _ in range(2))
        reached = _await_moment(onlooker, first, moment, chance)
    finally:
        end_owner(app)
    if worker_too:
        for pid in workers(settings.home):
            kill_hard(pid)
    began = clock()
    with owner(settings):
        wait_for(lambda: not untrue(onlooker), f"true: {untrue(onlooker)}", within_s=30)
        true_s = clock() - began
        states = tuple(onlooker.training.show(run).state for run in (first, second))
        for run in (first, second):
            if onlooker.training.show(run).state == "FAILED":
                assert worker_too, onlooker.training.show(run)
                onlooker.training.resume(run)
        for run in (first, second):
            while (view := onlooker.training.show(run)).state not in ENDED:
                living = workers(settings.home)
                assert len(set(living.values())) == len(living), f"one run, two workers: {living}"
                time.sleep(0.2)
            assert view.state == "DONE", view
            assert_no_double(settings, run)
        assert wait_for(lambda: not workers(settings.home), "without orphans", within_s=60)
    return AppKilled(reached, worker_too, states, true_s)


def _await_moment(onlooker: Services, run: str, moment: str, chance: random.Random) -> str:
    if moment == "marked":
        return "marked" if _catch_marked(onlooker.settings.database, run) else "running"
    wait_for(lambda: onlooker.training.show(run).state == "RUNNING", "RUNNING", every_s=0.001)
    if moment in ("running", "saving"):
        await_work(onlooker, run, moment, chance)
    else:
        time.sleep(chance.uniform(0, 4 if moment == "loading" else 12))
    return moment


def _catch_marked(database: Path, run: str) -> bool:
    """Return in the moment between RUNNING and the pid; False when it was too short to be seen."""
    db = sqlite3.connect(database, timeout=30)
    end = clock() + PATIENCE_S
    while clock() < end:
        state, pid = db.execute("SELECT state, pid FROM runs WHERE run = ?", (run,)).fetchone()
        if state == "RUNNING":
            db.close()
            return pid is None
    raise AssertionError("the run never began")


def untrue(services: Services) -> list[str]:
    """What the record says and is not so."""
    living = workers(services.settings.home)
    wrong = []
    known = {row.run: row for row in services.training.store.all()}
    for row in known.values():
        if row.state in ("RUNNING", "STOPPING") and living.get(row.pid or 0) != row.run:
            wrong.append(f"{row.run} is {row.state} without its worker")
    for pid, run in living.items():
        if run not in known or known[run].pid != pid or known[run].state not in ("RUNNING", "STOPPING"):
            wrong.append(f"worker {pid} of {run} is an orphan")
    return wrong


def assert_no_double(settings: Settings, run: str) -> None:
    """In its log every attempt counts up by itself: two workers at once would show as steps that interleave."""
    step, started = 0, 0
    for event in EventReader(settings.runs_dir / run).read():
        if event["event"] == "started":
            step, started = None, started + 1
        elif event["event"] == "step":
            assert step is None or event["step"] == step + 1, f"{run}: step {event['step']} after {step}"
            step = event["step"]
    assert started >= 1


# -- cancelled -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cancelled:
    """during: the state in which it was cancelled. ended_s: until it had ended."""

    during: str
    state: str
    ended_s: float


def cancel(services: Services, file: Path, chance: random.Random, during: str) -> Cancelled:
    """Cancel a run while it is queued, loading, running or saving."""
    ahead = services.training.start(request(file, steps=5000)) if during == "queued" else None
    if ahead:
        wait_state(services, ahead, "RUNNING")
    run = services.training.start(request(file))
    if during == "queued":
        assert services.training.show(run).state == "QUEUED"
    else:
        wait_state(services, run, "RUNNING")
    if during == "loading":
        time.sleep(chance.uniform(0, 5))
    elif during in ("running", "saving"):
        await_work(services, run, during, chance)
    began = clock()
    for one in (run, ahead):
        if one:
            services.training.cancel(one, keep=chance.random() < 0.3)
    view = wait_state(services, run, *ENDED, within_s=60)
    ended_s = clock() - began
    if ahead:
        assert wait_state(services, ahead, *ENDED, within_s=60).state == "CANCELLED"
    assert view.state in ("CANCELLED", "DONE"), view  # DONE: the cancel came when all was done
    assert services.manager.leases() == []
    assert services.manager.queue() == []
    assert not workers(services.settings.home)
    return Cancelled(during, view.state, ended_s)


# -- no memory -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Starved:
    """The setting that was too large, what was named in its place, and how that ended."""

    batch_size: int
    words: int
    limit_bytes: int
    named: dict[str, Any]
    state: str
    attempts: int


def starve(services: Services, folder: Path, batch_size: int, words: int, limit_bytes: int) -> Starved:
    """A run that takes more than it may: retried once by itself, failed with a setting that would fit, and that one
    works."""
    file = rows_file(folder, words, 80)
    asked = request(file, method="prompt", steps=3, save_steps=2, batch_size=batch_size, limit_memory_bytes=limit_bytes)
    run = services.training.start(asked)
    view = wait_state(services, run, *ENDED)
    assert view.state == "FAILED", view
    assert "ran out of memory" in view.error
    assert "Start it with" in view.error, view.error
    assert services.manager.leases() == []
    attempts = services.training.store.get(run).attempt
    assert attempts == 2, "tried once more by itself"
    named = view.summary["smaller"]
    smaller = replace(asked, method=named["method"], batch_size=named["batch_size"], max_tokens=named["max_tokens"])
    view = wait_state(services, services.training.start(smaller), *ENDED)
    assert view.state == "DONE", view
    return Starved(batch_size, words, limit_bytes, named, view.state, attempts)


# -- frozen --------------------------------------------------------------------------------------------------------


def freeze(services: Services, file: Path, chance: random.Random) -> float:
    """SIGSTOP at some step; returns the seconds until the run was FAILED and its worker gone. It then ends as if
    nothing had been."""
    run = services.training.start(request(file, steps=4000))
    step = chance.randint(1, 40)
    pid = wait_for(lambda: (view := services.training.show(run)).step >= step and view.pid, "at its step")
    os.kill(pid, signal.SIGSTOP)
    began = clock()
    view = wait_state(services, run, *ENDED, within_s=60)
    took_s = clock() - began
    assert view.state == "FAILED", view
    assert "no sign of life" in view.error, view
    assert services.manager.leases() == []
    assert not workers(services.settings.home)
    return took_s


def hang(services: Services, file: Path, chance: random.Random) -> float:
    """Its main thread waits for ever to write into a pipe that nobody reads, in the middle of a save; its heart goes on
    beating. Returns the seconds until the run was FAILED; resumed, it goes past that step."""
    run = services.training.start(request(file, steps=4000))
    step = chance.randint(5, 20)
    view = wait_for(lambda: (view := services.training.show(run)).step >= step and view, "training")
    ahead = (view.step // SAVE_STEPS + 5) * SAVE_STEPS
    folder = services.settings.runs_dir / run / "checkpoints" / f"checkpoint-{ahead}"
    folder.mkdir()
    os.mkfifo(folder / "trainer_state.json")
    wait_for(lambda: services.training.show(run).step >= ahead, "at the step it hangs after")
    began = clock()
    view = wait_state(services, run, *ENDED)
    took_s = clock() - began
    assert view.state == "FAILED", view
    assert "Training hung" in view.error, view
    assert services.manager.leases() == []
    assert not workers(services.settings.home)
    services.training.resume(run)
    wait_for(lambda: services.training.show(run).step > ahead, "past it")
    services.training.cancel(run)
    wait_state(services, run, *ENDED)
    return took_s


# -- no disk -------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int = 24) -> Iterator[Path]:
    """A disk of its own at ``folder``. Raises PermissionError where mounting one is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        raise PermissionError(done.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is; returns the file that holds it."""
    ballast = folder / "ballast"
    for block in (65536, 512, 1):
        with ballast.open("ab", buffering=0) as out:
            try:
                while True:
                    out.write(bytes(block))
            except OSError:
                continue
    return ballast


def fill_disk(services: Services, file: Path, chance: random.Random) -> tuple[str, int]:
    """The disk of the home fills at some moment of a run: the run fails and says why, its newest checkpoint still
    loads, and with room again it goes on. Returns the error and the step of that checkpoint."""
    run = services.training.start(request(file, steps=200))
    step = chance.randint(SAVE_STEPS + 1, 120)
    wait_for(lambda: services.training.show(run).step >= step, "at its step", every_s=0.002)
    ballast = fill(services.settings.home)
    view = wait_state(services, run, *ENDED)
    assert view.state == "FAILED", view
    assert "The disk is full" in view.error, view
    assert services.manager.leases() == []
    kept = newest_complete(services.settings.runs_dir / run)
    assert kept is not None
    ballast.unlink()
    services.training.resume(run)
    assert last_loss(services, run) > 0
    services.adapters.remove(services.training.show(run).adapter)
    return view.error, step_of(kept)


# -- clients that leave, adapters that change hands ----------------------------------------------------------------


def settled(holds: Callable[[], bool]) -> bool:
    """Whether something comes true within the bound."""
    waiting = threading.Event()
    for _ in range(int(30.0 / 0.02)):
        if holds():
            return True
        waiting.wait(0.02)
    return False


def gone_away(services: Services, times: int) -> list[float]:
    """Returns for each client the seconds from its leaving until its lease was free."""
    last(services.compare.ask([Side("base")], [[]], "Hello", Sampling(max_tokens=6)))
    threads, took_s = threading.active_count(), []
    for turn in range(times):
        stream = services.compare.ask([Side("base")], [[]], f"Question {turn}", Sampling(max_tokens=200))
        for replies in stream:
            if replies[0].completion_tokens:
                break
        left = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert services.manager.leases() == []
        took_s.append(time.monotonic() - left)
    assert settled(lambda: threading.active_count() <= threads + 1), "no thread is left behind"
    engine = services.bases.engine()
    assert settled(lambda: not engine.backend.scheduler.busy), "the rows have left the batch"
    return took_s


def swap_storm(services: Services, make_lora: Callable[..., Path], turns: int) -> int:
    """Eight threads, each attaching and asking one adapter after another. Returns the bytes by which the process grew
    meanwhile."""
    engine = services.bases.engine()
    files = {f"a{seed}": AdapterFile(f"a{seed}", make_lora(seed), f"sha{seed}") for seed in range(3)}
    row = {name: Row("A prompt to tell them apart by", name, Sampling(max_tokens=6)) for name in files}
    for file in files.values():
        engine.attach(file)
    expected = {name: last(engine.stream([row[name]]))[0].text for name in files}
    assert len(set(expected.values())) == 3
    mark, wrong, before = engine.fingerprint, [], psutil.Process().memory_info().rss

    def storm(number: int) -> None:
        for turn in range(turns):
            name = f"a{(number + turn) % 3}"
            engine.attach(files[name])
            if last(engine.stream([row[name]]))[0].text != expected[name]:
                wrong.append((number, turn))

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1200)
    assert wrong == []
    assert engine.check_fingerprint()[:2] == (mark, True)
    return int(psutil.Process().memory_info().rss - before)
