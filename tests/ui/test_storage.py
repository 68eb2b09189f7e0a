"""The Storage panel with a service that remembers: nothing goes without Yes, and what comes back is said in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from playground.errors import BusyError, NotFoundError
from playground.services.storage import Freed, Item
from playground.ui import storage
from playground.ui.wiring import Visitor
from tests.ui.fakes import EVIL

ITEMS = [
    Item("base", "b", "smollm2-135m", 542_000_000, stays="it is in use"),
    Item("run", "r1", EVIL, 900),
    Item("checkpoints", "r1", f"Checkpoints of {EVIL}", 5_000_000),
    Item("upload", "local/u", "rows.csv", 700),
]


class FakeStorage:
    def __init__(self) -> None:
        self.there = list(ITEMS)
        self.asked: list[Any] = []

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
        return Freed((ITEMS[3],), (Item("run", "r2", "mine", 5, stays="it has not ended"),))

    def remove_everything(self, owner: str) -> Freed:
        return Freed((ITEMS[1], ITEMS[3]), (Item("run", "r2", "mine", 5, stays="it has not ended"),), stopping=1)


@pytest.fixture
def services() -> Any:
    return SimpleNamespace(storage=FakeStorage(), settings=SimpleNamespace(shared=False))


def test_the_list_says_what_there_is_and_escapes_names(services: Any, me: Visitor) -> None:
    fold, shown = storage.show(services, me)
    assert fold["label"] == "Storage: 547 MB"
    assert "71.0 GB of the disk are free." in shown
    assert EVIL not in shown
    assert "&lt;img" in shown
    assert 'data-id="run:r1"' in shown
    assert 'data-id="base:b"' not in shown, "what is in use has no button"
    assert "in use" in shown
    assert 'data-id="checkpoints:"' in shown
    services.storage.there = []
    assert storage.show(services, me)[0]["label"] == "Storage: empty"


def test_first_the_question_then_the_deed(services: Any, me: Visitor) -> None:
    asked, words, question, yes, _ = storage.ask(services, me, "upload:local/u")
    assert (asked, question["visible"], yes) == ("upload:local/u", True, "Yes, remove")
    assert "Remove “rows.csv”, 700 B? Runs keep the copy they train on." in words
    assert len(services.storage.there) == 4
    nothing, question, message, fold, _ = storage.remove(services, me, asked)
    assert (nothing, question["visible"], fold["label"]) == ("", False, "Storage: 547 MB")
    assert "Removed: 1 upload, 700 B." in message["value"]
    assert "There is no upload" in storage.remove(services, me, asked)[2]["value"]


def test_a_kind_at_once_and_what_stays(services: Any, me: Visitor) -> None:
    assert "Free checkpoints of ended runs (1 checkpoint folder, 5.0 MB)?" in storage.ask(services, me, "checkpoints:")[1]
    said = storage.remove(services, me, "checkpoints:")[2]["value"]
    assert "Removed: 1 upload" in said
    assert "mine stays: it has not ended." in said


def test_everything_says_what_is_still_stopping(services: Any, me: Visitor) -> None:
    said = storage.remove(services, me, storage.EVERYTHING)[2]["value"]
    assert "Removed: 1 run and 1 upload" in said
    assert "1 run is still stopping and goes as soon as it has." in said
    assert "mine" not in said


@pytest.mark.parametrize("wanted", ["", "nonsense", "upload:../../etc", "base:x", ":", "run:r1:x"])
def test_what_the_page_sends_is_not_trusted(services: Any, me: Visitor, wanted: str) -> None:
    storage.ask(services, me, wanted)
    if ":" in wanted and wanted != ":":
        assert "There is no" in storage.ask(services, me, wanted)[4]["value"]
    assert len(services.storage.there) == 4
