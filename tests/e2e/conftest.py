"""The real app, on the real default base, in a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from playground.settings import PROJECT_ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SLOW = 600_000
"""Milliseconds that a training or some dozens of replies may take on a busy machine."""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@dataclass
class App:
    url: str
    home: Path
    process: Any
    log: Path

    def stop(self, hard=False):
        self.process.kill() if hard else self.process.terminate()
        self.process.wait(30)


def start_app(home, log, base=None):
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


@contextmanager
def running(home, base=None):
    """An app that is stopped at the end, without an unexpected error in its log."""
    app = start_app(home, home.parent / "app.log", base)
    yield app
    app.stop()
    assert "Traceback" not in app.log.read_text(), app.log.read_text()[-4000:]


@pytest.fixture(scope="module")
def app(real_base, tmp_path_factory):
    home = tmp_path_factory.mktemp("e2e") / "home"
    home.mkdir()
    (home / "bases").symlink_to(real_base.path.parent)
    with running(home) as app:
        yield app


def launch(chromium, *more):
    return chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *more])


@pytest.fixture(scope="module")
def browser():
    """Closed with its file: while it is open its event loop runs in this thread, and no other test may start one."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("No Chromium on this machine; the gate installs it.")
        pytest.skip("No Chromium on this machine: install Debian's package chromium to run the browser tests.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = launch(playwright.chromium)
        yield opened
        opened.close()


@contextmanager
def visit(browser, app, width=1280, before=lambda page: None):
    """A fresh visitor on the page, with the base ready. width: in pixels. before: called before the page is opened."""
    context = browser.new_context(viewport={"width": width, "height": 860}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)
    before(page)
    page.goto(app.url)
    page.get_by_role("tab", name="Compare").wait_for()
    ready = "() => { const ask = document.querySelector('.main-act'); return ask && !ask.disabled }"
    page.wait_for_function(ready, timeout=120_000)
    yield page
    context.close()


@pytest.fixture
def page(app, browser):
    with visit(browser, app) as page:
        yield page


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def press(page, name, exact=False):
    page.get_by_role("button", name=name, exact=exact).click()


def unfold(page, label):
    page.locator("button.label-wrap", has_text=label).click()


def sees(page, *texts, timeout=None):
    """Waits until each text is there."""
    for text in texts:
        page.get_by_text(text).first.wait_for(timeout=timeout)


def set_steps(page, steps):
    unfold(page, "Everything else")
    box = page.get_by_role("spinbutton", name="Steps", exact=True)
    box.fill(str(steps))
    box.blur()


def upload(page, file, *says):
    """Drops the file on the Train tab, and waits for what is said of it."""
    tab(page, "Train")
    page.locator(".drop input[type=file]").set_input_files(str(file))
    sees(page, *says)


def examples(count, name="hospital_reports"):
    """The first lines of a shipped set."""
    return (PROJECT_ROOT / "examples" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
