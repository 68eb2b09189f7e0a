"""A run on a Ray cluster, as the app sees it: against a cluster of the test's own that speaks as Ray's client does. The
real one is in tests/soak/test_cluster.py."""

import json
import sys
from types import SimpleNamespace

import pytest

from playground.errors import PlaygroundError
from playground.runs.cluster import GONE_AFTER, PLACE, RayWorkers
from playground.training import processes
from playground.training.run_files import EVENTS, EventReader
from playground.training.spec import RunSpec
from tests.waiting import wait_for

CLIENT = """
jobs, seen, up, refusals, logs = {}, [], [True], [], "Traceback\\nout of room\\n"

class JobSubmissionClient:
    def __init__(self, address):
        if not up[0]:
            raise ConnectionError(f"nothing answers at {address}\\nand more")
        self.address = address

    def get_address(self):
        return self.address

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        if refusals:
            raise RuntimeError(f"Request failed with status code {refusals.pop(0)}")
        jobs[submission_id] = ["PENDING", metadata]

    def get_job_info(self, job):
        seen.append(job)
        if not up[0]:
            raise ConnectionError("nothing answers")
        if job not in jobs:
            raise RuntimeError(f"Request failed with status code 404: {job} does not exist")
        return Info(*jobs[job])

    def get_job_logs(self, job):
        return logs

    def stop_job(self, job):
        jobs[job][0] = "STOPPED"

class Info:
    def __init__(self, status, metadata):
        self.status, self.metadata, self.message = Status(status), metadata, "it ended"

class Status(str):
    def is_terminal(self):
        return self in ("SUCCEEDED", "FAILED", "STOPPED")
"""
STATE = """
nodes = []

def list_nodes(address, limit):
    return nodes
"""


def node(id, state="ALIVE"):
    return SimpleNamespace(node_id=id, node_name="n", state=state, resources_total={"CPU": 4.0, "GPU": 1.0})


