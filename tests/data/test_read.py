"""Files of every kind -> numbered records, or one message that says what is wrong, what there is and what to do."""

import gzip
import json
import time

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from playground.data.files import MEBI, read_records
from playground.data.records import Reading
from playground.data.turns import Unusable
from playground.errors import InputError
from tests.data.conftest import book, cases, parquet, put
from tests.refused import refused

LIMIT = 256 * MEBI
MORE = Reading(sheet="more")
PAIR = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
CASES = cases("read")
TABLE = "prompt,completion\na,b\nc,d\n"
SAME = CASES["same"] | {
    "utf16.csv": TABLE.encode("utf-16"),
    "utf16_no_mark.csv": TABLE.encode("utf-16-le"),
    "utf16_be.csv": TABLE.encode("utf-16-be"),
    "utf8_mark.csv": TABLE.encode("utf-8-sig"),
    "utf16.jsonl": "\n".join(map(json.dumps, PAIR)).encode("utf-16"),
}


@pytest.mark.parametrize("name", SAME)
def test_every_spelling_reads_the_same(name, tmp_path):
    records = read_records(put(tmp_path, name, SAME[name]), LIMIT)
    assert records.columns == ("prompt", "completion")
    assert [*records.rows] == [(1, PAIR[0]), (2, PAIR[1])]


def test_workbooks(tmp_path):
    one = put(tmp_path, "one.xlsx", book(["prompt ", "completion", None], ["a", 3], [None, None], ["c", True]))
    workbook = openpyxl.Workbook()
    sheet = workbook.create_sheet("Rows")  # after an empty first sheet
    for row in ([], ["prompt", "completion"], ["a", "b"], ["c", "d"]):  # a line above the header
        sheet.append(row)
    sheet.cell(row=40, column=1).value = ""
    workbook.save(tmp_path / "two.xlsx")
    assert [tuple(row.values()) for _, row in read_records(one, LIMIT).rows] == [("a", 3), ("", ""), ("c", True)]
    assert [row for _, row in read_records(tmp_path / "two.xlsx", LIMIT).rows] == PAIR
    workbook.create_sheet("Blank")
    workbook.create_sheet("More").append(["prompt", "completion"])
    workbook.save(tmp_path / "two.xlsx")
    found = read_records(tmp_path / "two.xlsx", LIMIT)
    assert [row for _, row in found.rows] == PAIR
    assert (found.note, found.sheets) == ("read from the sheet Rows; not read: More", ("Rows", "More"))
    workbook["More"].append(["e", "f"])
    workbook.save(tmp_path / "two.xlsx")
    assert [row["completion"] for _, row in read_records(tmp_path / "two.xlsx", LIMIT, reading=MORE).rows] == ["f"]
    for sheet in ("None", "Blank", "\0\ud800"):
        refused("Its sheets are: Sheet, Rows", read_records, tmp_path / "two.xlsx", LIMIT, reading=Reading(sheet=sheet))
    refused("no workbook", read_records, put(tmp_path, "a.csv", TABLE), LIMIT, reading=MORE)
    refused("Leave the encoding out", read_records, one, LIMIT, reading=Reading(encoding="utf-8"))


def test_parquet(tmp_path):
    turns = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]]
    chat = put(tmp_path, "chat.parquet", parquet(messages=turns))
    assert [*read_records(chat, LIMIT).rows] == [(1, {"messages": turns[0]})]
    deep = pyarrow.table({"label": [0]}).replace_schema_metadata({"huggingface": "[" * 100_000})
    pyarrow.parquet.write_table(deep, tmp_path / "deep.parquet")  # names of labels that nest too deep are none
    assert [*read_records(tmp_path / "deep.parquet", LIMIT).rows] == [(1, {"label": 0})]
    null = put(tmp_path, "null.parquet", parquet(prompt=["a", None], n=[1, None]))
    assert [*read_records(null, LIMIT).rows] == [(1, {"prompt": "a", "n": 1}), (2, {"prompt": "", "n": ""})]


def test_double_and_unnamed_columns_and_a_damaged_character_which_does_not_change_the_encoding(tmp_path):
    records = read_records(put(tmp_path, "a.csv", ",text,text\n0,a,b\n"), LIMIT)
    assert records.columns == ("column 1", "text", "text (3)")
    alone = read_records(put(tmp_path, "alone.csv", "A bed\nA table\n"), LIMIT)
    assert alone.note == "the first row, A bed, is taken for the column's name"
    file = put(tmp_path, "b.csv", b"prompt,completion\n" + "Grüße 世界 ".encode() + b"\xff,x\n")
    assert [row for _, row in read_records(file, LIMIT).rows] == [{"prompt": "Grüße 世界 \ufffd", "completion": "x"}]


