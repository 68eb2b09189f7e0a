"""Kept versions of a prompt: one file an owner, whole or not there."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.verdict.bench import LETTERS_MAX, VERSIONS_MAX, PromptBook, Score
from playground.workspace.visitors import owner_of

ANNA, BEN = owner_of("a" * 32, ""), owner_of("b" * 32, "")


@pytest.fixture
def book(tmp_path: Path) -> PromptBook:
    return PromptBook(tmp_path / "prompts", clock=lambda: 7.0)


def test_versions_keep_their_order_and_their_ids(book: PromptBook) -> None:
    assert [book.keep(text).id for text in (" Be glad. ", "Be brief.", "Be glad.")] == ["v1", "v2", "v1"]
    assert book.keep("Be glad.", file="other.jsonl").id == "v3", "the same words for other examples are another version"
    book.remove("v3")
    assert book.keep("New.").id == "v4", "an id is never given twice"
    assert [(one.id, one.text, one.when_s) for one in book.versions()] == [
        ("v1", "Be glad.", 7.0),
        ("v2", "Be brief.", 7.0),
        ("v4", "New.", 7.0),
    ]
    with pytest.raises(NotFoundError, match="v1, v2, v4"):
        book.remove("v3")


def test_the_last_score_stays_for_each_file_and_number_of_shots(book: PromptBook) -> None:
    book.keep("Be glad.")

    def score(value: float, shots: int = 0, file: str = "a") -> Score:
        return Score(file, shots, "json", value, 10, int(10 * value), 20.0, 1.0, "b")

    book.note("one", {"Be glad.": [score(0.1), score(0.2, 4)], "Gone.": [score(1.0)]})
    book.note("two", {"Be glad.": [score(0.5), score(0.6, file="b")]})
    (version,) = PromptBook(book.file("local").parent).versions()
    assert sorted((one.file, one.shots, one.value) for one in version.scores) == [
        ("a", 0, 0.5),
        ("a", 4, 0.2),
        ("b", 0, 0.6),
    ]
    assert book.noted() == {"one", "two"}


def test_too_much_or_nothing_is_refused(book: PromptBook) -> None:
    for text, words in ((" \n", "no text"), ("x" * (LETTERS_MAX + 1), "letters long")):
        with pytest.raises(InputError, match=words):
            book.keep(text)
    for n in range(VERSIONS_MAX):
        book.keep(f"Number {n}")
    with pytest.raises(InputError, match="Remove one"):
        book.keep("One more")
    assert book.keep("Number 3").id == "v4", "what is there may be kept again"


def test_one_owner_never_sees_anothers(book: PromptBook) -> None:
    book.keep("Secret.", ANNA)
    assert book.versions(BEN) == []
    with pytest.raises(NotFoundError):
        book.get("v1", BEN)
    for wrong in ("../x", "", f"{ANNA}/../x", "anna"):
        with pytest.raises(NotFoundError):
            book.versions(wrong)
    book.forget(ANNA)
    assert book.owners() == set()
    assert list(book.file("local").parent.iterdir()) == []


def test_a_file_that_cannot_be_read_is_told_and_left_alone(book: PromptBook) -> None:
    book.keep("Be glad.")
    file = book.file("local")
    for wrong in ("{", "[]", '{"schema": 1}', json.dumps({"schema": 2, "versions": [], "next": 1, "noted": []})):
        file.write_text(wrong)
        for call in (book.versions, lambda: book.keep("x")):
            with pytest.raises(PlaygroundError, match="cannot be read"):
                call()
        assert file.read_text() == wrong


def test_writers_beside_each_other_lose_nothing(book: PromptBook) -> None:
    def write(start: int) -> None:
        mine = PromptBook(book.file("local").parent)
        for n in range(start, start + 10):
            mine.keep(f"Number {n}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, (0, 10, 20)))
    assert {one.id for one in book.versions()} == {f"v{n}" for n in range(1, 31)}
