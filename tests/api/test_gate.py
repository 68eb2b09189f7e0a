"""What is let through to Gradio: every one of its routes on purpose, bodies of a fair size, files that were handed out;
and what every answer lets a browser run."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.routes import App
from gradio_client import Client, handle_file
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from playground.server.access import LIMIT_BYTES
from playground.server.gate import (
    ALL_UPLOADS,
    FILES_MAX,
    GRADIO_ROUTES,
    HEADERS_BYTES,
    UPLOAD,
    VISITOR_UPLOADS,
    WAITS_S,
    Answered,
    Gate,
    Incoming,
)
from playground.settings import Settings
from playground.workspace.visitors import COOKIE
from tests.api.conftest import on_a_port, sent, wait_until

JOIN = "/gradio_api/queue/join"
TWIN = ("GET", "/gradio_api/call/v2/{api_name}/{event_id}")
REFUSED = {
    (method, path if path.startswith("/") else f"/gradio_api/{path}")
    for by_method in tomllib.loads(Path(__file__).with_name("gradio_refused.toml").read_text()).values()
    for method, paths in by_method.items()
    for path in paths
}


def echo(text: str) -> str:
    return f"you said {text}"


def copied(file: str) -> str:
    copy = Path(file).with_name("copy.txt")
    copy.write_bytes(Path(file).read_bytes())
    return str(copy)


def small_page() -> gr.Blocks:
    with gr.Blocks(analytics_enabled=False) as page:
        text, said, file = gr.Textbox(), gr.Textbox(), gr.File()
        text.submit(echo, text, said, api_name="echo")
        file.upload(copied, file, file, api_name="copied")
    return page


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = Settings(home=tmp_path / "home", upload_mb=1)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(settings.incoming_dir))
    return settings


@pytest.fixture
def gated(alone: Settings) -> Callable[..., App]:
    """(changes of the settings) -> Gradio's own app behind the gate, with a route of ours; run history is on, as it is
    by default."""

    def make(**changes: Any) -> App:
        own = [Route("/own", lambda request: PlainTextResponse("ours"))]
        settings, page = replace(alone, **changes), small_page()
        page.max_file_size = settings.upload_limit_bytes
        middleware = [Middleware(Gate, settings=settings, own=own)]
        return App.create_app(page, app_kwargs={"routes": list(own), "middleware": middleware})

    return make


@pytest.fixture
def client(gated: Callable[..., App]) -> TestClient:
    return caller(gated())


def caller(app: Any, **options: Any) -> TestClient:
    return TestClient(app, base_url="http://localhost:7860", **options)


def all_routes(routes: Any) -> Iterator[tuple[str, str]]:
    """Every method and path, through included routers too."""
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from all_routes(inner.routes)
        else:
            assert not isinstance(route, Mount), f"{route} is an app of its own: allow or refuse what lies in it"
            yield from ((method, route.path) for method in route.methods)


def test_every_route_of_gradio_is_allowed_or_refused_on_purpose(gated: Callable[..., App]) -> None:
    app = gated()
    found = set(all_routes(app.routes)) - {("GET", "/own"), ("HEAD", "/own")}
    assert not found - GRADIO_ROUTES - REFUSED, "new in this Gradio: does the page need them?"
    assert not GRADIO_ROUTES - found, "no longer in this Gradio"
    assert not GRADIO_ROUTES & REFUSED
    for method, path in sorted(REFUSED - {TWIN}):
        concrete = re.sub(r"{(path|path_or_url|url_path):path}|{size}|{component_id}", "1", path)
        answer = caller(app).request(method, re.sub("[{}]", "", concrete))
        assert answer.status_code == 404, (method, path)
        assert method == "HEAD" or answer.json() == {"detail": "Not Found"}


def test_what_is_allowed_reaches_gradio_and_our_own_routes(client: TestClient) -> None:
    for path in ("/config", "/gradio_api/info", "/gradio_api/app_id", "/favicon.ico", "/manifest.json", "/robots.txt"):
        assert client.get(path).status_code == 200, path
    assert client.get("/own").text == "ours"
    assert client.put("/own").status_code == 404
    assert client.post(JOIN, json={"data": []}).status_code == 400, "Gradio's own word"
    (sent,) = client.post(UPLOAD, files={"files": ("mine.txt", b"rows")}).json()
    assert client.get(f"/gradio_api/file={sent}").content == b"rows"
    assert client.get(f"/gradio_api/file={Path(sent).parent}").status_code == 403, "Gradio's own word"
    for path in ("/gradio_api/queue/join", "/", "/own"):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass


def test_the_path_under_which_a_proxy_shows_the_app_is_left_aside(gated: Callable[..., App]) -> None:
    client = caller(gated(), root_path="/tools/playground")
    for path in ("/config", "/tools/playground/config"):
        assert client.get(path).status_code == 200
    for path in ("/gradio_api/token", "/tools/playground/gradio_api/token", "/tools/playground2/config"):
        assert client.get(path).status_code == 404


def test_gradios_client_works_through_the_gate(alone: Settings, tmp_path: Path) -> None:
    page = small_page()
    gate = {"middleware": [Middleware(Gate, settings=alone)]}
    _, url, _ = page.launch(app_kwargs=gate, prevent_thread_lock=True, quiet=True, ssr_mode=False, run_history=False)
    try:
        client = Client(url, verbose=False, download_files=str(tmp_path / "downloads"))
        assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/echo", "/copied"}  # type: ignore[index]
        assert client.predict("hello", api_name="/echo") == "you said hello"
        (tmp_path / "mine.txt").write_text("some rows")
        back = client.predict(handle_file(str(tmp_path / "mine.txt")), api_name="/copied")
        assert Path(back).read_text() == "some rows"
        event = httpx.post(f"{url}gradio_api/call/echo", json={"data": ["you"]}).json()["event_id"]
        assert 'data: ["you said you"]' in httpx.get(f"{url}gradio_api/call/echo/{event}").text
        client.close()
    finally:
        page.close(verbose=False)


NOT_HANDED_OUT = [
    *("http://127.0.0.1:1/x", "https://a.example/x", "HTTP://a.example/x", "http:/a.example/x"),
    *("http%3A%2F%2Fa.example", "//a.example/x", "ftp://a.example/x", "/gradio_api/file=http://a.example"),
    *("/etc/passwd", "etc/passwd", "", "%00", "x" * 5000, "HOME/owner.json", "HOME/exports/../owner.json"),
    *("HOME/uploads/gradio/../someone/rows.jsonl", "HOME/uploads/gradio2/x"),
]


def test_only_what_was_handed_out_is_a_file(client: TestClient, alone: Settings) -> None:
    alone.incoming_dir.mkdir(parents=True)
    for file in NOT_HANDED_OUT:
        answer = client.get(f"/gradio_api/file={file.replace('HOME', str(alone.home))}")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), file


def test_a_call_is_small_and_so_are_headers(client: TestClient) -> None:
    json_body = {"content-type": "application/json"}
    for path in (JOIN, "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/call/echo"):
        parts = (b" " * 100_000 for _ in range(LIMIT_BYTES // 100_000 + 1))  # its length is not told beforehand
        for body in (b"[" * (LIMIT_BYTES + 1), parts):
            answer = client.post(path, content=body, headers=json_body)
            assert answer.status_code == 413
            assert str(LIMIT_BYTES) in answer.json()["detail"]
        assert client.post(path, content=b"[" * 100_000, headers=json_body).status_code in (400, 422)
    assert client.post("/gradio_api/reset", json={"event_id": "x" * (LIMIT_BYTES - 100)}).json() == {"success": True}
    assert client.get("/config", headers={"cookie": "a" * (HEADERS_BYTES - 2000)}).status_code == 200
    answer = client.get("/config", headers={"cookie": "a" * HEADERS_BYTES})
    assert (answer.status_code, "cookies" in answer.json()["detail"]) == (431, True)


# -- uploads ---------------------------------------------------------------------------------------------------------


def multipart(files: int, size: int) -> tuple[bytes, dict[str, str]]:
    one = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.txt"\r\n\r\n%s\r\n'
    body = b"".join(one % (n, bytes([65 + n % 26]) * size) for n in range(files)) + b"--b--\r\n"
    return body, {"content-type": "multipart/form-data; boundary=b"}


def test_an_upload_is_limited_as_a_whole_and_leaves_nothing_behind(client: TestClient, alone: Settings) -> None:
    for files, size in ((1, 3 * 2**20), (30, 100_000)):
        body, headers = multipart(files, size)
        for content in (body, (body[place : place + 50_000] for place in range(0, len(body), 50_000))):
            answer = client.post(UPLOAD, content=content, headers=headers)
            assert (answer.status_code, "maximum allowed size" in answer.text) == (413, True)
    assert not list(alone.incoming_dir.rglob("*"))
    body, headers = multipart(3, 300_000)
    assert len(client.post(UPLOAD, content=body, headers=headers).json()) == 3


def test_visitors_have_a_share_of_what_waits(gated: Callable[..., App], alone: Settings) -> None:
    client = caller(gated(shared=True))
    body, headers = multipart(1, 1_000_000)
    answers = [client.post(UPLOAD, content=body, headers=headers) for _ in range(VISITOR_UPLOADS + 1)]
    assert [answer.status_code for answer in answers] == [200] * VISITOR_UPLOADS + [400]
    assert "Wait a little" in answers[-1].text
    assert not [file for file in alone.incoming_dir.iterdir() if file.is_file()], "what was refused is gone"
    for cookie in (f"{COOKIE}={'a' * 32}", f"__Host-{COOKIE}={'b' * 32}"):
        assert client.post(UPLOAD, content=body, headers=headers | {"cookie": cookie}).status_code == 200
    assert caller(gated()).post(UPLOAD, content=body, headers=headers).status_code == 200, "alone there is no share"


def test_a_share_comes_back_once_what_was_sent_is_gone(tmp_path: Path) -> None:
    now = [0.0]
    incoming = Incoming(tmp_path, 100, lambda: now[0])
    assert [incoming.refusal("anna", 100) for _ in range(VISITOR_UPLOADS)] == [""] * VISITOR_UPLOADS
    assert "Wait a little" in incoming.refusal("anna", 1)
    assert incoming.refusal("", 100) == "", "those without a cookie have a share together"
    now[0] = WAITS_S - 1
    assert incoming.refusal("anna", 1)
    now[0] = WAITS_S
    assert incoming.refusal("anna", VISITOR_UPLOADS * 100) == ""
    others = [incoming.refusal(f"visitor {n}", 100) for n in range(ALL_UPLOADS - VISITOR_UPLOADS)]
    assert others == [""] * len(others)
    assert "Too many files" in incoming.refusal("one more", 1), "all together have a share too"
    now[0] = 2 * WAITS_S
    assert incoming.refusal("one more", 1) == ""


def test_a_crowded_folder_takes_no_upload(client: TestClient, alone: Settings) -> None:
    assert not Incoming(alone.incoming_dir, 100).is_crowded(), "it is not there yet"
    alone.incoming_dir.mkdir(parents=True)
    for n in range(FILES_MAX - 1):
        (alone.incoming_dir / str(n)).touch()
    assert not Incoming(alone.incoming_dir, 100).is_crowded()
    (alone.incoming_dir / "last").touch()
    body, headers = multipart(1, 10)
    assert client.post(UPLOAD, content=body, headers=headers).status_code == 507


def test_a_visitor_who_leaves_in_an_upload_leaves_nothing_behind(gated: Callable[..., App], alone: Settings) -> None:
    body, headers = multipart(1, 500_000)
    with on_a_port(gated()) as url, sent(url, UPLOAD, body[:300_000], headers["content-type"], len(body)):
        wait_until(lambda: any(file.stat().st_size for file in alone.incoming_dir.glob("*")))
    wait_until(lambda: not list(alone.incoming_dir.iterdir()))


def asked(app: Any, path: str, headers: list[tuple[bytes, bytes]], *messages: dict[str, Any]) -> tuple[int, bytes]:
    """Call an ASGI app by hand; after these messages nothing more ever comes."""
    told: list[Any] = []
    left = list(messages)

    async def receive() -> Any:
        return left.pop(0) if left else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        told.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"root_path": "", "scheme": "http", "headers": [(b"host", b"localhost"), *headers], "http_version": "1.1"}
    scope |= {"server": ("127.0.0.1", 7860), "client": ("127.0.0.1", 1)}
    asyncio.run(app(scope, receive, send))
    return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])


def test_a_body_that_does_not_come_is_not_waited_for(gated: Callable[..., App], alone: Settings) -> None:
    start = {"type": "http.request", "body": b"[", "more_body": True}
    late = b'{"detail":"The request did not arrive within 0 s. Try again."}'
    assert asked(Gate(gated(), alone, body_s=0.05), JOIN, [], start) == (408, late)
    body, headers = multipart(1, 100_000)
    start = {"type": "http.request", "body": body[:50_000], "more_body": True}
    kind = [(b"content-type", headers["content-type"].encode())]
    status, words = asked(Gate(gated(), alone, upload_s=0.05), UPLOAD, kind, start)
    assert (status, words[:26]) == (400, b"The upload took too long. ")
    assert not list(alone.incoming_dir.iterdir())


def test_our_own_routes_read_their_own_bodies(alone: Settings) -> None:
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    own = [Route("/own", size, methods=["POST"])]
    app = Starlette(routes=own, middleware=[Middleware(Gate, settings=alone, own=own)])
    assert caller(app).post("/own", content=b" " * (LIMIT_BYTES + 5)).text == str(LIMIT_BYTES + 5)


# -- what a browser may run ------------------------------------------------------------------------------------------

INLINE = "window.config = {\"a\": '</b>'};"
PAGE = (
    f"<script>{INLINE}</script><script type=module src=./index.js></script><script data-mode>\n two()\n</script><p"
    " onclick=x>é</p>"
)


def policed(space: bool = False) -> TestClient:
    routes = [
        Route("/", lambda request: HTMLResponse(PAGE)),
        Route("/status", lambda request: PlainTextResponse("ok")),
        Route("/stream", lambda request: StreamingResponse(iter(["a", "b"]))),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(Answered, space=space)]))


def policy(answer: Any) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))


def test_the_page_may_run_its_own_scripts_and_no_other_and_everything_else_nothing() -> None:
    answer = policed().get("/")
    assert answer.text == PAGE
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (INLINE, "\n two()\n")]
    scripts = policy(answer)["script-src"].split()
    assert scripts == ["'self'", "'unsafe-eval'", *(f"'sha256-{one}'" for one in hashes)]
    assert policy(answer)["object-src"] == "'none'"
    for path in ("/status", "/stream", "/nothing"):
        said = policy(policed().get(path))
        assert (said["default-src"], "script-src" in said) == ("'none'", False)


def test_only_its_own_pages_frame_it_and_the_hubs_on_a_space() -> None:
    for path in ("/", "/status"):
        assert policy(policed().get(path))["frame-ancestors"] == "'self'"
        assert policy(policed(space=True).get(path))["frame-ancestors"] == "'self' https://huggingface.co"


@pytest.mark.parametrize("path", ["/tools", "/tools/", "/"])
def test_behind_a_proxy_that_keeps_its_path_the_page_is_the_page(tmp_path: Path, path: str) -> None:
    settings = Settings(home=tmp_path, shared=True)
    middleware = [Middleware(Answered, shared=True), Middleware(Gate, settings=settings)]
    app = Starlette(routes=[Route("/{rest:path}", lambda request: HTMLResponse(PAGE))], middleware=middleware)
    answer = caller(app, root_path="/tools").get(path)
    assert answer.text == PAGE
    assert "script-src" in policy(answer)
    assert COOKIE in answer.headers["set-cookie"]
    refused = caller(app, root_path="/tools").get(path, headers={"host": "evil.example"})
    assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
