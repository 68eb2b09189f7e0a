import contextlib
import json
import re
import resource
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from playground.chat.compare import Side
from playground.evaluation.checks import parse_check
from playground.evaluation.forgetting import material
from playground.evaluation.verdict import Answered, SideFacts, conclude
from playground.services import build_services
from playground.settings import Settings
from playground.training.run_files import EventWriter, mark_complete
from playground.verdict.files import DONE, row_of
from playground.verdict.request import VerdictRequest
from playground.verdict.service import VerdictService
from tests.api.conftest import on_a_port
from tests.engine.conftest import make_lora
from tests.gpu.conftest import Clock, FixedDevice
from tests.services.forked import ForkedGPU
from tests.ui.fakes import EVIL
from tests.waiting import wait_for

__all__ = ["Clock", "FixedDevice", "make_lora"]
CHECK = "ends-with:END"
SIDES = ("Zarquon", "Slartibart", "Magrathea")
"""Names that stand in no reply."""
T = TypeVar("T")
forks = pytest.fixture(lambda: ForkedGPU(replies=False))
rows_file = pytest.fixture(lambda tmp_path: put_rows(tmp_path / "rows.jsonl"))


def little_to_remember():
    """The whole text takes half a minute."""
    return replace(material(), texts=material().texts[:2], questions=material().questions[:2])


@dataclass
class Workers:
    """Starts nothing; the test says who lives, and writes what a worker would. Known by the number of the start."""

    settings: Settings
    clock: Clock = field(default_factory=Clock)
    alive: set[int] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    deaf: bool = False
    fault: Exception | None = None
    tokens_per_s: float | None = None

    def refused(self, seconds):
        return ""

    def start_worker(self, run_dir, database, attempt):
        if self.fault is not None:
            raise self.fault
        self.started.append(run_dir.name)
        self.alive.add(len(self.started))
        return len(self.started), 1.0

    def is_alive(self, pid, start):
        return pid in self.alive

    def stop(self, pid, *, hard):
        if hard or not self.deaf:
            self.alive.discard(pid)

    def activity(self, pid):
        return 0.0, False

    def writes(self, *events, run="r1"):
        writer = EventWriter(self.settings.runs_dir / run)
        for kind, values in events:
            writer.write(kind, **values)
        writer.close()

    def ends(self, run, attempt, kind="done", **values):
        self.writes((kind, {"attempt": attempt, "adapter": run, "steps": 5} | values), run=run)
        self.alive.clear()


@contextlib.contextmanager
def supervised(settings, **parts):
    """The services of a home and who starts its runs; in the end what has not ended is cancelled and waited for."""
    services = build_services(settings, **parts)
    services.training.start_supervisor()
    try:
        yield services
    finally:
        for view in services.training.runs():
            if view.state in ("QUEUED", "RUNNING"):
                services.training.cancel(view.run)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all(view.state != "STOPPING" for view in services.training.runs()), within_s=15)
        services.close()


@pytest.fixture
def services(settings):
    with supervised(settings) as built:
        yield built


@pytest.fixture
def forking(settings, forks):
    """Its runs are forks of this process, which has imported already what takes a worker seconds."""
    with supervised(replace(settings, zero_seconds=100_000), zero=forks) as built:
        yield built


@pytest.fixture
def shared(settings):
    """A shared app. Nobody starts what is queued."""
    with contextlib.closing(build_services(replace(settings, shared=True))) as built:
        yield built


@contextlib.contextmanager
def full_disk():
    """No file of this process can be written while it is entered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def put_rows(file, count=24, words=1):
    """A file of so many rows, whose answers say gladly so often."""
    answer = " gladly" * words
    rows = [{"prompt": f"Say {n}", "completion": f"Number {n},{answer}."} for n in range(count)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def asked(rows_file):
    """Base and base with a prompt on twelve short rows."""
    sides = (Side("base", name="Base"), Side("base", "Be glad.", name="Base + prompt"))
    return VerdictRequest(rows_file, sides, ("contains:gladly",), limit=12, max_tokens=5, forgetting=False)


def add(store, run, **more):
    """Record a run that waits."""
    values = {"owner": "ann", "name": run, "method": "lora", "state": "QUEUED", "created_s": 1.0, "steps": 5}
    store.add(**{"run": run, "needs_bytes": 1} | values | more)


def put_checkpoint(run_dir, step):
    """A complete one, in a run's folder."""
    folder = run_dir / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("x")
    mark_complete(folder)


def last(found):
    *_, end = found
    return end


def whole_model(services, base, noise=0.0):
    """A full fine-tune in the library: the base's weights, moved by ``noise``."""
    folder = Path(shutil.copytree(base, services.settings.adapters_dir / "whole"))
    if noise:
        torch.manual_seed(0)
        weights = folder / "model.safetensors"
        moved = {name: one + noise * torch.randn_like(one) for name, one in load_file(weights).items()}
        save_file(moved, weights, {"format": "pt"})
    return folder.name


def verdicts_by(services, answering, batches, **clocks):
    """The service of verdicts, with answering, batches and clocks of a test's own."""
    there = (services.bases, services.data, services.adapters)
    asker = answering(*there, batches, services.scoring)
    return VerdictService(
        services.settings, *there, asker, services.forgetting, services.quota, services.jobs, **clocks
    )


def streamed(*deltas, **last):
    """A chat completion of these deltas, each with its reason to end; last: of the chunk after them."""
    about = {"id": "x", "object": "chat.completion.chunk", "model": "deep-2"}
    said = [{"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas]
    said += [{"choices": [], **last}] if last else []
    return "".join(f"data: {json.dumps(about | one)}\n\n" for one in said).encode() + b"data: [DONE]\n\n"


def reply(text, finish="stop", **usage):
    """As a server streams it, a word a piece. usage: its prompt_tokens, completion_tokens, cached_tokens."""
    said = [*(({"content": word}, None) for word in re.findall(r"\S+\s*", text)), *([({}, finish)] if finish else [])]
    if usage:
        counted = {name: usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        details = {"prompt_tokens_details": {"cached_tokens": usage.get("cached_tokens", 0)}}
        return streamed(*said, usage={**counted, **details})
    return streamed(*said)


@pytest.fixture
def server():
    """``say``: (path, body) -> (status, bytes or JSON). asked: (path, authorization, body) each; headers: the last."""
    made = SimpleNamespace(asked=[], headers={}, say=lambda path, body: (200, {}))

    async def answer(request):
        path, body = request.url.path, await request.body()
        made.asked.append((path, request.headers.get("authorization", ""), body))
        made.headers = dict(request.headers)
        status, said = await run_in_threadpool(lambda: made.say(path, body))
        headers = {"retry-after-ms": "1"} | ({"location": f"{made.url}/elsewhere"} if 300 <= status < 400 else {})
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        return Response(data, status, headers, "application/json")

    with on_a_port(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])) as made.url:
        yield made


def put_verdict(services, owner="local", examples=6):
    """Zarquon is right always, Slartibart on even rows, Magrathea never; to the first row the last two answer alike."""

    def reply(side, n):
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


def vote_all(services, id, owner="local"):
    """Vote by the check, and say how often one was asked."""
    asked = 0
    while (ballot := services.voting.next(id, owner)) is not None:
        left, right = ballot.left.endswith("END"), ballot.right.endswith("END")
        services.voting.vote(id, ballot.number, "tie" if left == right else "left" if left else "right", owner)
        asked += 1
    return asked
