"""On the real base, one app for all: upload, train, refresh, compare, switch; a verdict, stopped and voted on; a busy
machine."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from playground.settings import PROJECT_ROOT
from tests.e2e.conftest import SLOW, App, open_page, tab, upload

pytestmark = [pytest.mark.browser, pytest.mark.real]


@pytest.fixture(scope="module")
def ward_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's own table: other column names, one row without an answer."""
    rows = [
        json.loads(line)
        for line in (PROJECT_ROOT / "examples" / "hospital_reports.jsonl").read_text().splitlines()[:160]
    ]
    file = tmp_path_factory.mktemp("upload") / "ward.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["Patient", "Report"])
        writer.writerows([row["prompt"], row["completion"]] for row in rows)
        writer.writerow(["Male, 40, nothing to report.", ""])
    return file


@pytest.fixture(scope="module")
def trained(app: App, browser: Any, ward_csv: Path) -> str:
    """Upload a file, train for real on the default base, refresh in the middle, wait for the adapter. Returns its
    id."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)
    open_page(page, app)
    upload(page, ward_csv)
    page.get_by_text("161 rows").first.wait_for()
    page.get_by_text("1 row").first.wait_for()
    page.get_by_role("button", name="Start training").click()
    page.locator(".run-card [role=progressbar]").wait_for()
    page.reload()
    tab(page, "Train")
    card = page.locator(".run-card")
    card.get_by_text("ward").first.wait_for()
    card.get_by_text("Step ").first.wait_for(timeout=SLOW)
    assert "Training" in card.inner_text() or "Done" in card.inner_text()
    card.get_by_text("Done").first.wait_for(timeout=SLOW)
    context.close()
    return "ward"


def test_the_trained_model_beside_the_base_with_its_prompt(page: Any, trained: str) -> None:
    tab(page, "Train")
    page.get_by_role("button", name="Compare in chat").click()
    page.get_by_label("Model of side B").wait_for()
    assert trained in page.get_by_label("Model of side B").input_value()
    page.get_by_placeholder("Ask every side the same thing").fill(
        "Female, 61, cough for two weeks, BP 130/80, pulse 88, no fever."
    )
    page.get_by_role("button", name="Ask", exact=True).click()
    for letter in "AB":
        page.locator(f".s{letter} .thought-group, .s{letter} .title-text").first.wait_for(timeout=120_000)
    told, tuned = (page.locator(f".s{letter}").inner_text() for letter in "AB")
    assert "Reviewed by Dr. Sharma" in tuned
    assert " in · " in told
    assert " out · " in tuned
    assert "1 of 1" in page.locator(".score").inner_text()


def test_switching_adapters_keeps_the_base(page: Any, trained: str) -> None:
    tab(page, "Adapters")
    row = page.locator(f"button[data-id='{trained}']")
    row.click()
    page.get_by_text("Active in").first.wait_for()
    page.get_by_text("unchanged").first.wait_for()
    page.locator("button[data-id='support_json']").click()
    page.locator("button[data-id='support_json']").get_by_text("Active").wait_for()
    page.get_by_placeholder("Write a message").fill("My kettle, order C-12345, is broken. I want my money back.")
    page.get_by_role("button", name="Send").click()
    page.locator(".one-pane").get_by_text(" out · ").wait_for(timeout=120_000)
    assert "category" in page.locator(".one-pane").inner_text()


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten held-out rows of a shipped set, as a person's own file."""
    lines = (PROJECT_ROOT / "examples" / "hospital_reports_heldout.jsonl").read_text(encoding="utf-8").splitlines()[:10]
    file = tmp_path_factory.mktemp("judged") / "ward.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def fill(page: Any, file: Path, tokens: int, *, again: bool = False) -> None:
    """Drop the file, keep two sides, and measure no more than the replies. again: there is a verdict, so the form is
    folded."""
    page.get_by_role("tab", name="Verdict").click()
    if again:
        page.locator(".v-headline").wait_for()
        page.get_by_role("button", name="A new verdict").click()
    page.get_by_role("button", name="Measure (200 replies)").wait_for()
    page.locator(".verdict-form .drop input[type=file]").first.set_input_files(str(file))
    page.get_by_text("10 rows of ward.jsonl").wait_for()
    page.get_by_role("checkbox", name="Base + documents").wait_for(state="detached")  # the set's own go with it
    page.get_by_role("checkbox", name="Base", exact=True).uncheck()
    page.get_by_role("checkbox", name="Base + 4 shots").uncheck()
    page.get_by_text("Everything else: greedy").click()
    page.get_by_label("Longest reply").fill(str(tokens))
    for measured in ("Loss of the references", "What the adapter forgot"):
        page.get_by_role("checkbox", name=measured).uncheck()
    page.get_by_role("button", name="Measure (20 replies)").wait_for()
    page.get_by_text(f"at most {tokens} tokens").wait_for()


