"""Four times as many clients as the app will serve, over HTTP, while somebody asks whether it is well."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from playground.library.bases import Base
from tests.e2e.conftest import App, start_app
from tests.soak.results import record, spread
from tests.soak.torture import wait_for

pytestmark = [pytest.mark.soak, pytest.mark.real]
TAKEN = 4 + 8
"""Requests of one address that /v1 runs or lets wait."""
WAVES = 5


@pytest.fixture
def app(real_base: Base, tmp_path: Path) -> Iterator[App]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "bases").symlink_to(real_base.path.parent)
    running = start_app(home, tmp_path / "app.log")
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text()


def ask(url: str, number: int) -> str:
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": f"Tell me about ward {number}."}],
        "max_tokens": 24,
    }
    reply = httpx.post(url + "/v1/chat/completions", json=body, timeout=300)
    if reply.status_code == 429:
        assert int(reply.headers["retry-after"]) > 0
        return "refused"
    assert reply.status_code == 200, reply.text
    return "answered" if reply.json()["choices"][0]["message"]["content"] else "empty"


def test_four_times_too_many(app: App) -> None:
    health_s: list[float] = []
    over = threading.Event()

    def watch() -> None:
        with httpx.Client(timeout=60) as client:
            while not over.wait(0.05):
                asked = time.monotonic()
                assert client.get(app.url + "/healthz").status_code == 200
                health_s.append(time.monotonic() - asked)

    wait_for(lambda: httpx.get(app.url + "/status", timeout=60).json()["base"]["phase"] == "ready", "loaded")
    assert ask(app.url, 0) == "answered"
    outcomes: Counter[str] = Counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(WAVES):
        with ThreadPoolExecutor(4 * TAKEN) as pool:
            outcomes.update(pool.map(lambda number: ask(app.url, number), range(4 * TAKEN)))
    over.set()
    watcher.join()
    sent = WAVES * 4 * TAKEN
    record(
        "overload", sent=sent, **outcomes, base="smollm2-135m", healthz_s=spread(health_s), healthz_asked=len(health_s)
    )
    assert outcomes["answered"] + outcomes["refused"] == sent
    assert outcomes["answered"] >= WAVES * TAKEN
    assert spread(health_s)["p95"] < 0.5
