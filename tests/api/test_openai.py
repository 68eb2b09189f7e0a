"""Shapes, errors and the device's queue, on the routes alone; a fake stands for the model where none is needed."""

import asyncio
import contextlib
import json
import threading
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette

from playground.chat.batching import Written
from playground.engine.request import RowState, TokenLogprob, stamp_hash
from playground.errors import BaseUnavailableError, BusyError, OutOfMemoryError, RunFailedError
from playground.server.chat_format import Chunks, read_chat
from playground.server.gate import LIMIT_BYTES
from playground.server.routes import THREADS_MAX, Follower, build_routes
from playground.services import build_services
from tests.api.conftest import on_a_port, sent, told
from tests.refused import refused
from tests.waiting import wait_for

CHAT = "/v1/chat/completions"
HELLO = {"model": "base", "messages": [{"role": "user", "content": "Hello"}]}
STAMP = {"base": "3f9a", "seed": 7}
LOGPROBS = (TokenLogprob("Hi", -0.5, (("Hi", -0.5), ("Oh", float("-inf")))), TokenLogprob(" é", -1.0))


def following():
    return [thread for thread in threading.enumerate() if thread.name == "follow"]


def post(caller, **changes):
    return caller.post(CHAT, json=HELLO | changes)


@pytest.fixture
def faked(here, settings):
    """(what is written, or raised) -> a caller of the routes."""
    return lambda *script: here(services=served_by(settings, FakeCompletion(*script)))


NOT_THERE = {
    "model_not_found": ["GET /v1/models/nobody"],
    "not_found": ["GET /v1/models/..%2Fx", "GET /v1/files", f"GET {CHAT}", "POST /v1/models", "POST /v1/embeddings"],
}


HALVES = [b'"\\ud800"', b'"a \\udfff b"', b'"\xed\xa0\x80"']
HALVED = [
    b'{"model": %s, "messages": [{"role": "user", "content": "Hello"}]}',
    b'{"model": "base", "messages": [{"role": "user", "content": [{"type": "text", "text": %s}]}]}',
    b'{"model": "base", "messages": [{"role": %s, "content": "Hello"}]}',
    *(json.dumps(HELLO)[:-1].encode() + more for more in (b', "stop": ["a", %s], "stream": true}', b", %s: 1}")),
    b"%s",
]
WRONG = [
    *((body, "not JSON") for body in (b"", b'{"temperature": NaN}', b"\xff", b"[" * 100_000)),
    *((b"{", "line 1"), (b"[1]", "a JSON list"), (b'{"model": "base"}', "messages")),
    (json.dumps(HELLO | {"n": 9}).encode(), "1 to 4"),
    *((body % half, "half a character") for body in HALVED for half in HALVES),
]


