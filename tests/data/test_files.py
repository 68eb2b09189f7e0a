"""Small files of every kind, whole and broken: what each is and trains, which of its rows cannot be used and why."""

from __future__ import annotations

import gzip
import tomllib
from pathlib import Path
from typing import Any

import pytest

from playground.data.check import check_file, read_records
from playground.data.columns import FORMATS
from playground.data.example import Example, Judged, Passage, Preference
from playground.errors import InputError
from tests.data.conftest import book, csv, lines, parquet, put

OBJECTIVES = {each.name: each.objective for each in FORMATS} | {"instruction": "sft"}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    (format, name, case)
    for format, cases in tomllib.loads(Path(__file__).with_name("files.toml").read_text(encoding="utf-8")).items()
    for name, case in cases.items()
]


def content(name: str, case: dict[str, Any]) -> bytes:
    if "rows" in case:
        return book(*case["rows"])
    if "columns" in case:
        return parquet(**case["columns"])
    text = case["text"] if "text" in case else "\n".join(case["lines"]) + "\n"
    held: bytes = text.encode(case.get("encoding", "utf-8"))
    return gzip.compress(held) if name.lower().endswith(".gz") else held


def answer(row: Any) -> str:
    if isinstance(row, Example | Judged):
        return row.completion
    return row.chosen if isinstance(row, Preference) else row.text if isinstance(row, Passage) else ""


@pytest.mark.parametrize(("format", "name", "case"), CASES, ids=[name for _, name, _ in CASES])
def test_what_a_file_is_and_which_rows_are_bad(format: str, name: str, case: dict[str, Any], tmp_path: Path) -> None:
    checked = check_file(put(tmp_path, name, content(name, case)))
    assert (checked.format, checked.objective) == (format, OBJECTIVES[format]), checked.why
    reasons = case.get("bad", {})
    assert [bad.row for bad in checked.bad] == [int(row) for row in reasons]
    assert all(reasons[str(bad.row)] in bad.reason and bad.fix for bad in checked.bad)
    assert checked.good == case["good"] == checked.rows - len(checked.bad)
    assert 0 < checked.confidence <= 1
    assert checked.why
    assert set(checked.mapping.values()) <= set(checked.columns)
    assert answer(checked.usable[0]) == case.get("first", answer(checked.usable[0]))
    again = check_file(tmp_path / name, checked.mapping)  # what was guessed can be said, too
    assert (again.objective, again.usable, again.confidence) == (checked.objective, checked.usable, 1.0)


REFUSED = [
    ("packed.gz", gzip.compress(b"text\nx\n"), "does not say what it holds"),
    ("book.xlsx.gz", gzip.compress(b"PK"), "does not say what it holds"),
    ("damaged.csv.gz", gzip.compress(b"text\nx\n" * 1000)[:-9], "damaged"),
    ("flipped.csv.gz", gzip.compress(b"text\nx\n")[:-5] + b"12345", "damaged"),
    ("plain.csv.gz", b"text\nx\n", "no gzip archive"),
    ("bomb.csv.gz", gzip.compress(b"text\n" + b"x" * 20_000_000), "unpacks to more than 10 times"),
    ("twice.csv.gz", gzip.compress(gzip.compress(b"text\nx\n")), "a gzip archive, not a text file"),
]


