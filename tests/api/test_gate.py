"""What is let through to Gradio: every one of its routes on purpose, bodies of a fair size, files that were handed
out."""

from __future__ import annotations

import asyncio
import json
import socket
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
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from playground.server.access import LIMIT_BYTES
from playground.server.gate import FILES_MAX, GRADIO_ROUTES, HEADERS_BYTES, UPLOAD, VISITOR_UPLOADS, Gate
from playground.settings import Settings
from playground.workspace.visitors import COOKIE
from tests.api.conftest import on_a_port, wait_until

JOIN = "/gradio_api/queue/join"
TWIN = ("GET", "/gradio_api/call/v2/{api_name}/{event_id}")
"""Cannot be told from call/{api_name}/{event_id} by its path, and has the same handler."""
REFUSED = {
    ("GET", "/config/"),
    ("GET", "/gradio_api/info/"),
    ("POST", "/gradio_api/reset/"),
    ("POST", "/gradio_api/call/{api_name}/"),  # twins
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/runs/"),
    ("POST", "/gradio_api/run-history/connect"),  # would use the host's HF_TOKEN
    ("GET", "/gradio_api/run-history/buckets"),
    ("GET", "/gradio_api/run-history/records"),
    ("GET", "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}"),
    ("GET", "/gradio_api/proxy={url_path:path}"),
    ("HEAD", "/gradio_api/proxy={url_path:path}"),  # would fetch
    ("HEAD", "/gradio_api/file={path_or_url:path}"),
    ("GET", "/gradio_api/file/{path:path}"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/component_server/"),
    ("GET", "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}"),
    ("GET", "/svelte/{path:path}"),  # no such components
    ("GET", "/gradio_api/deep_link"),
    ("GET", "/pwa_icon"),
    ("GET", "/pwa_icon/{size}"),
    ("GET", "/gradio_api/theme.css"),
    ("POST", "/login"),
    ("POST", "/login/"),
    ("GET", "/logout"),
    ("GET", "/gradio_api/user"),
    ("GET", "/gradio_api/user/"),  # nobody logs in
    ("GET", "/gradio_api/login_check"),
    ("GET", "/gradio_api/login_check/"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/token/"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"),
    ("GET", "/monitoring/{key}"),
    ("GET", "/gradio_api/queue/status"),
    ("GET", "/gradio_api/app_id/"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
    ("GET", "/gradio_api/openapi.json"),
    ("POST", "/gradio_api/vibe-edit"),
    ("POST", "/gradio_api/vibe-edit/"),
    ("POST", "/gradio_api/undo-vibe-edit"),
    ("POST", "/gradio_api/undo-vibe-edit/"),
    ("GET", "/gradio_api/vibe-code"),
    ("GET", "/gradio_api/vibe-code/"),
    ("POST", "/gradio_api/vibe-code"),
    ("POST", "/gradio_api/vibe-code/"),
    ("POST", "/gradio_api/vibe-starter-queries"),
    ("POST", "/gradio_api/vibe-starter-queries/"),
    ("POST", "/gradio_api/api/{api_name}"),
    ("POST", "/gradio_api/api/{api_name}/"),
    ("POST", "/gradio_api/run/{api_name}"),
    ("POST", "/gradio_api/run/{api_name}/"),
    ("POST", "/gradio_api/call/v2/{api_name}"),
    ("POST", "/gradio_api/call/v2/{api_name}/"),
    TWIN,
    ("POST", "/gradio_api/stream/{event_id}"),
    ("POST", "/gradio_api/stream/{event_id}/close"),
    ("GET", "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8"),
    ("GET", "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}"),
    ("GET", "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file"),
}
"""Gradio's routes that nobody needs here. A new one of Gradio's goes either here or among those allowed."""


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
def alone(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", upload_mb=1)


@pytest.fixture
def gated(alone: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., App]:
    """(changes of the settings) -> Gradio's own app behind the gate, with a route of ours; run history is on, as it is
    by default."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(alone.incoming_dir))

    def make(**changes: Any) -> App:
        own = [Route("/own", lambda request: PlainTextResponse("ours"))]
        settings = replace(alone, **changes)
        page = small_page()
        page.max_file_size = settings.upload_limit_bytes
        return App.create_app(
            page, app_kwargs={"routes": list(own), "middleware": [Middleware(Gate, settings=settings, own=own)]}
        )

    return make


def caller(app: Any) -> TestClient:
    return TestClient(app, base_url="http://localhost:7860")


def all_routes(routes: Any) -> Iterator[tuple[str, str]]:
    """Every method and path, through included routers too."""
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from all_routes(inner.routes)
        else:
            assert not isinstance(route, Mount), f"{route} is an app of its own: allow or refuse what lies in it"
            yield from ((method, route.path) for method in route.methods)


def concrete(path: str) -> str:
    for name in ("{path:path}", "{path_or_url:path}", "{url_path:path}", "{size}", "{component_id}"):
        path = path.replace(name, "1")
    return path.replace("{", "").replace("}", "")


def test_every_route_of_gradio_is_allowed_or_refused_on_purpose(gated: Callable[..., App]) -> None:
    found = set(all_routes(gated().routes)) - {("GET", "/own"), ("HEAD", "/own")}
    assert not found - GRADIO_ROUTES - REFUSED, "new in this Gradio: does the page need them?"
    assert not GRADIO_ROUTES - found, "no longer in this Gradio"
    assert not GRADIO_ROUTES & REFUSED


def test_a_route_that_nobody_needs_is_not_there(gated: Callable[..., App]) -> None:
    client = caller(gated())
    for method, path in sorted(REFUSED - {TWIN}):
        answer = client.request(method, concrete(path), headers={"host": "localhost:7860"})
        assert answer.status_code == 404, (method, path)
        assert method == "HEAD" or answer.json() == {"detail": "Not Found"}


def test_what_is_allowed_reaches_gradio_and_our_own_routes(gated: Callable[..., App]) -> None:
    client = caller(gated())
    for path in ("/config", "/gradio_api/info", "/gradio_api/app_id", "/favicon.ico", "/manifest.json", "/robots.txt"):
        assert client.get(path).status_code == 200, path
    assert client.get("/own").text == "ours"
    assert client.put("/own").status_code == 404
    assert client.post(JOIN, json={"data": []}).status_code == 400, "Gradio's own word"


def test_the_path_under_which_a_proxy_shows_the_app_is_left_aside(gated: Callable[..., App]) -> None:
    client = TestClient(gated(), base_url="http://localhost:7860", root_path="/tools/playground")
    for path in ("/config", "/tools/playground/config"):
        assert client.get(path).status_code == 200
    for path in ("/gradio_api/token", "/tools/playground/gradio_api/token", "/tools/playground2/config"):
        assert client.get(path).status_code == 404


def test_gradios_client_works_through_the_gate(
    alone: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(alone.incoming_dir))
    page = small_page()
    _, url, _ = page.launch(
        app_kwargs={"middleware": [Middleware(Gate, settings=alone)]},
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        run_history=False,
    )
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
    *(
        "http://127.0.0.1:1/x",
        "https://a.example/x",
        "HTTP://a.example/x",
        "http:/a.example/x",
        "http%3A%2F%2Fa.example",
    ),
    *("//a.example/x", "ftp://a.example/x", "/gradio_api/file=http://a.example"),
    *("/etc/passwd", "etc/passwd", "", "%00", "x" * 5000, "HOME/owner.json", "HOME/exports/../owner.json"),
    *("HOME/uploads/gradio/../someone/rows.jsonl", "HOME/uploads/gradio2/x"),
]


def test_only_what_was_handed_out_is_a_file(gated: Callable[..., App], alone: Settings) -> None:
    alone.incoming_dir.mkdir(parents=True)
    client = caller(gated())
    for file in NOT_HANDED_OUT:
        answer = client.get(f"/gradio_api/file={file.replace('HOME', str(alone.home))}")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), file


def test_what_was_uploaded_is_served_again(gated: Callable[..., App]) -> None:
    client = caller(gated())
    (sent,) = client.post(UPLOAD, files={"files": ("mine.txt", b"rows")}).json()
    assert client.get(f"/gradio_api/file={sent}").content == b"rows"
    assert client.get(f"/gradio_api/file={Path(sent).parent}").status_code == 403, "Gradio's own word"


def parts(count: int, size: int = 100_000) -> Iterator[bytes]:
    """A body whose length is not told beforehand."""
    for _ in range(count):
        yield b" " * size


def test_a_call_is_small(gated: Callable[..., App]) -> None:
    client = caller(gated())
    json_body = {"content-type": "application/json"}
    for path in (JOIN, "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/call/echo"):
        for body in (b"[" * (LIMIT_BYTES + 1), parts(LIMIT_BYTES // 100_000 + 1)):
            answer = client.post(path, content=body, headers=json_body)
            assert answer.status_code == 413
            assert str(LIMIT_BYTES) in answer.json()["detail"]
        assert client.post(path, content=b"[" * 100_000, headers=json_body).status_code in (400, 422)
    assert client.post("/gradio_api/reset", json={"event_id": "x" * (LIMIT_BYTES - 100)}).json() == {"success": True}


def multipart(files: int, size: int) -> tuple[bytes, dict[str, str]]:
    one = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.txt"\r\n\r\n%s\r\n'
    body = b"".join(one % (n, bytes([65 + n % 26]) * size) for n in range(files)) + b"--b--\r\n"
    return body, {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(("files", "size"), [(1, 3 * 2**20), (30, 100_000)])
def test_an_upload_is_limited_as_a_whole_and_leaves_nothing_behind(
    gated: Callable[..., App], alone: Settings, files: int, size: int
) -> None:
    body, headers = multipart(files, size)
    client = caller(gated())
    pieces = (body[place : place + 50_000] for place in range(0, len(body), 50_000))
    for content in (body, pieces):
        answer = client.post(UPLOAD, content=content, headers=headers)
        assert answer.status_code == 413
        assert "maximum allowed size" in answer.text
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


def test_a_crowded_folder_takes_no_upload(gated: Callable[..., App], alone: Settings) -> None:
    alone.incoming_dir.mkdir(parents=True)
    for n in range(FILES_MAX):
        (alone.incoming_dir / str(n)).touch()
    body, headers = multipart(1, 10)
    assert caller(gated()).post(UPLOAD, content=body, headers=headers).status_code == 507


def test_a_visitor_who_leaves_in_an_upload_leaves_nothing_behind(gated: Callable[..., App], alone: Settings) -> None:
    body, headers = multipart(1, 500_000)
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {headers['content-type']}\r\nContent-Length:"
        f" {len(body)}\r\n\r\n"
    )
    with on_a_port(gated()) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body[:300_000])
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

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"localhost"), *headers],
        "server": ("127.0.0.1", 7860),
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
    }
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


def test_headers_are_small(gated: Callable[..., App]) -> None:
    client = caller(gated())
    assert client.get("/config", headers={"cookie": "a" * (HEADERS_BYTES - 2000)}).status_code == 200
    answer = client.get("/config", headers={"cookie": "a" * HEADERS_BYTES})
    assert (answer.status_code, "cookies" in answer.json()["detail"]) == (431, True)


def test_no_websocket_is_opened(gated: Callable[..., App]) -> None:
    for path in ("/gradio_api/queue/join", "/", "/own"):
        with pytest.raises(WebSocketDisconnect), caller(gated()).websocket_connect(path):
            pass


def test_our_own_routes_read_their_own_bodies(alone: Settings) -> None:
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    own = [Route("/own", size, methods=["POST"])]
    app = Starlette(routes=own, middleware=[Middleware(Gate, settings=alone, own=own)])
    assert caller(app).post("/own", content=b" " * (LIMIT_BYTES + 5)).text == str(LIMIT_BYTES + 5)
    assert caller(app).post("/own", content=json.dumps({})).text == "2"
