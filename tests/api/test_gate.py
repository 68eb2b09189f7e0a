"""What is let through to Gradio: routes, bodies, files; and what every answer lets a browser run."""

import base64
import hashlib
import http.client
import itertools
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio.routes import App
from gradio_client import Client, handle_file
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from playground import storage
from playground.server import gate
from playground.server.gate import LIMIT_BYTES
from playground.settings import Settings
from playground.workspace import visitors
from playground.workspace.visitors import COOKIE
from tests.api.conftest import on_a_port, sent
from tests.waiting import wait_for

JOIN = "/gradio_api/queue/join"
TWIN = ("GET", "/gradio_api/call/v2/{api_name}/{event_id}")
REFUSED = {
    (method, path if path.startswith("/") else f"/gradio_api/{path}")
    for by_method in tomllib.loads(Path(__file__).with_name("gradio_refused.toml").read_text()).values()
    for method, paths in by_method.items()
    for path in paths
}
client = pytest.fixture(lambda gated: caller(gated()))


def echo(text):
    return f"you said {text}"


def copied(file):
    copy = Path(file).with_name("copy.txt")
    copy.write_bytes(Path(file).read_bytes())
    return str(copy)


def small_page():
    with gr.Blocks(analytics_enabled=False) as page:
        text, said, file = gr.Textbox(), gr.Textbox(), gr.File()
        text.submit(echo, text, said, api_name="echo")
        file.upload(copied, file, file, api_name="copied")
    return page


@pytest.fixture
def alone(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path / "home", upload_mb=1)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(settings.incoming_dir))
    return settings


@pytest.fixture
def gated(alone):
    """(changes of the settings) -> Gradio's own app behind the gate, with a route of ours and run history on."""

    def make(free=visitors.disk_free, **changes):
        own = [Route("/own", lambda request: PlainTextResponse("ours"))]
        settings, page = replace(alone, **changes), small_page()
        page.max_file_size = settings.upload_limit_bytes
        middleware = [Middleware(gate.Gate, settings=settings, own=own, free=free)]
        return App.create_app(page, app_kwargs={"routes": list(own), "middleware": middleware})

    return make


def caller(app, **options):
    return TestClient(app, base_url="http://localhost:7860", **options)


def all_routes(routes):
    """Every method and path, through included routers too."""
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from all_routes(inner.routes)
        else:
            assert not isinstance(route, Mount), f"{route} is an app of its own: allow or refuse what lies in it"
            yield from ((method, route.path) for method in route.methods)


def test_every_route_of_gradio_is_allowed_or_refused_on_purpose(gated):
    app = gated()
    found = set(all_routes(app.routes)) - {("GET", "/own"), ("HEAD", "/own")}
    assert not found - gate.GRADIO_ROUTES - REFUSED, "new in this Gradio: does the page need them?"
    assert not gate.GRADIO_ROUTES - found, "no longer in this Gradio"
    assert not gate.GRADIO_ROUTES & REFUSED
    assert [caller(app).get(path).status_code for _, path in gate.SIGN_IN_ROUTES] == [404] * 3, "nobody signs in here"
    for method, path in sorted(REFUSED - {TWIN}):
        concrete = re.sub(r"{(path|path_or_url|url_path):path}|{size}|{component_id}", "1", path)
        answer = caller(app).request(method, re.sub("[{}]", "", concrete))
        assert answer.status_code == 404, (method, path)
        assert method == "HEAD" or answer.json() == {"detail": "Not Found"}


def test_what_is_allowed_reaches_gradio_and_our_own_routes(client):
    for path in ("/config", "/gradio_api/info", "/gradio_api/app_id", "/favicon.ico", "/manifest.json", "/robots.txt"):
        assert client.get(path).status_code == 200, path
    assert (client.get("/own").text, client.put("/own").status_code) == ("ours", 404)
    assert client.post(JOIN, json={"data": []}).status_code == 400, "Gradio's own word"
    (sent,) = client.post(gate.UPLOAD, files={"files": ("mine.txt", b"rows")}).json()
    assert client.get(f"/gradio_api/file={sent}").content == b"rows"
    assert client.get(f"/gradio_api/file={Path(sent).parent}").status_code == 403, "Gradio's own word"
    for path in ("/gradio_api/queue/join", "/", "/own"):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass


def test_the_path_under_which_a_proxy_shows_the_app_is_left_aside(gated):
    client = caller(gated(), root_path="/tools/playground")
    own, other = ("/config", "/tools/playground/config"), ("/gradio_api/token", "/tools/playground/gradio_api/token")
    for path in (*own, *other, "/tools/playground2/config"):
        assert client.get(path).status_code == (200 if path in own else 404), path


