"""The real app, on the real default base, in a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from playground.library.bases import Base
from playground.settings import PROJECT_ROOT

SLOW = 600_000
"""Milliseconds that a training or some dozens of replies may take on a busy machine."""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@dataclass
class App:
    url: str
    home: Path
    process: Any
    log: Path

    def stop(self, hard: bool = False) -> None:
        self.process.kill() if hard else self.process.terminate()
        self.process.wait(30)


def start_app(home: Path, log: Path, base: Path | None = None) -> App:
    """``python app.py`` on a free port; returns when the page answers. base: a folder in place of the default base."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PLAYGROUND_")}
    env |= {"PLAYGROUND_HOME": str(home), "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    env |= {"PLAYGROUND_BASE": str(base)} if base else {}
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=PROJECT_ROOT, env=env, stdout=out, stderr=out)
    app = App(f"http://127.0.0.1:{port}", home, process, log)
    until = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(app.url + "/healthz", timeout=2)
            return app
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def _one_file_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each trains or decodes for real; two beside each other, in two processes of pytest-xdist, would only take
    longer."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "e2e.lock"):
        yield


@pytest.fixture(scope="module")
def app(real_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    home = tmp_path_factory.mktemp("e2e") / "home"
    home.mkdir()
    (home / "bases").symlink_to(real_base.path.parent)
    running = start_app(home, home.parent / "app.log")
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()[-4000:]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed with its file: while it is open its event loop runs in this thread, and no other test may start one."""
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("No Chromium on this machine; the gate installs it.")
        pytest.skip("No Chromium on this machine: install Debian's package chromium to run the browser tests.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(app: App, browser: Any) -> Iterator[Any]:
    """A fresh visitor at 1280 px, on the page, with the base ready."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    open_page(opened, app)
    yield opened
    context.close()


def open_page(page: Any, app: App) -> None:
    page.goto(app.url)
    page.get_by_role("tab", name="Compare").wait_for()
    page.wait_for_function(
        "() => { const ask = document.querySelector('.main-act'); return ask && !ask.disabled }", timeout=120_000
    )


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def upload(page: Any, file: Path) -> None:
    tab(page, "Train")
    page.locator(".drop input[type=file]").set_input_files(str(file))
