"""What a person does: upload, train, refresh, compare; wrong files; adapters switched, imported, deleted."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from playground.settings import PROJECT_ROOT
from tests.e2e.conftest import App, open_page

pytestmark = [pytest.mark.browser, pytest.mark.real]
TRAINED = 900_000
"""Milliseconds that 20 steps may take on a slow machine."""


@pytest.fixture(scope="module")
def ward_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's own table: other column names, one row without an answer."""
    rows = [json.loads(line) for line in (PROJECT_ROOT / "examples" / "hospital_reports.jsonl").read_text().splitlines()[:160]]
    file = tmp_path_factory.mktemp("upload") / "ward.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["Patient", "Report"])
        writer.writerows([row["prompt"], row["completion"]] for row in rows)
        writer.writerow(["Male, 40, nothing to report.", ""])
    return file


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def upload(page: Any, file: Path) -> None:
    tab(page, "Train")
    page.locator(".drop input[type=file]").set_input_files(str(file))


def reply(page: Any, letter: str) -> str:
    """The newest reply's text of one side."""
    return str(page.locator(f".s{letter} .bot-row .message, .s{letter} .bot.message").first.inner_text())


@pytest.fixture(scope="module")
def trained(app: App, browser: Any, ward_csv: Path) -> str:
    """Upload a file, train for real on the default base, refresh in the middle, wait for the adapter. Returns its id."""
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
    card.get_by_text("Step ").first.wait_for(timeout=TRAINED)
    assert "Training" in card.inner_text() or "Done" in card.inner_text()
    card.get_by_text("Done").first.wait_for(timeout=TRAINED)
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


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.csv", b"", "empty"),
        ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "picture.csv"),
        ("columns.csv", b"a,b,c\n1,2,3\n", "columns"),
        ("broken.json", b'[{"prompt": "x", ]', "line 1"),
    ],
)
def test_a_wrong_file_gets_a_sentence_and_the_app_goes_on(
    page: Any, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    upload(page, tmp_path / name)
    alert = page.locator("[role=alert]:visible").first
    alert.wait_for()
    assert says.lower() in alert.inner_text().lower()
    page.get_by_role("button", name="Brand voice").click()
    page.get_by_text("256 rows").first.wait_for()
    assert page.locator("[role=alert]:visible").count() == 0


def test_an_unsafe_adapter_is_refused_by_name(page: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("adapter_config.json", "{}")
        archive.writestr("adapter_model.bin", "x")
    tab(page, "Adapters")
    page.locator("input[type=file]:not(.drop input)").last.set_input_files(str(tmp_path / "evil.zip"))
    alert = page.locator("[role=alert]:visible").first
    alert.wait_for()
    assert "adapter_model.bin" in alert.inner_text()


def test_the_page_fits_a_phone(app: App, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)
    open_page(page, app)
    for name in ("Train", "Adapters", "Compare", "Verdict"):
        tab(page, name)
        page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth + 1")
    context.close()
