from __future__ import annotations

import struct

import pytest

from playground.errors import AdapterError
from playground.library.files import read_header

from .conftest import header, safetensors


def test_reads_names_types_and_shapes(tmp_path):
    fields = header({"a": (2, 3), "b": (4,)}) | {"__metadata__": {"format": "pt"}}
    raw = {k: v for k, v in fields.items() if k != "__metadata__"}
    path = safetensors(tmp_path / "x.safetensors", fields, data=max(f["data_offsets"][1] for f in raw.values()))
    entries = read_header(path)
    assert {name: (e.dtype, e.shape, e.end - e.begin) for name, e in entries.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("F32", (4,), 16),
    }


GOOD = header({"a": (2,), "b": (2,)})


@pytest.mark.parametrize(
    ("fields", "data", "why"),
    [
        (GOOD, 15, "15 are there"),
        (GOOD, 17, "17 are there"),
        ({"a": {**GOOD["a"], "dtype": "PICKLE"}}, 8, "unknown type"),
        ({"a": {**GOOD["a"], "shape": [-2]}}, 8, "short list of sizes"),
        ({"a": {**GOOD["a"], "shape": [True]}}, 8, "short list of sizes"),
        ({"a": {**GOOD["a"], "shape": [10**20]}}, 8, "short list of sizes"),
        ({"a": {**GOOD["a"], "shape": [3]}}, 8, "takes 8 bytes"),
        ({"a": {**GOOD["a"], "data_offsets": [8, 0]}}, 8, "takes -8 bytes"),
        ({"a": {**GOOD["a"], "data_offsets": [4, 12]}}, 12, "starts at byte 4"),
        ({"a": GOOD["a"], "b": GOOD["a"]}, 8, "starts at byte 0, not at 8"),
        ({"a": {"dtype": "F32"}}, 8, "exactly dtype, shape and data_offsets"),
        ({"a": 3}, 8, "exactly dtype, shape and data_offsets"),
        (b"[1, 2, 3]", 0, "does not start with {"),
        (b'{"a": ', 0, "not readable"),
        (b'{"a": 1, "a": 2}', 0, "appears twice"),
        (b'{"__metadata__": {"x": 1}}', 0, "metadata"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, "not readable"),
    ],
)
def test_refuses_what_is_not_sound(tmp_path, fields, data, why):
    path = safetensors(tmp_path / "x.safetensors", fields, data)
    with pytest.raises(AdapterError, match="damaged") as caught:
        read_header(path)
    assert why in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63])
def test_refuses_a_header_length_that_the_file_cannot_hold(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(AdapterError, match=f"claims {length} bytes of a file of 10"):
        read_header(path)


def test_refuses_an_empty_file_a_missing_file_and_a_link(tmp_path):
    empty = tmp_path / "e.safetensors"
    empty.touch()
    with pytest.raises(AdapterError, match="only 0 bytes"):
        read_header(empty)
    with pytest.raises(AdapterError, match="missing"):
        read_header(tmp_path / "none.safetensors")
    link = tmp_path / "l.safetensors"
    link.symlink_to(safetensors(tmp_path / "x.safetensors", GOOD))
    with pytest.raises(AdapterError, match="not a regular file"):
        read_header(link)
