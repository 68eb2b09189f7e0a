"""The owner of the device, by cases and under random events; clock and unloading are the test's own."""

import contextlib
import queue
import random
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from playground.errors import BusyError, CancelledError, OutOfMemoryError
from playground.gpu.manager import LINGER_S, QUEUE_LIMIT, DeviceManager, Lanes
from playground.gpu.policy import CAPACITY, PATIENCE, READY
from tests.refused import refused

from .conftest import Clock, FixedDevice

GB = 10**9
manager = pytest.fixture(lambda clock: DeviceManager(FixedDevice(), 10 * GB, clock))


def granted(manager, lane="chat", session="a", needs=1):
    return manager.request(lane, session, "Answering", needs).wait(0)


def test_requests_wait_with_their_place_and_an_estimate_until_a_lease_closes_or_they_leave(manager, clock):
    *_, last = [granted(manager, session=f"filler{number}") for number in range(CAPACITY["chat"])]
    with last:
        clock.now_s += 4
        second, third, fourth = (manager.request("chat", session, "Answering", 1) for session in "bcd")
        assert second.wait(0) is None
        assert (second.position, third.position, fourth.position) == (1, 2, 3)
        assert second.wait_s == pytest.approx(2.0)
        third.cancel()
        refused("", third.wait, 0, error=CancelledError)
    assert second.wait(0) is not None
    assert (manager.queue(), fourth.position) == ([fourth], 1)


def test_a_lease_is_released_on_an_exception_closing_twice_is_harmless_and_an_adopted_worker_holds_its_bytes(manager):
    lease = granted(manager)
    with pytest.raises(RuntimeError), lease:
        raise RuntimeError
    lease.close()
    assert (manager.leases(), manager.used_bytes) == ([], 0)
    adopted = manager.adopt("train", "a", "Training", 3 * GB)
    assert manager.used_bytes == 3 * GB
    assert manager.request("train", "b", "Training", GB).wait(0) is None
    adopted.close()
    assert manager.used_bytes == GB


