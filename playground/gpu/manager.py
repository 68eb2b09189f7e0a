"""The owner of the device: requests wait with a visible position, leases are closed by ``with``."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from playground.errors import BusyError, CancelledError, OutOfMemoryError
from playground.gpu import policy
from playground.gpu.device import Device, Lanes, default_budget
from playground.gpu.policy import LOADING, READY, UNLOADING, Held, Resident, Waiting, Wanted, order

QUEUE_LIMIT = 32
"""Requests that may wait; the next is refused at once, politely."""
SESSION_LIMIT = 8
"""The same for one browser session, so that nobody fills the queue alone."""
UNLOAD_S = 30.0
"""How long ``unload_idle`` waits for what it unloads: an engine that is being closed ends its round first."""

Unload = Callable[[], None]
Run = Callable[[Callable[[], None]], None]


@dataclass
class Lease(AbstractContextManager["Lease"]):
    """The right to use the device. Close it (or leave its ``with``) on every way out; closing twice is harmless."""

    number: int
    lane: str
    session: str
    label: str
    bytes: int
    since_s: float
    _close: Callable[[Lease], None] = field(repr=False)
    residents: tuple[str, ...] = ()

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


class DeviceManager:
    """Budget, residents, leases, queue. The decisions are ``policy``'s; this object carries them out.

    run: runs an unload outside of whatever called for it. keep_alive_s: how long a resident may idle, 0 = for ever.
    lanes: entered while chat leases are open, so that a run leaves chat its cores; None where no processor computes."""

    def __init__(
        self,
        device: Device,
        budget_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        run: Run = _in_thread,
        keep_alive_s: float = 0.0,
        lanes: Lanes | None = None,
    ) -> None:
        self.device = device
        self.budget_bytes = budget_bytes if budget_bytes is not None else default_budget(device)
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
            held = sum(lease.bytes for lease in self._leases.values())
            return held + sum(one.bytes for one in self._residents.values())

    @property
    def free_bytes(self) -> int:
        return max(0, self.budget_bytes - self.used_bytes)

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

    def adopt(self, lane: str, session: str, label: str, held_bytes: int) -> Lease:
        """A lease for work that is already on the device (a worker that outlived the app); never refused."""
        with self._changed:
            lease = Lease(next(self._numbers), lane, session, label, held_bytes, self._clock(), self._close)
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
        return [Held(lease.lane, lease.bytes, lease.residents) for lease in self._leases.values()]

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
        decision = policy.decide(waiting, self._held(), residents, self.budget_bytes, self._last_served)
        for number in decision.grant:
            self._grant(number)
        self._evict(decision.evict)
        if self._lanes is not None:
            # a verdict's batches decode here as a chat does
            chats = any(lease.lane != "train" for lease in self._leases.values())
            (self._lanes.enter if chats else self._lanes.leave)("chat")
        self._changed.notify_all()

    def _grant(self, number: int) -> None:
        waiting, request = self._waiting.pop(number), self._requests.pop(number)
        names, now = tuple(name for name, _ in waiting.residents), self._clock()
        request.lease = Lease(
            number, waiting.lane, waiting.session, request.label, waiting.needs_bytes, now, self._close, names
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


def _gb(value: int) -> str:
    return f"{value / 1e9:.1f} GB"
