"""The order of runs is the order of the device, whatever is moved, with the real session manager."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from playground.db import RunRow
from playground.gpu.manager import SESSION_LIMIT, DeviceManager
from playground.runs.supervisor import RunQueue


@dataclass
class Device:
    name: str = "test"
    total_bytes: int = 100
    free_bytes: int = 100


def row(run: str, needs: int = 10, owner: str = "ann") -> RunRow:
    return RunRow(run, owner, run, "lora", "QUEUED", 0.0, 1.0, 0, 10, None, None, None, None, None, 0, needs, {})


def rows(names: str, **more: int) -> list[RunRow]:
    return [row(name, **more) for name in names]


@pytest.fixture
def manager() -> DeviceManager:
    return DeviceManager(Device(), 100)


def served(manager: DeviceManager, queue: RunQueue, order: list[RunRow]) -> str:
    """Who is served, one after another, when the device comes free."""
    names = ""
    while True:
        here = [(one.run, lease) for one in order if (lease := queue.granted(one.run)) is not None]
        if not here:
            return names
        assert len(here) == 1
        names += here[0][0]
        here[0][1].close()
        order = [one for one in order if one.run != here[0][0]]
        queue.ask(order)


def test_in_order(manager: DeviceManager) -> None:
    queue = RunQueue(manager)
    queue.ask(rows("abc"))
    assert [queue.place(name) for name in "abc"] == [0, 1, 2]
    assert served(manager, queue, rows("abc")) == "abc"
    assert manager.leases() == []


def test_a_new_order_is_honoured(manager: DeviceManager) -> None:
    busy = manager.adopt("train", "ann", "before", 10)
    queue = RunQueue(manager)
    queue.ask(rows("abcd"))
    queue.ask(rows("cadb"))
    assert [queue.place(name) for name in "cadb"] == [1, 2, 3, 4]
    busy.close()
    assert served(manager, queue, rows("cadb")) == "cadb"
    assert manager.queue() == []


def test_while_the_order_changes_nobody_who_comes_later_is_served(manager: DeviceManager) -> None:
    """``a`` is too large for now and holds the others back; withdrawing it must not let ``b`` through ahead of ``c``."""
    busy = manager.adopt("chat", "ann", "before", 50)
    queue = RunQueue(manager)
    a, b, c = row("a", 90), row("b", 20), row("c", 90)
    queue.ask([a, b, c])
    queue.ask([c, a, b])
    assert manager.leases() == [busy]
    busy.close()
    assert queue.granted("c") is not None


def test_who_is_not_in_the_order_any_more_gives_everything_back(manager: DeviceManager) -> None:
    queue = RunQueue(manager)
    queue.ask(rows("ab"))
    assert len(manager.leases()) == 1
    queue.ask(rows("b"))
    assert queue.granted("b") is not None
    queue.ask([])
    assert manager.queue() == []


def test_more_than_the_device_lets_wait_keep_their_places(manager: DeviceManager) -> None:
    busy = manager.adopt("train", "ann", "before", 10)
    queue = RunQueue(manager)
    names = "abcdefghijkl"
    assert len(names) > SESSION_LIMIT
    queue.ask(rows(names))
    queue.ask(rows(names[::-1]))
    busy.close()
    assert served(manager, queue, rows(names[::-1])) == names[::-1]


def test_what_can_never_fit_is_refused_in_words(manager: DeviceManager) -> None:
    queue = RunQueue(manager)
    ((run, error),) = queue.ask([row("a"), row("b", 500)]).items()
    assert run == "b"
    assert "budget" in str(error)
