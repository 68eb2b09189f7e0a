"""Advice: each sentence is said of the rows that it is about, and of nothing else."""

import random
import time
from pathlib import Path

import pytest

from playground.data.advice import MOST_ROWS, advise, personal, script
from playground.data.check import check_file
from playground.data.example import Checked, FilePart, Judged, Message, Passage, Preference, RowWarning
from playground.data.split import near_duplicates
from tests.data.conftest import chat, lengths, usable

WORDS = """
lamp chair kettle sofa mirror table carpet basket blanket teapot shelf clock fan drawer bench vase
broke arrived rattled vanished cracked leaked faded wobbled jammed squeaked peeled rusted
"""


def prose(seed, words=14):
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS.split()) for _ in range(words))


def rows(count=60, *pairs, **more):
    """Good rows (different questions, different answers, one language) and then these pairs."""
    every = [*((prose(at), prose(at + 10_000)) for at in range(count)), *pairs]
    return usable(*(chat(*pair, row=row) for row, pair in enumerate(every, 1)), **more)


def labelled(*answers, **more):
    return rows(0, *((prose(at), answer) for at, answer in enumerate(answers)), **more)


def judged(good, bad):
    asked = enumerate(((Message("user", prose(at)),) for at in range(good + bad)), 1)
    return usable(*(Judged(prompt, prose(row + 900), row <= good, row) for row, prompt in asked))


def systems(*each):
    """Good rows with these system prompts; none for an empty text."""
    return usable(*(chat(prose(row), prose(row + 500), row=row, system=text) for row, text in enumerate(each, 1)))


CONFLICTS = {"warnings": tuple(RowWarning(row, "same prompt as row 1, another answer", "conflict") for row in (7, 9))}
FIRST = "The blue kettle that I ordered last week arrived with a dent in its lid, can you send me another one?"
ALMOST = FIRST.replace("dent", "crack")
KETTLES = rows(60, *((asked, prose(1, 20)) for asked in (FIRST, ALMOST, FIRST.upper())))
TWO_FILES = rows(0, (FIRST, "a b c d e"), (ALMOST, "a b c d e"), files=(FilePart("a", 1, 1), FilePart("b", 2, 1)))
DOMINANT = labelled(*["bill"] * 70, *["back"] * 20, *["other"] * 10)
GAPS = rows(60, ("one", "N/A"), ("two", " todo "), ("three", "-"))
LEAK = rows(60, ("Copy: It leaks from the lid. Thanks", "it leaks  from the lid."))
CYRILLIC = rows(60, ("Translate it", "Он сломался вчера"), ("Again", "Это не работает"))
BRIEF, ONE_TOLD = ["Be brief."] * 58, systems(*[""] * 59, "Be brief.")
PAIRS = [Preference((Message("user", prose(at)),), prose(at + 500), prose(at + 900), at + 1) for at in range(60)]
PAIRS[3] = Preference(PAIRS[3].prompt, "N/A", "call +49 30 1234567", 4)
SAID = [
    *((kind, usable(*PAIRS), (4,), "warn", "") for kind in ("empty-looking", "personal")),
    *(("few", rows(count), (), "warn" if count < 10 else "note", f" {count} row") for count in (1, 9, 10, 49)),
    ("dominant", DOMINANT, tuple(range(1, 51)), "warn", "'bill' is the answer in 70 of 100 rows (70%)"),
    ("dominant", judged(58, 2), (), "warn", "58 of 60 answers are labelled good"),
    ("same-answer", labelled(*["bill"] * 60), (), "warn", "All 60 answers are the same"),
    ("conflict", rows(60, **CONFLICTS), (7, 9), "note", "rows 7 and 9"),
    ("conflict", labelled(*["a", "b"] * 30, **CONFLICTS), (7, 9), "warn", "rows 7 and 9"),
    ("empty-looking", GAPS, (61, 62, 63), "warn", "like a gap"),
    ("near-duplicate", KETTLES, (61, 62, 63), "note", "Rows 61 and 62 are nearly the same, and so is 1 other row"),
    ("near-duplicate", TWO_FILES, (1, 2), "warn", "Rows a 1 and b 1 are nearly the same."),
    ("leak", LEAK, (61,), "note", "whole answer"),
    ("script", CYRILLIC, (61, 62), "note", "Cyrillic"),
    ("system-prompt", systems(*BRIEF, "", ""), (59, 60), "note", "2 rows lack a system prompt, the others have "),
    ("system-prompt", ONE_TOLD, (60,), "note", "1 row has a system prompt, the others have none"),
    ("system-prompt", systems(*BRIEF, "Be rude.", "Be kind."), (59, 60), "note", "another system prompt"),
]


@pytest.mark.parametrize(("kind", "found", "where", "level", "says"), SAID)
def test_said_of_the_rows_it_is_about(kind, found, where, level, says):
    (advice,) = (each for each in advise(found) if each.kind == kind)
    assert (advice.rows, advice.level) == (where, level)
    assert says in advice.text
    assert ("!" in advice.text, advice.text[-1] in ".?") == (False, True)


SILENT = {
    "good rows": rows(),
    "nothing": Checked("text", "text", 0, ()),
    "three labels alike": labelled(*"abc" * 33),
    "two labels": labelled(*["yes"] * 60, *["no"] * 40),
    "other answers": labelled(*(f"answer {at}" for at in range(100))),
    "both judgements": judged(40, 20),
    "duplicates": rows(60, warnings=(RowWarning(3, "the same as row 1", "duplicate"),)),
    "short answers": rows(60, ("q one", "None"), ("q two", "No."), ("q three", "7"), ("q four", "👍")),
    "the same question, another answer": rows(60, (FIRST, prose(1, 20)), (FIRST, prose(2, 20))),
    "a few words": rows(60, ("Is it, or no?", "or no"), ("Some prompt of mine here", "some prompt of yours here")),
    "one script": rows(60, ("Translate it", "Naïve Grüße, élève: 12 € – “fin”")),
    "half and half": labelled(*(prose(at + 500) if at % 2 else "Это не работает " + "да " * at for at in range(60))),
    "one system prompt": systems(*["Be brief."] * 60),
    "a system prompt each": systems(*(f"You are {at}." for at in range(60))),
}


