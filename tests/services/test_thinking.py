"""A base that thinks (templates of Qwen3 and Qwen3.6, which begins thoughts itself), or calls tools (Qwen2.5's)."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from playground.chat.compare import Side, Turn
from playground.chat.programs import Chat, all_replies, parse_side, read_saved
from playground.data.example import Message
from playground.data.render import render_example
from playground.engine.request import Sampling
from playground.runs.request import TrainRequest
from playground.verdict.request import VerdictRequest
from tests.refused import refused
from tests.services.conftest import last, put_rows, supervised
from tests.services.forked import ForkedGPU
from tests.soak.torture import wait_state

FORM = 'json-schema:{"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}'
SHORT = Sampling(max_tokens=6)


@pytest.fixture(scope="module", params=["qwen3", "qwen3_6"])
def base(request, tiny_base, tmp_path_factory):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, (trl,) = tmp_path_factory.mktemp(request.param), find_spec("trl").submodule_search_locations
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_base), AutoModelForCausalLM.from_pretrained(tiny_base)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = (Path(trl) / "chat_templates" / f"{request.param}.jinja").read_text(encoding="utf-8")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def on_base(settings, base):
    """Its runs are forks of this process."""
    return supervised(replace(settings, base=str(base), zero_seconds=100_000), zero=ForkedGPU(replies=False))


@pytest.fixture
def thinks(settings, base):
    with on_base(settings, base) as built:
        yield built


def ask(services, *sides, sampling=SHORT, history=()):
    snapshots = list(services.compare.ask(sides, [list(history)] * len(sides), "Say 3", sampling))
    assert all(one.done and not one.error for one in snapshots[-1]), snapshots[-1]
    return snapshots


def prompt_of(reply):
    return reply.stamp["prompt"]["text"]


def test_a_side_thinks_or_not_and_its_form_comes_after_the_thought(thinks, base):
    held = [Side("base", format=FORM, think=True), Side("base", format=FORM), Side("base", format=FORM, think=False)]
    *growing, (on, by_itself, off) = ask(thinks, *held, sampling=Sampling(max_tokens=60))
    assert any(one[0].thought_tokens and not one[0].text for one in growing), "the thought is shown while it grows"
    assert "<think>" not in "".join(one.text + one.thought for step in growing for one in step)
    for one in (on, by_itself, off):
        assert isinstance(json.loads(one.text)["id"], int), "whole, however long the thought"
        assert one.completion_tokens <= 60
    assert (on.text, on.thought_tokens > 20, off.thought_tokens) == (by_itself.text, True, 0)
    assert prompt_of(off).endswith("<think>\n\n</think>\n\n")
    assert [one.stamp["sampling"]["think"] for one in (on, by_itself, off)] == [True, None, False]
    saved = all_replies(thinks.compare, held[:1], ["Say 3"], Sampling(max_tokens=60))
    assert (saved[0]["text"], saved[0]["thought_tokens"]) == (on.text, on.thought_tokens)
    assert thinks.replay.again(read_saved(saved[0])[0])["same"] is True
    refused("Let replies have at least", all_replies, thinks.compare, held[:1], ["Say 3"], SHORT, error=Exception)


def test_a_thought_that_the_limit_cuts_off_is_an_empty_reply_and_no_thought_goes_back(thinks, base):
    history = [Turn("Before", "So.")]
    *_, (on, off) = ask(thinks, Side("base", think=True), Side("base", think=False), history=history)
    assert "So.<|im_end|>" in prompt_of(on), "the earlier reply as it was shown"
    assert off.text
    if prompt_of(on).endswith("<think>\n"):
        assert (on.text, on.thought_tokens, on.completion_tokens, on.cut) == ("", 6, 6, True)
        assert on.thought
    asked = Chat("base", (Message("user", "Hi"),), replace(SHORT, think=False))
    (written,) = last(thinks.completion.complete(asked, "me"))
    assert written.stamp["prompt"]["text"].endswith("</think>\n\n")


def test_what_is_learned_without_thoughts_is_asked_without_and_with_them_with_them(thinks, base, tmp_path):
    file = put_rows(tmp_path / "rows.jsonl")
    aloud = tmp_path / "aloud.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    aloud.write_text("\n".join(json.dumps(row | {"reasoning_content": "Count."}) for row in rows))
    runs = [thinks.training.start(TrainRequest(one, one.stem, "lora", steps=1)) for one in (file, aloud)]
    plain, thought = [thinks.adapters.get(wait_state(thinks, run, "DONE").adapter) for run in runs]
    assert (plain.think, thought.think) == (False, None)
    tokenizer = thinks.bases.tokenizer()
    *_, (one, two) = ask(thinks, Side(plain.id), Side(thought.id))
    for card, reply, path in ((plain, one, file), (thought, two, aloud)):
        examples = thinks.data.check(path).examples
        (example,) = [each for each in examples if each.messages[-2].content == "Say 3"]
        learned = render_example(tokenizer, example, 2048)
        assert prompt_of(reply) == learned.prompt_text, card.name
        assert ("Count." in learned.completion_text) == (card is thought)
        assert example.completion == "Number 3, gladly.", "references hold no thoughts"
    sides = (Side("base", name="Base"), Side(plain.id, name="Tuned"))
    asked = VerdictRequest(aloud, sides, ("contains:gladly",), limit=2, max_tokens=6, forgetting=False)
    view = last(thinks.verdicts.run(asked))
    assert view.state == "DONE", view.error
    thought = {row["side"]: row["thought_tokens"] for row in thinks.verdicts.rows(view.id)}
    assert thought == {"Base": 6 * base.name.startswith("qwen3_6"), "Tuned": 0}


def test_on_and_off_are_refused_where_the_template_has_no_switch(services):
    *_, (reply,) = services.compare.ask([Side("base", think=True)], [[]], "Hello", SHORT)
    assert "has no switch that turns thinking on and off" in reply.error
    assert [parse_side(f"model=base,think={word}").think for word in ("on", "off")] == [True, False]
    assert parse_side("model=base,think=off").label == "base + no thinking"
    refused("neither on nor off", parse_side, "model=base,think=maybe")


WEATHER = {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object", "required": ["city"]}}


def asked_about(city):
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    call = {"id": city, "type": "function", "function": function}
    return [
        {"role": "user", "content": f"How warm is {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": city, "content": f"12 in {city}"},
        {"role": "assistant", "content": f"It is 12 degrees in {city}."},
    ]


def test_a_base_with_tools_is_checked_trained_and_judged_by_its_calls(settings, tiny_base, tmp_path):
    (trl,) = find_spec("trl").submodule_search_locations
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    shutil.copyfile(Path(trl) / "chat_templates" / "qwen2_5.jinja", base / "chat_template.jinja")
    cities = ["Rome", "Oslo", "Bonn", "Lima", "Pisa", "Kiel"]
    file, replies = tmp_path / "calls.jsonl", tmp_path / "replies.jsonl"
    rows = [{"messages": asked_about(city), "tools": [{"type": "function", "function": WEATHER}]} for city in cities]
    file.write_text("\n".join(map(json.dumps, rows)))
    said = [row | {"messages": asked_about(city)[:2]} for row, city in zip(rows, [*cities[:5], "Kiew"], strict=True)]
    said[5]["messages"][0] = rows[5]["messages"][0]
    replies.write_text("\n".join(map(json.dumps, said)))
    with on_base(settings, base) as built:
        checked = built.data.check(file)
        row = built.data.row(checked, 1, 2048)
        assert [turn["role"] for turn in row["turns"]] == ["tools", "user", "assistant", "tool", "assistant"]
        assert [turn["learned"] for turn in row["turns"]] == [False, False, True, False, True]
        assert '"description": "The weather."' in row["text"]
        assert '\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>' in row["text"]
        assert "<tool_response>\n12 in Rome\n</tool_response>" in row["text"]
        run = built.training.start(TrainRequest(file, "calls", "lora", steps=1))
        card = built.adapters.get(wait_state(built, run, "DONE").adapter)
        sides = (Side("base", name="Base"), Side(card.id, name="Tuned"), parse_side(f"replies={replies},name=Said"))
        view = last(built.verdicts.run(VerdictRequest(file, sides, max_tokens=6, forgetting=False)))
        assert view.state == "DONE", view.error
        assert view.record["right"] == "tool"
        found = {side["side"]: side["metrics"] for side in view.record["sides"]}
        assert found["Base"]["pass"]["value"] == found["Tuned"]["pass"]["value"] == 0
        figures = {"field:tool": 1, "field:get_weather.city": 5 / 6, "pass": 5 / 6}
        assert {name: found["Said"][name]["value"] for name in figures} == figures
        first = next(row for row in built.verdicts.rows(view.id) if row["side"] == "Tuned")
        assert "The weather." in first["prompt"], "the tools are in the prompt"
        assert first["prompt"].endswith("How warm is Rome?<|im_end|>\n<|im_start|>assistant\n")
        assert (first["question"], first["reference"].count("<tool_call>")) == ("How warm is Rome?", 1)
        plain = built.verdicts.run(VerdictRequest(file, sides[:1], right=("exact",), max_tokens=6, forgetting=False))
        said = built.verdicts.rows(last(plain).id)[0]
        assert said["reference"] == "It is 12 degrees in Rome.", "where words are right, those after the result"
        assert "12 in Rome" in said["prompt"]
