"""The one timer, and the page as a whole."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from playground.models.bases import BaseState
from playground.ui import page as page_
from playground.ui import words
from playground.ui.page import HURRIED_S, Memo, WholePage, build_page, launch_options
from playground.ui.wiring import Choices, Drawn, Page, Visitor
from playground.verdict.service import VerdictView
from tests.evaluation.helpers import verdict as made_verdict
from tests.ui.fakes import FakeServices, row, run_view


@pytest.fixture
def tab(whole: WholePage) -> WholePage:
    return whole


@pytest.fixture
def tick(services: Any, me: Visitor, tab: WholePage) -> Any:
    """One tick; the memo is that of the tick before."""
    memo = Memo()

    def ticked(**changes: Any) -> Drawn:
        nonlocal memo
        given: Any = dict.fromkeys(("followed", "chosen", "active", "judged", "tuned"), "") | {"laid": []}
        models = dict.fromkeys(words.LETTERS, "base")
        drawn = page_.tick(services, me, tab, memo=memo, **{**given, "models": models, **changes})
        memo = drawn.pop(tab.memo)
        assert set(drawn) <= set(tab.outputs)
        return drawn

    return ticked


def test_the_timer_draws_only_what_changed_and_reads_the_runs_once(services: Any, tab: WholePage, tick: Any) -> None:
    assert tick()[tab.pill] == "Device: idle"
    assert tick() == {}
    services.training.listed = [run_view()]
    read: list[str] = []
    runs = services.training.runs
    services.training.runs = lambda owner: (read.append(owner), runs(owner))[1]
    drawn = tick()
    assert {tab.training.run, tab.training.listing, tab.training.cancel, tab.device.now} <= set(drawn)
    assert tab.pill not in drawn
    assert read == ["local"]


def test_a_button_says_why_it_cannot_be_pressed(services: Any, tab: WholePage, tick: Any) -> None:
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    drawn = tick()
    for button in (tab.compare.ask, tab.compare.hospital):
        assert (drawn[button]["value"], drawn[button]["interactive"]) == ("Fetching the base, 62 of 93 MB", False)
    assert drawn[tab.timer]["value"] == HURRIED_S


def test_a_part_that_fails_leaves_the_others_and_is_logged_once(
    services: Any, tab: WholePage, tick: Any, caplog: pytest.LogCaptureFixture
) -> None:
    services.device.status = lambda: 1 / 0
    drawn = tick()
    assert tab.pill not in drawn
    assert "Nothing is training" in drawn[tab.training.run]
    tick()
    assert caplog.text.count("ZeroDivisionError") == 1


def test_a_choice_that_is_gone_is_said_and_never_written_over(services: Any, tab: WholePage, tick: Any) -> None:
    models = dict.fromkeys(words.LETTERS, "base") | {"B": "hospital_reports"}
    tick(models=models, tuned="hospital_reports")
    services.adapters.rows = [row(id="other")]
    drawn = tick(models=models, tuned="hospital_reports")
    for widget in (tab.compare.sides["B"].model, tab.verdict.adapter):
        offered = drawn[widget]
        assert type(offered) is Choices
        assert offered.choices is not None
        assert offered.choices[-1] == (f"hospital_reports, {words.GONE}", "hospital_reports")


def test_the_replies_of_a_verdict_are_read_once(services: Any, tab: WholePage, tick: Any) -> None:
    services.verdicts.record, services.verdicts.held = made_verdict()
    services.verdicts.listed = [VerdictView("20261124-101500-v1a2b", "ward", "DONE", created_s=1.79e9)]
    assert "Fine-tune." in tick()[tab.verdict.body]["value"]
    services.verdicts.show = None
    assert tick() == {}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    made = build_page(FakeServices(tmp_path_factory.mktemp("page")))  # type: ignore[arg-type]
    assert isinstance(made, Page)
    return made


def test_the_page_is_built_with_its_tabs_in_order(page: Page) -> None:
    tabs = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == ["Train", "Adapters", "Compare", "Verdict"]
    assert {"theme", "css", "js", "head"} <= set(launch_options())


def test_the_benchs_text_follows_every_choice_of_examples_that_a_person_makes(page: Page) -> None:
    follows = [one for one in page.fns.values() if one.name == "opened" and one._id not in page.unasked]
    texts = [
        one for one in follows if any(getattr(block, "label", "") == "A version of the prompt" for block in one.outputs)
    ]
    before = {page.fns[one.trigger_after].name for one in texts if one.trigger_after is not None}
    assert before == {"first", "source_chosen", "carry"}, "an upload, a dropped file, the sides of Compare"
