"""What is right: suggested from the references, marked field by field, and never an empty or refused reply."""

import json

import pytest

from playground.errors import InputError
from playground.evaluation.criterion import fields_of, is_blank, parse_criterion, suggested
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
        (LONG, "similarity:token_f1>=0.9"),
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


def test_a_label_in_a_sentence_counts_and_two_do_not():
    found = suggested(LABELS)
    assert found.mark("This is about a refund.", "refund").right
    assert not found.mark("refund or delivery", "refund").right


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("taste", "There are: label"),
        ("label", "fields"),
        ("fields:colour", "There are: category, order"),
        ("similarity:bleu>=0.5", "token_f1"),
        ("similarity:token_f1>=7", "up to 1"),
    ],
)
def test_a_criterion_that_does_not_fit_says_what_does(spec, says):
    with pytest.raises(InputError, match=says):
        parse_criterion(spec, MAILS)


def test_what_is_blank():
    assert is_blank(" `null` ")
    assert not is_blank("0")
