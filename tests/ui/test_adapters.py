"""The Adapters tab's handlers: the list, the chat beside it, the blend."""

from dataclasses import replace
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import pytest

from playground.errors import AdapterError
from playground.ui import adapters, servers
from playground.ui.side import Log
from playground.ui.wiring import Visit
from playground.verdict.handover import Compared, Returned, Step
from tests.refused import refused
from tests.ui.conftest import says
from tests.ui.fakes import EVIL, card, row

ID = "hospital_reports"
tab = pytest.fixture(lambda whole: whole.library)


def test_pressing_a_row_makes_it_active_and_one_of_another_base_is_shown_with_its_reason(services, call, tab):
    drawn = call(adapters.pick, tab, picked=ID, active="")
    assert (drawn[tab.chosen], drawn[tab.active], services.adapters.switched) == (ID, ID, [ID])
    says(drawn[tab.message], "active in 0.4 ms", "3f9a7c21")
    says(drawn[tab.listing], 'aria-pressed="true"')
    services.adapters.rows = [row("other", usable=False, reason="trained on another base")]
    drawn = call(adapters.pick, tab, picked="other", active="")
    assert (drawn[tab.chosen], drawn[tab.active], drawn[tab.use]["interactive"]) == ("other", "", False)
    says(drawn[tab.message], "Trained on another base.")
    says(drawn[tab.listing], "Other base")


def test_an_import_says_what_is_noted_and_one_of_the_hub_is_fetched_with_its_progress(services, call, tab, tmp_path):
    services.adapters.import_uploads = Mock(return_value=card("mine", notes=(f"renamed {EVIL}", "second")))
    message = call(adapters.import_file, tab, uploaded=["a.zip"], chosen="", active="")[tab.message]
    says(message, "mine is imported: LoRA r8, 9.8 MB.", "<p", "Renamed &lt;img", "Second.")
    assert "&lt;p" not in message["value"]
    held = tmp_path / "mine-held-out.jsonl"
    held.write_text("{}")
    services.data.download = lambda name, text, owner: tmp_path / name
    services.handover.returned = lambda card, owner: Returned((f"18 rows of {EVIL} are here",), held, "verdict")
    back = call(adapters.import_file, tab, uploaded=["a.zip"], chosen="", active="")
    says(back[tab.message], "18 rows of &lt;img", "on the Verdict tab")
    assert (Path(back[tab.held_out]["value"]).name, back[tab.held_out]["visible"]) == (held.name, True)
    given = {"hub_id": " owner/name ", "chosen": "", "active": ""}
    seen = Event()

    def fetched(name, owner, tell):
        tell("fetching", 1_000_000, 4_000_000)
        assert seen.wait(20)
        return card("mine", notes=(f"fetched from the hub, {name}",))

    services.adapters.import_hub = fetched
    drawn = []
    for one in adapters.fetch(Visit(services, session="tab-1"), tab, **given):
        drawn.append(one)
        seen.set()
    says(drawn[0][tab.message], "Fetching owner/name, 1.0 MB of 4.0 MB")
    assert [one[tab.stop_fetch]["visible"] for one in (drawn[0], drawn[-1])] == [True, False]
    says(drawn[-1][tab.message], "mine is imported", "Fetched from the hub, owner/name.")
    services.adapters.import_hub = Mock(side_effect=AdapterError(f"No adapter {EVIL}"))
    refused("No adapter", call, adapters.fetch, tab, **given)


def test_an_id_the_page_made_up_changes_nothing_and_deleting_asks_first(services, call, tab):
    made_up = {adapters.pick: {"picked": "../../etc", "active": ""}}
    made_up |= {handler: {"chosen": "../../etc"} for handler in (adapters.ask_rename, adapters.ask_remove)}
    for handler, given in made_up.items():
        refused("in the list first", call, handler, tab, **given)
    assert services.adapters.switched == []
    asked = call(adapters.ask_remove, tab, chosen=ID)
    assert asked[tab.delete_row]["visible"] is True
    says(asked[tab.asked], "Delete hospital_reports?")
    refused("ships with the app", call, adapters.remove, tab, chosen=ID, active="", error=AdapterError)


def test_the_chat_keeps_a_divider_between_adapters(services, call, tab):
    log = call(adapters.send, tab, log=Log(), question="Hello", active="")[-1][tab.log]
    turned = call(adapters.turned, tab, log=log, active=ID)
    says(turned[tab.chat][-1]["content"], "Now hospital_reports")
    says(turned[tab.title], "Chat with hospital_reports")
    call(adapters.send, tab, log=turned[tab.log], question="Again", active=ID)
    sides, histories, *_ = services.compare.asked[-1]
    assert (sides[0].model, histories) == (ID, [[]])


def test_each_adapter_of_a_blend_has_a_slider_and_one_adapter_is_no_blend(call, tab):
    drawn = call(adapters.chosen, tab, parts=[ID, "brand_voice"])
    sliders = [drawn[weight] for weight in tab.weights]
    assert [(one["visible"], one.get("value")) for one in sliders] == [(True, 0.5)] * 2 + [(False, None)] * 2
    assert (sliders[0]["label"], drawn[tab.make]["interactive"]) == ("How much of hospital_reports", True)
    assert call(adapters.chosen, tab, parts=[ID])[tab.make]["interactive"] is False
    given = {"how": "linear", "name": "both", "made": "", "weights": (1.0, 1.0)}
    refused("two adapters or more", call, adapters.make, tab, parts=[ID], **given)
    assert call(adapters.moved, tab, parts=["a", "b"], **given) == [{}], "before there is one"


def test_a_comparison_with_another_server_shows_what_differs_with_its_rows(services, call, tab):
    row = {"row": 3, "ours": "yes", "theirs": EVIL, "fault": "missing stop", "reason": "missing stop: it goes on"}
    about = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    found = Compared(False, 4, 3, "Not the same: missing stop in 1 of 4 rows.", (row,), endpoint=about)
    own = {**row, "row": 2, "reason": "other sampling: a repeat penalty"}
    found = replace(found, differences=(own, row), without_penalty=found)
    services.handover = Mock()
    steps = (Step("Asking both", 2, 8), Step("Done", 4, 4, result=found))
    services.handover.start.return_value.follow.side_effect = lambda: (one for one in steps)
    given = {"chosen": ID, "url": " http://127.0.0.1:9/v1 ", "rows": None, "agree": False}
    drawn = call(servers.ask, tab.handover, **given)[-1]
    says(drawn[tab.handover.result], "missing stop in 1 of 4 rows", "Row 3", "it goes on", "m at http://127.0.0.1")
    says(drawn[tab.handover.result], "With repeat_penalty 1, still differ (1)")
    assert "Row 2" not in str(drawn[tab.handover.result]), "its own penalty alone changes that one"
    assert [drawn[one] for one in (tab.handover.stop, tab.handover.ask)] == [
        {"visible": False, "__type__": "update"},
        {"interactive": True, "__type__": "update"},
    ]
    for empty, words in ({"chosen": ""}, "Choose an adapter"), ({"url": ""}, "Say where it serves"):
        refused(words, call, servers.ask, tab.handover, **(given | empty))
