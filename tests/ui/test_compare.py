"""The Compare tab's handlers, called as plain functions."""

from __future__ import annotations

from typing import Any

import pytest

from playground.errors import InputError
from playground.services.bases import BaseState
from playground.services.sessions import owner_of
from playground.ui import asking, story, transcript, words
from playground.ui.asking import Comparison
from playground.ui.transcript import Divider, Log, Setup
from playground.ui.wiring import Visitor, visitor
from tests.ui.fakes import EVIL, FakeServices, row

SAMPLING = (0.0, 1.0, 128, 7)
BASE_ONLY = ["base", "", 0, "hospital_reports"] * 6
TOLD_AND_TRAINED = ["base", "Be careful", 0, "", "hospital_reports", "", 0, "", *["base", "", 0, ""] * 4]
COMPARISON, ERROR, BOARD, QUESTION = 0, 1, 2, 3
CONTROLS, CHATS, LINES = slice(4, 9), slice(9, 15), slice(15, 21)


def ask(services: FakeServices, me: Visitor, comparison: Comparison, question: str, values: list[Any]) -> list[list[Any]]:
    return list(asking.ask(services, me, comparison, question, None, "ends-with", "Dr. Sharma", *SAMPLING, *values))


def test_both_sides_answer_and_are_scored(services: FakeServices, me: Visitor) -> None:
    yields = ask(services, me, Comparison(), "Male, 54.", TOLD_AND_TRAINED)
    last = yields[-1]
    assert all(len(one) == 21 for one in yields)
    assert "0 of 1" in last[BOARD]
    assert "1 of 1" in last[BOARD]
    assert "Base + prompt" in last[BOARD]
    assert last[CHATS][0][1]["content"] == '<div class="said">plain</div>'
    assert last[CHATS][1][2]["metadata"]["title"] == "49 in · 9 out · 2.4 s · 5e0c"
    sides, histories, question, sampling, owner, session = services.compare.asked[0]
    assert [side.model for side in sides] == ["base", "hospital_reports"]
    assert sides[0].system_prompt == "Be careful"
    assert histories == [[], []]
    assert (question, sampling.seed, owner, session) == ("Male, 54.", 7, "local", "tab-1")


def test_while_it_waits_a_pane_says_where_in_line(services: FakeServices, me: Visitor) -> None:
    yields = ask(services, me, Comparison(), "Hello", BASE_ONLY)
    assert "2nd in line, about 8 s" in yields[1][CHATS][0][1]["content"]
    assert yields[0][CONTROLS][0]["visible"] is False
    assert yields[-1][CONTROLS][0]["visible"] is True


def test_the_next_turn_sends_the_first(services: FakeServices, me: Visitor) -> None:
    comparison = ask(services, me, Comparison(), "One", BASE_ONLY)[-1][COMPARISON]
    ask(services, me, comparison, "Two", BASE_ONLY)
    history = services.compare.asked[1][1][0]
    assert [(turn.question, turn.reply) for turn in history] == [("One", "plain")]


def test_another_model_starts_afresh(services: FakeServices, me: Visitor) -> None:
    comparison = ask(services, me, Comparison(), "One", BASE_ONLY)[-1][COMPARISON]
    changed = ["hospital_reports", "", 0, "", *BASE_ONLY[4:]]
    comparison, board, line, chat, _ = asking.side_changed(services, me, "A", True, comparison, "ends-with", "plain", *changed)
    assert "Now hospital_reports" in chat[-1]["content"]
    assert "not yet" in board
    assert "Switched in 0.4 ms, base untouched" in line
    ask(services, me, comparison, "Two", changed)
    assert services.compare.asked[-1][1][0] == []


def test_changing_back_and_forth_leaves_one_divider() -> None:
    log = transcript.answered(transcript.asked(Log(), "q"), None)
    log = transcript.settle(log, Setup("a"), "a")
    log = transcript.settle(log, Setup("b"), "b")
    assert [type(item) for item in log.items[1:]] == [Divider]


