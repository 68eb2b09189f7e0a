"""Files of every kind -> numbered records, or one message that says what is wrong, what there is and what to do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import openpyxl
import pytest

from playground.data.check import MEBI, read_records
from playground.data.example import Unusable
from playground.errors import InputError
from tests.data.conftest import book, parquet, put

LIMIT = 256 * MEBI
PAIR = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
SAME: dict[str, str | bytes] = {
    "comma.csv": "prompt,completion\na,b\nc,d\n",
    "crlf.csv": "prompt,completion\r\na,b\r\nc,d\r\n",
    "old_mac.csv": "prompt,completion\ra,b\rc,d\r",
    "semicolon.csv": "prompt;completion\na;b\nc;d",
    "pipe.csv": "prompt|completion\na|b\nc|d",
    "tab.csv": "prompt\tcompletion\na\tb\nc\td",
    "told.csv": "sep=;\nprompt;completion\na;b\nc;d",
    "quoted.csv": '"prompt","completion"\n"a","b"\n"c","d"\n',
    "spaced.csv": '"prompt", "completion"\n"a", "b"\n"c", "d"\n',
    "hidden.csv": "\ufeff\u200bprompt , compl\u200betion\u00a0\r\na,b\r\nc,d\r\n",
    "blank_lines.csv": "\nprompt,completion\n\na,b\n\n\nc,d\n\n",
    "trailing.csv": "prompt,completion,\na,b,\nc,d,\n",
    "utf16.csv": "prompt,completion\na,b\nc,d\n".encode("utf-16"),
    "utf16_no_mark.csv": "prompt,completion\na,b\nc,d\n".encode("utf-16-le"),
    "utf16_be.csv": "prompt,completion\na,b\nc,d\n".encode("utf-16-be"),
    "utf8_mark.csv": b"\xef\xbb\xbfprompt,completion\na,b\nc,d\n",
    "UPPER.CSV": "prompt,completion\na,b\nc,d\n",
    "plain.tsv": "prompt\tcompletion\na\tb\nc\td\n",
    "comma.tsv": "prompt,completion\na,b\nc,d\n",
    "list.json": json.dumps(PAIR),
    "data.json": json.dumps({"version": 1, "data": PAIR}, indent=1),
    "lines.json": "\n".join(map(json.dumps, PAIR)),
    "lines.jsonl": "\n".join(map(json.dumps, PAIR)) + "\n",
    "list.jsonl": json.dumps(PAIR),
    "pretty.jsonl": json.dumps(PAIR, indent=2),
    "data.jsonl": json.dumps({"data": PAIR}),
    "pretty_data.jsonl": json.dumps({"data": PAIR}, indent=2),
    "hidden.jsonl": '{"\ufeffprompt ": "a", "completion": "b"}\r\n{"prompt": "c", "completion": "d"}\r\n',
    "utf16.jsonl": "\n".join(map(json.dumps, PAIR)).encode("utf-16"),
}


@pytest.mark.parametrize("name", SAME)
def test_every_spelling_reads_the_same(name: str, tmp_path: Path) -> None:
    records = read_records(put(tmp_path, name, SAME[name]), LIMIT)
    assert records.columns == ("prompt", "completion")
    assert [*records.rows] == [(1, PAIR[0]), (2, PAIR[1])]


def test_workbooks(tmp_path: Path) -> None:
    one = put(tmp_path, "one.xlsx", book(["prompt ", "completion", None], ["a", 3], [None, None], ["c", True]))
    workbook = openpyxl.Workbook()  # an empty first sheet, and lines above the header
    sheet = workbook.create_sheet("Rows")
    for row in ([], ["prompt", "completion"], ["a", "b"], ["c", "d"]):
        sheet.append(row)
    sheet.cell(row=40, column=1).value = ""
    workbook.save(tmp_path / "two.xlsx")
    assert [tuple(row.values()) for _, row in read_records(one, LIMIT).rows] == [("a", 3), ("", ""), ("c", True)]
    assert [row for _, row in read_records(tmp_path / "two.xlsx", LIMIT).rows] == PAIR


def test_parquet(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]]
    chat = put(tmp_path, "chat.parquet", parquet(messages=turns))
    assert [*read_records(chat, LIMIT).rows] == [(1, {"messages": turns[0]})]
    null = put(tmp_path, "null.parquet", parquet(prompt=["a", None], n=[1, None]))
    assert [*read_records(null, LIMIT).rows] == [(1, {"prompt": "a", "n": 1}), (2, {"prompt": "", "n": ""})]
    with pytest.raises(InputError, match="unpacks to more than"):
        read_records(put(tmp_path, "bomb.parquet", parquet(text=["x" * 1000] * 1000)), 50_000)


TURKISH = "soru,cevap\nBugün hava nasıl,Bugün hava çok güzel ve güneşli\nAğaç nerede,Bahçede\n"
POLISH = "pytanie,odpowiedź\nJaka jest dziś pogoda,Dziś jest ciepło i słonecznie\n"
GREEK = "ερώτηση,απάντηση\nΤι καιρό κάνει σήμερα,Σήμερα κάνει πολλή ζέστη\n"
HEBREW = "שאלה,תשובה\nמה מזג האוויר היום,היום חם מאוד\n"
THAI = "คำถาม,คำตอบ\nวันนี้อากาศเป็นอย่างไร,วันนี้ร้อนมาก\n"
TRADITIONAL = "問題,回答\n今天天氣怎麼樣,今天很暖和\n"
DOS = "frage,antwort\nGrüße aus Köln,schön für Übergrößenträger\n"
RUSSIAN = "вопрос,ответ\nкакая сегодня погода,сегодня тепло\n"


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        *((TURKISH, "cp1254"), (TURKISH.splitlines()[0] + "\nşehir,ışık\n", "cp1254"), (POLISH, "cp1250")),
        *((GREEK, "cp1253"), (HEBREW, "cp1255"), (THAI, "cp874"), (TRADITIONAL, "big5"), (DOS, "cp850")),
        *((RUSSIAN, "cp866"), (RUSSIAN, "cp1251"), ("a,b\nGrüße,£5\n", "cp1252"), ("a,b\n£5,it’s\n", "cp1252")),
    ],
)
def test_a_codec_from_before_unicode_is_known_by_its_letters(text: str, codec: str, tmp_path: Path) -> None:
    rows = [row for _, row in read_records(put(tmp_path, "a.csv", text.encode(codec)), LIMIT).rows]
    assert [",".join(row.values()) for row in rows if isinstance(row, dict)] == text.splitlines()[1:]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("prompt,completion\nGrüße,ñandú\n".encode(), "Grüße"),
        ("prompt,completion\n“Grüße”,x\n".encode("cp1252"), "“Grüße”"),
        (b"prompt,completion\n" + "Grüße 世界 ".encode() + b"\xff,x\n", "Grüße 世界 \ufffd"),
    ],
)
def test_encodings(content: bytes, text: str, tmp_path: Path) -> None:
    (_, record), *_ = read_records(put(tmp_path, "a.csv", content), LIMIT).rows
    assert isinstance(record, dict)
    assert record["prompt"] == text


@pytest.mark.parametrize(
    ("name", "content", "broken", "rows"),
    [
        ("many.csv", "a,b\n1,2\n1,2,3\n4,5\n", [2], 3),
        ("short.csv", "a,b\n1\n4,5\n", [], 2),
        ("empty_cells.csv", "a,b\n,\n4,5\n,\n", [], 3),
        ("multiline.csv", 'a,b\n"1\n\n2","x, y"\n3,4\n', [], 2),
        ("inner.csv", 'a,b\n"he said "no" to me",x\n3,4\n', [1], 2),
        ("open.csv", 'a,b\n1,2\n"never closed,2\n3,4\n5,6\n', [2], 4),
        ("open_then_quoted.csv", 'a,b\n"never closed,2\n"x","y\nz"\n5,6\n', [1], 3),
        ("literal.tsv", 'a\tb\n"quoted\tx\n"in" it\ty\n3\t4\n', [], 3),
        ("one_column.csv", "text\nfirst, with commas; and more\nsecond\n", [], 2),
        ("bad_line.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n', [2], 3),
        ("bad_first.jsonl", '{"a": \n{"a": 2}\n{"a": 3}', [1], 3),
        ("bad_three.jsonl", 'x\ny\nz\n{"a": 3}\n', [1, 2, 3], 4),
        ("blank_lines.jsonl", '\n{"a": 1}\n\n  \noops\n{"a": 2}\n\n', [5], 3),
        ("not_objects.jsonl", '{"a": 1}\n[1, 2]\n"text"\n3\nnull\n', [2, 3, 4, 5], 5),
        ("arrays.jsonl", '["a", "b"]\n{"a": 1}\n', [1], 2),
        ("bracket.jsonl", '[oops\n{"a": 1}\n{"a": 2}\n', [1], 3),
        ("commas.jsonl", '{"a": 1},\n{"a": 2}\n', [1], 2),
        ("two_on_a_line.jsonl", '{"a": 1}{"a": 2}\n{"a": 3}\n', [1], 2),
        ("single_quotes.jsonl", "{'a': 1}\n{\"a\": 2}\n", [1], 2),
        ("deep.jsonl", "[" * 200_000 + '\n{"a": 1}\n{"a": 2}\n', [1], 3),
        ("digits.jsonl", '{"a": ' + "9" * 5000 + '}\n{"a": 2}\n', [1], 2),
        ("separators.jsonl", '{"a": "x\u2028y\u0085z"}\n{"a": 2}\n', [], 2),
        ("cut_off.jsonl", '{"a": 1}\n{"a": 2}\n{"a": "thr', [3], 3),
        ("marks.jsonl", '\ufeff{"a": 1}\n\ufeff{"a": 2}\n', [], 2),
        ("items.json", '[{"a": 1}, 5, {"a": 2}, "x"]', [2, 4], 4),
        ("nan.json", '[{"a": NaN}, {"a": Infinity}]', [], 2),
    ],
)
def test_broken_records_are_counted_by_number(
    name: str, content: str, broken: list[int], rows: int, tmp_path: Path
) -> None:
    records = read_records(put(tmp_path, name, content), LIMIT)
    assert [number for number, record in records.rows if isinstance(record, Unusable)] == broken
    assert len(records.rows) == rows
    assert all(record.reason and record.fix for _, record in records.rows if isinstance(record, Unusable))


REFUSED = [
    ("empty.csv", "", "is empty"),
    ("blank.jsonl", "\n \n\n", "is empty"),
    ("mark.csv", b"\xef\xbb\xbf", "is empty"),
    ("picture.csv", b"\x89PNG\r\n\x1a\n\0\0", "is a PNG image"),
    ("book.csv", b"PK\x03\x04rest", "a zip archive or an Excel workbook"),
    ("page.json", b"%PDF-1.7 ...", "is a PDF"),
    ("packed.jsonl", b"\x1f\x8b\x08\0", "gzip"),
    ("nul.csv", b"prompt,completion\na\0b,c\n", "NUL bytes"),
    ("header.csv", "prompt,completion\n", "no rows"),
    ("header.tsv", "prompt\tcompletion", "no rows"),
    ("no_names.csv", ",,\n1,2,3\n", "no column names"),
    ("open_header.csv", '"prompt,completion\na,b\n', "column names cannot be read"),
    ("broken.json", '[\n {"a": 1},\n {"a": 2}\n {"a": 3}\n]', "line 4, column 2"),
    ("broken_array.jsonl", '[\n {"a": 1},\n {"a" 2}\n]', "line 3, column 7"),
    ("cut_off_array.jsonl", '[{"a": 1},\n{"a": 2},\n{"a"', "line 3"),
    ("one_line.jsonl", '{"a": ', "line 1, column"),
    ("nothing.json", "[]", "no rows"),
    ("object.json", "{}", "no rows"),
    ("number.json", "5", "a number"),
    ("splits.json", '{"train": [{"a": 1}], "test": [{"a": 2}]}', r"train \(1\), test \(1\)"),
    ("deep.json", "[" * 200_000, "nested too deep|line 1"),
    ("words.doc", "hello", "unknown kind"),
    ("words", "hello", "no extension"),
    ("old.xls", b"\xd0\xcf\x11\xe0", "xlsx"),
    ("fake.xlsx", "prompt,completion\na,b\n", "no Excel workbook"),
    ("fake.parquet", "prompt,completion\na,b\n", "no Parquet file"),
    ("wide.csv", ",".join(f"c{n}" for n in range(1001)) + "\n" + "1," * 1000 + "1\n", "at most 1000"),
]


@pytest.mark.parametrize(("name", "content", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_whole(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_records(put(tmp_path, name, content), LIMIT)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_folder_and_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file gone\.csv"):
        read_records(tmp_path / "gone.csv", LIMIT)
    with pytest.raises(InputError, match="is a folder"):
        read_records(tmp_path, LIMIT)
    with pytest.raises(InputError):
        read_records(tmp_path / ("x" * 3000 + ".csv"), LIMIT)
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(312 * MEBI)  # sparse: nothing is written
    with pytest.raises(InputError, match=r"is 312 MB; the limit is 256 MB\. Keep fewer rows"):
        read_records(large, LIMIT)
    with pytest.raises(InputError, match=r"is 27 bytes; the limit is 26 bytes"):
        read_records(put(tmp_path, "small.csv", "prompt,completion\na,b\nc,d\n\n"), 26)


def test_double_and_unnamed_columns(tmp_path: Path) -> None:
    records = read_records(put(tmp_path, "a.csv", ",text,text\n0,a,b\n"), LIMIT)
    assert records.columns == ("column 1", "text", "text (3)")


def test_open_quotes_do_not_make_reading_quadratic(tmp_path: Path) -> None:
    many = "x,y\n" * 60_000
    path = put(tmp_path, "quotes.csv", f'a,b\n"never closed,1\n{many}"a","b\n"a","b\n{many}')
    start = time.perf_counter()
    records = read_records(path, LIMIT)
    assert len(records.rows) > 100_000
    assert time.perf_counter() - start < 20  # a second or so; quadratic would be hours