@pytest.mark.parametrize(("name", "text"), CASES["codecs"].items())
def test_a_codec_from_before_unicode_is_known_by_its_letters(name, text, tmp_path):
    file = put(tmp_path, "a.csv", text.encode(name.split()[0]))
    rows = [",".join(row.values()) for _, row in read_records(file, LIMIT).rows if isinstance(row, dict)]
    assert rows == text.splitlines()[1:]


BROKEN = CASES["broken"] | {
    "deep.jsonl": {"text": "[" * 200_000 + '\n{"a": 1}\n{"a": 2}\n', "broken": [1], "rows": 3},
    "digits.jsonl": {"text": '{"a": ' + "9" * 5000 + '}\n{"a": 2}\n', "broken": [1], "rows": 2},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_records_are_counted_by_number(name, tmp_path):
    records = read_records(put(tmp_path, name, BROKEN[name]["text"]), LIMIT)
    broken = [(number, record) for number, record in records.rows if isinstance(record, Unusable)]
    assert [number for number, _ in broken] == BROKEN[name]["broken"]
    assert len(records.rows) == BROKEN[name]["rows"]
    assert all(record.reason and record.fix for _, record in broken)


REFUSED = [
    *((name, case["text"], case["says"]) for name, case in CASES["refused"].items()),
    ("mark.csv", b"\xef\xbb\xbf", "is empty"),
    ("picture.csv", b"\x89PNG\r\n\x1a\n\0\0", "is a PNG image"),
    ("book.csv", b"PK\x03\x04rest", "a zip archive or an Excel workbook"),
    ("page.json", b"%PDF-1.7 ...", "is a PDF"),
    ("packed.jsonl", b"\x1f\x8b\x08\0", "gzip"),
    ("nul.csv", b"prompt,completion\na\0b,c\n", "NUL bytes"),
    ("old.xls", b"\xd0\xcf\x11\xe0", "xlsx"),
    ("deep.json", "[" * 200_000, "nested too deep|line 1"),
    ("packed.gz", gzip.compress(b"text\nx\n"), "does not say what it holds"),
    ("book.xlsx.gz", gzip.compress(b"PK"), "does not say what it holds"),
    ("damaged.csv.gz", gzip.compress(b"text\nx\n" * 1000)[:-9], "damaged"),
    ("flipped.csv.gz", gzip.compress(b"text\nx\n")[:-5] + b"12345", "damaged"),
    ("plain.csv.gz", b"text\nx\n", "no gzip archive"),
    ("bomb.csv.gz", gzip.compress(b"text\n" + b"x" * 20_000_000), "unpacks to more than 10 times"),
    ("bomb.parquet", parquet(text=["x" * 1000] * 20_000), "unpacks to more than"),
    ("twice.csv.gz", gzip.compress(gzip.compress(b"text\nx\n")), "a gzip archive, not a text file"),
]


@pytest.mark.parametrize(("name", "content", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_whole(name, content, says, tmp_path):
    with pytest.raises(InputError, match=says) as caught:
        read_records(put(tmp_path, name, content), 1_000_000)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_folder_and_size(tmp_path):
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(312 * MEBI)  # sparse: nothing is written
    small = put(tmp_path, "small.csv", "prompt,completion\na,b\nc,d\n\n")
    for path, limit, says in (
        (tmp_path / "gone.csv", LIMIT, r"no file gone\.csv"),
        (tmp_path, LIMIT, "is a folder"),
        (tmp_path / ("x" * 3000 + ".csv"), LIMIT, "cannot be opened"),
        (large, LIMIT, r"is 312 MB; the limit is 256 MB\. Keep fewer rows"),
        (small, 26, r"is 27 bytes; the limit is 26 bytes"),
    ):
        refused(says, read_records, path, limit)


def test_open_quotes_do_not_make_reading_quadratic(tmp_path):
    many = "x,y\n" * 60_000
    path = put(tmp_path, "quotes.csv", f'a,b\n"never closed,1\n{many}"a","b\n"a","b\n{many}')
    start = time.perf_counter()
    records = read_records(path, LIMIT)
    assert len(records.rows) > 100_000
    assert time.perf_counter() - start < 20  # a second or so; quadratic would be hours
