"""A blocking source followed from the event loop."""

import asyncio
import contextlib
import threading

from playground.errors import BusyError
from playground.server.routes import THREADS_MAX, Follower
from tests.refused import refused


class Source:
    """Gives 0, 1, 2 ... each when it may; remembers whether it was closed."""

    def __init__(self):
        self.may = threading.Semaphore(0)
        self.closed = threading.Event()

    def values(self):
        try:
            for value in range(10_000):
                assert self.may.acquire(timeout=30)
                yield value
        finally:
            self.closed.set()


def test_a_slow_reader_gets_the_newest_only_and_then_the_end():
    made = threading.Event()

    def values():
        yield from range(500)
        made.set()

    async def read():
        follower = Follower(values)
        await asyncio.to_thread(made.wait, 30)
        return [value async for value in follower]

    assert asyncio.run(read()) == [499]


def test_stop_ends_the_reading_at_once_and_closes_the_source():
    source = Source()

    async def read():
        follower = Follower(source.values)
        source.may.release()
        first = await anext(follower)
        waiting = asyncio.ensure_future(anext(follower, -1))
        await asyncio.sleep(0)
        follower.stop()
        return [first, await asyncio.wait_for(waiting, 30)]

    assert asyncio.run(read()) == [0, -1]
    assert not source.closed.is_set(), "the source is inside a step"
    source.may.release()
    assert source.closed.wait(30)


def test_a_loop_that_has_ended_hurts_nobody():
    source = Source()

    async def leave():
        Follower(source.values)

    asyncio.run(leave())
    source.may.release(10_000)
    assert source.closed.wait(30)


def test_there_is_an_end_to_the_threads():
    may = threading.Event()

    def waits():
        assert may.wait(30)
        yield 7

    async def one_too_many():
        followers = [Follower(waits) for _ in range(THREADS_MAX)]
        refused("Try again", Follower, waits, error=BusyError)
        may.set()
        assert [await anext(follower) for follower in followers] == [7] * THREADS_MAX
        while True:
            with contextlib.suppress(BusyError):
                return await anext(Follower(waits))
            await asyncio.sleep(0)

    assert asyncio.run(asyncio.wait_for(one_too_many(), 60)) == 7
