"""On the real base, one app for all: upload, train, refresh, compare, switch; a verdict, stopped and voted on."""

import csv
import json
import re
from pathlib import Path

import pytest

from tests.e2e.conftest import SLOW, examples, press, sees, set_steps, tab, unfold, upload, visit

pytestmark = [pytest.mark.browser, pytest.mark.real]


@pytest.fixture(scope="module")
def ward_csv(tmp_path_factory):
    """A person's own table: other column names, one row without an answer."""
    rows = [json.loads(line) for line in examples(64)]
    file = tmp_path_factory.mktemp("upload") / "ward.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["Patient", "Report"])
        writer.writerows([row["prompt"], row["completion"]] for row in rows)
        writer.writerow(["Male, 40, nothing to report.", ""])
    return file


@pytest.fixture(scope="module")
def trained(app, browser, ward_csv):
    """Upload a file, train for real on the default base, refresh in the middle, wait for the adapter; its id."""
    with visit(browser, app) as page:
        upload(page, ward_csv, "65 rows", "1 row")
        set_steps(page, 8)  # at three times the rate of the 20 that the form offers: enough for the last line
        page.get_by_role("spinbutton", name="Learning rate").fill("0.003")
        page.get_by_role("spinbutton", name="Learning rate").blur()
        sees(page, "8 steps")
        press(page, "Start training")
        card = page.locator(".run-card")
        card.locator("[role=progressbar]").wait_for()
        page.reload()
        tab(page, "Train")
        sees(card, "ward")
        sees(card, "Step ", timeout=SLOW)
        assert "Training" in card.inner_text() or "Done" in card.inner_text()
        sees(card, "Done", timeout=SLOW)
    return "ward"


def test_the_trained_model_beside_the_base_with_its_prompt(page, trained):
    tab(page, "Train")
    press(page, "Compare in chat")
    page.get_by_label("Model of side B").wait_for()
    assert trained in page.get_by_label("Model of side B").input_value()
    question = "Female, 61, cough for two weeks, BP 130/80, pulse 88, no fever."
    page.get_by_placeholder("Ask every side the same thing").fill(question)
    press(page, "Ask", exact=True)
    for letter in "AB":
        page.locator(f".s{letter} .thought-group, .s{letter} .title-text").first.wait_for(timeout=120_000)
    told, tuned = (page.locator(f".s{letter}").inner_text() for letter in "AB")
    assert ("Reviewed by Dr. Sharma" in tuned, " in · " in told, " out · " in tuned) == (True, True, True)
    assert "1 of 1" in page.locator(".score").inner_text()


def test_switching_adapters_keeps_the_base(page, trained):
    tab(page, "Adapters")
    page.locator(f"button[data-id='{trained}']").click()
    sees(page, "Active in", "unchanged")
    page.locator("button[data-id='support_json']").click()
    page.locator("button[data-id='support_json']").get_by_text("Active").wait_for()
    page.get_by_placeholder("Write a message").fill("My kettle, order C-12345, is broken. I want my money back.")
    press(page, "Send")
    page.locator(".one-pane").get_by_text(" out · ").wait_for(timeout=120_000)
    assert "category" in page.locator(".one-pane").inner_text()


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Ten held-out rows of a shipped set, as a person's own file."""
    file = tmp_path_factory.mktemp("judged") / "ward.jsonl"
    file.write_text("\n".join(examples(10, "hospital_reports_heldout")), encoding="utf-8")
    return file


def fill(page, file, tokens, *, again=False):
    """Drop the file, keep two sides, measure the replies alone. again: there is a verdict, so the form is folded."""
    tab(page, "Verdict")
    if again:
        page.locator(".v-headline").wait_for()
        press(page, "A new verdict")
    page.get_by_role("button", name="Measure (720 replies)").wait_for()
    page.locator(".verdict-form .drop input[type=file]").first.set_input_files(str(file))
    page.get_by_text("10 rows of ward.jsonl").wait_for()
    for of_the_set in ("Base + documents", "Base + prompt"):  # its documents and its prompt go with it
        page.get_by_role("checkbox", name=of_the_set, exact=True).wait_for(state="detached")
    page.get_by_label("System prompt of the prompted sides").fill("Write the ward's report.")
    page.get_by_label("System prompt of the prompted sides").blur()
    page.get_by_role("checkbox", name="Base + prompt", exact=True).wait_for()
    page.get_by_role("checkbox", name="Base", exact=True).uncheck()
    for left_out in ("Base + prompt + form", "Base + 4 shots"):
        page.get_by_role("checkbox", name=left_out).uncheck()
    page.get_by_text("Everything else: greedy").click()
    page.get_by_label("Longest reply").fill(str(tokens))
    for measured in ("Loss of the references", "What the adapter forgot"):
        page.get_by_role("checkbox", name=measured).uncheck()
    page.get_by_role("button", name="Measure (20 replies)").wait_for()
    page.get_by_text(f"at most {tokens} tokens").wait_for()


