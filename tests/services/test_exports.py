"""Exports that take a while: told, stopped, refused."""

import base64
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from playground.errors import InputError, NotFoundError, RunFailedError
from playground.models.exporting import Exporter, Pusher
from playground.settings import PROJECT_ROOT
from playground.ui.adapters import push
from playground.ui.wiring import Visit
from tests.refused import refused

adapter = pytest.fixture(lambda services, make_lora: services.adapters.import_file(make_lora(4)).id)


def exporting():
    """Processes that write an export for this one."""
    about = psutil.process_iter(["ppid", "cmdline"])  # of a process that ends meanwhile: None
    mine = [one.info["cmdline"] or [] for one in about if one.info["ppid"] == os.getpid()]
    return sum("playground.library.exporting" in command for command in mine)


def test_an_export_makes_no_room_that_was_removed_and_of_two_at_once_one_is_refused(services, settings, adapter):
    job = services.exporter.export(adapter, "merged")
    next(job)
    assert next(job).phase.startswith("Merging")
    (room,) = settings.exports_dir.iterdir()
    shutil.rmtree(room)
    refused("could not be written", list, job, error=RunFailedError)
    assert list(settings.exports_dir.iterdir()) == []
    said = []

    def no_room(*asked):
        """A second merge of the same visitor begins while room is looked for; the first time there is none."""
        if said:
            return settings.exports_dir / "room"
        said.append("")
        refused("An export of yours is being written already", next, exporter.export(adapter, "merged", owner="ann"))
        raise InputError("There is no room.")

    quota, shared = SimpleNamespace(room=no_room), replace(settings, shared=True)
    exporter = Exporter(shared, services.manager.device, services.bases, services.adapters, quota, services.jobs)
    refused("There is no room", next, exporter.export(adapter, "merged", owner="ann"))
    again = exporter.export(adapter, "merged", owner="ann")
    assert next(again).phase == "Starting", "the one that was refused its room holds nothing"
    again.close()


def test_a_merged_model_is_a_zip_is_stopped_by_who_leaves_or_refused_before(services, adapter, settings, tmp_path):
    steps = list(services.exporter.export(adapter, "merged"))
    file = steps[-1].file
    assert file.name == f"{adapter}-merged.zip"
    assert [one.name for one in file.parent.iterdir()] == [file.name], "nothing else is left there"
    assert [step.share for step in steps] == sorted(step.share for step in steps)
    shutil.rmtree(file.parent)
    job = services.exporter.export(adapter, "gguf")
    next(job)
    next(job)
    assert exporting() == 1
    job.close()
    assert (exporting(), list(settings.exports_dir.iterdir())) == (0, [])
    for says, asked in {r"no format 'onnx'.*merged, gguf": "onnx", "nothing is overwritten": "merged"}.items():
        refused(says, next, services.exporter.export(adapter, asked, target=tmp_path))
    refused("", next, services.exporter.export("nobody", "merged"), error=NotFoundError)


TOKEN = "hf_not_a_real_token"


class Remembers:
    def send(self, folder, repo, token, *, private):
        self.files, self.sent = {file.name for file in folder.iterdir()}, (repo, token, private)
        return f"https://hub.example/{repo}"


def test_what_is_sent_is_the_export_wrong_names_are_not_sent_and_the_page_empties_the_token_at_once(services):
    hub = Remembers()
    pusher = Pusher(services.adapters, hub.send)
    assert pusher.push("hospital_reports", " ada/reports ", TOKEN) == "https://hub.example/ada/reports"
    assert hub.files >= {"adapter_config.json", "adapter_model.safetensors", "README.md", "run.json"}
    assert hub.sent == ("ada/reports", TOKEN, True)
    repos = ("reports", "a/b/c", "../x", "a/..", "https://evil.example/a", "")
    tokens = ("", "short", "with space in it", "new\nline-token")
    for repo, token in (*((repo, TOKEN) for repo in repos), *(("a/b", token) for token in tokens)):
        refused("OWNER/NAME" if token == TOKEN else "token", pusher.push, "hospital_reports", repo, token)
    refused("", pusher.push, "nobody", "a/b", TOKEN, error=NotFoundError)
    services.pusher = Pusher(services.adapters, Remembers().send)
    view = SimpleNamespace(token="token", send="send", result="result")
    asked = {"repo": "ada/reports", "token": TOKEN, "private": True}
    first, last = push(Visit(services), view, chosen="hospital_reports", **asked)
    assert first["token"] == ""
    assert "https://hub.example/ada/reports" in last["result"]["value"]
    assert TOKEN not in str(first) + str(last)
    (none,) = push(Visit(services), view, chosen="", **asked)
    assert "Choose an adapter" in none["result"]["value"]


@pytest.fixture
def hub(server):
    """What the hub library asks a hub for. files: path -> content of what it was sent. made: the repositories."""
    hub = SimpleNamespace(url=server.url, asked=server.asked, status=200, files={}, made=[])

    def say(path, body):
        if hub.status != 200:
            return hub.status, {"error": "no"}
        if path == "/api/repos/create":
            hub.made.append(json.loads(body))
            return 200, {"url": f"{hub.url}/ada/reports"}
        if "/preupload/" in path:
            about = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": file["path"]} | about for file in json.loads(body)["files"]]}
        if "/commit/" in path:
            sent = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            hub.files |= {file["path"]: base64.b64decode(file["content"]) for file in sent}
            return 200, {"commitUrl": f"{hub.url}/ada/reports/commit/1", "commitOid": "1", "success": True}
        return 200, {"errors": [], "warnings": []} if body else {"id": "ada/reports", "siblings": [], "sha": "1"}

    server.say = say
    return hub


def command(hub, home):
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "PLAYGROUND_HOME": str(home)}
    env = os.environ | env | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    call = [sys.executable, "-m", "playground", "adapters", "push", "hospital_reports", "ada/reports", "--json"]
    return subprocess.run(call, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_the_hub_library_sends_every_file_with_the_visitors_token_and_a_refusal_is_told_in_words(hub, tmp_path):
    hub.status = 403
    refused = command(hub, tmp_path)
    assert (refused.returncode, "does not let this token write" in refused.stderr) == (2, True)
    hub.status = 200
    done = command(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["address"].endswith("/ada/reports")
    assert (hub.made[0]["name"], hub.made[0]["organization"]) == ("reports", "ada")
    assert hub.made[0].get("private") or hub.made[0].get("visibility") == "private"
    shipped = PROJECT_ROOT / "adapters" / "hospital_reports"
    assert hub.files["adapter_model.safetensors"] == (shipped / "adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "README.md", "run.json"} <= hub.files.keys()
    assert {authorization for _, authorization, _ in hub.asked} == {f"Bearer {TOKEN}"}
    told = done.stdout + done.stderr + refused.stdout + refused.stderr
    assert not [word for word in (TOKEN, "Traceback") if word in told]