def test_each_card_has_its_own_budget_and_runs_one_run_and_what_fits_one_of_them_is_taken(clock):
    large = FixedDevice(40 * GB, 40 * GB, "large")
    manager = DeviceManager(FixedDevice(12 * GB, 12 * GB), clock=clock, others=[FixedDevice(), large])
    assert [budget // GB for _, budget, _ in manager.cards()] == [10, 14, 36]
    assert manager.run_bytes == 36 * GB
    chat = granted(manager, needs=GB)
    leases = [granted(manager, "train", session, 30 * GB if session == "a" else 5 * GB) for session in "abcd"]
    assert [lease and lease.card for lease in leases] == [2, 1, 0, None]
    assert (chat.card, manager.used_bytes) == (0, 6 * GB)
    assert [used // GB for _, _, used in manager.cards()] == [6, 5, 30]
    refused("can be free at most", manager.request, "train", "a", "Training", 37 * GB, error=OutOfMemoryError)
    leases[1].close()
    assert [lease.card for lease in manager.leases() if lease.lane == "train"] == [2, 0, 1], "the fourth came next"
    manager.adopt("train", "a", "Training", GB, card=2)
    assert manager.used_bytes == 6 * GB


def test_what_can_never_fit_is_refused_at_once_and_what_cannot_leave_counts(manager):
    reserved = DeviceManager(FixedDevice(free_bytes=12 * GB))
    assert reserved.budget_bytes == int(12 * GB - 1.6 * GB), "what is free, less a reserve"
    refused(r"needs 11\.0 GB", manager.request, "train", "a", "Training", 11 * GB, error=OutOfMemoryError)
    manager.set_resident("fixed", 4 * GB)
    refused(r"6\.0 GB of the 10\.0 GB budget", manager.request, "train", "b", "Run", 8 * GB, error=OutOfMemoryError)


def test_a_run_asked_for_while_the_base_loads_is_not_refused(manager):
    """The base may leave once it is there: only what cannot leave counts against a run."""
    loading = manager.request("chat", "a", "Loading", 0, (("base", 4 * GB),))
    run = manager.request("train", "b", "Training", 8 * GB)
    assert run.wait(0) is None
    manager.set_resident("base", 4 * GB, lambda: None)
    loading.cancel()
    assert run.wait(30) is not None
    refused(r"10\.0 GB", manager.request, "chat", "c", "Answering", 7 * GB, (("base", 4 * GB),), error=OutOfMemoryError)


def test_unloading_what_idles_returns_when_it_has_gone_or_time_is_up(clock):
    unloads = queue.SimpleQueue()
    manager = DeviceManager(FixedDevice(), 10 * GB, clock, unloads.put)
    manager.set_resident("idle", GB, lambda: None)
    manager.set_resident("used", GB, lambda: None)
    lease = manager.request("chat", "a", "Answering", 1, (("used", GB),)).wait(0)
    with ThreadPoolExecutor(1) as pool, lease:
        asking = pool.submit(manager.unload_idle)
        unload = unloads.get(timeout=30)
        assert not asking.done(), "it waits for the unload"
        unload()
        assert (asking.result(30), [one.name for one in manager.residents()]) == (["idle"], ["used"])
    stuck = DeviceManager(FixedDevice(), 10 * GB, clock, lambda work: None)
    stuck.set_resident("stuck", GB, lambda: None)
    assert stuck.unload_idle(wait_s=0) == ["stuck"], "it is not waited for without end"
    assert stuck.unload_idle(wait_s=0) == [], "it is leaving already"


@pytest.mark.parametrize(("keep_alive_s", "left"), [(60, ["young"]), (0, [])])
def test_what_idles_past_its_keep_alive_leaves(clock, keep_alive_s, left):
    gone = []
    manager = DeviceManager(FixedDevice(), 10 * GB, clock, lambda work: work(), keep_alive_s)
    manager.set_resident("fixed", GB)
    for name in ("old", "young"):
        manager.set_resident(name, GB, lambda name=name: gone.append(name))
    with manager.request("chat", "a", "Answering", 1, (("old", GB),)).wait(0):
        clock.now_s += 50
    clock.now_s += 20
    manager.tick()
    assert gone == left


def test_chat_is_announced_from_its_first_lease_to_its_last(clock, tmp_path):
    manager = DeviceManager(FixedDevice(), 10 * GB, clock, lanes=Lanes(tmp_path, 4, clock))
    other = Lanes(tmp_path, 4, clock)

    def announced():
        clock.now_s += LINGER_S
        return other.threads("train") == 2

    run = granted(manager, "train")
    assert not announced(), "a run's worker speaks for itself: it may outlive this process"
    with granted(manager, session="a"):
        with granted(manager, session="b"):
            assert announced()
        assert announced()
    assert not announced()
    cancelled = manager.request("chat", "c", "Answering", 1)
    assert announced()
    cancelled.cancel()
    run.close()
    assert not announced()
    with granted(manager, "measure"):
        assert announced(), "a verdict's batches decode in this process too"
    assert not announced()


BUDGET = 100
SIZES = {"base": 30, "full-1": 40, "full-2": 55, "large": 70}


class World:
    """Never over budget, no model in use gone, nobody starves, nothing is held at the end."""

    def __init__(self):
        self.clock, self.unloading = Clock(), deque[Callable[[], None]]()
        self.manager = DeviceManager(FixedDevice(), BUDGET, self.clock, self.unloading.append, keep_alive_s=20)
        self.open = []
        self.passed = Counter()
        self.served = set()

    def ask(self, lane, session, needs, *residents):
        with contextlib.suppress(BusyError, OutOfMemoryError):
            wanted = tuple((name, SIZES[name]) for name in residents)
            self.open.append(self.manager.request(lane, session, "work", needs, wanted))
        self.settle()

    def settle(self):
        """Who was granted a lease loads a model; who waits counts who passed while only short work ran."""
        for request in self.open:
            for name in request.lease.residents if request.lease is not None else ():
                self.manager.set_resident(name, SIZES[name], lambda name=name: self.unload(name))
        fresh = {r.number for r in self.open if r.lease is not None} - self.served
        training = any(lease.lane == "train" for lease in self.manager.leases())
        self.served |= fresh
        for request in self.open:
            if request.lease is None:
                self.passed[request.number] = 0 if training else self.passed[request.number] + len(fresh)

    def unload(self, name):
        used = any(name in lease.residents for lease in self.manager.leases())
        assert not used, "a model in use was unloaded"

    def unloaded(self):
        self.unloading.popleft()()
        self.settle()

    def end(self, place):
        request = self.open.pop(place % len(self.open))
        request.cancel() if request.lease is None else request.lease.close()
        self.settle()

    def check(self):
        manager = self.manager
        assert manager.used_bytes <= BUDGET
        for lane, most in CAPACITY.items():
            assert sum(lease.lane == lane for lease in manager.leases()) <= most
        there = {one.name: one for one in manager.residents()}
        assert all(there[name].state == READY for lease in manager.leases() for name in lease.residents)
        waited = max((self.passed[r.number] for r in self.open if r.lease is None), default=0)
        assert waited <= PATIENCE + QUEUE_LIMIT + sum(CAPACITY.values()), f"a request was passed {waited} times"

    def finish(self):
        while self.open or self.unloading:
            running = [i for i, r in enumerate(self.open) if r.lease]
            assert running or self.unloading, f"{len(self.open)} wait and nothing runs: a deadlock"
            self.unloaded() if self.unloading else self.end(running[0])
        assert not self.manager.leases()
        assert not self.manager.queue()


@pytest.mark.parametrize(("seed", "events"), [*((seed, seed) for seed in range(1, 61)), (7, 10_000)])
def test_random_events(seed, events):
    """More asking than the device can serve, then the end of all that is open."""
    world, draw = World(), random.Random(seed)
    for _ in range(events):
        event = draw.random()
        if event < 0.45:
            resident = draw.choice(["base", "base", "full-1", "full-2", "large"])
            world.ask("chat", draw.choice("abcdefgh"), draw.randint(1, 30), resident)
        elif event < 0.5:
            world.ask("train", draw.choice("abc"), draw.randint(20, 100))
        elif event < 0.9 and world.open:
            running = [i for i, r in enumerate(world.open) if r.lease]
            world.end(draw.choice(running) if running and draw.random() < 0.9 else draw.randrange(len(world.open)))
        elif world.unloading:
            world.unloaded()
        else:
            world.clock.now_s += draw.random() * 30
            world.manager.tick()
        world.check()
    world.finish()


def test_an_unbroken_stream_of_replies_does_not_keep_a_run_out_for_ever():
    world = World()
    world.ask("chat", "a", 1, "base")
    world.ask("train", "t", 90)
    run, answered = world.open[1], 0
    assert run.lease is None
    while run.lease is None and answered < 100:
        world.ask("chat", "ab"[answered % 2], 1, "base")  # the next one asks before the last one ends
        world.end(0 if world.open[0] is not run else 1)
        answered += 1
        while world.unloading:
            world.unloaded()
    assert run.lease is not None
    assert answered <= PATIENCE + CAPACITY["chat"] + 1
    world.finish()
