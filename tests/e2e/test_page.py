"""Every tab on the tiny base, one app for all: files with faults, settings taken away, races, blends, a phone, another
site's page."""

from __future__ import annotations

import csv
import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from playground.methods import all_methods
from playground.settings import PROJECT_ROOT
from tests.e2e.conftest import ARGUMENTS, SLOW, App, open_page, start_app, tab, upload
from tests.engine.conftest import make_lora

__all__ = ["make_lora"]
pytestmark = [pytest.mark.browser]
EMPTY_ANSWER, EMPTY_PROMPT, TORN = (3, 11, 40, 57), (5, 60), 63


@pytest.fixture(scope="module")
def app(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    home = tmp_path_factory.mktemp("page") / "home"
    running = start_app(home, home.parent / "app.log", tiny_base)
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()[-4000:]


@pytest.fixture
def ward_csv(tmp_path: Path) -> Path:
    """The answer stands before the prompt, under names that say nothing; 62 rows, of them six with a gap, and a torn
    one."""
    rows = [
        json.loads(line)
        for line in (PROJECT_ROOT / "examples" / "hospital_reports.jsonl").read_text().splitlines()[:62]
    ]
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
    card.get_by_text("Done").first.wait_for(timeout=SLOW)
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


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "numbers.jsonl"
    file.write_text(
        "\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}, gladly."}) for n in range(40))
    )
    return file


def test_settings_are_taken_away_and_brought_back(page: Any, rows: Path, tmp_path: Path) -> None:
    upload(page, rows)
    page.get_by_text("40 rows").first.wait_for()
    page.locator("button.label-wrap", has_text="Everything else").click()
    steps = page.get_by_role("spinbutton", name="Steps", exact=True)
    steps.fill("7")
    steps.blur()
    page.get_by_text("rows, 7 steps").first.wait_for()
    page.locator("button.label-wrap", has_text="Take these settings elsewhere").click()
    code = page.locator(".cm-content")
    code.get_by_text("--steps 7").first.wait_for()
    for form, says in (
        ("Axolotl file", "max_steps: 7"),
        ("TRL script", "max_steps=7"),
        ("Settings file", '"steps": 7'),
    ):
        page.get_by_role("radio", name=form).check()
        code.get_by_text(says).first.wait_for()
    with page.expect_download() as got:
        page.get_by_role("link", name="Download settings.json").or_(
            page.get_by_role("button", name="Download settings.json")
        ).click()
    file = tmp_path / "settings.json"
    got.value.save_as(file)
    record = json.loads(file.read_text())
    assert record["steps"] == 7
    file.write_text(json.dumps(record | {"steps": 9, "method": "ia3", "rank": None, "lr": None, "options": {}}))
    page.locator("button", has_text="Bring a settings file").locator("xpath=..").locator(
        "input[type=file]"
    ).set_input_files(str(file))
    page.get_by_text("The settings of settings.json are in the form").wait_for()
    page.get_by_text("rows, 9 steps").first.wait_for()
    assert page.get_by_role("radio", name="IA³").first.is_checked()


def test_a_race_ends_as_a_table_and_a_row_becomes_a_side(page: Any, rows: Path) -> None:
    upload(page, rows)
    page.get_by_text("40 rows").first.wait_for()
    page.locator("button.label-wrap", has_text="Race several methods").click()
    for method in all_methods().values():
        if method.name not in ("lora", "ia3"):
            page.get_by_role("checkbox", name=method.label, exact=True).uncheck()
    page.get_by_label("How much", exact=True).first.fill("2")
    page.get_by_role("button", name="Start race").click()
    table = page.get_by_role("table", name="The race")
    table.wait_for()
    page.reload()
    tab(page, "Train")
    page.get_by_role("button", name="Cancel the race").wait_for()
    page.get_by_text("2 of 2 methods measured").wait_for(timeout=SLOW)
    assert table.get_by_role("row").count() == 4, "a head, the base, two methods"
    page.get_by_role("button", name="Use LoRA as a side").click()
    side = page.get_by_label("Model of side B")
    side.wait_for()
    assert "lora" in side.input_value().lower()


def test_two_adapters_are_blended_heard_and_exported(page: Any, make_lora: Callable[..., Path], tmp_path: Path) -> None:
    tab(page, "Adapters")
    for seed, name in ((1, "calm"), (2, "brisk")):
        shutil.copytree(make_lora(seed), tmp_path / name)
        packed = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for part in ("adapter_config.json", "adapter_model.safetensors"):
                archive.write(tmp_path / name / part, f"{name}/{part}")
        page.locator("button", has_text="Import a PEFT folder").locator("xpath=..").locator(
            "input[type=file]"
        ).set_input_files(str(packed))
        page.locator(f"button[data-id='{name}']").wait_for()
    page.locator("button.label-wrap", has_text="Blend several into one").click()
    for name in ("calm", "brisk"):
        page.get_by_label("Adapters to blend").click()
        page.get_by_role("option", name=name).click()
        page.get_by_label(f"number input for How much of {name}").or_(
            page.get_by_label(f"How much of {name}")
        ).first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Blend and listen").click()
    page.get_by_text("is blended and active").wait_for(timeout=SLOW)
    page.get_by_placeholder("Write a message").fill("Say 3")
    page.get_by_role("button", name="Send").click()
    page.locator(".one-pane").get_by_text(" out · ").first.wait_for(timeout=SLOW)
    page.get_by_role("button", name="Export", exact=True).click()
    page.get_by_role("radio", name="Merged").check()
    page.get_by_role("button", name="Write it").click()
    taken = page.locator("button, a", has_text="Download").locator("visible=true")
    with page.expect_download(timeout=SLOW) as got:
        taken.last.click(timeout=SLOW)
    with zipfile.ZipFile(got.value.path()) as archive:
        assert any(name.endswith("model.safetensors") for name in archive.namelist())


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


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>A page elsewhere</p>")

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of another site's page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_another_sites_page_reaches_nothing(app: App, browser: Any, elsewhere: int) -> None:
    path = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    port = app.url.rpartition(":")[2]
    rules = ["--host-resolver-rules=MAP *.example 127.0.0.1", "--disable-features=LocalNetworkAccessChecks"]
    opened = browser.browser_type.launch(executable_path=path, args=[*ARGUMENTS, *rules])
    try:
        page = opened.new_page()
        page.goto(f"http://evil.example:{port}")  # its name was made to point here
        assert "may not be opened as 'evil.example" in page.inner_text("body")
        rebound = page.evaluate(ATTACK, f"http://evil.example:{port}")
        page.goto(f"http://evil.example:{elsewhere}")
        crossed = page.evaluate(ATTACK, app.url)
    finally:
        opened.close()
    assert [status for status, _ in rebound] == [403, 403, 0, 403] or [status for status, _ in rebound] == [403] * 4
    assert {status for status, _ in crossed} <= {0, 403}
    assert "device" not in str([rebound, crossed])
    assert not list((app.home / "uploads").rglob("crossed*"))
