"""Examples -> train, validation and test, seeded, with no prompt in two of them."""

from datetime import date
from pathlib import Path

import pytest

from playground.data.check import check_file
from playground.data.example import Message, Passage, Preference
from playground.data.split import (
    VERDICT_ROWS,
    Columns,
    SplitBy,
    columns_of,
    hashes_of,
    overlaps,
    part,
    prompt_hash,
    row_hash,
    split,
)
from playground.errors import InputError
from playground.evaluation.decision import Terms, planned_rows
from tests.data.conftest import chat
from tests.refused import refused


def examples(*prompts):
    return [chat(prompt, f"a{n}", row=n) for n, prompt in enumerate(prompts, 1)]


def sizes(parts):
    return len(parts.train), len(parts.validation), len(parts.test)


@pytest.mark.parametrize(
    ("rows", "validation", "test", "expected"),
    [
        *((0, 0.1, 0.15, (0, 0, 0)), (1, 0.1, 0.15, (1, 0, 0)), (9, 0.5, 0.4, (9, 0, 0)), (10, 0.1, 0.15, (9, 1, 0))),
        *((12, 0.01, 0.01, (11, 1, 0)), (19, 0.1, 0.5, (17, 2, 0)), (20, 0.1, 0.15, (15, 2, 3))),
        *((100, 0.1, 0.15, (75, 10, 15)), (100, 0.0, 0.0, (100, 0, 0)), (100, 0.1, 0.0, (90, 10, 0))),
        *((20, 0.1, None, (12, 2, 6)), (240, 0.1, None, (146, 24, 70)), (5000, 0.1, None, (4218, 32, 750))),
        *((100, 0.0, 0.2, (80, 0, 20)), (5000, 0.1, 0.15, (4218, 32, 750))),
    ],
)
def test_sizes(rows, validation, test, expected):
    every = examples(*(f"q{n}" for n in range(rows)))
    parts = split(every, 7, validation, test)
    assert sizes(parts) == expected
    assert sorted((*parts.train, *parts.validation, *parts.test)) == [row.row for row in every]
    assert all(list(one) == sorted(one) for one in (parts.train, parts.validation, parts.test))
    assert [row.row for row in part(every, parts.validation)] == list(parts.validation)
    assert (parts.as_record()["train"], split(every, 7, validation, test)) == (expected[0], parts)
    assert rows < 100 or not test or split(every, 2, validation, test).test != parts.test


