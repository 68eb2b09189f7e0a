"""Raw text -> rows of one length."""

from __future__ import annotations

from typing import Any

import pytest

from playground.data.example import Passage
from playground.data.render import pack
from playground.errors import InputError


class Letters:
    """A token a letter; 0 is the end."""

    eos_token_id = 0

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}


def passages(*texts: str) -> list[Passage]:
    return [Passage(text, row) for row, text in enumerate(texts, 1)]


def documents(rows: Any) -> list[str]:
    found = []
    for row in rows:
        for begin, end in zip(row.starts, (*row.starts[1:], len(row.ids)), strict=True):
            found.append("".join(chr(token) if token else "." for token in row.ids[begin:end]))
    return found


def test_every_token_once_and_documents_apart() -> None:
    rows = pack(Letters(), passages("abc", "de", "fghijklmnop", "q"), 8)
    assert sorted(documents(rows)) == sorted(["abc.", "de.", "fghijklm", "nop.", "q."])
    assert all(len(row.ids) <= 8 for row in rows)
    assert len(rows) == 3, "short ones share a row"
    assert all(row.starts[0] == 0 for row in rows)


def test_the_order_is_kept_as_far_as_rows_fill() -> None:
    rows = pack(Letters(), passages(*("x" * 3,) * 10), 8)
    assert [len(row.ids) for row in rows] == [8, 8, 8, 8, 8]


def test_a_lone_token_is_left_out() -> None:
    assert documents(pack(Letters(), passages("abcdefgh"), 8)) == ["abcdefgh"]


def test_too_short() -> None:
    with pytest.raises(InputError, match="at least 2"):
        pack(Letters(), passages("a"), 1)
