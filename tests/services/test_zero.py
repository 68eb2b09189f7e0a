"""Replies and runs through a wrapper that forks and pickles as ZeroGPU does, and through the package's own."""

import contextvars
import json
import os
import pickle
from dataclasses import replace

import pytest

from playground.chat.batching import Asked
from playground.chat.compare import Side
from playground.db import ENDED
from playground.engine.request import ROWS_MAX, Sampling
from playground.gpu import device
from playground.runs.runner import ZeroRunner, decode, train
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.settings import PROJECT_ROOT
from playground.training.processes import is_alive
from tests.refused import refused
from tests.services.conftest import last, supervised
from tests.services.forked import ForkedGPU
from tests.soak.torture import wait_state
from tests.waiting import wait_for

SHORT = Sampling(max_tokens=8)
gpu = pytest.fixture(lambda: ForkedGPU())
request_ = pytest.fixture(lambda rows_file: TrainRequest(rows_file, "forked", steps=3, batch_size=4))


@pytest.fixture
def lent(settings, gpu):
    with supervised(settings, zero=gpu) as built:
        yield built
        assert built.manager.leases() == [], "every test gives back what it was lent"


def test_replies_are_those_of_this_process(lent, gpu, make_lora):
    adapter = lent.adapters.import_file(make_lora(5)).id
    sides = [Side("base"), Side(adapter), Side(adapter, name="held to a form", format="json")]
    here = last(build_services(lent.settings).compare.ask(sides, [[], [], []], "Hello", SHORT))
    forked = last(lent.compare.ask(sides, [[], [], []], "Hello", SHORT))
    assert [reply.error for reply in forked] == ["", "", ""]
    assert len(gpu.pids) == 1, "one fork for the whole batch"
    assert [reply.text for reply in forked] == [reply.text for reply in here]
    assert forked[0].text != forked[1].text
    assert gpu.durations == [30], "asked for: a start, and eight tokens"
    assert lent.batches.together == ROWS_MAX, "who has many asks for no more than that at a time"
    asked = [Asked(None, f"Hello {n}", Sampling(max_tokens=150)) for n in range(ROWS_MAX + 4)]
    written = last(lent.batches.run(asked, "many"))
    assert all(one.state.finish for one in written)
    assert gpu.durations == [30, 50], "more than are written at once: a start, and twice 150 tokens"


def test_closing_stops_the_fork_between_yields_and_an_error_keeps_its_words_across_it(lent, gpu):
    replies = lent.compare.ask([Side("base")], [[]], "Hello", Sampling(max_tokens=600))
    while not next(replies)[0].completion_tokens:
        pass
    replies.close()
    assert not is_alive(gpu.pids[0], None)
    reply = last(lent.compare.ask([Side("base")], [[]], "Hello " * 1500, SHORT))[0]
    assert "this base holds 1024" in reply.error
    gpu.refuse = True
    reply = last(lent.compare.ask([Side("base")], [[]], "Hello", SHORT))[0]
    assert reply.error.startswith("ZeroGPU lent no device: ZeroGPU quota exceeded: You have exceeded your free")


def test_three_steps_of_training(lent, gpu, request_):
    run = lent.training.start(request_)
    view = wait_state(lent, run, *ENDED)
    assert (view.state, view.adapter, [step for step, _ in view.loss]) == ("DONE", "forked", [1, 2, 3])
    assert [row.card.id for row in lent.adapters.list() if not row.card.shipped] == ["forked"]
    started = json.loads((lent.settings.runs_dir / run / "events.jsonl").read_text().splitlines()[0])
    assert started["pid"] == gpu.pids[0] != os.getpid()
    assert 30 <= gpu.durations[0] <= 120


@pytest.mark.parametrize("how", ["refuse", "die"])
def test_a_run_that_gets_no_device_says_so(lent, gpu, request_, how):
    setattr(gpu, how, True)
    view = wait_state(lent, lent.training.start(request_), *ENDED)
    assert (view.state, "ZeroGPU lent no device" in view.error) == ("FAILED", True)


def test_what_takes_longer_than_is_lent_is_refused(settings, gpu, request_):
    services = build_services(replace(settings, zero_seconds=60), zero=gpu)
    request = replace(request_, steps=50_000, batch_size=8)
    assert "lends its device for 60 s at a time. Choose fewer steps" in services.training.plan(request).blocked
    refused("on a machine of your own", services.training.start, request)
    assert services.training.plan(replace(request, steps=20)).blocked == ""


def test_spaces_is_imported_only_where_it_is_wanted_and_its_decorator_does_nothing_elsewhere(settings):
    for file in (PROJECT_ROOT / "playground").rglob("*.py"):
        if "import spaces" in file.read_text():
            assert file.name == "device.py"
    assert "spaces" not in (PROJECT_ROOT / "requirements.txt").read_text()
    assert pickle.loads(pickle.dumps((decode, train))) == (decode, train), "what crosses its fork"
    spaces = pytest.importorskip("spaces")
    services = build_services(settings, zero=spaces.GPU)
    here = last(build_services(settings).compare.ask([Side("base")], [[]], "Hello", SHORT))
    assert last(services.compare.ask([Side("base")], [[]], "Hello", SHORT))[0].text == here[0].text
    services.close()


def in_a_fork(call):
    """What a call answers there, as a number."""
    if not (pid := os.fork()):
        os._exit(int(call()))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_zero_is_told_by_the_environment_and_this_process_stays_on_the_cpu(monkeypatch):
    assert not device.is_zero({})
    assert not device.is_zero({"SPACES_ZERO_GPU": "0"})
    assert device.is_zero({"SPACES_ZERO_GPU": "true"})
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert device.prepare() is None

    def process():
        before = device.without_device()
        device.stay_on_cpu()
        return (before, device.without_device(), in_a_fork(device.without_device)) == (False, True, 0)

    assert in_a_fork(process) == 1, "before, of the process itself, of a fork of it"


def test_a_visitors_own_time_is_used_for_a_run_that_starts_later_and_its_length_is_capped(tmp_path):
    who = contextvars.ContextVar("who", default="nobody")
    heard = []

    def lends(*, duration):
        return lambda task: lambda *job: heard.append((who.get(), duration(*job)))

    runner = ZeroRunner(lends, 90)
    who.set("anna")
    runner.remember("anna")
    who.set("somebody else")
    names = ("name", "method", "base", "base_path", "base_fingerprint", "file", "data", "adapters_dir", "shipped_dir")
    record = dict.fromkeys(names, "x") | {"steps": 3, "lr": 0.1, "rank": 4}
    for owner, seconds in (("anna", 0.0), ("ben", 20.0), ("ben", 1e6)):
        folder = tmp_path / f"{owner} {seconds}"
        folder.mkdir()
        run = {"run": folder.name, "owner": owner, "estimated_seconds": seconds}
        (folder / "run.json").write_text(json.dumps(record | run))
        number, began = runner.start_worker(folder, tmp_path / "db", 1)
        wait_for(lambda: not runner.is_alive(number, began), "over", 30.0)  # noqa: B023 (called at once)
    assert heard == [("anna", 30), ("nobody", 50), ("nobody", 90)]
