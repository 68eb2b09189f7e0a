"""The blind vote's handlers on a verdict that lies on disk, called as plain functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import pytest

from playground.errors import InputError
from playground.services.bases import BaseState
from playground.services.container import Services
from playground.services.judging import JudgingView
from playground.settings import Settings
from playground.ui import vote
from playground.ui.wiring import Visitor
from tests.services.test_voting import SIDES, put_verdict
from tests.ui.fakes import EVIL, FakeServices

STRANGER = Visitor("somebody", "tab-2")


@dataclass
class FakeJudging:
    view: JudgingView | None = None
    started: list[tuple[str, str, str]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def judges(self, owner: str) -> list[tuple[str, str]]:
        return [("The base", "base"), (f"mine {EVIL}", "mine")]

    def start(self, id: str, judge: str, owner: str) -> None:
        if judge == "http://evil":
            raise InputError(f"There is no adapter {EVIL}.")
        self.started.append((id, judge, owner))

    def show(self, id: str, owner: str) -> JudgingView | None:
        return self.view

    def stop(self, id: str, owner: str) -> None:
        self.stopped.append(id)


@pytest.fixture
def real(settings: Settings) -> Services:
    return Services(settings)


@pytest.fixture
def polled(services: FakeServices, real: Services) -> Any:
    """Real votes on a verdict on disk, a fake judge."""
    services.voting, services.judging = real.voting, FakeJudging()  # type: ignore[attr-defined]
    return services


@pytest.fixture
def verdict(real: Services) -> str:
    return put_verdict(real)


def names_in(shown: Any) -> list[str]:
    return [side for side in SIDES if side in str(shown)]


def test_no_name_is_on_the_page_before_it_is_asked_for(polled: Any, me: Visitor, verdict: str) -> None:
    with gr.Blocks():
        view = vote.build()
    shown = vote.show(polled, me, verdict)
    assert len(shown) == len(view.shown)
    seen: list[Any] = [vote.closed(polled, me), shown]
    assert names_in(vote.opened(polled, me, 0, verdict)) == []
    for choice in ("left", "right", "tie", "skip", "left"):
        seen.append(shown := vote.cast(polled, me, choice, shown[0], verdict))
    seen.append(vote.undo(polled, me, verdict))
    seen += [vote.cast(polled, me, "nonsense", 4, verdict), vote.show(polled, me, ""), vote.show(polled, me, "../x")]
    assert names_in(seen) == []
    assert "<img" not in str(seen)
    ballot = seen[1][2]["value"]
    assert "question" in ballot
    assert "&lt;img" in ballot
    assert [one.owner for one in polled.voting.files.read(verdict)] == ["local"] * 4


def test_reveal_says_who_wrote_what_and_takes_the_ballot_away(polled: Any, me: Visitor, verdict: str) -> None:
    for n in range(6):
        ballot = polled.voting.next(verdict)
        left, right = ballot.left.endswith("END"), ballot.right.endswith("END")
        shown = vote.cast(polled, me, "tie" if left == right else "left" if left else "right", n, verdict)
    assert shown[5]["visible"] is True
    found = vote.reveal(polled, me, verdict)
    assert len(found) == len(shown)
    assert found[0] == -1
    assert found[2]["visible"] is False
    told = found[6]["value"]
    assert names_in(told) == list(SIDES)
    assert "s votes: 6</h4>" in told
    assert "100 % of 6 votes (61 to 100" in told
    again = vote.show(polled, me, verdict)
    assert names_in(again) == [], "who goes on voting does so blindly"
    assert "6 votes so far, 11 comparisons left." in again[1]["value"]


def test_everything_asked_is_said(polled: Any, me: Visitor, verdict: str) -> None:
    shown = vote.show(polled, me, verdict)
    for n in range(17):
        shown = vote.cast(polled, me, "tie", n, verdict)
    assert "asked everything" in shown[1]["value"]
    assert (shown[3]["visible"], shown[4]["visible"], shown[5]["visible"]) == (False, True, True)


def test_what_cannot_be_done_is_said(polled: Any, me: Visitor, verdict: str) -> None:
    assert "no verdict to vote on yet" in vote.show(polled, me, "")[-1]["value"]
    assert "no vote yet" in vote.reveal(polled, me, verdict)[-1]["value"]
    assert "is no vote" in vote.cast(polled, me, EVIL, 0, verdict)[-1]["value"]
    assert "<img" not in vote.cast(polled, me, EVIL, 0, verdict)[-1]["value"]
    polled.voting = Services(Settings(home=polled.settings.home, shared=True)).voting
    for handler in (vote.show, vote.undo, vote.reveal):
        assert "There is no verdict" in handler(polled, STRANGER, verdict)[-1]["value"]


def test_a_judge_is_chosen_watched_and_stopped(polled: Any, me: Visitor, verdict: str) -> None:
    with gr.Blocks():
        view = vote.build()
    known, *judged = vote.opened(polled, me, -1, verdict)[9:]
    assert known["value"] == "base"
    assert len(judged) == len(view.judged)
    assert vote.let(polled, me, verdict, "mine")["visible"] is False
    assert polled.judging.started == [(verdict, "mine", "local")]
    assert "&lt;img" in vote.let(polled, me, verdict, "http://evil")["value"]
    polled.judging.view = JudgingView(verdict, f"mine {EVIL}", 3, 9, live=True)
    head, let, stop, timer = vote.judging(polled, me, verdict)
    assert "3 of 9 comparisons" in head["value"]
    assert (let["visible"], stop["visible"], timer.active) == (False, True, True)
    polled.judging.view = JudgingView(verdict, "mine", 3, 9, unread=2, error=f"It stopped {EVIL}.")
    head, let, stop, timer = vote.judging(polled, me, verdict)
    assert "2 answers named neither reply" in head["value"]
    assert "<img" not in head["value"]
    assert (let["visible"], stop["visible"], timer.active) == (True, False, False)
    vote.stop(polled, me, verdict)
    assert polled.judging.stopped == [verdict]
    polled.bases.now = BaseState("preparing", "Preparing the base", "x")
    assert "not ready" in vote.let(polled, me, verdict, "mine")["value"]
