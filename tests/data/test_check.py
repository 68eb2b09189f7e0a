"""A file -> what `check` says of it, with and without a tokenizer; and over real files where there are some."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from playground.data.advice import as_json, as_text
from playground.data.check import check_file
from playground.data.example import Checked, Passage, Preference
from playground.data.token_counts import token_report
from playground.errors import InputError
from tests.data.conftest import Words, jsonl, pair


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    refused = pair(2, 3, system="refused")
    rows = (pair(2, 2), "{broken", pair(2, 2), pair(20, 2), pair(2, 30), {"prompt": "p"}, pair(1, 1), refused)
    return check_file(jsonl(tmp_path, *rows))


def test_json_is_the_contract_s(checked: Checked) -> None:
    # user: + words + assistant: | words + <e>
    found = as_json(checked, token_report(checked, Words(), 12))
    keys = "format objective rows good bad warnings duplicates tokens truncated"
    assert list(found) == [*keys.split(), "mapping", "confidence", "why", "advice", "histogram", "padding"]
    assert (found["format"], found["objective"], found["rows"], found["good"]) == ("prompt-completion", "sft", 8, 4)
    assert [row["row"] for row in found["bad"]] == [2, 5, 6, 8]
    assert all(set(row) == {"row", "reason", "fix"} and all(row.values()) for row in found["bad"])
    assert found["bad"][1] == {
        "row": 5,
        "reason": "the answer alone is 31 tokens, the limit is 12",
        "fix": "Raise the limit to at least 32, or leave the row out.",
    }
    assert found["bad"][3]["reason"] == "the base's chat template refuses these turns (System role not supported)"
    assert found["warnings"] == [
        {"row": 3, "reason": "the same as row 1", "kind": "duplicate"},
        {"row": 4, "reason": "cut: the first 13 of 25 tokens do not fit into 12; the answer is kept", "kind": "long"},
    ]
    assert (found["duplicates"], found["truncated"]) == (1, 1)
    assert found["tokens"] == {"min": 5, "median": 7, "p95": 25, "max": 25}
    json.dumps(found, allow_nan=False)


def test_without_a_tokenizer(checked: Checked) -> None:
    found = as_json(checked)
    assert (found["good"], found["tokens"], found["truncated"]) == (6, None, 0)
    assert checked.good == len(checked.examples) + len(checked.others) == checked.rows - len(checked.bad)
    assert checked.columns == ("prompt", "completion", "system")
    assert checked.mapping == {"prompt": "prompt", "completion": "completion", "system": "system"}


def test_text(checked: Checked) -> None:
    said = as_text(checked, token_report(checked, Words(), 12))
    assert "Rows: 8, of them 4 good and 4 bad; 2 warnings, 1 duplicates." in said
    assert "row 6: no answer: 'completion' is missing. Add 'completion', or remove the row." in said
    many = Checked("text", "text", 30, (), warnings=checked.warnings * 20)
    assert "… and 30 more" in as_text(many)


PAIRS = [{"prompt": "q", "chosen": "a b c d", "rejected": "a"}, {"prompt": "q", "chosen": "a", "rejected": "b"}]
JUDGED = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "r", "completion": "a b", "label": False}]
TEXTS = [{"text": "one two three"}, {"text": "one " * 50}]


@pytest.mark.parametrize(
    ("rows", "objective", "lengths"),
    [(PAIRS, "preference", (5, 8)), (JUDGED, "unpaired_preference", (5, 6)), (TEXTS, "text", (3, 50))],
)
def test_other_objectives(rows: list[Any], objective: str, lengths: tuple[int, int], tmp_path: Path) -> None:
    checked = check_file(jsonl(tmp_path, *rows))
    assert (checked.objective, checked.examples, len(checked.others), checked.good) == (objective, (), 2, 2)
    tokens = token_report(checked, Words(), 12)
    assert (tokens.min, tokens.max, tokens.truncated) == (*lengths, 0)
    assert isinstance(checked.others[0], Preference | Passage) or objective == "unpaired_preference"


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    for rows, says in (
        (["{a", "{b", "x"], "none of the 3 rows can be used. Row 1: not valid JSON"),
        ([{"prompt": "", "completion": "x"}, {"prompt": "x", "completion": ""}], "Row 1: the prompt is empty"),
        ([{"messages": "hi"}, {"messages": "ho"}], "not a list of turns"),
        ([5, 6], "Row 2: a number, not an object"),
    ):
        with pytest.raises(InputError) as caught:
            check_file(jsonl(tmp_path, *rows))
        assert says in str(caught.value)
    checked = check_file(jsonl(tmp_path, pair(1, 30)))
    with pytest.raises(InputError, match="none of the 1 rows can be used"):
        token_report(checked, Words(), 12)
    with pytest.raises(InputError, match="at least 2"):
        token_report(checked, Words(), 1)


def test_a_mapping_and_a_path_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("one,two,three\na b,c d,e f\n")
    with pytest.raises(InputError, match="one, two, three"):
        check_file(path)
    checked = check_file(path, {"prompt": "two", "completion": "one"})
    assert checked.examples[0].completion == "a b"
    with pytest.raises(InputError, match="the limit is 10 bytes"):
        check_file(path, limit_bytes=10)


def test_time_grows_with_the_file_only(tmp_path: Path) -> None:
    def seconds(rows: int) -> float:
        path = jsonl(tmp_path, *(pair(40, 40, id=str(n)) | {"prompt": f"question {n}"} for n in range(rows)))
        start = time.perf_counter()
        assert check_file(path).good == rows
        return time.perf_counter() - start

    small = min(seconds(2_000) for _ in range(3))
    # 20 times the rows, with room for a busy machine; quadratic would be 400
    assert seconds(40_000) < 20 * small * 4 + 1


REAL = {
    "banking77_test.csv": ("text", "category", 3080),
    "banking77_train.csv": ("text", "category", 10003),
    "e2e_devset.csv": ("mr", "ref", 4672),
    "mts_dialog_train.csv": ("dialogue", "section_text", 1201),
    "mts_dialog_validation.csv": ("dialogue", "section_text", 100),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str) -> None:
    folder = os.environ.get("PLAYGROUND_REAL_DATA")
    if not folder:
        pytest.skip("PLAYGROUND_REAL_DATA is unset: no folder of real data sets")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{name} is not in PLAYGROUND_REAL_DATA")
    prompt, completion, rows = REAL[name]
    checked = check_file(path)
    assert checked.mapping == {"prompt": prompt, "completion": completion}
    assert (checked.rows, checked.good, checked.bad) == (rows, rows, ())
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(e.prompt[0].content, e.completion) for e in checked.examples] == [
        tuple(row[column].replace("\r\n", "\n").replace("\r", "\n") for column in (prompt, completion)) for row in table
    ]
    assert checked.duplicates == rows - len({(row[prompt], row[completion]) for row in table})
    assert token_report(checked, Words(), 4000).truncated == 0
