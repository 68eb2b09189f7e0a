from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from playground.errors import BusyError, CancelledError, OutOfMemoryError
from playground.gpu.manager import QUEUE_LIMIT, DeviceManager, Lease
from playground.gpu.policy import CAPACITY

GB = 10**9


@dataclass
class FakeDevice:
    name: str = "fake"
    total_bytes: int = 16 * GB
    free_bytes: int = 12 * GB


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def manager(clock: FakeClock) -> DeviceManager:
    return DeviceManager(FakeDevice(), 10 * GB, clock)


def fill_chat(manager: DeviceManager) -> list[Lease]:
    """Take all but one of the chat lane's leases."""
    return [granted(manager, session=f"filler{number}") for number in range(CAPACITY["chat"] - 1)]


def granted(manager: DeviceManager, lane: str = "chat", session: str = "a", needs: int = 1) -> Lease:
    lease = manager.request(lane, session, "Answering", needs).wait(0)
    assert lease is not None
    return lease


def test_the_budget_is_what_is_free_less_a_reserve() -> None:
    assert DeviceManager(FakeDevice()).budget_bytes == int(12 * GB - 1.6 * GB)


def test_a_second_request_waits_with_its_place_and_is_granted_when_the_first_closes(manager: DeviceManager) -> None:
    fill_chat(manager)
    with granted(manager):
        second = manager.request("chat", "b", "Answering", 1)
        third = manager.request("chat", "c", "Answering", 1)
        assert second.wait(0) is None
        assert (second.position, third.position) == (1, 2)
    assert second.wait(0) is not None
    assert third.position == 1


def test_the_wait_is_estimated_from_what_runs(manager: DeviceManager, clock: FakeClock) -> None:
    fill_chat(manager)
    with granted(manager):
        clock.now += 4
        second = manager.request("chat", "b", "Answering", 1)
        assert second.wait_s == pytest.approx(2.0)


def test_a_lease_is_released_on_an_exception_and_closing_twice_is_harmless(manager: DeviceManager) -> None:
    lease = granted(manager)
    with pytest.raises(RuntimeError), lease:
        raise RuntimeError
    lease.close()
    assert manager.leases() == []
    assert manager.used_bytes == 0


def test_cancelling_leaves_the_queue(manager: DeviceManager) -> None:
    fill_chat(manager)
    with granted(manager):
        second = manager.request("chat", "b", "Answering", 1)
        second.cancel()
        assert manager.queue() == []
        with pytest.raises(CancelledError):
            second.wait(0)


def test_training_runs_beside_chat_when_both_fit_and_waits_when_not(manager: DeviceManager) -> None:
    manager.set_resident("base", 2 * GB)
    with granted(manager, "train", needs=5 * GB):
        assert manager.request("chat", "b", "Answering", GB).wait(0) is not None
    big = manager.request("train", "a", "Training", 8 * GB)
    assert big.wait(0) is None, "the open chat lease leaves 7 GB"


def test_what_can_never_fit_is_refused_at_once(manager: DeviceManager) -> None:
    with pytest.raises(OutOfMemoryError, match=r"needs 11\.0 GB"):
        manager.request("train", "a", "Training", 11 * GB)


def test_past_the_bound_the_next_is_refused_politely(manager: DeviceManager) -> None:
    fill_chat(manager)
    with granted(manager):
        for number in range(QUEUE_LIMIT):
            manager.request("chat", str(number), "Answering", 1)
        with pytest.raises(BusyError, match="waiting already"):
            manager.request("chat", "late", "Answering", 1)


def test_an_adopted_worker_holds_its_bytes(manager: DeviceManager) -> None:
    lease = manager.adopt("train", "a", "Training", 3 * GB)
    assert manager.used_bytes == 3 * GB
    assert manager.request("train", "b", "Training", GB).wait(0) is None
    lease.close()
    assert manager.used_bytes == GB


def test_a_run_asked_for_while_the_base_loads_is_not_refused(manager: DeviceManager) -> None:
    """The base may leave once it is there: only what cannot leave counts against a run."""
    loading = manager.request("chat", "a", "Loading", 0, (("base", 4 * GB),))
    run = manager.request("train", "b", "Training", 8 * GB)
    assert run.wait(0) is None
    manager.set_resident("base", 4 * GB, lambda: None)
    loading.cancel()
    assert run.wait(30) is not None
    with pytest.raises(OutOfMemoryError, match=r"10\.0 GB"):
        manager.request("chat", "c", "Answering", 7 * GB, (("base", 4 * GB),))


def test_what_cannot_leave_counts_against_a_run(manager: DeviceManager) -> None:
    manager.set_resident("fixed", 4 * GB)
    with pytest.raises(OutOfMemoryError, match=r"6\.0 GB of the 10\.0 GB budget"):
        manager.request("train", "b", "Training", 8 * GB)


def test_unloading_what_idles_returns_when_it_has_gone(clock: FakeClock) -> None:
    unloads: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    manager = DeviceManager(FakeDevice(), 10 * GB, clock, unloads.put)
    manager.set_resident("idle", GB, lambda: None)
    manager.set_resident("used", GB, lambda: None)
    found: list[object] = []

    def ask() -> None:
        found.append(manager.unload_idle())
        found.append([one.name for one in manager.residents()])

    with manager.request("chat", "a", "Answering", 1, (("used", GB),)).wait(0):  # type: ignore[union-attr]
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        unload = unloads.get(timeout=30)
        assert found == [], "it waits for the unload"
        unload()
        asking.join(30)
    assert found == [["idle"], ["used"]]


def test_unloading_is_not_waited_for_without_end(clock: FakeClock) -> None:
    manager = DeviceManager(FakeDevice(), 10 * GB, clock, lambda work: None)
    manager.set_resident("stuck", GB, lambda: None)
    assert manager.unload_idle(wait_s=0) == ["stuck"]
    assert manager.unload_idle(wait_s=0) == [], "it is leaving already"


class FakeLanes:
    def __init__(self) -> None:
        self.busy: set[str] = set()

    def enter(self, lane: str) -> None:
        self.busy.add(lane)

    def leave(self, lane: str) -> None:
        self.busy.discard(lane)


def test_chat_is_announced_from_its_first_lease_to_its_last(clock: FakeClock) -> None:
    lanes = FakeLanes()
    manager = DeviceManager(FakeDevice(), 10 * GB, clock, lanes=lanes)
    run = granted(manager, "train")
    assert lanes.busy == set(), "a run's worker speaks for itself: it may outlive this process"
    first, second = granted(manager, session="a"), granted(manager, session="b")
    assert lanes.busy == {"chat"}
    first.close()
    assert lanes.busy == {"chat"}
    second.close()
    assert lanes.busy == set()
    cancelled = manager.request("chat", "c", "Answering", 1)
    assert lanes.busy == {"chat"}
    cancelled.cancel()
    run.close()
    assert lanes.busy == set()
    measuring = granted(manager, "measure")
    assert lanes.busy == {"chat"}, "a verdict's batches decode in this process too"
    measuring.close()
    assert lanes.busy == set()
