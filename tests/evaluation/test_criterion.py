"""What is right: suggested from the references, marked field by field, and never an empty or refused reply."""

import json

import pytest

from playground.errors import InputError
from playground.evaluation.criterion import (
    fields_of,
    is_blank,
    judges_in,
    parse_criteria,
    parse_criterion,
    samples,
    suggested,
)
from playground.settings import PROJECT_ROOT

LABELS = ["refund", "delivery", "warranty"] * 4
MAILS = [
    json.dumps(
        {
            "category": kind,
            "order": f"A-{n:04}",
            "amount": 10.5 * n,
            "summary": f"The parcel number {n} of a person came late",
        }
    )
    for n, kind in enumerate(LABELS, 1)
]
REPORTS = [
    f"Vitals: BP {100 + n}/{60 + n} mmHg, pulse {70 + n}/min\nDiagnosis: {kind}" for n, kind in enumerate(LABELS)
]
LONG = [
    f"Dear person number {n}, we are sorry that your {kind} took so long and will send word {n} days from now."
    for n, kind in enumerate(LABELS)
]


def shipped(name: str) -> list[str]:
    lines = (PROJECT_ROOT / "examples" / f"{name}_heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["completion"] for line in lines]


@pytest.mark.parametrize(
    ("references", "spec"),
    [
        (LABELS, "label"),
        (MAILS, "fields"),
        (REPORTS, "fields"),
        ([f"Paris {n}" for n in range(12)], "exact"),
        (LONG, "similarity:token_f1>=0.95"),
        (['{"mood": "good"}', '{"mood": "bad"}'] * 6, "fields"),
        (["-1", "0", "1"] * 4, "label"),
        (
            ["他说他明天会和他的家人一起去北京看他的老朋友们" + sign for sign in "一二三四五六"],
            "similarity:token_f1>=0.95",
        ),
        (['["a", "b"]', "[]", '["c"]'], "fields"),
    ],
)
def test_the_criterion_that_fits_is_suggested(references, spec):
    found = suggested(references)
    assert found.spec == spec
    assert all(found.mark(text, text).right for text in references)
    assert found.label


@pytest.mark.parametrize("name", ["hospital_reports", "support_json", "brand_voice"])
def test_of_a_shipped_set_every_reference_is_right_and_another_rows_is_not(name):
    references = shipped(name)
    found = suggested(references)
    assert all(found.mark(text, text).right for text in references)
    wrong = sum(found.mark(text, references[place - 1]).right for place, text in enumerate(references))
    assert wrong <= 0.05 * len(references)


@pytest.mark.parametrize(
    "reply", ["", "  \n", "null", "```\n```", "{}", "...", "I cannot help with that.", "I'm sorry, I don't know."]
)
@pytest.mark.parametrize("references", [LABELS, MAILS, REPORTS, LONG], ids=["label", "json", "lines", "text"])
def test_an_empty_or_refused_reply_is_never_right(references, reply):
    assert not suggested(references).mark(reply, references[0]).right


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"amount": "10.50"}, True),
        ({"amount": 10.51}, False),
        ({"category": "Refund"}, True),
        ({"category": "delivery"}, False),
        ({"order": None}, False),
        ({"summary": "The parcel number 1 of somebody came late"}, True),
        ({"summary": "The parcel number 2 of a person came late"}, False),
        ({"summary": "All is well"}, False),
        ({"extra": 1}, True),
    ],
)
def test_fields_are_compared_by_what_they_hold(change, right):
    reply = json.dumps(json.loads(MAILS[0]) | change)
    mark = suggested(MAILS).mark(reply, MAILS[0])
    assert mark.right is right
    assert all(mark.fields.values()) is right


def test_only_the_fields_that_must_be_right_decide():
    wrong = json.dumps(json.loads(MAILS[0]) | {"category": "delivery"})
    assert parse_criterion("fields:order,amount", MAILS).mark(wrong, MAILS[0]).right
    assert not parse_criterion("fields:category", MAILS).mark(wrong, MAILS[0]).right


def test_a_field_that_is_missing_is_wrong_and_one_in_a_fence_is_read():
    found = suggested(MAILS)
    assert not found.mark('{"category": "refund"}', MAILS[0]).right
    assert found.mark(f"```json\n{MAILS[0]}\n```", MAILS[0]).right
    assert fields_of('{"a": {"b": 1}, "c": []}') == {"a.b": 1, "c": []}


def test_numbers_inside_a_text_must_be_right():
    found = suggested(REPORTS)
    assert not found.mark(REPORTS[0].replace("pulse 70", "pulse 71"), REPORTS[0]).right


def test_a_judges_marks_are_looked_up_with_the_question_and_what_is_missing_is_said():
    marks = {("deep", "Who?", "Ann", "Anna"): True, ("deep", "Whose?", "Ann", "Anna"): False}
    found = parse_criteria(["judge:deep", "similarity:token_f1>=0.1"], ["Anna"], marks)
    only = parse_criteria(["judge:deep"], ["Anna"], marks)
    assert only.mark(" Ann ", "Anna", "Who?").right
    assert not found.mark("Ann", "Anna", "Who?").right, "each of several must hold"
    assert not any(only.mark("Ann", "Anna", asked).right for asked in ("Whose?", "", "Where?"))
    assert judges_in(["exact", "judge: deep", "judge:deep"]) == ("deep",)


