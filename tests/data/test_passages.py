from playground.data.retrieval import Documents, passages_of, read_documents, with_documents, with_passages
from tests.data.conftest import chat, put, usable
from tests.refused import refused

TEXT = "# Wards\n\nWard 7 has 12 beds.\n\nVisiting hours end at 8 pm.\n\n" + "A long sentence about meals. " * 40


def test_paragraphs_are_put_together_and_long_ones_cut_between_sentences():
    found = passages_of(TEXT, words=30)
    assert found[0].startswith("# Wards\nWard 7 has 12 beds.\nVisiting hours")
    assert all(len(passage.split()) <= 30 for passage in found)
    assert all(passage.endswith(("meals.", "pm.")) for passage in found)
    assert " ".join(" ".join(found).split()) == " ".join(TEXT.split())
    assert [len(piece.split()) for piece in passages_of("word " * 100, words=30)] == [30, 30, 30, 10]
    assert passages_of(" \n\n ") == []


def test_the_nearest_come_first_and_none_that_shares_no_word():
    documents = Documents(["Ward 7 has 12 beds.", "Visiting hours end at 8 pm.", "Meals are at noon."])
    assert documents.nearest("When do visiting hours end?")[0] == "Visiting hours end at 8 pm."
    assert documents.nearest("zebra") == ()
    assert documents.nearest("") == ()
    assert Documents(["one cat", "two dogs", "three dogs barking"]).places("barking dogs") == [2, 1, 0]


def test_rows_are_told_and_keep_their_numbers():
    rows = usable(*(chat(f"Beds in ward {n}?", "12", row=n) for n in (3, 7)))
    found = with_documents(rows, Documents(["Ward 7 has 12 beds.", "Ward 3 is closed."]))
    assert [row.row for row in found.examples] == [3, 7]
    asked = found.examples[0].messages[0].content
    assert asked.startswith("Passages:\n[1] Ward 3 is closed.\n\n[2] Ward 7 has 12 beds.")
    assert asked.endswith("Beds in ward 3?")
    assert with_passages("How many?", ()) == "How many?"
    assert found.examples[0].completion == "12"


def test_files_and_folders_and_what_is_none(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, content in (("a.md", "One thing."), ("deep/b.txt", "Another thing."), ("c.pdf", "%PDF")):
        put(tmp_path, name, content)
    assert read_documents(tmp_path).passages == ["One thing.", "Another thing."]
    put(tmp_path, "empty.txt", " ")
    put(tmp_path, "latin.txt", b"caf\xe9")
    (tmp_path / "other").mkdir()
    says = {"c.pdf": "is not a text", "none.txt": "There is no file", "empty.txt": "nothing in", "latin.txt": "UTF-8"}
    for name, words in {**says, "other": "no text"}.items():
        refused(words, read_documents, tmp_path / name)
