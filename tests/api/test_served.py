"""The open app, asked with OpenAI's own client, on the tiny base with three adapters."""

import itertools
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from playground.cli.main import main
from playground.server.observed import JsonLines
from playground.verdict.handover import Handover
from tests.api.conftest import MODELS
from tests.refused import refused
from tests.services.conftest import reply, server
from tests.waiting import wait_for

__all__ = ["server"]
ALL = ["base", *MODELS]


def ask(served, model="base", text="Tell me about the report.", **options):
    """A whole reply; with ``stream=True`` the list of its chunks."""
    messages = [{"role": "user", "content": text}]
    with served.client() as client:
        found = client.chat.completions.create(model=model, messages=messages, **({"max_tokens": 16} | options))
        return list(found) if options.get("stream") else found


def text_of(reply):
    return str(reply.choices[0].message.content)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("temperature", [0, 0.9])
def test_whole_and_streamed_are_one_reply(served, model, temperature):
    options = {"model": model, "temperature": temperature, "seed": 11}
    whole = ask(served, **options)
    chunks = ask(served, stream=True, stream_options={"include_usage": True}, **options)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == text_of(whole)
    assert (choices[-1].finish_reason, chunks[-1].usage) == (whole.choices[0].finish_reason, whole.usage)
    assert whole.usage.completion_tokens <= 16
    assert chunks[-1].playground == whole.playground
    assert whole.playground["adapter"] == (None if model == "base" else model)
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}


