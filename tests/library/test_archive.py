"""Archives are judged by their table of contents, and only an adapter's known files leave them."""

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


def entry(name, kind):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def refused(path, why, tmp_path):
    with pytest.raises(AdapterError, match=why):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is left behind"


SOUND = [("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"xx")]
NAMES = {name for name, _ in SOUND}


def test_pack_and_unpack_give_the_same_files_and_overwrite_none(tmp_path):
    folder, out = adapter(tmp_path / "mine"), tmp_path / "out"
    (folder / ".hidden").touch()
    packed = pack(folder, tmp_path / "mine.zip")
    assert unpack(packed, out) == []
    there = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".hidden"}
    assert {p.name: p.read_bytes() for p in out.iterdir()} == there
    assert pack(folder, tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    with pytest.raises(AdapterError, match="exists already"):
        pack(folder, packed)
    (out / "mine").touch()
    with pytest.raises(AdapterError, match="there already"):
        unpack(packed, out)
    assert (out / "mine").exists()


MAC = [("a/.DS_Store", b"x"), ("__MACOSX/a/._adapter_config.json", b"x")]
LINK = (entry("out 10:30/latest", stat.S_IFLNK), b"/etc")
BESIDE = ["adapter_model.bin", "a.pkl", "x/modeling.py", "notes.txt", "eval 10:30|a.txt"]


@pytest.mark.parametrize(
    ("prefix", "more", "left"),
    [
        ("", [], []),
        ("my adapter/", [("my adapter/", b"")], []),
        ("a/", MAC, []),
        ("out 10:30/", [LINK], ["latest"]),
        ("content/out/", [(f"content/out/checkpoint-2/{n}.pt", b"") for n in range(300)], ["checkpoint-2/"]),
        *(("", [(name, b"x")], ["x/" if name.startswith("x/") else name]) for name in BESIDE),
    ],
)
def test_known_files_at_the_top_or_in_one_folder_and_the_rest_is_named(tmp_path, prefix, more, left):
    packed = zipped(tmp_path / "a.zip", [*more, *((prefix + name, data) for name, data in SOUND)])
    assert unpack(packed, tmp_path / "out") == left
    assert {p.name for p in (tmp_path / "out").iterdir()} == NAMES


LEADING_OUT = ["../evil.json", "a/../../evil.json", "/etc/evil.json", "C:/evil.json", "..\\evil.json", "a//b.json", "/"]


@pytest.mark.parametrize("name", [*LEADING_OUT, "\\\\server\\share\\evil.json"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    refused(zipped(tmp_path / "a.zip", [*SOUND, (name, b"x")]), "path that could lead elsewhere", tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_special_files(tmp_path, kind):
    packed = zipped(tmp_path / "a.zip", [*SOUND, (entry("run.json", kind), b"/etc/passwd")])
    refused(packed, "a link or a special file", tmp_path)


def test_too_many_files_and_too_long_a_table(tmp_path):
    refused(zipped(tmp_path / "a.zip", [(f"{i}.txt", b"") for i in range(2100)]), "lists 2100 files", tmp_path)
    long = [(f"{'n' * 190}/" * 20 + f"{i}.txt", b"") for i in range(300)]
    refused(zipped(tmp_path / "b.zip", long), "lists 300 files, or very long names", tmp_path)


def test_a_bomb_is_seen_by_its_declared_size_and_a_lie_about_it_is_caught(tmp_path):
    bomb = zipped(tmp_path / "a.zip", [SOUND[0], ("adapter_model.safetensors", bytes(20 * 1024 * 1024))])
    refused(bomb, "would unpack from", tmp_path)
    lie = zipped(tmp_path / "b.zip", [*SOUND, ("run.json", b"{}" + b" " * 5000)])
    raw = bytearray(lie.read_bytes())
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 10)
    lie.write_bytes(raw)
    refused(lie, "damaged", tmp_path)


def test_several_adapters_and_two_files_of_one_name(tmp_path):
    several = [(f"{folder}/{name}", data) for folder in ("one", "two") for name, data in SOUND]
    refused(zipped(tmp_path / "a.zip", several), "There are 2 adapters in it: one, two", tmp_path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(tmp_path / "b.zip", [*SOUND, SOUND[0]])
    refused(twice, "two files of one name", tmp_path)


def test_locked_and_unusual_packing(tmp_path):
    locked = zipped(tmp_path / "a.zip", SOUND)
    raw = bytearray(locked.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(raw)
    refused(locked, "password", tmp_path)
    refused(zipped(tmp_path / "b.zip", SOUND, zipfile.ZIP_LZMA), "unusual", tmp_path)


def test_not_a_zip_an_empty_zip_a_cut_zip_and_a_64_bit_end(tmp_path):
    sound = zipped(tmp_path / "c.zip", SOUND).read_bytes()
    (tmp_path / "a.zip").write_text("hello")
    (tmp_path / "d.zip").write_bytes(sound[20:])
    (tmp_path / "e.zip").write_bytes(sound[:-22] + b"PK\x06\x07" + bytes(16) + sound[-22:])
    zipped(tmp_path / "b.zip", [])
    for name, why in (("a", "not a zip"), ("b", "is empty"), ("d", "damaged"), ("e", "64-bit"), ("none", "not a file")):
        refused(tmp_path / f"{name}.zip", why, tmp_path)
