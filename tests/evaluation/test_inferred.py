"""Checks read from the references: what they find, that the references pass them, and that they refuse what looks
different."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.evaluation.checks import parse_check
from playground.evaluation.inferred_checks import inferred, looks_like

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REPORTS = [
    f"Vitals: BP 1{n}0/80, pulse 9{n}\nDiagnosis: Suspected thing {n}\nTests: one, two\n\nReviewed by Dr. Sharma"
    for n in range(8)
]


def answers(name: str) -> list[str]:
    return [json.loads(line)["completion"] for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("name", "specs"),
    [
        (
            "hospital_reports",
            ["ends-with:Reviewed by Dr. Sharma", "regex:Vitals: BP.*Diagnosis:.*Suggested tests:.*", "max-words:35"],
        ),
        (
            "brand_voice",
            [
                "ends-with:Warmly, your Larkfield team",
                r"regex:Thank you for reaching out to Larkfield\..*",
                "max-words:50",
            ],
        ),
    ],
)
def test_the_shipped_sets(name: str, specs: list[str]) -> None:
    references = answers(f"{name}.jsonl")
    assert inferred(references) == specs
    like = looks_like(references)
    assert like is not None
    assert like.spec == "like-references"
    assert all(like.passes(answer) for answer in answers(f"{name}_heldout.jsonl"))


def test_json_and_its_keys() -> None:
    references = answers("support_json.jsonl")
    specs = inferred(references)
    assert specs[0] == "json"
    keys = parse_check(specs[1])
    held = answers("support_json_heldout.jsonl")
    assert all(parse_check(spec).passes(answer) for spec in specs for answer in held)
    without = json.loads(held[0])
    del without["urgency"]
    assert not keys.passes(json.dumps(without))
    like = looks_like(references)
    assert like is not None
    assert "JSON with category, product, order_id, urgency, summary" in like.label
    assert all(like.passes(answer) for answer in held)
    assert not like.passes(json.dumps(without))
    assert not like.passes(json.dumps({**json.loads(held[0]), "more": 1}))
    assert not like.passes("Sure: " + held[0])


def test_keys_in_any_order() -> None:
    references = [json.dumps({"b": n, "a": 1} if n % 2 else {"a": 1, "b": n}) for n in range(8)]
    specs = inferred(references)
    assert all(parse_check(specs[1]).passes(text) for text in references)
    assert not parse_check(specs[1]).passes('{"a": 1}')
    assert inferred([json.dumps({str(n): n}) for n in range(8)])[0] == "json"
    assert not any(spec.startswith("regex") for spec in inferred([json.dumps({str(n): n}) for n in range(8)]))


def test_what_looks_different_is_refused() -> None:
    like = looks_like(REPORTS)
    assert like is not None
    good = REPORTS[0]
    assert like.passes(good)
    for other in (
        "",
        good.removesuffix("Dr. Sharma"),
        good.replace("Diagnosis:", "I think"),
        "Sure.\n" + good,
        good.replace("one", "one " * 60),
    ):
        assert not like.passes(other), other


def test_one_odd_reference_in_twenty_changes_nothing() -> None:
    many = REPORTS[:7] * 3
    assert inferred([*many[:19], "Odd one out."]) == inferred(many[:19])
    assert inferred([*many[:17], *["Odd one out."] * 3]) != inferred(many[:19])


def test_labels_are_asked_for() -> None:
    like = looks_like(["yes", "no", "unclear"] * 4)
    assert like is not None
    assert "one of 3 answers" in like.label
    assert like.passes("Yes.")
    assert not like.passes("perhaps")


def test_too_few_or_nothing_in_common() -> None:
    assert inferred(REPORTS[:4]) == []
    assert looks_like(REPORTS[:4]) is None
    assert inferred([]) == []
    assert inferred([".", "a b\nc. " * 400, "?" * 3, "\n".join("abc"), "x"]) == []


TEXT = st.text(alphabet=st.sampled_from('ab :\n.#{}"1[],\\*'), max_size=25)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(TEXT, min_size=5, max_size=9), st.sampled_from(["", "End of it", "# Head\nKey: "]))
def test_whatever_they_are_nearly_all_pass(references: list[str], shared: str) -> None:
    texts = [shared + text + shared for text in references]
    for spec in inferred(texts):
        assert sum(parse_check(spec).passes(text) for text in texts) >= 0.95 * len(texts)
    like = looks_like(texts)
    if like is not None:
        assert like.label
