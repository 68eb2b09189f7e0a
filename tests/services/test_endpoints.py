"""Other servers as sides, against a small server of the test's own: what is sent, what comes back, what goes wrong."""

import json
import stat
import threading
import time
from dataclasses import replace

import gradio as gr
import pytest

from playground.chat.batching import Asked
from playground.chat.compare import Side
from playground.chat.programs import parse_side, read_saved
from playground.data.example import CHANNELS, Message
from playground.engine.request import Sampling
from playground.errors import EndpointError, NotFoundError
from playground.evaluation.comparison import Questions
from playground.evaluation.cost import Prices
from playground.models.endpoints import Endpoint, Endpoints
from playground.models.remote import Client, Remote, Spending
from playground.services import build_services
from playground.settings import Settings
from playground.ui import servers, side
from playground.ui.wiring import Visit
from playground.verdict.request import VerdictRequest
from tests.cli.conftest import call
from tests.refused import refused
from tests.services.conftest import last, reply, streamed

__all__ = ["call"]
KEY = "sk-very-secret"
ASKED = (Message("system", "Be brief."), Message("user", "Which?"))


@pytest.fixture
def endpoint(server, monkeypatch):
    monkeypatch.setenv("DEEP_KEY", KEY)
    said = reply("It is A", prompt_tokens=1000, completion_tokens=50, cached_tokens=400)
    server.say = lambda path, body: (200, {"object": "list", "data": []} if path.endswith("models") else said)
    return Endpoint("deep", f"{server.url}/v1/", "deep", "DEEP_KEY", 2.0, 8.0, 0.5)


def ask(client, *asked, sampling=Sampling(max_tokens=9), spending=None):  # noqa: B008
    sending = client.send([(Remote(one, ASKED, spending or Spending()), sampling) for one in asked])
    assert sending.wait(30)
    return sending.replies


def called(pieces):
    return *(({"tool_calls": [piece]}, None) for piece in pieces), ({}, "tool_calls")


def test_tools_are_sent_with_calls_and_results_and_calls_that_come_in_pieces_are_the_reply(server, endpoint):
    pieces = [{"id": "a", "function": {"name": "look", "arguments": ""}}, {"function": {"arguments": '{"word":'}}]
    pieces = [{"index": 0} | piece for piece in (*pieces, {"function": {"arguments": '"e"}'}})]
    said = streamed(({"content": "I look."}, None), *called(pieces))
    server.say = lambda path, body: (200, said)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    call = '<tool_call>\n{"name": "look", "arguments": {"word": "%s"}}\n</tool_call>'
    asked = (Message("tools", json.dumps(tools)), Message("user", "Pi?"), Message("assistant", call % "pi"))
    sending = Client().send([(Remote(endpoint, (*asked, Message("tool", "3.14"))), Sampling(max_tokens=9))])
    assert sending.wait(30)
    assert (sending.replies[0].state.text, sending.replies[0].state.finish) == (f"I look.\n{call % 'e'}", "tool_calls")
    sent = json.loads(server.asked[-1][2])
    assert sent["tools"] == tools
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "tool"]
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"word": "pi"}'}
    assert sent["messages"][2]["tool_call_id"] == sent["messages"][1]["tool_calls"][0]["id"]


