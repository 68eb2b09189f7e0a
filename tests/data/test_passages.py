from __future__ import annotations

from pathlib import Path

import pytest

from playground.data.example import Checked, Example, Message
from playground.data.retrieval import Documents, passages_of, read_documents, with_documents, with_passages
from playground.errors import InputError

TEXT = "# Wards\n\nWard 7 has 12 beds.\n\nVisiting hours end at 8 pm.\n\n" + "A long sentence about meals. " * 40


def test_paragraphs_are_put_together_and_long_ones_cut_between_sentences() -> None:
    found = passages_of(TEXT, words=30)
    assert found[0].startswith("# Wards\nWard 7 has 12 beds.\nVisiting hours")
    assert all(len(passage.split()) <= 30 for passage in found)
    assert all(passage.endswith(("meals.", "pm.")) for passage in found)
    assert " ".join(" ".join(found).split()) == " ".join(TEXT.split())
    assert [len(piece.split()) for piece in passages_of("word " * 100, words=30)] == [30, 30, 30, 10]
    assert passages_of(" \n\n ") == []


def test_the_nearest_come_first_and_none_that_shares_no_word() -> None:
    documents = Documents(["Ward 7 has 12 beds.", "Visiting hours end at 8 pm.", "Meals are at noon."])
    assert documents.nearest("When do visiting hours end?")[0] == "Visiting hours end at 8 pm."
    assert documents.nearest("zebra") == ()
    assert documents.nearest("") == ()
    assert Documents(["one cat", "two dogs", "three dogs barking"]).places("barking dogs") == [2, 1, 0]


def test_a_question_with_passages_and_without() -> None:
    assert with_passages("How many?", ()) == "How many?"
    asked = with_passages("How many?", ("Ward 7 has 12 beds.", "Noon."))
    assert asked.index("[1] Ward 7") < asked.index("[2] Noon.") < asked.index("How many?")


def test_rows_are_told_and_keep_their_numbers() -> None:
    rows = tuple(Example((Message("user", f"Beds in ward {n}?"), Message("assistant", "12")), n) for n in (3, 7))
    found = with_documents(Checked("chat", "sft", 9, rows), Documents(["Ward 7 has 12 beds.", "Ward 3 is closed."]))
    assert [row.row for row in found.examples] == [3, 7]
    assert found.examples[0].messages[0].content.startswith("Passages:\n[1] Ward 3 is closed.")
    assert found.examples[0].completion == "12"


def test_files_and_folders_and_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("One thing.")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("Another thing.")
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    assert read_documents(tmp_path).passages == ("One thing.", "Another thing.")
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, words in (
        ("c.pdf", "is not a text"),
        ("none.txt", "There is no file"),
        ("empty.txt", "nothing in"),
        ("latin.txt", "UTF-8"),
    ):
        with pytest.raises(InputError, match=words):
            read_documents(tmp_path / name)
    with pytest.raises(InputError, match="no text"):
        read_documents((tmp_path / "other").mkdir() or tmp_path / "other")
