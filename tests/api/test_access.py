"""Who may call: Host, Origin and Sec-Fetch-Site as plain values, and every rule of /v1 on the routes alone."""

import socket
from pathlib import Path

import pytest

from playground.server.gate import Login, foreign
from playground.services import build_services
from playground.settings import Settings
from tests.api.conftest import told
from tests.refused import refused

SHIPPED = {"brand_voice", "hospital_reports", "support_json"}
ALONE = Settings(home=Path("/nowhere"))
NAMED = Settings.from_env({"PLAYGROUND_ALLOWED_HOSTS": " Playground.example, 192.168.1.20,[fd00::5],nas "})
OF_A_SPACE = {"SPACE_ID": "me/app", "SPACE_HOST": "me-app.hf.space,app.example", "GRADIO_SERVER_NAME": "0.0.0.0"}
SPACE = Settings.from_env(OF_A_SPACE)
CHANGES = ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")


def judged(settings=ALONE, server="127.0.0.1", methods=("GET", "POST"), **headers):
    """Why such a request is refused, the same by every method; a list of values: the header comes several times."""
    pairs = [
        (name.replace("_", "-").encode(), value.encode())
        for name, values in ({"host": "localhost:7860"} | headers).items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    scope = {"type": "http", "path": "/", "server": (server, 7860), "headers": pairs}
    (words,) = {foreign(scope | {"method": method}, settings) for method in methods}
    return words


OTHER_HOSTS = [
    *("evil.example", "evil.example:7860", "localhost.evil.example", "evil@localhost", "localhost:port", "localhost/x"),
    *("localhost?x", "localhost#x", "", "10.0.0.7:7860", "127.0.0.1.nip.io", "0x7f.1"),
    *(["localhost", "evil.example"], ["localhost", "localhost"], []),
]
OWN_PAGES = ("http://localhost:3000", "http://127.0.0.1:7860", "https://127.0.0.1", "http://[::1]:7860")
OTHER_ORIGINS = [
    *("http://evil.example", "https://localhost.evil.example", "http://localhost@evil.example", "file://localhost"),
    *("null", "", "http://192.168.1.9:7860", "localhost", ["http://localhost", "http://evil.example"]),
]


def test_who_may_ask_by_host_and_origin_and_a_browser_that_says_cross_site_may_only_look():
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:7860", "[::1]:7860", socket.gethostname()):
        assert judged(host=host) == "", host
    for host in OTHER_HOSTS:
        assert "may not be opened as" in judged(host=host, methods=("GET", "HEAD", *CHANGES)), host
    for origin in OWN_PAGES:
        assert judged(origin=origin) == "", origin
    for origin in OTHER_ORIGINS:
        assert "may not ask this app" in judged(origin=origin), origin
    assert judged(sec_fetch_site="cross-site", methods=["GET"]) == "", "a link from elsewhere opens the page"
    assert "from elsewhere" in judged(sec_fetch_site="cross-site", methods=CHANGES)
    assert judged(sec_fetch_site="same-origin", methods=CHANGES) == ""
    came = {"host": "192.168.1.5:7860", "server": "192.168.1.5"}
    assert judged(origin="http://192.168.1.5:7860", **came) == ""
    assert judged(origin="http://localhost:3000", **came), "somebody else's localhost"
    assert judged(host="192.168.1.5", server="::ffff:192.168.1.5") == ""
    assert judged(host="192.168.1.6", server="192.168.1.5")
    assert judged(host="evil.example", server="evil.example"), "a server that repeats the name knows no address"


def test_other_names_are_those_that_the_settings_allow_and_a_spaces_own():
    for settings, hosts in (
        (NAMED, ("playground.example:443", "192.168.1.20:7860", "[fd00::5]:7860", "nas")),
        (SPACE, ("me-app.hf.space", "app.example", "localhost:7860")),
    ):
        for host in hosts:
            assert judged(settings, host=host, origin=f"https://{host}") == ""
    assert judged(NAMED, origin="https://playground.example") == "", "a proxy that says localhost to us"
    assert judged(NAMED, host="www.playground.example")
    assert judged(NAMED, host="playground.example", origin="https://evil.example")
    assert judged(SPACE, host="you-app.hf.space")
    assert judged(SPACE, host="me-app.hf.space", origin="https://you-app.hf.space")
    for words in (judged(host="playground.example:8443"), judged(origin="https://playground.example")):
        assert "PLAYGROUND_ALLOWED_HOSTS=playground.example where" in words
    assert "PLAYGROUND_ALLOWED_HOSTS" not in judged(origin="null")
    said = r"PLAYGROUND_ALLOWED_HOSTS has .*without scheme and port"
    for wrong in ("https://a.example", "a.example:8443", "10.0.0.1:7860", "*.example", "a b", "a.example/x"):
        refused(said, Settings.from_env, {"PLAYGROUND_ALLOWED_HOSTS": f"b.example,{wrong}"})


EVIL = {
    "host": [host for host in OTHER_HOSTS if isinstance(host, str)],
    "origin": [origin for origin in OTHER_ORIGINS if isinstance(origin, str)],
    **dict.fromkeys(("x-forwarded-for", "x-forwarded-host", "x-real-ip"), ("127.0.0.1",)),
    **{"sec-fetch-site": ("cross-site",), "forwarded": ("for=127.0.0.1",), "via": ("1.1 proxy",)},
}


def test_a_program_and_a_page_of_this_machine_may_call(here):
    urls = {"http://localhost:7860": "127.0.0.1", "http://127.0.0.1": "::1", "http://[::1]:80": "127.0.0.9"}
    for url, address in (urls | {"http://LOCALHOST:1": "::ffff:127.0.0.1"}).items():
        caller = here(client=(address, 1), url=url)
        for origin in ({}, *({"origin": page} for page in OWN_PAGES)):
            assert caller.get("/v1/models", headers=origin).status_code == 200


def test_without_a_token_strangers_are_refused_in_words_and_nothing_is_read(here):
    caller = here()
    for name, value in ((name, value) for name, values in EVIL.items() for value in values):
        for route in ("/v1/models", "/v1/models/base", "/v1/anything"):
            answer = caller.get(route, headers={name: value})
            assert told(answer)[:2] == (403, "forbidden"), (name, value, route)
            assert "PLAYGROUND_API_TOKEN" in told(answer)[2]
    for address in ("10.0.0.7", "8.8.8.8", "::ffff:8.8.8.8", "testclient"):
        other = here(client=(address, 1))
        assert other.post("/v1/chat/completions", content=b"no json at all").status_code == 403, "another machine"


def test_with_a_token_only_who_shows_it_may_call(here):
    caller = here(api_token="right")
    for given in ({}, *({"authorization": one} for one in ("Bearer wrong", "right", "Basic right", "Bearer "))):
        answer = caller.get("/v1/models", headers=given)
        assert (*told(answer)[:2], answer.headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer"), given
        assert "right" not in answer.text


@pytest.mark.parametrize("token", ["right", "schlüssel"])
def test_with_a_token_any_host_and_origin_may_call(here, token):
    caller = here(client=("8.8.8.8", 1), url="http://playground.example", api_token=token)
    proxied = [(b"x-forwarded-for", b"9.9.9.9"), (b"origin", b"http://a.example")]
    answer = caller.get("/v1/models", headers=[(b"authorization", b"bearer " + token.encode()), *proxied])
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_shared_it_is_off_without_a_token_and_serves_the_shipped_adapters_only_with_one(here, settings, lora_folders):
    status, _, message = told(here(shared=True).get("/v1/models"))
    assert (status, "PLAYGROUND_API_TOKEN" in message) == (403, True)
    for folder, owner in zip(lora_folders, ("local", "v1", "somebody"), strict=True):
        build_services(settings).adapters.import_file(folder, owner)
    shared, token = here(shared=True, api_token="right"), {"authorization": "Bearer right"}
    listed = shared.get("/v1/models", headers=token).json()["data"]
    assert {model["id"] for model in listed} == {"base", *SHIPPED}
    assert {model["owned_by"] for model in listed} == {"prompt-or-tune"}
    assert settings.base not in str(listed), "no path of this machine"
    for name in ("one", "two", "three"):
        status, _, message = told(shared.get(f"/v1/models/{name}", headers=token))
        there = message.partition("There is: ")[2].rstrip(".").split(", ")
        assert (status, set(there)) == (404, {"base", *SHIPPED})
    alone = {model["id"].partition("-")[0] for model in here().get("/v1/models").json()["data"]}
    assert {"base", "one", "two", "three"} <= alone, "a visitor's ends in a random number"


def test_what_this_machines_own_commands_ask_is_not_for_others(here):
    mine, asked = {"authorization": "Bearer internal-token"}, {"stamp": {}, "text": None}
    for caller, headers in (
        *((here(), {}), (here(), {"authorization": "Bearer wrong"})),
        *((here(client=("8.8.8.8", 1)), mine), (here(), mine | {"x-forwarded-for": "127.0.0.1"})),
    ):
        assert caller.post("/internal/replay", json=asked, headers=headers).status_code == 403
        assert caller.get("/internal/status", headers=headers).status_code == 403
    assert here().post("/internal/replay", json=asked, headers=mine).status_code == 400
    said = here().post("/internal/replay", json={}, headers=mine).json()["error"]
    assert said.endswith("not as expected (KeyError).")


def test_wrong_passwords_are_tried_ten_times_a_minute_and_no_oftener():
    now = [0.0]
    login = Login("demo", "letmein12", clock=lambda: now[0])
    assert [login("demo", "letmein12"), login("demo", "no"), login("other", "letmein12"), login("\ud800", "")] == [
        True
    ] + [False] * 3
    assert [login("demo", f"{guess}") for guess in range(7)] == [False] * 7
    assert not login("demo", "letmein12"), "ten wrong ones: even the right one waits"
    now[0] = 61.0
    assert login("demo", "letmein12")
