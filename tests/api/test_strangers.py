"""The open page of one person's app, asked by pages from elsewhere: over HTTP, as ``python app.py`` opens it; no base
is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from playground.services import Services, build_services
from playground.settings import PROJECT_ROOT, Settings
from playground.workspace.visitors import Home

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


class Idle(Services):
    def start(self) -> None:
        """No base is prepared behind the page."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Services]]:
    from playground.serve import launch

    settings = Settings(home=tmp_path_factory.mktemp("open") / "home", base="/nowhere/at/all")
    home = Home.take(settings)
    services = Idle(**vars(build_services(settings)))
    page, url = launch(services, home)
    yield url, services
    page.close(verbose=False)
    services.close()
    home.release()


@pytest.mark.parametrize("route", GET)
def test_a_page_from_elsewhere_reads_nothing(app: tuple[str, Services], route: str) -> None:
    with httpx.Client(base_url=app[0], timeout=20) as client:
        for headers in FOREIGN:
            with client.stream("GET", app[0] + route, headers=headers) as answer:
                assert answer.status_code == 403, headers
                assert b"PLAYGROUND_" in answer.read() or "null" in str(headers) or route.startswith("internal")


@pytest.mark.parametrize("route", POST)
def test_a_page_from_elsewhere_does_nothing(app: tuple[str, Services], route: str) -> None:
    body = json.dumps({"fn_index": 0, "data": [], "session_hash": "x", "event_id": "x"}).encode()
    with httpx.Client(timeout=20) as client:
        for headers in [*FOREIGN, {"sec-fetch-site": "cross-site"}]:
            for kind in ("application/json", "text/plain"):  # a browser sends the second without asking first
                answer = client.post(app[0] + route, content=body, headers={"content-type": kind, **headers})
                assert answer.status_code == 403, headers


@pytest.mark.parametrize("headers", [*FOREIGN, {"sec-fetch-site": "cross-site"}], ids=str)
def test_a_form_from_elsewhere_writes_no_file(app: tuple[str, Services], headers: dict[str, str]) -> None:
    url, services = app
    answer = httpx.post(url + "gradio_api/upload", files={"files": ("evil.jsonl", b"{}")}, headers=headers)
    assert answer.status_code == 403
    assert not list(services.settings.incoming_dir.rglob("*evil*"))


def test_whoever_looks_is_told_what_to_do(app: tuple[str, Services]) -> None:
    answer = httpx.get(app[0], headers={"host": "playground.example", "accept": "text/html"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == (
        "This app may not be opened as 'playground.example'. Open it as localhost, or start it with "
        "PLAYGROUND_ALLOWED_HOSTS=playground.example where that is a name of this app."
    )


def test_a_probe_may_ask_under_any_name_and_is_told_nothing_but_that_it_lives(app: tuple[str, Services]) -> None:
    for headers in ({}, *FOREIGN):
        answer = httpx.get(app[0] + "healthz", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"ok": True})


def test_the_apps_own_page_works(app: tuple[str, Services]) -> None:
    url, services = app
    own = {"origin": url.rstrip("/"), "sec-fetch-site": "same-origin"}
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert httpx.get(url, headers=link).status_code == 200
    assert httpx.head(url).status_code == 200
    for path in ("", "config", "status", "theme.css", "static/fonts/IBMPlexSans/IBMPlexSans-Bold.woff2"):
        assert httpx.get(url + path, headers=own).status_code == 200, path
    (sent,) = httpx.post(url + "gradio_api/upload", files={"files": ("mine.jsonl", b"{}")}, headers=own).json()
    assert Path(sent).is_relative_to(services.settings.incoming_dir)


def test_commands_of_this_machine_reach_the_app(app: tuple[str, Services]) -> None:
    env = os.environ | {"PLAYGROUND_HOME": str(app[1].settings.home)}
    command = [sys.executable, "-m", "playground", "status", "--json"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=120)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, "device" in told, told.get("error")) == (0, True, None)
