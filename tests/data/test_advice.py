"""Advice: each sentence is said of the rows that it is about, and of nothing else."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from playground.data.advice import MOST_ROWS, Advice, advise, personal, script
from playground.data.check import check_file
from playground.data.example import Checked, Example, FilePart, Judged, Message, Passage, Preference, RowWarning
from playground.data.split import near_duplicates
from playground.data.token_counts import TokenReport
from tests.data.conftest import lengths

WORDS = """
lamp chair kettle sofa mirror table carpet basket blanket teapot shelf clock fan drawer bench vase
broke arrived rattled vanished cracked leaked faded wobbled jammed squeaked peeled rusted
"""


def prose(seed: int, words: int = 14) -> str:
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS.split()) for _ in range(words))


def checked(pairs: list[tuple[str, str]], **more: Any) -> Checked:
    turns = [(Message("user", prompt), Message("assistant", answer)) for prompt, answer in pairs]
    return Checked("chat", "sft", len(pairs), tuple(Example(each, at) for at, each in enumerate(turns, 1)), **more)


def rows(count: int = 60, *pairs: tuple[str, str], **more: Any) -> Checked:
    """Good rows (different questions, different answers, one language) and then these pairs."""
    return checked([*((prose(at), prose(at + 10_000)) for at in range(count)), *pairs], **more)


def said(found: Checked, kind: str, tokens: TokenReport | None = None) -> Advice:
    every = [advice for advice in advise(found, tokens) if advice.kind == kind]
    assert len(every) == 1, advise(found, tokens)
    return every[0]


def test_good_rows_hear_nothing() -> None:
    assert advise(rows()) == ()
    assert advise(rows(), lengths(*[(20, 20)] * 60)) == ()
    assert advise(Checked("text", "text", 0, ())) == ()


@pytest.mark.parametrize("name", ["brand_voice", "hospital_reports", "support_json"])
def test_the_shipped_sets_hear_no_warning(name: str) -> None:
    found = advise(check_file(Path(__file__).parents[2] / "examples" / f"{name}.jsonl"))
    assert {advice.kind for advice in found} <= {"near-duplicate"}
    assert {advice.level for advice in found} <= {"note"}


@pytest.mark.parametrize(("count", "level"), [(1, "warn"), (9, "warn"), (10, "note"), (49, "note")])
def test_few(count: int, level: str) -> None:
    found = said(rows(count), "few")
    assert (found.level, str(count) in found.text) == (level, True)


def test_little_raw_text() -> None:
    book = Checked("text", "text", 1, (), others=(Passage("word " * 50, 1),))
    assert "50 tokens" in said(book, "few", lengths((0, 50), packed=True)).text
    assert advise(book, lengths((0, 50_000), packed=True)) == ()


def test_long() -> None:
    few = said(rows(60), "long", lengths((150, 20), *[(20, 20)] * 59))
    assert (few.rows, few.level) == ((1,), "note")
    assert few.text.startswith(
        "1 row is longer than 100 tokens (row 1): the start of the prompt is cut there, 70 tokens at most."
    )
    many = said(rows(60), "long", lengths(*[(150, 20)] * 60))
    assert (len(many.rows), many.level) == (MOST_ROWS, "warn")
    assert "60 rows are longer" in many.text
    assert "rows 1, 2, 3, 4, 5 and 55 more" in many.text


def test_one_label_dominates() -> None:
    def labelled(*answers: str) -> Checked:
        return checked([(prose(at), answer) for at, answer in enumerate(answers)])

    found = said(labelled(*["billing"] * 70, *["returns"] * 20, *["other"] * 10), "dominant")
    assert "'billing' is the answer in 70 of 100 rows (70%)" in found.text
    assert (len(found.rows), found.level) == (50, "warn")
    for even in ([*"abc"] * 33, ["yes"] * 60 + ["no"] * 40, [f"answer {at}" for at in range(100)]):
        assert advise(labelled(*even)) == ()
    same = said(labelled(*["billing"] * 60), "same-answer")
    assert "All 60 answers are the same" in same.text


def test_one_sided_judgements() -> None:
    def judged(good: int, bad: int) -> Checked:
        asked = [(Message("user", prose(at)),) for at in range(good + bad)]
        judged = tuple(Judged(each, prose(at + 900), at < good, at + 1) for at, each in enumerate(asked))
        return Checked("unpaired-preference", "unpaired_preference", good + bad, (), others=judged)

    assert "58 of 60 answers are labelled good" in said(judged(58, 2), "dominant").text
    assert advise(judged(40, 20)) == ()


def test_conflicts() -> None:
    warnings = tuple(RowWarning(row, "same prompt as row 1, another answer", "conflict") for row in (7, 9))
    found = said(rows(60, warnings=warnings), "conflict")
    assert (found.rows, found.level) == ((7, 9), "note")
    assert "rows 7 and 9" in found.text
    labels = checked([(prose(at), "ab"[at % 2]) for at in range(60)], warnings=warnings)
    assert said(labels, "conflict").level == "warn"
    assert advise(rows(60, warnings=(RowWarning(3, "the same as row 1", "duplicate"),))) == ()


def test_answers_that_look_empty() -> None:
    found = said(rows(60, ("q one", "N/A"), ("q two", " todo "), ("q three", "-")), "empty-looking")
    assert (found.rows, found.level) == ((61, 62, 63), "warn")
    assert advise(rows(60, ("q one", "None"), ("q two", "No."), ("q three", "7"), ("q four", "👍"))) == ()


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
def test_personal_data_is_told(text: str, kind: str) -> None:
    assert personal(text) == {kind}
    found = said(rows(60, (f"A question. {text}", "a plain answer here")), "personal")
    assert (found.rows, found.level) == ((61,), "warn")
    assert text not in found.text  # the sentence is shown to others


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_other_numbers_are_not_personal(text: str) -> None:
    assert personal(text) == set()


def test_near_duplicates() -> None:
    first = "The blue kettle that I ordered last week arrived with a dent in its lid, can you send me another one?"
    almost = first.replace("dent", "crack")
    found = said(rows(60, *((asked, prose(1, 20)) for asked in (first, almost, first.upper()))), "near-duplicate")
    assert found.rows == (61, 62, 63)
    assert found.text.startswith("Rows 61 and 62 are nearly the same, and so is 1 other row with an earlier one.")
    assert advise(rows(60, (first, prose(1, 20)), (first, prose(2, 20)))) == ()  # the same question, another answer
    files = checked([(first, "a b c d e"), (almost, "a b c d e"), *((prose(at), prose(at + 99)) for at in range(60))])
    several = Checked(**{**vars(files), "files": (FilePart("a.csv", 1, 1), FilePart("b.csv", 2, 61))})
    assert "Rows a.csv 1 and b.csv 1 are nearly the same." in said(several, "near-duplicate").text


def test_what_is_near() -> None:
    text = prose(1, 40)
    words = text.split()
    assert near_duplicates([text, text]) == []  # the very same text is a duplicate, not nearly one
    assert near_duplicates([text, text.replace(" ", "  ").title() + "!"]) == [(0, 1)]
    assert near_duplicates([text, " ".join([*words[:-1], "other"])]) == [(0, 1)]
    assert near_duplicates([text + " 12", text + " 13"]) == []
    assert near_duplicates(["How do I add a card?", "How do I add a bank?"]) == []
    document = prose(2, 900)
    asked = "What did the author of it say about rust in the winter of that year?"
    other = "Which towns were visited, why, by whom, and how often after all?"
    assert near_duplicates([f"{document} {asked}", f"{document} {other}"]) == []
    chance = random.Random(4)
    many = [prose(at, 60) for at in range(300)]
    changed = []
    for text in many:
        words = text.split()
        words[chance.randrange(60)] = "changed"
        changed.append(" ".join(words))
    found = near_duplicates(many + changed)
    assert len(found) > 290
    assert all(later == first + 300 for first, later in found)


def test_near_duplicates_are_found_in_a_time_that_grows_with_the_rows() -> None:
    def seconds(count: int) -> float:
        text = "Dear team, my order {} has not come yet, please look into it and tell me {}"
        texts = [text.format(prose(at, 3), prose(at, 2)) for at in range(count)]
        start = time.process_time()
        near_duplicates(texts)
        return time.process_time() - start

    small = min(seconds(500) for _ in range(3))
    assert seconds(8_000) < 16 * small * 5 + 1  # all rows alike: the worst case


def test_the_prompt_holds_the_answer() -> None:
    found = said(rows(60, ("Copy: It leaks from the lid. Thanks", "it leaks  from the lid.")), "leak")
    assert (found.rows, found.level) == ((61,), "note")
    assert advise(rows(60, ("Is it, or no?", "or no"), ("Some prompt of mine here", "some prompt of yours here"))) == ()


def test_scripts() -> None:
    found = said(rows(60, ("Translate it", "Он сломался вчера"), ("Again", "Это не работает")), "script")
    assert found.rows == (61, 62)
    assert "Cyrillic" in found.text
    assert advise(rows(60, ("Translate it", "Naïve Grüße, élève: 12 € – “fin”"))) == ()
    both = checked([(prose(at), prose(at + 500) if at % 2 else "Это не работает " + "да " * at) for at in range(60)])
    assert advise(both) == ()  # half and half is meant
    names = {
        "日本語です": "Chinese or Japanese",
        "한국어예요": "Korean",
        "שלום לכם": "Hebrew",
        "12 + 3": "",
        "Wörter": "Latin",
    }
    assert {text: script(text) for text in names} == names


def test_system_prompts() -> None:
    def systems(*each: str) -> Checked:
        turns = [(Message("user", prose(at)), Message("assistant", prose(at + 500))) for at in range(len(each))]
        texts = [(Message("system", text), *pair) if text else pair for text, pair in zip(each, turns, strict=True)]
        return Checked("chat", "sft", len(each), tuple(Example(one, row) for row, one in enumerate(texts, 1)))

    lacking = said(systems(*["Be brief."] * 58, "", ""), "system-prompt")
    assert (lacking.rows, lacking.text[:45]) == ((59, 60), "2 rows lack a system prompt, the others have ")
    having = said(systems(*[""] * 59, "Be brief."), "system-prompt")
    assert (having.rows, having.text[:28]) == ((60,), "1 row has a system prompt, t")
    other = said(systems(*["Be brief."] * 58, "Be rude.", "Be kind."), "system-prompt")
    assert other.rows == (59, 60)
    assert advise(systems(*["Be brief."] * 60)) == advise(systems(*(f"You are {at}." for at in range(60)))) == ()


def test_sentences_are_plain_and_warnings_come_first() -> None:
    leak = ("Copy: It leaks from the lid.", "It leaks from the lid.")
    found = advise(rows(60, ("Mail me at a@b.de", "N/A"), leak, ("x", "Он сломался")))
    assert [advice.level for advice in found] == ["warn", "warn", "note", "note"]
    for advice in found:
        assert "!" not in advice.text
        assert advice.text[-1] in ".?"
        assert 0 < len(advice.rows) <= MOST_ROWS


def test_preferences_are_looked_at_too() -> None:
    pairs = [Preference((Message("user", prose(at)),), prose(at + 500), prose(at + 900), at + 1) for at in range(60)]
    good = Checked("preference", "preference", 60, (), others=tuple(pairs))
    assert advise(good) == ()
    pairs[3] = Preference(pairs[3].prompt, "N/A", "call +49 30 1234567", 4)
    found = advise(Checked("preference", "preference", 60, (), others=tuple(pairs)))
    assert {advice.kind: advice.rows for advice in found} == {"empty-looking": (4,), "personal": (4,)}