def test_a_wrong_request_is_one_sentence_and_no_error_of_ours(faked, caplog):
    caller = faked([said("Hi", "stop")])
    for body, says in WRONG:
        answer = caller.post(CHAT, content=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), body[:80]
        assert says in told(answer)[2]
    for large in (b" " * (LIMIT_BYTES + 1), (b" " * 1000 for _ in range(LIMIT_BYTES // 1000 + 2))):
        answer = caller.post(CHAT, content=large)  # the length of the second is not told beforehand
        assert (answer.status_code, str(LIMIT_BYTES) in told(answer)[2]) == (413, True)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_is_not_there_or_wrong_is_told_in_openais_shape_before_the_base_is_there(here):
    for code, method, route in ((code, *asked.split()) for code, routes in NOT_THERE.items() for asked in routes):
        answer = here().request(method, route)
        assert told(answer)[:2] == (404, code), route
        error = answer.json()["error"]
        assert ("There is" in error["message"], error["type"]) == (True, "invalid_request_error")
        assert set(error) == {"message", "type", "param", "code"}
    assert post(here(), tools=[{}]).json()["error"]["param"] == "tools"
    status, code, message = told(post(here(), model="nobody"))
    assert (status, code, "There is: base" in message) == (404, "model_not_found", True)


class FakeCompletion:
    """Writes what it was given; an error in it is raised."""

    def __init__(self, *script):
        self.script, self.sessions = script, []

    def complete(self, chat, session):
        self.sessions.append(session)
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item

    def retry_after_s(self):
        return 3


def served_by(settings, completion):
    services = build_services(settings)
    services.completion = completion
    return services


def said(text, finish="", tokens=1, seed=7):
    return Written(RowState(text, 5, tokens, finish=finish, logprobs=LOGPROBS[:tokens]), stamp=STAMP | {"seed": seed})


WAITING = [Written(waiting="1st in line, about 4 s")]
SCRIPT = (WAITING, [Written(stamp=STAMP)], [said("Hi", tokens=1)], [said("Hi é", "stop", tokens=2)])


def test_a_whole_reply_has_every_field(here, settings):
    fake = FakeCompletion(*SCRIPT)
    answer = post(here(services=served_by(settings, fake)), logprobs=True, top_logprobs=2)
    found = answer.json()
    assert (answer.status_code, found["id"][:9]) == (200, "chatcmpl-")
    assert (found["object"], found["model"], found["playground"]) == ("chat.completion", "base", STAMP)
    assert found["system_fingerprint"] == stamp_hash(STAMP)
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hi é", "refusal": None}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    first, second = choice["logprobs"]["content"]
    assert first["top_logprobs"][1] == {"token": "Oh", "logprob": -9999.0, "bytes": [79, 104]}
    assert second == {"token": " é", "logprob": -1.0, "bytes": [32, 195, 169], "top_logprobs": []}
    assert fake.sessions == ["v1 127.0.0.1"]


def test_a_thought_is_told_beside_the_content_whole_and_streamed(faked):
    def thought(text, of="", finish="", tokens=3):
        return [Written(RowState(text, 5, tokens, finish=finish, thought=of, thought_tokens=2), stamp=STAMP)]

    caller = faked(thought("", "Hm", tokens=2), thought("Yes", "Hmm."), thought("Yes.", "Hmm.", "stop"))
    found = post(caller).json()
    message = {"role": "assistant", "content": "Yes.", "refusal": None, "reasoning_content": "Hmm."}
    assert found["choices"][0]["message"] == message
    assert found["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    deltas = [chunk["choices"][0]["delta"] for chunk in events(post(caller, stream=True))[0]]
    told = ["".join(delta.get(name, "") for delta in deltas) for name in ("reasoning_content", "content")]
    assert told == ["Hmm.", "Yes."], "in steps as large as the reader is slow"


LOOK = {"type": "function", "function": {"name": "look", "description": "Looks up.", "parameters": {}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"word": "pi"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "called"),
    [
        (f"I look.\n{CALL}", "I look.", True),
        ('{"name": "look", "parameters": {"word": "pi"}}', None, True),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', False),
        ("It is 3.14.", "It is 3.14.", False),
        *((text, text, False) for text in ("[look(word={[]: 1})]", "[look(word=b'pi')]", "[look(word={1})]")),
        *((text, text, False) for text in (CALL.replace('"pi"', "{1}"), f"[TOOL_CALLS]look{'[' * 5000}")),
    ],
)
def test_calls_of_offered_tools_are_told_apart_whole_and_streamed(faked, text, content, called):
    caller = faked([said(text[:9])], [said(text, "stop")])
    (choice,) = post(caller, tools=[LOOK]).json()["choices"]
    (*_, told, ended) = [chunk["choices"][0] for chunk in events(post(caller, tools=[LOOK], stream=True))[0]]
    for message, finish in ((choice["message"], choice["finish_reason"]), (told["delta"], ended["finish_reason"])):
        assert (message["content"], finish) == (content, "tool_calls" if called else "stop")
        functions = [call["function"] for call in message.get("tool_calls", ())]
        assert functions == ([{"name": "look", "arguments": '{"word": "pi"}'}] if called else [])
    asked = {"model": "base", "messages": [{"role": "user", "content": "Pi?"}], "tools": [LOOK], "logprobs": True}
    chunks = Chunks(read_chat(asked).chat, usage=False)
    snapshots = ([said(text[:9])], [said(text, "stop", tokens=2)])
    deltas = [one["choices"][0]["delta"] for written in snapshots for one in chunks.of(written)]
    assert "".join(delta.get("content") or "" for delta in deltas) == (content or ""), "once, beside its logprobs, too"
    assert post(caller).json()["choices"][0]["message"]["content"] == text, "where none is offered it is text"


def events(answer):
    """(chunks, comments) of a stream that ends as it should."""
    parts = [part for part in answer.text.split("\n\n") if part]
    assert parts[-1] == "data: [DONE]"
    chunks = [json.loads(part[6:]) for part in parts[:-1] if part.startswith("data: ")]
    return chunks, [part for part in parts if part[0] == ":"]


def test_chunks_begin_with_the_role_and_end_with_stamp_and_counts(faked):
    answer = post(faked(*SCRIPT), stream=True, logprobs=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(answer)[0]
    about = {(chunk["id"], chunk["object"], chunk["system_fingerprint"]) for chunk in (*chunks, last)}
    assert about == {(last["id"], "chat.completion.chunk", stamp_hash(STAMP))}
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert deltas[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(choice["delta"].get("content", "") for choice in deltas) == "Hi é"
    tokens = [token["token"] for choice in deltas if choice["logprobs"] for token in choice["logprobs"]["content"]]
    assert tokens == ["Hi", " é"]
    assert [choice["finish_reason"] for choice in deltas if choice["finish_reason"]] == ["stop"]
    assert (deltas[-1]["delta"], chunks[-1]["playground"]) == ({}, STAMP)
    assert (last["choices"], last["usage"]["total_tokens"], last["playground"]) == ([], 7, STAMP)
    assert {chunk["usage"] for chunk in chunks} == {None}


ERRORS = {
    (429, "queue_full", "3"): BusyError("The queue is full."),
    (503, "base_unavailable", "5"): BaseUnavailableError("No base."),
    (400, "out_of_memory", None): OutOfMemoryError("Too much."),
    (500, None, None): RunFailedError("It failed."),
}


@pytest.mark.parametrize("stream", [False, True])
def test_errors_keep_their_words(faked, stream):
    for (status, code, retry_s), raised in ERRORS.items():
        answer = post(faked(raised), stream=stream)
        assert (*told(answer), answer.headers.get("retry-after")) == (status, code, str(raised), retry_s)


def test_an_error_in_mid_stream_is_an_event_and_a_bug_shows_no_inside(faked, caplog):
    for raised, end in ((RunFailedError("It is gone."), "It is gone."), (ZeroDivisionError("inside"), "the details.")):
        chunks, comments = events(post(faked(WAITING, raised), stream=True))
        assert comments == [": 1st in line, about 4 s"], "also while it waits the connection lives"
        assert chunks[-1]["error"]["message"].endswith(end)
    answer = post(faked(ZeroDivisionError("inside")))
    assert (answer.status_code, "inside" in answer.text) == (500, False)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_waiting_for_a_base_and_the_writing(settings, stream):
    begun, closed = threading.Event(), threading.Event()

    def endless(chat, session):
        try:
            while True:
                yield [said("Hi")]
                begun.set()
        finally:
            closed.set()

    writing = served_by(settings, SimpleNamespace(complete=endless))
    for services, holds in ((build_services(settings), following), (writing, begun.is_set)):
        with on_a_port(Starlette(routes=build_routes(services, "internal"))) as url:
            with sent(url, CHAT, json.dumps(HELLO | {"stream": stream}).encode()):
                wait_for(holds)
                assert not closed.is_set()
            wait_for(lambda: not following())
    assert closed.wait(30)


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
