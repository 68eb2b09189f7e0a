from __future__ import annotations

import json
import os

import pytest

from playground.errors import AdapterError, InputError, NotFoundError
from playground.library.adapters import ID, RESERVATION_S, AdapterLibrary
from playground.library.archive import KEPT

from .conftest import a_run, adapter


@pytest.fixture
def now():
    """[seconds]: the library's clock."""
    return [5000.0]


@pytest.fixture
def library(tmp_path, now):
    return AdapterLibrary(tmp_path / "home" / "adapters", tmp_path / "shipped", lambda: now[0])


def put(library, name="Hospital reports", **run):
    """Publish an adapter, as the training worker does."""
    folder = adapter(library.staging(), run=a_run(name=name, **run))
    return library.publish(folder, library.reserve_id(name))


def own(tmp_path):
    return tmp_path / "home" / "adapters"


def test_nothing_there_yet(library, tmp_path):
    assert library.list() == []
    assert library.damaged() == []
    assert not own(tmp_path).exists()
    with pytest.raises(NotFoundError, match="none yet"):
        library.get("x")


IDS = {"Hospital reports": "hospital_reports", "  Größe & Ärger!  ": "groe_arger", "two-part name": "two-part_name"}
IDS |= {"../../etc/passwd": "etc_passwd", "रिपोर्ट": "adapter", "": "adapter", "-_-": "adapter", "x" * 200: "x" * 56}
IDS |= {"base": "base-2", ".staging": "staging"}


def test_ids_are_made_from_names(library):
    for name, id in IDS.items():
        made = library.reserve_id(name)
        assert made == id
        assert ID.fullmatch(made)
        library.release_id(made)


def test_ids_are_unique_among_own_shipped_and_reserved(library, tmp_path):
    adapter(tmp_path / "shipped" / "reports")
    put(library, "reports")
    assert library.reserve_id("Reports") == "reports-3"
    assert library.reserve_id("reports") == "reports-4"
    library.release_id("reports-3")
    assert library.reserve_id("reports") == "reports-3"


def test_a_reservation_runs_out(library, now):
    assert library.reserve_id("a") == "a"
    now[0] += RESERVATION_S + 1
    assert library.reserve_id("a") == "a"


def test_publish_moves_a_folder_into_place_and_records_its_hash(library, tmp_path):
    folder = adapter(library.staging(), run=a_run())
    card = library.publish(folder, library.reserve_id("Hospital reports"))
    assert card == library.get("hospital_reports")
    assert card.path == own(tmp_path) / "hospital_reports"
    assert not folder.exists()
    assert json.loads((card.path / "run.json").read_text())["sha256"] == card.sha256
    assert "base_model" in (card.path / "README.md").read_text()
    assert {p.name for p in card.path.iterdir()} == set(KEPT)
    (other := adapter(library.staging(), run=a_run()) / "README.md").write_text("mine")
    assert (library.publish(other.parent, "a").path / "README.md").read_text() == "mine", "a card that is there stays"


def test_publish_never_overwrites(library, tmp_path):
    adapter(tmp_path / "shipped" / "s")
    put(library, "a")
    for id in ("a", "s", "base"):
        folder = adapter(library.staging(), run=a_run(name="other"))
        with pytest.raises(InputError, match=f"an adapter {id} already"):
            library.publish(folder, id)
        assert folder.exists()
    assert library.get("a").name == "a"


def test_publish_takes_ids_and_staging_folders_only(library, tmp_path):
    folder = adapter(library.staging(), run=a_run())
    for id in ("../x", "a/b", "", ".x", "A", "x" * 65, "..", "a\n"):
        with pytest.raises(InputError, match="not an id"):
            library.publish(folder, id)
    with pytest.raises(InputError, match="not a staging folder"):
        library.publish(adapter(tmp_path / "elsewhere"), "a")
    link = library.staging() / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(InputError, match="not a staging folder"):
        library.publish(link, "a")


def test_publish_refuses_what_is_not_complete(library):
    folder = adapter(library.staging(), run=a_run())
    (folder / "training_args.bin").touch()
    with pytest.raises(AdapterError, match=r"training_args\.bin"):
        library.publish(folder, "a")
    (folder / "training_args.bin").unlink()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="lacks adapter_model"):
        library.publish(folder, "a")
    assert library.list() == []


def test_the_list_has_the_shipped_ones_as_made_then_the_newest(library, tmp_path):
    adapter(tmp_path / "shipped" / "demo", run=a_run(created_s=9000.0))
    adapter(tmp_path / "shipped" / "demo2", run=a_run(created_s=9500.0))
    for name, created in (("old", 1.0), ("new", 3.0), ("mid", 2.0)):
        put(library, name, created_s=created)
    listed = [(card.id, card.shipped) for card in library.list()]
    assert listed == [("demo", True), ("demo2", True), ("new", False), ("mid", False), ("old", False)]


