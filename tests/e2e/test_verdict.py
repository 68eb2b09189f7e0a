"""A verdict from a small upload to its file, one that is stopped in the middle, and a blind vote on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from playground.settings import PROJECT_ROOT

pytestmark = [pytest.mark.browser, pytest.mark.real]
SLOW = 600_000
"""Milliseconds that some dozens of short replies may take on a busy machine."""


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten held-out rows of a shipped set, as a person's own file."""
    lines = (PROJECT_ROOT / "examples" / "hospital_reports_heldout.jsonl").read_text(encoding="utf-8").splitlines()[:10]
    file = tmp_path_factory.mktemp("judged") / "ward.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def fill(page: Any, file: Path, tokens: int, *, again: bool = False) -> None:
    """Drop the file, keep two sides, and measure no more than the replies. again: there is a verdict, so the form is folded."""
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
    page.get_by_role("button", name="Measure (20 replies)").click()
    page.get_by_text(re.compile(r"(1[6-9]|20) of 20|[1-9] of 6")).first.wait_for(timeout=SLOW)
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
