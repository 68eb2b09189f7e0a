"""The policy under random events, through the manager that carries it out: never over budget, never a model in use
gone, nobody starves, nothing held at the end. The clock and the unloading are the machine's own."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from playground.errors import BusyError, OutOfMemoryError
from playground.gpu.manager import QUEUE_LIMIT, DeviceManager, Request
from playground.gpu.policy import CAPACITY, PATIENCE, READY

BUDGET = 100
SIZES = {"base": 30, "full-1": 40, "full-2": 55, "large": 70}


@dataclass
class FakeDevice:
    name: str = "fake"
    total_bytes: int = 100
    free_bytes: int = 100


class World:
    """The manager with its own clock and a list of unloads that end when the machine says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.unloading: deque[Callable[[], None]] = deque()
        self.manager = DeviceManager(FakeDevice(), BUDGET, lambda: self.now, self.unloading.append, keep_alive_s=20)
        self.open: list[Request] = []
        self.passed: dict[int, int] = {}
        self.wronged = False

    def ask(self, lane: str, session: str, needs: int, resident: str) -> None:
        try:
            request = self.manager.request(
                lane, session, "work", needs, ((resident, SIZES[resident]),) if resident else ()
            )
        except (BusyError, OutOfMemoryError):
            return
        self.open.append(request)
        self.settle()

    def settle(self) -> None:
        """Leases that were granted load their model; those still waiting count who passed them while only short work
        ran."""
        for request in self.open:
            for name in request.lease.residents if request.lease is not None else ():
                self.manager.set_resident(name, SIZES[name], lambda name=name: self.unload(name))
        granted = [r.number for r in self.open if r.lease is not None and r.number not in self.passed]
        training = any(lease.lane == "train" for lease in self.manager.leases())
        for number in granted:
            self.passed[number] = 0
        for request in self.open:
            if request.lease is None:
                waited = self.passed.setdefault(-request.number, 0)
                self.passed[-request.number] = 0 if training else waited + len(granted)

    def unload(self, name: str) -> None:
        self.wronged |= any(name in lease.residents for lease in self.manager.leases())

    def end(self, place: int) -> None:
        request = self.open.pop(place % len(self.open))
        request.cancel() if request.lease is None else request.lease.close()
        self.settle()

    def check(self) -> None:
        manager = self.manager
        assert not self.wronged, "a model in use was unloaded"
        assert manager.used_bytes <= BUDGET
        for lane, most in CAPACITY.items():
            assert sum(lease.lane == lane for lease in manager.leases()) <= most
        there = {one.name: one for one in manager.residents()}
        for lease in manager.leases():
            assert all(there[name].state == READY for name in lease.residents)
        bound = PATIENCE + QUEUE_LIMIT + sum(CAPACITY.values())
        waited = max((self.passed.get(-r.number, 0) for r in self.open if r.lease is None), default=0)
        assert waited <= bound, f"a request was passed {waited} times"

    def finish(self) -> None:
        for _ in range(500):
            if not self.open and not self.unloading:
                break
            if self.unloading:
                self.unloading.popleft()()
                self.settle()
            elif any(r.lease for r in self.open):
                self.end(next(i for i, r in enumerate(self.open) if r.lease))
            else:
                raise AssertionError(f"{len(self.open)} wait and nothing runs: a deadlock")
        assert not self.manager.leases()
        assert not self.manager.queue()


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(
        session=st.sampled_from("abcde"),
        needs=st.integers(1, 30),
        resident=st.sampled_from(["base", "base", "full-1", "full-2"]),
    )
    def chat(self, session: str, needs: int, resident: str) -> None:
        self.world.ask("chat", session, needs, resident)

    @rule(session=st.sampled_from("abc"), needs=st.integers(20, 100))
    def train(self, session: str, needs: int) -> None:
        self.world.ask("train", session, needs, "")

    @precondition(lambda self: self.world.open)
    @rule(place=st.integers(0, 50))
    def end(self, place: int) -> None:
        self.world.end(place)

    @precondition(lambda self: self.world.unloading)
    @rule()
    def unloaded(self) -> None:
        self.world.unloading.popleft()()
        self.world.settle()

    @rule(seconds=st.integers(1, 30))
    def pass_time(self, seconds: int) -> None:
        self.world.now += seconds
        self.world.manager.tick()

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.finish()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def test_ten_thousand_events() -> None:
    """One long life, with more asking than the device can serve."""
    draw, world = random.Random(7), World()
    for _ in range(10_000):
        event = draw.random()
        if event < 0.45:
            world.ask(
                "chat",
                draw.choice("abcdefgh"),
                draw.randint(1, 30),
                draw.choice(["base", "base", "full-1", "full-2", "large"]),
            )
        elif event < 0.5:
            world.ask("train", draw.choice("abc"), draw.randint(20, 100), "")
        elif event < 0.9 and world.open:
            running = [i for i, r in enumerate(world.open) if r.lease]
            world.end(draw.choice(running) if running and draw.random() < 0.9 else draw.randrange(len(world.open)))
        elif world.unloading:
            world.unloading.popleft()()
            world.settle()
        else:
            world.now += draw.random() * 10
            world.manager.tick()
        world.check()
    world.finish()


def test_an_unbroken_stream_of_replies_does_not_keep_a_run_out_for_ever() -> None:
    world = World()
    world.ask("chat", "a", 1, "base")
    world.ask("train", "t", 90, "")
    run = world.open[1]
    assert run.lease is None
    answered = 0
    while run.lease is None and answered < 100:
        world.ask("chat", "ab"[answered % 2], 1, "base")  # the next one asks before the last one ends
        world.end(0 if world.open[0] is not run else 1)
        answered += 1
        while world.unloading:
            world.unloading.popleft()()
            world.settle()
    assert run.lease is not None
    assert answered <= PATIENCE + CAPACITY["chat"] + 1
    world.finish()