@pytest.mark.parametrize("places", [(None, None, None), (None, 0, 0), (0, None, None), (1, 2, 2)])
def test_calls_that_a_server_numbers_in_part_or_not_at_all_are_told_apart(server, endpoint, places):
    said = [{"name": "look", "arguments": "{}"}, {"name": "find", "arguments": ""}, {"arguments": "{}"}]
    pieces = [{"index": place, "function": one} for place, one in zip(places, said, strict=True)]
    server.say = lambda path, body: (200, streamed(*called(pieces)))
    (heard,) = ask(Client(), endpoint)
    calls = [f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>' for name in ("look", "find")]
    assert heard.state.text == "\n".join(calls)


def test_a_reply_comes_with_its_tokens_price_reason_and_time(server, endpoint, monkeypatch):
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "of-another-server")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: of-another-server")
    (heard,) = ask(Client(), endpoint, sampling=Sampling(0.7, 0.9, 9, 3, stop=("END",)))
    state = heard.state
    assert (state.text, state.finish, state.prompt_tokens, state.completion_tokens) == ("It is A", "stop", 1000, 50)
    assert 0 < state.first_token_s <= state.seconds
    assert heard.price == pytest.approx((600 * 2.0 + 400 * 0.5 + 50 * 8.0) / 1e6)
    ((path, shown, sent),) = server.asked
    assert (path, shown) == ("/v1/chat/completions", f"Bearer {KEY}")
    body = json.loads(sent)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
    drawn = {name: body[name] for name in ("temperature", "top_p", "max_tokens", "seed", "stop")}
    assert drawn == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 9, "seed": 3, "stop": ["END"]}
    assert "of-another-server" not in str(server.headers)
    stamp = heard.stamp
    assert (stamp["endpoint"]["answered_as"], stamp["usage"]["cached_tokens"]) == ("deep-2", 400)
    assert KEY not in f"{stamp} {heard} {endpoint}"
    ask(Client(), replace(endpoint, key_env=""))
    assert server.asked[-1][1] == "", "no key of the environment goes to a server that names none"


WRONG = (
    (401, {"error": {"message": f"Wrong key {KEY}"}}, "answered 401. Check DEEP_KEY"),
    (400, {"error": {"message": f"{KEY}: too many tokens"}}, "answered 400 .*too many tokens"),
    (404, {}, "Check its url and model in endpoints.toml"),
    (429, {}, "no more requests now"),
    (500, {}, "answered 500. Try again"),
    (302, {}, "point it straight"),
    *((200, said, "does not answer as a chat completion") for said in (b"<html>", {"choices": []}, b"data: [1]\n\n")),
    (200, reply("half a", finish=""), "broke off"),
)


@pytest.mark.parametrize(("status", "said", "words"), WRONG)
def test_what_goes_wrong_is_told_without_the_key_and_nothing_is_followed(server, endpoint, status, said, words):
    server.say = lambda path, body: (status, said)
    (heard,) = ask(Client(retries=0), endpoint)

    def fails():
        raise heard.failure

    assert KEY not in refused(words, fails, error=EndpointError)
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}


def test_a_busy_server_is_asked_again_and_one_that_is_gone_is_not_asked_for_every_row(server, endpoint):
    turns = iter([(429, {}), (503, {}), (200, reply("At last"))])
    server.say = lambda path, body: next(turns)
    (heard,) = ask(Client(), endpoint)
    assert (heard.state.text, len(server.asked)) == ("At last", 3)
    server.say = lambda path, body: (500, {})
    asked = len(server.asked)
    heard = ask(Client(retries=1), *[endpoint] * 20)
    assert all("answered 500" in str(one.failure) for one in heard)
    assert len(server.asked) - asked <= 2 * endpoint.concurrency
    gone = replace(endpoint, url="http://127.0.0.1:9/v1")
    _, away = ask(Client(retries=0), replace(endpoint, model="m"), gone)
    assert "cannot be reached" in str(away.failure)


def test_a_reply_that_breaks_off_is_begun_anew_and_an_unknown_setting_is_left_out(server, endpoint):
    turns = iter([(200, reply("one two", finish="")), (200, reply("<think>\nHm. </think> one two three"))])
    server.say = lambda path, body: next(turns)
    (heard,) = ask(Client(retries=0), endpoint, sampling=Sampling(max_tokens=9, think=True))
    assert (heard.state.text, heard.state.thought, heard.failure) == ("one two three", "Hm.", None)
    assert json.loads(server.asked[-1][2])["chat_template_kwargs"] == {"enable_thinking": True}
    assert heard.state.thought_tokens == 2
    apart = [{"reasoning_content": "Hm"}, {"reasoning": "m."}, {"content": "Yes."}]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]} for delta in apart]
    server.say = lambda path, body: (200, "".join(f"data: {json.dumps(one)}\n\n" for one in chunks).encode())
    (heard,) = ask(Client(retries=0), endpoint)
    assert (heard.state.text, heard.state.thought, heard.state.thought_tokens) == ("Yes.", "Hmm.", 2)
    assert b"chat_template_kwargs" not in server.asked[-1][2]
    server.say = lambda path, body: (200, reply(f"{CHANNELS.begin}Hm. Well.{CHANNELS.end}Yes, gladly.<|return|>"))
    (heard,) = ask(Client(retries=0), endpoint)
    assert (heard.state.text, heard.state.thought, heard.state.thought_tokens) == ("Yes, gladly.", "Hm. Well.", 1)

    def strict(path, body):
        if "max_tokens" in (said := json.loads(body)):
            error = {"message": "Unsupported: 'max_tokens'.", "param": "max_tokens", "code": "unsupported_parameter"}
            return 400, {"error": error}
        return 200, reply(f"{said['max_completion_tokens']}")

    server.say, client = strict, Client(retries=0)
    for _ in range(2):
        (heard,) = ask(client, endpoint)
        assert (heard.state.text, "max_tokens" in heard.stamp["sampling"]) == ("9", False)
    assert len(server.asked) == 4 + 3, "what it does not know is remembered"


