"""The library: what is listed and found, published, imported, exported, renamed and removed."""

import json
import zipfile

import pytest

from playground.errors import InputError, NotFoundError
from playground.library.adapters import ID, RESERVATION_S
from playground.library.archive import KEPT, pack

from .conftest import a_run, adapter, base_shapes, changed, lora_config, lora_tensors, refused

WEIGHTS = "adapter_model.safetensors"


def put(library, name="Hospital reports", **run):
    """Publish an adapter, as the training worker does."""
    folder = adapter(library.staging(), run=a_run(name=name, **run))
    return library.publish(folder, library.reserve_id(name))


def names(folder):
    return {path.name for path in folder.iterdir()}


def record_of(card):
    return json.loads((card.path / "run.json").read_text())


IDS = {"Hospital reports": "hospital_reports", "  Größe & Ärger!  ": "groe_arger", "two-part name": "two-part_name"}
IDS |= {"../../etc/passwd": "etc_passwd", "रिपोर्ट": "adapter", "": "adapter", "-_-": "adapter", "x" * 200: "x" * 56}
IDS |= {"base": "base-2", ".staging": "staging"}


def test_ids_are_made_from_names_and_unique_among_own_shipped_and_reserved(library, tmp_path, now):
    for name, id in IDS.items():
        assert library.reserve_id(name) == id
        assert ID.fullmatch(id)
        library.release_id(id)
    adapter(tmp_path / "shipped" / "reports")
    put(library, "reports")
    assert [library.reserve_id(name) for name in ("Reports", "reports")] == ["reports-3", "reports-4"]
    library.release_id("reports-3")
    assert library.reserve_id("reports") == "reports-3"
    now[0] += RESERVATION_S + 1
    assert library.reserve_id("reports") == "reports-3"


def test_publish_moves_a_folder_into_place_and_records_its_hash(library, own):
    folder = adapter(library.staging(), run=a_run())
    card = library.publish(folder, library.reserve_id("Hospital reports"))
    assert card == library.get("hospital_reports")
    assert (card.path, folder.exists()) == (own / "hospital_reports", False)
    assert record_of(card)["sha256"] == card.sha256
    assert "base_model" in (card.path / "README.md").read_text()
    assert names(card.path) == set(KEPT)
    (other := adapter(library.staging(), run=a_run()) / "README.md").write_text("mine")
    assert (library.publish(other.parent, "a").path / "README.md").read_text() == "mine", "a card that is there stays"


def test_publish_never_overwrites_and_takes_ids_and_whole_staging_folders_only(library, tmp_path):
    adapter(tmp_path / "shipped" / "s")
    put(library, "a")
    folder = adapter(library.staging(), run=a_run(name="other"))
    for id in ("a", "s", "base"):
        refused(f"an adapter {id} already", library.publish, folder, id, error=InputError)
    for id in ("../x", "a/b", "", ".x", "A", "x" * 65, "..", "a\n"):
        refused("not an id", library.publish, folder, id, error=InputError)
    assert folder.exists()
    assert library.get("a").name == "a"
    (link := library.staging() / "link").symlink_to(tmp_path)
    for other in (adapter(tmp_path / "elsewhere"), link):
        refused("not a staging folder", library.publish, other, "b", error=InputError)
    (folder / "training_args.bin").touch()
    refused(r"training_args\.bin", library.publish, folder, "b")
    (folder / "training_args.bin").unlink()
    (folder / WEIGHTS).unlink()
    refused("lacks adapter_model", library.publish, folder, "b")
    assert [card.id for card in library.list()] == ["s", "a"]


