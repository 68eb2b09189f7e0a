"""What is right: suggested from the references, marked field by field, and never an empty or refused reply."""

import json

import pytest

from playground.evaluation import criterion
from playground.evaluation.criterion import fields_of, parse_criterion, suggested
from tests.evaluation.helpers import cases
from tests.refused import refused

LABELS = ["refund", "delivery", "warranty"] * 4
LATE = "The parcel number {} of a person came late"
MAILS = [
    json.dumps({"category": kind, "order": f"A-{n:04}", "amount": 10.5 * n, "summary": LATE.format(n)})
    for n, kind in enumerate(LABELS, 1)
]
REPORTS = [
    f"Vitals: BP {100 + n}/{60 + n} mmHg, pulse {70 + n}/min\nDiagnosis: {kind}" for n, kind in enumerate(LABELS)
]
LONG = [
    f"Dear person number {n}, we are sorry that your {kind} took so long and will send word {n} days from now."
    for n, kind in enumerate(LABELS)
]


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


@pytest.mark.parametrize(
    "reply", ["", "  \n", "null", "```\n```", "{}", "...", "I cannot help with that.", "I'm sorry, I don't know."]
)
@pytest.mark.parametrize("references", [LABELS, MAILS, REPORTS, LONG], ids=["label", "json", "lines", "text"])
def test_an_empty_or_refused_reply_is_never_right(references, reply):
    assert not suggested(references).mark(reply, references[0]).right


@pytest.mark.parametrize(("change", "right"), cases("fields"))
def test_fields_are_compared_by_what_they_hold(change, right):
    reply = json.dumps(json.loads(MAILS[0]) | change)
    mark = suggested(MAILS).mark(reply, MAILS[0])
    assert mark.right is right
    assert all(mark.fields.values()) is right


def test_only_the_fields_that_must_be_right_decide_and_one_that_is_missing_is_wrong():
    found, mail = suggested(MAILS), json.loads(MAILS[0])
    wrong = json.dumps(mail | {"category": "delivery"})
    assert parse_criterion("fields:order,amount", MAILS).mark(wrong, MAILS[0]).right
    assert not parse_criterion("fields:category", MAILS).mark(wrong, MAILS[0]).right
    for reply in ('{"category": "refund"}', json.dumps(mail | {"order": None})):
        assert not found.mark(reply, MAILS[0]).right
    assert found.mark(f"```json\n{MAILS[0]}\n```", MAILS[0]).right, "in a fence it is read"
    assert fields_of('{"a": {"b": 1}, "c": []}') == {"a.b": 1, "c": []}
    lost = MAILS[0].replace("came late", "came late, and nobody could tell why")
    assert found.mark(lost.replace("could tell", "could not tell"), lost).right, "a field's words are no refusal"
    other = REPORTS[0].replace("pulse 70", "pulse 71")
    assert not suggested(REPORTS).mark(other, REPORTS[0]).right, "numbers inside a text must be right"


def test_a_judges_marks_are_looked_up_with_the_question_and_what_is_missing_is_said():
    marks = {("deep", "Who?", "Ann", "Anna"): True, ("deep", "Whose?", "Ann", "Anna"): False}
    found = criterion.parse_criteria(["judge:deep", "similarity:token_f1>=0.1"], ["Anna"], marks)
    only = criterion.parse_criteria(["judge:deep"], ["Anna"], marks)
    assert only.mark(" Ann ", "Anna", "Who?").right
    assert not found.mark("Ann", "Anna", "Who?").right, "each of several must hold"
    assert not any(only.mark("Ann", "Anna", asked).right for asked in ("Whose?", "", "Where?"))
    assert criterion.judges_in(["exact", "judge: deep", "judge:deep"]) == ("deep",)


@pytest.mark.parametrize(("spec", "says"), cases("criteria"))
def test_a_criterion_that_does_not_fit_says_what_does(spec, says):
    refused(says, parse_criterion, spec, MAILS)


FILED = [
    json.dumps({"name": f"Ann{n}", "total": 1234.5 + n, "id": f"00{n}", "paid": True, "note": None, "tags": ["a", "b"]})
    for n in range(6)
]


@pytest.mark.parametrize(("old", "new", "right"), cases("written"))
def test_values_count_however_a_reply_writes_them(old, new, right):
    assert suggested(FILED).mark(FILED[0].replace(old, new, 1) if old else FILED[0], FILED[0]).right is right


NOTES = [f"Name: Ann{n}\nFound: Suspected {kind} of the left lung\nIndex: {20 + n},5" for n, kind in enumerate(LABELS)]


@pytest.mark.parametrize(("old", "new", "right"), cases("lines"))
def test_lines_are_read_as_people_and_markdown_write_them(old, new, right):
    assert suggested(NOTES).mark(NOTES[0].replace(old, new, 1), NOTES[0]).right is right


def test_a_value_may_be_a_list_below_its_name():
    texts = [f"Tests:\n- blood count {n}\n- scan\n\nPlan: wait" for n in range(6)]
    assert fields_of(texts[0]) == {"Tests": "- blood count 0\n- scan", "Plan": "wait"}
    assert not suggested(texts).mark("Tests:\n- surgery 0\n\nPlan: wait", texts[0]).right


@pytest.mark.parametrize(("reply", "reference", "right"), cases("short"))
def test_short_answers_are_the_same_but_for_how_they_are_written(reply, reference, right):
    assert parse_criterion("exact", ["x"]).mark(reply, reference).right is right


def test_labels_of_any_script_and_sign_are_told_apart():
    signs, words = suggested(["-1", "0", "1"] * 4), suggested(["积极", "消极", "none"] * 4)
    for found, reply, reference, right in (
        *((signs, "-1", "-1", True), (signs, "1", "-1", False), (words, "none", "none", True)),
        *((words, "这条评论是积极的。", "积极", True), (words, "积极", "消极", False)),
        (suggested(LABELS), "This is about a refund.", "refund", True),
        (suggested(LABELS), "refund or delivery", "refund", False),
    ):
        assert found.mark(reply, reference).right is right
    assert parse_criterion("label", [*LABELS, " "]) == suggested(LABELS), "a blank answer is no label"


def test_in_a_sorted_file_anothers_answer_is_another_one_and_what_is_blank_is_known():
    shown = criterion.samples(suggested(sorted(LABELS)), sorted(LABELS))
    assert [one.mark.right for one in shown] == [one.own for one in shown] == [True, False] * 5
    assert criterion.is_blank(" `null` ")
    assert not criterion.is_blank("0")
