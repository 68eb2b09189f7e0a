from __future__ import annotations

import stat
import struct
import zipfile

import pytest

from playground.errors import AdapterError
from playground.library.archive import pack, unpack

from .conftest import adapter


def zipped(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


SOUND = [("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"xx")]


def test_pack_and_unpack_give_the_same_files(tmp_path):
    folder = adapter(tmp_path / "mine")
    (folder / ".hidden").touch()
    packed = pack(folder, tmp_path / "mine.zip")
    out = tmp_path / "out"
    assert unpack(packed, out) == []
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".hidden"
    }
    assert pack(folder, tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    with pytest.raises(AdapterError, match="exists already"):
        pack(folder, packed)


MAC = [("a/.DS_Store", b"x"), ("__MACOSX/a/._adapter_config.json", b"x")]


@pytest.mark.parametrize(("prefix", "more"), [("", []), ("my adapter/", [("my adapter/", b"")]), ("a/", MAC)])
def test_files_at_the_top_or_in_one_folder_without_what_a_mac_adds(tmp_path, prefix, more):
    out = tmp_path / "out"
    assert unpack(zipped(tmp_path / "a.zip", [*more, *((prefix + name, data) for name, data in SOUND)]), out) == []
    assert {p.name for p in out.iterdir()} == {name for name, _ in SOUND}


LEADING_OUT = ["../evil.json", "a/../../evil.json", "/etc/evil.json", "C:/evil.json", "..\\evil.json", "a//b.json", "/"]


@pytest.mark.parametrize("name", [*LEADING_OUT, "\\\\server\\share\\evil.json"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    bad = zipped(tmp_path / "a.zip", [*SOUND, (name, b"x")])
    with pytest.raises(AdapterError, match="path that could lead elsewhere"):
        unpack(bad, tmp_path / "in" / "out")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "a.pkl", "x/modeling.py", "notes.txt", "eval 10:30|a.txt"])
def test_other_files_are_left_in_the_archive_and_named(tmp_path, name):
    left = unpack(zipped(tmp_path / "a.zip", [*SOUND, (name, b"x")]), tmp_path / "out")
    assert left == ["x/" if name.startswith("x/") else name]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {name for name, _ in SOUND}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_special_files(tmp_path, kind):
    link = zipfile.ZipInfo("run.json")
    link.external_attr = (kind | 0o777) << 16
    with pytest.raises(AdapterError, match="a link or a special file"):
        unpack(zipped(tmp_path / "a.zip", [*SOUND, (link, b"/etc/passwd")]), tmp_path / "out")


def test_a_link_beside_the_adapter_stays_in_the_archive_and_its_own_folder_may_be_called_anything(tmp_path):
    link = zipfile.ZipInfo("out 10:30/latest")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    packed = zipped(tmp_path / "a.zip", [*((f"out 10:30/{n}", d) for n, d in SOUND), (link, b"/etc")])
    assert unpack(packed, tmp_path / "out") == ["latest"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {name for name, _ in SOUND}


def test_too_many_files_and_too_long_a_table(tmp_path):
    with pytest.raises(AdapterError, match="lists 2100 files"):
        unpack(zipped(tmp_path / "a.zip", [(f"{i}.txt", b"") for i in range(2100)]), tmp_path / "out")
    long = zipped(tmp_path / "b.zip", [(f"{'n' * 190}/" * 20 + f"{i}.txt", b"") for i in range(300)])
    with pytest.raises(AdapterError, match="lists 300 files, or very long names"):
        unpack(long, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_seen_by_its_declared_size(tmp_path):
    bomb = zipped(tmp_path / "a.zip", [SOUND[0], ("adapter_model.safetensors", bytes(20 * 1024 * 1024))])
    with pytest.raises(AdapterError, match="would unpack from"):
        unpack(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lie_about_the_size_is_caught_and_nothing_is_left(tmp_path):
    lie = zipped(tmp_path / "a.zip", [*SOUND, ("run.json", b"{}" + b" " * 5000)])
    raw = bytearray(lie.read_bytes())
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 10)
    lie.write_bytes(raw)
    with pytest.raises(AdapterError, match="damaged"):
        unpack(lie, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_adapters_and_two_files_of_one_name(tmp_path):
    several = [(f"{folder}/{name}", data) for folder in ("one", "two") for name, data in SOUND]
    with pytest.raises(AdapterError, match="There are 2 adapters in it: one, two"):
        unpack(zipped(tmp_path / "a.zip", several), tmp_path / "out")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(tmp_path / "b.zip", [*SOUND, SOUND[0]])
    with pytest.raises(AdapterError, match="two files of one name"):
        unpack(twice, tmp_path / "out")


def test_locked_and_unusual_packing(tmp_path):
    locked = zipped(tmp_path / "a.zip", SOUND)
    raw = bytearray(locked.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(raw)
    with pytest.raises(AdapterError, match="password"):
        unpack(locked, tmp_path / "out")
    with pytest.raises(AdapterError, match="unusual"):
        unpack(zipped(tmp_path / "b.zip", SOUND, zipfile.ZIP_LZMA), tmp_path / "out")


def test_not_a_zip_an_empty_zip_a_cut_zip_and_a_64_bit_end(tmp_path):
    text = tmp_path / "a.zip"
    text.write_text("hello")
    with pytest.raises(AdapterError, match="not a zip"):
        unpack(text, tmp_path / "out")
    with pytest.raises(AdapterError, match="is empty"):
        unpack(zipped(tmp_path / "b.zip", []), tmp_path / "out")
    sound = zipped(tmp_path / "c.zip", SOUND).read_bytes()
    (tmp_path / "d.zip").write_bytes(sound[20:])
    with pytest.raises(AdapterError, match="damaged"):
        unpack(tmp_path / "d.zip", tmp_path / "out")
    (tmp_path / "e.zip").write_bytes(sound[:-22] + b"PK\x06\x07" + bytes(16) + sound[-22:])
    with pytest.raises(AdapterError, match="64-bit"):
        unpack(tmp_path / "e.zip", tmp_path / "out")
    with pytest.raises(AdapterError, match="not a file"):
        unpack(tmp_path / "none.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(AdapterError, match="there already"):
        unpack(zipped(tmp_path / "a.zip", SOUND), tmp_path / "out")
    assert (tmp_path / "out" / "mine").exists()
