"""The Adapters tab's handlers: the list, the chat beside it, the blend."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from playground.errors import AdapterError, InputError
from playground.ui import adapters, library
from playground.ui.adapters import AdaptersTab
from playground.ui.side import Log
from playground.ui.wiring import Visitor
from tests.ui.fakes import row


@pytest.fixture(scope="module")
def tab() -> AdaptersTab:
    with gr.Blocks():
        return AdaptersTab()


def test_pressing_a_row_makes_it_active(services: Any, me: Visitor, tab: AdaptersTab) -> None:
    drawn = library.pick(services, me, tab, picked="hospital_reports", active="")
    assert (drawn[tab.chosen], drawn[tab.active]) == ("hospital_reports", "hospital_reports")
    assert services.adapters.switched == ["hospital_reports"]
    assert "active in 0.4 ms" in drawn[tab.message]["value"]
    assert "3f9a7c21" in drawn[tab.message]["value"]
    assert 'aria-pressed="true"' in drawn[tab.listing]


def test_an_id_the_page_made_up_changes_nothing(services: Any, me: Visitor, tab: AdaptersTab) -> None:
    for handler, given in (
        (library.pick, {"picked": "../../etc", "active": ""}),
        (library.ask_rename, {"chosen": "../../etc"}),
        (library.ask_remove, {"chosen": "../../etc"}),
    ):
        with pytest.raises(InputError, match="in the list first"):
            handler(services, me, tab, **given)
    assert services.adapters.switched == []


def test_an_adapter_of_another_base_is_shown_with_its_reason(services: Any, me: Visitor, tab: AdaptersTab) -> None:
    services.adapters.rows = [row("other", usable=False, reason="trained on another base")]
    drawn = library.pick(services, me, tab, picked="other", active="")
    assert (drawn[tab.chosen], drawn[tab.active]) == ("other", "")
    assert "Trained on another base." in drawn[tab.message]["value"]
    assert "Other base" in drawn[tab.listing]
    assert drawn[tab.use]["interactive"] is False


def test_deleting_asks_first_and_a_refusal_is_said(services: Any, me: Visitor, tab: AdaptersTab) -> None:
    asked = library.ask_remove(services, me, tab, chosen="hospital_reports")
    assert asked[tab.delete_row]["visible"] is True
    assert "Delete hospital_reports?" in asked[tab.asked]
    with pytest.raises(AdapterError, match="ships with the app"):
        library.remove(services, me, tab, chosen="hospital_reports", active="")


def test_the_chat_keeps_a_divider_between_adapters(services: Any, me: Visitor, tab: AdaptersTab) -> None:
    log = list(library.send(services, me, tab, log=Log(), question="Hello", active=""))[-1][tab.log]
    turned = library.turned(services, me, tab, log=log, active="hospital_reports")
    assert "Now hospital_reports" in turned[tab.chat][-1]["content"]
    assert "Chat with hospital_reports" in turned[tab.title]
    list(library.send(services, me, tab, log=turned[tab.log], question="Again", active="hospital_reports"))
    sides, histories, *_ = services.compare.asked[-1]
    assert sides[0].model == "hospital_reports"
    assert histories == [[]]


def test_each_adapter_of_a_blend_has_a_slider(services: Any, me: Visitor, tab: AdaptersTab) -> None:
    drawn = adapters.chosen(services, me, tab, parts=["hospital_reports", "brand_voice"])
    sliders = [drawn[weight] for weight in tab.weights]
    assert [slider["visible"] for slider in sliders] == [True, True, False, False]
    assert [slider["value"] for slider in sliders[:2]] == [0.5, 0.5]
    assert sliders[0]["label"] == "How much of hospital_reports"
    assert drawn[tab.make]["interactive"] is True
    assert adapters.chosen(services, me, tab, parts=["hospital_reports"])[tab.make]["interactive"] is False


def test_one_adapter_is_no_blend_and_a_slider_does_nothing_before_there_is_one(
    services: Any, me: Visitor, tab: AdaptersTab
) -> None:
    given: Any = {"how": "linear", "name": "both", "made": "", "weights": (1.0, 1.0)}
    with pytest.raises(InputError, match="two adapters or more"):
        list(adapters.make(services, me, tab, parts=["hospital_reports"], **given))
    assert list(adapters.moved(services, me, tab, parts=["a", "b"], **given)) == [{}]
