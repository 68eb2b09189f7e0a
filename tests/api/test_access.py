"""Who may use /v1: every case of the rules, on the routes alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from playground.services import build_services
from playground.settings import Settings

Here = Callable[..., TestClient]
SHIPPED = {"brand_voice", "hospital_reports", "support_json"}


def models(client: TestClient, **headers: str) -> Any:
    return client.get("/v1/models", headers=headers)


@pytest.mark.parametrize(
    ("url", "client"),
    [
        ("http://localhost:7860", ("127.0.0.1", 1)),
        ("http://127.0.0.1", ("::1", 1)),
        ("http://[::1]:80", ("127.0.0.9", 1)),
        ("http://LOCALHOST:1", ("::ffff:127.0.0.1", 1)),
    ],
)
def test_a_program_on_this_machine_may_call(here: Here, url: str, client: tuple[str, int]) -> None:
    assert models(here(client=client, url=url)).status_code == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:7860", "https://[::1]"])
def test_a_page_of_this_machine_may_call(here: Here, origin: str) -> None:
    assert models(here(), origin=origin).status_code == 200


EVIL = {
    "host": ("evil.example", "evil.example:7860", "localhost.evil.example", "evil@localhost", "localhost:port", ""),
    "origin": (
        *("http://evil.example", "http://localhost.evil.example", "http://localhost@evil.example"),
        *("file://localhost", "null", ""),
    ),
    "sec-fetch-site": ("cross-site",),
    "x-forwarded-for": ("127.0.0.1",),
    "x-forwarded-host": ("localhost",),
    "x-real-ip": ("127.0.0.1",),
    "forwarded": ("for=127.0.0.1",),
    "via": ("1.1 proxy",),
}


def test_without_a_token_strangers_are_refused_in_words(here: Here) -> None:
    caller = here()
    for name, value in ((name, value) for name, values in EVIL.items() for value in values):
        for route in ("/v1/models", "/v1/models/base", "/v1/anything"):
            answer = caller.get(route, headers={name: value})
            assert answer.status_code == 403, (name, value, route)
            assert "PLAYGROUND_API_TOKEN" in answer.json()["error"]["message"]
            assert answer.json()["error"]["code"] == "forbidden"


@pytest.mark.parametrize("client", [("10.0.0.7", 1), ("8.8.8.8", 1), ("::ffff:8.8.8.8", 1), ("testclient", 1)])
def test_other_machines_are_refused_and_nothing_is_read(here: Here, client: tuple[str, int]) -> None:
    answer = here(client=client).post("/v1/chat/completions", content=b"no json at all")
    assert answer.status_code == 403


def test_with_a_token_only_who_shows_it_may_call(here: Here) -> None:
    caller = here(api_token="right")
    for given in ({}, *({"authorization": one} for one in ("Bearer wrong", "right", "Basic right", "Bearer "))):
        answer = models(caller, **given)
        assert answer.status_code == 401, given
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert "right" not in answer.text


@pytest.mark.parametrize("token", ["right", "schlüssel"])
def test_with_a_token_any_host_and_origin_may_call(here: Here, token: str) -> None:
    caller = here(client=("8.8.8.8", 1), url="http://playground.example", api_token=token)
    shown = (b"authorization", b"bearer " + token.encode())
    proxied = [(b"x-forwarded-for", b"9.9.9.9"), (b"origin", b"http://a.example")]
    answer = caller.get("/v1/models", headers=[shown, *proxied])
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_shared_without_a_token_is_off_and_says_how_to_turn_it_on(here: Here) -> None:
    answer = models(here(shared=True))
    assert answer.status_code == 403
    assert "PLAYGROUND_API_TOKEN" in answer.json()["error"]["message"]


def test_shared_with_a_token_serves_the_shipped_adapters_only(
    here: Here, settings: Settings, lora_folders: list[Path]
) -> None:
    for folder, owner in zip(lora_folders, ("local", "v1", "somebody"), strict=True):
        build_services(settings).adapters.import_file(folder, owner)
    shared = here(shared=True, api_token="right")
    listed = models(shared, authorization="Bearer right").json()["data"]
    assert {model["id"] for model in listed} == {"base", *SHIPPED}
    assert {model["owned_by"] for model in listed} == {"prompt-or-tune"}
    assert settings.base not in str(listed), "no path of this machine"
    for name in ("one", "two", "three"):
        answer = shared.get(f"/v1/models/{name}", headers={"authorization": "Bearer right"})
        assert answer.status_code == 404
        there = answer.json()["error"]["message"].partition("There is: ")[2].rstrip(".").split(", ")
        assert set(there) == {"base", *SHIPPED}
    alone = models(here()).json()["data"]
    assert {"base", "one", "two", "three"} <= {model["id"].partition("-")[0] for model in alone}, (
        "a visitor's ends in a random number"
    )


def test_what_this_machines_own_commands_ask_is_not_for_others(here: Here) -> None:
    body = {"stamp": {}, "text": None}
    for caller, headers in (
        (here(), {}),
        (here(), {"authorization": "Bearer wrong"}),
        (here(client=("8.8.8.8", 1)), {"authorization": "Bearer internal-token"}),
        (here(), {"authorization": "Bearer internal-token", "x-forwarded-for": "127.0.0.1"}),
    ):
        assert caller.post("/internal/replay", json=body, headers=headers).status_code == 403
    mine = {"authorization": "Bearer internal-token"}
    assert here().post("/internal/replay", json=body, headers=mine).status_code == 400
