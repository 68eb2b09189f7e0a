"""Runs on a Ray cluster: each is one Ray job, whose driver (``main``) starts one Ray task (``train_on_node``).

A job outlives the app and is reached over HTTP: the app is no process of the cluster, so that a cluster that is lost
does not end it. But "when a job is submitted, it runs once" (Ray's JobSubmissionClient.submit_job), so what trains is a
task: Ray queues it by the GPUs, processors and memory it asks for, and tries it again elsewhere when its node is lost.
The task starts the same worker process as on this machine, with the same few variables, watches it as the supervisor
does here, and goes on from the newest complete checkpoint. The home lies where every node sees it at the same path, or
files go through a storage (``mirror``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.errors import InputError, PlaygroundError
from playground.library.files import write_json
from playground.runs.mirror import PLACE, STORAGE, Mirror, storage_errors
from playground.runs.progress import Pulse, RunLog
from playground.settings import PASSED, PROJECT_ROOT
from playground.training import processes
from playground.training.spec import RunSpec
from playground.training.worker import NOT_MINE

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

AUTO = "auto"
HERE = "http://127.0.0.1:8265"
"""Where a Ray on this machine takes jobs. Asked by HTTP: Ray's own search waits for clusters that are long gone."""
POLL_S = 1.0
NODES_EVERY = 4
"""So many looks at the jobs come between two at the nodes, and at the storage."""
GONE_AFTER = 30
"""A job that the cluster does not know at so many looks one after another is of a cluster that is gone: one that has
just been started again may not have read yet what it knew."""
START_S = 60.0
RETRIES = 5
"""So many nodes may be lost under one run."""
CPUS = 2
"""Processors of a run without a GPU."""
LOCK_S = 120.0
"""The folder of a run whose node was lost stays locked so long at most: on NFS until the lease of its lock ends."""
LEAVE_S = 8.0
STORE_BYTES = 100_000_000
"""A local Ray's object store: no data goes through it."""
HOME = "~/.cache/prompt-or-tune"
"""Where a node keeps what comes through a storage."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """One machine of the cluster, as Ray knows it."""

    id: str
    name: str
    alive: bool
    cpus: float
    gpus: float


class RayWorkers:
    """``Workers`` on a cluster. address: of its job server (``http://HOST:8265``), or ``auto``: the one that runs on
    this machine, else one that is started. storage: what nodes read and write instead of the home. Safe from several
    threads: whatever is asked of the cluster is asked by one thread of its own, which nobody waits for, but for a run's
    start and its cancelling."""

    tokens_per_s: float | None = None
    longest_s: float | None = None

    def __init__(
        self,
        address: str,
        runs_dir: Path,
        clock: Callable[[], float] = time.time,
        *,
        poll_s: float = POLL_S,
        storage: str = "",
    ) -> None:
        """Raises InputError where Ray, or what the storage needs, is not installed."""
        if find_spec("ray") is None:
            raise InputError('PLAYGROUND_RAY is set, but Ray is not installed here: pip install "ray[default]"')
        self._address, self._runs_dir, self._clock = address, runs_dir, clock
        self._poll_s, self._unknown = poll_s, Counter[int]()
        self._storage, self._mirror = storage, Mirror(storage) if storage else None
        self._sending: set[int] = set()
        self._client: JobSubmissionClient | None = None
        self._local: subprocess.Popen[bytes] | None = None
        self._ended: dict[int, bool] = {}
        self._nodes: list[Node] = []
        self._used: dict[str, float] = {}
        self._fault, self._may_start = "", False
        self._lock, self._done, self._looked = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # -- Workers -------------------------------------------------------------------------------------------------------

    def start_worker(self, run_dir: Path, database: Path, attempt: int) -> tuple[int, float]:
        """Submit the run's job; the package goes with it, so that every node trains by this very code. It is done in
        the background, for uploads and a cluster that still starts take long; a program that ends waits for it."""
        client = self._client
        if client is None:
            raise PlaygroundError(f"The cluster does not answer. {self._fault}")
        for left in (processes.HEARTBEAT, PLACE):  # of the attempt before
            (run_dir / left).unlink(missing_ok=True)
        with (run_dir / processes.LOG).open("a") as log:
            log.write(f"{processes.ATTEMPT} {attempt}\n")
        number = processes.ON_CLUSTER + secrets.randbelow(2**31 - processes.ON_CLUSTER)
        self._sending.add(number)
        self._ended[number] = False
        threading.Thread(target=self._send, args=(client, run_dir, number, attempt), name="ray-send").start()
        return number, self._clock()

    def _send(self, client: JobSubmissionClient, run_dir: Path, number: int, attempt: int) -> None:
        place = str(run_dir) if self._mirror is None else run_dir.name
        given = [place, str(attempt), *filter(None, [self._storage])]
        command = shlex.join(["python", "-m", "playground.runs.cluster", *given])
        code, told = {"py_modules": [str(PROJECT_ROOT / "playground")]}, {"run": run_dir.name}
        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)  # it tells of every package that it sends
        logging.getLogger("ray._private").setLevel(logging.WARNING)
        what = f"{self._storage} did not take the run's files"
        try:
            if self._mirror is not None:
                write_json(run_dir / PLACE, {"needs": "its files to reach the storage"})
                self._mirror.send(run_dir)
            what, until = "The cluster took no job", time.monotonic() + START_S
            while not self._ended[number]:
                try:
                    client.submit_job(entrypoint=command, submission_id=_job(number), runtime_env=code, metadata=told)
                    break
                except RuntimeError as error:  # its nodes have joined, what starts jobs on them has not
                    if "try again later" not in str(error) or time.monotonic() > until:
                        raise
                self._done.wait(self._poll_s)
        except storage_errors(PlaygroundError, RuntimeError, ValueError) as error:  # and those of Ray's client
            _LOG.warning("a run did not reach the cluster", exc_info=True)
            _tell(run_dir, f"{what}: {_short(error)}")
            self._ended[number] = True
        finally:
            self._sending.discard(number)

    def is_alive(self, pid: int | None, start: float | None) -> bool:
        """As the last look found it; until the first, and while the cluster does not answer, a job counts as alive."""
        if pid is None or pid < processes.ON_CLUSTER:  # a run from before the cluster was set up
            return processes.is_alive(pid, start)
        self._watch()
        return not self._ended.setdefault(pid, False)

    def stop(self, pid: int, *, hard: bool) -> None:
        if pid < processes.ON_CLUSTER:
            processes.stop(pid, hard=hard)
            return
        self._watch()
        if pid in self._sending:
            self._ended[pid] = True
            return
        stopping = threading.Thread(target=self._stop, args=(pid,), name="ray-stop", daemon=True)
        stopping.start()
        stopping.join(START_S if self._client is None else LEAVE_S)  # a command may end right after this

    def activity(self, pid: int) -> tuple[float, bool]:
        """Its process is watched on its node."""
        return processes.activity(pid) if pid < processes.ON_CLUSTER else (self._clock(), False)

    # -- what the session manager and the page see ---------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether a run can be started now. Whoever asks may start runs, and so a Ray on this machine, too."""
        self._may_start = True
        self._watch()
        return self._client is not None

    @property
    def waiting(self) -> str:
        if self._client is not None or not self._fault:
            return "Waiting on the cluster"
        mend = "" if self._address == AUTO else " Start it, or train here: cancel, and unset PLAYGROUND_RAY"
        return f"Waiting on the cluster. {self._fault}{'' if self._fault.endswith('.') else '.'}{mend}"

    def place(self, run_dir: Path) -> tuple[bool, str]:
        """(whether the run waits for a node, where it is in words)."""
        try:
            known: dict[str, Any] = json.loads((run_dir / PLACE).read_text())
        except (OSError, ValueError):
            return True, self.waiting
        node, tries = str(known.get("node", "")), int(known.get("tries", 0))
        if not node:
            return True, f"Waiting on the cluster for {known.get('needs', 'a node')}"
        if any(one.id == known.get("node_id") and not one.alive for one in self._nodes):
            return False, f"lost node {node}, goes on elsewhere"
        return False, f"on node {node}" + (", resumed after a node was lost" if tries > 1 else "")

    def status(self, wait_s: float = 0.0) -> dict[str, Any]:
        """The cluster in plain values; used: what Ray has handed out of its CPUs and GPUs, to anybody. wait_s: how long
        the first look may take."""
        self._watch()
        self._looked.wait(wait_s)
        nodes = [{"name": one.name, "cpus": one.cpus, "gpus": one.gpus} for one in self._nodes if one.alive]
        totals = {name: sum(float(str(one[name])) for one in nodes) for name in ("cpus", "gpus")}
        address = self._client.get_address() if self._client is not None else self._address
        used = {
            kind: min(count, totals[kind]) for kind, count in self._used.items()
        }  # of a lost node's it says so late
        lost = sum(not one.alive for one in self._nodes)
        said = "" if self._client is not None else self._fault
        return {"address": address, "nodes": nodes, "lost": lost, **totals, "used": used, "message": said}

    def storage(self) -> dict[str, str] | None:
        """Where runs' files go and why they cannot, if so; None = nodes see the home."""
        return {"address": self._storage, "fault": self._mirror.fault()} if self._mirror is not None else None

    def close(self) -> None:
        """Stop following the cluster's jobs. A Ray that was started here ends with its last run, not before."""
        self._done.set()
        if self._local is not None and all(self._ended.values()):
            self._local.terminate()  # ``ray start --block`` ends everything that it began
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._local.wait(LEAVE_S)
            self._local = None

    # -- the thread that asks ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        with self._lock:
            if self._thread is None and not self._done.is_set():
                self._thread = threading.Thread(target=self._follow, name="ray", daemon=True)
                self._thread.start()

    def _follow(self) -> None:
        looks = 0
        while not self._done.is_set():
            try:
                if self._client is None:
                    self._client = self._connect()
                if looks % NODES_EVERY == 0:
                    self._look_at_nodes(self._client.get_address())
                for number in [number for number, ended in self._ended.items() if not ended]:
                    if number not in self._sending:
                        self._look(self._client, number, fetch=looks % NODES_EVERY == 0)
                looks += 1
                self._looked.set()
            except Exception as error:  # Ray's own and those of its HTTP client, of no common class
                self._client = None
                self._fault = _short(error)
                _LOG.info("the cluster does not answer", exc_info=True)
            self._done.wait(self._poll_s)

    def _connect(self) -> JobSubmissionClient:
        from ray.job_submission import JobSubmissionClient

        try:
            return JobSubmissionClient(HERE if self._address == AUTO else self._address)
        except ConnectionError:
            if self._address != AUTO or not self._may_start:
                raise
        if self._local is None or self._local.poll() is not None:
            self._fault = "Ray is being started on this machine."
            self._local = _start_ray()
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(ConnectionError):
                return JobSubmissionClient(HERE)
            if self._local.poll() is not None or time.monotonic() > until or self._done.wait(0.5):
                raise ConnectionError("Ray did not start on this machine. Try: ray start --head")

    def _look(self, client: JobSubmissionClient, number: int, *, fetch: bool) -> None:
        try:
            info = client.get_job_info(_job(number))
        except RuntimeError as error:
            if not str(error).startswith("Request failed with status code 404"):
                raise
            self._unknown[number] += 1
            self._ended[number] = self._unknown[number] >= GONE_AFTER
            return
        del self._unknown[number]
        run_dir = self._runs_dir / Path(str((info.metadata or {}).get("run", ""))).name
        ended, known = info.status.is_terminal(), run_dir != self._runs_dir and run_dir.is_dir()
        if self._mirror is not None and known and (fetch or ended):
            try:
                self._mirror.fetch(run_dir)
                if ended:
                    self._mirror.clear(run_dir.name)
            except PlaygroundError as error:  # what came back cannot be taken; it stays in the storage
                if ended:
                    _tell(run_dir, str(error))
        if ended:
            if str(info.status) == "FAILED" and known:
                said = [line for line in client.get_job_logs(_job(number)).splitlines() if line.strip()]
                _tell(run_dir, said[-1] if said else str(info.message))
            self._ended[number] = True

    def _look_at_nodes(self, address: str) -> None:
        import requests
        from ray.util.state import list_nodes

        self._nodes = [
            Node(one.node_id, _named(one.node_name, one.node_id), one.state == "ALIVE", *_of(one.resources_total))
            for one in list_nodes(address=address, limit=1000)
        ]
        # what is in use is in no documented call yet; without it the page shows what there is
        found = requests.get(f"{address}/api/cluster_status", timeout=LEAVE_S).json()
        with contextlib.suppress(KeyError, TypeError, ValueError):
            usage = found["data"]["clusterStatus"]["loadMetricsReport"]["usage"]
            self._used = {"cpus": float(usage.get("CPU", [0])[0]), "gpus": float(usage.get("GPU", [0])[0])}

    def _stop(self, number: int) -> None:
        while not self._done.is_set():
            if self._client is not None:
                with contextlib.suppress(Exception):  # it has ended, or does not answer: the supervisor asks again
                    self._client.stop_job(_job(number))
                return
            self._done.wait(0.1)


def _start_ray() -> subprocess.Popen[bytes]:
    """A Ray of one node that outlives this process. Its jobs inherit its variables: those that a worker may see."""
    kept = {name: os.environ[name] for name in (*PASSED, "CUDA_VISIBLE_DEVICES") if name in os.environ}
    kept["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", os.defpath)))
    options = ("--head", "--block", "--port=0", "--disable-usage-stats", f"--object-store-memory={STORE_BYTES}")
    return subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
        env=kept,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _job(number: int) -> str:
    return f"prompt-or-tune-{number}"


