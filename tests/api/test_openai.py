"""Shapes, errors and the device's queue, on the routes alone; a fake stands for the model where none is needed."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.chat.batching import Chat, CompletionService, Written
from playground.engine.request import RowState, TokenLogprob, stamp_hash
from playground.errors import BaseUnavailableError, BusyError, OutOfMemoryError, RunFailedError
from playground.gpu.manager import QUEUE_LIMIT
from playground.gpu.policy import CAPACITY
from playground.server.access import LIMIT_BYTES
from playground.server.routes import build_routes
from playground.services import Services, build_services
from playground.settings import Settings
from tests.api.conftest import on_a_port, sent, wait_until

Here = Callable[..., TestClient]
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "Hello"}]}
STAMP = {"base": "3f9a", "seed": 7}
LOGPROBS = (TokenLogprob("Hi", -0.5, (("Hi", -0.5), ("Oh", float("-inf")))), TokenLogprob(" é", -1.0))


def following() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "follow"]


NOT_THERE = {
    "model_not_found": ["GET /v1/models/nobody"],
    "not_found": ["GET /v1/models/..%2Fx", "GET /v1/files", f"GET {CHAT}", "POST /v1/models", "POST /v1/embeddings"],
}


def test_what_is_not_there_is_told_in_openais_shape(here: Here) -> None:
    for code, method, route in ((code, *asked.split()) for code, routes in NOT_THERE.items() for asked in routes):
        answer = here().request(method, route)
        assert answer.status_code == 404, route
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("invalid_request_error", code)
        assert "There is" in error["message"]


HALVES = [b'"\\ud800"', b'"a \\udfff b"', b'"\xed\xa0\x80"']
HALVED = [
    b'{"model": %s, "messages": [{"role": "user", "content": "Hello"}]}',
    b'{"model": "base", "messages": [{"role": "user", "content": [{"type": "text", "text": %s}]}]}',
    b'{"model": "base", "messages": [{"role": %s, "content": "Hello"}]}',
    b'{"model": "base", "messages": [{"role": "user", "content": "Hello"}], "stop": ["a", %s], "stream": true}',
    b'{"model": "base", "messages": [{"role": "user", "content": "Hello"}], %s: 1}',
    b"%s",
]
WRONG: list[tuple[bytes, str]] = [
    *((body, "not JSON") for body in (b"", b'{"temperature": NaN}', b"\xff", b"[" * 100_000)),
    *((b"{", "line 1"), (b"[1]", "a JSON list"), (b'{"model": "base"}', "messages")),
    (json.dumps(HELLO | {"n": 9}).encode(), "1 to 4"),
    *((body % half, "half a character") for body in HALVED for half in HALVES),
]


def test_a_wrong_request_is_one_sentence_and_no_error_of_ours(
    here: Here, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caller = here(services=with_fake(settings, [said("Hi", "stop")]))
    for body, says in WRONG:
        answer = caller.post(CHAT, content=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), body[:80]
        assert says in answer.json()["error"]["message"]
    for large in (b" " * (LIMIT_BYTES + 1), (b" " * 1000 for _ in range(LIMIT_BYTES // 1000 + 2))):
        answer = caller.post(CHAT, content=large)  # the length of the second is not told beforehand
        assert answer.status_code == 413
        assert str(LIMIT_BYTES) in answer.json()["error"]["message"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_is_wrong_is_told_before_the_base_is_there(here: Here) -> None:
    assert here().post(CHAT, json=HELLO | {"tools": [{}]}).json()["error"]["param"] == "tools"
    answer = here().post(CHAT, json=HELLO | {"model": "nobody"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "There is: base" in answer.json()["error"]["message"]


def impatient(services: Services) -> Services:
    """Its clock goes on a minute at each look: nobody waits for real."""
    clock = itertools.count(step=60)
    parts = (services.settings, services.manager, services.bases, services.adapters, services.batches)
    services.completion = CompletionService(*parts, lambda: next(clock), lambda _: None)
    return services


def test_a_base_that_is_not_there_in_time_is_503_and_says_when_to_come_again(here: Here, settings: Settings) -> None:
    caller = here(services=impatient(build_services(settings)))
    answer = caller.post(CHAT, json=HELLO)
    assert answer.status_code == 503
    assert "still being prepared" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0
    chunks, comments = events(caller.post(CHAT, json=HELLO | {"stream": True}))
    assert set(comments) == {": Preparing the base"}
    assert chunks[-1]["error"]["code"] == "base_unavailable"


def test_in_its_first_seconds_the_app_answers_once_the_base_is_there(here: Here, settings: Settings) -> None:
    services = build_services(settings)
    caller = here(services=services)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: caller.post(CHAT, json=HELLO | {"max_tokens": 2}))
        wait_until(following)
        services.bases.start()
        assert asked.result(60).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_the_base_is_prepared_is_waited_for_no_more(
    settings: Settings, stream: bool
) -> None:
    with on_a_port(Starlette(routes=build_routes(build_services(settings), "internal"))) as url:
        with sent(url, CHAT, json.dumps(HELLO | {"stream": stream}).encode()):
            wait_until(following)
        wait_until(lambda: not following())


def test_a_base_that_failed_is_503_with_its_reason(here: Here, settings: Settings) -> None:
    services = build_services(Settings(home=settings.home, base="/nowhere/at/all"))
    services.bases.start()
    wait_until(lambda: services.bases.state().phase == "failed")
    answer = here(services=services).post(CHAT, json=HELLO)
    assert answer.status_code == 503
    assert "/nowhere/at/all" in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def loaded(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = build_services(Settings(home=tmp_path_factory.mktemp("loaded") / "home", base=str(tiny_base)))
    services.bases.engine()
    yield services
    services.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_429_and_says_when_to_come_again(here: Here, loaded: Services, stream: bool) -> None:
    many = QUEUE_LIMIT + CAPACITY["chat"]
    waiting = [loaded.manager.request("chat", f"s{n}", "Answering", 1) for n in range(many)]
    answer = here(services=loaded).post(CHAT, json=HELLO | {"stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    for request in waiting:
        request.cancel()
    assert here(services=loaded).post(CHAT, json=HELLO | {"stream": stream, "max_tokens": 2}).status_code == 200
    assert loaded.manager.leases() == []


def test_a_place_in_line_is_told_while_it_waits(loaded: Services) -> None:
    leases = [loaded.manager.request("chat", f"s{n}", "Answering", 1).lease for n in range(CAPACITY["chat"])]
    with on_a_port(Starlette(routes=build_routes(loaded, "internal"))) as url, httpx.Client(timeout=60) as client:
        body = HELLO | {"stream": True, "max_tokens": 3, "temperature": 0}
        with client.stream("POST", url + CHAT, json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(": 1st in line, about")
            for lease in leases:
                lease.close()  # type: ignore[union-attr]
            assert list(lines)[-2] == "data: [DONE]"
    assert loaded.manager.leases() == []


class FakeCompletion:
    """Writes what it was given; an error in it is raised."""

    base = "smollm2-135m"

    def __init__(self, *script: list[Written] | Exception) -> None:
        self.script = script
        self.asked: list[tuple[Chat, str]] = []

    def complete(self, chat: Chat, session: str) -> Generator[list[Written]]:
        self.asked.append((chat, session))
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item

    def retry_after_s(self) -> int:
        return 3


def with_fake(settings: Settings, *script: list[Written] | Exception) -> Services:
    services = build_services(settings)
    services.completion = FakeCompletion(*script)  # type: ignore[assignment]
    return services


def said(text: str, finish: str = "", tokens: int = 1, seed: int = 7) -> Written:
    return Written(RowState(text, 5, tokens, finish=finish, logprobs=LOGPROBS[:tokens]), stamp=STAMP | {"seed": seed})


WAITING = [Written(waiting="1st in line, about 4 s")]
SCRIPT = (WAITING, [Written(stamp=STAMP)], [said("Hi", tokens=1)], [said("Hi é", "stop", tokens=2)])


def test_a_whole_reply_has_every_field(here: Here, settings: Settings) -> None:
    services = with_fake(settings, *SCRIPT)
    answer = here(services=services).post(CHAT, json=HELLO | {"logprobs": True, "top_logprobs": 2})
    found = answer.json()
    assert answer.status_code == 200
    assert found["id"].startswith("chatcmpl-")
    assert (found["object"], found["model"], found["playground"]) == ("chat.completion", "base", STAMP)
    assert found["system_fingerprint"] == stamp_hash(STAMP)
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hi é", "refusal": None}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    first, second = choice["logprobs"]["content"]
    assert first["top_logprobs"][1] == {"token": "Oh", "logprob": -9999.0, "bytes": [79, 104]}
    assert second == {"token": " é", "logprob": -1.0, "bytes": [32, 195, 169], "top_logprobs": []}
    assert services.completion.asked[0][1] == "v1 127.0.0.1"  # type: ignore[attr-defined]


def events(answer: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """(chunks, comments) of a stream that ends as it should."""
    parts = [part for part in answer.text.split("\n\n") if part]
    assert parts[-1] == "data: [DONE]"
    chunks = [json.loads(part[6:]) for part in parts[:-1] if part.startswith("data: ")]
    return chunks, [part for part in parts if part[0] == ":"]


def test_chunks_begin_with_the_role_and_end_with_stamp_and_counts(here: Here, settings: Settings) -> None:
    body = HELLO | {"stream": True, "logprobs": True, "stream_options": {"include_usage": True}}
    answer = here(services=with_fake(settings, *SCRIPT)).post(CHAT, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks, _ = events(answer)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["system_fingerprint"] for chunk in chunks} == {stamp_hash(STAMP)}
    deltas = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert deltas[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(choice["delta"].get("content", "") for choice in deltas) == "Hi é"
    tokens = [token["token"] for choice in deltas if choice["logprobs"] for token in choice["logprobs"]["content"]]
    assert tokens == ["Hi", " é"]
    assert [choice["finish_reason"] for choice in deltas if choice["finish_reason"]] == ["stop"]
    assert (deltas[-1]["delta"], chunks[-2]["playground"]) == ({}, STAMP)
    assert chunks[-1]["choices"] == []
    assert (chunks[-1]["usage"]["total_tokens"], chunks[-1]["playground"]) == (7, STAMP)
    assert {chunk["usage"] for chunk in chunks[:-1]} == {None}


ERRORS = {
    (429, "queue_full", "3"): BusyError("The queue is full."),
    (503, "base_unavailable", "5"): BaseUnavailableError("No base."),
    (400, "out_of_memory", None): OutOfMemoryError("Too much."),
    (500, None, None): RunFailedError("It failed."),
}


@pytest.mark.parametrize("stream", [False, True])
def test_errors_keep_their_words(here: Here, settings: Settings, stream: bool) -> None:
    for expected, raised in ERRORS.items():
        answer = here(services=with_fake(settings, raised)).post(CHAT, json=HELLO | {"stream": stream})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.headers.get("retry-after")) == expected
        assert error["message"] == str(raised)


def test_an_error_in_mid_stream_is_an_event_and_a_bug_shows_no_inside(
    here: Here, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    body = HELLO | {"stream": True}
    services = with_fake(settings, [said("Hi")], RunFailedError("The device is gone."))
    assert events(here(services=services).post(CHAT, json=body))[0][-1]["error"]["message"] == "The device is gone."
    services = with_fake(settings, [said("Hi")], ZeroDivisionError("inside"))
    assert events(here(services=services).post(CHAT, json=body))[0][-1]["error"]["message"].endswith("has the details.")
    answer = here(services=with_fake(settings, ZeroDivisionError("inside"))).post(CHAT, json=HELLO)
    assert answer.status_code == 500
    assert "inside" not in answer.text
    assert "ZeroDivisionError" in caplog.text


class EndlessCompletion(FakeCompletion):
    """Writes for ever; tells when it began and when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.closed = threading.Event(), threading.Event()

    def complete(self, chat: Chat, session: str) -> Generator[list[Written]]:
        try:
            while True:
                yield [said("Hi")]
                self.begun.set()
        finally:
            self.closed.set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_writing(settings: Settings, stream: bool) -> None:
    endless = EndlessCompletion()
    services = build_services(settings)
    services.completion = endless  # type: ignore[assignment]
    with on_a_port(Starlette(routes=build_routes(services, "internal"))) as url:
        with sent(url, CHAT, json.dumps(HELLO | {"stream": stream}).encode()):
            assert endless.begun.wait(30)
            assert not endless.closed.is_set()
        assert endless.closed.wait(30)
        wait_until(lambda: not following())