@pytest.mark.parametrize("name", SILENT)
def test_nothing_is_said_of(name):
    assert advise(SILENT[name]) == ()


@pytest.mark.parametrize("name", ["brand_voice", "hospital_reports", "support_json"])
def test_the_shipped_sets_hear_no_warning(name):
    found = advise(check_file(Path(__file__).parents[2] / "examples" / f"{name}.jsonl"))
    assert {(advice.kind, advice.level) for advice in found} <= {("near-duplicate", "note")}


def test_lengths_are_told_where_tokens_are_counted_and_warnings_come_first():
    text = usable(Passage("word " * 50, 1))
    assert "50 tokens" in advise(text, lengths((0, 50), packed=True))[0].text
    assert advise(text, lengths((0, 50_000), packed=True)) == advise(rows(), lengths(*[(20, 20)] * 60)) == ()
    leak = ("Copy: It leaks from the lid.", "It leaks from the lid.")
    found = advise(rows(60, ("Mail me at a@b.de", "N/A"), leak, ("x", "Он сломался")))
    assert [advice.level for advice in found] == ["warn", "warn", "note", "note"], "warnings come first"
    (few,) = advise(rows(60), lengths((150, 20), *[(20, 20)] * 59))
    assert (few.kind, few.rows, few.level) == ("long", (1,), "note")
    assert few.text.startswith("1 row is longer than 100 tokens (row 1): the start of the prompt is cut there, 70")
    (many,) = advise(rows(60), lengths(*[(150, 20)] * 60))
    assert (len(many.rows), many.level) == (MOST_ROWS, "warn")
    assert "60 rows are longer than 100 tokens (rows 1, 2, 3, 4, 5 and 55 more)" in many.text


PERSONAL = [
    *(("Write to jane.doe@gmail.com please", "e-mail"), ("Call +49 30 1234567 today", "phone")),
    *(("Call me: (212) 555-2368.", "phone"), ("my phone is 0171 2345678", "phone")),
    *(("card 4111 1111 1111 1111 expires soon", "card"), ("378282246310005", "card")),
    *(("IBAN DE89 3704 0044 0532 0130 00", "iban"), ("GB82WEST12345698765432", "iban")),
]
NOT_PERSONAL = [
    *("Order 59005, invoice 2024-11-03, room 12", "4111 1111 1111 1112", "1234567890123456", "2024-01-02 10:20:30"),
    *("DE89 3704 0044 0532 0130 01", "BP 110/70, pulse 96, 38.3 °C", "192.168.100.100", "write to me@example.com"),
    *("3.141592653589793", "version 1.2.3-4567890", "In 2019-2023 it grew by 1 200 000", "0000 0000 0000 0000"),
    *("ISBN 978-3-16-148410-0", "@user said 5", "1 + 2 + 3 = 6", "550e8400-e29b-41d4-a716-446655440000"),
]


@pytest.mark.parametrize(("text", "kind"), PERSONAL)
def test_personal_data_is_told_without_showing_it(text, kind):
    assert personal(text) == {kind}
    (found,) = advise(rows(60, (f"A question. {text}", "a plain answer here")))
    assert (found.kind, found.rows, found.level) == ("personal", (61,), "warn")
    assert text not in found.text


def test_other_numbers_are_not_personal_and_scripts_are_told():
    assert [text for text in NOT_PERSONAL if personal(text)] == []
    known = {"日本語です": "Chinese or Japanese", "한국어예요": "Korean", "שלום לכם": "Hebrew"}
    known |= {"Wörter": "Latin", "12 + 3": ""}
    assert {text: script(text) for text in known} == known


def test_what_is_near():
    text = prose(1, 40)
    document = prose(2, 900)
    asked = "What did the author of it say about rust in the winter of that year?"
    other = "Which towns were visited, why, by whom, and how often after all?"
    for one, second, near in (
        (text, text, False),  # the very same text is a duplicate, not nearly one
        (text, text.replace(" ", "  ").title() + "!", True),
        (text, f"{text.rpartition(' ')[0]} other", True),
        (f"{text} 12", f"{text} 13", False),
        ("How do I add a card?", "How do I add a bank?", False),
        (f"{document} {asked}", f"{document} {other}", False),
    ):
        assert near_duplicates([one, second]) == [(0, 1)] * near
    chance = random.Random(4)
    many = [prose(at, 60).split() for at in range(300)]
    places = [chance.randrange(60) for _ in many]
    changed = [[*words[:at], "changed", *words[at + 1 :]] for at, words in zip(places, many, strict=True)]
    found = near_duplicates([" ".join(words) for words in many + changed])
    assert len(found) > 290
    assert all(later == first + 300 for first, later in found)


def test_near_duplicates_are_found_in_a_time_that_grows_with_the_rows():
    def seconds(count):
        text = "Dear team, my order {} has not come yet, please look into it and tell me {}"
        texts = [text.format(prose(at, 3), prose(at, 2)) for at in range(count)]
        start = time.process_time()
        near_duplicates(texts)
        return time.process_time() - start

    small = min(seconds(500) for _ in range(3))
    assert seconds(8_000) < 16 * small * 5 + 1  # all rows alike: the worst case
