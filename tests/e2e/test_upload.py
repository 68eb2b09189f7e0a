"""A person's own file, with faults: all of them named, the columns corrected, the rest trained on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from playground.settings import PROJECT_ROOT
from tests.e2e.conftest import App
from tests.e2e.test_journey import TRAINED, tab, upload

pytestmark = [pytest.mark.browser, pytest.mark.real]
EMPTY_ANSWER, EMPTY_PROMPT, TORN = (3, 11, 40, 57), (5, 60), 63


@pytest.fixture
def ward_csv(tmp_path: Path) -> Path:
    """The answer stands before the prompt, under names that say nothing; 62 rows, of them six with a gap, and a torn one."""
    rows = [json.loads(line) for line in (PROJECT_ROOT / "examples" / "hospital_reports.jsonl").read_text().splitlines()[:62]]
    file = tmp_path / "night shift.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out)
        writer.writerow(["Note A", "Note B"])
        for number, row in enumerate(rows, 1):
            writer.writerow(
                ["" if number in EMPTY_ANSWER else row["completion"], " " if number in EMPTY_PROMPT else row["prompt"]]
            )
        out.write('one,"two\n')
    return file


def test_seven_bad_rows_are_named_and_the_rest_is_trained_on(app: App, page: Any, ward_csv: Path) -> None:
    upload(page, ward_csv)
    page.get_by_text("7 rows cannot be used").first.wait_for()
    listed = page.get_by_label("Rows that cannot be used")
    numbers = [int(text) for text in listed.locator("tbody td:first-child").all_inner_texts()]
    assert numbers == sorted((*EMPTY_ANSWER, *EMPTY_PROMPT, TORN))
    assert "never closed" in listed.inner_text()

    page.get_by_label("Prompt", exact=True).click()  # the guess took the first column; the other way round is right
    page.get_by_role("option", name="Note B", exact=True).click()
    page.get_by_text("Columns: Note B → prompt, Note A → answer").wait_for()
    page.get_by_text("7 rows cannot be used").first.wait_for()

    page.locator("button.label-wrap", has_text="What the model really sees").click()
    page.locator("pre.seen mark", has_text="Reviewed by Dr. Sharma").first.wait_for()

    page.locator("button.label-wrap", has_text="Everything else").click()
    page.get_by_role("spinbutton", name="Steps", exact=True).fill("2")
    page.get_by_role("spinbutton", name="Steps", exact=True).blur()
    page.get_by_text("42 rows, 2 steps").wait_for()
    page.get_by_role("button", name="Start training").click()
    card = page.locator(".run-card")
    card.get_by_text("night_shift").first.wait_for()
    card.get_by_text("Done").first.wait_for(timeout=TRAINED)
    (record,) = [json.loads(file.read_text()) for file in (app.home / "adapters").glob("night*/run.json")]
    assert record["rows_used"] == 42
    assert len(record["split"]["test"]) == 8
    assert not set(record["split"]["test"]) & set(record["split"]["validation"])
    assert (record["rows_bad"], record["mapping"]) == (7, {"prompt": "Note B", "completion": "Note A"})


def test_a_bad_row_is_mended_in_the_page(page: Any, ward_csv: Path) -> None:
    upload(page, ward_csv)
    page.get_by_text("7 rows cannot be used").first.wait_for()
    page.locator("button.label-wrap", has_text="Edit rows").click()
    page.locator(".edit-table [data-testid='cell-0-1']").dblclick()
    page.keyboard.type("All is well. Reviewed by Dr. Sharma")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save the changes").click()
    page.get_by_text("6 rows cannot be used").first.wait_for()
    page.get_by_text("night shift.csv, edited").first.wait_for()


def test_rows_are_pasted_and_several_files_are_read_as_one(page: Any, tmp_path: Path) -> None:
    tab(page, "Train")
    page.locator("button.label-wrap", has_text="Or paste rows").click()
    page.get_by_placeholder("Cells copied from a sheet").fill(
        "prompt\tcompletion\n" + "\n".join(f"Say {n}\tNumber {n}" for n in range(12))
    )
    page.get_by_role("button", name="Read what I pasted").click()
    page.get_by_text("What you pasted: 12 rows").wait_for()
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text(
            "\n".join(json.dumps({"prompt": f"{name} {n}", "completion": "" if n == 3 else "yes"}) for n in range(10))
        )
    page.locator(".drop input[type=file]").set_input_files([str(file) for file in files])
    page.get_by_text("a.jsonl and 1 more file: 20 rows").wait_for()
    assert page.get_by_label("Rows that cannot be used").locator("tbody td:first-child").all_inner_texts() == [
        "a.jsonl 4",
        "b.jsonl 4",
    ]


def test_the_bad_rows_are_taken_away_as_a_sheet(page: Any, ward_csv: Path) -> None:
    upload(page, ward_csv)
    page.get_by_text("7 rows cannot be used").first.wait_for()
    page.get_by_role("button", name="Take the bad rows away as CSV").click()
    with page.expect_download() as download:
        page.get_by_text("Download night shift-bad-rows.csv").click()
    rows = list(csv.reader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()))
    assert len(rows) == 8
    assert [int(row[0]) for row in rows[1:]] == sorted((*EMPTY_ANSWER, *EMPTY_PROMPT, TORN))
