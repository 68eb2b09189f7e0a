import pytest

from playground.data.check import check_file
from playground.data.files import MEBI, read_records
from playground.data.retrieval import Documents, passages_of, read_documents, with_documents, with_passages
from playground.data.turns import Unusable
from tests.data.conftest import chat, pdf, put, usable, word
from tests.refused import refused

TEXT = "# Wards\n\nWard 7 has 12 beds.\n\nVisiting hours end at 8 pm.\n\n" + "A long sentence about meals. " * 40


def test_paragraphs_are_put_together_long_ones_cut_and_the_nearest_come_first():
    found = passages_of(TEXT, words=30)
    assert found[0].startswith("# Wards\nWard 7 has 12 beds.\nVisiting hours")
    assert all(len(passage.split()) <= 30 for passage in found)
    assert all(passage.endswith(("meals.", "pm.")) for passage in found)
    assert " ".join(" ".join(found).split()) == " ".join(TEXT.split())
    assert [len(piece.split()) for piece in passages_of("word " * 100, words=30)] == [30, 30, 30, 10]
    assert passages_of(" \n\n ") == []
    documents = Documents(["Ward 7 has 12 beds.", "Visiting hours end at 8 pm.", "Meals are at noon."])
    assert documents.nearest("When do visiting hours end?")[0] == "Visiting hours end at 8 pm."
    assert (documents.nearest("zebra"), documents.nearest("")) == ((), ())
    assert Documents(["one cat", "two dogs", "three dogs barking"]).places("barking dogs") == [2, 1, 0]


def test_rows_are_told_and_keep_their_numbers():
    rows = usable(*(chat(f"Beds in ward {n}?", "12", row=n) for n in (3, 7)))
    found = with_documents(rows, Documents(["Ward 7 has 12 beds.", "Ward 3 is closed."]))
    assert [row.row for row in found.examples] == [3, 7]
    asked = found.examples[0].messages[0].content
    assert asked.startswith("Passages:\n[1] Ward 3 is closed.\n\n[2] Ward 7 has 12 beds.")
    assert asked.endswith("Beds in ward 3?")
    assert (with_passages("How many?", ()), found.examples[0].completion) == ("How many?", "12")


def test_files_and_folders_and_what_is_none(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, content in (("a.md", "One thing."), ("deep/b.txt", "Another thing."), ("c.csv", "a,b")):
        put(tmp_path, name, content)
    assert read_documents(tmp_path).passages == ["One thing.", "Another thing."]
    put(tmp_path, "empty.txt", " ")
    put(tmp_path, "latin.txt", b"caf\xe9")
    (tmp_path / "other").mkdir()
    says = {"c.csv": "is not a document", "none.txt": "There is no file", "empty.txt": "nothing in", "other": "no text"}
    for name, words in {**says, "latin.txt": "UTF-8"}.items():
        refused(words, read_documents, tmp_path / name)


WRAPPED = "A ward has twelve beds and four rooms, each of the\nrooms has a window to the gar-\nden.\nVisits end at 8."
STORY = """
<w:p><w:pPr><w:pStyle w:val="H2"/></w:pPr><w:r><w:t>Wards</w:t></w:r></w:p>
<w:p><w:r><w:t xml:space="preserve">Ward 7 has </w:t></w:r><w:del><w:r><w:delText>10</w:delText></w:r></w:del>
<w:ins><w:r><w:t>12</w:t></w:r></w:ins><w:hyperlink><w:r><w:t> beds.</w:t></w:r></w:hyperlink></w:p>
<w:sdt><w:sdtContent><w:p><w:r><w:t>Line one</w:t><w:br/><w:t>line two</w:t></w:r></w:p></w:sdtContent></w:sdt>
<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Day</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>Meal</w:t></w:r></w:p></w:tc></w:tr>
<w:tr><w:tc><w:p><w:r><w:t>Monday</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>Soup</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
"""


def test_a_pdf_is_a_row_a_page_and_a_word_document_its_passages_under_their_headings_as_it_now_reads(tmp_path):
    file = put(tmp_path, "guide.pdf", pdf(WRAPPED, None, "Meals are at noon."))
    shares = []
    first, blank, last = [row for _, row in read_records(file, MEBI, shares.append).rows]
    assert first == {"text": WRAPPED.replace("gar-\n", "gar").replace("the\n", "the ")}
    assert isinstance(blank, Unusable)
    assert (last, shares[-1]) == ({"text": "Meals are at noon."}, 1)
    checked = check_file(file)
    assert (checked.objective, checked.good, [bad.row for bad in checked.bad]) == ("text", 2, [2])
    assert read_documents(file).nearest("When are meals?")[0] == "(guide.pdf, page 3) Meals are at noon."
    assert len(read_records(put(tmp_path, "open.pdf", pdf("Text.", password="")), MEBI).rows) == 1
    file = put(tmp_path, "wards.docx", word(STORY))
    rows = [row["text"] for _, row in read_records(file, MEBI).rows]
    assert rows == ["## Wards\n\nWard 7 has 12 beds.", "Line one\nline two", "Day | Meal\nMonday | Soup"]
    assert read_documents(file).nearest("soup on Monday")[0].endswith("Monday | Soup")


UNREADABLE = {
    "scan.pdf": (lambda: pdf(None, None), "2 pages without any text: they are blank, or pictures"),
    "locked.pdf": (lambda: pdf("Text.", password="secret"), "has a password"),
    "damaged.pdf": (lambda: pdf("Text.")[:300], "is no PDF document, or damaged"),
    "other.pdf": ("not a PDF", "it does not begin as one"),
    "old.docx": (b"\xd0\xcf\x11\xe0", "has a password, or is an old .doc"),
    "empty.docx": (lambda: word(""), "has no text"),
    "cut.docx": (lambda: word(STORY)[:500], "is no Word document"),
    "sheet.docx": (lambda: word(STORY, part="xl/workbook.xml"), "is no Word document"),
    "broken.docx": (lambda: word("<w:p>"), "is no Word document"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_document_that_cannot_be_read_is_one_sentence(name, tmp_path):
    content, says = UNREADABLE[name]
    file = put(tmp_path, name, content)
    for read in (read_documents, check_file):
        refused(says, read, file)
