"""The Storage panel with a service that remembers: nothing goes without Yes, and what comes back is said in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from playground.errors import BusyError, NotFoundError
from playground.ui import sidebar
from playground.ui.sidebar import StorageView
from playground.ui.wiring import Visitor
from playground.workspace.storage import Freed, Item
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


@pytest.fixture(scope="module")
def view() -> StorageView:
    with gr.Blocks():
        return StorageView(SimpleNamespace(settings=SimpleNamespace(shared=False)))  # type: ignore[arg-type]


def test_the_list_says_what_there_is_and_escapes_names(services: Any, me: Visitor, view: StorageView) -> None:
    drawn = sidebar.show_storage(services, me, view)
    assert drawn[view.fold]["label"] == "Storage: 547 MB"
    shown = drawn[view.listing]
    for said in ("71.0 GB of the disk are free.", "&lt;img", 'data-id="run:r1"', "in use", 'data-id="checkpoints:"'):
        assert said in shown
    assert EVIL not in shown
    assert 'data-id="base:b"' not in shown, "what is in use has no button"
    services.storage.there = []
    assert sidebar.show_storage(services, me, view)[view.fold]["label"] == "Storage: empty"


def test_first_the_question_then_the_deed(services: Any, me: Visitor, view: StorageView) -> None:
    asked = sidebar.ask(services, me, view, picked="upload:local/u")
    assert (asked[view.asked], asked[view.question]["visible"]) == ("upload:local/u", True)
    assert asked[view.yes] == "Yes, remove"
    assert "Remove “rows.csv”, 700 B? Runs keep the copy they train on." in asked[view.words]
    assert len(services.storage.there) == 4
    done = sidebar.remove(services, me, view, asked="upload:local/u")
    assert (done[view.asked], done[view.question]["visible"]) == ("", False)
    assert done[view.fold]["label"] == "Storage: 547 MB"
    assert "Removed: 1 upload, 700 B." in done[view.message]["value"]
    assert "There is no upload" in sidebar.remove(services, me, view, asked="upload:local/u")[view.message]["value"]


def test_a_kind_at_once_and_what_stays(services: Any, me: Visitor, view: StorageView) -> None:
    asked = sidebar.ask(services, me, view, picked="checkpoints:")
    assert "Free checkpoints of ended runs (1 checkpoint folder, 5.0 MB)?" in asked[view.words]
    said = sidebar.remove(services, me, view, asked="checkpoints:")[view.message]["value"]
    assert "Removed: 1 upload" in said
    assert "mine stays: it has not ended." in said


def test_everything_says_what_is_still_stopping(services: Any, me: Visitor, view: StorageView) -> None:
    said = sidebar.remove(services, me, view, asked=sidebar.EVERYTHING)[view.message]["value"]
    assert "Removed: 1 run and 1 upload" in said
    assert "1 run is still stopping and goes as soon as it has." in said
    assert "mine" not in said


@pytest.mark.parametrize("wanted", ["", "nonsense", "upload:../../etc", "base:x", ":", "run:r1:x"])
def test_what_the_page_sends_is_not_trusted(services: Any, me: Visitor, view: StorageView, wanted: str) -> None:
    with pytest.raises(NotFoundError, match="There is no"):
        sidebar.ask(services, me, view, picked=wanted)
    assert len(services.storage.there) == 4
