"""Visits, with a clock in hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.errors import NotFoundError
from playground.workspace.visitors import OWNER, TABS_MAX, Sessions, Visit, new_token, owner_of


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_visit_is_written_once_a_minute_and_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    sessions = Sessions(tmp_path / "db.sqlite", clock)
    sessions.seen("anna")
    clock.now += 30
    sessions.seen("anna")
    assert sessions.visits()["anna"].seen_s == 1_000_000
    clock.now += 40
    sessions.seen("anna")
    assert Sessions(tmp_path / "db.sqlite", clock).visits() == {"anna": Visit("anna", 1_000_070)}
    sessions.forget("anna")
    assert sessions.visits() == {}


def test_leaving_outlives_later_visits(tmp_path: Path, clock: Clock) -> None:
    sessions = Sessions(tmp_path / "db.sqlite", clock)
    sessions.leave("anna")
    clock.now += 100
    sessions.seen("anna")
    assert sessions.visits()["anna"] == Visit("anna", 1_000_100, 1_000_000)


def test_a_tab_belongs_to_its_first(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "db.sqlite")
    sessions.claim("tab", "anna")
    sessions.claim("tab", "anna")
    with pytest.raises(NotFoundError, match="There is no such page"):
        sessions.claim("tab", "ben")
    for number in range(TABS_MAX):
        sessions.claim(f"tab {number}", "anna")
    sessions.claim("tab", "ben")  # the oldest are forgotten, so that the list does not grow for ever


def test_owners_are_safe_names_and_tell_nothing() -> None:
    token = new_token()
    owners = {
        owner_of(token, ""),
        owner_of("", "tab"),
        owner_of("", ""),
        owner_of("", ""),
        owner_of("../..", "tab"),
        owner_of("", "\ud800"),
    }
    assert len(owners) == 5, "a token that is none counts as no token"
    assert all(OWNER.fullmatch(owner) for owner in owners)
    assert owner_of(token, "one") == owner_of(token, "two")
    assert token not in owner_of(token, "")
