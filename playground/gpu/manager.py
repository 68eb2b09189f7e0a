"""The owner of the device: requests wait with a visible position, leases are closed by ``with``; and the lanes that
share a processor's cores out.

Two processes that compute on a CPU hold up each other's OpenMP threads while they spin: chat beside a run fell to a
sixth of its speed. So whoever computes holds its lane's lock, a file in the home that the operating system frees when
its holder dies, and each side asks before every unit of work whether the other side's is held.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from playground.errors import BusyError, CancelledError, OutOfMemoryError, is_out_of_memory
from playground.gpu import policy
from playground.gpu.device import Device, default_budget, usable_cores
from playground.gpu.policy import LOADING, READY, UNLOADING, Held, Resident, Waiting, Wanted, order, threads_of

QUEUE_LIMIT = 32
"""Requests that may wait; the next is refused at once, politely."""
SESSION_LIMIT = 8
"""The same for one browser session, so that nobody fills the queue alone."""
UNLOAD_S = 30.0
"""How long ``unload_idle`` waits for what it unloads: an engine that is being closed ends its round first."""

COMPUTING = ("chat", "train")
"""Who shares out the cores: the app, which decodes, and the workers, which train."""
LOOK_S, LINGER_S, WAIT_S = 0.2, 2.0, 0.1
"""A lane is looked at so often at most; it counts as busy so long after it was; so long is its lock waited for."""

Unload = Callable[[], None]
Run = Callable[[Callable[[], None]], None]
T = TypeVar("T")


@dataclass
class Lease(contextlib.AbstractContextManager["Lease"]):
    """The right to use the device, or another card of it. Close it (or leave its ``with``) on every way out; closing
    twice is harmless."""

    number: int
    lane: str
    session: str
    label: str
    bytes: int
    since_s: float
    _close: Callable[[Lease], None] = field(repr=False)
    residents: tuple[str, ...] = ()
    card: int = 0

    def close(self) -> None:
        self._close(self)

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass
class Request:
    """A place in the queue."""

    number: int
    lane: str
    label: str
    _manager: DeviceManager = field(repr=False)
    lease: Lease | None = None

    @property
    def position(self) -> int:
        """0 = granted, 1 = next."""
        queue = [item.number for item in self._manager.queue() if item.lane == self.lane]
        return queue.index(self.number) + 1 if self.number in queue else 0

    @property
    def wait_s(self) -> float:
        """Seconds, estimated from how long leases last."""
        return self._manager.wait_s(self)

    def wait(self, timeout_s: float | None = None) -> Lease | None:
        """The lease, or None when ``timeout_s`` has passed. Raises CancelledError if the request was withdrawn."""
        return self._manager.wait(self, timeout_s)

    def cancel(self) -> None:
        """Leave the queue, or give the lease back."""
        self._manager.cancel(self)


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="unload", daemon=True).start()


class Lanes:
    """The lanes of one home. Safe from several threads. Where ``folder`` cannot be written nobody is seen, and all use
    all cores. clock: seconds."""

    def __init__(self, folder: Path, cores: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._cores = usable_cores() if cores is None else cores
        self._lock = threading.Lock()
        self._mine: dict[str, FileLock] = {}
        self._looked_s: dict[str, float] = {}
        self._busy_s: dict[str, float] = {}
        self._again_s: dict[str, float] = {}

    def enter(self, lane: str) -> None:
        """This process computes in ``lane``, until ``leave`` or its end."""
        with self._lock, contextlib.suppress(OSError, Timeout, NotImplementedError):
            if lane in self._mine or self._clock() < self._again_s.get(lane, float("-inf")):
                return
            # where another process of this home computes in it, do not wait each time
            self._again_s[lane] = self._clock() + LINGER_S
            lock = self._file(lane)
            lock.acquire(timeout=WAIT_S, poll_interval=0.01)
            self._mine[lane] = lock
            del self._again_s[lane]

    def leave(self, lane: str) -> None:
        """This process computes in ``lane`` no more; harmless where it did not."""
        with self._lock:
            if (lock := self._mine.pop(lane, None)) is not None:
                lock.release()

    def threads(self, lane: str) -> int:
        with self._lock:
            busy = {other for other in COMPUTING if other != lane and self._is_busy(other)}
            return threads_of(lane, self._cores, busy)

    def _is_busy(self, lane: str) -> bool:
        now = self._clock()
        if now - self._looked_s.get(lane, -LOOK_S) >= LOOK_S:
            self._looked_s[lane] = now
            if self._is_held(lane):
                self._busy_s[lane] = now
        return lane in self._busy_s and now - self._busy_s[lane] < LINGER_S

    def _is_held(self, lane: str) -> bool:
        if lane in self._mine:
            return True
        try:
            with self._file(lane).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # no lock can be had there: nobody is seen
            return False

    def _file(self, lane: str) -> FileLock:
        return FileLock(self._folder / f"{lane}.lock", thread_local=False)  # taken and given back by different threads


def use_share(lanes: Lanes, lane: str) -> None:
    """Let the calling thread compute with what ``lane`` may use, at most torch's own number of threads."""
    import torch

    torch.set_num_threads(min(own_threads(), lanes.threads(lane)))  # 0.3 us


