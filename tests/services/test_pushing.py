"""Pushing: with a hub of our own making on this machine that speaks the real one's language, and with one that only
remembers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.errors import InputError, NotFoundError
from playground.models.exporting import Pusher
from playground.services import Services
from playground.settings import PROJECT_ROOT
from playground.ui.adapters import push
from playground.ui.wiring import Visitor

TOKEN = "hf_not_a_real_token"


class Remembers:
    def __init__(self) -> None:
        self.files: set[str] = set()
        self.sent: tuple[str, str, bool] | None = None

    def send(self, folder: Path, repo: str, token: str, *, private: bool) -> str:
        self.files, self.sent = {file.name for file in folder.iterdir()}, (repo, token, private)
        return f"https://hub.example/{repo}"


def test_what_is_sent_is_the_export_and_wrong_names_are_not_sent(services: Services) -> None:
    hub = Remembers()
    pusher = Pusher(services.adapters, hub)
    assert pusher.push("hospital_reports", " ada/reports ", TOKEN) == "https://hub.example/ada/reports"
    assert hub.files >= {"adapter_config.json", "adapter_model.safetensors", "README.md", "run.json"}
    assert hub.sent == ("ada/reports", TOKEN, True)
    for repo in ("reports", "a/b/c", "../x", "a/..", "https://evil.example/a", ""):
        with pytest.raises(InputError, match="OWNER/NAME"):
            pusher.push("hospital_reports", repo, TOKEN)
    for token in ("", "short", "with space in it", "new\nline-token"):
        with pytest.raises(InputError, match="token"):
            pusher.push("hospital_reports", "a/b", token)
    with pytest.raises(NotFoundError):
        pusher.push("nobody", "a/b", TOKEN)


def test_the_page_empties_the_token_at_once_and_says_where_it_is(services: Services) -> None:
    services = replace(services, pusher=Pusher(services.adapters, Remembers()))
    view: Any = SimpleNamespace(token="token", send="send", said="said")
    asked = {"repo": "ada/reports", "token": TOKEN, "private": True}
    first, last = push(services, Visitor("local", "tab"), view, chosen="hospital_reports", **asked)
    assert first["token"] == ""
    assert "https://hub.example/ada/reports" in last["said"]["value"]
    assert TOKEN not in str(first) + str(last)
    (none,) = push(services, Visitor("local", "tab"), view, chosen="", **asked)
    assert "Choose an adapter" in none["said"]["value"]


class _Hub(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.status != 200:
            return self._say({"error": "no"}, self.server.status)
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self._say({"url": f"http://127.0.0.1:{self.server.server_port}/ada/reports"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self._say(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://127.0.0.1:{self.server.server_port}/ada/reports/commit/1"
            return self._say({"commitUrl": url, "commitOid": "1", "success": True})
        return self._say({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self._say({"id": "ada/reports", "siblings": [], "sha": "1"})

    def _say(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.files, server.made, server.tokens, server.status = {}, [], set(), 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def command(hub: Any, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    address = f"http://127.0.0.1:{hub.server_port}"
    env = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "PLAYGROUND_HOME": str(home)}
    env |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    call = [sys.executable, "-m", "playground", "adapters", "push", "hospital_reports", "ada/reports", "--json", *words]
    return subprocess.run(call, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_the_hub_library_sends_every_file_with_the_visitors_token(hub: Any, tmp_path: Path) -> None:
    done = command(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["address"].endswith("/ada/reports")
    assert (hub.made[0]["name"], hub.made[0]["organization"]) == ("reports", "ada")
    assert hub.made[0].get("private") or hub.made[0].get("visibility") == "private"
    shipped = PROJECT_ROOT / "adapters" / "hospital_reports"
    assert hub.files["adapter_model.safetensors"] == (shipped / "adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "README.md", "run.json"} <= hub.files.keys()
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr


def test_a_token_that_may_not_write_is_told_in_words(hub: Any, tmp_path: Path) -> None:
    hub.status = 403
    done = command(hub, tmp_path)
    assert done.returncode == 2
    assert "does not let this token write" in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
