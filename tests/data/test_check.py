"""Files, whole and broken -> what each is and trains, which rows cannot be used and why, and what `check` says."""

import gzip
import json
import re
import time
import zipfile
from pathlib import Path

import pyarrow.parquet
import pytest

from playground.data.advice import advise, as_json, as_text
from playground.data.check import check_file
from playground.data.editing import edited_lines, good_rows_jsonl, table_of
from playground.data.example import Checked, FilePart, Message, Passage, RowWarning
from playground.data.files import read_records
from playground.data.records import AS_FOUND, Reading
from playground.data.replies import join, read_replies
from playground.data.split import split
from playground.data.token_counts import token_report
from playground.errors import InputError
from tests.data.conftest import OBJECTIVES, Words, book, cases, jsonl, lines, pair, parquet, put
from tests.refused import refused


def test_json_is_the_contract_s_and_text_says_the_same(tmp_path):
    refused = pair(2, 3, system="refused")
    rows = (pair(2, 2), "{broken", pair(2, 2), pair(20, 2), pair(2, 30), {"prompt": "p"}, pair(1, 1), refused)
    checked = check_file(jsonl(tmp_path, *rows))
    # user: + words + assistant: | words + <e>
    shares = []
    found = as_json(checked, token_report(checked, Words(), 12, on_progress=shares.append))
    assert shares == [1]
    keys = "format objective rows good bad warnings duplicates tokens truncated encoding splits repairs repairable"
    keys += " unused_columns mapping confidence why advice histogram padding"
    assert list(found) == keys.split()
    assert (found["format"], found["objective"], found["rows"], found["good"]) == ("prompt-completion", "sft", 8, 4)
    assert [row["row"] for row in found["bad"]] == [2, 5, 6, 8]
    assert all(set(row) == {"row", "reason", "fix"} and all(row.values()) for row in found["bad"])
    assert found["bad"][1]["reason"] == "the answer alone is 31 tokens, the limit is 12"
    assert found["bad"][1]["fix"] == "Raise the limit to at least 32, or leave the row out."
    assert found["bad"][3]["reason"] == "the base's chat template refuses these turns (System role not supported)"
    assert found["warnings"] == [
        {"row": 3, "reason": "the same as row 1", "kind": "duplicate"},
        {"row": 4, "reason": "cut: the first 13 of 25 tokens do not fit into 12; the answer is kept", "kind": "long"},
    ]
    assert (found["duplicates"], found["truncated"]) == (1, 1)
    assert found["tokens"] == {"min": 5, "median": 7, "p95": 25, "max": 25}
    found = as_json(checked)
    assert (found["good"], found["tokens"], found["truncated"]) == (6, None, 0)
    assert checked.columns == ("prompt", "completion", "system")
    assert found["mapping"] == {"prompt": "prompt", "completion": "completion", "system": "system"}
    said = as_text(checked, token_report(checked, Words(), 12))
    assert "Rows: 8, of them 4 good and 4 bad; 2 warnings, 1 duplicates." in said
    assert "row 6: no answer: 'completion' is missing. Add 'completion', or remove the row." in said
    many = Checked("text", "text", 30, (), warnings=checked.warnings * 20)
    assert "… and 30 more" in as_text(many)


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "name": "n", "cot": "because"}]
TABLES = cases("read")["check"]


@pytest.mark.parametrize(("row", "named", "offered"), TABLES["unused"])
def test_what_no_example_holds_is_named(tmp_path, row, named, offered):
    said = {"prompt": "prompt", "completion": "completion"}
    checked = check_file(jsonl(tmp_path, pair(3, 2, **row), pair(4, 2)), said)
    found = {one["column"]: one["warning"] for one in as_json(checked)["unused_columns"]}
    assert found.keys() == named.keys()
    assert all(says in found[column] and bool(says) == bool(found[column]) for column, says in named.items())
    assert {one.column: one.role for one in checked.unused if one.role} == offered
    assert all(column in as_text(checked) for column in named)
    for column, role in offered.items():  # what is offered can be taken in
        assert f"--map {role}={column} takes it in" in as_text(checked)
        again = check_file(tmp_path / "rows.jsonl", checked.mapping | {role: column})
        assert (again.good, column in {one.column for one in again.unused}) == (2, False)


