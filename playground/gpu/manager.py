"""The one object that owns the device: requests wait with a visible place, leases are granted and closed by ``with``."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from playground.errors import BusyError, CancelledError, OutOfMemoryError
from playground.gpu.device import Device, default_budget
from playground.gpu.policy import Waiting, grants, order

QUEUE_LIMIT = 32
"""Requests that may wait; the next is refused at once, politely."""


@dataclass
class Lease:
    """The right to use the device. Close it (or leave its ``with``) on every way out; closing twice is harmless."""

    number: int
    lane: str
    session: str
    label: str
    bytes: int
    since_s: float
    _close: Callable[[Lease], None] = field(repr=False)

    def close(self) -> None:
        self._close(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass
class Request:
    """A place in the queue. ``position``: 0 = granted, 1 = next. ``wait_s``: an estimate, from how long leases have lasted."""

    number: int
    label: str
    _manager: DeviceManager = field(repr=False)
    lease: Lease | None = None

    @property
    def position(self) -> int:
        return self._manager.position(self.number)

    @property
    def wait_s(self) -> float:
        return self._manager.wait_s(self.number)

    def wait(self, timeout_s: float | None = None) -> Lease | None:
        """The lease, or None when ``timeout_s`` has passed. Raises CancelledError if the request was withdrawn."""
        return self._manager.wait(self, timeout_s)

    def cancel(self) -> None:
        """Leave the queue, or give the lease back."""
        self._manager.cancel(self)


class DeviceManager:
    """Budget, residents, leases, queue. The decisions are ``policy``'s; this object carries them out."""

    def __init__(self, device: Device, budget_bytes: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.device = device
        self._budget = budget_bytes if budget_bytes is not None else default_budget(device)
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Waiting] = {}
        self._requests: dict[int, Request] = {}
        self._leases: dict[int, Lease] = {}
        self._residents: dict[str, int] = {}
        self._last_served: dict[str, int] = {}
        self._typical_s = {"chat": 6.0, "train": 120.0}

    @property
    def budget_bytes(self) -> int:
        return self._budget

    @property
    def used_bytes(self) -> int:
        with self._changed:
            return sum(self._residents.values()) + sum(lease.bytes for lease in self._leases.values())

    @property
    def free_bytes(self) -> int:
        return max(0, self._budget - self.used_bytes)

    def request(self, lane: str, session: str, label: str, needs_bytes: int) -> Request:
        """Join the queue. Raises BusyError when it is full, OutOfMemoryError when ``needs_bytes`` can never fit."""
        with self._changed:
            resident = sum(self._residents.values())
            if needs_bytes > self._budget - resident:
                raise OutOfMemoryError(
                    f"{label} needs {_gb(needs_bytes)}; {_gb(max(0, self._budget - resident))} of the {_gb(self._budget)} budget can be "
                    "free at most. Choose a smaller method, batch or length."
                )
            if len(self._waiting) >= QUEUE_LIMIT:
                raise BusyError(f"{QUEUE_LIMIT} requests are waiting already. Try again in a minute.")
            number = next(self._numbers)
            request = Request(number, label, self)
            self._waiting[number] = Waiting(number, lane, session, needs_bytes)
            self._requests[number] = request
            self._grant()
            return request

    def adopt(self, lane: str, session: str, label: str, held_bytes: int) -> Lease:
        """A lease for work that is already on the device (a worker that outlived the app); never refused."""
        with self._changed:
            lease = Lease(next(self._numbers), lane, session, label, held_bytes, self._clock(), self._close)
            self._leases[lease.number] = lease
            return lease

    def set_resident(self, name: str, held_bytes: int) -> None:
        """Account for a loaded base and its adapters; 0 bytes removes it."""
        with self._changed:
            if held_bytes:
                self._residents[name] = held_bytes
            else:
                self._residents.pop(name, None)
            self._grant()

    def residents(self) -> dict[str, int]:
        with self._changed:
            return dict(self._residents)

    def leases(self) -> list[Lease]:
        with self._changed:
            return list(self._leases.values())

    def queue(self) -> list[Request]:
        """Waiting requests in the order of service."""
        with self._changed:
            return [self._requests[item.number] for item in order(list(self._waiting.values()), self._last_served)]

    def position(self, number: int) -> int:
        with self._changed:
            mine = self._waiting.get(number)
            if mine is None:
                return 0
            lane = [item.number for item in order(list(self._waiting.values()), self._last_served) if item.lane == mine.lane]
            return lane.index(number) + 1

    def wait_s(self, number: int) -> float:
        with self._changed:
            mine = self._waiting.get(number)
            if mine is None:
                return 0.0
            typical = self._typical_s[mine.lane]
            ahead = self.position(number) - 1
            running = [self._clock() - lease.since_s for lease in self._leases.values() if lease.lane == mine.lane]
            return ahead * typical + (max(1.0, typical - max(running)) if running else typical)

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
            self._grant()
            self._changed.notify_all()

    def _close(self, lease: Lease) -> None:
        with self._changed:
            if self._leases.pop(lease.number, None) is not None:
                lasted = self._clock() - lease.since_s
                self._typical_s[lease.lane] = 0.7 * self._typical_s[lease.lane] + 0.3 * lasted
                self._grant()

    def _grant(self) -> None:
        busy = {lane: sum(lease.lane == lane for lease in self._leases.values()) for lane in self._typical_s}
        held = sum(self._residents.values()) + sum(lease.bytes for lease in self._leases.values())
        for number in grants(list(self._waiting.values()), busy, held, self._budget, self._last_served):
            waiting, request = self._waiting.pop(number), self._requests.pop(number)
            request.lease = Lease(
                number, waiting.lane, waiting.session, request.label, waiting.needs_bytes, self._clock(), self._close
            )
            self._leases[number] = request.lease
            self._last_served[waiting.session] = number
            if len(self._last_served) > 1000:  # forget the sessions served longest ago
                del self._last_served[min(self._last_served, key=lambda key: self._last_served[key])]
        self._changed.notify_all()


def _gb(value: int) -> str:
    return f"{value / 1e9:.1f} GB"
