"""The open page of a shared app, called as an attacker calls it: by hand, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from playground.server import gate
from playground.server.gate import token_in
from playground.services import Services, build_services
from playground.workspace.visitors import COOKIE, HOST_COOKIE, Home, owner_of
from tests.shared.conftest import ANNA, SECRET, Belongings, belongings, shared_home

JSONL = b"\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}."}).encode() for n in range(8))


class Open:
    """The app, and what Anna has in it."""

    def __init__(self, url: str, services: Services, hers: Belongings) -> None:
        self.url, self.services, self.hers = url, services, hers

    def browser(self, token: str = "") -> httpx.Client:
        client = httpx.Client(base_url=self.url, timeout=60)
        if token:
            client.cookies.set(COOKIE, token)
        return client


class Idle(Services):
    def start(self) -> None:
        """No base is prepared behind the page."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, prepared: Path, lora: Path) -> Iterator[Open]:
    from playground.serve import launch

    settings = shared_home(tmp_path_factory.mktemp("open") / "home", prepared)
    home = Home.take(settings)
    services = Idle(**vars(build_services(settings)))
    hers = belongings(services, lora)
    page, url = launch(services, home)
    yield Open(url, services, hers)
    page.close(verbose=False)
    services.close()
    home.release()


def number_of(client: httpx.Client, handler: str) -> int:
    """The number under which a handler can be called, private or not."""
    functions = client.get("config").json()["dependencies"]
    return next(one["id"] for one in functions if str(one["api_name"]).startswith(handler))


def payload(client: httpx.Client, handler: int, uploaded: str) -> list[Any]:
    """What a browser sends to a handler that takes an upload: the file, and the limit of tokens."""
    config = client.get("config").json()
    kinds = {one["id"]: one["type"] for one in config["components"]}
    inputs = next(one["inputs"] for one in config["dependencies"] if one["id"] == handler)
    files = [{"path": uploaded, "meta": {"_type": "gradio.FileData"}}]
    given: dict[str, Any] = {"file": files, "uploadbutton": files}
    return [given.get(kinds[id], 2048 if kinds[id] in ("slider", "number") else None) for id in inputs]


def call(client: httpx.Client, handler: int, data: list[Any], tab: str, event: Any = None) -> str:
    """Call a handler through the queue; everything that came back, as text."""
    body = {"fn_index": handler, "data": data, "session_hash": tab, "event_data": event}
    joined = client.post("gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": tab}) as answer:
        told = []
        for line in answer.iter_lines():
            told.append(line)
            if '"process_completed"' in line or '"close_stream"' in line or '"unexpected_error"' in line:
                break
    return "\n".join(told)


def test_the_page_gives_a_cookie_and_renews_it(app: Open) -> None:
    with app.browser() as client:
        first = client.get("/")
        token = token_in(first.headers["set-cookie"].split(";")[0])
        assert len(token) == 32
        assert "HttpOnly; SameSite=Lax" in first.headers["set-cookie"]
        assert token in client.get("/").headers["set-cookie"]
        assert "set-cookie" not in client.get("healthz").headers
        behind_https = client.get("/", headers={"x-forwarded-proto": "https"}).headers["set-cookie"]
        assert "SameSite=None; Secure; Partitioned" in behind_https
        client.cookies.set(COOKIE, "local")
        assert "=local" not in client.get("/").headers["set-cookie"]


def test_behind_https_the_cookie_of_this_very_host_says_who_asks(app: Open) -> None:
    with app.browser() as client:
        client.headers["x-forwarded-proto"] = "https"
        client.headers["cookie"] = f"{COOKIE}={'b' * 32}; {HOST_COOKIE}={'d' * 32}"
        assert f"{HOST_COOKIE}={'d' * 32}; " in client.get("/").headers["set-cookie"]
        sent = client.post("gradio_api/upload", files={"files": ("theirs.jsonl", JSONL)}).json()[0]
        number = number_of(client, "open_upload")
        assert "8 rows" in call(client, number, payload(client, number, sent), "their-tab")
    assert [item.name for item in app.services.storage.items(owner_of("d" * 32, ""))] == ["theirs.jsonl"]


def test_files_of_others_are_not_served(app: Open) -> None:
    hers, settings = app.hers, app.services.settings
    adapter = settings.adapters_dir / hers.adapter
    wanted = [
        hers.upload,
        settings.database,
        settings.home / "owner.json",
        settings.runs_dir / hers.run / "events.jsonl",
        settings.runs_dir / hers.run / "run.json",
        *adapter.iterdir(),
        settings.exports_dir,
        settings.incoming_dir,
        Path("/etc/passwd"),
        settings.incoming_dir / ".." / ANNA / hers.upload.parent.name / hers.upload.name,
        Path("app.py").absolute(),
        settings.exports_dir / ".." / "owner.json",
    ]
    with app.browser("b" * 32) as client:
        for path in wanted:
            for spelled in (str(path), str(path).replace("/", "%2F"), f"{path}/"):
                answer = client.get(f"gradio_api/file={spelled}")
                assert answer.status_code in (403, 404), (path, answer.status_code)
                assert SECRET not in answer.text.replace(str(path), "").replace(path.name, "")


def test_an_upload_and_what_it_is_read_as(app: Open) -> None:
    with app.browser("b" * 32) as client:
        number = number_of(client, "open_upload")
        sent = client.post("gradio_api/upload", files={"files": ("mine.jsonl", JSONL)}).json()[0]
        told = call(client, number, payload(client, number, sent), "bens-tab-1")
        assert "8 rows" in told
    assert [item.name for item in app.services.storage.items(owner_of("b" * 32, ""))] == ["mine.jsonl"]


