from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from playground.chat.compare import Side, Turn, conversation, parse_side
from playground.data.example import Example, Message
from playground.engine.request import Sampling
from playground.errors import InputError
from playground.gpu.policy import CAPACITY
from playground.services import Services
from tests.services.conftest import last, whole_model

SHORT = Sampling(max_tokens=6)


def test_sides_answer_together_each_with_its_own_prompt(services: Services) -> None:
    sides = [Side("base"), Side("base", "Be brief."), Side("nobody")]
    snapshots = list(services.compare.ask(sides, [[], [], []], "Hello", SHORT))
    assert len(snapshots) > 3, "streamed"
    plain, told, wrong = snapshots[-1]
    assert plain.done
    assert plain.completion_tokens == 6
    assert plain.prompt_tokens != told.prompt_tokens
    assert plain.first_token_s is not None
    assert plain.first_token_s <= plain.seconds
    assert "There is no adapter 'nobody'" in wrong.error
    assert plain.stamp is not None
    assert plain.stamp["rows"] == 2
    assert "Be brief." in told.stamp["prompt"]["text"]  # type: ignore[index]
    assert services.manager.leases() == []


def test_half_a_character_ends_its_own_side_only(services: Services) -> None:
    (alone,) = last(services.compare.ask([Side("base")], [[]], "Hello", SHORT))
    wrong, right = last(
        services.compare.ask([Side("base", "Be \ud800 brief."), Side("base")], [[], []], "Hello", SHORT)
    )
    assert "half a character" in wrong.error
    assert (right.text, right.error) == (alone.text, "")


def test_the_prompt_that_ran_is_shown_the_bases_own_default_included(services: Services) -> None:
    (reply,) = last(services.compare.ask([Side("base")], [[]], "Hello", SHORT))
    assert reply.stamp is not None
    assert "named SmolLM" in reply.stamp["prompt"]["text"]


def test_turns_and_shots_come_before_the_question() -> None:
    pool = [Example((Message("user", f"q{n}"), Message("assistant", f"a{n}")), n) for n in range(5)]
    side = Side("base", "sys", 2, Path("x"))
    messages = conversation(side, [Turn("before", "so")], "q3", pool, seed=1)
    assert messages[0] == Message("system", "sys")
    assert [message.content for message in messages[-3:]] == ["before", "so", "q3"]
    assert len(messages) == 1 + 4 + 3
    assert messages == conversation(side, [Turn("before", "so")], "q3", pool, seed=1)
    assert not any(message.content == "q3" for message in messages[:-1]), "the question is never its own shot"


def test_closing_the_stream_frees_the_device(services: Services) -> None:
    stream = services.compare.ask([Side("base")], [[]], "Hello", Sampling(max_tokens=500))
    next(stream)
    next(stream)
    assert services.manager.leases()
    stream.close()
    assert services.manager.leases() == []
    assert services.manager.queue() == []


def test_a_second_question_waits_with_its_place(services: Services) -> None:
    services.bases.engine()
    leases = [services.manager.request("chat", f"other{n}", "Answering", 1).wait(0) for n in range(CAPACITY["chat"])]
    assert all(leases)
    stream = services.compare.ask([Side("base")], [[]], "Hello", SHORT)
    next(stream)
    assert next(stream)[0].waiting.startswith("1st in line, about")
    for lease in leases:
        lease.close()  # type: ignore[union-attr]
    assert last(stream)[0].done


@pytest.mark.parametrize(("question", "words"), [("  ", "Write a question"), ("x" * 30_000, "at most 20000")])
def test_a_question_is_checked(services: Services, question: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        next(services.compare.ask([Side("base")], [[]], question, SHORT))


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


def test_status_adds_up(services: Services) -> None:
    last(services.compare.ask([Side("base")], [[]], "Hello", SHORT))
    status = services.device.status()
    assert status["used_bytes"] == sum(item["bytes"] for item in status["residents"])
    assert status["residents"][0]["bytes"] > 0
    assert services.device.line() == "Device: idle"
    json.dumps(status)
    assert "residents" in services.device.counts()
