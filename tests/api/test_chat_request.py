"""A chat completion's body, field by field."""

import json
from pathlib import Path

import pytest

from playground.data.example import Message
from playground.engine.request import SEED_MAX, Sampling
from playground.errors import InputError
from playground.server.chat_format import MAX_TOKENS, read_chat

USER = {"role": "user", "content": "Hello"}
HELLO = {"model": "base", "messages": [USER]}


def test_every_field_reaches_the_service_and_so_do_smaller_ways_of_saying_it():
    body = HELLO | {"temperature": 0, "top_p": 0.5, "max_tokens": 9, "max_completion_tokens": 8, "seed": 3, "n": 2}
    body |= {"stop": ["a", "b"], "logprobs": True, "top_logprobs": 4, "top_k": 5, "repetition_penalty": 1.2}
    body |= {"min_tokens": 2, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "tools": []}
    neutral |= {"tool_choice": "none", "logit_bias": {}, "user": "me", "metadata": {"a": "b"}, "store": False}
    asked = read_chat(body | neutral | {"service_tier": "auto", "parallel_tool_calls": True, "never_heard_of": 1})
    assert asked.chat.sampling == Sampling(0.0, 0.5, 8, 3, 5, 1.2, ("a", "b"), 2, True)
    assert (asked.chat.replies, asked.chat.logprobs, asked.chat.fit) == (2, 4, False)
    assert (asked.stream, asked.usage) == (True, True)
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "me", "content": parts},
        {"role": "assistant", "content": "", "tool_calls": None},
    ]
    changes = {"messages": messages, "stop": "x", "top_k": -1, "logprobs": True, "min_tokens": 600}
    chat = read_chat(HELLO | changes).chat
    assert chat.messages == (Message("system", "Be brief."), Message("user", "One\nTwo"), Message("assistant", ""))
    assert (chat.sampling.stop, chat.sampling.top_k, chat.logprobs, chat.sampling.max_tokens) == (("x",), 0, 0, 600)


def test_what_is_not_named_is_as_openai_has_it_and_tools_and_calls_stand_in_the_chat():
    asked = read_chat(HELLO)
    assert asked.chat.messages == (Message("user", "Hello"),)
    sampling = asked.chat.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.top_k) == (1.0, 1.0, MAX_TOKENS, 0)
    assert (asked.chat.replies, asked.chat.logprobs, asked.chat.fit) == (1, None, True)
    assert (asked.stream, asked.usage) == (False, False)
    assert 0 <= sampling.seed <= SEED_MAX
    for none in ({}, {"seed": None}, {"seed": -1}):  # -1: as vLLM reads it
        drawn = {read_chat(HELLO | none).chat.sampling.seed for _ in range(8)}
        assert len(drawn) > 1, "a seed is drawn for each"
        assert min(drawn) >= 0
    assert read_chat(HELLO | dict.fromkeys(("seed", "stop", "max_tokens", "n", "tools", "logprobs", "stream_options")))
    look = {"type": "function", "function": {"name": "look", "parameters": {}}}
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"word":"pi"}'}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages = [{"role": "user", "content": "Pi?"}, called, {"role": "tool", "tool_call_id": "c", "content": "3.14"}]
    offered, *turns = read_chat(HELLO | {"messages": messages, "tools": [look]}).chat.messages
    assert (offered.role, json.loads(offered.content)[0]["function"]["name"]) == ("tools", "look")
    written = '<tool_call>\n{"name": "look", "arguments": {"word": "pi"}}\n</tool_call>'
    assert turns == [Message("user", "Pi?"), Message("assistant", written), Message("tool", "3.14")]
    none = read_chat(HELLO | {"tools": [look], "tool_choice": "none"}).chat.messages
    assert [turn.role for turn in none] == ["user"]


ID = {"type": "object", "properties": {"id": {"type": "integer"}}}
HELD = 'json-schema:{"type":"object","properties":{"id":{"type":"integer"}}}'


def test_a_form_is_asked_as_openai_or_vllm_names_it():
    named = {"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": ID}}
    for changes in ({"response_format": named}, {"guided_json": ID}, {"structured_outputs": {"json": ID}}):
        assert read_chat(HELLO | changes).chat.sampling.format == HELD
    assert read_chat(HELLO | {"guided_json": json.dumps(ID)}).chat.sampling.format == f"json-schema:{json.dumps(ID)}"
    assert read_chat(HELLO | {"guided_regex": r"\d+"}).chat.sampling.format == r"regex:\d+"
    assert read_chat(HELLO | {"guided_choice": ["yes", "a.b"]}).chat.sampling.format == r"regex:yes|a\.b"
    whole = read_chat(HELLO | {"response_format": {"type": "json_object"}}).chat.sampling.format
    assert whole == 'json-schema:{"type":"object"}'
    assert read_chat(HELLO | {"structured_outputs": {}, "guided_json": None}).chat.sampling.format == ""


WRONG = [json.loads(line) for line in Path(__file__).with_name("wrong_fields.jsonl").read_text("utf-8").splitlines()]
WRONG.append({"changes": {"temperature": 10**400}, "param": None, "says": "from 0"})


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case['param']}: {case['says']}")
def test_what_is_wrong_is_told_and_a_field_is_named(case):
    """param: the field that is named; null where a number is out of its range."""
    with pytest.raises(InputError, match=r".+\.$") as refused:
        read_chat(HELLO | case["changes"])
    assert getattr(refused.value, "param", None) == case["param"]
    assert case["says"] in str(refused.value)
