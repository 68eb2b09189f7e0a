"""A page of another site, in a real browser, tries to reach the app of the person who looks at it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.e2e.conftest import ARGUMENTS, App

pytestmark = [pytest.mark.browser, pytest.mark.real]
ATTACK = """async (app) => {
    const form = new FormData();
    form.append("files", new File(["{}"], "evil.jsonl"));
    const join = JSON.stringify({data: [], fn_index: 0, session_hash: "evil"});
    const sent = [[app + "/status", {}], [app + "/gradio_api/upload", {method: "POST", body: form}],
                  [app + "/gradio_api/upload", {method: "POST", body: form, mode: "no-cors"}],
                  [app + "/gradio_api/queue/join", {method: "POST", body: join}]];
    const told = [];
    for (const [url, options] of sent) {
        try { const answer = await fetch(url, options); told.push([answer.status, await answer.text()]); }
        catch (error) { told.push([0, String(error)]); }
    }
    return told;
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>A page elsewhere</p>")

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of another site's page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_another_sites_page_reaches_nothing(app: App, browser: Any, elsewhere: int) -> None:
    path = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    port = app.url.rpartition(":")[2]
    rules = ["--host-resolver-rules=MAP *.example 127.0.0.1", "--disable-features=LocalNetworkAccessChecks"]
    opened = browser.browser_type.launch(executable_path=path, args=[*ARGUMENTS, *rules])
    try:
        page = opened.new_page()
        page.goto(f"http://evil.example:{port}")  # its name was made to point here
        assert "may not be opened as 'evil.example" in page.inner_text("body")
        rebound = page.evaluate(ATTACK, f"http://evil.example:{port}")
        page.goto(f"http://evil.example:{elsewhere}")
        crossed = page.evaluate(ATTACK, app.url)
    finally:
        opened.close()
    assert [status for status, _ in rebound] == [403, 403, 0, 403] or [status for status, _ in rebound] == [403] * 4
    assert {status for status, _ in crossed} <= {0, 403}
    assert "device" not in str([rebound, crossed])
    assert not list((app.home / "uploads").rglob("evil*"))
