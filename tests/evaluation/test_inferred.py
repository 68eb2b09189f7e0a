"""What is read from the references: labels, and checks that they pass and what looks different does not."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.evaluation.checks import parse_check
from playground.evaluation.form import inferred, label_in, labels_of, looks_like
from tests.evaluation.helpers import cases

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REPORTS = [
    f"Vitals: BP 1{n}0/80, pulse 9{n}\nDiagnosis: Suspected thing {n}\nTests: one, two\n\nReviewed by Dr. Sharma"
    for n in range(8)
]


def answers(name):
    return [json.loads(line)["completion"] for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines()]


def like(references):
    found = looks_like(references)
    assert found is not None
    return found


REPORT = ["ends-with:Reviewed by Dr. Sharma", "regex:Vitals: BP.*Diagnosis:.*Suggested tests:.*", "max-words:30"]
THANKS = r"regex:Thank you for reaching out to Larkfield\..*"


BRAND = ["ends-with:Warmly, your Larkfield team", THANKS, "max-words:50"]


@pytest.mark.parametrize(("name", "specs"), [("hospital_reports", REPORT), ("brand_voice", BRAND)])
def test_the_shipped_sets(name, specs):
    references = answers(f"{name}.jsonl")
    assert (inferred(references), like(references).spec) == (specs, "like-references")
    assert all(map(like(references).passes, answers(f"{name}_heldout.jsonl")))


def test_json_and_its_keys_in_any_order():
    references, held = answers("support_json.jsonl"), answers("support_json_heldout.jsonl")
    specs = inferred(references)
    assert specs[0] == "json"
    assert all(parse_check(spec).passes(answer) for spec in specs for answer in held)
    whole = json.loads(held[0])
    without = json.dumps({key: whole[key] for key in whole if key != "urgency"})
    assert not parse_check(specs[1]).passes(without)
    found = like(references)
    assert "JSON with category, product, order_id, urgency, summary" in found.label
    assert all(map(found.passes, held))
    assert not any(map(found.passes, (without, json.dumps({**whole, "more": 1}), "Sure: " + held[0])))
    references = [json.dumps({"b": n, "a": 1} if n % 2 else {"a": 1, "b": n}) for n in range(8)]
    keys = parse_check(inferred(references)[1])
    assert all(map(keys.passes, references))
    assert not keys.passes('{"a": 1}')
    each_its_own = inferred([json.dumps({str(n): n}) for n in range(8)])
    assert each_its_own[0] == "json"
    assert not any(spec.startswith("regex") for spec in each_its_own)


def test_what_looks_different_is_refused_one_odd_reference_changes_nothing_and_few_say_nothing():
    good = REPORTS[0]
    assert like(REPORTS).passes(good)
    changed = (good.removesuffix("Dr. Sharma"), good.replace("Diagnosis:", "I think"), good.replace("one", "one " * 60))
    for other in ("", "Sure.\n" + good, *changed):
        assert not like(REPORTS).passes(other), other
    many = REPORTS[:7] * 3
    assert inferred([*many[:19], "Odd one out."]) == inferred(many[:19])
    assert inferred([*many[:17], *["Odd one out."] * 3]) != inferred(many[:19])
    found = like(["yes", "no", "unclear"] * 4)
    assert ("one of 3 answers" in found.label, found.passes("Yes."), found.passes("perhaps")) == (True, True, False)
    assert inferred(REPORTS[:4]) == inferred([]) == []
    assert looks_like(REPORTS[:4]) is None
    assert inferred([".", "a b\nc. " * 400, "?" * 3, "\n".join("abc"), "x"]) == []


TEXT = st.text(alphabet=st.sampled_from('ab :\n.#{}"1[],\\*'), max_size=25)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.lists(TEXT, min_size=5, max_size=9), st.sampled_from(["", "End of it", "# Head\nKey: "]))
def test_whatever_they_are_nearly_all_pass(references, shared):
    texts = [shared + text + shared for text in references]
    for spec in inferred(texts):
        assert sum(map(parse_check(spec).passes, texts)) >= 0.95 * len(texts)
    assert (found := looks_like(texts)) is None or found.label


@pytest.mark.parametrize(("references", "labels"), cases("labels"))
def test_when_answers_are_labels(references, labels):
    assert labels_of(references) == (labels or None)


@pytest.mark.parametrize(("reply", "label"), cases("label_given"))
def test_which_label_a_reply_gives(reply, label):
    assert label_in(reply, ["card_arrival", "card_linking", "exchange_rate", "rate"]) == (label or None)