def test_keys_inside_turns_and_a_prompt_for_the_system_that_the_chat_overrides_are_named(tmp_path):
    turns = [{"role": "system", "content": "s"}, *TURNS]
    checked = check_file(jsonl(tmp_path, {"messages": TURNS}, {"messages": turns, "system": "another"}))
    named = {one.column: one.warning for one in checked.unused}
    assert named.keys() == {"messages[].name", "messages[].cot", "system"}
    assert "thought" in named["messages[].cot"]
    assert "not all" in named["system"]


REPAIR = {"repair": "rows"}
ROLE = {"s": "system", "u": "user", "a": "assistant"}


def turns_of(text):
    each = ((one.lstrip("~"), int(one[0] != "~")) for one in re.split(r"\|(?=~?[sua] )", text))
    return [{"role": ROLE[one[0]], "content": one[2:].replace("+", "\n\n"), "weight": learned} for one, learned in each]


@pytest.mark.parametrize(("before", "kinds", "after"), TABLES["repairs"])
def test_turns_that_no_template_takes_are_mended_where_that_is_asked_for(tmp_path, before, kinds, after):
    mine = {"messages": turns_of(before), "id": 7}
    file = jsonl(tmp_path, {"messages": turns_of("u p|a y")}, mine)
    plain, repaired = check_file(file), check_file(file, REPAIR)
    assert plain.repairs == repaired.repairable == ()
    assert {one.kind for one in plain.repairable} == {one.kind for one in repaired.repairs} == {*kinds.split()}
    assert all(one.rows == (2,) for one in repaired.repairs)
    assert [row.row for row in plain.bad] == [2] * ("<|" not in before)
    assert [row.row for row in repaired.bad] == [2] * (not after)
    assert [one.column for one in repaired.unused] == ["id"] * bool(after), "what repair left out it has named"
    if after:
        turns = [Message(one["role"], one["content"], learned=bool(one["weight"])) for one in turns_of(after)]
        assert list(repaired.examples[1].messages) == turns
        assert all(f"Repaired:\n  1 row: {one.what} (row 2)" in as_text(repaired) for one in repaired.repairs[:1])
        if "<|" not in before:
            says = "none of the 1 rows can be used.*Repair makes 1 of them usable"
            refused(says, check_file, jsonl(tmp_path, mine))


def test_blank_and_repeated_rows_are_left_out_by_repair_and_the_others_keep_their_numbers(tmp_path):
    blank = {"prompt": " ", "completion": None, "id": 3}
    file = jsonl(tmp_path, pair(1, 1), blank, pair(1, 1), pair(2, 2), pair(1, 1), {"prompt": "p", "completion": ""})
    for repair, rows, bad, again, repairs in (
        (False, 6, [2, 6], 2, []),
        (True, 3, [6], 0, [("blank", [2]), ("duplicate", [3, 5])]),
    ):
        found = as_json(check_file(file, REPAIR if repair else None))
        numbers = [row["row"] for row in found["bad"]]
        assert (found["rows"], numbers, found["duplicates"]) == (rows, bad, 2 * (not repair))
        assert [(one["kind"], one["rows"]) for one in found["repairs"]] == repairs
        assert all(one["count"] == len(one["rows"]) and one["what"] for one in found["repairs"])
        assert len(found["repairable"]) == again
    assert [row.row for row in check_file(file, REPAIR).examples] == [1, 4]


SAID = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "w"}, {"role": "user", "content": "r"}]
GOOD, POOR = ({"role": "assistant", "content": text} for text in "xy")
NOT_LEARNED = (  # a row in which an answer is masked -> what is learned of it, "" = nothing
    ({"chosen": [*SAID, GOOD | {"weight": 0}], "rejected": [*SAID, POOR]}, ""),
    ({"chosen": [*SAID, GOOD], "rejected": [*SAID, POOR | {"weight": 0}]}, "xy"),
    ({"chosen": [SAID[0], SAID[1] | {"train": False}, SAID[2], GOOD], "rejected": [*SAID, POOR]}, "xy"),
    ({"messages": [*SAID, GOOD | {"loss": False}], "label": True}, "w"),
    ({"messages": [SAID[0], SAID[1] | {"weight": 0}, SAID[2], GOOD | {"weight": 0}], "label": True}, ""),
    ({"messages": [*SAID, GOOD | {"loss": False}]}, "w"),
)


