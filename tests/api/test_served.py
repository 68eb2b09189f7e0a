"""The open app, asked with OpenAI's own client, on the tiny base with three adapters."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from playground.cli.main import main
from tests.api.conftest import MODELS, Served

ALL = ["base", *MODELS]


def ask(served: Served, model: str = "base", text: str = "Tell me about the report.", **options: Any) -> Any:
    """A whole reply; with ``stream=True`` the list of its chunks."""
    messages: Any = [{"role": "user", "content": text}]
    with served.client() as client:
        found = client.chat.completions.create(model=model, messages=messages, **({"max_tokens": 16} | options))
        return list(found) if options.get("stream") else found


def text_of(reply: Any) -> str:
    return str(reply.choices[0].message.content)


def test_models_are_the_base_and_its_adapters(served: Served) -> None:
    with served.client() as client:
        models = list(client.models.list())
        assert {(model.id, model.parent) for model in models} == {("base", None), *[(name, "base") for name in MODELS]}
        told = {(model.root, model.object, type(model.created)) for model in models}
        assert told == {(served.settings.base, "model", int)}
        for model in models:
            assert client.models.retrieve(model.id).model_dump() == model.model_dump()
        with pytest.raises(openai.NotFoundError, match="There is no model 'nobody'"):
            client.models.retrieve("nobody")


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("temperature", [0, 0.9])
def test_whole_and_streamed_are_one_reply(served: Served, model: str, temperature: float) -> None:
    options: dict[str, Any] = {"model": model, "temperature": temperature, "seed": 11}
    whole = ask(served, **options)
    chunks = ask(served, stream=True, stream_options={"include_usage": True}, **options)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == text_of(whole)
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens <= 16
    assert chunks[-1].playground == whole.playground
    assert whole.playground["adapter"] == (None if model == "base" else model)
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}


def test_four_models_asked_at_once_answer_as_when_asked_alone(served: Served) -> None:
    options: dict[str, Any] = {"temperature": 0, "seed": 5, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    alone = {model: text_of(ask(served, model, **options)) for model in ALL}
    assert len(set(alone.values())) == 4, "the adapters differ from each other and from the base"
    barrier = threading.Barrier(4)

    def at_once(model: str) -> str:
        barrier.wait(30)
        return text_of(ask(served, model, **options))

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            assert dict(zip(ALL, pool.map(at_once, ALL), strict=True)) == alone
    assert served.services.manager.leases() == []


def test_the_seed_decides_and_is_told(served: Served) -> None:
    one, again, other = (ask(served, temperature=1.2, seed=seed) for seed in (1, 1, 2))
    assert text_of(one) == text_of(again) != text_of(other)
    assert (one.system_fingerprint, one.playground["seed"]) == (again.system_fingerprint, 1)
    drawn = ask(served)
    assert drawn.playground["sampling"]["temperature"] == 1.0
    assert text_of(ask(served, seed=drawn.playground["seed"])) == text_of(drawn)


def test_several_replies_take_the_seeds_that_follow_and_keep_their_place(served: Served) -> None:
    options: dict[str, Any] = {"n": 3, "seed": 20, "temperature": 1}
    several, alone = ask(served, **options), ask(served, seed=21, temperature=1)
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) == 3
    assert [choice.playground["seed"] for choice in several.choices] == [20, 21, 22]
    assert {choice.playground["rows"] for choice in several.choices} == {3}
    assert texts[1] == text_of(alone)
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens, "read once"
    assert alone.usage.completion_tokens < several.usage.completion_tokens <= 48
    streamed = ["", "", ""]
    for chunk in ask(served, stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_the_system_message_and_earlier_turns_are_read(served: Served) -> None:
    turns = {"system": "Answer as a pirate.", "user": "Hello", "assistant": "Ahoy"}
    messages: Any = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns.items()]
    messages.append({"role": "user", "content": "And now?"})
    with served.client() as client:
        reply = client.chat.completions.create(model="base", messages=messages, max_tokens=1)
    places = [reply.playground["prompt"]["text"].index(text) for text in (*turns.values(), "And now?")]
    assert places == sorted(places)


def test_logprobs_are_of_the_tokens_that_were_written(served: Served) -> None:
    whole = ask(served, temperature=0, logprobs=True, top_logprobs=3)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 for token in content)
    assert all(token.top_logprobs[0].logprob == token.logprob <= 0 for token in content), (
        "greedy: the likeliest is drawn"
    )
    chunks = ask(served, stream=True, temperature=0, logprobs=True, top_logprobs=3)
    told = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert told == content
    assert ask(served).choices[0].logprobs is None


def test_a_stop_string_ends_the_reply_and_is_cut_off(served: Served) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40, "extra_body": {"ignore_eos": True}}
    full = text_of(ask(served, **options))
    stop = full[len(full) // 2 :][:4]
    stopped = ask(served, stop=[stop, "never to be seen"], **options)
    assert (text_of(stopped), stopped.choices[0].finish_reason) == (full[: full.index(stop)], "stop")
    assert stopped.usage.completion_tokens < 40
    parts = [chunk.choices[0].delta.content or "" for chunk in ask(served, stream=True, stop=stop, **options)]
    assert "".join(parts) == full[: full.index(stop)]


def test_min_tokens_and_ignore_eos_keep_it_writing(served: Served) -> None:
    for extra in ({"ignore_eos": True}, {"min_tokens": 60}):
        long = ask(served, temperature=1, seed=3, max_tokens=60, extra_body=extra)
        assert (long.usage.completion_tokens, long.choices[0].finish_reason) == (60, "length")
    with pytest.raises(openai.BadRequestError, match="shortest reply"):
        ask(served, extra_body={"min_tokens": 61}, max_tokens=60)


def test_what_does_not_fit_is_refused_and_the_rest_is_filled(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="this base holds 1024"):
        ask(served, max_tokens=1020)
    with pytest.raises(openai.BadRequestError, match="this base holds 1024"):
        ask(served, text="word " * 1100, max_tokens=openai.omit)
    almost = ask(served, text="word " * 940, max_tokens=openai.omit, extra_body={"ignore_eos": True})
    assert almost.usage.total_tokens == 1024


def test_replay_and_status_through_the_open_app(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLAYGROUND_HOME", str(served.settings.home))
    monkeypatch.setenv("PLAYGROUND_BASE", served.settings.base)

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        return main([*words, "--json"]), json.loads(capsys.readouterr().out.splitlines()[-1])

    def replay(value: Any) -> tuple[int, dict[str, Any]]:
        (tmp_path / "saved.json").write_text(json.dumps(value))
        return call("replay", str(tmp_path / "saved.json"))

    reply = ask(served, "two", temperature=1, n=2).model_dump()
    code, found = replay(reply)
    assert (code, found["same"], [one["same"] for one in found["replies"]]) == (0, True, [True, True])
    stamp = reply["choices"][1]["playground"]
    code, found = replay(stamp)
    assert (code, found["same"], found["text"]) == (0, None, reply["choices"][1]["message"]["content"])
    code, found = replay(stamp | {"adapter_sha256": "0" * 64})
    assert code == 2
    assert "two has changed since" in found["error"]
    code, found = call("status")
    assert (code, found.get("error")) == (0, None)
    assert [part["name"] for part in found["parts"] if part["bytes"]] == [
        part["name"] for part in served.services.device.status()["parts"] if part["bytes"]
    ]


# -- asked by pages from elsewhere -----------------------------------------------------------------------------------

GET = [
    *("", "config", "status", "theme.css", "robots.txt", "internal/status", "v1/models", "gradio_api/info"),
    *("gradio_api/app_id", "gradio_api/heartbeat/x", "gradio_api/queue/data?session_hash=x"),
    *("gradio_api/upload_progress?upload_id=x", "gradio_api/file=/etc/passwd"),
]
POST = [
    *("gradio_api/queue/join", "gradio_api/call/keep", "gradio_api/cancel", "gradio_api/reset"),
    *("internal/compare", "v1/chat/completions"),
]
FOREIGN = [
    *({"host": host} for host in ("evil.example", "evil.example:7860", "localhost.evil.example")),
    *({"origin": origin} for origin in ("http://evil.example", "null", "http://192.168.1.66:7860")),
    {"host": "192.168.1.5:7860", "origin": "http://evil.example"},
]


def test_a_page_from_elsewhere_reads_nothing_does_nothing_and_is_told_what_to_do(served: Served) -> None:
    body = json.dumps({"fn_index": 0, "data": [], "session_hash": "x", "event_id": "x"}).encode()
    with httpx.Client(base_url=served.url, timeout=20) as client:
        for route, headers in itertools.product(GET, FOREIGN):
            answer = client.get(route, headers=headers)
            assert answer.status_code == 403, (route, headers)
            assert "PLAYGROUND_" in answer.text or "null" in str(headers) or route.startswith("internal")
        kinds = ("application/json", "text/plain")  # a browser sends the second without asking first
        for headers in [*FOREIGN, {"sec-fetch-site": "cross-site"}]:
            for route, kind in itertools.product(POST, kinds):
                answer = client.post(route, content=body, headers={"content-type": kind, **headers})
                assert answer.status_code == 403, (route, headers)
            form = {"files": ("evil.jsonl", b"{}")}
            assert client.post("gradio_api/upload", files=form, headers=headers).status_code == 403
        answer = client.get("", headers={"host": "playground.example", "accept": "text/html"})
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text == (
            "This app may not be opened as 'playground.example'. Open it as localhost, or start it with "
            "PLAYGROUND_ALLOWED_HOSTS=playground.example where that is a name of this app."
        )
        for headers in ({}, *FOREIGN):  # a probe is told nothing but that it lives
            answer = client.get("healthz", headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"ok": True})
    assert not list(served.settings.incoming_dir.rglob("*evil*"))


def test_the_apps_own_page_works(served: Served) -> None:
    own = {"origin": served.url.rstrip("/"), "sec-fetch-site": "same-origin"}
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    with httpx.Client(base_url=served.url, timeout=20) as client:
        assert client.get("", headers=link).status_code == 200
        assert client.head("").status_code == 200
        for path in ("", "config", "status", "theme.css", "static/fonts/IBMPlexSans/IBMPlexSans-Bold.woff2"):
            assert client.get(path, headers=own).status_code == 200, path
        (sent,) = client.post("gradio_api/upload", files={"files": ("mine.jsonl", b"{}")}, headers=own).json()
    assert Path(sent).is_relative_to(served.settings.incoming_dir)
