"""A real Ray cluster of a head and two nodes on this machine: three runs, and a node that dies in the middle of one. By
hand, about three minutes; ``pip install "ray[default]"``."""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from playground.library.card import weight_files
from playground.library.files import sha256_of
from playground.runs.cluster import PLACE
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.settings import PROJECT_ROOT, Settings
from playground.training.run_files import EventReader, marked_step
from tests.soak.torture import record

cluster_utils = pytest.importorskip("ray.cluster_utils", reason='shows a real cluster; pip install "ray[default]"')
pytestmark = pytest.mark.soak
RESULTS = PROJECT_ROOT / "benchmarks" / "results" / "ray.json"
STEPS, SAVE, KILLED_AT, LIMIT_S = 120, 10, 20, 900.0
NODE = {"num_cpus": 2, "memory": 6 * 10**9, "object_store_memory": 80_000_000}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def cluster(monkeypatch):
    """(its job server's address, its two nodes)."""
    port, agent = free_port(), free_port()
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    head = NODE | {
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_port": port,
        "dashboard_agent_listen_port": agent,
    }
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    nodes = [made.add_node(**NODE) for _ in range(2)]
    made.wait_for_nodes()
    yield f"http://127.0.0.1:{port}", nodes
    made.shutdown()


def die(node):
    """As a machine dies: everything that runs on it, at once."""
    top = node.all_processes["raylet"][0].process.pid
    for one in [psutil.Process(top), *psutil.Process(top).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)


def test_three_runs_end_although_a_node_is_lost(cluster, tiny_base, tmp_path):
    address, nodes = cluster
    services = build_services(Settings(home=tmp_path / "home", base=str(tiny_base), ray=address))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"It is {n}."}) for n in range(64)))
    began = time.monotonic()
    runs = [
        services.training.start(TrainRequest(file, f"run {n}", "lora", "sft", steps=STEPS, save_steps=SAVE, seed=n))
        for n in range(3)
    ]
    assert services.training.take_over()
    folder, lost, seen = services.settings.runs_dir, "", set()
    while any(services.training.show(run).state in ("QUEUED", "RUNNING") for run in runs):
        assert time.monotonic() - began < LIMIT_S, [services.training.show(run) for run in runs]
        for run in runs:
            if (folder / run / PLACE).is_file():
                at = json.loads((folder / run / PLACE).read_text()).get("node_id")
                seen |= {at} - {None}
                if not lost and at and marked_step(folder / run) >= KILLED_AT:
                    die(next(node for node in nodes if node.node_id == at))
                    lost = run
        time.sleep(0.2)
    views = [services.training.show(run) for run in runs]
    assert [(view.state, view.error) for view in views] == [("DONE", None)] * 3
    assert len(seen) == 2, "both nodes trained"
    tries = {run: json.loads((folder / run / PLACE).read_text())["tries"] for run in runs}
    assert tries == {run: 1 + (run == lost) for run in runs}
    again = 0
    for run in runs:
        steps = [event["step"] for event in EventReader(folder / run).read() if event["event"] == "step"]
        assert sorted({*steps}) == list(range(1, STEPS + 1)), "no step is missing"
        again += len(steps) - STEPS if run == lost else 0
        assert run == lost or len(steps) == STEPS, "and only the lost run repeats some"
    assert again < STEPS - KILLED_AT, "it went on from its checkpoint"
    cards = [services.adapters.get(view.adapter) for view in views]
    assert [card.sha256 for card in cards] == [sha256_of(weight_files(card.path, card.kind)) for card in cards]
    services.training.close()
    figures = {"runs": 3, "nodes": 2, "steps": STEPS, "killed_after_step": KILLED_AT, "steps_made_again": again}
    record("two_nodes_one_lost", RESULTS, **figures, seconds=round(time.monotonic() - began, 1))