@pytest.mark.parametrize(("name", "content", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_in_words(name: str, content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        check_file(put(tmp_path, name, content), limit_bytes=1_000_000)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("header", "given", "least", "most", "why"),
    [
        ("prompt,completion", {}, 0.95, 1, "the names prompt and completion"),
        ("text,label", {}, 0.7, 0.95, "the label is the answer"),
        ("question,finding", {}, 0.5, 0.7, "the name question and from what finding holds"),
        ("befund,kennung", {}, 0.2, 0.5, "what the columns hold, not from their names"),
        ("befund,kennung", {"prompt": "befund", "completion": "kennung"}, 1, 1, "as you said"),
        ("befund,kennung", {"prompt": "befund"}, 0.3, 0.7, "partly as you said"),
    ],
)
def test_confidence(header: str, given: dict[str, str], least: float, most: float, why: str, tmp_path: Path) -> None:
    checked = check_file(
        put(tmp_path, "a.csv", csv(header, *(f"a long text {n},some words {n}" for n in range(9)))), given or None
    )
    assert least <= checked.confidence <= most
    assert why in checked.why


def test_a_column_that_is_mostly_empty_makes_less_sure(tmp_path: Path) -> None:
    full = check_file(put(tmp_path, "a.csv", csv("prompt,completion", "q,a", "r,b")))
    thin = check_file(put(tmp_path, "b.csv", csv("prompt,completion", "q,a", "r,", "s,")))
    assert thin.confidence < full.confidence
    assert "most rows have no completion" in thin.why


def test_odd_labels_are_warned_of(tmp_path: Path) -> None:
    rows = [f"message {n},{'spam' if n % 2 else 'ham'}" for n in range(30)]
    checked = check_file(put(tmp_path, "a.csv", csv("text,label", *rows, "one more,Spam ", "and more,ham")))
    assert [(item.row, item.kind, item.reason) for item in checked.warnings] == [
        (31, "label", "the label 'Spam ' is spelt 'spam' in 15 other rows")
    ]
    assert not check_file(put(tmp_path, "b.csv", csv("text,label", *rows, "one more,other"))).warnings


def test_several_files_are_numbered_on(tmp_path: Path) -> None:
    put(tmp_path, "b.jsonl", "\n" + lines({"question": "q", "answer": "a"}, "oops", {"question": "x", "answer": "y"}))
    put(tmp_path, "a.csv", csv("prompt,completion", "q,a", "r,"))
    put(tmp_path, "c.tsv.gz", gzip.compress(b"prompt\tcompletion\nq\tz\n"))
    put(tmp_path, ".hidden", "x")
    whole = check_file(tmp_path)
    assert [(part.name, part.first, part.rows) for part in whole.files] == [
        ("a.csv", 1, 2),
        ("b.jsonl", 3, 4),
        ("c.tsv.gz", 7, 1),
    ]
    assert (whole.rows, whole.good) == (6, 4)
    assert [(bad.row, whole.place(bad.row)) for bad in whole.bad] == [(2, "a.csv 2"), (5, "b.jsonl 3")]
    assert [row.row for row in whole.usable] == [1, 4, 6, 7]
    assert [(item.row, item.reason) for item in whole.warnings] == [
        (4, "the same as row 1"),
        (7, "same prompt as row 1, another answer"),
    ]
    assert whole.columns == ("prompt", "completion", "question", "answer")
    assert "b.jsonl: inferred from the names question and answer" in whole.why
    listed = check_file([tmp_path / "c.tsv.gz", str(tmp_path / "a.csv")])
    assert [part.name for part in listed.files] == ["a.csv", "c.tsv.gz"]
    assert check_file([tmp_path / "a.csv"]).files == ()


def test_several_files_must_train_the_same(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", csv("prompt,completion", "q,a"))
    put(tmp_path, "b.txt", "some words\n\nand more\n")
    with pytest.raises(InputError, match=r"a\.csv trains sft \(prompt-completion\); b\.txt trains text \(text\)"):
        check_file(tmp_path)
    put(tmp_path, "b.txt", "prompt\tcompletion\n" + "q\ta\n" * 50)
    with pytest.raises(InputError, match="All 2 files together is 240 bytes; the limit is 210"):
        check_file(tmp_path, limit_bytes=210)
    put(tmp_path, "b.txt", b"\x89PNG")
    with pytest.raises(InputError, match=r"b\.txt is a PNG"):
        check_file(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="The folder none holds no files"):
        check_file(tmp_path / "none")
    with pytest.raises(InputError, match="No file was given"):
        check_file([])
    put(tmp_path, "a.csv", csv("x,y", "q,a"))
    assert check_file([tmp_path / "a.csv"], {"prompt": "y", "completion": "x"}).examples[0].completion == "q"


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    rows = lines(*({"prompt": f"question {n}", "completion": "a"} for n in range(20_000)))
    for name, content in (("a.jsonl", rows), ("b.jsonl.gz", gzip.compress(rows.encode()))):
        said: list[float] = []
        assert check_file(put(tmp_path, name, content), progress=said.append).good == 20_000
        assert said == sorted(said)
        assert 0 <= said[0] < said[-1] == 1


def test_large_lines_are_not_kept(tmp_path: Path) -> None:
    """The records of a JSONL file are read anew each time; only rows and digests stay."""
    path = put(tmp_path, "a.jsonl", lines(*({"text": f"passage {n}", "more": {"inner": n}} for n in range(5000))))
    records = read_records(path, 10_000_000)
    assert records.columns == ("text", "more.inner")
    assert not isinstance(records.rows, list)
    assert len(records.rows) == 5000 == sum(1 for _ in records.rows)
    assert [*records.rows][4999] == (5000, {"text": "passage 4999", "more": {"inner": 4999}, "more.inner": 4999})
    assert 500 <= len(records.sample) <= 1000
    assert {"passage 0", "passage 4992"} <= {row["text"] for row in records.sample}
