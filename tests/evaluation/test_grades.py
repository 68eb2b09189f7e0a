"""Grades: 1 exactly where the check passes, and more for a reply that is nearer."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.evaluation.checks import parse_check
from playground.evaluation.grades import grade

WORSE_TO_BETTER = {
    "contains:Reviewed by Dr. Sharma": ["xyz", "Reviewed", "Reviewed by Dr.", "Reviewed by Dr. Sharma, today"],
    "ends-with:Reviewed by Dr. Sharma": [
        "xyz",
        "Reviewed by Dr.",
        "Reviewed by Dr. Sharma, today",
        "Fine. Reviewed by Dr. Sharma",
    ],
    r"regex:Vitals: .*Diagnosis: .*Tests: .+": [
        "nothing",
        "Vitals: good",
        "Vitals: good\nDiagnosis: x",
        "Vitals: a\nDiagnosis: b\nTests: c",
    ],
    "max-words:3": ["a b c d e f g h", "a b c d", "a b c"],
    "json": ["hello", '{"a": 1, oh dear', '{"a": [1, 2', '{"a": [1, 2]}'],
}


@pytest.mark.parametrize("spec", WORSE_TO_BETTER)
def test_nearer_is_worth_more(spec: str) -> None:
    check = parse_check(spec)
    worth = [grade(check)(reply) for reply in WORSE_TO_BETTER[spec]]
    assert worth == sorted(worth)
    assert len(set(worth)) == len(worth), worth
    assert all(0 <= value <= 1 for value in worth)
    assert [value == 1 for value in worth] == [check.passes(reply) for reply in WORSE_TO_BETTER[spec]]


def test_a_schema_asks_for_json_first(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["a"]}')
    worth = [grade(parse_check(f"json-schema:{tmp_path / 's.json'}"))(reply) for reply in ("no", '{"b": 1}', '{"a": 1}')]
    assert worth == [0.0, pytest.approx(0.45), 1.0]


def test_a_part_that_backtracks_for_ever_is_not_found() -> None:
    share = grade(parse_check(r"regex:(a+)+b.*end"))
    assert share("a" * 40 + " end") == pytest.approx(0.45)  # in time, and only its last part is there