def _short(error: Exception) -> str:
    """The first line, without what a server's answer drags along."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _named(name: str, node: str) -> str:
    """Several nodes may be on one machine: told apart by the beginning of their id."""
    return f"{name} ({node[:6]})"


def _of(resources: dict[str, float]) -> tuple[float, float]:
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def _tell(run_dir: Path, words: str) -> None:
    """A last line in the worker's log: why it ended, where it could not say so itself."""
    with contextlib.suppress(OSError), (run_dir / processes.LOG).open("a") as log:
        log.write(f"{words.strip()[:300]}\n")


# -- on the cluster ----------------------------------------------------------------------------------------------------


def needs_of(spec: RunSpec, nodes: list[dict[str, Any]]) -> dict[str, float]:
    """What a run asks Ray for: a GPU where any node has one; else processors, and the memory that it is to take."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    if any(one.get("GPU") for one in there):
        return {"num_gpus": 1, "num_cpus": 1}
    cpus = min(CPUS, max((int(one.get("CPU", 0)) for one in there), default=0))
    return {"num_cpus": max(1, cpus), "memory": spec.estimated_memory_bytes}


def train_on_node(run_dir: str, attempt: int, storage: str) -> int:
    """The Ray task: the worker in a process of its own, watched to its end. Returns its exit code. storage: where the
    run's folder lies under this name, "" = it is seen here."""
    import ray

    place, node = Path(run_dir), ray.get_runtime_context().get_node_id()
    name = _named(ray.util.get_node_ip_address(), node)
    mirror = Mirror(storage) if storage else None
    if mirror is not None:
        place = mirror.take(run_dir, Path(HOME).expanduser(), node)
    if not (place / "run.json").is_file():
        raise InputError(f"{place} is not seen by node {name}. The home must lie where every node sees it.")
    known = json.loads((place / PLACE).read_text()) if (place / PLACE).is_file() else {}
    known = {"node": name, "node_id": node, "tries": int(known.get("tries", 0)) + 1}
    write_json(place / PLACE, known)
    if mirror is not None:
        mirror.tell(run_dir, known)
    until = time.monotonic() + LOCK_S
    while True:
        code = _watched(place, *processes.start_worker(place, None, attempt), mirror)
        if mirror is not None:
            shutil.rmtree(place, ignore_errors=True)
        if code != NOT_MINE or mirror is not None or time.monotonic() > until:
            return code
        time.sleep(processes.BEAT_S)  # the worker of the node that was lost still holds the folder


