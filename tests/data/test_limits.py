"""Small files that unpack to all memory, or to hours: refused in words while they are read, within a bound."""

import io
import json
import subprocess
import sys
import time
import zipfile
from gzip import compress as gz

import pyarrow
import pytest

from playground.data.advice import personal
from playground.data.example import read_markup
from playground.data.files import MEBI
from playground.data.records import Limits
from playground.data.tools import parted_reply, results_in
from playground.data.turns import read_transcript
from playground.settings import PROJECT_ROOT
from tests.data.conftest import book, parquet, pdf, put, word
from tests.refused import refused

SHARED = 20 * MEBI
"""The largest upload where the app is shared."""
BOUND = 1 << 30
"""Bytes that reading may take at its peak; each of these took several times as much, or would have."""
READER = r"""
import json, os, re, sys
from pathlib import Path
from playground.data.files import read_records
from playground.errors import InputError
for path in sys.argv[2:]:
    if os.fork() == 0:  # a process each: what one has taken is not counted for the next
        try:
            rows = [row for _, row in read_records(Path(path), int(sys.argv[1])).rows]
            said = f"read {len(rows)} rows: {[str(row)[:50] for row in rows if not isinstance(row, dict)]}"
        except InputError as error:
            said = str(error)
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        print(json.dumps([Path(path).name, said, int(peak[1]) * 1024]), flush=True)
        os._exit(0)
    os.wait()
"""


RUN = 30_000
LONG = {  # texts at which a pattern that tries every place twice takes minutes
    "results": (results_in, f"<tool_response>{' ' * RUN}a"),
    "results without end": (results_in, "<tool_response>" * RUN),
    "parameters": (parted_reply, f"<function=f><parameter=x>a{(' ' * RUN + 'a') * 3}"),
    "a reply": (parted_reply, f"a{' ' * RUN}a"),
    "empty lists": (parted_reply, "[]" * RUN),
    "a system prompt": (read_markup, f"[INST] <<SYS>>{' ' * RUN}a [/INST]x"),
    "an instruction": (read_markup, f"x{' ' * RUN}y [/INST]"),
    "a transcript": (read_transcript, f"Human: a{' ' * RUN}b\nAssistant:{chr(10) * RUN}x"),
    "addresses": (personal, f"@ {'a' * RUN}"),
}


@pytest.mark.parametrize("kind", LONG)
def test_time_to_read_a_text_grows_with_it_only(kind):
    read, text = LONG[kind]
    began = time.process_time()
    read(text)
    assert time.process_time() - began < 1


def sheet(rows, part="xl/worksheets/sheet1.xml"):
    """A workbook whose one sheet holds this XML; or another part of it that is given whole."""
    held = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(book(["prompt", "completion"], ["a", "b"]))) as plain,
        zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for entry in plain.infolist():
            content = plain.read(entry)
            if entry.filename == part:
                head, found, _ = content.decode().partition("<sheetData>")
                content = f"{head}<sheetData>{rows}</sheetData></worksheet>".encode() if found else rows.encode()
            out.writestr(entry.filename, content)
    return held.getvalue()


def cell(place, text="x"):
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def far_row():
    ends = (f'<row r="{row}">{cell(f"A{row}")}{cell(f"B{row}")}</row>' for row in (1, 20_000_000))
    return sheet("".join(ends))


def last_column():
    return sheet("".join(f'<row r="{row}">{cell(f"A{row}")}{cell(f"XFD{row}")}</row>' for row in range(1, 3000)))