@pytest.mark.parametrize(("row", "learned"), NOT_LEARNED)
def test_a_masked_answer_is_never_the_one_that_is_learned(tmp_path, row, learned):
    other = row | ({"label": False} if "label" in row else {})
    other = json.dumps(other).replace('"content": "q"', '"content": "p"')
    other = json.loads(re.sub(r'"(weight|train|loss)": (0|false)', r'"\1": 1', other))
    checked = check_file(jsonl(tmp_path, row, other))
    assert [one.row for one in checked.bad] == [1] * (not learned)
    assert "".join("".join(one.answers) for one in checked.usable if one.row == 1) == learned
    assert all("weight" in one.reason for one in checked.bad)


@pytest.mark.parametrize(("encoding", "asked", "answer"), TABLES["encodings"])
def test_an_encoding_is_told_and_gives_the_right_letters(tmp_path, encoding, asked, answer):
    text = "prompt;completion\n" + "".join(f"{asked} {n};{answer} {n}\n" for n in range(6))
    checked = check_file(put(tmp_path, "rows.csv", text.encode(encoding)))
    assert [turn.content for turn in checked.examples[0].messages] == [f"{asked} 0", f"{answer} 0"]
    assert as_json(checked)["encoding"] == encoding
    assert (f"Encoding: {encoding}" in as_text(checked)) == (encoding != "utf-8")


@pytest.mark.parametrize(("said", "codec"), [("1250", "cp1250"), ("Windows-1258", "cp1258"), ("latin 1", "iso8859-1")])
def test_an_encoding_that_is_named_is_the_one_that_is_read(tmp_path, said, codec):
    text = "prompt,completion\n" + "".join(f"été {n},âge {n}\n" for n in range(6))
    for content in (text.encode(codec), "\ufeff".encode(codec, "ignore") + text.encode(codec)):
        checked = check_file(put(tmp_path, "rows.csv", content), {"encoding": said})
        assert checked.examples[0].answers == ("âge 0",)
        assert (checked.encoding, checked.reading) == (codec, {"encoding": said})
    assert "Ă©tĂ©" in check_file(put(tmp_path, "u.csv", text), {"encoding": "1250"}).examples[0].prompt[0].content
    for name in ("rot13", "idna", "unicode_escape", "nonsense", "../x", "\0"):
        refused("There is no encoding", check_file, tmp_path / "rows.csv", {"encoding": name})


def named(part, many):
    return [{"q": f"{part} question {n}?", "a": f"{part} answer {n}"} for n in range(many)]


def folder(root, **parts):
    for part, rows in parts.items():
        put(root, f"{part}.jsonl", lines(*rows))
    return root


