"""A blocking generator in a thread of its own, followed from the event loop.

Its values are snapshots, so only the newest is kept: a slow reader gets larger steps, holds nothing up and fills no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from playground.errors import BusyError

T = TypeVar("T")
THREADS_MAX = 64
"""More than the device's queue and its leases together: the queue refuses first, and says so."""
_room = threading.BoundedSemaphore(THREADS_MAX)


class Follower(Generic[T]):
    """Iterate with ``async for``; ``stop`` on every way out, and the source is closed at its next value.

    Raises what the source raises; BusyError at once when THREADS_MAX are followed already. Make it in a running event loop.
    """

    def __init__(self, make: Callable[[], Generator[T]]) -> None:
        if not _room.acquire(blocking=False):
            raise BusyError(f"{THREADS_MAX} requests are being answered or wait already. Try again in a minute.")
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._stop = threading.Event()
        self._unseen: list[T] = []
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(make,), name="follow", daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """End the iteration now; the thread lets go of the source as soon as that gives its next value."""
        self._stop.set()
        self._changed.set()

    def __aiter__(self) -> Follower[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            if self._stop.is_set():
                raise StopAsyncIteration
            if self._unseen:
                return self._unseen.pop()
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def _run(self, make: Callable[[], Generator[T]]) -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(make()) as source:
                for value in source:
                    if self._stop.is_set():
                        break
                    self._tell(self._take, value)
        except BaseException as raised:
            error = raised
        finally:
            _room.release()
            self._tell(self._end, error)

    def _tell(self, act: Callable[..., None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody follows any more
            self._loop.call_soon_threadsafe(act, value)

    # in the event loop, like __anext__: no lock is needed

    def _take(self, value: T) -> None:
        self._unseen[:] = [value]
        self._changed.set()

    def _end(self, error: BaseException | None) -> None:
        self._error, self._ended = error, True
        self._changed.set()
