"""The Adapters tab's handlers, the one timer, and the page as a whole."""

from __future__ import annotations

import gradio as gr

from playground.services.bases import BaseState
from playground.ui import chat, library, watch, words
from playground.ui.page import build_page, launch_options
from playground.ui.transcript import Log
from playground.ui.watch import Memo
from playground.ui.wiring import Visitor
from tests.ui.fakes import FakeServices, row, run_view

MODELS = ("base",) * 6


def test_pressing_a_row_makes_it_active(services: FakeServices, me: Visitor) -> None:
    chosen, active, shown, message, *_ = library.pick(services, me, "hospital_reports", "", "")
    assert (chosen, active) == ("hospital_reports", "hospital_reports")
    assert services.adapters.switched == ["hospital_reports"]
    assert "active in 0.4 ms" in message["value"]
    assert "3f9a7c21" in message["value"]
    assert 'aria-pressed="true"' in shown


def test_an_id_the_page_made_up_changes_nothing(services: FakeServices, me: Visitor) -> None:
    chosen, active, _, message, *_ = library.pick(services, me, "../../etc", "", "")
    assert (chosen, active) == ("", "")
    assert words.PICK_FIRST in message["value"]
    assert services.adapters.switched == []


def test_an_adapter_of_another_base_is_shown_with_its_reason(services: FakeServices, me: Visitor) -> None:
    services.adapters.rows = [row("other", usable=False, reason="trained on another base")]
    chosen, active, shown, message, _, use, *_ = library.pick(services, me, "other", "", "")
    assert (chosen, active) == ("other", "")
    assert "Trained on another base." in message["value"]
    assert "Other base" in shown
    assert use["interactive"] is False


def test_deleting_asks_first_and_a_refusal_is_told(services: FakeServices, me: Visitor) -> None:
    there, question, _ = library.ask_remove(services, me, "hospital_reports")
    assert there["visible"] is True
    assert "Delete hospital_reports?" in question
    refused = library.remove(services, me, "hospital_reports", "")
    assert "ships with the app" in refused[3]["value"]


def test_the_chat_keeps_a_divider_between_adapters(services: FakeServices, me: Visitor) -> None:
    log = list(chat.send(services, me, Log(), "Hello", ""))[-1][0]
    log, shown, title = chat.turned(services, me, log, "hospital_reports")
    assert "Now hospital_reports" in shown[-1]["content"]
    assert "Chat with hospital_reports" in title
    list(chat.send(services, me, log, "Again", "hospital_reports"))
    sides, histories, *_ = services.compare.asked[-1]
    assert sides[0].model == "hospital_reports"
    assert histories == [[]]


def test_the_timer_draws_only_what_changed(services: FakeServices, me: Visitor) -> None:
    first = watch.tick(services, me, Memo(), "", [], "", "", "", "", *MODELS)
    second = watch.tick(services, me, first[0], "", [], "", "", "", "", *MODELS)
    assert first[2] == "Device: idle"
    assert all(one == gr.skip() for one in second[1:])
    services.training.listed = [run_view()]
    third = watch.tick(services, me, second[0], "", [], "", "", "", "", *MODELS)
    assert len(third) == len(first)
    assert sum(one != gr.skip() for one in third[1:]) >= 3


def test_a_button_says_why_it_cannot_be_pressed(services: FakeServices, me: Visitor) -> None:
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    drawn = watch.tick(services, me, Memo(), "", [], "", "", "", "", *MODELS)
    ask, hospital = drawn[8], drawn[9]
    assert (ask["value"], ask["interactive"]) == ("Fetching the base, 62 of 93 MB", False)
    assert (hospital["value"], hospital["interactive"]) == ("Fetching the base, 62 of 93 MB", False)


def test_a_part_that_fails_leaves_the_others(services: FakeServices, me: Visitor) -> None:
    services.device.status = lambda: 1 / 0  # type: ignore[method-assign]
    drawn = watch.tick(services, me, Memo(), "", [], "", "", "", "", *MODELS)
    assert drawn[2] == gr.skip()
    assert "Nothing is training" in "".join(str(one) for one in drawn)


def test_the_page_is_built_with_its_tabs_in_order(services: FakeServices) -> None:
    page = build_page(services)
    tabs = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == ["Train", "Adapters", "Compare", "Verdict"]
    assert {"theme", "css", "js", "head"} <= set(launch_options())
