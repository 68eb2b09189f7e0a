"""Checks: what passes, what is refused, what no pattern or schema can do, and grades."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.errors import InputError
from playground.evaluation.checks import is_check, parse_check, parse_checks, schema_file


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
        (r"regex:a.z", "A.Z", False),
        (r"regex:(?i)a.z", "A.Z", True),
        (r"regex:Total {e}", "Total {e}", True),  # regex alone reads {e} as "with errors"
        (r"regex:Total {e}", "Totals", False),
        (r"regex:\{\d{2,3}\} [{e}]+", "{123} e{", True),
        (r"regex:a{2}", "aa", True),
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
    "wrong",
    [
        "",
        "nonsense",
        "ends-with:",
        "max-words:many",
        "max-words:²",
        "regex:(",
        "json-schema:/nowhere.json",
        "likes:me",
        "regex:" + "(" * 3_000 + ")" * 3_000,
        f"regex:a{{{'9' * 30}}}",
        "regex:" + "a" * 20_000,
        r"regex:\p{L}",
        "regex:(?<x>a)",
        r"regex:(a)\2",
        "json-schema:" + "[" * 10,
        "json-schema:a\0b",
    ],
)
def test_what_is_not_a_check_is_refused_in_words(wrong: str) -> None:
    with pytest.raises(InputError):
        parse_check(wrong)


def in_seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


def test_a_pattern_that_backtracks_for_ever_fails_in_time_and_lets_others_run() -> None:
    check, went_on, done = parse_check("regex:(a|a)*b|(a+)+c"), [], threading.Event()

    def others() -> None:
        while not done.wait(0.01):
            went_on.append(1)

    thread = threading.Thread(target=others)
    thread.start()
    holds, seconds = in_seconds(lambda: check.passes("a" * 5_000 + "!"))
    done.set()
    thread.join()
    assert not holds
    assert seconds < 5
    assert len(went_on) > 3, "the interpreter was not held"


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


def inline(schema: object) -> str:
    return f"json-schema:{json.dumps(schema)}"


def test_a_schema_may_stand_in_the_check_itself() -> None:
    check = parse_check(inline(SCHEMA), files=False)
    assert is_check(check.spec)
    assert [check.passes(reply) for reply in ('{"a": 1}', '{"a": "1"}', "{}", "no", "[" * 100_000)] == [True] + [
        False
    ] * 4
    assert "Fits {" in check.label
    assert schema_file(check.spec) is None
    assert schema_file("json-schema:a/s.json") == Path("a/s.json")
    assert schema_file("json") is None
    old = parse_check(
        inline(
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "items": [{"type": "integer"}],
                "additionalItems": False,
            }
        )
    )
    assert old.passes("[1]")
    assert not old.passes("[1, 2]")


def test_a_shared_app_opens_no_file_and_offers_another_way(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SCHEMA))
    for path in (file, "/etc/passwd", "/nowhere"):
        with pytest.raises(InputError, match=r"shared app does not open.*json-schema:\{") as refused:
            parse_check(f"json-schema:{path}", files=False)
        assert str(path) not in str(refused.value)
    with pytest.raises(InputError, match=r"likes.*shared app"):
        parse_checks(["json", "likes:me", f"json-schema:{file}"], files=False)
    assert [check.spec for check in parse_checks(["json", "json", inline(SCHEMA)], files=False)] == [
        "json",
        inline(SCHEMA),
    ]
    assert len(parse_checks([f"json-schema:{file}"])) == 1


def test_only_a_small_regular_file_is_read_and_what_it_holds_is_not_told(tmp_path: Path) -> None:
    secret = "hunter2"
    for name, held in {
        "text": f"{secret}:x:0",
        "none": f'"{secret}"',
        "wrong": json.dumps({"type": secret}),
        "deep": f'{{"{secret}": ' * 50_000,
        "points": json.dumps({"properties": {"b": {"$ref": f"#/{secret}"}}}),
        "pattern": json.dumps({"pattern": f"{secret}("}),
    }.items():
        (tmp_path / name).write_text(held)
    (tmp_path / "bytes").write_bytes(b"\xff" + secret.encode())
    (tmp_path / "large").write_text(f'{{"title": "{secret * 200_000}"}}')
    os.mkfifo(tmp_path / "pipe")
    for path, words in {
        "text": "is not JSON: .*line 1",
        "none": "not a JSON Schema",
        "wrong": "'type' says",
        "deep": "too deeply",
        "points": "points to nothing",
        "pattern": "JSON Schema|regular expression",
        "bytes": "not text",
        "large": "larger than 1 MB",
        "pipe": "is not a file",
        ".": "is not a file",
        "/dev/zero": "is not a file",
        "nowhere": "no file",
    }.items():
        with pytest.raises(InputError, match=words) as refused:
            parse_check(f"json-schema:{tmp_path / path}")
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:1/s.json"},
        {"properties": {"a": {"items": {"$ref": "file:///etc/passwd"}}}},
        {"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {}},
        {"$id": "http://127.0.0.1:1/", "anyOf": [True, {"$ref": "b.json"}]},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$ref": "#"},
        {"$schema": 5},
        {"patternProperties": {"(a+)+b": False}, "unevaluatedProperties": False},
    ],
)
def test_a_schema_that_reaches_out_or_never_ends_is_refused_when_it_is_read(schema: object) -> None:
    with pytest.raises(InputError, match="schema of the check"):
        parse_check(inline(schema))


def test_a_schema_may_name_its_own_parts() -> None:
    tree = {
        "$id": "https://example.org/tree",
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "required": ["name"],
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "patternProperties": {"^x-": {"type": "integer"}, "^n": {"pattern": "^[A-Z]"}},
                "additionalProperties": {"type": ["array", "null"]},
            }
        },
    }
    check = parse_check(inline(tree))
    assert check.passes('{"name": "Root", "x-a": 1, "kids": [{"name": "Leaf"}], "else": null}')
    for reply in (
        '{"name": "root"}',
        '{"name": "Root", "x-a": "1"}',
        '{"name": "R", "kids": [{"name": 1}, {}]}',
        '{"name": "R", "else": 1}',
    ):
        assert not check.passes(reply)
    deep = '{"name": "R", "kids": [' * 400 + "]}" * 400
    assert check.passes(deep) in (True, False), "past its depth it does not fit, and nothing breaks"
    closed = parse_check(inline({"patternProperties": {"^x-": True}, "additionalProperties": False}))
    assert closed.passes('{"x-a": 1}')
    assert not closed.passes('{"a": 1}')


@pytest.mark.parametrize(
    ("schema", "reply"),
    [
        ({"pattern": "(a|a)*b"}, json.dumps("a" * 5_000)),
        ({"patternProperties": {"(a|a)*b": False}}, json.dumps({"a" * 5_000: 1})),
        ({"patternProperties": {"(a|a)*b": False}, "additionalProperties": False}, json.dumps({"a" * 5_000: 1})),
        (
            {"properties": {"b": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "(a|a)*b"}}},
            json.dumps({"b": "a" * 5_000}),
        ),
        (
            {
                "properties": {"b": {"$ref": "#/$defs/40"}},
                "$defs": {"0": True} | {str(n): {"allOf": [{"$ref": f"#/$defs/{n - 1}"}] * 2} for n in range(1, 41)},
            },
            '{"b": 1}',
        ),
    ],
)
def test_no_schema_and_reply_hold_the_app(schema: object, reply: str) -> None:
    check = parse_check(inline(schema))
    holds, seconds = in_seconds(lambda: check.passes(reply))
    assert isinstance(holds, bool)
    assert seconds < 10


@pytest.mark.parametrize(
    "pattern",
    [
        "a{30000000}",
        "a{,30000000}",
        "(a{1000}){1000}",
        "((x{100}y){100}){100}",
        "(){99999}",
        "[ab]{20000}",
        "((((a{90}(?#[)){90}){90}(?#])){90})",
    ],
)
def test_repeats_are_counted_before_a_pattern_is_compiled(pattern: str) -> None:
    """Written out by the compiler, the first of these took 8 GB and stayed in its cache."""
    with pytest.raises(InputError, match=r"its repeats stand for [\d,]+ characters, and 10,000 are the most"):
        parse_check(f"regex:{pattern}")
    with pytest.raises(InputError, match="pattern that is not a regular expression"):
        parse_check("json-schema:" + json.dumps({"type": "string", "pattern": pattern}))


def test_a_pattern_with_comments_is_refused() -> None:
    with pytest.raises(InputError, match=r"written with \(\?x\)"):
        parse_check("regex:(?x)((a{90}#(\n){90}#(\n){90}")


def test_usual_repeats_are_taken() -> None:
    for pattern, text in (
        (r"\d{4}-\d{2}-\d{2}", "2026-01-02"),
        (r"(ab{2}){3}", "abb" * 3),
        (r"[{}]{2}\{5}", "{}{5}"),
        (r"a{2,}", "aaa"),
    ):
        assert parse_check(f"regex:{pattern}").passes(text)


def test_a_verdict_takes_so_many_checks_and_a_schema_so_many_patterns() -> None:
    with pytest.raises(InputError, match="21 checks; at most 20"):
        parse_checks([f"contains:{n}" for n in range(21)])
    schema = {"properties": {str(n): {"pattern": str(n)} for n in range(101)}}
    with pytest.raises(InputError, match="101 patterns; at most 100"):
        parse_check("json-schema:" + json.dumps(schema))


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
    worth = [check.grade(reply) for reply in WORSE_TO_BETTER[spec]]
    assert worth == sorted(worth)
    assert len(set(worth)) == len(worth), worth
    assert all(0 <= value <= 1 for value in worth)
    assert [value == 1 for value in worth] == [check.passes(reply) for reply in WORSE_TO_BETTER[spec]]


def test_a_schema_asks_for_json_first(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["a"]}')
    worth = [parse_check(f"json-schema:{tmp_path / 's.json'}").grade(reply) for reply in ("no", '{"b": 1}', '{"a": 1}')]
    assert worth == [0.0, pytest.approx(0.45), 1.0]


def test_a_part_that_backtracks_for_ever_is_not_found() -> None:
    check = parse_check(r"regex:(a+)+b.*end")
    assert check.grade("a" * 40 + " end") == pytest.approx(0.45)  # in time, and only its last part is there