def test_a_payload_may_name_no_other_file(app: Open) -> None:
    with app.browser("b" * 32) as client:
        opened, imported = number_of(client, "open_upload"), number_of(client, "import_file")
        folder = app.services.settings.adapters_dir / app.hers.adapter
        for place, path in enumerate(
            [app.hers.upload, Path("/etc/passwd"), app.services.settings.database, folder / "adapter_config.json"]
        ):
            for handler in (opened, imported):
                told = call(client, handler, payload(client, handler, str(path)), f"bens-tab-{handler}-{place}")
                assert '"success":false' in told.replace(" ", "") or "There is no uploaded file" in told, told
                assert "12 rows" not in told
                assert "root:" not in told
    assert all(row.card.shipped for row in app.services.adapters.list(owner_of("b" * 32, "")))


def test_ids_from_the_page_are_looked_up_among_ones_own(app: Open) -> None:
    with app.browser("b" * 32) as client:
        functions = {
            one["id"]: str(one["api_name"]) for one in client.get("config").json()["dependencies"] if one["backend_fn"]
        }
        picks = [number for number, name in functions.items() if name.startswith(("pick", "follow", "ask"))]
        for number in picks:
            for id in (app.hers.adapter, app.hers.run, f"adapter:{app.hers.adapter}", f"upload:{ANNA}/x"):
                size = len(
                    next(one for one in client.get("config").json()["dependencies"] if one["id"] == number)["inputs"]
                )
                told = call(client, number, [None] * size, f"bens-tab-{number}-{id}", {"id": id})
                assert SECRET not in told.replace(app.hers.adapter, "")
    assert app.services.adapters.get(app.hers.adapter, ANNA).owner == ANNA


def test_a_tabs_state_is_its_browsers(app: Open) -> None:
    with app.browser("a" * 32) as anna, app.browser("b" * 32) as ben:
        shown = number_of(anna, "show_storage")
        assert '"success":true' in call(anna, shown, [], "annas-tab").replace(" ", "")
        assert "There is no such page of yours" in call(ben, shown, [], "annas-tab")


def test_the_status_tells_counts_only(app: Open) -> None:
    with app.browser() as client:
        assert set(client.get("status").json()) == {
            "device",
            "budget_bytes",
            "used_bytes",
            "residents",
            "leases",
            "queue",
        }
        assert client.get("internal/status").status_code == 403
        assert client.post("internal/compare", json={}).status_code == 403
        assert client.get("v1/models").status_code == 403
        assert client.get("monitoring").status_code == 404 or "not enabled" in client.get("monitoring").text


def test_routes_of_gradio_that_nobody_needs_are_not_there(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_host")
    gone = [
        ("GET", "runs"),
        ("GET", "run-history/buckets"),
        ("GET", "run-history/records?bucket_id=a/b"),
        ("POST", "run-history/connect"),
        ("POST", "process_recording"),
        ("POST", "component_server"),
        ("GET", "file=http://127.0.0.1:1/x"),
        ("GET", "file=https://a.example/x"),
        ("GET", "proxy=https://a.hf.space/x"),
        ("GET", "token"),
        ("GET", "queue/status"),
        ("GET", "deep_link?session_hash=x"),
        ("POST", "vibe-edit"),
        ("GET", "openapi.json"),
    ]
    with app.browser("b" * 32) as client:
        for method, route in gone:
            assert client.request(method, f"gradio_api/{route}").status_code == 404, route


def test_bodies_are_limited(app: Open) -> None:
    with app.browser("b" * 32) as client:
        large = json.dumps({"data": ["x" * 3_000_000], "fn_index": 0, "session_hash": "x"})
        assert (
            client.post(
                "gradio_api/queue/join", content=large, headers={"content-type": "application/json"}
            ).status_code
            == 413
        )


def test_one_upload_of_many_files_is_limited_as_one(app: Open) -> None:
    before = set(app.services.settings.incoming_dir.rglob("*"))
    with app.browser() as client:
        files = [("files", (f"{n}.jsonl", bytes([65 + n]) * 2**20)) for n in range(23)]
        assert client.post("gradio_api/upload", files=files).status_code == 413
    assert set(app.services.settings.incoming_dir.rglob("*")) == before


def test_a_page_from_elsewhere_is_refused_here_too(app: Open) -> None:
    with app.browser("b" * 32) as client:
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            assert client.get("/", headers=headers).status_code == 403
            assert (
                client.post("gradio_api/upload", files={"files": ("mine.jsonl", JSONL)}, headers=headers).status_code
                == 403
            )


def test_a_full_disk_takes_no_upload(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "disk_free", lambda home: 1000)
    with app.browser("b" * 32) as client:
        answer = client.post("gradio_api/upload", files={"files": ("mine.jsonl", JSONL)})
        assert (answer.status_code, "nearly full" in answer.text) == (507, True)


def test_what_was_exported_is_served_to_whoever_was_given_its_name(app: Open) -> None:
    packed = app.services.adapters.export_zip(app.hers.adapter, ANNA)
    with app.browser("a" * 32) as client:
        assert client.get(f"gradio_api/file={packed}").content == packed.read_bytes()
        assert client.get(f"gradio_api/file={packed.parent}").status_code == 403
