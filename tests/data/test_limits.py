"""Small files that unpack to a machine's whole memory, or to hours: refused in words while they are read, within a
bound on memory."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from playground.data.read import MEBI, read_records
from playground.data.records import COLUMNS, Limits
from playground.errors import InputError
from playground.settings import PROJECT_ROOT
from tests.data.conftest import book

SHARED = 20 * MEBI
"""The largest upload where the app is shared."""
BOUND = 1 << 30
"""Bytes that reading may take at its peak; each of these took several times as much, or would have."""
READER = r"""
import json, re, sys
from pathlib import Path
from playground.data.read import read_records
from playground.errors import InputError
try:
    said = f"read {len(read_records(Path(sys.argv[1]), int(sys.argv[2])).rows)} rows"
except InputError as error:
    said = str(error)
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # getrusage counts who started this, too
print(json.dumps([said, int(peak[1]) * 1024]))
"""


def sheet(rows: str) -> bytes:
    """A workbook whose one sheet holds this XML."""
    held = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(book(["prompt", "completion"], ["a", "b"]))) as plain,
        zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for entry in plain.infolist():
            content = plain.read(entry)
            if entry.filename == "xl/worksheets/sheet1.xml":
                head, _, _ = content.decode().partition("<sheetData>")
                content = f"{head}<sheetData>{rows}</sheetData></worksheet>".encode()
            out.writestr(entry.filename, content)
    return held.getvalue()


def cell(place: str, text: str = "x") -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def far_row() -> bytes:
    return sheet(
        f'<row r="1">{cell("A1")}{cell("B1")}</row><row r="20000000">{cell("A20000000")}{cell("B20000000")}</row>'
    )


def last_column() -> bytes:
    return sheet("".join(f'<row r="{row}">{cell(f"A{row}")}{cell(f"XFD{row}")}</row>' for row in range(1, 3000)))


def dictionary_parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    texts = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 1000, pyarrow.int32()), pyarrow.array(["x" * 2_000_000])
    )
    held = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": texts, "completion": texts}), held, compression="zstd", store_schema=False
    )
    return held.getvalue()


def coded_parquet() -> bytes:
    """As pyarrow writes it by itself: read back, the columns are dictionaries, which say little of what their values
    take."""
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 1000, pyarrow.int32()), pyarrow.array(["x" * 500_000])
    )
    held = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({f"c{n}": text for n in range(40)}), held)
    return held.getvalue()


def nested_parquet() -> bytes:
    """One row of many structures that hold nothing: a few bytes of Arrow, gigabytes of Python."""
    import pyarrow
    import pyarrow.parquet

    many = 9_000_000
    inner = pyarrow.StructArray.from_arrays([pyarrow.nulls(many, pyarrow.int8())], ["a"])
    held = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.ListArray.from_arrays([0, many], inner)}), held)
    return held.getvalue()


def deep_parquet_rows() -> bytes:
    import pyarrow
    import pyarrow.parquet

    held = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.nulls(50_000_000)}), held, compression="zstd")
    return held.getvalue()


BOMBS = {
    "far.xlsx": (far_row, "rows, the most that are read"),
    "wide.xlsx": (last_column, "16,384 columns; at most 1000"),
    "dictionary.parquet": (dictionary_parquet, "to unpack"),
    "coded.parquet": (coded_parquet, "to unpack"),
    "nested.parquet": (nested_parquet, "cells, the most that are read"),
    "row.xlsx": (lambda: sheet('<row r="1">' + "<c/>" * 2_000_000 + "</row>"), "to unpack"),
    "line.csv.gz": (lambda: gzip.compress(("a,b\n" + "\U0001f600" * 40_000_000).encode()), "line 2 is longer than"),
    "nulls.parquet": (deep_parquet_rows, "rows, the most that are read"),
    "rows.csv.gz": (lambda: gzip.compress(b"a,b\n" * 3_000_000), "the most that are read"),
    "rows.jsonl.gz": (lambda: gzip.compress(b'{"a":1}\n' * 3_000_000), "the most that are read"),
    "lists.json.gz": (lambda: gzip.compress(b"[" + b"[]," * 40_000_000 + b"[]]"), "one JSON document of more than"),
    "line.jsonl.gz": (
        lambda: gzip.compress(b'{"a":[' + b"[]," * 9_000_000 + b"[]]}\n" + b'{"prompt":"a","completion":"b"}\n' * 2),
        "read 3 rows",  # the first of them is a bad row
    ),
    "columns.json": (
        lambda: json.dumps(
            {"a": dict.fromkeys(map(str, range(90_000)), 1)} | {f"c{n}": {"0": 1} for n in range(900)}
        ).encode(),
        "cells, the most that are read",
    ),
    "dots.jsonl": (lambda: json.dumps({"." * 1_000_000: 1}).encode() + b"\n{}\n", "read 2 rows"),
    "lines.txt.gz": (lambda: gzip.compress(b"a\n" * 5_000_000), "the most that are read"),
    "header.csv": (
        lambda: ",".join(f"c{n}" for n in range(60_000)).encode() + b"\n1,2\n",
        "60,000 columns; at most 1000",
    ),
    "cells.csv": (
        lambda: (",".join(f"c{n}" for n in range(999)) + "\n" + "1,2\n" * 200_000).encode(),
        "cells, the most that are read",
    ),
    "keys.jsonl": (
        lambda: json.dumps({f"k{n}": n for n in range(60_000)}).encode() + b"\n{}\n",
        "60,000 columns; at most 1000",
    ),
    "deep.json": (lambda: b"[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_too_much_is_refused_within_a_bound_on_memory(name: str, tmp_path: Path) -> None:
    make, words = BOMBS[name]
    (tmp_path / name).write_bytes(make())
    assert (tmp_path / name).stat().st_size < 2 * MEBI
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / name), str(SHARED)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said, peak = json.loads(done.stdout)
    assert words in said, said
    assert peak < BOUND, f"{peak / 1e9:.1f} GB"


def test_a_line_of_jsonl_that_is_too_long_is_one_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"prompt": "a", "completion": "b"}\n'
        + '{"prompt": "'
        + "x" * 17_000_000
        + '"}\n{"prompt": "c", "completion": "d"}\n'
    )
    broken = [(number, row.reason) for number, row in read_records(file, SHARED).rows if not isinstance(row, dict)]
    assert broken == [(2, "longer than 16,777,216 characters")]


def test_limits_grow_with_the_largest_upload_so_that_a_persons_own_large_file_is_read() -> None:
    shared, own = Limits("a", SHARED), Limits("a", 256 * MEBI)
    assert (shared.rows, own.rows) == (209_715, 2_684_354)
    assert own.unpacked_bytes == 2560 * MEBI
    with pytest.raises(InputError, match=f"at most {COLUMNS}"):
        own.check_columns(COLUMNS + 1)