@functools.cache
def own_threads() -> int:
    """Threads that torch uses by itself: asked before it is told any other number."""
    import torch

    return torch.get_num_threads()


class DeviceManager:
    """Budget, residents, leases, queue. The decisions are ``policy``'s; this object carries them out.

    run: runs an unload outside of whatever called for it. keep_alive_s: how long a resident may idle, 0 = for ever.
    lanes: entered while chat leases are open, so that a run leaves chat its cores; None where no processor computes.
    others: further cards, for training; each has such a budget too. ``run_bytes``: the most that a run may take, on one
    card."""

    def __init__(
        self,
        device: Device,
        budget_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        run: Run = _in_thread,
        keep_alive_s: float = 0.0,
        lanes: Lanes | None = None,
        others: Sequence[Device] = (),
    ) -> None:
        self.device, self.others = device, tuple(others)
        self._other_budgets = [default_budget(one) if budget_bytes is None else budget_bytes for one in others]
        self.budget_bytes = budget_bytes if budget_bytes is not None else default_budget(device)
        self.run_bytes = max(self.budget_bytes, *self._other_budgets, 0)
        self._clock, self._run, self._keep_alive_s, self._lanes = clock, run, keep_alive_s, lanes
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Waiting] = {}
        self._requests: dict[int, Request] = {}
        self._leases: dict[int, Lease] = {}
        self._residents: dict[str, Resident] = {}
        self._unloads: dict[str, Unload] = {}
        self._last_served: dict[str, int] = {}
        self._typical_s = {"chat": 6.0, "measure": 30.0, "train": 120.0}

    # -- memory --------------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        with self._changed:
            held = sum(lease.bytes for lease in self._leases.values() if not lease.card)
            return held + sum(one.bytes for one in self._residents.values())

    @property
    def free_bytes(self) -> int:
        return max(0, self.budget_bytes - self.used_bytes)

    def cards(self) -> list[tuple[str, int, int]]:
        """(name, budget, bytes in use) of each card."""
        with self._changed:
            used = {lease.card: lease.bytes for lease in self._leases.values() if lease.card}
            first = [(self.device.name, self.budget_bytes, self.used_bytes)]
            others = enumerate(zip(self.others, self._other_budgets, strict=True), 1)
            return first + [(one.name, budget, used.get(card, 0)) for card, (one, budget) in others]

    def set_resident(self, name: str, held_bytes: int, unload: Unload | None = None) -> None:
        """Account for a model that is in memory now, or has grown; 0 bytes removes it. unload: frees it, and whoever
        asks for it next brings it back; without one it stays."""
        with self._changed:
            if held_bytes:
                before = self._residents.get(name)
                state = UNLOADING if before is not None and before.leaving else READY
                idle = before.idle_since_s if before is not None else self._clock()
                if unload is not None:
                    self._unloads[name] = unload
                self._residents[name] = Resident(name, held_bytes, state, idle, name in self._unloads)
            else:
                self._residents.pop(name, None)
                self._unloads.pop(name, None)
            self._decide()

    def residents(self) -> list[Resident]:
        with self._changed:
            return list(self._residents.values())

    def unload_idle(self, wait_s: float = UNLOAD_S) -> list[str]:
        """Free every resident that nobody uses, now; returns their names once they have gone, or when ``wait_s`` has
        passed. For when memory ran out all the same. Do not hold what an unload needs."""
        with self._changed:
            names = [one.name for one in self._idle()]
            self._evict(names)
            self._changed.wait_for(lambda: not {*names} & {one.name for one in self.residents() if one.leaving}, wait_s)
            return names

    def tick(self) -> None:
        """Unload what has idled past its keep-alive. Call it now and then."""
        with self._changed:
            since = self._clock() - self._keep_alive_s
            self._evict([one.name for one in self._idle() if self._keep_alive_s and one.idle_since_s <= since])

    # -- requests and leases -------------------------------------------------------------------------------------------

    def request(self, lane: str, session: str, label: str, needs_bytes: int, residents: Wanted = ()) -> Request:
        """Join the queue. residents: the models to work on; whoever gets a lease on one that is not in memory has to
        load it. Raises BusyError when the queue is full, OutOfMemoryError when it can never fit."""
        with self._changed:
            if residents or lane != "train" or needs_bytes > max(self._other_budgets, default=0):
                self._refuse_what_never_fits(label, needs_bytes, residents)
            sessions = [item.session for item in self._waiting.values()]
            if len(sessions) >= QUEUE_LIMIT:
                raise BusyError(f"{len(sessions)} requests are waiting already. Try again in a minute.")
            if (mine := sessions.count(session)) >= SESSION_LIMIT:
                raise BusyError(f"{mine} of your requests are waiting already. Try again in a minute.")
            number = next(self._numbers)
            request = Request(number, lane, label, self)
            self._waiting[number] = Waiting(number, lane, session, needs_bytes, residents)
            self._requests[number] = request
            self._decide()
            return request

    def adopt(self, lane: str, session: str, label: str, held_bytes: int, card: int = 0) -> Lease:
        """A lease for work that is already on the device (a worker that outlived the app); never refused."""
        with self._changed:
            now, number = self._clock(), next(self._numbers)
            lease = Lease(number, lane, session, label, held_bytes, now, self._close, card=card)
            self._leases[lease.number] = lease
            return lease

    def leases(self) -> list[Lease]:
        with self._changed:
            return list(self._leases.values())

    def queue(self) -> list[Request]:
        """Waiting requests in the order of service."""
        with self._changed:
            return [self._requests[item.number] for item in order(list(self._waiting.values()), self._last_served)]

    def wait_s(self, request: Request) -> float:
        with self._changed:
            position, typical = request.position, self._typical_s[request.lane]
            running = [self._clock() - lease.since_s for lease in self._leases.values() if lease.lane == request.lane]
            this = max(1.0, typical - max(running)) if running else typical
            return (position - 1) * typical + this if position else 0.0

    def wait(self, request: Request, timeout_s: float | None) -> Lease | None:
        with self._changed:
            self._changed.wait_for(lambda: request.lease is not None or request.number not in self._waiting, timeout_s)
            if request.lease is None and request.number not in self._waiting:
                raise CancelledError("The request was withdrawn.")
            return request.lease

    def cancel(self, request: Request) -> None:
        with self._changed:
            self._waiting.pop(request.number, None)
            self._requests.pop(request.number, None)
            if request.lease is not None:
                self._close(request.lease)
            self._decide()

    # -- inside; the lock is held --------------------------------------------------------------------------------------

    def _held(self) -> list[Held]:
        return [Held(lease.lane, lease.bytes, lease.residents, lease.card) for lease in self._leases.values()]

    def _idle(self) -> list[Resident]:
        used = {name for lease in self._leases.values() for name in lease.residents}
        return policy.idle(self._residents.values(), used)

    def _refuse_what_never_fits(self, label: str, needs_bytes: int, residents: Wanted) -> None:
        wanted = {name for name, _ in residents}
        staying = sum(one.bytes for one in self._residents.values() if one.stays or one.name in wanted)
        needs = needs_bytes + sum(size for name, size in residents if name not in self._residents)
        if needs > self.budget_bytes - staying:
            raise OutOfMemoryError(
                f"{label} needs {_gb(needs)}; {_gb(max(0, self.budget_bytes - staying))} of the"
                f" {_gb(self.budget_bytes)} budget can be free at most. Choose a smaller method, batch or length."
            )

    def _close(self, lease: Lease) -> None:
        with self._changed:
            if self._leases.pop(lease.number, None) is None:
                return
            lasted = self._clock() - lease.since_s
            self._typical_s[lease.lane] = 0.7 * self._typical_s[lease.lane] + 0.3 * lasted
            for used in [self._residents[name] for name in lease.residents if name in self._residents]:
                self._residents[used.name] = replace(used, idle_since_s=self._clock())
                if used.state == LOADING and not any(used.name in other.residents for other in self._leases.values()):
                    del self._residents[used.name]  # everyone who wanted it has gone, and nobody brought it in
            self._decide()

    def _decide(self) -> None:
        waiting, residents = list(self._waiting.values()), list(self._residents.values())
        held, budgets = self._held(), self._other_budgets
        decision = policy.decide(waiting, held, residents, self.budget_bytes, self._last_served, budgets)
        for number in decision.grant:
            self._grant(number, decision.cards.get(number, 0))
        self._evict(decision.evict)
        if self._lanes is not None:
            # a verdict's batches decode here as a chat does
            chats = any(lease.lane != "train" for lease in self._leases.values())
            (self._lanes.enter if chats else self._lanes.leave)("chat")
        self._changed.notify_all()

    def _grant(self, number: int, card: int) -> None:
        waiting, request = self._waiting.pop(number), self._requests.pop(number)
        names, now = tuple(name for name, _ in waiting.residents), self._clock()
        request.lease = Lease(
            number, waiting.lane, waiting.session, request.label, waiting.needs_bytes, now, self._close, names, card
        )
        self._leases[number] = request.lease
        for name, size in waiting.residents:
            self._residents.setdefault(name, Resident(name, size, LOADING, now))
        self._waiting = {key: replace(item, passed=item.passed + 1) for key, item in self._waiting.items()}
        self._last_served[waiting.session] = number
        if len(self._last_served) > 1000:  # forget the sessions served longest ago
            del self._last_served[min(self._last_served, key=lambda key: self._last_served[key])]

    def _evict(self, names: Iterable[str]) -> None:
        going = {name: self._unloads[name] for name in names}
        for name in going:  # all of them first: what one frees must not make another be chosen again
            self._residents[name] = replace(self._residents[name], state=UNLOADING)
        for name, unload in going.items():

            def work(name: str = name, unload: Unload = unload) -> None:
                try:
                    unload()
                finally:  # its memory is freed with the last reference, whatever it raises
                    self.set_resident(name, 0)

            self._run(work)


def make_room(manager: DeviceManager) -> list[str]:
    """Unload the models that idle and wait until they have gone; returns their names."""
    freed = manager.unload_idle()
    gc.collect()  # what failed for want of memory hangs on the frames of its error
    return freed


def retried(work: Callable[[], T], manager: DeviceManager, failed: str, hint: str = "Choose a smaller base") -> T:
    """``work()``; when memory runs out, once more after idle models have been unloaded. failed: what did not work,
    for a person; hint: what to do. Raises OutOfMemoryError."""
    freed: list[str] | None = None
    while True:
        try:
            return work()
        except Exception as error:  # every library has a class of its own for it
            if not is_out_of_memory(error):
                raise
            if freed is not None:
                also = f", not even after {', '.join(freed)} had made room" if freed else ""
                raise OutOfMemoryError(f"{failed}{also}. {hint}, or close other programs.") from error
        freed = make_room(manager)


def _gb(value: int) -> str:
    return f"{value / 1e9:.1f} GB"
