"""One conversation to one model, as a program asks it; closed early, refused, fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.chat.batching import LOOK_S, PATIENCE_S, Chat, CompletionService, Written
from playground.data.example import Message
from playground.data.render import encode, render_prompt
from playground.engine.request import SEED_MAX, Sampling
from playground.errors import BaseUnavailableError, BusyError, InputError, NotFoundError
from playground.gpu.manager import QUEUE_LIMIT
from playground.gpu.policy import CAPACITY
from playground.services import Services, build_services
from tests.engine.models import load_base, said_by, save_adapter, with_adapter

HELLO = (Message("user", "Hello"),)


def chat(**options: Any) -> Chat:
    return Chat(**({"model": "base", "messages": HELLO, "sampling": Sampling(max_tokens=6, ignore_eos=True)} | options))


def last(services: Services, asked: Chat) -> list[Written]:
    *_, written = services.completion.complete(asked, "me")
    return written


def test_it_grows_and_ends_with_its_stamp(services: Services) -> None:
    services.bases.engine()
    snapshots = list(services.completion.complete(chat(logprobs=2), "me"))
    counts = [written[0].state.completion_tokens for written in snapshots]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 6)
    (end,) = snapshots[-1]
    assert end.done
    assert end.state.finish == "length"
    assert [len(token.top) for token in end.state.logprobs] == [2] * 6
    assert end.stamp is not None
    assert end.stamp == snapshots[0][0].stamp, "what runs is known from the start"
    assert services.manager.leases() == []


def test_closing_it_frees_the_device_at_once(services: Services) -> None:
    services.bases.engine()
    stream = services.completion.complete(chat(sampling=Sampling(max_tokens=900, ignore_eos=True), replies=4), "me")
    assert len(next(stream)) == 4
    next(stream)
    assert [lease.session for lease in services.manager.leases()] == ["me"]
    stream.close()
    assert services.manager.leases() == []
    assert services.manager.queue() == []


def test_closing_it_in_the_queue_leaves_the_queue(services: Services) -> None:
    services.bases.engine()
    others = [services.manager.request("chat", f"s{n}", "Answering", 1) for n in range(CAPACITY["chat"])]
    stream = services.completion.complete(chat(), "me")
    assert next(stream)[0].waiting.startswith("1st in line")
    assert len(services.manager.queue()) == 1
    stream.close()
    assert services.manager.queue() == []
    for other in others:
        other.cancel()


def test_a_full_queue_is_told_with_a_time_to_come_again(services: Services) -> None:
    services.bases.engine()
    assert services.completion.retry_after_s() == 1
    others = [services.manager.request("chat", f"s{n}", "Answering", 1) for n in range(CAPACITY["chat"] + QUEUE_LIMIT)]
    with pytest.raises(BusyError):
        next(services.completion.complete(chat(), "me"))
    assert 1 <= services.completion.retry_after_s() <= 60
    for other in others:
        other.cancel()


def test_each_reply_takes_the_next_seed(services: Services) -> None:
    services.bases.engine()
    seeds = [
        one.stamp["seed"]
        for one in last(services, chat(sampling=Sampling(max_tokens=2, seed=SEED_MAX), replies=3))
        if one.stamp
    ]
    assert seeds == [SEED_MAX, 0, 1]


def test_a_reply_is_cut_to_the_context_only_where_its_length_was_not_named(services: Services) -> None:
    services.bases.engine()
    long = Sampling(max_tokens=1020, ignore_eos=True)
    with pytest.raises(InputError, match="may take 1020; this base holds 1024"):
        last(services, chat(sampling=long))
    (end,) = last(services, chat(sampling=long, fit=True))
    assert end.state.prompt_tokens + end.state.completion_tokens == 1024
    with pytest.raises(InputError, match="this base holds 1024"):
        last(services, chat(sampling=Sampling(max_tokens=1020, min_tokens=1010), fit=True))


def test_adapters_of_every_kind_that_peft_wrote_are_imported_and_asked(services: Services, tmp_path: Path) -> None:
    """Made by PEFT alone, checked and taken in as from a person, and served: each says what PEFT says."""
    services.bases.engine()
    base = services.bases.resolve().path
    ids = encode(services.bases.tokenizer(), render_prompt(services.bases.tokenizer(), HELLO))
    named = {"deep": "p-tuning-v2", "ptuning": "p-tuning"}
    kinds = ("lora", "dora", "ia3", "prefix", "deep", "prompt", "ptuning", "bottleneck")
    said = set()
    for seed, kind in enumerate(kinds):
        options = {"use_dora": True} if kind == "dora" else {}
        folder = save_adapter(base, tmp_path / kind, "lora" if kind == "dora" else kind, seed, **options)
        card = services.adapters.import_file(folder)
        assert card.method == named.get(kind, kind)
        (end,) = last(services, chat(sampling=Sampling(max_tokens=6), model=card.id))
        truth = said_by(with_adapter(load_base(base), folder), ids, 6)
        assert list(end.state.tokens) == truth.tokens, kind
        assert end.state.prompt_tokens == len(ids)
        assert end.stamp is not None
        assert end.stamp["adapter"] == card.id
        if card.virtual_tokens:
            (end,) = last(services, chat(sampling=Sampling(max_tokens=1020, ignore_eos=True), model=card.id, fit=True))
            assert end.state.prompt_tokens + end.state.completion_tokens + card.virtual_tokens == 1024
            with pytest.raises(
                InputError, match=f"{card.virtual_tokens} of them the adapter's, .* this base holds 1024"
            ):
                last(services, chat(sampling=Sampling(max_tokens=1020), model=card.id))
        said.add(end.state.tokens[:6])
    assert len(said) == len(kinds), "no two say the same"


def test_what_is_not_there_is_said(services: Services) -> None:
    with pytest.raises(NotFoundError, match=r"There is no model 'nobody'\. There is: base"):
        services.completion.card("nobody")
    with pytest.raises(InputError, match="1 to 4"):
        chat(replies=5)


class Waiting:
    """A completion service on a clock that runs only while it waits. after: seconds -> what to call then."""

    def __init__(self, services: Services, after: dict[float, Callable[[], Any]]) -> None:
        self.now, self.after = 0.0, after
        self.service = CompletionService(
            services.settings,
            services.manager,
            services.bases,
            services.adapters,
            services.batches,
            lambda: self.now,
            self.pause,
        )

    def pause(self, seconds: float) -> None:
        self.now += seconds
        if act := self.after.pop(self.now, None):
            act()


def test_a_base_that_is_being_prepared_is_waited_for(services: Services) -> None:
    waiting = Waiting(services, {4 * LOOK_S: services.bases.engine})
    snapshots = list(waiting.service.complete(chat(replies=2), "me"))
    assert [[one.waiting for one in written] for written in snapshots[:4]] == [["Preparing the base"] * 2] * 4
    assert [one.state.completion_tokens for one in snapshots[-1]] == [6, 6]
    assert waiting.now == 4 * LOOK_S


def test_the_wait_for_a_base_is_bounded(services: Services) -> None:
    waiting = Waiting(services, {})
    with pytest.raises(BaseUnavailableError, match="still being prepared"):
        list(waiting.service.complete(chat(), "me"))
    assert waiting.now == PATIENCE_S


def test_a_base_that_fails_while_it_is_waited_for_ends_the_wait(services: Services, tmp_path: Path) -> None:
    broken = build_services(replace(services.settings, base=str(tmp_path)))
    waiting = Waiting(broken, {LOOK_S: lambda: (broken.bases.start(), broken.jobs.wait("base", 60))})
    with pytest.raises(BaseUnavailableError, match="is not a Hugging Face model folder"):
        list(waiting.service.complete(chat(), "me"))
    assert waiting.now == LOOK_S
