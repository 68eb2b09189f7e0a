"""The Storage panel with a service that remembers: nothing goes without Yes, and what comes back is said in words."""

from unittest.mock import create_autospec

import pytest

from playground.errors import BusyError, NotFoundError
from playground.models.catalogue import offers
from playground.storage import Freed, Item, StorageService
from playground.ui import sidebar
from tests.refused import refused
from tests.ui.conftest import says
from tests.ui.fakes import EVIL

ITEMS = [
    Item("base", "b", "smollm2-135m", 542_000_000, stays="it is in use"),
    Item("run", "r1", EVIL, 900),
    Item("checkpoints", "r1", f"Checkpoints of {EVIL}", 5_000_000),
    Item("upload", "local/u", "rows.csv", 700),
]
STAYS = (Item("run", "r2", "mine", 5, stays="it has not ended"),)
view = pytest.fixture(lambda whole: whole.storage)


def find(kind, id, owner):
    found = next((one for one in ITEMS if (one.kind, one.id) == (kind, id)), None)
    if found is None:
        raise NotFoundError(f"There is no {kind} {id!r} of yours.")
    return found


@pytest.fixture
def stored(services):
    made = create_autospec(StorageService, instance=True)
    made.items.return_value, made.free_bytes.return_value, made.find.side_effect = ITEMS, 71_000_000_000, find
    made.remove.return_value, made.remove_kind.return_value = Freed((ITEMS[3],)), Freed((ITEMS[3],), STAYS)
    made.remove_everything.return_value = Freed((ITEMS[1], ITEMS[3]), STAYS, stopping=1)
    services.storage = made
    return made


def test_first_the_question_then_the_deed_of_one_thing_or_a_kind_at_once(stored, call, view):
    asked = call(sidebar.ask, view, picked="upload:local/u")
    assert (asked[view.asked], asked[view.question]["visible"]) == ("upload:local/u", True)
    assert asked[view.yes] == "Yes, remove"
    says(asked[view.words], "Remove “rows.csv”, 700 B? Runs keep the copy they train on.")
    stored.remove.assert_not_called()
    done = call(sidebar.remove, view, asked="upload:local/u")
    stored.remove.assert_called_once_with("upload", "local/u", "local")
    assert (done[view.asked], done[view.question]["visible"]) == ("", False)
    assert done[view.fold]["label"] == "Storage: 547 MB"
    says(done[view.message], "Removed: 1 upload, 700 B.")
    stored.remove.side_effect = BusyError("smollm2-135m stays: it is in use.")
    says(call(sidebar.remove, view, asked="base:b")[view.message], "stays: it is in use")
    asked = call(sidebar.ask, view, picked="checkpoints:")
    says(asked[view.words], "Free checkpoints of ended runs (1 checkpoint folder, 5.0 MB)?")
    removed = call(sidebar.remove, view, asked="checkpoints:")[view.message]
    says(removed, "Removed: 1 upload", "mine stays: it has not ended.")
    removed = call(sidebar.remove, view, asked=sidebar.EVERYTHING)[view.message]
    says(removed, "Removed: 1 run and 1 upload", "1 run is still stopping and goes as soon as it has.")
    assert "mine" not in removed["value"]


def test_known_bases_are_listed_looked_at_and_a_download_is_stopped(services, call, whole):
    view, names = whole.device, [one.known.id for one in offers(8_000_000_000, cuda=False)]
    services.bases.offered = offers(8_000_000_000, cuda=False)
    shown = call(sidebar.known, view)[view.known]
    says(
        shown, "Fits best here", "qwen-research", "gated", "fetches 1.2 GB", "on this machine", "Needs 14.1 GB to chat"
    )
    assert [name for name in names if f'data-id="{name}"' in shown] == names[:9], "what does not fit has no button"
    looked = call(sidebar.look, view, picked="Qwen/Qwen3-0.6B")
    says(looked[view.found], "Qwen3-0.6B")
    assert looked[view.spec] == "Qwen/Qwen3-0.6B"
    assert call(sidebar.stop, view)[view.stop]["visible"] is False
    assert services.bases.stopped == 1


def test_the_list_says_what_there_is_and_what_the_page_sends_is_not_trusted(stored, call, view):
    drawn = call(sidebar.show_storage, view)
    assert drawn[view.fold]["label"] == "Storage: 547 MB"
    buttons = ('data-id="run:r1"', 'data-id="checkpoints:"')
    says(drawn[view.listing], "71.0 GB of the disk are free.", "&lt;img", "in use", *buttons)
    assert 'data-id="base:b"' not in drawn[view.listing], "what is in use has no button"
    stored.items.return_value = []
    assert call(sidebar.show_storage, view)[view.fold]["label"] == "Storage: empty"
    for wanted in ("", "nonsense", "upload:../../etc", "base:x", ":", "run:r1:x"):
        refused("There is no", call, sidebar.ask, view, picked=wanted, error=NotFoundError)