SCHEMA = '{"type": "object"}'
NAMED = {"name": "reply", "schema": {"type": "object"}, "strict": True}
HELD = (
    ("json", {"response_format": {"type": "json_object"}}),
    (f"json-schema:{SCHEMA}", {"response_format": {"type": "json_schema", "json_schema": NAMED}}),
    (r"regex:yes|no", {"guided_regex": "yes|no", "structured_outputs": {"regex": "yes|no"}}),
)


@pytest.mark.parametrize(("form", "sent"), HELD)
def test_a_form_is_sent_as_servers_take_it_and_one_that_refuses_it_says_so(server, endpoint, form, sent):
    ask(Client(), endpoint, sampling=Sampling(format=form))
    body = json.loads(server.asked[-1][2])
    assert {name: body[name] for name in sent} == sent
    server.say = lambda path, body: (400, {"error": {"message": "Unrecognized: guided_regex, response_format"}})
    (heard,) = ask(Client(retries=0), endpoint, sampling=Sampling(format=form))
    assert "does not hold its replies to this form (" in str(heard.failure)


def test_no_more_requests_at_once_and_a_minute_than_the_server_takes_nor_more_paid_than_the_cap(server, endpoint):
    now, most, lock = 0, 0, threading.Lock()

    def slow(path, body):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return 200, reply("yes")

    server.say = slow
    ask(Client(), *[replace(endpoint, concurrency=2)] * 6)
    assert most == 2
    began = time.monotonic()
    ask(Client(), *[replace(endpoint, requests_per_minute=600)] * 4)
    assert time.monotonic() - began >= 0.3
    server.say = lambda path, body: (200, reply("It is A", prompt_tokens=30, completion_tokens=9))
    paid, dearest = (30 * 2.0 + 9 * 8.0) / 1e6, endpoint.most(ASKED, 9)
    spending, before = Spending(2.1 * paid + dearest), len(server.asked)
    heard = ask(Client(), *[replace(endpoint, concurrency=1)] * 6, spending=spending)
    assert [one.failure is None for one in heard] == [True] * 3 + [False] * 3
    assert (len(server.asked) - before, spending.requests, spending.spent) == (3, 3, pytest.approx(3 * paid))
    assert "spend cap" in str(heard[-1].failure)


def test_a_stop_ends_the_requests(server, endpoint):
    came, go = threading.Event(), threading.Event()

    def wait(path, body):
        came.set()
        go.wait(20)
        return 200, reply("late")

    server.say = wait
    sending = Client().send([(Remote(endpoint, ASKED), Sampling())])
    assert came.wait(20)
    sending.close()
    assert sending.wait(5)
    go.set()
    assert not sending.replies[0].done


