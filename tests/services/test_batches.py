"""What a batch asks the device for, and what the models keep when it is done."""

from __future__ import annotations

from pathlib import Path

from playground.engine.cache import STEP
from playground.engine.request import Sampling
from playground.services.bases import kv_bytes_per_token
from playground.services.batches import Asked, Written
from playground.services.container import Services

PROMPT = "A beginning that is long enough to be kept for the next question, since it has more than sixteen tokens."


def ask(services: Services, tokens: int = 4, count: int = 1) -> list[Written]:
    written: list[Written] = []
    for written in services.batches.run([Asked(None, PROMPT, Sampling(max_tokens=tokens))] * count, "a"):
        pass
    assert all(one.failure is None for one in written)
    services.bases.engine()._compute.run(lambda: None)  # the round that told of the last reply has ended
    return written


def test_what_was_read_is_forgotten_and_the_reply_stays_the_same(services: Services) -> None:
    services.batches.forget()
    assert services.bases.loaded is None, "nothing is loaded for it"
    first = ask(services)[0].state.text
    way = services.bases.engine()._way.scheduler
    assert way.prefixes.bytes > 0
    services.batches.forget()
    assert way.prefixes.bytes == 0
    assert ask(services)[0].state.text == first
    assert way.reused_tokens == 0
    ask(services)
    assert way.reused_tokens > 0


def test_the_device_knows_what_stays_after_a_batch(services: Services) -> None:
    ask(services, tokens=40, count=4)
    engine = services.bases.engine()
    name, weights = services.bases.resident()
    ask(services)
    (there,) = services.manager.residents()
    assert there.name == name
    assert there.bytes >= weights + engine._way.scheduler._cache.bytes
    assert services.manager.leases() == []


def test_a_batch_asks_for_room_as_it_grows(services: Services, tiny_base: Path) -> None:
    row = STEP * kv_bytes_per_token(tiny_base, 4)
    asked = [Asked(None, PROMPT, Sampling(max_tokens=4))]
    assert services.batches._needs(asked) == row
    assert services.batches._needs(asked * 3) == 3 * row
    assert services.batches._needs([*asked, Asked(None, PROMPT, Sampling(max_tokens=STEP))]) == 2 * 2 * row
    for _ in services.batches.run(asked, "a"):
        if leases := services.manager.leases():
            assert [lease.bytes for lease in leases] == [row]
    assert services.bases.engine()._way.scheduler._cache.bytes <= row
