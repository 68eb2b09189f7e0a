"""What is right: suggested from the references, marked field by field, and never an empty or refused reply."""

import json

import pytest

from playground.evaluation import criterion
from playground.evaluation.criterion import parse_criterion, suggested
from playground.evaluation.values import fields_of, is_blank
from tests.evaluation.helpers import cases
from tests.refused import refused

LABELS = ["refund", "delivery", "warranty"] * 4
LATE = "The parcel number {} of a person came late"
MAILS = [
    json.dumps({"category": kind, "order": f"A-{n:04}", "amount": 10.5 * n, "summary": LATE.format(n)})
    for n, kind in enumerate(LABELS, 1)
]
REPORTS = [f"Vitals: BP {100 + n}/{60 + n} mmHg, pulse {70 + n}/min\nDiagnosis: {of}" for n, of in enumerate(LABELS)]
CALLS = [
    f'<tool_call>\n{{"name": "find", "arguments": {{"kind": "{kind}", "order": {n}}}}}\n</tool_call>'
    for n, kind in enumerate(LABELS, 1)
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
        (["他说他明天会和他的家人去北京看老朋友们" + sign for sign in "一二三四五六"], "similarity:token_f1>=0.95"),
        (['["a", "b"]', "[]", '["c"]'], "fields"),
        (CALLS, "tool"),
        ([*CALLS, *LONG[:5]], "tool"),
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


def test_only_the_fields_that_must_be_right_decide_one_that_is_missing_is_wrong_a_value_may_be_a_list():
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
    texts = [f"Tests:\n- blood count {n}\n- scan\n\nPlan: wait" for n in range(6)]
    assert fields_of(texts[0]) == {"Tests": "- blood count 0\n- scan", "Plan": "wait"}
    assert not suggested(texts).mark("Tests:\n- surgery 0\n\nPlan: wait", texts[0]).right


@pytest.mark.parametrize(("reply", "reference", "right"), cases("short"))
def test_short_answers_are_the_same_but_for_how_they_are_written(reply, reference, right):
    assert parse_criterion("exact", ["x"]).mark(reply, reference).right is right


def test_labels_of_any_script_are_told_apart_and_anothers_answer_in_a_sorted_file_is_another_one():
    signs, words = suggested(["-1", "0", "1"] * 4), suggested(["积极", "消极", "none"] * 4)
    for found, reply, reference, right in (
        *((signs, "-1", "-1", True), (signs, "1", "-1", False), (words, "none", "none", True)),
        *((words, "这条评论是积极的。", "积极", True), (words, "积极", "消极", False)),
        (suggested(LABELS), "This is about a refund.", "refund", True),
        (suggested(LABELS), "refund or delivery", "refund", False),
    ):
        assert found.mark(reply, reference).right is right
    assert parse_criterion("label", [*LABELS, " "]) == suggested(LABELS), "a blank answer is no label"
    shown = criterion.samples(suggested(sorted(LABELS)), sorted(LABELS))
    assert [one.mark.right for one in shown] == [one.own for one in shown] == [True, False] * 5
    assert is_blank(" `null` ")
    assert not is_blank("0")


PARIS = '{"name": "look", "arguments": {"city": "Paris"}}'
ROME = '{"name": "look", "arguments": {"city": "Rome", "n": 2}}'
FIND = '{"name": "find", "arguments": {"q": "a hotel with a pool near the old harbour"}}'
BOTH = f"<tool_call>\n{PARIS}\n</tool_call>\n<tool_call>\n{ROME}\n</tool_call>"


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        (BOTH, []),
        (f"I look.\n<tool_call>{ROME}</tool_call><tool_call>{PARIS}</tool_call>", []),
        (f"[{PARIS}, {ROME}]", []),
        (f"```json\n[{PARIS},\n {ROME}]\n```", []),
        (f"[TOOL_CALLS] [{PARIS}, {ROME}]", []),
        ('[TOOL_CALLS]look[ARGS]{"city": "Paris"}[TOOL_CALLS]look{"city": "rome", "n": "2"}', []),
        (f"{PARIS}; {ROME}".replace("arguments", "parameters"), []),
        ("<|python_tag|>[look(city='Paris'), look(city='Rome', n=2)]", []),
        (
            "<tool_call>\n<function=look>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"
            "<tool_call>\n<function=look>\n<parameter=city>\nRome\n</parameter>\n<parameter=n>\n2\n</parameter>\n"
            "</function>\n</tool_call>",
            [],
        ),
        (BOTH.replace("Rome", "Oslo"), ["look.city"]),
        (BOTH.replace("2", "3"), ["look.n"]),
        (BOTH.replace('"n"', '"m"'), ["look.n"]),
        (BOTH.replace("Paris", "Rome"), ["look.city"]),
        (PARIS, ["tool", "look.city", "look.n"]),
        (f"{BOTH}\n<tool_call>{FIND}</tool_call>", ["tool"]),
        (BOTH.replace("look", "see"), ["tool", "look.city", "look.n"]),
        (BOTH.replace('"city": "Paris"', '"city": "Paris", "day": 1'), []),
        ("It rains in Paris and in Rome.", ["tool", "look.city", "look.n"]),
        ("I cannot help with that.", ["tool", "look.city", "look.n"]),
        ("<tool_call>\n{broken\n</tool_call>", ["tool", "look.city", "look.n"]),
        (f"<function=look><parameter=city>{'[' * 5000}", ["tool", "look.city", "look.n"]),
        (f"[TOOL_CALLS]look[ARGS]{{{'[' * 5000}", ["tool", "look.city", "look.n"]),
        (f'[TOOL_CALLS]look[ARGS]{{"city": {"[" * 5000}', ["tool", "look.city", "look.n"]),
    ],
)
def test_calls_are_right_with_their_tool_and_every_argument_in_any_form_and_order(reply, wrong):
    tool = parse_criterion("tool", [BOTH, FIND, "Which city?"])
    mark = tool.mark(reply, BOTH)
    assert [name for name, right in mark.fields.items() if not right] == wrong
    assert mark.right == (not wrong and "day" not in reply)
    assert set(mark.fields) <= set(tool.names)


def test_where_nothing_is_to_be_called_a_call_is_wrong_and_text_arguments_are_alike():
    tool = parse_criterion("tool", [BOTH, FIND, FIND.replace("pool near", "garden by"), "Which city?"])
    assert tool.mark("Tell me which city.", "Which city?").right
    assert not tool.mark(BOTH, "Which city?").right
    assert tool.mark(FIND.replace("a hotel", "hotel"), FIND).right
    assert not tool.mark(FIND.replace("a hotel with a pool", "the restaurants"), FIND).right
    refused("The answers call no tools. What would fit: label.", parse_criterion, "tool", LABELS)
