"""The open page of a shared app, called as an attacker calls it: by hand, over HTTP."""

import itertools
import json
from pathlib import Path

import httpx
import pytest

from playground.services import Services
from playground.workspace.visitors import COOKIE, HOST_COOKIE, owner_of
from tests.api.conftest import opened
from tests.shared.conftest import ANNA, SECRET, belongings, shared_home

JSONL = b"\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}."}).encode() for n in range(8))
MINE = {"files": ("mine.jsonl", JSONL)}


class Open:
    """The app, and what Anna has in it. handlers: of the page, private or not."""

    def __init__(self, url, services, hers):
        self.url, self.services, self.hers = url, services, hers
        page = httpx.get(f"{url}config").json()
        self.handlers = [one for one in page["dependencies"] if one["backend_fn"]]
        self.kinds = {one["id"]: one["type"] for one in page["components"]}

    def browser(self, token="b" * 32, **headers):
        return httpx.Client(base_url=self.url, timeout=60, headers={"cookie": f"{COOKIE}={token}"} | headers)

    def call(self, client, name, tab, path=None, event=None):
        """Call the first handler of this name through the queue; all that came back, as text. path: of a file."""
        handler = next(one for one in self.handlers if str(one["api_name"]).startswith(name))
        files = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]
        values = {"file": files, "uploadbutton": files, "number": 2048} if path else {}
        body = {"fn_index": handler["id"], "data": [values.get(self.kinds[one]) for one in handler["inputs"]]}
        joined = client.post("gradio_api/queue/join", json=body | {"session_hash": tab, "event_data": event})
        told = [joined.text] if joined.status_code != 200 else []
        with client.stream("GET", "gradio_api/queue/data", params={"session_hash": tab}) as answer:
            for line in answer.iter_lines() if not told else ():
                told.append(line)
                if any(f'"{word}"' in line for word in ("process_completed", "close_stream", "unexpected_error")):
                    break
        return "\n".join(told).replace('"success": ', '"success":')


class Idle(Services):
    def start(self):
        """No base is prepared behind the page."""


@pytest.fixture(scope="module")
def app(tmp_path_factory, prepared, lora):
    services = Idle(shared_home(tmp_path_factory.mktemp("open") / "home", prepared))
    hers = belongings(services, lora)
    with opened(services) as url:
        yield Open(url, services, hers)


@pytest.mark.parametrize(("scheme", "name"), [("http", COOKIE), ("https", HOST_COOKIE)])
def test_the_page_gives_a_cookie_that_its_connection_takes_and_renews_it(app, scheme, name):
    with httpx.Client(base_url=app.url, headers={"x-forwarded-proto": scheme}) as client:
        first = client.get("/").headers["set-cookie"]
        token = first.split(";")[0].removeprefix(f"{name}=")
        assert len(token) == 32
        assert first.startswith(f"{name}={token}; Path=/; ")
        assert "; HttpOnly; " in first
        assert "Domain" not in first
        where = "SameSite=None; Secure; Partitioned" if scheme == "https" else "SameSite=Lax"
        assert first.endswith(where)
        other = COOKIE if scheme == "https" else HOST_COOKIE
        again = client.get("/", headers={"cookie": f"{name}={token}; {other}={'c' * 32}"})
        assert token in again.headers["set-cookie"]
        assert "set-cookie" not in client.get("healthz").headers
        assert "=local" not in client.get("/", headers={"cookie": f"{name}=local"}).headers["set-cookie"]


@pytest.mark.parametrize("https", [False, True])
def test_an_upload_and_what_it_is_read_as(app, https):
    """Behind https the cookie of this very host says who asks, and no other."""
    own = {"x-forwarded-proto": "https", "cookie": f"{COOKIE}={'b' * 32}; {HOST_COOKIE}={'d' * 32}"}
    with app.browser("c" * 32, **(own if https else {})) as client:
        assert not https or f"{HOST_COOKIE}={'d' * 32}; " in client.get("/").headers["set-cookie"]
        sent = client.post("gradio_api/upload", files=MINE).json()[0]
        assert "8 rows" in app.call(client, "open_upload", f"tab-{https}", sent)
    owner = owner_of(("d" if https else "c") * 32, "")
    assert [item.name for item in app.services.storage.items(owner)] == ["mine.jsonl"]
    assert owner in app.services.sessions.visits(), "every call is a sign of life"