def repeated(columns, characters, *, store_schema):
    """A thousand rows of one text, written once; with their schema they are read back as dictionaries."""
    places = pyarrow.array([0] * 1000, pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(places, pyarrow.array(["x" * characters]))
    return parquet(store_schema=store_schema, **{f"c{n}": column for n in range(columns)})


def nested_parquet():
    """One row of many structures that hold nothing: a few bytes of Arrow, gigabytes of Python."""
    many = 9_000_000
    inner = pyarrow.StructArray.from_arrays([pyarrow.nulls(many, pyarrow.int8())], ["a"])
    return parquet(prompt=pyarrow.ListArray.from_arrays([0, many], inner))


def names(count):
    return ",".join(f"c{n}" for n in range(count))


def long_line():
    return gz(b'{"a":[' + b"[]," * 9_000_000 + b'[]]}\n{"a":1}\n')


def crossed():
    return json.dumps({"a": dict.fromkeys(map(str, range(90_000)), 1)} | {f"c{n}": {"0": 1} for n in range(900)})


PARTS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
STYLES = f'<styleSheet xmlns="{PARTS}"><cellXfs>{"<xf/>" * 2_000_000}</cellXfs></styleSheet>'
RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
SHEETS = f'<workbook xmlns="{PARTS}" xmlns:r="{RELATED}"><sheets>'
SHEETS += "".join(f'<sheet name="s{n}" sheetId="{n + 1}" r:id="rId1"/>' for n in range(600)) + "</sheets></workbook>"
LAUGHS = "<!DOCTYPE w [" + '<!ENTITY a "ha">'
LAUGHS += "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)) + "]>"
OUTSIDE = '<!DOCTYPE w [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
ROWS, CELLS, WIDE = "the most that are read", "cells, the most that are read", "60,000 columns; at most 1000"
BOMBS = {
    "far.xlsx": (far_row, "rows, the most that are read"),
    "wide.xlsx": (last_column, "16,384 columns; at most 1000"),
    "row.xlsx": (lambda: sheet('<row r="1">' + "<c/>" * 2_000_000 + "</row>"), "to unpack"),
    "styles.xlsx": (lambda: sheet(STYLES, "xl/styles.xml"), "more styles than a table needs"),
    "sheets.xlsx": (lambda: sheet(SHEETS, "xl/workbook.xml"), "has 600 sheets; at most 500"),
    "cell.xlsx": (
        lambda: sheet(f'<row r="1">{cell("A1", "x" * 17_000_000)}</row>'),
        "row 1 of the sheet has a cell of more",
    ),
    "dictionary.parquet": (lambda: repeated(2, 2_000_000, store_schema=False), "to unpack"),
    "coded.parquet": (lambda: repeated(40, 500_000, store_schema=True), "to unpack"),
    "nested.parquet": (nested_parquet, CELLS),
    "nulls.parquet": (lambda: parquet(a=pyarrow.nulls(50_000_000)), "rows, the most that are read"),
    "line.csv.gz": (lambda: gz(("a,b\n" + "\U0001f600" * 40_000_000).encode()), "line 2 is longer than"),
    "rows.csv.gz": (lambda: gz(b"a,b\n" * 3_000_000), ROWS),
    "rows.jsonl.gz": (lambda: gz(b'{"a":1}\n' * 3_000_000), ROWS),
    "lists.json.gz": (lambda: gz(b"[" + b"[]," * 40_000_000 + b"[]]"), "one JSON document of more than"),
    "line.jsonl.gz": (long_line, "read 2 rows: ['longer than 16,777,216 characters']"),
    "lines.txt.gz": (lambda: gz(b"a\n" * 5_000_000), ROWS),
    "columns.json": (crossed, CELLS),
    "dots.jsonl": (lambda: json.dumps({"." * 1_000_000: 1}) + "\n{}\n", "read 2 rows"),
    "header.csv": (lambda: names(60_000) + "\n1,2\n", WIDE),
    "cells.csv": (lambda: names(999) + "\n" + "1,2\n" * 200_000, CELLS),
    "stream.pdf": (lambda: pdf(None, tail=b"0 0 m " * 14_000_000), "unpacks to too much"),
    "pages.pdf": (lambda: pdf("x", times=20_000), "20,000 pages; at most 5,000"),
    "circle.pdf": (lambda: pdf("x").replace(b"/Kids [", b"/Kids [ 1 0 R "), "read 2 rows"),
    "laughs.docx": (lambda: word("<w:p><w:r><w:t>&j;</w:t></w:r></w:p>", LAUGHS), "is no Word document"),
    "outside.docx": (lambda: word("<w:p><w:r><w:t>&a;</w:t></w:r></w:p>", OUTSIDE), "it declares entities"),
    "blank.docx": (lambda: word(" " * 220_000_000), "unpacks to more than 10 times"),
    "deep.docx": (lambda: word("<w:p>" * 100_000), "is no Word document"),
    "empty.docx": (lambda: word("<w:p/>" * 20_000_000), "to unpack"),
    "keys.jsonl": (lambda: json.dumps({f"k{n}": n for n in range(60_000)}) + "\n{}\n", WIDE),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """For each bomb what reading it says, and how many bytes of memory it took at its peak."""
    folder = tmp_path_factory.mktemp("bombs")
    files = [put(folder, name, make) for name, (make, _) in BOMBS.items()]
    assert all(file.stat().st_size < 2 * MEBI for file in files)
    command = [sys.executable, "-c", READER, str(SHARED), *map(str, files)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    return {name: (said, peak) for name, said, peak in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_too_much_is_refused_within_a_bound_on_memory(name, answers):
    said, peak = answers[name]
    assert BOMBS[name][1] in said, said
    assert peak < BOUND, f"{peak / 1e9:.1f} GB"


def test_limits_grow_with_the_largest_upload_so_that_a_persons_own_large_file_is_read():
    shared, own = Limits("a", SHARED), Limits("a", 256 * MEBI)
    assert (shared.rows, own.rows) == (209_715, 2_684_354)
    own.check_unpacked(2560 * MEBI)
    refused("unpacks to more than 10 times the size limit", own.check_unpacked, 2560 * MEBI + 1)
