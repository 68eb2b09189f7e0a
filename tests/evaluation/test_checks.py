from __future__ import annotations

import json
from pathlib import Path

import pytest

from playground.errors import InputError
from playground.evaluation.checks import parse_check


@pytest.mark.parametrize(
    ("check", "reply", "holds"),
    [
        ("json", ' {"a": 1} ', True),
        ("json", '{"a": NaN}', False),
        ("json", "Here you are: {}", False),
        ("ends-with:Reviewed by Dr. Sharma", "x\nReviewed by Dr. Sharma\n", True),
        ("ends-with:Reviewed by Dr. Sharma", "reviewed by dr. sharma", False),
        ("contains:a:b", "x a:b y", True),
        ("max-words:2", "one two", True),
        ("max-words:2", "one two three", False),
        (r"regex:A.*Z", "A\nZ", True),
        (r"regex:A.*Z", "A\nZ!", False),
    ],
)
def test_checks(check: str, reply: str, holds: bool) -> None:
    assert parse_check(check).passes(reply) is holds


def test_a_schema(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"type": "object", "required": ["a"]}))
    check = parse_check(f"json-schema:{file}")
    assert check.passes('{"a": null}')
    assert not check.passes("{}")
    assert not check.passes("a")


@pytest.mark.parametrize(
    "wrong", ["", "nonsense", "ends-with:", "max-words:many", "regex:(", "json-schema:/nowhere.json", "likes:me"]
)
def test_what_is_not_a_check_is_refused_in_words(wrong: str) -> None:
    with pytest.raises(InputError):
        parse_check(wrong)