def test_files_of_others_are_not_served(app):
    hers, settings = app.hers, app.services.settings
    wanted = [
        *(hers.upload, settings.database, settings.home / "owner.json", settings.exports_dir, settings.incoming_dir),
        *((settings.runs_dir / hers.run / name) for name in ("events.jsonl", "run.json")),
        *(settings.adapters_dir / hers.adapter).iterdir(),
        *(Path("/etc/passwd"), Path("app.py").absolute(), settings.exports_dir / ".." / "owner.json"),
        settings.incoming_dir / ".." / ANNA / hers.upload.parent.name / hers.upload.name,
    ]
    with app.browser() as client:
        for path in wanted:
            for spelled in (str(path), str(path).replace("/", "%2F"), f"{path}/"):
                answer = client.get(f"gradio_api/file={spelled}")
                assert answer.status_code in (403, 404), (path, answer.status_code)
                assert SECRET not in answer.text.replace(str(path), "").replace(path.name, "")


def test_a_payload_may_name_no_other_file(app):
    folder = app.services.settings.adapters_dir / app.hers.adapter
    others = [app.hers.upload, Path("/etc/passwd"), app.services.settings.database, folder / "adapter_config.json"]
    with app.browser() as client:
        for (place, path), handler in itertools.product(enumerate(others), ("open_upload", "import_file")):
            told = app.call(client, handler, f"bens-tab-{handler}-{place}", path)
            assert '"success":false' in told or "There is no uploaded file" in told, told
            assert not [words for words in ("12 rows", "root:") if words in told]
    assert all(row.card.shipped for row in app.services.adapters.list(owner_of("b" * 32, "")))


def test_ids_from_the_page_are_looked_up_among_ones_own(app):
    names = {str(one["api_name"]) for one in app.handlers}
    picks = [name for name in sorted(names) if name.startswith(("pick", "follow", "ask"))]
    assert picks
    with app.browser() as client:
        for name in picks:
            for id in (app.hers.adapter, app.hers.run, f"adapter:{app.hers.adapter}", f"upload:{ANNA}/x"):
                told = app.call(client, name, f"bens-tab-{name}-{id}", event={"id": id})
                assert SECRET not in told.replace(app.hers.adapter, "")
    assert app.services.adapters.get(app.hers.adapter, ANNA).owner == ANNA


def test_pages_from_elsewhere_are_refused_here_too(app):
    before = set(app.services.settings.incoming_dir.rglob("*"))
    with app.browser() as client:
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            assert client.get("/", headers=headers).status_code == 403
            assert client.post("gradio_api/upload", files=MINE, headers=headers).status_code == 403
        for route in ("runs", "run-history/buckets", "proxy=https://a.hf.space/x", "file=http://127.0.0.1:1/x"):
            assert client.get(f"gradio_api/{route}").status_code == 404, route
    assert set(app.services.settings.incoming_dir.rglob("*")) == before


def test_the_status_tells_counts_only_and_exports_are_served_to_whoever_was_given_their_name(app):
    with app.browser() as client:
        counts = {"device", "budget_bytes", "used_bytes", "residents", "leases", "queue"}
        assert (set(client.get("status").json()), client.get("internal/status").status_code) == (counts, 403)
        assert client.post("internal/compare", json={}).status_code == 403
        assert client.get("v1/models").status_code == 403
    packed = app.services.adapters.export_zip(app.hers.adapter, ANNA)
    with app.browser("a" * 32) as client:
        assert client.get(f"gradio_api/file={packed}").content == packed.read_bytes()
        assert client.get(f"gradio_api/file={packed.parent}").status_code == 403
