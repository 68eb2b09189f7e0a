"""The blind vote's handlers on a verdict that lies on disk, called as plain functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from playground.errors import BaseUnavailableError, InputError
from playground.models.bases import BaseState
from playground.services import Services, build_services
from playground.settings import Settings
from playground.ui import vote
from playground.ui.page import WholePage
from playground.ui.vote import VoteView
from playground.ui.wiring import Visitor
from playground.verdict.judging import JudgingView
from tests.services.conftest import SIDES, put_verdict
from tests.ui.conftest import Call
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
    return build_services(settings)


@pytest.fixture
def polled(services: FakeServices, real: Services) -> Any:
    """Real votes on a verdict on disk, a fake judge."""
    services.voting, services.judging = real.voting, FakeJudging()  # type: ignore[attr-defined]
    return services


@pytest.fixture
def verdict(real: Services) -> str:
    return put_verdict(real)


@pytest.fixture
def view(whole: WholePage) -> VoteView:
    return whole.verdict.vote


def names_in(shown: Any) -> list[str]:
    return [side for side in SIDES if side in str(shown)]


def test_no_name_is_on_the_page_before_it_is_asked_for(polled: Any, call: Call, view: VoteView, verdict: str) -> None:
    shown = call(vote.show, view, verdict=verdict)
    seen: list[Any] = [shown, call(vote.closed, view)]
    assert set(shown) == set(view.shown)
    for choice in ("left", "right", "tie", "skip", "left"):
        shown = call(vote.cast, view, picked=choice, number=shown[view.number], verdict=verdict)
        seen.append(shown)
    seen.append(call(vote.undo, view, verdict=verdict))
    seen += [call(vote.show, view, verdict=wrong) for wrong in ("", "../x")]
    values = [list(one.values()) for one in seen]
    assert names_in(values) == []
    assert "<img" not in str(values)
    ballot = seen[0][view.ballot]["value"]
    assert "question" in ballot
    assert "&lt;img" in ballot
    assert [one.owner for one in polled.voting.files.read(verdict)] == ["local"] * 4


def test_reveal_says_who_wrote_what_and_takes_the_ballot_away(
    polled: Any, call: Call, view: VoteView, verdict: str
) -> None:
    for n in range(6):
        ballot = polled.voting.next(verdict)
        left, right = ballot.left.endswith("END"), ballot.right.endswith("END")
        picked = "tie" if left == right else "left" if left else "right"
        shown = call(vote.cast, view, picked=picked, number=n, verdict=verdict)
    assert shown[view.reveal]["visible"] is True
    found = call(vote.reveal, view, verdict=verdict)
    assert found[view.number] == -1
    assert found[view.ballot]["visible"] is False
    told = found[view.revealed]["value"]
    assert names_in(told) == list(SIDES)
    assert "s votes: 6</h4>" in told
    assert "100 % of 6 votes (61 to 100" in told
    again = call(vote.show, view, verdict=verdict)
    assert names_in(list(again.values())) == [], "who goes on voting does so blindly"
    assert "6 votes so far, 11 comparisons left." in again[view.count]["value"]


def test_everything_asked_is_said(polled: Any, call: Call, view: VoteView, verdict: str) -> None:
    for n in range(17):
        shown = call(vote.cast, view, picked="tie", number=n, verdict=verdict)
    assert "asked everything" in shown[view.count]["value"]
    assert [shown[one]["visible"] for one in (view.votes, view.undo, view.reveal)] == [False, True, True]


def test_what_cannot_be_done_is_said(polled: Any, call: Call, view: VoteView, verdict: str) -> None:
    assert "no verdict to vote on yet" in call(vote.show, view, verdict="")[view.error]["value"]
    with pytest.raises(InputError, match="no vote yet"):
        call(vote.reveal, view, verdict=verdict)
    with pytest.raises(InputError, match="is no vote"):
        call(vote.cast, view, picked=EVIL, number=0, verdict=verdict)
    polled.voting = build_services(Settings(home=polled.settings.home, shared=True)).voting
    assert "There is no verdict" in vote.show(polled, STRANGER, view, verdict=verdict)[view.error]["value"]
    for handler in (vote.undo, vote.reveal):
        with pytest.raises(InputError, match="There is no verdict"):
            handler(polled, STRANGER, view, verdict=verdict)


def test_a_judge_is_chosen_watched_and_stopped(polled: Any, call: Call, view: VoteView, verdict: str) -> None:
    assert call(vote.opened, view, number=-1)[view.judge]["value"] == "base"
    assert view.ballot not in call(vote.opened, view, number=0), "an open ballot stays"
    call(vote.let, view, verdict=verdict, judge="mine")
    assert polled.judging.started == [(verdict, "mine", "local")]
    with pytest.raises(InputError):
        call(vote.let, view, verdict=verdict, judge="http://evil")

    def watched(**changes: Any) -> tuple[str, list[bool]]:
        polled.judging.view = JudgingView(verdict, f"mine {EVIL}", 3, 9, **changes)
        drawn = call(vote.judging, view, verdict=verdict)
        assert "<img" not in drawn[view.judging]["value"]
        visible = [drawn[one]["visible"] for one in (view.let, view.stop)]
        return drawn[view.judging]["value"], [*visible, drawn[view.timer]["active"]]

    said, buttons = watched(live=True)
    assert "3 of 9 comparisons" in said
    assert buttons == [False, True, True]
    said, buttons = watched(unread=2, error=f"It stopped {EVIL}.")
    assert "2 answers named neither reply" in said
    assert buttons == [True, False, False]
    call(vote.stop, view, verdict=verdict)
    assert polled.judging.stopped == [verdict]
    polled.bases.now = BaseState("preparing", "Preparing the base", "x")
    with pytest.raises(BaseUnavailableError, match="not ready"):
        call(vote.let, view, verdict=verdict, judge="mine")
