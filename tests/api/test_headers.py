"""Every answer says what a browser may run."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from playground.server.gate import ContentPolicy, Gate, Visit
from playground.settings import Settings
from playground.workspace.visitors import COOKIE

INLINE = "window.config = {\"a\": '</b>'};"
PAGE = (
    f"<script>{INLINE}</script><script type=module src=./index.js></script><script data-mode>\n two()\n</script><p"
    " onclick=x>é</p>"
)


def client(space: bool = False) -> TestClient:
    routes = [
        Route("/", lambda request: HTMLResponse(PAGE)),
        Route("/status", lambda request: PlainTextResponse("ok")),
        Route("/stream", lambda request: StreamingResponse(iter(["a", "b"]))),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(ContentPolicy, space=space)]))


@pytest.mark.parametrize("path", ["/tools", "/tools/", "/"])
def test_behind_a_proxy_that_keeps_its_path_the_page_is_the_page(tmp_path: Path, path: str) -> None:
    settings = Settings(home=tmp_path, shared=True)
    middleware = [Middleware(ContentPolicy), Middleware(Gate, settings=settings), Middleware(Visit, home=tmp_path)]
    app = Starlette(routes=[Route("/{rest:path}", lambda request: HTMLResponse(PAGE))], middleware=middleware)
    answer = TestClient(app, base_url="http://localhost:7860", root_path="/tools").get(path)
    assert answer.text == PAGE
    assert "script-src" in policy(answer)
    assert COOKIE in answer.headers["set-cookie"]


def policy(answer: Any) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))


def test_the_page_may_run_its_own_scripts_and_no_other() -> None:
    answer = client().get("/")
    assert answer.text == PAGE
    scripts = policy(answer)["script-src"].split()
    named = [
        f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in (INLINE, "\n two()\n")
    ]
    assert scripts == ["'self'", "'unsafe-eval'", *named]
    assert policy(answer)["object-src"] == "'none'"


@pytest.mark.parametrize("path", ["/status", "/stream", "/nothing"])
def test_everything_else_may_run_and_fetch_nothing(path: str) -> None:
    said = policy(client().get(path))
    assert said["default-src"] == "'none'"
    assert "script-src" not in said


@pytest.mark.parametrize("path", ["/", "/status"])
def test_only_its_own_pages_frame_it_and_the_hubs_on_a_space(path: str) -> None:
    assert policy(client().get(path))["frame-ancestors"] == "'self'"
    assert policy(client(space=True).get(path))["frame-ancestors"] == "'self' https://huggingface.co"