GOOD = '[deep]\nurl = "http://127.0.0.1:1/v1"\nmodel = "m"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[deep", "cannot be read"),
        ("deep = 1", "is no table"),
        (GOOD + f'key = "{KEY}"', "has key. .*key_env names"),
        (GOOD + f'key_env = "{KEY}"', "never a key"),
        (GOOD + "prompt_per_million = -1\nconcurrency = 0", "prompt_per_million takes .* concurrency takes"),
        ('[deep]\nurl = "http://me:secret@x/v1"', "url takes .* model is missing"),
        ("[deep]\nurl = 1\nmodel = 2", "url takes .* model is missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_a_key(tmp_path, text, words):
    file = tmp_path / "endpoints.toml"
    file.write_text(text)
    told = refused(words, Endpoints(file).all)
    assert "secret" not in told


def test_the_file_is_the_owners_and_one_that_is_added_can_be_read_again(tmp_path, endpoint):
    mine = Settings.from_env({"PLAYGROUND_HOME": str(tmp_path)})
    there = Endpoints(mine.endpoints_file)
    assert there.all() == []
    refused("no endpoint 'deep'. There are none yet", there.get, "endpoint:deep", error=NotFoundError)
    there.add(endpoint)
    there.add(other := replace(endpoint, name="other", key_env="", cached_per_million=None, requests_per_minute=30))
    assert Endpoints(mine.endpoints_file).all() == [endpoint, other]
    assert stat.S_IMODE((tmp_path / "endpoints.toml").stat().st_mode) == 0o600
    assert replace(mine, shared=True).endpoints_file is None, "only the owner's environment counts"
    named = Settings.from_env({"PLAYGROUND_HOME": str(tmp_path), "PLAYGROUND_ENDPOINTS": str(tmp_path / "gone.toml")})
    assert (there.remove("endpoint:deep"), there.all()) == (endpoint, [other])
    refused("no endpoint 'deep'", there.remove, "deep", error=NotFoundError)
    refused("cannot be read", Endpoints(named.endpoints_file, named=True).all)
    refused("whoever runs the app", Endpoints(named.endpoints_file, named=True).add, endpoint)


def test_it_answers_beside_the_base_and_is_not_replayed(settings, server, endpoint):
    Endpoints(settings.endpoints_file).add(endpoint)
    services = build_services(settings)
    sides = [Side("base"), parse_side("model=endpoint:deep,name=Deep"), Side("endpoint:gone")]
    *_, (base, deep, gone) = services.compare.ask(sides, [()] * 3, "Which?", Sampling(max_tokens=4))
    assert (base.done, base.error) == (True, "")
    assert (deep.text, deep.prompt_tokens, deep.stamp["price"]) == ("It is A", 1000, pytest.approx(0.0018))
    assert "no endpoint 'gone'" in gone.error
    (saved,) = read_saved({"side": "Deep", "text": deep.text, "stamp": deep.stamp})
    refused("not replayable: remote.*deep at 127.0.0.1", services.replay.check, saved)
    server.say = lambda path, body: (200, reply("no usage"))
    one = Asked(None, "", Sampling(max_tokens=4), remote=Remote(endpoint, ASKED))
    *_, (written,) = services.batches.run([one], "local")
    assert written.state.prompt_tokens > 3 > 0 < written.state.completion_tokens
    assert (written.stamp["usage"]["reported"], written.stamp["price"]) == (False, None)
    services.close()


@pytest.fixture
def asked(rows_file, settings, endpoint):
    """Base and server on six short rows; the server is on this machine."""
    Endpoints(settings.endpoints_file).add(endpoint)
    sides = (Side("base", "Be glad.", name="Base"), Side("endpoint:deep", "Be glad.", name="Deep"))
    return VerdictRequest(rows_file, sides, ("contains:gladly",), limit=6, max_tokens=5, forgetting=False)


def test_a_verdict_has_it_on_the_rung_of_a_larger_model_at_its_own_prices(services, asked, server):
    request = replace(asked, prices=Prices(device_per_hour=1.0), questions=Questions(volume=1000), losses=True)
    view = last(services.verdicts.run(request))
    assert (view.state, view.error) == ("DONE", "")
    record = view.record
    base, deep = record["sides"]
    assert (base["kind"], deep["kind"]) == ("prompt", "larger-model")
    assert deep["endpoint"] == {
        **{"name": "deep", "model": "deep", "host": "127.0.0.1", "answered_as": "deep-2"},
        "prices": {"prompt_per_million": 2.0, "completion_per_million": 8.0, "cached_per_million": 0.5},
    }
    assert deep["cost"]["per_request"] == pytest.approx(0.0018)
    assert deep["cost"]["total"] == pytest.approx(12_000 * 0.0018)
    assert (deep["timed"], deep["cached_tokens_mean"], "loss" in deep["metrics"]) == (5, 400, False)
    assert record["spent"] == {"amount": pytest.approx(11 * 0.0018), "requests": 11, "cap": None}
    assert len(server.asked) == 11, "six rows, five of them once more alone"
    rows = [row for row in services.verdicts.rows(view.id) if row["side"] == "Deep"]
    assert all(row["stamp"]["price"] == pytest.approx(0.0018) and "Be glad." in row["prompt"] for row in rows)
    kept = "".join(file.read_text() for file in services.verdicts.files.folder(view.id).iterdir() if file.is_file())
    report = services.verdicts.files.write(view.id, "html", services.settings.exports_dir).read_text()
    assert "11 requests, 0.0198 USD" in report
    assert KEY not in kept + report
    again = services.verdicts.again(view.id, Questions(volume=2000), Prices(base_hosting_per_month=5.0)).record
    assert [side["cost"]["items"].get("hosting") for side in again["sides"]] == [60.0, None]
    assert again["sides"][1]["cost"]["total"] == pytest.approx(24_000 * 0.0018)


def test_a_server_that_dies_or_costs_too_much_fails_its_side_and_the_rest_stands(services, asked, server):
    alone = server.say

    def question(body):
        return json.loads(body)["messages"][-1]["content"]

    server.say = lambda path, body: alone(path, body) if question(body) in ("Say 0", "Say 1") else (500, {})
    view = last(services.verdicts.run(replace(asked, losses=False)))
    assert view.state == "DONE"
    assert "Deep was left out: deep at 127.0.0.1 answered 500" in view.error
    assert [side["side"] for side in view.record["sides"]] == ["Base"]
    assert {row["side"] for row in services.verdicts.rows(view.id)} == {"Base"}
    again = services.verdicts.extension(view.id, 0)
    still = last(services.verdicts.run(again))
    assert (still.state, len(services.verdicts.rows(view.id)), still.failed) == ("DONE", 6, ("Deep",))
    server.say, before = alone, len(server.asked)
    Endpoints(services.settings.endpoints_file).add(replace(there := services.endpoints.get("deep"), model="other"))
    refused("deep is now other at 127.0.0.1", services.verdicts.extension, view.id, 0)
    Endpoints(services.settings.endpoints_file).add(there)
    whole = last(services.verdicts.run(services.verdicts.extension(view.id, 0)))
    assert (whole.state, whole.error, whole.failed, whole.record["look"]) == ("DONE", "", (), 1)
    base, deep = whole.record["sides"]
    assert (deep["side"], deep["kind"], deep["metrics"]["pass"]["n"], deep["timed"]) == ("Deep", "larger-model", 6, 5)
    assert base["seconds_mean"] == view.record["sides"][0]["seconds_mean"], "who stood is not asked again"
    anew = [question(body) for _, _, body in server.asked[before:]]
    assert sorted(anew[:4]) == [f"Say {n}" for n in (2, 3, 4, 5)], "what it had answered is not asked again"
    assert sorted(anew[4:]) == [f"Say {n}" for n in (1, 2, 3, 4, 5)], "but timed, as the other is"
    assert whole.record["spent"]["amount"] == pytest.approx((2 + 9) * 0.0018)
    refused("stated no maximum", services.verdicts.extension, view.id)
    server.say = lambda path, body: (200, reply("It is A", prompt_tokens=20, completion_tokens=5))
    view = last(services.verdicts.run(replace(asked, losses=False, spend_cap=0.0005)))
    assert "Deep was left out: The spend cap of 0.0005 is reached" in view.error
    assert 0 < view.record["spent"]["amount"] <= 0.0005
    Endpoints(services.settings.endpoints_file).add(replace(services.endpoints.get("deep"), prompt_per_million=None))
    refused("cannot be kept", services.verdicts.start, replace(asked, spend_cap=0.004))


def test_rows_leave_for_another_machine_only_where_that_was_agreed_to(services, asked, endpoint):
    assert services.verdicts.leaving(asked) == ""
    away = replace(endpoint, url="http://192.0.2.1/v1")
    Endpoints(services.settings.endpoints_file).add(away)
    words = r"6 rows in 11 requests to deep at 192.0.2.1, about 0\.\d+ USD at most"
    refused(words, services.verdicts.start, asked)
    assert services.verdicts.views() == []


def test_a_question_leaves_for_another_machine_once_that_was_agreed_to_in_this_session(services, endpoint):
    near, far = Side("endpoint:near"), Side("endpoint:far", "Be glad.")
    for name, url in (("near", endpoint.url), ("far", "http://192.0.2.1/v1")):
        Endpoints(services.settings.endpoints_file).add(replace(endpoint, name=name, url=url))
    assert services.compare.leaving([Side("base"), near]) == ""
    words = "the system prompt and what is asked go to deep at 192.0.2.1; USD 2 and 8 a million tokens in and out"
    assert words in services.compare.leaving([near, far], "tab")
    *_, (heard, refused_) = services.compare.ask([near, far], [()] * 2, "Which?", Sampling(max_tokens=4), session="tab")
    assert (heard.text, "Agree to that first" in refused_.error) == ("It is A", True)
    services.compare.agree([near, far], "tab")
    assert (services.compare.leaving([far], "tab"), services.compare.leaving([far], "other") != "") == ("", True)
    Endpoints(services.settings.endpoints_file).add(replace(endpoint, name="far", url="http://192.0.2.2/v1"))
    assert "192.0.2.2" in services.compare.leaving([far], "tab"), "another address is asked for anew"


def test_the_command_line_lists_asks_and_agrees(call, settings, asked, server, rows_file):
    code, found, _ = call("endpoints")
    assert (code, found["endpoints"][0]["reachable"], KEY in str(found)) == (0, True, False)
    code, found, _ = call("endpoints", "test", "deep")
    assert (code, found["endpoints"][0]["text"]) == (0, "It is A")
    code, found, _ = call("compare", "--side", "model=endpoint:deep", "--ask", "Which?")
    assert (code, found["replies"][0]["text"]) == (0, "It is A")
    side = ("--side", "model=endpoint:deep,name=Deep")
    there = Endpoints(settings.endpoints_file)
    there.add(replace(there.get("deep"), url="http://192.0.2.1"))
    for words in (("verdict", rows_file, *side, "--limit", 2), ("compare", *side, "--ask", "Which?")):
        code, found, _ = call(*words)
        assert (code, "Add --send" in found["error"]) == (2, True)
    code, found, _ = call("verdict", rows_file, "--side", "model=endpoint:gone", "--limit", 2)
    assert (code, "no endpoint 'gone'" in found["error"]) == (2, True)
    assert [call("endpoints", "remove", "deep")[0] for _ in "12"] == [0, 2], "it is gone the second time"
    assert call("endpoints")[1]["endpoints"] == []


def test_a_person_adds_one_on_the_page_and_it_is_asked_for_a_word(services, server, endpoint):
    with gr.Blocks():
        view = servers.ServersView(services)
    said = {"name": "near", "url": endpoint.url, "model": "m", "key_env": "DEEP_KEY", "prompt_per_million": None}
    said |= {"completion_per_million": 1}
    found = servers.add(Visit(services), view, server=said)
    assert "near answered in" in found[view.said]["value"]
    assert ("near · m at 127.0.0.1", "endpoint:near") in side.model_choices(services, ())
    assert services.verdicts.line_up(services.settings.home, "", "Be glad.", None)[-1].label == "near + prompt"
    server.say = lambda path, body: (401, {})
    refused("Check DEEP_KEY", servers.add, Visit(services), view, server=said, error=EndpointError)
    shared = build_services(replace(services.settings, shared=True))
    refused("whoever runs", servers.add, Visit(shared), view, server=said)
    refused("whoever runs", servers.remove, Visit(shared), view, name="near")
    assert "Remove near (m at 127.0.0.1)?" in servers.ask_remove(Visit(services), view, name="near")[view.ask]
    assert servers.there(Visit(services), view)[view.name].choices == ["near"]
    assert "removed" in servers.remove(Visit(services), view, name="near")[view.said]["value"]
    assert servers.there(Visit(services), view)[view.there]["visible"] is False
    assert shared.endpoints.usable() == []
