"""What goes wrong around the device: memory runs out, somebody leaves in mid-stream, everyone asks at once, adapters
change hands.

CI runs short counts; tests/soak has the long ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from playground.chat.compare import Side
from playground.engine.request import AdapterFile, Row, RowState, Sampling
from playground.errors import BusyError, OutOfMemoryError
from playground.gpu.manager import DeviceManager
from playground.models.bases import retried
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.settings import Settings

SHORT = Sampling(max_tokens=6)
BOUND_S = 30.0


@dataclass
class FixedDevice:
    name: str = "fixed"
    total_bytes: int = 16 * 10**9
    free_bytes: int = 16 * 10**9


def ask(services: Services, session: str = "a", side: str = "base", tokens: int = 6) -> str:
    """One reply to its end; an error is raised."""
    replies: Any = []
    for replies in services.compare.ask([Side(side)], [[]], "Hello", Sampling(max_tokens=tokens), session=session):
        pass
    assert not replies[0].error, replies[0].error
    return str(replies[0].text)


def settled(holds: Callable[[], bool]) -> bool:
    """Whether something comes true within the bound."""
    waiting = threading.Event()
    for _ in range(int(BOUND_S / 0.02)):
        if holds():
            return True
        waiting.wait(0.02)
    return False


def test_a_run_takes_the_place_of_an_idle_base_and_the_base_comes_back(
    settings: Settings, rows_file: Path, until: Callable[..., Any]
) -> None:
    services = build_services(settings, device=FixedDevice())
    request = TrainRequest(rows_file, "big", steps=2, batch_size=4)
    name, size = services.bases.resident()
    services.manager.budget_bytes = services.training.plan(request).memory_bytes + size // 2
    services.training.start_supervisor()
    before = ask(services)
    assert [one.name for one in services.manager.residents()] == [name]
    run = services.training.start(request)
    assert settled(lambda: not services.manager.residents()), "the idle base has left"
    assert services.bases.loaded is None
    answer: list[str] = []
    asking = threading.Thread(target=lambda: answer.append(ask(services)))
    asking.start()
    until(lambda: services.training.show(run), lambda view: view.state == "DONE")
    asking.join(60)
    assert answer == [before], "it came back by itself, and says the same"
    services.close()


def test_who_leaves_in_mid_stream_gives_the_device_back(services: Services) -> None:
    gone_away(services, 10)


def gone_away(services: Services, times: int) -> list[float]:
    """Returns for each client the seconds from its leaving until its lease was free."""
    ask(services)
    threads, took_s = threading.active_count(), []
    for turn in range(times):
        stream = services.compare.ask([Side("base")], [[]], f"Question {turn}", Sampling(max_tokens=200))
        for replies in stream:
            if replies[0].completion_tokens:
                break
        left = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert services.manager.leases() == []
        took_s.append(time.monotonic() - left)
    assert settled(lambda: threading.active_count() <= threads + 1), "no thread is left behind"
    engine = services.bases.engine()
    assert settled(lambda: not engine.backend.scheduler.busy), "the rows have left the batch"
    return took_s


def test_everyone_at_once_is_answered_or_politely_refused(services: Services) -> None:
    ask(services)
    sent = 4 * 36
    outcomes: list[str] = []

    def one(number: int) -> None:
        for replies in services.compare.ask([Side("base")], [[]], "Hello", Sampling(max_tokens=2), session=str(number)):
            pass
        outcomes.append(
            "refused" if "waiting already" in replies[0].error else ("answered" if replies[0].done else "lost")
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(sent)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(outcomes) == sent
    assert set(outcomes) <= {"answered", "refused"}
    assert outcomes.count("answered") >= 36
    assert services.manager.leases() == []
    assert services.manager.queue() == []


def test_adapters_change_hands_and_every_reply_comes_from_its_own(
    services: Services, make_lora: Callable[..., Path]
) -> None:
    swap_storm(services, make_lora, 6)


def swap_storm(services: Services, make_lora: Callable[..., Path], turns: int) -> int:
    """Eight threads, each attaching and asking one adapter after another. Returns the bytes by which the process grew
    meanwhile."""
    engine = services.bases.engine()
    files = {f"a{seed}": AdapterFile(f"a{seed}", make_lora(seed), f"sha{seed}") for seed in range(3)}
    row = {name: Row("A prompt to tell them apart by", name, SHORT) for name in files}
    for file in files.values():
        engine.attach(file)
    expected = {name: last(engine.stream([row[name]]))[0].text for name in files}
    assert len(set(expected.values())) == 3
    mark, wrong, before = engine.fingerprint, [], psutil.Process().memory_info().rss

    def storm(number: int) -> None:
        for turn in range(turns):
            name = f"a{(number + turn) % 3}"
            engine.attach(files[name])
            if last(engine.stream([row[name]]))[0].text != expected[name]:
                wrong.append((number, turn))

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1200)
    assert wrong == []
    assert engine.check_fingerprint()[:2] == (mark, True)
    return int(psutil.Process().memory_info().rss - before)


def last(stream: Iterator[list[RowState]]) -> list[RowState]:
    states: list[RowState] = []
    for states in stream:
        pass
    return states


class Short:
    """An engine whose memory runs out ``faults`` times, after a few tokens."""

    def __init__(self, real: Any, faults: int) -> None:
        self._real, self._faults = real, faults
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def stream(self, rows: Sequence[Row]) -> Iterator[list[RowState]]:
        self.asked.append(len(rows))
        stream = self._real.stream(rows)
        for number, states in enumerate(stream):
            if number == 3 and self._faults:
                self._faults -= 1
                stream.close()
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
            yield states


@pytest.mark.parametrize("faults", [1, 2])
def test_memory_that_runs_out_while_writing(services: Services, faults: int) -> None:
    expected = ask(services, tokens=8)
    services.bases.loaded = Short(services.bases.engine(), faults)
    if faults == 1:
        assert ask(services, tokens=8) == expected, "tried once more, from the start"
        return
    replies: Any = []
    for replies in services.compare.ask(
        [Side("base"), Side("base", "Be brief.")], [[], []], "Hello", Sampling(max_tokens=8)
    ):
        pass
    assert "Ask one side at a time, or set the longest reply to 4 tokens" in replies[0].error
    assert services.manager.leases() == []
    assert ask(services, tokens=4)


def test_memory_that_runs_out_while_loading_is_freed_once() -> None:
    manager = DeviceManager(FixedDevice(), 10**9, run=lambda work: work())
    freed: list[str] = []
    manager.set_resident("idle", 5, lambda: freed.append("idle"))
    tries: list[int] = []

    def load(fail: int) -> str:
        tries.append(1)
        if len(tries) <= fail:
            raise MemoryError
        return "loaded"

    assert retried(lambda: load(1), manager, "It does not fit") == "loaded"
    assert freed == ["idle"]
    assert manager.residents() == []
    tries.clear()
    with pytest.raises(OutOfMemoryError, match=r"It does not fit\. Choose a smaller base"):
        retried(lambda: load(9), manager, "It does not fit")
    with pytest.raises(ValueError, match="other"):
        retried(lambda: (_ for _ in ()).throw(ValueError("other")), manager, "x")


def test_the_second_try_begins_when_what_idled_has_gone() -> None:
    """Unloads run in threads of their own; a try beside them would find the memory still taken."""
    manager = DeviceManager(FixedDevice(), 10**9)
    there: list[list[str]] = []

    def load() -> None:
        there.append([one.name for one in manager.residents()])
        if len(there) == 1:
            raise MemoryError

    begun = threading.Event()
    manager.set_resident("idle", 5, begun.set)
    retried(load, manager, "It does not fit")
    assert begun.is_set()
    assert there == [["idle"], []]


def test_one_session_cannot_fill_the_queue_alone() -> None:
    manager = DeviceManager(FixedDevice(), 10**9)
    for _ in range(12):
        manager.request("chat", "greedy", "Answering", 1)
    with pytest.raises(BusyError, match="8 of your requests are waiting already"):
        manager.request("chat", "greedy", "Answering", 1)
    assert manager.request("chat", "other", "Answering", 1).position == 1, (
        "another session comes before its second request"
    )