def test_ask_again_replaces_the_last_turn(services: FakeServices, me: Visitor) -> None:
    comparison = ask(services, me, Comparison(), "One", BASE_ONLY)[-1][COMPARISON]
    rest = (None, "ends-with", "plain", *SAMPLING, *BASE_ONLY)
    last = list(asking.ask_again(services, me, comparison, "", *rest))[-1]
    assert [message["role"] for message in last[CHATS][0]] == ["user", "assistant", "assistant"]
    assert services.compare.asked[1][2] == "One"


def test_a_failing_service_is_told_in_words_and_frees_the_box(services: FakeServices, me: Visitor) -> None:
    services.compare.error = InputError(f"The queue is full {EVIL}.")
    last = ask(services, me, Comparison(), "One", BASE_ONLY)[-1]
    assert "The queue is full &lt;img" in last[ERROR]["value"]
    assert last[CONTROLS][0]["visible"] is True


def test_a_bug_is_logged_and_told_calmly(services: FakeServices, me: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    services.compare.error = ZeroDivisionError("secret detail")
    last = ask(services, me, Comparison(), "One", BASE_ONLY)[-1]
    assert words.OUR_SIDE in last[ERROR]["value"]
    assert "secret detail" not in last[ERROR]["value"]
    assert "secret detail" in caplog.text


def test_without_a_question_nothing_is_asked(services: FakeServices, me: Visitor) -> None:
    (only,) = ask(services, me, Comparison(), "  ", BASE_ONLY)
    assert words.EMPTY_QUESTION in only[ERROR]["value"]
    assert services.compare.asked == []


def test_before_the_base_is_ready_its_state_is_read_out(services: FakeServices, me: Visitor) -> None:
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    (only,) = ask(services, me, Comparison(), "Hello", BASE_ONLY)
    assert "62 of 93 MB" in only[ERROR]["value"]
    assert only[CONTROLS][2]["interactive"] is False


def test_stopping_keeps_what_had_arrived(services: FakeServices, me: Visitor) -> None:
    comparison = ask(services, me, Comparison(), "One", BASE_ONLY)[2][COMPARISON]
    stopped = asking.stop(services, me, comparison, "ends-with", "x")
    assert "pla" in stopped[-6][1]["content"]
    assert words.STOPPED in stopped[-6][1]["content"]
    assert "not yet" in stopped[1]


def test_sides_come_and_go(services: FakeServices, me: Visitor) -> None:
    comparison = asking.add_side(services, me, Comparison(), "json", "")[0]
    assert comparison.shown == ("A", "B", "C")
    comparison = asking.remove_side(services, me, "A", comparison, "json", "")[0]
    assert comparison.shown == ("B", "C")
    for letter in ("B", "C"):
        comparison = asking.remove_side(services, me, letter, comparison, "json", "")[0]
    assert len(comparison.shown) == 1


def test_copy_gives_the_raw_text(services: FakeServices, me: Visitor) -> None:
    services.compare.texts = (f"  a\n{EVIL}",)
    comparison = ask(services, me, Comparison(), "One", BASE_ONLY)[-1][COMPARISON]
    assert asking.copy_text(services, me, "A", comparison) == f"  a\n{EVIL}"


def test_the_page_opens_on_the_story(services: FakeServices, me: Visitor) -> None:
    services.adapters.rows.append(row("other", usable=False, reason="trained on another base"))
    opened = story.opening(services, me, None)
    comparison, kind, text, model_a, model_b = opened[0], opened[3], opened[4], opened[6], opened[12]
    assert comparison.logs["A"].setup.prompt.startswith("End with")
    assert (kind, text) == ("ends-with", "Sharma")
    assert (model_a["value"], model_b["value"]) == ("base", "hospital_reports")
    assert "other" not in [value for _, value in model_a["choices"]]
    assert "trained on another base" in opened[11]["value"]


def test_shots_come_from_ids_never_from_paths(services: FakeServices) -> None:
    assert asking.side.shots_file(services, "/etc/passwd", None) is None
    assert asking.side.shots_file(services, "hospital_reports", None) == services.data.folder / "rows.jsonl"


def test_who_owns_what(services: FakeServices, tmp_path: Any) -> None:
    request = type("Request", (), {"session_hash": "abc"})()
    assert visitor(services, request) == Visitor("local", "abc")
    owner = owner_of("", "abc")
    assert visitor(FakeServices(tmp_path, shared=True), request) == Visitor(owner, owner)
