"""A busy machine: however late the page's answers come, a pane names the model that is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import App, open_page

pytestmark = [pytest.mark.browser, pytest.mark.real]
ASKED = 2
"""So many of the pages are asked a question."""


@pytest.fixture
def busy() -> Iterator[None]:
    """Two processes that burn the processor."""
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for process in burning:
        process.kill()
        process.wait()


def looks(page: Any, count: int) -> None:
    """Wait until the page has looked at the server so many times again: what was under way before has arrived then."""
    for _ in range(count):
        page.wait_for_event("request", lambda request: "/queue/join" in request.url)


@pytest.mark.parametrize("loads", [5, pytest.param(20, marks=pytest.mark.soak)])
def test_loads_of_a_busy_page_show_and_ask_what_the_scores_name(app: App, browser: Any, busy: None, loads: int) -> None:
    """Five in the gate; before the mend about every second of the twenty was wrong."""
    lies = []
    for load in range(loads):
        context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(60_000)
        open_page(page, app)
        looks(page, 3)
        shown = [page.get_by_label(f"Model of side {letter}").input_value() for letter in "AB"]
        named = [page.locator(".score tbody th").nth(place).inner_text() for place in (0, 1)]
        wanted = ["Base model", "hospital_reports"]
        if not all(model in text for model, text in zip(wanted, shown, strict=True)) or "hospital_reports" not in named[1]:
            lies.append((load, shown, named))
        if load < ASKED:
            asked = answered_by(page)
            if asked != ["none", "hospital_reports"]:
                lies.append((load, shown, asked))
        context.close()
    assert lies == []


def answered_by(page: Any) -> list[str]:
    """Ask both sides, and read from their stamps which adapter wrote."""
    page.get_by_role("button", name="Same for every side").click()
    page.get_by_label("Longest reply, tokens").fill("4")
    page.get_by_placeholder("Ask every side the same thing").fill("Male, 54, cough.")
    page.get_by_role("button", name="Ask", exact=True).click()
    found = []
    for letter in "AB":
        title = page.locator(f".s{letter} .thought-group .title").first
        title.wait_for(timeout=120_000)
        title.click()
        fact = page.locator(f".s{letter} .thought-group dt", has_text="Adapter").locator("xpath=following-sibling::dd[1]")
        found.append(re.split(r"\s", fact.first.inner_text())[0])
    return found
