import contextlib
import json
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from playground.db import RunStore
from playground.evaluation.checks import parse_check
from playground.evaluation.verdict import Answered, SideFacts, conclude
from playground.runs.progress import RunView
from playground.services import Services, build_services
from playground.training.checkpoint import mark_complete
from playground.verdict.files import DONE, row_of
from tests.engine.conftest import make_lora
from tests.services.forked import ForkedGPU
from tests.ui.fakes import EVIL

__all__ = ["make_lora"]
CHECK = "ends-with:END"
SIDES = ("Zarquon", "Slartibart", "Magrathea")
"""Names that stand in no reply."""
T = TypeVar("T")


@dataclass
class Clock:
    """Stands still until a test sets it on."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FixedDevice:
    total_bytes: int = 16 * 10**9
    free_bytes: int = 16 * 10**9
    name: str = "fixed"


@pytest.fixture
def services(settings):
    built = build_services(settings)
    built.training.start_supervisor()
    yield built
    stop_runs(built)
    built.close()


@pytest.fixture
def forks():
    return ForkedGPU(replies=False)


@pytest.fixture
def forking(settings, forks):
    """Its runs are forks of this process, which has imported already what takes a worker seconds."""
    built = build_services(replace(settings, zero_seconds=100_000), zero=forks)
    built.training.start_supervisor()
    yield built
    stop_runs(built)
    built.close()


def stop_runs(services: Services) -> None:
    """Cancel what has not ended, and wait for its workers."""
    for view in services.training.runs():
        if view.state in ("QUEUED", "RUNNING"):
            services.training.cancel(view.run)
    until = time.monotonic() + 15
    while any(view.state == "STOPPING" for view in services.training.runs()) and time.monotonic() < until:
        time.sleep(0.05)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can be written while it is entered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def rows_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}, gladly."}) for n in range(24))
    )
    return file


@pytest.fixture
def until():
    """Poll a run until something holds, or fail after three minutes."""

    def wait(look: Callable[[], RunView], holds: Callable[[RunView], bool]) -> RunView:
        end = time.monotonic() + 180
        while not holds(view := look()):
            assert time.monotonic() < end, view
            time.sleep(0.05)
        return view

    return wait


def add(store: RunStore, run: str, **more: Any) -> None:
    """Record a run that waits."""
    values = {"owner": "ann", "name": run, "method": "lora", "state": "QUEUED", "created_s": 1.0, "steps": 5}
    store.add(**{"run": run, "needs_bytes": 1} | values | more)


def put_checkpoint(run_dir: Path, step: int) -> None:
    """A complete one, in a run's folder."""
    folder = run_dir / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("x")
    mark_complete(folder)


def last(found: Iterable[T]) -> T:
    *_, end = found
    return end


def whole_model(services: Services, base: Path, noise: float = 0.0) -> str:
    """A full fine-tune in the library: the base's weights, moved by ``noise``."""
    folder = Path(shutil.copytree(base, services.settings.adapters_dir / "whole"))
    if noise:
        torch.manual_seed(0)
        weights = folder / "model.safetensors"
        moved = {name: one + noise * torch.randn_like(one) for name, one in load_file(weights).items()}
        save_file(moved, weights, {"format": "pt"})
    return folder.name


class Server(ThreadingHTTPServer):
    """Answers every request by ``say``: (path, body) -> (status, bytes or a value that becomes JSON). asked: (path,
    authorization, body) of each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, bytes]] = []
        self.say: Callable[[str, bytes], tuple[int, Any]] = lambda path, body: (200, {})
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, self.headers.get("Authorization", ""), body))
        status, said = self.server.say(self.path, body)
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server():
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


def put_verdict(services: Services, owner: str = "local", examples: int = 6) -> str:
    """Zarquon is right always, Slartibart on even rows, Magrathea never; to the first row the last two answer alike."""

    def reply(side: str, n: int) -> str:
        if n == 1 and side != SIDES[0]:
            return "alike"
        right = side == SIDES[0] or (side == SIDES[1] and n % 2 == 0)
        return f"{dict(zip(SIDES, 'xyz', strict=True))[side]}{n} {EVIL}{' END' if right else ''}"

    numbers = range(1, examples + 1)
    answers = {
        side: [Answered(n, side, f"question {n}", "p", reply(side, n), f"{n} END", 10, 5, None, {}) for n in numbers]
        for side in SIDES
    }
    judged = conclude(answers, [SideFacts(side, "prompt") for side in SIDES], [parse_check(CHECK)])
    files = services.verdicts.files
    state = files.new(owner, "ward", {}, 1.7e9)
    rows = [row_of(answer, judged.measured[side]) for side, said in answers.items() for answer in said]
    files.save(state.id, judged.record | {"id": state.id}, rows, [])
    files.put(replace(state, state=DONE))
    return state.id


def vote_all(services: Services, id: str, owner: str = "local") -> int:
    """Vote by the check, and say how often one was asked."""
    asked = 0
    while (ballot := services.voting.next(id, owner)) is not None:
        left, right = ballot.left.endswith("END"), ballot.right.endswith("END")
        services.voting.vote(id, ballot.number, "tie" if left == right else "left" if left else "right", owner)
        asked += 1
    return asked
