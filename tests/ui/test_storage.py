"""The Storage panel with a service that remembers: nothing goes without Yes, and what comes back is said in words."""

from __future__ import annotations

from typing import Any

import pytest

from playground.errors import BusyError, NotFoundError
from playground.storage import Freed, Item
from playground.ui import sidebar
from playground.ui.page import WholePage
from playground.ui.sidebar import StorageView
from tests.ui.conftest import Call
from tests.ui.fakes import EVIL

ITEMS = [
    Item("base", "b", "smollm2-135m", 542_000_000, stays="it is in use"),
    Item("run", "r1", EVIL, 900),
    Item("checkpoints", "r1", f"Checkpoints of {EVIL}", 5_000_000),
    Item("upload", "local/u", "rows.csv", 700),
]
STAYS = (Item("run", "r2", "mine", 5, stays="it has not ended"),)


class FakeStorage:
    def __init__(self) -> None:
        self.there = list(ITEMS)

    def items(self, owner: str) -> list[Item]:
        return self.there

    def free_bytes(self) -> int:
        return 71_000_000_000

    def find(self, kind: str, id: str, owner: str) -> Item:
        for item in self.there:
            if (item.kind, item.id) == (kind, id):
                return item
        raise NotFoundError(f"There is no {kind} {id!r} of yours.")

    def remove(self, kind: str, id: str, owner: str) -> Freed:
        item = self.find(kind, id, owner)
        if item.stays:
            raise BusyError(f"{item.name} stays: {item.stays}.")
        self.there.remove(item)
        return Freed((item,))

    def remove_kind(self, kind: str, owner: str) -> Freed:
        return Freed((ITEMS[3],), STAYS)

    def remove_everything(self, owner: str) -> Freed:
        return Freed((ITEMS[1], ITEMS[3]), STAYS, stopping=1)


@pytest.fixture
def stored(services: Any) -> FakeStorage:
    services.storage = FakeStorage()
    return services.storage


@pytest.fixture
def view(whole: WholePage) -> StorageView:
    return whole.storage


def test_the_list_says_what_there_is_and_escapes_names(stored: FakeStorage, call: Call, view: StorageView) -> None:
    drawn = call(sidebar.show_storage, view)
    assert drawn[view.fold]["label"] == "Storage: 547 MB"
    shown = drawn[view.listing]
    for part in ("71.0 GB of the disk are free.", "&lt;img", 'data-id="run:r1"', "in use", 'data-id="checkpoints:"'):
        assert part in shown
    assert EVIL not in shown
    assert 'data-id="base:b"' not in shown, "what is in use has no button"
    stored.there = []
    assert call(sidebar.show_storage, view)[view.fold]["label"] == "Storage: empty"


def test_first_the_question_then_the_deed(stored: FakeStorage, call: Call, view: StorageView) -> None:
    asked = call(sidebar.ask, view, picked="upload:local/u")
    assert (asked[view.asked], asked[view.question]["visible"]) == ("upload:local/u", True)
    assert asked[view.yes] == "Yes, remove"
    assert "Remove “rows.csv”, 700 B? Runs keep the copy they train on." in asked[view.words]
    assert len(stored.there) == 4
    done = call(sidebar.remove, view, asked="upload:local/u")
    assert (done[view.asked], done[view.question]["visible"]) == ("", False)
    assert done[view.fold]["label"] == "Storage: 547 MB"
    assert "Removed: 1 upload, 700 B." in done[view.message]["value"]
    assert "There is no upload" in call(sidebar.remove, view, asked="upload:local/u")[view.message]["value"]


def test_a_kind_at_once_and_what_stays(stored: FakeStorage, call: Call, view: StorageView) -> None:
    asked = call(sidebar.ask, view, picked="checkpoints:")
    assert "Free checkpoints of ended runs (1 checkpoint folder, 5.0 MB)?" in asked[view.words]
    removed = call(sidebar.remove, view, asked="checkpoints:")[view.message]["value"]
    assert "Removed: 1 upload" in removed
    assert "mine stays: it has not ended." in removed
    removed = call(sidebar.remove, view, asked=sidebar.EVERYTHING)[view.message]["value"]
    assert "Removed: 1 run and 1 upload" in removed
    assert "1 run is still stopping and goes as soon as it has." in removed
    assert "mine" not in removed


@pytest.mark.parametrize("wanted", ["", "nonsense", "upload:../../etc", "base:x", ":", "run:r1:x"])
def test_what_the_page_sends_is_not_trusted(stored: FakeStorage, call: Call, view: StorageView, wanted: str) -> None:
    with pytest.raises(NotFoundError, match="There is no"):
        call(sidebar.ask, view, picked=wanted)
    assert len(stored.there) == 4
