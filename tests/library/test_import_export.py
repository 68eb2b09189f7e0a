from __future__ import annotations

import json
import shutil
import zipfile

import pytest

from playground.errors import AdapterError, InputError
from playground.library.adapters import AdapterLibrary
from playground.library.archive import KEPT, pack

from .conftest import a_run, adapter, base_shapes, lora_config, lora_tensors


@pytest.fixture
def library(tmp_path):
    return AdapterLibrary(tmp_path / "home", tmp_path / "shipped", clock=lambda: 5000.0)


def left(tmp_path):
    """Everything in the home folder but empty working folders."""
    root = tmp_path / "home"
    return [p.relative_to(root).as_posix() for p in root.rglob("*") if p.name not in (".staging", ".reserved")]


@pytest.mark.parametrize("as_zip", [False, True])
def test_import_copies_the_known_files_and_nothing_else(library, tmp_path, as_zip):
    folder = adapter(tmp_path / "My Adapter", run=a_run())
    (folder / "README.md").write_text("hello")
    (folder / "tokenizer.json").write_text("{}")
    source = pack(folder, tmp_path / "a.zip") if as_zip else folder
    card = library.import_path(source, base_shapes(), owner="ann")
    assert {p.name for p in card.path.iterdir()} == set(KEPT)
    assert card.id.startswith("hospital_reports-"), "a visitor's, so that nobody learns of another's by its name"
    assert (card.name, card.owner, card.created_s, card.shipped) == ("Hospital reports", "ann", 1000.0, False)
    assert card == library.get(card.id)
    assert (card.path / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    assert left(tmp_path).count(card.id) == 1
    assert all(p.startswith(card.id) for p in left(tmp_path))
    assert folder.exists()


def test_import_without_a_record_takes_the_name_of_the_folder_or_zip(library, tmp_path):
    folder = adapter(tmp_path / "Ward Seven")
    card = library.import_path(folder, None)
    assert (card.id, card.name, card.method, card.created_s) == ("ward_seven", "Ward Seven", "lora", 5000.0)
    assert card.base == "somebody/small-base"
    assert library.import_path(pack(folder, tmp_path / "Zipped one.zip"), None).name == "Zipped one"
    assert library.import_path(folder, None).id == "ward_seven-2"


def test_only_known_keys_and_plain_values_of_a_record_are_kept(library, tmp_path):
    changes = {"owner": "bob", "sha256": "0" * 64, "secret": {"token": "x"}, "method": "bottleneck", "rank": 64}
    changes |= {"created_s": 9e18, "steps": [1], "data": "a\nb", "loss": {"first": 1.0, "evil": "x"}}
    run = a_run(**changes, row_hashes=["ab" * 8, 3, "../x"])
    card = library.import_path(adapter(tmp_path / "a", run=run), None, owner="ann")
    kept = json.loads((card.path / "run.json").read_text())
    assert not {"secret", "steps"} & set(kept)
    assert (kept["owner"], kept["data"], kept["loss"], kept["row_hashes"]) == ("ann", "a b", {"first": 1.0}, ["ab" * 8])
    assert (kept["method"], kept["rank"], kept["created_s"]) == ("lora", 4, 5000.0)
    assert kept["sha256"] == card.sha256 != "0" * 64


def test_qlora_is_believed_because_its_file_is_a_lora(library, tmp_path):
    assert library.import_path(adapter(tmp_path / "a", run=a_run(method="qlora")), None).method == "qlora"


def linked_weights(folder):
    (folder / "adapter_model.safetensors").rename(folder.parent / "w")
    (folder / "adapter_model.safetensors").symlink_to(folder.parent / "w")


PISSA = json.dumps(lora_config(init_lora_weights="pissa"))
SPOILED = {
    "only a pickle": lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
    "bad config": lambda folder: (folder / "adapter_config.json").write_text(PISSA),
    "other base": lambda folder: adapter(folder, tensors=lora_tensors(width=16)),
    "cut": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"),
    "no weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "bad record": lambda folder: (folder / "run.json").write_text("["),
    "huge README": lambda folder: (folder / "README.md").write_bytes(b" " * (5 * 1024 * 1024)),
    "linked weights": linked_weights,
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_failing_import_leaves_nothing_behind(library, tmp_path, spoil, as_zip):
    folder = adapter(tmp_path / "a", run=a_run())
    spoil(folder)
    with pytest.raises(AdapterError):
        library.import_path(pack(folder, tmp_path / "a.zip") if as_zip else folder, base_shapes())
    assert left(tmp_path) == []
    assert library.reserve_id("Hospital reports") == "hospital_reports"


def test_what_cannot_be_imported_at_all(library, tmp_path):
    folder = adapter(tmp_path / "a")
    (tmp_path / "x.bin").touch()
    (tmp_path / "x.tar").write_text("no zip")
    for path, why in (
        (folder / "adapter_model.safetensors", "single file"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "x.bin", "a pickle that can run code"),
        (tmp_path / "x.tar", "not a zip"),
    ):
        with pytest.raises(AdapterError, match=why):
            library.import_path(path, None)
    assert left(tmp_path) == []


def test_a_zip_that_is_not_called_zip(library, tmp_path):
    packed = pack(adapter(tmp_path / "a"), tmp_path / "a.zip")
    assert library.import_path(packed.rename(tmp_path / "upload"), None).id == "upload"


def test_export_and_import_again(library, tmp_path):
    first = library.import_path(adapter(tmp_path / "a", run=a_run()), None, owner="ann")
    out = library.export(first.id, tmp_path / "new" / "out")
    assert out == tmp_path / "new" / "out"
    assert "owner" not in json.loads((out / "run.json").read_text())
    again = library.import_path(out, base_shapes(), owner="bob")
    assert (again.sha256, again.name, again.created_s) == (first.sha256, first.name, first.created_s)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]


def test_export_takes_an_empty_folder_and_refuses_any_other(library, tmp_path):
    card = library.import_path(adapter(tmp_path / "a"), None)
    (tmp_path / "out").mkdir()
    library.export(card.id, tmp_path / "out")
    with pytest.raises(InputError, match="not an empty folder"):
        library.export(card.id, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        library.export(card.id, tmp_path / "file")
    for inside in (tmp_path / "home" / "x", tmp_path / "home", tmp_path / "shipped" / "x"):
        with pytest.raises(InputError, match="inside the library"):
            library.export(card.id, inside)


def test_a_place_that_cannot_be_written_is_told_in_words(library, tmp_path):
    card = library.import_path(adapter(tmp_path / "a"), None)
    (tmp_path / "file").touch()
    for act in (library.export, library.export_zip):
        with pytest.raises(InputError, match="cannot be written"):
            act(card.id, tmp_path / "file" / "deeper")


def test_export_zip(library, tmp_path):
    card = library.import_path(adapter(tmp_path / "a", run=a_run()), None)
    packed = library.export_zip(card.id, tmp_path / "out")
    assert packed == tmp_path / "out" / f"{card.id}.zip"
    with zipfile.ZipFile(packed) as archive:
        assert f"{card.id}/adapter_model.safetensors" in archive.namelist()
        assert b'"owner"' not in archive.read(f"{card.id}/run.json")
    with pytest.raises(AdapterError, match="exists already"):
        library.export_zip(card.id, tmp_path / "out")
    library.remove(card.id)
    assert library.import_path(packed, base_shapes()).sha256 == card.sha256


def test_a_shipped_adapter_can_be_exported(library, tmp_path):
    adapter(tmp_path / "shipped" / "demo", run=a_run())
    assert (library.export("demo", tmp_path / "out") / "adapter_model.safetensors").exists()


def test_import_of_an_adapter_that_vanished(library, tmp_path):
    folder = adapter(tmp_path / "a")
    shutil.rmtree(folder)
    with pytest.raises(AdapterError, match="does not exist"):
        library.import_path(folder, None)