def test_from_an_upload_to_the_report(page: Any, held_out: Path, tmp_path: Path) -> None:
    fill(page, held_out, 24)
    page.get_by_role("button", name="Measure (20 replies)").click()
    page.locator(".verdict-head.live [role=progressbar]").wait_for()
    page.reload()
    page.get_by_role("tab", name="Verdict").click()
    page.locator(".v-headline").wait_for(timeout=SLOW)
    shown = page.locator(".verdict").inner_text()
    assert "hospital_reports" in shown
    assert "10 examples" in shown
    page.locator(".v-reasons a").first.click()
    page.locator(".verdict .v-here").wait_for()
    page.get_by_text("Where they have the same figure (10)").click()  # replies of 24 tokens: none reaches the last line
    page.locator(".v-alike .v-example > summary").first.click()
    page.get_by_role("button", name="Replay the reply of hospital_reports").first.click()
    page.get_by_text("the same text again, letter for letter").wait_for(timeout=SLOW)
    with page.expect_download() as got:
        page.get_by_role("button", name="Report (HTML)").click()
    file = tmp_path / "report.html"
    got.value.save_as(file)
    report = page.context.new_page()
    report.goto(file.as_uri())
    assert report.locator(".v-headline").inner_text() in shown
    assert report.locator(".v-range").count() > 4
    report.close()
    with page.expect_download() as got:
        page.get_by_role("button", name="Rows (JSONL)").click()
    rows = [json.loads(line) for line in Path(got.value.path()).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 20
    address = page.locator(".verdict-head a").get_attribute("href")
    assert re.fullmatch(r"\?verdict=\d{8}-\d{6}-v[0-9a-f]{4}", address)
    page.goto(page.url.partition("?")[0] + address)
    page.locator(".v-headline").wait_for()


def test_a_stop_in_the_middle_keeps_what_is_measured(page: Any, held_out: Path) -> None:
    fill(page, held_out, 96, again=True)
    page.get_by_label("Repeats", exact=True).fill("8")  # so that it is stopped long before its end
    page.get_by_role("button", name="Measure (180 replies)").click()
    page.get_by_text(re.compile(r"(1[6-9]|[2-9]\d|1\d\d) of 180")).first.wait_for(timeout=SLOW)
    page.get_by_role("button", name="Stop and keep what is measured").click()
    page.locator(".verdict-head").get_by_text("Stopped", exact=True).wait_for(timeout=SLOW)
    page.locator(".v-headline").wait_for()
    assert "stopped early" in page.locator(".v-answer").inner_text()


def test_a_blind_vote_shows_no_name_until_it_is_asked_for(page: Any) -> None:
    """On the verdict that was measured last."""
    page.get_by_role("tab", name="Verdict").click()
    page.locator(".v-headline").wait_for()
    page.get_by_text("Blind vote", exact=True).click()
    page.get_by_role("button", name="Vote on the verdict above").click()
    ballot = page.locator(".ballot")
    ballot.wait_for()
    page.locator(".v-headline").wait_for(state="hidden")
    assert not any(name in ballot.inner_text() for name in ("hospital_reports", "Base + prompt"))
    left = page.get_by_text(re.compile(r"0 votes so far, \d+ comparisons? left")).inner_text()
    for number, choice in enumerate(("Left is better", "Right is better", "As good"), 1):
        page.get_by_role("button", name=choice).click()
        page.get_by_text(re.compile(rf"^{number} votes? so far")).wait_for()
    page.get_by_role("button", name="Take the last vote back").click()
    page.get_by_text("2 votes so far").wait_for()
    ballot.focus()
    page.keyboard.press("1")
    page.get_by_text("3 votes so far").wait_for()
    page.get_by_role("button", name="Reveal").click()
    revealed = page.locator(".revealed")
    revealed.wait_for()
    assert "hospital_reports" in revealed.inner_text()
    assert "People's votes: 3" in revealed.inner_text()
    page.locator(".v-headline").wait_for()
    page.reload()
    page.get_by_role("tab", name="Verdict").click()
    page.get_by_text("Blind vote", exact=True).click()
    page.get_by_role("button", name="Vote on the verdict above").click()
    page.get_by_text(re.compile(f"3 votes so far, {int(left.split()[4]) - 3} ")).wait_for()
    page.get_by_text("Blind vote", exact=True).click()
    page.locator(".v-headline").wait_for()


ASKED = 1
"""So many of these pages are asked a question."""


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


@pytest.mark.parametrize("loads", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_loads_of_a_busy_page_show_and_ask_what_the_scores_name(app: App, browser: Any, busy: None, loads: int) -> None:
    """Three in the gate: about every second was wrong where a timer wrote what a person can set."""
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
        if (
            not all(model in text for model, text in zip(wanted, shown, strict=True))
            or "hospital_reports" not in named[1]
        ):
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
        fact = page.locator(f".s{letter} .thought-group dt", has_text="Adapter").locator(
            "xpath=following-sibling::dd[1]"
        )
        found.append(re.split(r"\s", fact.first.inner_text())[0])
    return found
