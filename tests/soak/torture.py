"""Runs as real processes, asked for, waited for, killed; clients that leave; adapters that change hands."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy
import psutil

from playground.chat.compare import Side
from playground.engine.request import AdapterFile, Row, Sampling
from playground.runs.service import TrainRequest
from playground.settings import PROJECT_ROOT
from playground.training.run_files import MARKER
from tests.services.conftest import last
from tests.waiting import wait_for

SAVE_STEPS = 4
STEPS = 24
RESULTS = PROJECT_ROOT / "benchmarks" / "results" / "session_manager.json"


def request(file, **more):
    return replace(TrainRequest(file, "t", steps=STEPS, batch_size=4, rank=2, save_steps=SAVE_STEPS), **more)


def wait_state(services, run, *states, within_s=180.0):
    def look():
        view = services.training.show(run)
        return view if view.state in states else None

    found = wait_for(look, f"{' or '.join(states)}: {services.training.show(run)}", within_s)
    return found


def checkpoints(services, run):
    """Step -> whether it is complete."""
    folder = services.settings.runs_dir / run / "checkpoints"
    return {int(one.name.rpartition("-")[2]): (one / MARKER).exists() for one in folder.glob("checkpoint-*")}


def is_saving(services, run):
    return not all(checkpoints(services, run).values())


def workers(home):
    """pid -> run of every living worker of this home; of its children those alone that are workers."""
    found, parents = {}, {}
    for process in psutil.process_iter(["cmdline", "status", "ppid"]):
        words = process.info["cmdline"] or []
        if "playground.training.worker" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            place = Path(words[words.index("playground.training.worker") + 1])
            if place.parent == home / "runs":
                found[process.pid], parents[process.pid] = place.name, process.info["ppid"]
    return {pid: run for pid, run in found.items() if parents[pid] not in found}


def kill_hard(pid):
    os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def owner(settings):
    """A process that supervises this home; in the end it is killed -9."""
    command = [sys.executable, "-m", "tests.soak.owner", str(settings.home), settings.base]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def gone_away(services, times):
    """Clients leave in mid-reply: for each the seconds from its leaving until its lease was free."""
    last(services.compare.ask([Side("base")], [[]], "Hello", Sampling(max_tokens=6)))
    threads, took_s = threading.active_count(), []
    for turn in range(times):
        stream = services.compare.ask([Side("base")], [[]], f"Question {turn}", Sampling(max_tokens=200))
        next(replies for replies in stream if replies[0].completion_tokens)
        left = time.monotonic()
        stream.close()
        assert services.manager.leases() == []
        took_s.append(time.monotonic() - left)
    wait_for(lambda: threading.active_count() <= threads + 1, "without a thread that is left behind", 30.0)
    engine = services.bases.engine()
    wait_for(lambda: not engine.backend.scheduler.busy, "out of the batch", 30.0)
    return took_s


def swap_storm(services, make_lora, turns):
    """Eight threads attach and ask one adapter after another. Returns the bytes by which the process grew."""
    engine = services.bases.engine()
    files = {f"a{seed}": AdapterFile(f"a{seed}", make_lora(seed), f"sha{seed}") for seed in range(3)}
    row = {name: Row("A prompt to tell them apart by", name, Sampling(max_tokens=6)) for name in files}
    for file in files.values():
        engine.attach(file)
    expected = {name: last(engine.stream([row[name]]))[0].text for name in files}
    assert len(set(expected.values())) == 3
    mark, wrong, before = engine.fingerprint, [], psutil.Process().memory_info().rss

    def storm(number):
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


def record(key, results=RESULTS, **values):
    """Write what was measured under ``key``, with the command that made it; what other parts measured stays."""
    known = json.loads(results.read_text()) if results.is_file() else {}
    threads = "OMP_NUM_THREADS=1 " if os.environ.get("OMP_NUM_THREADS") == "1" else ""
    made = {"command": f"{threads}python -m pytest -m soak tests/soak", "cores": os.cpu_count()}
    known[key] = made | {"finished": time.strftime("%Y-%m-%d", time.gmtime())} | values
    results.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def spread(values):
    """Median, 95th percentile and worst, rounded."""
    p95 = float(numpy.percentile(values, 95, method="higher"))
    return {"median": round(float(numpy.median(values)), 3), "p95": round(p95, 3), "worst": round(max(values), 3)}