def _watched(place: Path, pid: int, since: float, mirror: Mirror | None) -> int:
    """Wait for the worker's end; kill it where it hangs, or where the run is another node's by now. Ray cancels a task
    by KeyboardInterrupt."""
    log, pulse = RunLog(place), Pulse()
    try:
        while processes.is_alive(pid, since):
            time.sleep(0.5)
            beat, doing = processes.last_beat(place), processes.activity(pid)
            if reason := pulse.look(beat, *doing, log.refresh().events):
                processes.stop(pid, hard=True)
                _tell(place, reason)
            if mirror is not None and not mirror.give(place):
                processes.stop(pid, hard=True)
    finally:
        processes.stop(pid, hard=False)
        until = time.monotonic() + LEAVE_S
        while processes.is_alive(pid, since) and time.monotonic() < until:
            time.sleep(0.05)
        processes.stop(pid, hard=True)
        if mirror is not None:
            mirror.give(place, last=True)
    return processes.exit_code(pid) or 0


def main() -> int:
    """The Ray job's driver: ``python -m playground.runs.cluster RUN_DIR ATTEMPT``, or ``RUN ATTEMPT STORAGE``."""
    import ray

    from playground.runs import cluster  # by its name, so that the nodes import the task

    run_dir, attempt, storage = Path(sys.argv[1]), int(sys.argv[2]), "".join(sys.argv[3:])
    try:
        mirror = Mirror(storage) if storage else None
        spec = RunSpec.read(run_dir) if mirror is None else mirror.spec(run_dir.name)
    except InputError as error:
        print(error if storage else f"{error} Every node must see the home at the same path, or set {STORAGE}.")
        return 2
    ray.init(log_to_driver=False)
    needs = needs_of(spec, ray.nodes())
    count = needs["num_cpus"]
    said = "a GPU" if "num_gpus" in needs else f"{count} CPU{'s' if count > 1 else ''}"
    if mirror is None:
        write_json(run_dir / PLACE, {"needs": said})
    else:
        mirror.tell(run_dir.name, {"needs": said})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    task = ray.remote(cluster.train_on_node).options(**needs, max_retries=RETRIES, name=f"train {spec.run}")
    ref = task.remote(str(run_dir), attempt, storage)
    try:
        ray.get(ref)
        return 0
    except KeyboardInterrupt:
        ray.cancel(ref)
        ray.wait([ref], timeout=2.0)  # Ray kills a driver that stays for longer than 3 s
        return 1


if __name__ == "__main__":
    sys.exit(main())