def test_from_an_upload_to_the_report(page, held_out, tmp_path):
    fill(page, held_out, 12)
    press(page, "Measure (20 replies)")
    page.locator(".verdict-head.live [role=progressbar]").wait_for()
    page.reload()
    tab(page, "Verdict")
    page.locator(".v-headline").wait_for(timeout=SLOW)
    shown = page.locator(".verdict").inner_text()
    assert ("hospital_reports" in shown, "10 examples" in shown) == (True, True)
    page.locator(".v-reasons a").first.click()
    page.locator(".verdict .v-here").wait_for()
    page.get_by_text("Where they have the same figure (10)").click()  # of 12 tokens: none reaches the last line
    page.locator(".v-alike .v-example > summary").first.click()
    page.get_by_role("button", name="Replay the reply of hospital_reports").first.click()
    sees(page, "the same text again, letter for letter", timeout=SLOW)
    with page.expect_download() as got:
        press(page, "Report (HTML)")
    file = tmp_path / "report.html"
    got.value.save_as(file)
    report = page.context.new_page()
    report.goto(file.as_uri())
    assert report.locator(".v-headline").inner_text() in shown
    assert report.locator(".v-range").count() > 4
    report.close()
    with page.expect_download() as got:
        press(page, "Rows (JSONL)")
    rows = [json.loads(line) for line in Path(got.value.path()).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 20
    address = page.locator(".verdict-head a").get_attribute("href")
    assert re.fullmatch(r"\?verdict=\d{8}-\d{6}-v[0-9a-f]{4}", address)
    page.goto(page.url.partition("?")[0] + address)
    page.locator(".v-headline").wait_for()


def test_a_stop_in_the_middle_keeps_what_is_measured(page, held_out):
    fill(page, held_out, 48, again=True)
    page.get_by_label("Repeats", exact=True).fill("8")  # so that it is stopped long before its end
    press(page, "Measure (180 replies)")
    page.get_by_text(re.compile(r"(1[6-9]|[2-9]\d|1\d\d) of 180")).first.wait_for(timeout=SLOW)
    press(page, "Stop and keep what is measured")
    page.locator(".verdict-head").get_by_text("Stopped", exact=True).wait_for(timeout=SLOW)
    page.locator(".v-headline").wait_for()
    assert "stopped early" in page.locator(".v-answer").inner_text()


def test_a_blind_vote_shows_no_name_until_it_is_asked_for(page):
    """On the verdict that was measured last."""
    tab(page, "Verdict")
    page.locator(".v-headline").wait_for()
    unfold(page, "Blind vote")
    press(page, "Vote on the verdict above")
    ballot = page.locator(".ballot")
    ballot.wait_for()
    page.locator(".v-headline").wait_for(state="hidden")
    assert not any(name in ballot.inner_text() for name in ("hospital_reports", "Base + prompt"))
    left = page.get_by_text(re.compile(r"0 votes so far, \d+ comparisons? left")).inner_text()
    for number, choice in enumerate(("Left is better", "Right is better", "As good"), 1):
        press(page, choice)
        page.get_by_text(re.compile(rf"^{number} votes? so far")).wait_for()
    press(page, "Take the last vote back")
    sees(page, "2 votes so far")
    ballot.focus()
    page.keyboard.press("1")
    sees(page, "3 votes so far")
    press(page, "Reveal")
    sees(page.locator(".revealed"), "hospital_reports", "People's votes: 3")
    page.locator(".v-headline").wait_for()
    page.reload()
    tab(page, "Verdict")
    page.locator(".v-headline").wait_for()  # the load event brings the verdict back
    unfold(page, "Blind vote")
    press(page, "Vote on the verdict above")
    sees(page, f"3 votes so far, {int(left.split()[4]) - 3} ")
    unfold(page, "Blind vote")
    page.locator(".v-headline").wait_for()
