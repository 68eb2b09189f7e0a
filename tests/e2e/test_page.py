"""Every tab on the tiny base, one app for all: faulty files, settings, races, blends, a phone, another site's page."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from playground.methods import all_methods
from tests.e2e.conftest import SLOW, examples, launch, press, running, sees, set_steps, tab, unfold, upload, visit
from tests.engine.conftest import make_lora
from tests.services.conftest import reply, server

__all__ = ["make_lora", "server"]
pytestmark = [pytest.mark.browser]
EMPTY_ANSWER, EMPTY_PROMPT, TORN = (3, 11, 40, 57), (5, 60), 63


@pytest.fixture(scope="module")
def app(tiny_base, tmp_path_factory):
    with running(tmp_path_factory.mktemp("page") / "home", tiny_base) as app:
        yield app


@pytest.fixture
def ward_csv(tmp_path):
    """The answer stands before the prompt, under names that say nothing; of 63 rows six have a gap, one is torn."""
    file = tmp_path / "night shift.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out)
        writer.writerow(["Note A", "Note B"])
        for number, row in enumerate(map(json.loads, examples(62)), 1):
            answer = "" if number in EMPTY_ANSWER else row["completion"]
            writer.writerow([answer, " " if number in EMPTY_PROMPT else row["prompt"]])
        out.write('one,"two\n')
    return file


def test_seven_bad_rows_are_named_and_the_rest_is_trained_on(app, page, ward_csv):
    upload(page, ward_csv, "7 rows cannot be used")
    listed = page.get_by_label("Rows that cannot be used")
    numbers = [int(text) for text in listed.locator("tbody td:first-child").all_inner_texts()]
    assert numbers == sorted((*EMPTY_ANSWER, *EMPTY_PROMPT, TORN))
    sees(listed, "never closed")
    press(page, "Take the bad rows away as CSV")
    with page.expect_download() as download:
        page.get_by_text("Download night shift-bad-rows.csv").click()
    _, *taken = csv.reader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines())
    assert [int(row[0]) for row in taken] == numbers

    page.get_by_label("Prompt", exact=True).click()  # the guess took the first column; the other way round is right
    page.get_by_role("option", name="Note B", exact=True).click()
    sees(page, "Columns: Note B → prompt, Note A → answer", "7 rows cannot be used")
    unfold(page, "What the model really sees")
    page.locator("pre.seen mark", has_text="Reviewed by Dr. Sharma").first.wait_for()
    set_steps(page, 2)
    sees(page, "33 rows, 2 steps")
    press(page, "Start training")
    sees(page.locator(".run-card"), "night_shift", "Done", timeout=SLOW)
    (record,) = [json.loads(file.read_text()) for file in (app.home / "adapters").glob("night*/run.json")]
    assert (record["rows_used"], record["rows_bad"], len(record["split"]["test"])) == (33, 7, 17)
    assert not set(record["split"]["test"]) & set(record["split"]["validation"])
    assert record["mapping"] == {"prompt": "Note B", "completion": "Note A"}


def test_a_bad_row_is_mended_in_the_page(page, ward_csv):
    upload(page, ward_csv, "7 rows cannot be used")
    unfold(page, "Edit rows")
    page.locator(".edit-table [data-testid='cell-0-1']").dblclick()
    page.keyboard.type("All is well. Reviewed by Dr. Sharma")
    page.keyboard.press("Enter")
    press(page, "Save the changes")
    sees(page, "6 rows cannot be used", "night shift.csv, edited")


def test_rows_are_pasted_and_several_files_are_read_as_one(page, tmp_path):
    tab(page, "Train")
    unfold(page, "Or paste rows")
    cells = [("prompt", "completion"), *((f"Say {n}", f"Number {n}") for n in range(12))]
    page.get_by_placeholder("Cells copied from a sheet").fill("\n".join(map("\t".join, cells)))
    press(page, "Read what I pasted")
    sees(page, "What you pasted: 12 rows")
    lines = [json.dumps({"prompt": f"Say {n}", "completion": "" if n == 3 else "yes"}) for n in range(10)]
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_text("\n".join(lines).replace("Say", file.stem))
    page.locator(".drop input[type=file]").set_input_files([str(file) for file in files])
    sees(page, "a.jsonl and 1 more file: 20 rows")
    named = page.get_by_label("Rows that cannot be used").locator("tbody td:first-child")
    assert named.all_inner_texts() == ["a.jsonl 4", "b.jsonl 4"]


def test_a_wrong_file_gets_a_sentence_and_the_app_goes_on(page, tmp_path):
    (tmp_path / "columns.csv").write_bytes(b"a,b,c\n1,2,3\n")
    upload(page, tmp_path / "columns.csv")
    alert = page.locator("[role=alert]:visible")
    sees(alert, "columns")
    roles = ("user", "assistant", "user")
    chats = ([{"role": role, "content": f"{role} says {n}"} for role in roles] for n in range(9))
    unfold(page, "Or paste rows")
    page.get_by_placeholder("Cells copied").fill("\n".join(json.dumps({"messages": turns}) for turns in chats))
    press(page, "Read what I pasted")
    sees(alert, "the last turn is not the assistant's")
    press(page, "Repair these rows")
    sees(page, "9 can be used", "your file is as it was", "9 rows: what stands after the last answer")
    assert alert.count() == 0
    press(page, "Back to the rows as they are in the file")
    sees(alert, "the last turn is not the assistant's")
    page.get_by_role("button", name="Repair these rows").wait_for()
    press(page, "Brand voice")
    sees(page, "256 rows")
    assert alert.count() == 0


def test_the_page_fits_a_phone(app, browser):
    with visit(browser, app, 390) as page:
        for name in ("Train", "Adapters", "Compare", "Verdict"):
            tab(page, name)
            page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth + 1")


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "numbers.jsonl"
    lines = (json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}, gladly."}) for n in range(40))
    file.write_text("\n".join(lines))
    return file


def test_settings_are_taken_away_and_brought_back(page, rows, tmp_path):
    upload(page, rows, "40 rows")
    set_steps(page, 7)
    sees(page, "rows, 7 steps")
    unfold(page, "Take these settings elsewhere")
    code = page.locator(".cm-content")
    sees(code, "--steps 7")
    forms = {"Axolotl file": "max_steps: 7", "TRL script": "max_steps=7", "Settings file": '"steps": 7'}
    for form, says in forms.items():
        page.get_by_role("radio", name=form).check()
        sees(code, says)
    with page.expect_download() as got:
        page.locator("a, button", has_text="Download settings.json").locator("visible=true").last.click()
    file = tmp_path / "settings.json"
    got.value.save_as(file)
    record = json.loads(file.read_text())
    assert record["steps"] == 7
    file.write_text(json.dumps(record | {"steps": 9, "method": "ia3", "rank": None, "lr": None, "options": {}}))
    beside(page, "Bring a settings file").set_input_files(str(file))
    sees(page, "The settings of settings.json are in the form", "rows, 9 steps")
    assert page.get_by_role("radio", name="IA³").first.is_checked()


def beside(page, button):
    """The file input of an upload button."""
    return page.locator("button", has_text=button).locator("xpath=..").locator("input[type=file]")


def test_a_race_ends_as_a_table_and_a_row_becomes_a_side(page, rows):
    upload(page, rows, "40 rows")
    unfold(page, "Race several methods")
    for method in all_methods().values():
        if method.name not in ("lora", "ia3"):
            page.get_by_role("checkbox", name=method.label, exact=True).uncheck()
    page.get_by_label("How much", exact=True).first.fill("2")
    press(page, "Start race")
    table = page.get_by_role("table", name="The race")
    table.wait_for()
    page.reload()
    tab(page, "Train")
    page.get_by_role("button", name="Cancel the race").wait_for()
    page.get_by_text("2 of 2 methods measured").wait_for(timeout=SLOW)
    assert table.get_by_role("row").count() == 4, "a head, the base, two methods"
    press(page, "Use LoRA as a side")
    side = page.get_by_label("Model of side B")
    side.wait_for()
    assert "lora" in side.input_value().lower()


def test_two_adapters_are_blended_heard_and_exported(page, make_lora, tmp_path):
    tab(page, "Adapters")
    for seed, name in ((1, "calm"), (2, "brisk")):
        shutil.copytree(make_lora(seed), tmp_path / name)
        packed = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for part in ("adapter_config.json", "adapter_model.safetensors"):
                archive.write(tmp_path / name / part, f"{name}/{part}")
        beside(page, "Import a PEFT folder").set_input_files(str(packed))
        page.locator(f"button[data-id='{name}']").wait_for()
    unfold(page, "Blend several into one")
    for name in ("calm", "brisk"):
        page.get_by_label("Adapters to blend").click()
        page.get_by_role("option", name=name).click()
        page.get_by_label(f"How much of {name}").first.wait_for()
    page.keyboard.press("Escape")
    press(page, "Blend and listen")
    sees(page, "is blended and active", timeout=SLOW)
    page.get_by_placeholder("Write a message").fill("Say 3")
    press(page, "Send")
    sees(page.locator(".one-pane"), " out · ", timeout=SLOW)
    press(page, "Export", exact=True)
    page.get_by_role("radio", name="Merged").check()
    press(page, "Write it")
    taken = page.locator("button, a", has_text="Download").locator("visible=true")
    with page.expect_download(timeout=SLOW) as got:
        taken.last.click(timeout=SLOW)
    with zipfile.ZipFile(got.value.path()) as archive:
        assert any(name.endswith("model.safetensors") for name in archive.namelist())


def test_a_verdict_by_stated_terms_is_read_filtered_and_looked_at_again(page, rows):
    tab(page, "Verdict")
    page.locator(".verdict-form .drop input[type=file]").first.set_input_files(str(rows))
    sees(page, "40 rows of numbers.jsonl")
    for of_the_set in ("Base + documents", "Base + prompt"):  # its documents and its prompt go with it
        page.get_by_role("checkbox", name=of_the_set, exact=True).wait_for(state="detached")
    state(page.get_by_label("System prompt of the prompted sides"), "Say it in words.")
    page.get_by_role("checkbox", name="Base + prompt", exact=True).wait_for()
    for left_out in ("Base + prompt + form", "Base + 4 shots"):
        page.get_by_role("checkbox", name=left_out).uncheck()
    right, marked = page.get_by_label("What is right"), page.locator(".terms tbody tr")
    state(right, "similarity:token_f1>=0.5")  # two words of three are the same in every answer
    sees(page, "token_f1 to the reference at least 0.5")
    page.get_by_text("Ten of your rows, marked by it").click()
    assert (marked.count(), marked.locator(".no").count()) == (10, 5)
    state(right, "exact")
    page.locator(".terms .no").first.wait_for(state="detached")
    for label, value in (("Bar, % of rows", 60), ("Margin, points", 20), ("Most rows, later", 24)):
        state(page.get_by_label(label), value)
    sees(page, "a side is shown good enough from 24 right replies of 40 on")
    page.get_by_text("Everything else: greedy").click()
    state(page.get_by_label("Longest reply"), 6)
    state(page.get_by_label("At most so many rows"), 20)
    for measured in ("Loss of the references", "What the adapter forgot"):
        page.get_by_role("checkbox", name=measured).uncheck()
    press(page, "Measure (40 replies)")
    sees(page, "Passes, 20 examples", timeout=SLOW)
    ladder = page.get_by_role("table", name="Every side by its main metric")
    assert {"Share", "Form", "Content"} <= set(ladder.locator("th").all_inner_texts())
    assert ladder.locator(".v-range .bar").count() == 2
    page.reload()
    tab(page, "Verdict")
    page.get_by_role("radio", name="a wrong fact").check()
    sees(page, "among those with a wrong fact")
    press(page, "Measure more rows")
    sees(page, "Passes, 24 examples", "2 of at most 24 rows", timeout=SLOW)
    page.get_by_role("button", name="Measure more rows").wait_for(state="hidden")
    sees(page, "among those with a wrong fact")  # what was chosen to see stays


def state(box, value):
    box.fill(str(value))
    box.blur()


def choose(page, box, option):
    box.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_another_server_and_recorded_replies_are_judged_beside_a_side_held_to_a_form(page, server, rows, tmp_path):
    said = reply("Number 1, gladly.", prompt_tokens=9, completion_tokens=5)
    server.say = lambda path, body: (200, said)
    unfold(page, "Other servers")
    for label, text in (("Name here", "near"), ("Address", f"{server.url}/v1"), ("Model, as the server calls it", "m")):
        page.get_by_label(label).fill(text)
    for label, price in (("Price in", 2), ("Price out", 8)):
        page.locator(".picker").get_by_label(label).first.fill(str(price))
    press(page, "Add and ask it for a word")
    sees(page, "near answered in")
    tab(page, "Compare")
    choose(page, page.get_by_label("Model of side A"), "near · m at 127.0.0.1")
    choose(page, page.get_by_label("Model of side B"), "Base model")
    sees(page.locator(".sA"), "2 and 8 a million tokens")
    for letter in "AB":
        page.locator(f".s{letter}").get_by_text("Prompt and examples").click()
        choose(page, page.locator(f".s{letter}").get_by_label("Form of the replies"), "JSON")
    page.get_by_placeholder("Ask every side the same thing").fill("Say 1")
    press(page, "Ask", exact=True)
    for letter, says in (("A", "5 out"), ("B", " out · ")):
        sees(page.locator(f".s{letter}"), says, timeout=120_000)
    sees(page.locator(".sA"), "USD")
    json.loads(page.locator(".sB .said").last.inner_text())
    assert json.loads(server.asked[-1][2])["response_format"] == {"type": "json_object"}
    press(page, "Make it a verdict")
    page.locator(".verdict-form .drop input[type=file]").first.set_input_files(str(rows))
    sees(page, "40 rows of numbers.jsonl")
    lines = [json.dumps({"prompt": f"Say {n}", "reply": f"Number {n}, gladly."}) for n in range(40)]
    (today := tmp_path / "today.jsonl").write_text("\n".join(lines[:39]))
    unfold(page, "Replies of the model you use today")
    page.locator(".recorded input[type=file]").set_input_files(str(today))
    sees(page, "Replies to 39 of 40 rows; none to row 40.")
    page.get_by_text("Everything else: greedy").click()
    state(page.get_by_label("Longest reply"), 12)
    state(page.get_by_label("At most so many rows"), 5)
    for measured in ("Loss of the references", "What the adapter forgot"):
        page.get_by_role("checkbox", name=measured).uncheck()
    for left_out in ("Base, ready-made", "Base + 4 shots"):
        if (box := page.get_by_role("checkbox", name=left_out, exact=True)).count():
            box.uncheck()
    press(page, "Measure (")
    sees(page, "Passes, 5 examples", timeout=120_000)
    judged = page.get_by_role("table", name="Every side by its main metric").inner_text()
    assert ("near" in judged, "today" in judged, "Base + form" in judged) == (True, True, True)


ATTACK = """async (app) => {
    const form = new FormData();
    form.append("files", new File(["{}"], "crossed.jsonl"));
    const join = JSON.stringify({data: [], fn_index: 0, session_hash: "evil"});
    const sent = [[app + "/status", {}], [app + "/gradio_api/upload", {method: "POST", body: form}],
                  [app + "/gradio_api/upload", {method: "POST", body: form, mode: "no-cors"}],
                  [app + "/gradio_api/queue/join", {method: "POST", body: join}]];
    const told = [];
    for (const [url, options] of sent) {
        try { const answer = await fetch(url, options); told.push([answer.status, await answer.text()]); }
        catch (error) { told.push([0, String(error)]); }
    }
    return told;
}"""


def test_another_sites_page_reaches_nothing(app, browser):
    port = app.url.rpartition(":")[2]
    rules = ["--host-resolver-rules=MAP *.example 127.0.0.1", "--disable-features=LocalNetworkAccessChecks"]
    opened = launch(browser.browser_type, *rules)
    try:
        page = opened.new_page()
        page.goto(f"http://evil.example:{port}")  # its name was made to point here
        assert "may not be opened as 'evil.example" in page.inner_text("body")
        rebound = page.evaluate(ATTACK, f"http://evil.example:{port}")
        page.route("http://evil.example/", lambda route: route.fulfill(body="A page elsewhere"))
        page.goto("http://evil.example/")
        crossed = page.evaluate(ATTACK, app.url)
    finally:
        opened.close()
    assert [status for status, _ in rebound] in ([403, 403, 0, 403], [403] * 4)
    assert {status for status, _ in crossed} <= {0, 403}
    assert "device" not in str([rebound, crossed])
    assert not list((app.home / "uploads").rglob("crossed*"))