@pytest.mark.parametrize("seed", range(5))
def test_same_prompts_stay_together(seed):
    every = examples(*(f"Question  {n // 3}?" if n % 2 else f"question {n // 3} " for n in range(90)))
    parts = split(every, seed)
    assert sizes(parts)[1:] == (9, 27)
    groups = [{(row - 1) // 3 for row in one} for one in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, groups)) == 30


LARGE = [(50, 0, (50, 0, 0)), (40, 10, (40, 0, 10)), (15, 5, (15, 0, 5)), (200, 100, (300, 0, 0))]


@pytest.mark.parametrize(("one", "other", "expected"), LARGE)
def test_large_groups(one, other, expected):
    assert sizes(split(examples(*"a" * one, *"b" * other), 3, 0.05, 0.05)) == expected


def test_a_file_s_own_parts_are_kept_with_the_same_prompts_and_raw_text_and_preferences_are_split_too():
    every = examples(*(f"q{n % 30}" for n in range(40)))  # rows 31 to 40 ask what rows 1 to 10 do
    parts = split(every, 7, own=dict.fromkeys(range(36, 41), "test"))
    assert parts.test == (*range(6, 11), *range(36, 41)), "no prompt in two parts"
    assert len(parts.validation) == 4
    parts = split(every, 7, test=0, own={12: "validation"} | dict.fromkeys(range(36, 41), "test"))
    assert (parts.validation, len(parts.test)) == ((12,), 10)
    assert len(split(every, 7, own={12: "validation"}).test) > 0
    parts = split([Passage(f"Text {n // 2}", n) for n in range(60)], 1)
    assert all(n ^ 1 in parts.test for n in parts.test), "the same text stays together"
    pairs = [Preference((Message("user", f"q{n}"),), "a", "b", n) for n in range(40)]
    assert sizes(split(pairs, 1)) == (24, 4, 12)
    assert planned_rows(Terms()) == VERDICT_ROWS, "the default test part is what a verdict needs"


def test_rows_of_a_group_stay_together_with_all_that_share_their_prompts():
    every = examples(*(f"q{n // 2}" for n in range(60)))
    groups = {row: f"ward {row // 6}" for row in range(1, 41)}  # every second group shares a prompt with the next
    parts = split(every, 3, columns=Columns(SplitBy(group="ward"), groups))
    assert min(sizes(parts)) > 0
    for one in (parts.train, parts.validation, parts.test):
        others = {*range(1, 61)} - {*one}
        assert not {groups.get(row) for row in one} & {groups.get(row) for row in others} - {None}
        assert not {(row - 1) // 2 for row in one} & {(row - 1) // 2 for row in others}
    assert parts.as_record()["group"] == "ward"
    assert "time" not in parts.as_record()


def test_the_newest_rows_are_the_test_part():
    every = examples(*(f"q{n}" for n in range(40)))
    times = {row: float(row * 7 % 41) for row in range(1, 40)}  # row 40 has none: the oldest
    parts = split(every, 1, columns=Columns(SplitBy(time="day"), {}, times))
    newest = sorted(times, key=lambda row: times[row])[-12:]
    assert (sorted(newest), sizes(parts)) == (list(parts.test), (24, 4, 12))


@pytest.mark.parametrize("cell", ["2026-01-31", "2026-01-31T00:00:00Z", date(2026, 1, 31), "1769817600", 1769817600.0])
def test_times_are_read_as_files_write_them(cell):
    found = columns_of([(1, {"day": cell}), (2, {"day": ""}), (3, {})], SplitBy(time="day"), ["day"])
    assert found.times == {1: 1769817600.0}


def test_columns_and_shares_that_nothing_can_be_split_by_are_refused():
    for shares in ((-0.1, 0.1), (1.0, 0.0), (0.1, 2.0), (0.5, 0.5)):
        refused("from 0|leave nothing", split, examples("q"), 1, *shares)
    with pytest.raises(InputError, match=r"Row 4 has 'yesterday' in the column day, which is no time. Write times as"):
        columns_of([(4, {"day": "yesterday"})], SplitBy(time="day"), ["day"])
    refused(r"There is no column 'ward' to split by. There are: day", columns_of, [], SplitBy(group="ward"), ["day"])


def test_a_row_is_known_again_whatever_its_spaces_and_a_trained_one_by_a_prompt_that_is_nearly_the_same():
    one, other = examples("What  is it?", "what is it? ")
    assert row_hash(one) != row_hash(other), "another answer is another row"
    assert row_hash(chat(" what is IT?", "A1", row=9, system="Be brief.")) == row_hash(one)
    yes, no = (Preference((Message("user", "q"),), chosen, "b", 1) for chosen in ("a", "c"))
    assert prompt_hash(yes) == prompt_hash(no) == prompt_hash(chat("q", "d")), "an answer is no part of a prompt"
    assert prompt_hash(Passage("q", 1)) == ""
    trained = examples("Do the lamps in ward seven still work after the storm?", "Say it")
    record = hashes_of(trained)
    asked = [
        trained[0],
        chat("do the lamps in ward seven  still work after the storm?", "No."),
        chat("Do the lamps in ward eight still work after the storm?", "No."),
        chat("Do the 2 lamps in ward seven still work after the storm?", "No."),
        chat("Say them", "No."),
    ]
    assert overlaps(asked, record) == {"rows": 1, "prompts": 1, "near": 1}
    assert overlaps(asked, {"row_hashes": record["row_hashes"]}) == {"rows": 1, "prompts": None, "near": None}
    assert overlaps(asked, {"row_hashes": []})["rows"] is None, "a record without hashes tells nothing"


@pytest.mark.parametrize("name", ["hospital_reports", "support_json", "brand_voice"])
def test_one_other_word_is_nearly_the_same_and_other_rows_of_one_template_are_not(name):
    folder = Path(__file__).parents[2] / "examples"
    trained, others = (check_file(folder / f"{name}{end}.jsonl").examples for end in ("", "_heldout"))
    changed = []
    for place, row in enumerate(trained):
        words = row.messages[-2].content.split(" ")
        able = [at for at, word in enumerate(words) if not any(char.isdigit() for char in word)]
        words[able[place % len(able)]] = "instead"
        changed += [chat(" ".join(words), "Another answer")] if len(words) > 8 else []
    record = hashes_of(trained)
    assert overlaps(others, record) == {"rows": 0, "prompts": 0, "near": 0}
    found = overlaps(changed, record)["near"]
    assert found is not None
    assert found >= 0.95 * len(changed) > 100
