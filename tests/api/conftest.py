"""The app as programs see it: routes alone without a model, and the real page on the tiny base with three adapters."""

import shutil
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.server.routes import build_routes
from playground.services import Services, build_services
from playground.settings import Settings
from playground.workspace.visitors import Home
from tests.engine.conftest import make_lora
from tests.waiting import wait_for

__all__ = ["make_lora"]
MODELS = ["one", "two", "three"]


@contextmanager
def on_a_port(app):
    """Serve an app on a free port of this machine; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def sent(url, path, body, kind="application/json", length=None):
    """A request; at the end its client leaves. length: that is promised, None = the body's."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length or len(body)}"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        yield connection


def told(answer):
    """(status, code, message) of an error."""
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["message"]


@pytest.fixture
def here(settings):
    """(changes of the settings, client=, url=) -> a caller of the routes, from this machine unless told otherwise."""

    def make(client=("127.0.0.1", 50_000), url="http://localhost:7860", services=None, **changes):
        routes = build_routes(services or build_services(replace(settings, **changes)), "internal-token")
        return TestClient(Starlette(routes=routes), base_url=url, client=client)

    return make


@pytest.fixture(scope="module")
def lora_folders(make_lora, tmp_path_factory):
    """Three PEFT folders, named as the models that they become."""
    parent, ranks = tmp_path_factory.mktemp("named"), zip(MODELS, (4, 2, 8), strict=True)
    return [Path(shutil.copytree(make_lora(60 + rank, rank=rank), parent / name)) for name, rank in ranks]


@dataclass
class Served:
    """An app that is open. url: of its page, with a slash at its end."""

    url: str
    services: Services

    def client(self):
        import openai

        return openai.OpenAI(base_url=self.url + "v1", api_key="none", max_retries=0, timeout=60)


@contextmanager
def opened(services):
    """The real page, as ``python app.py`` opens it; yields its address."""
    from playground.serve import launch

    home = Home.take(services.settings)
    page, url = launch(services, home)
    yield url
    page.close(verbose=False)
    services.close()
    home.release()


@pytest.fixture(scope="module")
def served(tiny_base, lora_folders, tmp_path_factory):
    """With the base loaded and three adapters."""
    services = build_services(Settings(home=tmp_path_factory.mktemp("served") / "home", base=str(tiny_base)))
    for folder in lora_folders:
        services.adapters.import_file(folder)
    with opened(services) as url:
        wait_for(lambda: services.bases.state().phase in ("ready", "failed"))
        assert services.bases.loaded is not None, services.bases.state()
        yield Served(url, services)