def test_damaged_folders_are_left_out_and_told(library, tmp_path):
    put(library, "sound")
    root = own(tmp_path)
    (root / "empty").mkdir()
    adapter(root / "Not An Id")
    (root / "linked").symlink_to(root / "sound")
    (adapter(root / "cut") / "adapter_model.safetensors").write_bytes(b"short")
    (root / ".hidden").mkdir()
    (root / "a file").touch()
    assert [card.id for card in library.list()] == ["sound"]
    told = dict(library.damaged())
    assert set(told) == {"empty", "Not An Id", "linked", "cut"}
    assert "link" in told["linked"]
    with pytest.raises(AdapterError, match="The adapter cut is damaged"):
        library.get("cut")
    library.remove("cut")
    assert "cut" not in dict(library.damaged())


def test_listing_does_not_hash_what_is_recorded(library):
    card = put(library)
    run = json.loads((card.path / "run.json").read_text())
    (card.path / "run.json").write_text(json.dumps(run | {"sha256": "1" * 64}))
    assert library.list()[0].sha256 == "1" * 64


def test_get_says_what_there_is(library):
    put(library, "one")
    put(library, "two")
    with pytest.raises(NotFoundError, match="no adapter 'three'"):
        library.get("three")
    for id in ("../one", "", "one/..", ".staging", "/etc"):
        with pytest.raises(NotFoundError):
            library.get(id)


def test_where_the_app_is_shared_each_sees_the_shipped_and_their_own(library, tmp_path):
    adapter(tmp_path / "shipped" / "demo")
    put(library, "mine", owner="ann")
    put(library, "yours", owner="bob")
    assert {c.id for c in library.list("ann", shared=True)} == {"demo", "mine"}
    assert {c.id for c in library.list("ann", shared=False)} == {"demo", "mine", "yours"}
    assert library.get("demo", "ann", shared=True).shipped
    with pytest.raises(NotFoundError, match="There is: demo, mine") as caught:
        library.get("yours", "ann", shared=True)
    assert "bob" not in str(caught.value)
    for act in (
        lambda: library.remove("yours", "ann", shared=True),
        lambda: library.rename("yours", "x", "ann", shared=True),
        lambda: library.export("yours", tmp_path / "out", "ann", shared=True),
        lambda: library.export_zip("yours", tmp_path / "out", "ann", shared=True),
    ):
        with pytest.raises(NotFoundError):
            act()
    assert library.get("yours").name == "yours"


def test_a_damaged_adapter_of_nobody_known_is_not_told_of_where_the_app_is_shared(library, tmp_path):
    (own(tmp_path) / "broken").mkdir(parents=True)
    with pytest.raises(NotFoundError):
        library.get("broken", "ann", shared=True)
    with pytest.raises(NotFoundError):
        library.remove("broken", "ann", shared=True)


def test_an_own_adapter_keeps_its_id_when_a_later_version_ships_one_of_that_name(library, tmp_path):
    put(library, "demo")
    adapter(tmp_path / "shipped" / "demo", run=a_run(name="theirs"))
    assert library.get("demo").name == "demo"
    assert [card.name for card in library.list()] == ["demo"]


def test_rename_changes_the_name_only(library):
    before = put(library)
    after = library.rename("hospital_reports", "  Ward 7\n reports ")
    assert (after.id, after.name, after.sha256) == (before.id, "Ward 7 reports", before.sha256)
    assert library.get("hospital_reports") == after
    for name in ("", " \n ", "x" * 101):
        with pytest.raises(InputError, match="1 to 100"):
            library.rename("hospital_reports", name)


def test_remove(library, tmp_path):
    put(library, "a")
    library.remove("a")
    assert library.list() == []
    assert list((own(tmp_path) / ".staging").iterdir()) == []
    with pytest.raises(NotFoundError):
        library.remove("a")
    with pytest.raises(NotFoundError):
        library.remove("../a")
    assert library.reserve_id("a") == "a"


def test_shipped_adapters_stay_as_they_are(library, tmp_path):
    folder = adapter(tmp_path / "shipped" / "demo")
    before = {p.name for p in folder.iterdir()}
    with pytest.raises(InputError, match="came with the app"):
        library.remove("demo")
    with pytest.raises(InputError, match="came with the app"):
        library.rename("demo", "x")
    assert {p.name for p in folder.iterdir()} == before


def test_an_own_root_that_is_reached_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    library = AdapterLibrary(tmp_path / "home" / "adapters", tmp_path / "shipped")
    assert put(library, "a") == library.get("a")


def test_a_linked_adapter_folder_leads_nowhere(library, tmp_path):
    os.makedirs(own(tmp_path))
    (own(tmp_path) / "x").symlink_to(adapter(tmp_path / "outside"))
    with pytest.raises(NotFoundError):
        library.get("x")
    with pytest.raises(NotFoundError):
        library.remove("x")
    assert (tmp_path / "outside").exists()