def test_the_list_has_the_shipped_ones_as_made_then_the_newest(library, own, tmp_path):
    assert library.list() == library.damaged() == []
    assert not own.exists()
    refused("none yet", library.get, "x", error=NotFoundError)
    adapter(tmp_path / "shipped" / "demo", run=a_run(created_s=9000.0))
    adapter(tmp_path / "shipped" / "demo2", run=a_run(created_s=9500.0))
    for name, created in (("old", 1.0), ("new", 3.0), ("mid", 2.0)):
        put(library, name, created_s=created)
    listed = [(card.id, card.shipped) for card in library.list()]
    assert listed == [("demo", True), ("demo2", True), ("new", False), ("mid", False), ("old", False)]
    adapter(tmp_path / "shipped" / "old", run=a_run(name="theirs"))  # by a later version: an id keeps its meaning
    assert (library.get("old").name, len(library.list())) == ("old", 5)


def test_damaged_folders_are_left_out_and_told(library, own):
    card = put(library, "sound")
    (own / "empty").mkdir()
    adapter(own / "Not An Id")
    (own / "linked").symlink_to(own / "sound")
    (adapter(own / "cut") / WEIGHTS).write_bytes(b"short")
    (own / ".hidden").mkdir()
    (own / "a file").touch()
    assert [card.id for card in library.list()] == ["sound"]
    told = dict(library.damaged())
    assert set(told) == {"empty", "Not An Id", "linked", "cut"}
    assert "link" in told["linked"]
    refused("The adapter cut is damaged", library.get, "cut")
    for shared in (library.get, library.remove):  # of nobody known, so not told of
        refused("no adapter", shared, "cut", "ann", shared=True, error=NotFoundError)
    library.remove("cut")
    assert "cut" not in dict(library.damaged())
    changed(card.path / "run.json", sha256="1" * 64)
    assert library.list()[0].sha256 == "1" * 64, "listing does not hash what is recorded"


def test_get_says_what_there_is_and_a_linked_folder_leads_nowhere(library, own, tmp_path):
    put(library, "one")
    put(library, "two")
    assert "There is: one, two" in refused("no adapter 'three'", library.get, "three", error=NotFoundError)
    (own / "linked").symlink_to(adapter(tmp_path / "outside"))
    for id in ("../one", "", "one/..", ".staging", "/etc", "linked"):
        refused("no adapter", library.get, id, error=NotFoundError)
        refused("no adapter", library.remove, id, error=NotFoundError)
    assert (tmp_path / "outside").exists()


def test_a_card_is_read_again_when_a_file_of_its_folder_has_changed(library):
    card = put(library)
    assert library.get(card.id) is library.get(card.id), "and only then"
    changed(card.path / "run.json", name="Another")
    changed(card.path / "adapter_config.json", r=77)
    found = library.get(card.id)
    assert (found.name, found.rank) == ("Another", 77)
    weights = card.path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    refused("is damaged", library.get, card.id)
    assert [name for name, _ in library.damaged()] == [card.id]


def test_where_the_app_is_shared_each_sees_the_shipped_and_their_own(library, tmp_path):
    adapter(tmp_path / "shipped" / "demo")
    put(library, "mine", owner="ann")
    put(library, "yours", owner="bob")
    assert {c.id for c in library.list("ann", shared=True)} == {"demo", "mine"}
    assert {c.id for c in library.list("ann", shared=False)} == {"demo", "mine", "yours"}
    assert library.get("demo", "ann", shared=True).shipped
    out = tmp_path / "out"
    acts = ((library.get,), (library.remove,), (library.rename, "x"), (library.export, out), (library.export_zip, out))
    for act, *more in acts:
        said = refused("There is: demo, mine", act, "yours", *more, owner="ann", shared=True, error=NotFoundError)
        assert "bob" not in said
    assert library.get("yours").name == "yours"


def test_remove_also_where_the_own_root_is_reached_through_a_link(library, own, tmp_path):
    (tmp_path / "disk").mkdir()
    own.parent.symlink_to(tmp_path / "disk")
    assert put(library, "a") == library.get("a")
    library.remove("a")
    assert library.list() == list((own / ".staging").iterdir()) == []
    refused("no adapter", library.remove, "a", error=NotFoundError)
    assert library.reserve_id("a") == "a"


