"""The one timer, and the page as a whole."""

from typing import Any
from unittest.mock import Mock

import pytest

from playground.models.bases import BaseState
from playground.ui import page as page_
from playground.ui import words
from playground.ui.page import HURRIED_S, Memo
from playground.ui.wiring import Choices, Drawn
from playground.verdict.service import VerdictView
from tests.evaluation.helpers import verdict as made_verdict
from tests.ui.conftest import says
from tests.ui.fakes import row, run_view


@pytest.fixture
def tick(me, whole):
    """One tick; the memo is that of the tick before."""
    memo = Memo()

    def ticked(**changes: Any) -> Drawn:
        nonlocal memo
        given: Any = dict.fromkeys(("followed", "chosen", "active", "judged", "fault", "tuned"), "") | {"laid": []}
        models = dict.fromkeys(words.LETTERS, "base")
        drawn = page_.tick(me, whole, memo=memo, **{**given, "models": models, **changes})
        memo = drawn.pop(whole.memo)
        assert set(drawn) <= set(whole.outputs)
        return drawn

    return ticked


def test_the_timer_draws_only_what_changed_and_reads_the_runs_once(services, whole, tick):
    assert tick()[whole.pill] == "Device: idle"
    assert tick() == {}
    services.training.runs = Mock(return_value=[run_view()])
    drawn = tick()
    assert {whole.training.run, whole.training.listing, whole.training.cancel, whole.device.now} <= set(drawn)
    assert whole.pill not in drawn
    services.training.runs.assert_called_once_with("local")


def test_a_button_says_why_it_cannot_be_pressed(services, whole, tick):
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    drawn = tick()
    for button in (whole.compare.ask, whole.compare.hospital):
        assert (drawn[button]["value"], drawn[button]["interactive"]) == ("Fetching the base, 62 of 93 MB", False)
    assert drawn[whole.timer]["value"] == HURRIED_S


def test_a_part_that_fails_leaves_the_others_and_is_logged_once(services, whole, tick, caplog):
    services.device.status = lambda: 1 / 0
    drawn = tick()
    assert whole.pill not in drawn
    says(drawn[whole.training.run], "Nothing is training")
    tick()
    assert caplog.text.count("ZeroDivisionError") == 1


def test_a_choice_that_is_gone_is_said_and_never_written_over(services, whole, tick):
    models = dict.fromkeys(words.LETTERS, "base") | {"B": "hospital_reports"}
    tick(models=models, tuned="hospital_reports")
    services.adapters.rows = [row(id="other")]
    drawn = tick(models=models, tuned="hospital_reports")
    for widget in (whole.compare.sides["B"].model, whole.verdict.adapter):
        assert type(drawn[widget]) is Choices
        assert drawn[widget].choices[-1] == (f"hospital_reports, {words.GONE}", "hospital_reports")


def test_the_replies_of_a_verdict_are_read_once(services, whole, tick):
    services.verdicts.record, services.verdicts.held = made_verdict()
    services.verdicts.listed = [VerdictView("20261124-101500-v1a2b", "ward", "DONE", created_s=1.79e9)]
    says(tick()[whole.verdict.body], "Fine-tune.")
    services.verdicts.show = None
    assert tick() == {}
