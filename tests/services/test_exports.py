"""Exports that take a while: told, stopped, refused."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from playground.errors import InputError, NotFoundError, RunFailedError
from playground.models.exporting import Exporter, Pusher
from playground.services import Services
from playground.settings import PROJECT_ROOT, Settings
from playground.ui.adapters import push
from playground.ui.wiring import Visitor
from playground.workspace.quota import Quota
from tests.services.conftest import Server


@pytest.fixture
def adapter(services: Services, make_lora: Callable[..., Path]) -> str:
    return services.adapters.import_file(make_lora(4)).id


def exporting() -> int:
    """Processes that write an export for this one."""
    found = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # another test's, ending
            found += "playground.library.exporting" in child.cmdline()
    return found


def test_a_merged_model_is_handed_over_as_a_zip(services: Services, adapter: str) -> None:
    steps = list(services.exporter.export(adapter, "merged"))
    file = steps[-1].file
    assert file.name == f"{adapter}-merged.zip"
    assert [one.name for one in file.parent.iterdir()] == [file.name], "nothing else is left there"
    assert [step.share for step in steps] == sorted(step.share for step in steps)


def test_who_stops_listening_stops_it(services: Services, settings: Settings, adapter: str) -> None:
    job = services.exporter.export(adapter, "gguf")
    next(job)
    next(job)
    assert exporting() == 1
    job.close()  # type: ignore[attr-defined]
    assert exporting() == 0
    assert list(settings.exports_dir.iterdir()) == []


def test_an_export_whose_room_is_removed_meanwhile_makes_no_new_one(
    services: Services, settings: Settings, adapter: str
) -> None:
    job = services.exporter.export(adapter, "merged")
    next(job)
    assert next(job).phase.startswith("Merging")
    (room,) = settings.exports_dir.iterdir()
    shutil.rmtree(room)
    with pytest.raises(RunFailedError, match="could not be written"):
        list(job)
    assert list(settings.exports_dir.iterdir()) == []


def test_of_two_merges_that_begin_at_once_one_is_refused(services: Services, settings: Settings, adapter: str) -> None:
    said: list[str] = []

    class Meanwhile(Quota):
        """A second merge of the same visitor begins while room is looked for; the first time there is none."""

        def room(self, owner: str, more_bytes: int, what: str) -> Path:
            if not said:
                said.append("")
                with pytest.raises(InputError) as refused:
                    next(exporter.export(adapter, "merged", owner="ann"))
                said.append(str(refused.value))
                raise InputError("There is no room.")
            return settings.exports_dir / "room"

    library = services.adapters.library
    quota = Meanwhile(settings, services.training.store, library)
    exporter = Exporter(
        replace(settings, shared=True), services.manager, services.bases, services.adapters, quota, services.jobs
    )
    with pytest.raises(InputError, match="There is no room"):
        next(exporter.export(adapter, "merged", owner="ann"))
    assert said[1].startswith("An export of yours is being written already")
    again = exporter.export(adapter, "merged", owner="ann")
    assert next(again).phase == "Starting", "the one that was refused its room holds nothing"
    again.close()  # type: ignore[attr-defined]


def test_what_cannot_be_written_is_said_before_it_begins(services: Services, adapter: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no format 'onnx'.*merged, gguf"):
        next(services.exporter.export(adapter, "onnx"))
    with pytest.raises(InputError, match="nothing is overwritten"):
        next(services.exporter.export(adapter, "merged", target=tmp_path))
    with pytest.raises(NotFoundError):
        next(services.exporter.export("nobody", "merged"))


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
    services.pusher = Pusher(services.adapters, Remembers())
    view: Any = SimpleNamespace(token="token", send="send", result="result")
    asked = {"repo": "ada/reports", "token": TOKEN, "private": True}
    first, last = push(services, Visitor("local", "tab"), view, chosen="hospital_reports", **asked)
    assert first["token"] == ""
    assert "https://hub.example/ada/reports" in last["result"]["value"]
    assert TOKEN not in str(first) + str(last)
    (none,) = push(services, Visitor("local", "tab"), view, chosen="", **asked)
    assert "Choose an adapter" in none["result"]["value"]


class Hub:
    """What the hub library asks a hub for. files: path -> content of what it was sent. made: the repositories."""

    def __init__(self, server: Server) -> None:
        self.server, self.status = server, 200
        self.files, self.made = dict[str, bytes](), list[dict[str, Any]]()
        server.say = self.say

    def say(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.status != 200:
            return self.status, {"error": "no"}
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            return 200, {"url": f"{self.server.url}/ada/reports"}
        if "/preupload/" in path:
            about = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": file["path"]} | about for file in json.loads(body)["files"]]}
        if "/commit/" in path:
            sent = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            self.files |= {file["path"]: base64.b64decode(file["content"]) for file in sent}
            return 200, {"commitUrl": f"{self.server.url}/ada/reports/commit/1", "commitOid": "1", "success": True}
        return 200, {"errors": [], "warnings": []} if body else {"id": "ada/reports", "siblings": [], "sha": "1"}


@pytest.fixture
def hub(server: Server) -> Hub:
    return Hub(server)


def command(hub: Hub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.server.url, "HF_TOKEN": TOKEN, "PLAYGROUND_HOME": str(home)}
    env = os.environ | env | {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    call = [sys.executable, "-m", "playground", "adapters", "push", "hospital_reports", "ada/reports", "--json", *words]
    return subprocess.run(call, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_the_hub_library_sends_every_file_with_the_visitors_token(hub: Hub, tmp_path: Path) -> None:
    done = command(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["address"].endswith("/ada/reports")
    assert (hub.made[0]["name"], hub.made[0]["organization"]) == ("reports", "ada")
    assert hub.made[0].get("private") or hub.made[0].get("visibility") == "private"
    shipped = PROJECT_ROOT / "adapters" / "hospital_reports"
    assert hub.files["adapter_model.safetensors"] == (shipped / "adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "README.md", "run.json"} <= hub.files.keys()
    assert {authorization for _, authorization, _ in hub.server.asked} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr


def test_a_token_that_may_not_write_is_told_in_words(hub: Hub, tmp_path: Path) -> None:
    hub.status = 403
    done = command(hub, tmp_path)
    assert done.returncode == 2
    assert "does not let this token write" in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
