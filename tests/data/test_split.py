"""Examples -> train and validation, seeded, with no prompt in both."""

from __future__ import annotations

import pytest

from playground.data.example import Example, Message
from playground.data.split import split
from playground.errors import InputError


def examples(*prompts: str) -> list[Example]:
    return [Example((Message("user", prompt), Message("assistant", f"a{n}")), n) for n, prompt in enumerate(prompts, 1)]


@pytest.mark.parametrize(
    ("rows", "share", "held"),
    [
        *((0, 0.1, 0), (1, 0.1, 0), (9, 0.5, 0), (10, 0.1, 1), (12, 0.01, 1)),
        *((100, 0.1, 10), (100, 0.0, 0), (5000, 0.1, 32), (40, 0.5, 20)),
    ],
)
def test_sizes(rows: int, share: float, held: int) -> None:
    every = examples(*(f"q{n}" for n in range(rows)))
    train, validation = split(every, 7, share)
    assert (len(train), len(validation)) == (rows - held, held)
    assert sorted(train + validation, key=lambda e: e.row) == every
    assert train == sorted(train, key=lambda e: e.row)


def test_seeded() -> None:
    every = examples(*(f"q{n}" for n in range(100)))
    assert split(every, 1) == split(every, 1)
    assert split(every, 1) != split(every, 2)


@pytest.mark.parametrize("seed", range(5))
def test_same_prompts_stay_together(seed: int) -> None:
    every = examples(*(f"Question  {n // 3}" if n % 2 else f"question {n // 3} " for n in range(90)))
    train, validation = split(every, seed)
    assert len(validation) == 9
    assert not {e.row for e in train} & {e.row for e in validation}
    plain = [{" ".join(e.prompt[0].content.lower().split()) for e in part} for part in (train, validation)]
    assert not plain[0] & plain[1]


@pytest.mark.parametrize(
    ("prompts", "held"),
    [(["same"] * 50, 0), (["a"] * 40 + ["b"] * 10, 10), (["a"] * 15 + ["b"] * 5, 5), (["a"] * 200 + ["b"] * 100, 0)],
)
def test_large_groups(prompts: list[str], held: int) -> None:
    train, validation = split(examples(*prompts), 3, 0.05)
    assert (len(train), len(validation)) == (len(prompts) - held, held)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_wrong_share(share: float) -> None:
    with pytest.raises(InputError, match="from 0"):
        split(examples("q"), 1, share)