def test_gradios_client_works_through_the_gate(alone, tmp_path):
    page = small_page()
    options = {"middleware": [Middleware(gate.Gate, settings=alone)]}
    _, url, _ = page.launch(app_kwargs=options, prevent_thread_lock=True, quiet=True, ssr_mode=False, run_history=False)
    try:
        client = Client(url, verbose=False, download_files=str(tmp_path / "downloads"))
        assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/echo", "/copied"}
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


def test_only_what_was_handed_out_is_a_file(client, alone):
    alone.incoming_dir.mkdir(parents=True)
    for file in NOT_HANDED_OUT:
        answer = client.get(f"/gradio_api/file={file.replace('HOME', str(alone.home))}")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), file


def test_a_call_is_small_and_so_are_headers(client):
    json_body = {"content-type": "application/json"}
    for path in (JOIN, "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/call/echo"):
        parts = (b" " * 100_000 for _ in range(LIMIT_BYTES // 100_000 + 1))  # its length is not told beforehand
        for body in (b"[" * (LIMIT_BYTES + 1), parts):
            answer = client.post(path, content=body, headers=json_body)
            assert answer.status_code == 413
            assert str(LIMIT_BYTES) in answer.json()["detail"]
        assert client.post(path, content=b"[" * 100_000, headers=json_body).status_code in (400, 422)
    assert client.post("/gradio_api/reset", json={"event_id": "x" * (LIMIT_BYTES - 100)}).json() == {"success": True}
    assert client.get("/config", headers={"cookie": "a" * (gate.HEADERS_BYTES - 2000)}).status_code == 200
    answer = client.get("/config", headers={"cookie": "a" * gate.HEADERS_BYTES})
    assert (answer.status_code, "cookies" in answer.json()["detail"]) == (431, True)


def multipart(files, size):
    one = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.txt"\r\n\r\n%s\r\n'
    body = b"".join(one % (n, bytes([65 + n % 26]) * size) for n in range(files)) + b"--b--\r\n"
    return body, {"content-type": "multipart/form-data; boundary=b"}


def uploaded(client, files=1, size=1_000_000, chunked=False, **more):
    body, headers = multipart(files, size)
    content = (body[place : place + 50_000] for place in range(0, len(body), 50_000)) if chunked else body
    return client.post(gate.UPLOAD, content=content, headers=headers | more)


def test_an_upload_is_limited_as_a_whole_and_leaves_nothing_behind(client, alone):
    for (files, size), chunked in itertools.product(((1, 3 * 2**20), (30, 100_000)), (False, True)):
        answer = uploaded(client, files, size, chunked)
        assert (answer.status_code, "maximum allowed size" in answer.text) == (413, True)
    assert not list(alone.incoming_dir.rglob("*"))
    assert len(uploaded(client, 3, 300_000).json()) == 3


def test_visitors_have_a_share_of_what_waits_and_a_full_disk_takes_nothing_of_theirs(gated, alone):
    client = caller(gated(shared=True))
    answers = [uploaded(client) for _ in range(storage.VISITOR_UPLOADS + 1)]
    assert [answer.status_code for answer in answers] == [200] * storage.VISITOR_UPLOADS + [400]
    assert "Wait a little" in answers[-1].text
    assert not [file for file in alone.incoming_dir.iterdir() if file.is_file()], "what was refused is gone"
    for cookie in (f"{COOKIE}={'a' * 32}", f"__Host-{COOKIE}={'b' * 32}"):
        assert uploaded(client, cookie=cookie).status_code == 200
    assert uploaded(caller(gated())).status_code == 200, "alone there is no share"
    full = uploaded(caller(gated(lambda home: 1000, shared=True)))
    assert (full.status_code, "nearly full" in full.text) == (507, True)


def test_a_share_comes_back_once_what_was_sent_is_gone_and_a_crowded_folder_takes_no_upload(tmp_path, client, alone):
    now = [0.0]
    incoming = storage.Incoming(tmp_path, 100, lambda: now[0])
    assert [incoming.refusal("anna", 100) for _ in range(storage.VISITOR_UPLOADS)] == [""] * storage.VISITOR_UPLOADS
    assert "Wait a little" in incoming.refusal("anna", 1)
    assert incoming.refusal("", 100) == "", "those without a cookie have a share together"
    now[0] = storage.WAITS_S - 1
    assert incoming.refusal("anna", 1)
    now[0] = storage.WAITS_S
    assert incoming.refusal("anna", storage.VISITOR_UPLOADS * 100) == ""
    others = [incoming.refusal(f"visitor {n}", 100) for n in range(storage.ALL_UPLOADS - storage.VISITOR_UPLOADS)]
    assert others == [""] * len(others)
    assert "Too many files" in incoming.refusal("one more", 1), "all together have a share too"
    now[0] = 2 * storage.WAITS_S
    assert incoming.refusal("one more", 1) == ""
    assert not storage.Incoming(alone.incoming_dir, 100).is_crowded(), "it is not there yet"
    alone.incoming_dir.mkdir(parents=True)
    for n in range(storage.FILES_MAX - 1):
        (alone.incoming_dir / str(n)).touch()
    assert not storage.Incoming(alone.incoming_dir, 100).is_crowded()
    (alone.incoming_dir / "last").touch()
    assert uploaded(client).status_code == 507


def test_a_visitor_who_leaves_in_an_upload_leaves_nothing_behind(gated, alone):
    body, headers = multipart(1, 500_000)
    with on_a_port(gated()) as url, sent(url, gate.UPLOAD, body[:300_000], headers["content-type"], len(body)):
        wait_for(lambda: any(file.stat().st_size for file in alone.incoming_dir.glob("*")))
    wait_for(lambda: not list(alone.incoming_dir.iterdir()))


def test_a_body_that_does_not_come_is_not_waited_for(gated, alone):
    body, headers = multipart(1, 100_000)
    for path, kind, part, status, words in (
        (JOIN, "application/json", b"[", 408, b'{"detail":"The request did not arrive within 0 s. Try again."}'),
        (gate.UPLOAD, headers["content-type"], body[:50_000], 400, b"The upload took too long. "),
    ):
        app = gate.Gate(gated(), alone, body_s=0.05, upload_s=0.05)
        with on_a_port(app) as url, sent(url, path, part, kind, len(body)) as connection:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, words in answer.read()) == (status, True)
    assert not list(alone.incoming_dir.iterdir())


def test_our_own_routes_read_their_own_bodies(alone):
    async def size(request):
        return PlainTextResponse(str(len(await request.body())))

    own = [Route("/own", size, methods=["POST"])]
    app = Starlette(routes=own, middleware=[Middleware(gate.Gate, settings=alone, own=own)])
    assert caller(app).post("/own", content=b" " * (LIMIT_BYTES + 5)).text == str(LIMIT_BYTES + 5)


INLINE = "window.config = {\"a\": '</b>'};"
PAGE = f"<script>{INLINE}</script><script type=module src=./index.js></script><script data-mode>\n two()\n</script>"
PAGE += "<p onclick=x>é</p>"


def policed(space=False):
    routes = [
        Route("/", lambda request: HTMLResponse(PAGE)),
        Route("/status", lambda request: PlainTextResponse("ok")),
        Route("/stream", lambda request: StreamingResponse(iter(["a", "b"]))),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(gate.Answered, space=space)]))