def test_four_models_asked_at_once_answer_as_when_asked_alone(served):
    options = {"temperature": 0, "seed": 5, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    alone = {model: text_of(ask(served, model, **options)) for model in ALL}
    assert len(set(alone.values())) == 4, "the adapters differ from each other and from the base"
    barrier = threading.Barrier(4)

    def at_once(model):
        barrier.wait(30)
        return text_of(ask(served, model, **options))

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            assert dict(zip(ALL, pool.map(at_once, ALL), strict=True)) == alone
    assert served.services.manager.leases() == []


def test_a_reply_is_held_to_a_form_and_several_take_the_seeds_that_follow(served):
    schema = {"type": "object", "properties": {"late": {"type": "boolean"}}, "required": ["late"]}
    named = {"type": "json_schema", "json_schema": {"name": "mail", "schema": schema}}
    whole = ask(served, response_format=named, temperature=0.9, seed=3)
    assert isinstance(json.loads(text_of(whole))["late"], bool)
    assert whole.choices[0].finish_reason == "stop"
    chunks = ask(served, response_format=named, temperature=0.9, seed=3, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text_of(whole)
    assert text_of(ask(served, extra_body={"guided_choice": ["yes", "no"]})) in ("yes", "no")
    with pytest.raises(openai.BadRequestError, match="The shortest reply of the form") as refused:
        ask(served, extra_body={"guided_regex": "a{600}b"}, max_tokens=2)
    assert refused.value.type == "invalid_request_error"
    options = {"n": 3, "seed": 20, "temperature": 1}
    several, alone = ask(served, **options), ask(served, seed=21, temperature=1)
    texts = [choice.message.content for choice in several.choices]
    assert (len(set(texts)), [choice.playground["seed"] for choice in several.choices]) == (3, [20, 21, 22])
    assert ({choice.playground["rows"] for choice in several.choices}, texts[1]) == ({3}, text_of(alone))
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens, "read once"
    assert alone.usage.completion_tokens < several.usage.completion_tokens <= 48
    streamed = ["", "", ""]
    for chunk in ask(served, stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_models_are_the_base_and_its_adapters_and_the_system_message_and_earlier_turns_are_read(served):
    with served.client() as client:
        models = list(client.models.list())
        assert {(model.id, model.parent) for model in models} == {("base", None), *[(name, "base") for name in MODELS]}
        told = {(model.root, model.object, type(model.created)) for model in models}
        assert told == {(served.services.settings.base, "model", int)}
        for model in models:
            assert client.models.retrieve(model.id).model_dump() == model.model_dump()
        refused("There is no model 'nobody'", client.models.retrieve, "nobody", error=openai.NotFoundError)
    turns = {"system": "Answer as a pirate.", "user": "Hello", "assistant": "Ahoy"}
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns.items()]
    messages.append({"role": "user", "content": "And now?"})
    with served.client() as client:
        reply = client.chat.completions.create(model="base", messages=messages, max_tokens=1)
    places = [reply.playground["prompt"]["text"].index(text) for text in (*turns.values(), "And now?")]
    assert places == sorted(places)


def test_replay_and_status_through_the_open_app(served, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PLAYGROUND_HOME", str(served.services.settings.home))
    monkeypatch.setenv("PLAYGROUND_BASE", served.services.settings.base)

    def call(*words):
        capsys.readouterr()
        return main([*words, "--json"]), json.loads(capsys.readouterr().out.splitlines()[-1])

    def replay(value):
        (tmp_path / "saved.json").write_text(json.dumps(value))
        return call("replay", str(tmp_path / "saved.json"))

    reply = ask(served, "two", temperature=1, n=2).model_dump()
    code, found = replay(reply)
    assert (code, found["same"], [one["same"] for one in found["replies"]]) == (0, True, [True, True])
    code, found = replay(reply["choices"][1]["playground"] | {"adapter_sha256": "0" * 64})
    assert (code, "two has changed since" in found["error"]) == (2, True)
    code, found = call("status")
    here = served.services.device.status()
    told, there = ([part["name"] for part in state["parts"] if part["bytes"]] for state in (found, here))
    assert (code, told) == (0, there)


def test_a_hand_over_through_the_open_app_tells_how_far_it_is_and_stops_at_once(
    served, here, server, tmp_path, monkeypatch, capsys
):
    held, listed, mine = threading.Event(), {"data": [{"id": "m"}]}, {"authorization": "Bearer internal-token"}
    server.say = lambda path, body: (
        (200, listed) if path.endswith("/models") else (held.wait(30), (200, reply("no")))[1]
    )
    (file := tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    caller, asked = here(services=served.services), Handover("two", f"{server.url}/v1", file).as_json()

    def post(path, body):
        return caller.post(f"/internal/handover{path}", json=body, headers=mine).json()

    about = post("", asked)
    wait_for(lambda: post("/show", about)["of"] == 8)
    assert post("", asked)["error"].startswith("You compare a server already")
    post("/show", about | {"stop": True})
    wait_for(lambda: post("/show", about)["error"] == "Stopped.")  # while the server still owes its replies
    held.set()
    assert "not known here" in post("/show", {"id": "of yesterday"})["error"]
    monkeypatch.setenv("PLAYGROUND_HOME", str(served.services.settings.home))
    monkeypatch.setenv("PLAYGROUND_BASE", served.services.settings.base)
    words = ("handover", "two", "--to", "endpoint", "--url", f"{server.url}/v1", "--rows", str(file), "--json")
    code, found = main([*words]), json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, found["rows"], found["same"], found["endpoint"]["model"]) == (0, 4, False, "m")


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


def figures(url):
    """Prometheus' samples, by name and labels."""
    families = text_string_to_metric_families(httpx.get(url + "metrics").text)
    return {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}


def test_metrics_count_replies_requests_and_what_the_device_holds(served):
    before = figures(served.url)
    replies = [ask(served, model, max_tokens=5, extra_body={"ignore_eos": True}) for model in ("base", "one")]
    after = figures(served.url)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    read = sum(reply.usage.prompt_tokens for reply in replies)
    assert (
        grown["playground_replies_total", "here", "length"],
        grown["playground_first_token_seconds_count", "here"],
    ) == (2, 2)
    assert (
        grown["playground_tokens_total", "completion", "here"],
        grown["playground_tokens_total", "here", "prompt"],
    ) == (10, read)
    assert grown["playground_request_seconds_count", "/v1/chat/completions", "200"] == 2
    status = httpx.get(served.url + "status").json()
    assert after["playground_memory_bytes", "budget"] == status["budget_bytes"]
    assert (after["playground_base_ready",], after["playground_residents",], after["playground_queue_length",]) == (
        1,
        1,
        0,
    )


def test_a_request_keeps_its_plain_id_in_answer_and_log_and_the_log_holds_no_text(served, caplog):
    handler = caplog.handler
    handler.setFormatter(JsonLines())
    body = {"model": "base", "messages": [{"role": "user", "content": "SECRET"}], "max_tokens": 2}
    with caplog.at_level("INFO", "playground"):
        mine = httpx.post(
            served.url + "v1/chat/completions", json=body, headers={"x-request-id": "order-7"}, timeout=60
        )
        odd = httpx.get(served.url + "healthz", headers={"x-request-id": 'a"b c'})
    assert (mine.headers["x-request-id"], re.fullmatch("[0-9a-f]{16}", odd.headers["x-request-id"]) is None) == (
        "order-7",
        False,
    )
    lines = [json.loads(line) for line in handler.stream.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "order-7"]
    assert {name: line[name] for name in ("level", "method", "route", "status")} == {
        **{"level": "info", "method": "POST", "route": "/v1/chat/completions", "status": 200}
    }
    assert "SECRET" not in handler.stream.getvalue()


def test_a_page_from_elsewhere_reads_nothing_does_nothing_and_is_told_what_to_do(served):
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
        mend = "Open it as localhost, or start it with PLAYGROUND_ALLOWED_HOSTS=playground.example where that is a name"
        assert answer.text == f"This app may not be opened as 'playground.example'. {mend} of this app."
        for headers in ({}, *FOREIGN):  # a probe is told nothing but that it lives
            answer = client.get("healthz", headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"ok": True})
    assert not list(served.services.settings.incoming_dir.rglob("*evil*"))


def test_the_apps_own_page_works(served):
    own = {"origin": served.url.rstrip("/"), "sec-fetch-site": "same-origin"}
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    with httpx.Client(base_url=served.url, timeout=20) as client:
        assert (client.get("", headers=link).status_code, client.head("").status_code) == (200, 200)
        for path in ("", "config", "status", "theme.css", "static/fonts/IBMPlexSans/IBMPlexSans-Bold.woff2"):
            assert client.get(path, headers=own).status_code == 200, path
        (sent,) = client.post("gradio_api/upload", files={"files": ("mine.jsonl", b"{}")}, headers=own).json()
    assert Path(sent).is_relative_to(served.services.settings.incoming_dir)


def test_litellm_and_langchain_talk_to_it(served):
    why = "shows two more clients; pip install litellm langchain-openai"
    litellm = pytest.importorskip("litellm", reason=why)
    langchain = pytest.importorskip("langchain_openai", reason=why)
    text, wanted = "Tell me about the report.", text_of(ask(served, "two", temperature=0, seed=1))
    options = {"temperature": 0, "seed": 1, "max_tokens": 16}
    there = {"base_url": served.url + "v1", "api_key": "none"}
    messages = [{"role": "user", "content": text}]
    assert (
        litellm.completion(model="openai/two", messages=messages, **there, **options).choices[0].message.content
        == wanted
    )
    chat = langchain.ChatOpenAI(model="two", **there, **options)
    assert chat.invoke(text).content == wanted == "".join(part.content for part in chat.stream(text))
