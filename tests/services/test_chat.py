"""One conversation to one model, as a program asks it; closed early, refused, fitted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.chat.batching import LOOK_S, PATIENCE_S, Asked, Chat, CompletionService, Written
from playground.chat.compare import Side, Turn, conversation, parse_side
from playground.data.example import Example, Message
from playground.data.render import encode, render_prompt
from playground.engine.llama_memory import STEP
from playground.engine.request import SEED_MAX, Sampling
from playground.errors import BaseUnavailableError, BusyError, InputError, NotFoundError
from playground.gpu.manager import QUEUE_LIMIT, Request
from playground.gpu.policy import CAPACITY
from playground.models.bases import kv_bytes_per_token
from playground.services import Services, build_services
from tests.engine.models import load_base, poison, said_by, save_adapter, with_adapter
from tests.services.conftest import last, whole_model

SHORT = Sampling(max_tokens=6)


def test_sides_answer_together_each_with_its_own_prompt(services: Services) -> None:
    sides = [Side("base"), Side("base", "Be brief."), Side("nobody")]
    snapshots = list(services.compare.ask(sides, [[], [], []], "Hello", SHORT))
    assert len(snapshots) > 3, "streamed"
    plain, told, wrong = snapshots[-1]
    assert (plain.done, plain.completion_tokens) == (True, 6)
    assert plain.prompt_tokens != told.prompt_tokens
    assert 0 < plain.first_token_s <= plain.seconds  # type: ignore[operator]
    assert "There is no adapter 'nobody'" in wrong.error
    assert plain.stamp["rows"] == 2
    assert "Be brief." in told.stamp["prompt"]["text"]  # type: ignore[index]
    assert "named SmolLM" in plain.stamp["prompt"]["text"], "the base's own default is shown"  # type: ignore[index]
    assert services.manager.leases() == []
    status = services.device.status()
    assert status["used_bytes"] == sum(item["bytes"] for item in status["residents"])
    assert status["residents"][0]["bytes"] > 0
    assert services.device.line() == "Device: idle"
    json.dumps(status)
    assert "residents" in services.device.counts()


def test_half_a_character_ends_its_own_side_only(services: Services) -> None:
    (alone,) = last(services.compare.ask([Side("base")], [[]], "Hello", SHORT))
    wrong, right = last(
        services.compare.ask([Side("base", "Be \ud800 brief."), Side("base")], [[], []], "Hello", SHORT)
    )
    assert "half a character" in wrong.error
    assert (right.text, right.error) == (alone.text, "")


def test_turns_and_shots_come_before_the_question() -> None:
    pool = [Example((Message("user", f"q{n}"), Message("assistant", f"a{n}")), n) for n in range(5)]
    side = Side("base", "sys", 2, Path("x"))
    messages = conversation(side, [Turn("before", "so")], "q3", pool, seed=1)
    assert messages[0] == Message("system", "sys")
    assert [message.content for message in messages[-3:]] == ["before", "so", "q3"]
    assert len(messages) == 1 + 4 + 3
    assert messages == conversation(side, [Turn("before", "so")], "q3", pool, seed=1)
    assert not any(message.content == "q3" for message in messages[:-1]), "the question is never its own shot"


def take_every_place(services: Services, more: int = 0) -> list[Request]:
    """Requests of others, each of its own session; ``more`` of them wait."""
    services.bases.engine()
    places = range(CAPACITY["chat"] + more)
    return [services.manager.request("chat", f"other{n}", "Answering", 1) for n in places]


def test_a_second_question_waits_with_its_place(services: Services) -> None:
    others = take_every_place(services)
    stream = services.compare.ask([Side("base")], [[]], "Hello", SHORT)
    next(stream)
    assert next(stream)[0].waiting.startswith("1st in line, about")
    left = services.completion.complete(chat(), "me")
    assert next(left)[0].waiting.startswith("2nd in line")
    assert len(services.manager.queue()) == 2
    left.close()
    assert len(services.manager.queue()) == 1, "closing it in the queue leaves the queue"
    for other in others:
        other.cancel()
    assert last(stream)[0].done


def test_an_adapter_a_full_model_and_the_base_side_by_side(
    services: Services, make_lora: Callable[..., Path], tiny_base: Path
) -> None:
    lora = services.adapters.import_file(make_lora(5)).id
    made = [lora, whole_model(services, tiny_base, noise=0.2)]
    replies = last(services.compare.ask([Side("base"), *map(Side, made)], [[], [], []], "Say 3", SHORT))
    assert all(reply.done and not reply.error for reply in replies)
    assert len({reply.text for reply in replies}) == 3
    assert {row.card.id for row in services.adapters.list() if row.attached} == set(made)
    switch = services.adapters.switch(lora)
    assert switch.unchanged
    assert switch.fingerprint == services.bases.state().fingerprint
    with pytest.raises(InputError, match="whole model"):
        services.adapters.switch("whole")
    for model in made:
        services.adapters.remove(model)
    assert not any(row.attached for row in services.adapters.list())


def test_sides_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Be brief.\n")
    side = parse_side(f"model=base,prompt={tmp_path / 'p.txt'},shots=2,name=Told", tmp_path / "rows.jsonl")
    assert (side.model, side.system_prompt, side.shots, side.label) == ("base", "Be brief.", 2, "Told")
    shots = ("model=base,shots=2", "model=base,shots=x")
    for wrong in ("", "base", "prompt=x", *shots, "model=base,prompt=/nowhere", "model=a,model=b"):
        with pytest.raises(InputError):
            parse_side(wrong)


HELLO = (Message("user", "Hello"),)


def chat(**options: Any) -> Chat:
    return Chat(**({"model": "base", "messages": HELLO, "sampling": Sampling(max_tokens=6, ignore_eos=True)} | options))


def written_by(services: Services, asked: Chat) -> list[Written]:
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


def test_a_full_queue_is_told_with_a_time_to_come_again(services: Services) -> None:
    assert services.completion.retry_after_s() == 1
    others = take_every_place(services, QUEUE_LIMIT)
    with pytest.raises(BusyError):
        next(services.completion.complete(chat(), "me"))
    assert 1 <= services.completion.retry_after_s() <= 60
    for other in others:
        other.cancel()


def test_each_reply_takes_the_next_seed(services: Services) -> None:
    services.bases.engine()
    written = written_by(services, chat(sampling=Sampling(max_tokens=2, seed=SEED_MAX), replies=3))
    assert [one.stamp["seed"] for one in written] == [SEED_MAX, 0, 1]  # type: ignore[index]


def test_a_reply_is_cut_to_the_context_only_where_its_length_was_not_named(services: Services) -> None:
    services.bases.engine()
    long = Sampling(max_tokens=1020, ignore_eos=True)
    with pytest.raises(InputError, match="may take 1020; this base holds 1024"):
        written_by(services, chat(sampling=long))
    (end,) = written_by(services, chat(sampling=long, fit=True))
    assert end.state.prompt_tokens + end.state.completion_tokens == 1024
    with pytest.raises(InputError, match="this base holds 1024"):
        written_by(services, chat(sampling=Sampling(max_tokens=1020, min_tokens=1010), fit=True))


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
        (end,) = written_by(services, chat(sampling=Sampling(max_tokens=6), model=card.id))
        truth = said_by(with_adapter(load_base(base), folder), ids, 6)
        assert list(end.state.tokens) == truth.tokens, kind
        assert end.state.prompt_tokens == len(ids)
        assert end.stamp["adapter"] == card.id
        if card.virtual_tokens:
            (end,) = written_by(
                services, chat(sampling=Sampling(max_tokens=1020, ignore_eos=True), model=card.id, fit=True)
            )
            assert end.state.prompt_tokens + end.state.completion_tokens + card.virtual_tokens == 1024
            with pytest.raises(
                InputError, match=f"{card.virtual_tokens} of them the adapter's, .* this base holds 1024"
            ):
                written_by(services, chat(sampling=Sampling(max_tokens=1020), model=card.id))
        said.add(end.state.tokens[:6])
    assert len(said) == len(kinds), "no two say the same"


def test_what_cannot_be_asked_is_said(services: Services) -> None:
    with pytest.raises(NotFoundError, match=r"There is no model 'nobody'\. There is: base"):
        services.completion.card("nobody")
    with pytest.raises(InputError, match="1 to 4"):
        chat(replies=5)
    for question, words in (("  ", "Write a question"), ("x" * 30_000, "at most 20000")):
        with pytest.raises(InputError, match=words):
            next(services.compare.ask([Side("base")], [[]], question, SHORT))


class Waiting:
    """A completion service on a clock that runs only while it waits. after: seconds -> what to call then."""

    def __init__(self, services: Services, after: dict[float, Callable[[], Any]]) -> None:
        self.now, self.after = 0.0, after
        parts = (services.settings, services.manager, services.bases, services.adapters, services.batches)
        self.service = CompletionService(*parts, lambda: self.now, self.pause)

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


PROMPT = "A beginning that is long enough to be kept for the next question, since it has more than sixteen tokens."


def ask(services: Services, tokens: int = 4, count: int = 1) -> list[Written]:
    written = last(services.batches.run([Asked(None, PROMPT, Sampling(max_tokens=tokens))] * count, "a"))
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
    long = Asked(None, PROMPT, Sampling(max_tokens=STEP))
    for batch, rows in ((asked * 3, 3), ([*asked, long], 2 * 2), (asked, 1)):
        with contextlib.closing(services.batches.run(batch, "a")) as run:
            leased = next([lease.bytes for lease in services.manager.leases()] for _ in run)
            assert leased == [rows * row]
    ask(services)
    assert services.bases.engine().backend.scheduler.kv_cache.bytes <= row


def test_a_reply_whose_adapter_overflows_fails_alone(services: Services, make_lora: Callable[..., Path]) -> None:
    alone = ask(services)[0].state.tokens
    card = services.adapters.import_file(make_lora(3))
    services.adapters.attach(card.id)
    poison(services.bases.engine(), card.path, 3e38, card.id)
    asked = [Asked(one, PROMPT, Sampling(max_tokens=4)) for one in (None, card, None)]
    left, broken, right = last(services.batches.run(asked, "a"))
    assert [(one.state.tokens, one.failure) for one in (left, right)] == [(alone, None)] * 2
    assert broken.done
    assert f"{card.id} makes numbers overflow" in str(broken.failure)
