"""Examples -> train, validation and test, seeded, with no prompt in two of them."""

import pytest

from playground.data.example import Example, Message, Passage, Preference
from playground.data.split import Parts, part, row_hash, split
from playground.errors import InputError
from tests.data.conftest import chat


def examples(*prompts: str) -> list[Example]:
    return [chat(prompt, f"a{n}", row=n) for n, prompt in enumerate(prompts, 1)]


def sizes(parts: Parts) -> tuple[int, int, int]:
    return len(parts.train), len(parts.validation), len(parts.test)


@pytest.mark.parametrize(
    ("rows", "validation", "test", "expected"),
    [
        *((0, 0.1, 0.15, (0, 0, 0)), (1, 0.1, 0.15, (1, 0, 0)), (9, 0.5, 0.4, (9, 0, 0)), (10, 0.1, 0.15, (9, 1, 0))),
        *((12, 0.01, 0.01, (11, 1, 0)), (19, 0.1, 0.5, (17, 2, 0)), (20, 0.1, 0.15, (15, 2, 3))),
        *((100, 0.1, 0.15, (75, 10, 15)), (100, 0.0, 0.0, (100, 0, 0)), (100, 0.1, 0.0, (90, 10, 0))),
        *((100, 0.0, 0.2, (80, 0, 20)), (5000, 0.1, 0.15, (4868, 32, 100))),
    ],
)
def test_sizes(rows, validation, test, expected):
    every = examples(*(f"q{n}" for n in range(rows)))
    parts = split(every, 7, validation, test)
    assert sizes(parts) == expected
    assert sorted((*parts.train, *parts.validation, *parts.test)) == [row.row for row in every]
    assert all(list(one) == sorted(one) for one in (parts.train, parts.validation, parts.test))
    assert [row.row for row in part(every, parts.validation)] == list(parts.validation)
    assert parts.as_record()["train"] == expected[0]
    assert split(every, 7, validation, test) == parts
    assert rows < 100 or not test or split(every, 2, validation, test).test != parts.test


@pytest.mark.parametrize("seed", range(5))
def test_same_prompts_stay_together(seed):
    every = examples(*(f"Question  {n // 3}?" if n % 2 else f"question {n // 3} " for n in range(90)))
    parts = split(every, seed)
    assert sizes(parts)[1:] in ((9, 12), (9, 13), (9, 14))
    groups = [{(row - 1) // 3 for row in one} for one in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, groups)) == 30


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(50, 0, (50, 0, 0)), (40, 10, (40, 0, 10)), (15, 5, (15, 0, 5)), (200, 100, (300, 0, 0))],
)
def test_large_groups(one, other, expected):
    assert sizes(split(examples(*"a" * one, *"b" * other), 3, 0.05, 0.05)) == expected


def test_raw_text_and_preferences_are_split_too():
    parts = split([Passage(f"Text {n // 2}", n) for n in range(60)], 1)
    assert all(n ^ 1 in parts.test for n in parts.test), "the same text stays together"
    pairs = [Preference((Message("user", f"q{n}"),), "a", "b", n) for n in range(40)]
    assert sizes(split(pairs, 1)) == (30, 4, 6)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (1.0, 0.0), (0.1, 2.0), (0.5, 0.5)])
def test_wrong_shares(validation, test):
    with pytest.raises(InputError, match=r"from 0|leave nothing"):
        split(examples("q"), 1, validation, test)


def test_a_row_is_known_again_whatever_its_spaces():
    one, other = examples("What  is it?", "what is it? ")
    assert row_hash(one) != row_hash(other), "another answer is another row"
    assert row_hash(chat(" what is IT?", "A1", row=9, system="Be brief.")) == row_hash(one)
