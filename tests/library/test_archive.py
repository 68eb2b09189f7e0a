"""Archives are judged by their table of contents, and only an adapter's known files leave them."""

import stat
import struct
import zipfile

import pytest

from playground.library.archive import pack, unpack

from .conftest import adapter, refused


def zipped(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def entry(name, kind):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def patched(path, at, data):
    """Overwrite bytes of the first entry of a zip's table of contents, counted from the entry's beginning."""
    raw = bytearray(path.read_bytes())
    at += raw.rfind(b"PK\x01\x02")
    raw[at : at + len(data)] = data
    path.write_bytes(raw)
    return path


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
    refused("exists already", pack, folder, packed)
    (out / "mine").touch()
    refused("there already", unpack, packed, out)
    assert (out / "mine").exists()


MAC = [("a/.DS_Store", b"x"), ("__MACOSX/a/._adapter_config.json", b"x")]
LINK = (entry("out 10:30/latest", stat.S_IFLNK), b"/etc")
BESIDE = ["adapter_model.bin", "a.pkl", "x/modeling.py", "notes.txt", "eval 10:30|a.txt"]
TAKEN = [
    *(("", [], []), ("my adapter/", [("my adapter/", b"")], []), ("a/", MAC, []), ("out 10:30/", [LINK], ["latest"])),
    ("content/out/", [(f"content/out/checkpoint-2/{n}.pt", b"") for n in range(300)], ["checkpoint-2/"]),
    *(("", [(name, b"x")], ["x/" if name.startswith("x/") else name]) for name in BESIDE),
]


@pytest.mark.parametrize(("prefix", "more", "left"), TAKEN)
def test_known_files_at_the_top_or_in_one_folder_and_the_rest_is_named(tmp_path, prefix, more, left):
    packed = zipped(tmp_path / "a.zip", [*more, *((prefix + name, data) for name, data in SOUND)])
    assert (unpack(packed, tmp_path / "out"), {p.name for p in (tmp_path / "out").iterdir()}) == (left, NAMES)


LEADING_OUT = ["../evil.json", "a/../../evil.json", "/etc/evil.json", "C:/evil.json", "..\\evil.json", "a//b.json", "/"]
LEADING_OUT.append("\\\\server\\share\\evil.json")
LONG = [(f"{'n' * 190}/" * 20 + f"{i}.txt", b"") for i in range(300)]
SEVERAL = [(f"{folder}/{name}", data) for folder in ("one", "two") for name, data in SOUND]
REFUSED = [
    *(([*SOUND, (name, b"x")], "path that could lead elsewhere") for name in LEADING_OUT),
    *(
        ([*SOUND, (entry("run.json", kind), b"/etc/passwd")], "a link or a special file")
        for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)
    ),
    ([(f"{i}.txt", b"") for i in range(2100)], "lists 2100 files"),
    (LONG, "lists 300 files, or very long names"),
    ([SOUND[0], ("adapter_model.safetensors", bytes(20 * 1024 * 1024))], "would unpack from"),  # a bomb, by its table
    (SEVERAL, "There are 2 adapters in it: one, two"),
    ([], "is empty"),
]


@pytest.mark.parametrize(("entries", "why"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_an_archive_may_not_list_is_refused_and_nothing_is_left_behind(tmp_path, entries, why):
    refused(why, unpack, zipped(tmp_path / "a.zip", entries), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_locked_unusual_and_lying_archives_are_refused_and_nothing_is_left_behind(tmp_path):
    sound = zipped(tmp_path / "sound.zip", SOUND).read_bytes()
    for name, data, why in (
        *(("a", b"hello", "not a zip"), ("b", sound[20:], "damaged")),
        ("c", sound[:-22] + b"PK\x06\x07" + bytes(16) + sound[-22:], "64-bit"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(why, unpack, tmp_path / name, tmp_path / "out")
    refused("not a file", unpack, tmp_path / "none.zip", tmp_path / "out")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(tmp_path / "d", [*SOUND, SOUND[0]])
    refused("two files of one name", unpack, twice, tmp_path / "out")
    refused("password", unpack, patched(zipped(tmp_path / "e", SOUND), 8, b"\x01"), tmp_path / "out")
    refused("unusual", unpack, zipped(tmp_path / "f", SOUND, zipfile.ZIP_LZMA), tmp_path / "out")
    lie = zipped(tmp_path / "g", [*SOUND, ("run.json", b"{}" + b" " * 5000)])  # about its last file's size
    refused("damaged", unpack, patched(lie, 24, struct.pack("<I", 10)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