@pytest.fixture
def ray(tmp_path, monkeypatch):
    """(the client's module, the nodes). Installed in Ray's place, whether or not Ray is."""
    for name, text in (("__init__", ""), ("job_submission", CLIENT), ("util/__init__", ""), ("util/state", STATE)):
        file = tmp_path / "site" / "ray" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for name in [one for one in sys.modules if one == "ray" or one.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("requests.get", lambda *asked, **given: SimpleNamespace(json=dict))
    import ray.job_submission as client
    import ray.util.state as state

    state.nodes.append(node("a" * 12))
    yield client, state.nodes
    for name in [one for one in sys.modules if one == "ray" or one.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def workers(tmp_path, ray):
    made = RayWorkers("http://head:8265", tmp_path, clock=lambda: 5.0, poll_s=0.005)
    yield made
    made.close()


@pytest.fixture
def run(workers, ray, tmp_path):
    """(its folder, its number), once the cluster has its job."""
    folder = tmp_path / "one"
    folder.mkdir()
    wait_for(workers.ready, "connected")
    number, since = workers.start_worker(folder, tmp_path / "db", 1)
    assert (since, number >= processes.ON_CLUSTER) == (5.0, True)
    wait_for(lambda: ray[0].jobs, "submitted")
    return folder, number


def looked(client, times):
    """When the cluster has been asked for jobs so many times more."""
    until = len(client.seen) + times
    wait_for(lambda: len(client.seen) >= until, "looked")


def test_a_job_lives_until_the_cluster_says_that_it_has_ended_and_why_it_failed_is_in_its_log(workers, run, ray):
    client, (folder, number) = ray[0], run
    looked(client, 3)
    assert workers.is_alive(number, 5.0)
    (job,) = client.jobs
    assert client.jobs[job][1] == {"run": "one"}
    client.jobs[job][0] = "FAILED"
    wait_for(lambda: not workers.is_alive(number, 5.0), "ended")
    assert (folder / processes.LOG).read_text().splitlines()[-1] == "out of room"


def test_one_404_is_not_the_end_and_many_in_a_row_are(workers, run, ray):
    client, (_, number) = ray[0], run
    job, known = client.jobs.popitem()
    looked(client, GONE_AFTER // 2)
    assert workers.is_alive(number, 5.0)
    client.jobs[job] = known
    looked(client, 3)
    client.jobs.clear()
    looked(client, GONE_AFTER // 2 + 5)
    assert workers.is_alive(number, 5.0), "it was known in between"
    wait_for(lambda: not workers.is_alive(number, 5.0), "gone for good")


def test_a_cluster_that_does_not_answer_ends_no_run_says_so_and_is_found_again(workers, run, ray, tmp_path):
    client, (_, number) = ray[0], run
    client.up[0] = False
    wait_for(lambda: "nothing answers at http://head:8265" in workers.status()["message"], "told")
    assert (workers.is_alive(number, 5.0), "nothing answers" in workers.waiting) == (True, True)
    with pytest.raises(PlaygroundError, match=r"does not answer\. nothing answers"):
        workers.start_worker(run[0], tmp_path / "db", 1)
    client.up[0] = True
    wait_for(workers.ready, "connected again")
    looked(client, 2)
    assert (workers.is_alive(number, 5.0), workers.waiting) == (True, "Waiting on the cluster")
    another = RayWorkers("http://head:8265", tmp_path, poll_s=0.005)  # the app, started again
    assert another.is_alive(number, 5.0)
    client.jobs[next(iter(client.jobs))][0] = "SUCCEEDED"
    wait_for(lambda: not another.is_alive(number, 5.0), "ended")
    another.close()


def test_a_run_is_cancelled_and_its_place_is_told_also_when_its_node_is_lost(workers, run, ray):
    client, nodes = ray
    folder, number = run
    assert workers.place(folder) == (True, "Waiting on the cluster")
    for known, told in (
        ({"needs": "2 CPUs"}, (True, "Waiting on the cluster for 2 CPUs")),
        ({"node": "n (aaaaaa)", "node_id": "a" * 12, "tries": 1}, (False, "on node n (aaaaaa)")),
        ({"node": "n", "node_id": "a" * 12, "tries": 2}, (False, "on node n, resumed after a node was lost")),
    ):
        (folder / PLACE).write_text(json.dumps(known))
        assert workers.place(folder) == told
    status = workers.status(5.0)
    assert (status["cpus"], status["gpus"], status["lost"], len(status["nodes"])) == (4.0, 1.0, 0, 1)
    nodes[0] = node("a" * 12, "DEAD")
    wait_for(lambda: workers.place(folder)[1] == "lost node n, goes on elsewhere", "told")
    assert workers.status()["lost"] == 1
    workers.stop(number, hard=False)
    wait_for(lambda: not workers.is_alive(number, 5.0), "cancelled")
    assert [status for status, _ in client.jobs.values()] == ["STOPPED"]


def test_a_cluster_that_still_starts_is_asked_again_and_a_job_that_it_refuses_ends_with_its_words(
    workers, ray, tmp_path
):
    client, ends = ray[0], []
    client.refusals += ["500: No available agent to submit job, please try again later"] * 2
    for refused in ("", "500: full"):
        wait_for(workers.ready, "connected")
        client.refusals += [refused] if refused else []
        number, _ = workers.start_worker(tmp_path, tmp_path / "db", 1)
        if not refused:
            wait_for(lambda: client.jobs, "taken at the third time")
        ends.append(number)
    wait_for(lambda: not workers.is_alive(ends[1], 5.0), "refused")
    assert (
        "The cluster took no job: Request failed with status code 500: full" in (tmp_path / processes.LOG).read_text()
    )
    assert (workers.is_alive(ends[0], 5.0), len(client.jobs)) == (True, 1)


def test_through_a_storage_a_run_is_sent_first_and_what_comes_back_is_fetched_before_it_ends(ray, tmp_path):
    client, folder, base, store = ray[0], tmp_path / "runs" / "one", tmp_path / "base", tmp_path / "store"
    for made in (folder, base):
        made.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    given = dict.fromkeys(("name", "base", "base_fingerprint", "data", "shipped_dir"), "x")
    given |= {"run": "one", "base_path": str(base), "file": str(folder / "rows"), "adapters_dir": str(tmp_path / "a")}
    RunSpec(**given, method="lora", steps=4, lr=0.01, rank=4).write(folder)
    workers = RayWorkers("http://head:8265", tmp_path / "runs", poll_s=0.005, storage=str(store))
    wait_for(workers.ready, "connected")
    number, _ = workers.start_worker(folder, tmp_path / "db", 1)
    wait_for(lambda: client.jobs, "submitted")
    there = store / "runs" / "one"
    assert {one.name for one in there.iterdir()} == {"run.json", processes.LOG}, "its files were there before"
    assert str(tmp_path) not in (there / "run.json").read_text(), "and name no path of this machine"
    (there / EVENTS).write_text('{"event": "state", "message": "on its way"}\n{"event": "do')
    wait_for(
        lambda: [event["message"] for event in EventReader(folder).read()] == ["on its way"], "fetched as it comes"
    )
    (there / EVENTS).write_text('{"event": "done", "adapter": "never_came"}\n')
    looked(client, 20)
    assert workers.is_alive(number, 0.0), "until the cluster says so"
    client.jobs[next(iter(client.jobs))][0] = "SUCCEEDED"
    wait_for(lambda: not workers.is_alive(number, 0.0), "ended")
    assert (there.exists(), "run.json" in (folder / processes.LOG).read_text()) == (True, True), "no adapter came: said"
    workers.close()
