"""Settings taken away and brought back, a race of methods, adapters blended and exported: in the browser, on a tiny base."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from playground.methods import all_methods
from tests.e2e.conftest import App, start_app
from tests.e2e.test_journey import tab, upload
from tests.engine.conftest import make_lora

__all__ = ["make_lora"]
pytestmark = [pytest.mark.browser]
SLOW = 300_000


@pytest.fixture(scope="module")
def app(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    home = tmp_path_factory.mktemp("tuning") / "home"
    running = start_app(home, home.parent / "app.log", tiny_base)
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()[-4000:]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "numbers.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"Number {n}, gladly."}) for n in range(40)))
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
    for form, says in (("Axolotl file", "max_steps: 7"), ("TRL script", "max_steps=7"), ("Settings file", '"steps": 7')):
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
    page.locator("button", has_text="Bring a settings file").locator("xpath=..").locator("input[type=file]").set_input_files(
        str(file)
    )
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
        page.locator("button", has_text="Import a PEFT folder").locator("xpath=..").locator("input[type=file]").set_input_files(
            str(packed)
        )
        page.locator(f"button[data-id='{name}']").wait_for()
    page.locator("button.label-wrap", has_text="Blend several into one").click()
    for name in ("calm", "brisk"):
        page.get_by_label("Adapters to blend").click()
        page.get_by_role("option", name=name).click()
        page.get_by_label(f"number input for How much of {name}").or_(page.get_by_label(f"How much of {name}")).first.wait_for()
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