def zipped(root, files, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(root / "rows.zip", "w", how) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return root / "rows.zip"


TWO = {"train": named("t", 20), "test": named("e", 4)}
COLUMNS = {"train": {"q": ["one"] * 20, "a": ["1"] * 20}, "test": {"q": [*"wxyz"], "a": [*"wxyz"]}}
BESIDE = dict.fromkeys(("set/README.md", "set/dataset_infos.json", "__MACOSX/set/._a.jsonl", "set/a.py"), "{}")
CELLS = "q,a,split\n" + "".join(f"q{n},a{n},{'Test' if n >= 20 else 'train'}\n" for n in range(24))
SPLITS = {  # what holds splits -> their rows, and those of its own for validation and test
    "object": lambda root: put(root, "a.json", json.dumps(TWO)),
    "columns": lambda root: put(root, "b.json", json.dumps(COLUMNS)),
    "folder": lambda root: folder(root / "", test=TWO["test"], **{"train-00000-of-00001": TWO["train"]}),
    "zip": lambda root: zipped(root, {f"set/data/{name}.jsonl": lines(*rows) for name, rows in TWO.items()} | BESIDE),
    "folders in a zip": lambda root: zipped(root, {f"{name}/0.jsonl": lines(*rows) for name, rows in TWO.items()}),
    "column": lambda root: put(root, "c.csv", CELLS),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_a_file_s_own_splits_are_offered_and_its_test_rows_are_the_test_part(tmp_path, kind):
    path = SPLITS[kind](tmp_path)
    checked = check_file(path)
    names = {name.casefold(): rows for name, rows in as_json(checked)["splits"].items()}
    assert names == {"train": 20, "test": 4}
    assert "never trained on" in as_text(checked)
    assert next(one.text for one in advise(checked) if one.kind == "few").startswith("There are 20 rows to learn from")
    test = {row for row, part in checked.held.items() if part == "test"}
    parts = split(checked.usable, 7, test=0, own=checked.held)
    assert (set(parts.test), len(test), checked.unused) == (test, 4, ())
    assert not set(parts.validation) & test
    alone = check_file(path, {"split": "TEST"})
    assert (alone.good, alone.held, [rows for rows in alone.splits.values() if rows]) == (4, {}, [4])
    refused("has no split 'dev'. It has:", check_file, path, {"split": "dev"})
    for reading, held in ((AS_FOUND, 4), (Reading(split="TEST"), 0)):
        copy = put(tmp_path / "", "edited.jsonl", "".join(edited_lines(path, {}, 10**6, reading)))
        again = check_file(copy, reading.said())
        assert (again.good, len(again.held)) == (24 if held else 4, held), "a copy to edit keeps them"
        copy.unlink()


@pytest.mark.parametrize("said", ["Train", "TRAIN ", "train"])
def test_a_split_has_one_name_however_its_cells_are_written_and_blank_ones_are_to_train_on(tmp_path, said):
    cells = ["", said, "", said.strip().title(), "Test", "TEST", said]
    path = put(tmp_path, "c.csv", "q,a,split\n" + "".join(f"q{n},a{n},{one}\n" for n, one in enumerate(cells)))
    assert [*check_file(path).splits.values()] == [5, 2]
    for wanted, rows in (("train", 5), ("test", 2)):
        alone = check_file(path, {"split": wanted})
        assert (alone.good, [there for there in alone.splits.values() if there]) == (rows, [rows])


def test_a_row_keeps_its_number_in_every_file_whichever_split_is_read(tmp_path):
    for name in ("a.csv", "b.csv"):
        text = "".join(f"{name} {n},a,{'train' if n > 1 else 'test'}\n" for n in range(4))
        put(tmp_path, name, f"q,a,split\n{text}")
    whole = {row.row: row for row in check_file(tmp_path).usable}
    for name in ("test", "train"):
        reading = Reading(split=name)
        checked = check_file(tmp_path, reading.said())
        assert [whole[row.row] for row in checked.usable] == [*checked.usable]
        assert {row.row for row in checked.usable} <= table_of(tmp_path, [*whole], 10**6, reading).rows.keys()
        assert {checked.part_of(row.row).name for row in checked.usable} == {"a.csv", "b.csv"}
        assert checked.numbers == tuple(row.row for row in checked.usable)


def test_a_zip_that_is_none_holds_too_much_or_no_rows_is_refused(tmp_path):
    whole = zipped(tmp_path, {"a/rows.jsonl": lines(*named("t", 20))}).read_bytes()
    assert check_file(tmp_path / "rows.zip").good == 20
    locked = bytearray(whole)
    for sign, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.find(sign) + at] |= 1
    packed = zipped(tmp_path, {"rows.jsonl": lines(*named("t", 20))}, zipfile.ZIP_LZMA).read_bytes()
    lzma = packed[:60] + bytes(byte ^ 90 for byte in packed[60:120]) + packed[120:]
    for content in (whole[:-30], whole[:40] + b"x" * 20 + whole[60:], b"PK", bytes(locked), b"{}" * 20, lzma):
        refused("is no zip archive, is damaged, or has a password", check_file, put(tmp_path, "b.zip", content))
    refused("holds no file of rows", check_file, zipped(tmp_path, {"README.md": "x", "a.exe": "x", ".b.csv": "x"}))
    refused("unpacks to more than", check_file, zipped(tmp_path, {"a.csv": "a" * 2000}), limit_bytes=1000)
    refused("two files of one name", check_file, zipped(tmp_path, {"a?.csv": "a", "a*.csv": "a"}))
    many = zipped(tmp_path, dict.fromkeys(map("{}.csv".format, range(1001)), ""))
    refused("at most 1,000 are read", check_file, many)
    refused("holds no file of rows", check_file, zipped(tmp_path, {"../../evil.csv": "prompt,completion\na,b"}))
    assert check_file(zipped(tmp_path, {"/c:/evil.csv": "prompt,completion\na,b"})).columns == ("prompt", "completion")


def test_lists_of_other_names_are_chosen_from_and_a_column_of_other_values_splits_nothing(tmp_path):
    several = put(tmp_path, "a.json", json.dumps({"cats": named("c", 3), "dogs": named("d", 2)}))
    refused(r"lists of rows: cats \(3\), dogs \(2\). Choose one \(on the command line: --split", check_file, several)
    assert check_file(several, {"split": "dogs"}).examples[0].completion == "d answer 0"
    other = put(tmp_path, "b.csv", "q,a,split\n" + "".join(f"q{n},a{n},{'AB'[n % 2]}\n" for n in range(8)))
    checked = check_file(other)
    assert (checked.splits, [one.column for one in checked.unused]) == ({}, ["split"])
    assert check_file(other, {"split": "A"}).good == 4
    texts = check_file(put(tmp_path, "t.json", json.dumps({"train": ["one text", "two"], "test": ["three"]})))
    assert (texts.objective, texts.held) == ("text", {3: "test"})
    cells = "".join(f"q{n},a{n},{('', 'train', 'test')[n % 3]}\n" for n in range(9))
    other = put(tmp_path, "d.csv", f"q,a,split\n{cells}")
    for name, many in check_file(other).splits.items():
        assert check_file(other, {"split": name}).good == many, "a row that says nothing is of the one to train on"
    refused("It has no splits", check_file, put(tmp_path, "c.csv", "q,a\nb,c\n"), {"split": "A"})


def test_nothing_usable_is_refused(tmp_path):
    for rows, limit, says in (
        (["{a", "{b", "x"], 12, "none of the 3 rows can be used. Row 1: not valid JSON"),
        ([pair(1, 30)], 12, "none of the 1 rows can be used. Row 1: the answer alone is 31 tokens"),
        ([pair(1, 1)], 1, "at least 2"),
    ):
        file = jsonl(tmp_path, *rows)
        refused(says, lambda file, limit: token_report(check_file(file), Words(), limit), file, limit)


def test_time_grows_with_the_file_only(tmp_path):
    def seconds(rows):
        path = jsonl(tmp_path, *(pair(40, 40, id=str(n)) | {"prompt": f"question {n}"} for n in range(rows)))
        start = time.perf_counter()
        assert check_file(path).good == rows
        return time.perf_counter() - start

    small = min(seconds(2_000) for _ in range(3))
    # 20 times the rows, with room for a busy machine; quadratic would be 400
    assert seconds(40_000) < 20 * small * 4 + 1


CASES = [(format, name, case) for format, files in cases("files").items() for name, case in files.items()]


def content(name, case):
    if "rows" in case:
        return book(*case["rows"])
    if "columns" in case:
        return parquet(**case["columns"])
    text = case["text"] if "text" in case else "\n".join(case["lines"]) + "\n"
    held = text.encode(case.get("encoding", "utf-8"))
    return gzip.compress(held) if name.lower().endswith(".gz") else held


@pytest.mark.parametrize(("format", "name", "case"), CASES, ids=[name for _, name, _ in CASES])
def test_what_a_file_is_and_which_rows_are_bad(format, name, case, tmp_path):
    checked = check_file(put(tmp_path, name, content(name, case)))
    assert (checked.format, checked.objective) == (format, OBJECTIVES[format]), checked.why
    reasons = case.get("bad", {})
    assert [bad.row for bad in checked.bad] == [int(row) for row in reasons]
    assert all(reasons[str(bad.row)] in bad.reason and bad.fix for bad in checked.bad)
    assert checked.good == case["good"] == checked.rows - len(checked.bad)
    assert 0 < checked.confidence <= 1
    assert checked.why
    assert set(checked.mapping.values()) <= set(checked.columns)
    first = checked.usable[0]
    answer = first.text if isinstance(first, Passage) else first.answers[0]
    assert answer == case.get("first", answer)
    again = check_file(tmp_path / name, checked.mapping)  # what was guessed can be said, too
    assert (again.objective, again.usable, again.confidence) == (checked.objective, checked.usable, 1.0)


SHAPES = cases("read")["turns"]


@pytest.mark.parametrize("name", SHAPES)
def test_what_other_programs_write_is_read_as_turns(name, tmp_path):
    case = SHAPES[name]
    file = put(tmp_path, name, content(name, case))
    if "says" in case:
        with pytest.raises(InputError, match=case["says"]):
            check_file(file)
        return
    checked = check_file(file)
    assert (checked.good, len(checked.bad)) == (case.get("good", 1), case.get("bad", 0))
    row = checked.usable[0]
    said = [*row.prompt, *(Message("assistant", answer) for answer in row.answers[:1])]
    assert [f"{turn.role} {turn.content}" for turn in said] == case["turns"]
    assert case.get("why", "") in checked.why
    assert checked.objective == case.get("trains", checked.objective)
    assert check_file(file, checked.mapping).usable == checked.usable


@pytest.mark.parametrize(("header", "given", "least", "most", "why"), TABLES["confidence"])
def test_confidence(header, given, least, most, why, tmp_path):
    text = lines(header, *(f"a long text {n},some words {n}" for n in range(9)))
    checked = check_file(put(tmp_path, "a.csv", text), given or None)
    assert least <= checked.confidence <= most
    assert why in checked.why


def test_numbers_of_labels_go_by_their_names_and_odd_labels_are_warned_of(tmp_path):
    feature = {"label": {"names": ["rules", "hours"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    table = pyarrow.table({"text": ["q", "r"], "label": [1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert [row.completion for row in check_file(tmp_path / "rows.parquet").examples] == ["hours", "rules"]
    rows = [f"message {n},{'spam' if n % 2 else 'ham'}" for n in range(30)]
    checked = check_file(put(tmp_path, "a.csv", lines("text,label", *rows, "one more,Spam ", "and more,ham")))
    assert checked.warnings == (RowWarning(31, "the label 'Spam ' is spelt 'spam' in 15 other rows", "label"),)
    assert not check_file(put(tmp_path, "b.csv", lines("text,label", *rows, "one more,other"))).warnings


def test_several_files_are_numbered_on(tmp_path):
    put(tmp_path, "b.jsonl", "\n" + lines({"question": "q", "answer": "a"}, "oops", {"question": "x", "answer": "y"}))
    put(tmp_path, "a.csv", lines("prompt,completion", "q,a", "r,"))
    put(tmp_path, "c.tsv.gz", gzip.compress(b"prompt\tcompletion\nq\tz\n"))
    put(tmp_path, ".hidden", "x")
    whole = check_file(tmp_path)
    assert whole.files == (FilePart("a.csv", 1, 2), FilePart("b.jsonl", 3, 4), FilePart("c.tsv.gz", 7, 1))
    assert (whole.rows, whole.good) == (6, 4)
    assert [(bad.row, whole.place(bad.row)) for bad in whole.bad] == [(2, "a.csv 2"), (5, "b.jsonl 3")]
    assert [row.row for row in whole.usable] == [1, 4, 6, 7]
    reasons = [(item.row, item.reason) for item in whole.warnings]
    assert reasons == [(4, "the same as row 1"), (7, "same prompt as row 1, another answer")]
    assert whole.columns == ("prompt", "completion", "question", "answer")
    assert "b.jsonl: inferred from the names question and answer" in whole.why
    listed = check_file([tmp_path / "c.tsv.gz", str(tmp_path / "a.csv")])
    assert [part.name for part in listed.files] == ["a.csv", "c.tsv.gz"]
    assert check_file([tmp_path / "a.csv"]).files == ()


def test_several_files_must_train_the_same(tmp_path):
    put(tmp_path, "a.csv", lines("prompt,completion", "q,a"))
    (tmp_path / "none").mkdir()
    for content, files, says in (
        ("some words\n\nand more\n", tmp_path, r"a\.csv trains sft \(prompt-completion\); b\.txt trains text \(text\)"),
        ("prompt\tcompletion\n" + "q\ta\n" * 50, tmp_path, "All 2 files together is 239 bytes; the limit is 210"),
        (b"\x89PNG", tmp_path, r"b\.txt is a PNG"),
        (b"", tmp_path / "none", "The folder none holds no files"),
        (b"", [], "No file was given"),
    ):
        put(tmp_path, "b.txt", content)
        refused(says, check_file, files, limit_bytes=210)


def test_progress_goes_from_nothing_to_all_and_large_lines_are_not_kept(tmp_path):
    """The records of a JSONL file are read anew each time; only rows and digests stay."""
    rows = lines(*({"prompt": f"question {n}", "completion": "a"} for n in range(20_000)))
    for name, content in (("a.jsonl", rows), ("b.jsonl.gz", gzip.compress(rows.encode()))):
        said = []
        assert check_file(put(tmp_path, name, content), progress=said.append).good == 20_000
        assert said == sorted(said)
        assert 0 <= said[0] < said[-1] == 1
    path = put(tmp_path, "a.jsonl", lines(*({"text": f"passage {n}", "more": {"inner": n}} for n in range(5000))))
    records = read_records(path, 10_000_000)
    assert records.columns == ("text", "more.inner")
    assert not isinstance(records.rows, list)
    assert len(records.rows) == 5000 == sum(1 for _ in records.rows)
    assert [*records.rows][4999] == (5000, {"text": "passage 4999", "more": {"inner": 4999}, "more.inner": 4999})
    assert 500 <= len(records.sample) <= 1000
    assert {"passage 0", "passage 4992"} <= {row["text"] for row in records.sample}


CHATS = [
    [{"role": "system", "content": "S"}, {"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "x"}]
    for n in range(4)
]
LAST = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, *CHATS[3][1:]]
EXAMPLES = [*({"messages": chat} for chat in CHATS[:3]), {"messages": LAST}]


ENDED = ([*chat[1:-1], {"role": "assistant", "content": "r" * n}] for n, chat in enumerate(CHATS))
OF_SIDES = [{"side": side, "question": f"Say {n}", "reply": side} for side in "AB" for n in range(4)]
NOT_ALL = "1 of 4 rows; none to rows 1, 3 and 4; several .* to row 2, of which the first counts; 1 are to other"
REPLIED = [
    ([{"prompt": f" Say  {n}", "reply": f"r{n}", "completion": "x"} for n in range(4)], "r0 r1 r2 r3", "4 of 4 rows."),
    ([{"messages": chat} for chat in ENDED], " r rr rrr", "4 of 4 rows."),
    ([{"messages": one["messages"][:-1], "response": "r"} for one in EXAMPLES], "r r r r", "4 of 4 rows."),
    ([{"prompt": one, "reply": two} for one, two in (("Say 1", "a"), ("Say 1", "b"), ("?", "c"))], "- a - -", NOT_ALL),
    ([{"prompt": "Say 0", "reply": None}, {"prompt": "Say 1", "reply": ""}], "-  - -", "1 of 4 rows; none to rows"),
    ([{"example": 9, "prompt": "<im>", **one, "stamp": {"a": 1}} for one in OF_SIDES], "B B B B", "4 of 4"),
]


@pytest.mark.parametrize(("rows", "replies", "words"), REPLIED)
def test_recorded_replies_are_joined_by_the_prompt(tmp_path, rows, replies, words):
    examples = check_file(jsonl(tmp_path, *EXAMPLES)).examples
    (folder := tmp_path / "old").mkdir()
    found = join(read_replies(jsonl(folder, *rows), 10**6, side="B"), examples)
    assert [said.reply if (said := found.replies.get(row)) else "-" for row in range(1, 5)] == replies.split(" ")
    assert re.search(words, found.words)


def test_a_file_without_replies_says_what_it_takes_and_one_of_several_sides_whose(tmp_path):
    for rows, words in (
        ([{"prompt": "Say 1"}], "has the columns prompt. It takes rows with prompt and reply"),
        ([{"prompt": "Say 1", "reply": None}, {"prompt": "Say 2", "reply": None}], "(holds no reply|has the columns)"),
        ([{"example": 1, "side": s, "question": "Q", "reply": "r"} for s in "AB"], "holds replies of A, B. Say whose"),
    ):
        refused(words, read_replies, jsonl(tmp_path, *rows), 10**6)
    file = put(tmp_path, "own.csv", "question,answer,today\nSay 1,one,ONE\nSay 2,two,\n")
    joined = join(read_replies(file, 10**6, "today"), check_file(file).examples, same_file=True)
    assert (joined.replies[1].reply, joined.missing) == ("ONE", (2,))
    packed = zipped(tmp_path, {"own.csv": file.read_text("utf-8")})
    assert [one.reply for one in read_replies(packed, 10**6, "today")] == ["ONE"]
    both = zipped(tmp_path, {"a.csv": "prompt,reply\nSay 1,a", "b.csv": "prompt,reply\nSay 2,b"})
    refused("rows.zip holds 2 files, and replies are read from one. Name that one", read_replies, both, 10**6)
    refused("has no column 'yesterday'. It has question, answer, today", read_replies, file, 10**6, "yesterday")


PLACE = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather of a city.", "parameters": PLACE}
TOOLS = [{"type": "function", "function": WEATHER}]
ASKED, SAID = {"role": "user", "content": "Rome?"}, {"role": "assistant", "content": "Hot."}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def called(arguments='{"city":"Rome"}', id="c1", name="get_weather"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls, **more):
    return {"role": "assistant", "content": None, "tool_calls": [*calls], **more}


def result(id="c1", content="hot"):
    return {"role": "tool", "tool_call_id": id, "content": content}


FORMS = map(json.loads, Path(__file__).with_name("forms.jsonl").read_text("utf-8").splitlines())
FORMS = {row.pop("form"): row for row in FORMS}
"""The same chat as programs write it."""


@pytest.mark.parametrize("form", FORMS)
def test_calls_of_tools_are_read_in_every_form(form, tmp_path):
    checked = check_file(jsonl(tmp_path, *[{"tools": TOOLS} | FORMS[form]] * 2))
    offered, *turns = checked.examples[0].messages
    assert json.loads(offered.content) == TOOLS
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert [turn.content for turn in turns] == ["Rome?", CALL, "hot", "Hot."]
    assert (checked.unused, checked.mapping.get("tools")) == ((), "functions" if form == "functions" else "tools")
    taken = check_file(put(tmp_path, "taken.jsonl", good_rows_jsonl(checked)))
    assert taken.examples == checked.examples, "taken away and read again"


def test_an_answer_of_calls_beside_its_tools_and_two_answers_are_read_as_calls(tmp_path):
    answers = '[{"name": "get_weather", "arguments": {"city": "Rome"}}]'
    asked = {"query": "Rome?", "answers": answers, "tools": json.dumps([WEATHER])}
    row = check_file(jsonl(tmp_path, asked, asked)).examples[0]
    assert ([turn.role for turn in row.prompt], row.completion) == (["tools", "user"], CALL)
    two = {"prompt": [ASKED], "chosen": [calling(called())], "rejected": [SAID], "tools": TOOLS}
    pair = check_file(jsonl(tmp_path, two, two)).others[0]
    assert ([turn.role for turn in pair.prompt], *pair.answers) == (["tools", "user"], CALL, "Hot.")
    calls = calling(called(), called('{"city": "Oslo"}', "c2"))
    row = check_file(jsonl(tmp_path, {"messages": [ASKED, calls, result("c2", "cold"), result(), SAID]})).examples[0]
    assert [turn.content for turn in row.messages if turn.role == "tool"] == ["hot", "cold"], "as they were called"


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([calling(called(name="get_time")), result()], "turn 2 calls get_time, which is none of its tools (get_weat"),
        ([calling(called("{}")), result()], "turn 2 calls get_weather without city, which it must have"),
        ([calling(called("{city")), result()], "turn 2 calls get_weather with arguments that are no JSON: '{city'"),
        ([calling(called("[1]")), result()], "turn 2 calls get_weather with arguments that are no JSON object"),
        ([calling(called()), result("c9")], "no call of turn 2 has the id 'c9' of a result"),
        ([calling(called(), called(id="c2")), result()], "turn 2 makes 2 calls, and 1 results follow"),
        ([calling(called())], "turn 2 makes 1 calls, and 0 results follow"),
        ([result()], "turn 2 is a tool's result, and nothing was called before"),
    ],
)
def test_calls_that_do_not_fit_their_tools_are_bad_rows(turns, reason, tmp_path):
    good = FORMS["openai"] | {"tools": TOOLS}
    bad = check_file(jsonl(tmp_path, good, {"messages": [ASKED, *turns, SAID], "tools": TOOLS})).bad[0]
    assert bad.reason.startswith(reason)
    assert bad.fix.endswith("leave the row out.")
