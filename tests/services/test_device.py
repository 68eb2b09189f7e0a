"""Around the device: memory runs out, somebody leaves, everyone asks at once. The long form is in tests/soak."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from playground.chat.compare import Side
from playground.data.example import Message
from playground.engine.request import TOGETHER, Sampling
from playground.errors import BusyError, OutOfMemoryError
from playground.evaluation.forgetting import material
from playground.gpu import manager as managing
from playground.gpu.device import CpuDevice, usable_cores
from playground.gpu.manager import DeviceManager, Lanes, retried
from playground.gpu.policy import threads_of
from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.verdict.losses import ToScore
from tests.refused import refused
from tests.services.conftest import FixedDevice, last, whole_model
from tests.soak import torture
from tests.waiting import wait_for

card = pytest.fixture(lambda services, make_lora: services.adapters.import_file(make_lora(3)))


def ask(services, session="a", side="base", tokens=6):
    """One reply to its end; an error is raised."""
    (reply,) = last(services.compare.ask([Side(side)], [[]], "Hello", Sampling(max_tokens=tokens), session=session))
    assert not reply.error, reply.error
    return reply.text


def test_a_run_takes_the_place_of_an_idle_base_and_the_base_comes_back(settings, rows_file):
    services = build_services(settings, device=FixedDevice())
    request = TrainRequest(rows_file, "big", steps=2000, batch_size=4)
    name, size = services.bases.resident()
    services.manager.budget_bytes = services.training.plan(request).memory_bytes + size // 2
    services.training.start_supervisor()
    before = ask(services)
    assert [one.name for one in services.manager.residents()] == [name]
    run = services.training.start(request)
    wait_for(lambda: not services.manager.residents(), "without the idle base", 30.0)
    assert services.bases.loaded is None
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, services)
        wait_for(services.manager.queue, "waiting for the run to end", 30.0)
        services.training.cancel(run)
        assert answer.result(60) == before, "it came back by itself, and says the same"
    services.close()


def test_everyone_at_once_is_answered_or_refused_and_who_leaves_in_mid_stream_gives_all_back(services, make_lora):
    def one(number):
        sampling = Sampling(max_tokens=2)
        (reply,) = last(services.compare.ask([Side("base")], [[]], "Hello", sampling, session=str(number)))
        return "refused" if "waiting already" in reply.error else "answered" if reply.done else "lost"

    ask(services)
    with ThreadPoolExecutor(4 * 36) as pool:
        outcomes = list(pool.map(one, range(4 * 36), timeout=120))
    assert set(outcomes) <= {"answered", "refused"}
    assert outcomes.count("answered") >= 36
    assert services.manager.leases() == services.manager.queue() == []
    torture.gone_away(services, 5)
    torture.swap_storm(services, make_lora, 3)


class Short:
    """An engine whose memory runs out ``faults`` times, after a few tokens."""

    def __init__(self, real, faults):
        self._real, self._faults = real, faults

    def __getattr__(self, name):
        return getattr(self._real, name)

    def stream(self, rows):
        stream = self._real.stream(rows)
        for states in stream:
            if self._faults and states[0].completion_tokens >= 2:
                self._faults -= 1
                stream.close()
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
            yield states


def test_memory_that_runs_out_while_writing(services):
    expected, engine = ask(services, tokens=8), services.bases.engine()
    services.bases.loaded = Short(engine, 1)
    assert ask(services, tokens=8) == expected, "tried once more, from the start"
    services.bases.loaded = Short(engine, 2)
    sides = [Side("base"), Side("base", "Be brief.")]
    replies = last(services.compare.ask(sides, [[], []], "Hello", Sampling(max_tokens=8)))
    assert "Ask one side at a time, or set the longest reply to 4 tokens" in replies[0].error
    assert services.manager.leases() == []
    assert ask(services, tokens=4)


def test_memory_that_runs_out_while_loading_is_freed_once_and_one_session_cannot_fill_the_queue():
    """Unloads run in threads of their own; a second try beside them would find the memory still taken."""
    manager, unloaded = DeviceManager(FixedDevice(), 10**9), threading.Event()
    manager.set_resident("idle", 5, unloaded.set)
    there = []

    def load(fail, error=MemoryError):
        there.append([one.name for one in manager.residents()])
        if len(there) <= fail:
            raise error("other")
        return "loaded"

    assert retried(lambda: load(1), manager, "No room") == "loaded"
    assert unloaded.is_set()
    assert there == [["idle"], []]
    there.clear()
    advice = r"No room\. Choose a smaller base"
    refused(advice, retried, lambda: load(9), manager, "No room", error=OutOfMemoryError)
    refused("other", retried, lambda: load(9, ValueError), manager, "x", error=ValueError)
    manager = DeviceManager(FixedDevice(), 10**9)
    greedy = ("chat", "greedy", "Answering", 1)
    for _ in range(12):
        manager.request(*greedy)
    refused("8 of your requests are waiting already", manager.request, *greedy, error=BusyError)
    assert manager.request("chat", "other", "Answering", 1).position == 1, "before the greedy one's second"


ALL = usable_cores()
CHAT, RUN = threads_of("chat", ALL, {"train"}), threads_of("train", ALL, {"chat"})


@pytest.fixture
def one_thread_a_core(settings):
    """As if torch by itself used all of them; elsewhere the tests may be told to use one."""
    settings.home.mkdir()
    own = torch.get_num_threads()
    torch.set_num_threads(ALL)
    managing.own_threads.cache_clear()
    yield
    torch.set_num_threads(own)
    managing.own_threads.cache_clear()


def threads_while_answering(services):
    """(threads of the engine's computing thread, what a run may use) while a reply is written."""
    compute, run = services.bases.engine().worker, Lanes(services.settings.home)
    found = []
    for _ in services.compare.ask([Side("base")], [[]], "Hello", Sampling(max_tokens=6)):
        if services.manager.leases():
            found.append((compute.run(torch.get_num_threads), run.threads("train")))
    return found[-1]


@pytest.mark.parametrize(
    ("device", "trains", "expected"),
    [
        (CpuDevice(), True, (CHAT, RUN)),
        pytest.param(CpuDevice(), False, (ALL, RUN), id="a run that comes is told"),
        pytest.param(FixedDevice(), True, (ALL, ALL), id="on another device nothing is shared out"),
    ],
)
def test_chat_and_a_run_share_the_cores_while_both_compute(settings, one_thread_a_core, device, trains, expected):
    run = Lanes(settings.home)
    if trains:
        run.enter("train")
    assert threads_while_answering(build_services(settings, device=device)) == expected


@pytest.fixture
def whole(services, tiny_base):
    """A full fine-tune that is the base itself."""
    return services.adapters.get(whole_model(services, tiny_base))


def test_rows_of_base_adapter_and_full_model_wait_their_turn_can_be_stopped_and_free_the_device(services, card, whole):
    prompt, answer = services.scoring.rendered([Message("user", "Say 3")], "Three, gladly.")
    assert "named SmolLM" in prompt
    assert answer == "Three, gladly.<|im_end|>"
    asked = [ToScore(one, prompt, answer, divergence=True) for one in (None, card, whole)]
    found = last(services.scoring.run(asked, "me"))
    base, tuned, full = found.scores
    assert found.done == 3
    assert base.divergence is full.divergence is None, "two models are never in memory for it"
    assert tuned.base_loss == pytest.approx(base.loss, abs=1e-5)
    assert tuned.divergence > 0
    assert tuned.loss != pytest.approx(base.loss, abs=1e-3)
    assert (full.loss, full.base_loss) == pytest.approx((base.loss, base.loss), abs=1e-4)
    assert services.manager.leases() == []
    other = services.manager.request("measure", "other", "Answering", 0)
    run = services.scoring.run([ToScore(card, "One, ", f"two, {n}") for n in range(3 * TOGETHER)], "me")
    assert [next(run).waiting[:11] for _ in range(2)] == ["", "1st in line"]
    other.cancel()
    while next(run).done < TOGETHER:
        pass
    assert len(services.manager.leases()) == 1
    run.close()
    assert services.manager.leases() == []
    refused("nothing to score", list, services.scoring.run([ToScore(None, "", "")], "me"))
    assert services.manager.leases() == []


def test_what_was_forgotten_is_measured_for_several_at_once(services, card, whole):
    few = replace(material(), texts=material().texts[:3], questions=material().questions[:9])
    services.forgetting.material = lambda: few
    steps = list(services.forgetting.measure([card, whole]))
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].of == 2 * 3 + 3 * 9, "the base is asked too"
    lora, same = steps[-1].found
    assert lora.loss_before == pytest.approx(same.loss_before, abs=1e-4)
    assert lora.loss_after != pytest.approx(lora.loss_before, abs=1e-3)
    assert lora.divergence > 0
    assert same.loss_after == pytest.approx(same.loss_before, abs=1e-4)
    assert same.right_before == same.right_after
    assert (same.divergence, "model of its own" in same.no_divergence) == (None, True)
    again = last(services.forgetting.measure([card]))
    assert again.of == 3 + 9, "the base's answers are known by now"
    assert again.found[0] == lora