def test_rename_changes_the_name_only_and_shipped_adapters_stay_as_they_are(library, tmp_path):
    before = put(library)
    after = library.rename("hospital_reports", "  Ward 7\n reports ")
    assert (after.id, after.name, after.sha256) == (before.id, "Ward 7 reports", before.sha256)
    assert library.get("hospital_reports") == after
    for name in ("", " \n ", "x" * 101):
        refused("1 to 100", library.rename, "hospital_reports", name, error=InputError)
    folder = adapter(tmp_path / "shipped" / "demo")
    before = names(folder)
    for act, *more in ((library.remove,), (library.rename, "x")):
        refused("came with the app", act, "demo", *more, error=InputError)
    assert names(folder) == before
    assert (library.export("demo", tmp_path / "out") / WEIGHTS).exists()


def left(own):
    """Everything in the library's folder but empty working folders."""
    return [p.relative_to(own).as_posix() for p in own.rglob("*") if p.name not in (".staging", ".reserved")]


@pytest.mark.parametrize("as_zip", [False, True])
def test_import_copies_the_known_files_and_nothing_else(library, own, tmp_path, as_zip):
    folder = adapter(tmp_path / "My Adapter", run=a_run())
    (folder / "README.md").write_text("hello")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "train.py").touch()
    for name in ("adapter_config.json", "run.json"):  # with a byte order mark
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    source = pack(folder, tmp_path / "a.zip") if as_zip else folder
    card = library.import_path(source, base_shapes(), owner="ann")
    assert names(card.path) == set(KEPT)
    assert card.id.startswith("hospital_reports-"), "a visitor's, so that nobody learns of another's by its name"
    assert (card.name, card.owner, card.created_s, card.shipped) == ("Hospital reports", "ann", 1000.0, False)
    assert (card, card.notes) == (library.get(card.id), ("left where it was: tokenizer.json, train.py",))
    assert (card.path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert all(p.startswith(card.id) for p in left(own))
    assert folder.exists()


def test_import_without_a_record_takes_the_name_of_the_folder_or_zip(library, tmp_path):
    folder = adapter(tmp_path / "Ward Seven")
    card = library.import_path(folder, None)
    assert (card.id, card.name, card.method, card.created_s) == ("ward_seven", "Ward Seven", "lora", 5000.0)
    assert card.base == "somebody/small-base"
    packed = pack(folder, tmp_path / "Zipped one.zip")
    assert library.import_path(packed, None).name == "Zipped one"
    assert library.import_path(packed.rename(tmp_path / "upload"), None).id == "upload"
    assert library.import_path(folder, None).id == "ward_seven-2"


def test_only_known_keys_and_plain_values_of_a_record_are_kept(library, tmp_path):
    changes = {"owner": "bob", "sha256": "0" * 64, "secret": {"token": "x"}, "method": "bottleneck", "rank": 64}
    changes |= {"created_s": 9e18, "steps": [1], "data": "a\nb", "loss": {"first": 1.0, "evil": "x"}}
    changes |= {"row_hashes": ["ab" * 8, 3, "../x"], "prompt_hashes": "x", "sketches": ["cd" * 32, "<b>"]}
    run = a_run(**changes, rows_known=False)
    card = library.import_path(adapter(tmp_path / "a", run=run), None, owner="ann")
    kept = record_of(card)
    assert not {"secret", "steps"} & set(kept)
    assert (kept["owner"], kept["data"], kept["loss"], kept["row_hashes"]) == ("ann", "a b", {"first": 1.0}, ["ab" * 8])
    assert (kept["sketches"], kept["rows_known"], "prompt_hashes" in kept) == (["cd" * 32], False, False)
    assert (kept["method"], kept["rank"], kept["created_s"]) == ("lora", 4, 5000.0)
    assert kept["sha256"] == card.sha256 != "0" * 64
    qlora = adapter(tmp_path / "b", run=a_run(method="qlora"))
    assert library.import_path(qlora, None).method == "qlora", "believed: its file is a lora"


def linked_weights(folder):
    (folder / WEIGHTS).rename(folder.parent / "w")
    (folder / WEIGHTS).symlink_to(folder.parent / "w")


PICKLE = r"adapter_model\.bin is a pickle that can run code.*safe_serialization=True|is missing"
PISSA = json.dumps(lora_config(init_lora_weights="pissa"))
SPOILED = {
    PICKLE: lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"),
    "init_lora_weights": lambda folder: (folder / "adapter_config.json").write_text(PISSA),
    "another base": lambda folder: adapter(folder, tensors=lora_tensors(width=16)),
    "damaged": lambda folder: (folder / WEIGHTS).write_bytes(b"x"),
    r"adapter_model\.safetensors is missing": lambda folder: (folder / WEIGHTS).unlink(),
    r"run\.json": lambda folder: (folder / "run.json").write_text("["),
    r"README\.md has": lambda folder: (folder / "README.md").write_bytes(b" " * (5 * 1024 * 1024)),
    "a link|is missing": linked_weights,
}


@pytest.mark.parametrize("why", SPOILED)
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_failing_import_leaves_nothing_behind(library, own, tmp_path, why, as_zip):
    folder = adapter(tmp_path / "a", run=a_run())
    SPOILED[why](folder)
    refused(why, library.import_path, pack(folder, tmp_path / "a.zip") if as_zip else folder, base_shapes())
    assert (left(own), library.reserve_id("Hospital reports")) == ([], "hospital_reports")


def test_what_cannot_be_imported_at_all(library, own, tmp_path):
    adapter(tmp_path / "a")
    (tmp_path / "x.bin").touch()
    (tmp_path / "x.tar").write_text("no zip")
    wrong = {f"a/{WEIGHTS}": "single file", "none": "does not exist", "x.bin": "a pickle that can run code"}
    for path, why in (wrong | {"x.tar": "not a zip"}).items():
        refused(why, library.import_path, tmp_path / path, None)
    assert left(own) == []


def test_export_takes_an_empty_folder_and_refuses_any_other_and_is_imported_again(library, tmp_path, own):
    first = library.import_path(adapter(tmp_path / "a", run=a_run()), None, owner="ann")
    out = library.export(first.id, tmp_path / "new" / "out")
    assert (out, names(tmp_path / "new")) == (tmp_path / "new" / "out", {"out"})
    assert "owner" not in json.loads((out / "run.json").read_text())
    packed = library.export_zip(first.id, tmp_path / "zips")
    assert packed == tmp_path / "zips" / f"{first.id}.zip"
    with zipfile.ZipFile(packed) as archive:
        assert f"{first.id}/{WEIGHTS}" in archive.namelist()
        assert b'"owner"' not in archive.read(f"{first.id}/run.json")
    refused("exists already", library.export_zip, first.id, tmp_path / "zips")
    for source in (out, packed):
        again = library.import_path(source, base_shapes(), owner="bob")
        assert (again.sha256, again.name, again.created_s) == (first.sha256, first.name, first.created_s)
    card = library.import_path(adapter(tmp_path / "a"), None)
    (tmp_path / "out").mkdir()
    (tmp_path / "file").touch()
    library.export(card.id, tmp_path / "out")
    for target in (tmp_path / "out", tmp_path / "file"):
        refused("not an empty folder", library.export, card.id, target, error=InputError)
    for inside in (own / "x", own, tmp_path / "shipped" / "x"):
        refused("inside the library", library.export, card.id, inside, error=InputError)
    for act in (library.export, library.export_zip):
        refused("cannot be written", act, card.id, tmp_path / "file" / "deeper", error=InputError)