def test_a_label_in_a_sentence_counts_and_two_do_not():
    found = suggested(LABELS)
    assert found.mark("This is about a refund.", "refund").right
    assert not found.mark("refund or delivery", "refund").right


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("taste", "There are: label"),
        ("judge:", "lacks a part: write judge:NAME"),
        ("label", "fields"),
        ("fields:colour", "There are: category, order"),
        ("similarity:bleu>=0.5", "token_f1"),
        ("similarity:token_f1>=7", "up to 1"),
    ],
)
def test_a_criterion_that_does_not_fit_says_what_does(spec, says):
    with pytest.raises(InputError, match=says):
        parse_criterion(spec, MAILS)


FILED = [
    json.dumps({"name": f"Ann{n}", "total": 1234.5 + n, "id": f"00{n}", "paid": True, "note": None, "tags": ["a", "b"]})
    for n in range(6)
]


@pytest.mark.parametrize(
    ("old", "new", "right"),
    [
        ("", "", True),
        ("{", "Here it is:\n```JSON\n{", True),
        ("{", "Here it is: {", True),
        ("}", "}\n\nLet me know!", True),
        ("1234.5", '"1,234.50"', True),
        ("1234.5", '"1.234,50 €"', True),
        ("1234.5", '"USD 1 234.5"', True),
        ("1234.5", '"1243,5"', False),
        ("1234.5", "NaN", False),
        ("total", "Total", True),
        ("true", '"True"', True),
        ("true", "false", False),
        ("null", '"null"', True),
        (', "note": null', "", False),
        ('"000"', '"0"', False),
        ('["a", "b"]', '["b","a"]', True),
        ('["a", "b"]', '["a"]', False),
        ("{", '{"more": [], ', True),
    ],
)
def test_values_count_however_a_reply_writes_them(old, new, right):
    assert suggested(FILED).mark(FILED[0].replace(old, new, 1) if old else FILED[0], FILED[0]).right is right


NOTES = [f"Name: Ann{n}\nFound: Suspected {kind} of the left lung\nIndex: {20 + n},5" for n, kind in enumerate(LABELS)]


@pytest.mark.parametrize(
    ("old", "new", "right"),
    [
        ("Name:", "## **Name:**", True),
        ("Ann0", "**Ann0**", True),
        ("Name: ", "NAME:\n", True),
        ("Name: ", "1. Name：", True),
        ("20,5", "20.5", True),
        ("20,5", "205", False),
        ("refund", "delivery", False),
        ("Index", "Name: Bob\nIndex", False),
        ("Index", "\nAs asked.\n\nIndex", True),
    ],
)
def test_lines_are_read_as_people_and_markdown_write_them(old, new, right):
    assert suggested(NOTES).mark(NOTES[0].replace(old, new, 1), NOTES[0]).right is right


def test_a_value_may_be_a_list_below_its_name():
    texts = [f"Tests:\n- blood count {n}\n- scan\n\nPlan: wait" for n in range(6)]
    assert fields_of(texts[0]) == {"Tests": "- blood count 0\n- scan", "Plan": "wait"}
    assert not suggested(texts).mark("Tests:\n- surgery 0\n\nPlan: wait", texts[0]).right


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        ("1.5", "15", False),
        ("-5", "5", False),
        ("3/4", "34", False),
        ("C", "C++", False),
        ("1,000", "1000", True),
        ("42.0", "42", True),
        ("€5", "$5", False),
        ("A.", "A", True),
        ("B", "A", False),
        ("STRASSE", "Straße", True),
        ("istanbul", "İstanbul", True),
        ("北京", "北京。", True),
        ("None", "none", True),
        ("[ ]", "[]", True),
        ("", "none", False),
        ("", "", False),
        ("I don't know.", "I don't know", True),
    ],
)
def test_short_answers_are_the_same_but_for_how_they_are_written(reply, reference, right):
    assert parse_criterion("exact", ["x"]).mark(reply, reference).right is right


def test_labels_of_any_script_and_sign_are_told_apart():
    signs, words = suggested(["-1", "0", "1"] * 4), suggested(["积极", "消极", "none"] * 4)
    assert (signs.mark("-1", "-1").right, signs.mark("1", "-1").right) == (True, False)
    assert (words.mark("这条评论是积极的。", "积极").right, words.mark("积极", "消极").right) == (True, False)
    assert words.mark("none", "none").right


def test_a_field_that_says_cannot_find_is_no_refusal():
    found = suggested(MAILS)
    mail = MAILS[0].replace("came late", "came late, and nobody could tell why")
    assert found.mark(mail.replace("could tell", "could not tell"), mail).right


def test_in_a_sorted_file_anothers_answer_is_another_one():
    shown = samples(suggested(sorted(LABELS)), sorted(LABELS))
    assert [one.mark.right for one in shown] == [one.own for one in shown] == [True, False] * 5


def test_what_is_blank():
    assert is_blank(" `null` ")
    assert not is_blank("0")
