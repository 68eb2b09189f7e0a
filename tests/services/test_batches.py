"""What a batch asks the device for, and what the models keep when it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playground.chat.batching import Asked, Written
from playground.engine.kv_cache import STEP
from playground.engine.request import Sampling
from playground.models.bases import kv_bytes_per_token
from playground.services import Services
from tests.engine.models import poison

PROMPT = "A beginning that is long enough to be kept for the next question, since it has more than sixteen tokens."


def ask(services: Services, tokens: int = 4, count: int = 1) -> list[Written]:
    written: list[Written] = []
    for written in services.batches.run([Asked(None, PROMPT, Sampling(max_tokens=tokens))] * count, "a"):
        pass
    assert all(one.failure is None for one in written)
    services.bases.engine().worker.run(lambda: None)  # the round that told of the last reply has ended
    return written


def test_what_was_read_is_forgotten_and_the_reply_stays_the_same(services: Services) -> None:
    services.batches.forget()
    assert services.bases.loaded is None, "nothing is loaded for it"
    first = ask(services)[0].state.text
    way = services.bases.engine().backend.scheduler
    assert way.prefix_cache.bytes > 0
    services.batches.forget()
    assert way.prefix_cache.bytes == 0
    assert ask(services)[0].state.text == first
    assert way.cached_tokens == 0
    ask(services)
    assert way.cached_tokens > 0


def test_the_device_knows_what_stays_after_a_batch(services: Services) -> None:
    ask(services, tokens=40, count=4)
    engine = services.bases.engine()
    name, weights = services.bases.resident()
    ask(services)
    (there,) = services.manager.residents()
    assert there.name == name
    assert there.bytes >= weights + engine.backend.scheduler.kv_cache.bytes
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
    assert services.bases.engine().backend.scheduler.kv_cache.bytes <= row


def test_a_reply_whose_adapter_overflows_fails_alone(services: Services, make_lora: Callable[..., Path]) -> None:
    alone = ask(services)[0].state.tokens
    card = services.adapters.import_file(make_lora(3))
    services.adapters.attach(card.id)
    poison(services.bases.engine(), card.path, 3e38, card.id)
    asked = [Asked(one, PROMPT, Sampling(max_tokens=4)) for one in (None, card, None)]
    written: list[Written] = []
    for written in services.batches.run(asked, "a"):
        pass
    assert [one.state.tokens for one in (written[0], written[2])] == [alone] * 2
    assert [one.failure for one in (written[0], written[2])] == [None] * 2
    assert written[1].done
    assert f"{card.id} makes numbers overflow" in str(written[1].failure)