def policy(answer):
    return dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))


def test_the_page_runs_its_own_scripts_alone_all_else_none_and_only_own_pages_and_the_hubs_frame_it():
    answer = policed().get("/")
    assert answer.text == PAGE
    for path in ("/", "/status"):
        assert policy(policed().get(path))["frame-ancestors"] == "'self'"
        assert policy(policed(space=True).get(path))["frame-ancestors"] == "'self' https://huggingface.co"
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (INLINE, "\n two()\n")]
    scripts = policy(answer)["script-src"].split()
    assert scripts == ["'self'", "'unsafe-eval'", *(f"'sha256-{one}'" for one in hashes)]
    assert policy(answer)["object-src"] == "'none'"
    for path in ("/status", "/stream", "/nothing"):
        said = policy(policed().get(path))
        assert (said["default-src"], "script-src" in said) == ("'none'", False)


@pytest.mark.parametrize("path", ["/tools", "/tools/", "/"])
def test_behind_a_proxy_that_keeps_its_path_the_page_is_the_page(tmp_path, path):
    settings = Settings(home=tmp_path, shared=True)
    middleware = [Middleware(gate.Answered, shared=True), Middleware(gate.Gate, settings=settings)]
    app = Starlette(routes=[Route("/{rest:path}", lambda request: HTMLResponse(PAGE))], middleware=middleware)
    answer = caller(app, root_path="/tools").get(path)
    assert answer.text == PAGE
    assert "script-src" in policy(answer)
    assert COOKIE in answer.headers["set-cookie"]
    refused = caller(app, root_path="/tools").get(path, headers={"host": "evil.example"})
    assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
