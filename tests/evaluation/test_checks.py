"""Checks: what passes, what is refused, what no pattern or schema can do, grades, and a check of somebody's own."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from playground.cli.common import build_parser
from playground.evaluation.checks import Check, is_check, parse_check, parse_checks, schema_file
from playground.evaluation.verdict import SideFacts, conclude
from playground.report.report import body_html
from tests.evaluation.helpers import answered, cases
from tests.refused import refused


@pytest.mark.parametrize(("check", "reply", "holds"), cases("checks"))
def test_checks(check, reply, holds):
    assert parse_check(check).passes(reply) is holds


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "nonsense", "likes:me", "ends-with:", "max-words:many", "max-words:²"),
        *("json-schema:/nowhere.json", "json-schema:" + "[" * 10, "json-schema:a\0b"),
        *("regex:(", "regex:" + "(" * 3_000 + ")" * 3_000, f"regex:a{{{'9' * 30}}}", "regex:" + "a" * 20_000),
        *(r"regex:\p{L}", "regex:(?<x>a)", r"regex:(a)\2", "regex:(?x)((a{90}#(\n){90}#(\n){90}"),
    ],
)
def test_what_is_not_a_check_is_refused_in_words(wrong):
    refused("", parse_check, wrong)


def in_seconds(call):
    started = time.monotonic()
    return call(), time.monotonic() - started


def test_a_pattern_that_backtracks_for_ever_fails_in_time_and_lets_others_run():
    check, went_on, done = parse_check("regex:(a|a)*b|(a+)+c"), [], threading.Event()

    def others():
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
    parts = parse_check(r"regex:(a+)+b.*end").grade("a" * 40 + " end")
    assert parts == pytest.approx(0.45), "in time, and only its last part is there"


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


def inline(schema):
    return f"json-schema:{json.dumps(schema)}"


def test_a_schema_may_stand_in_a_file_or_in_the_check_itself(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    check = parse_check(inline(SCHEMA), files=False)
    for one in (check, parse_check(f"json-schema:{tmp_path / 's.json'}")):
        assert is_check(one.spec)
        replies = ('{"a": 1}', '{"a": "1"}', "{}", "no", "[" * 100_000)
        assert [one.passes(reply) for reply in replies] == [True] + [False] * 4
        assert [one.grade(reply) for reply in ("no", '{"b": 1}', '{"a": 1}')] == [0.0, pytest.approx(0.45), 1.0]
    assert "Fits {" in check.label
    assert [schema_file(one) for one in (check.spec, "json", "json-schema:a/s.json")] == [None, None, Path("a/s.json")]
    old = parse_check(inline({"$schema": DRAFT_7, "items": [{"type": "integer"}], "additionalItems": False}))
    assert [old.passes(reply) for reply in ("[1]", "[1, 2]")] == [True, False]


def test_a_shared_app_opens_no_file_and_alone_only_a_small_regular_one_whose_content_is_not_told(tmp_path):
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SCHEMA))
    for path in (file, "/etc/passwd", "/nowhere"):
        told = refused(r"shared app does not open.*json-schema:\{", parse_check, f"json-schema:{path}", files=False)
        assert str(path) not in told
    refused(r"likes.*shared app", parse_checks, ["json", "likes:me", f"json-schema:{file}"], files=False)
    specs = ["json", inline(SCHEMA)]
    assert [check.spec for check in parse_checks(["json", *specs], files=False)] == specs
    assert len(parse_checks([f"json-schema:{file}"])) == 1
    secret = "hunter2"
    for name, held in {
        "text": f"{secret}:x:0",
        "none": f'"{secret}"',
        "wrong": json.dumps({"type": secret}),
        "deep": f'{{"{secret}": ' * 50_000,
        "points": json.dumps({"properties": {"b": {"$ref": f"#/{secret}"}}}),
        "pattern": json.dumps({"pattern": f"{secret}("}),
        "large": f'{{"title": "{secret * 200_000}"}}',
    }.items():
        (tmp_path / name).write_text(held)
    (tmp_path / "bytes").write_bytes(b"\xff" + secret.encode())
    os.mkfifo(tmp_path / "pipe")
    for path, words in cases("schema_files"):
        assert secret not in refused(words, parse_check, f"json-schema:{tmp_path / path}")


@pytest.mark.parametrize("schema", cases("schemas_refused"))
def test_a_schema_that_reaches_out_or_never_ends_is_refused_when_it_is_read(schema):
    refused("schema of the check", parse_check, f"json-schema:{schema}")


SLOW, LONG, DRAFT_7 = "(a|a)*b", "a" * 5_000, "http://json-schema.org/draft-07/schema#"
DOUBLING = {"0": True} | {str(n): {"allOf": [{"$ref": f"#/$defs/{n - 1}"}] * 2} for n in range(1, 41)}


@pytest.mark.parametrize(
    ("schema", "reply"),
    [
        ({"pattern": SLOW}, LONG),
        ({"patternProperties": {SLOW: False}}, {LONG: 1}),
        ({"patternProperties": {SLOW: False}, "additionalProperties": False}, {LONG: 1}),
        ({"properties": {"b": {"$schema": DRAFT_7, "pattern": SLOW}}}, {"b": LONG}),
        ({"properties": {"b": {"$ref": "#/$defs/40"}}, "$defs": DOUBLING}, {"b": 1}),
    ],
)
def test_no_schema_and_reply_hold_the_app(schema, reply):
    holds, seconds = in_seconds(lambda: parse_check(inline(schema)).passes(json.dumps(reply)))
    assert holds in (True, False)
    assert seconds < 10


@pytest.mark.parametrize(
    "pattern",
    [
        *("a{30000000}", "a{,30000000}", "(a{1000}){1000}", "((x{100}y){100}){100}", "(){99999}", "[ab]{20000}"),
        "((((a{90}(?#[)){90}){90}(?#])){90})",
    ],
)
def test_repeats_are_counted_before_a_pattern_is_compiled(pattern):
    """Written out by the compiler, the first of these took 8 GB and stayed in its cache."""
    refused(r"its repeats stand for [\d,]+ characters, and 10,000 are the most", parse_check, f"regex:{pattern}")
    refused("pattern that is not a regular expression", parse_check, inline({"type": "string", "pattern": pattern}))


def test_a_schema_may_name_its_own_parts_and_has_so_many_patterns_a_verdict_so_many_checks():
    node = {
        "type": "object",
        "required": ["name"],
        "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "patternProperties": {"^x-": {"type": "integer"}, "^n": {"pattern": "^[A-Z]"}},
        "additionalProperties": {"type": ["array", "null"]},
    }
    check = parse_check(inline({"$id": "https://example.org/tree", "$ref": "#/$defs/node", "$defs": {"node": node}}))
    assert check.passes('{"name": "Root", "x-a": 1, "kids": [{"name": "Leaf"}], "else": null}')
    for more in ('"x-a": "1"', '"kids": [{"name": 1}, {}]', '"else": 1'):
        assert not check.passes(f'{{"name": "Root", {more}}}')
    assert not check.passes('{"name": "root"}')
    deep = '{"name": "R", "kids": [' * 400 + "]}" * 400
    assert check.passes(deep) in (True, False), "past its depth it does not fit, and nothing breaks"
    closed = parse_check(inline({"patternProperties": {"^x-": True}, "additionalProperties": False}))
    assert [closed.passes(reply) for reply in ('{"x-a": 1}', '{"a": 1}')] == [True, False]
    refused("21 checks; at most 20", parse_checks, [f"contains:{n}" for n in range(21)])
    many = inline({"properties": {str(n): {"pattern": str(n)} for n in range(101)}})
    refused("101 patterns; at most 100", parse_check, many)


@pytest.mark.parametrize(("spec", "worse_to_better"), cases("nearer"))
def test_nearer_is_worth_more(spec, worse_to_better):
    check = parse_check(spec)
    worth = [check.grade(reply) for reply in worse_to_better]
    assert worth == sorted(set(worth))
    assert all(0 <= value <= 1 for value in worth)
    assert [value == 1 for value in worth] == [check.passes(reply) for reply in worse_to_better]


class StartsWith(Check):
    """All there is to a check of somebody's own."""

    kind, takes, says = "starts-with", "TEXT", "Starts with “{value}”"

    def passes(self, reply):
        return reply.strip().startswith(self.value)

    def share(self, reply):
        return float(self.value in reply)


def test_a_new_check_is_one_class_from_the_command_line_to_the_report_and_a_reward():
    written = "starts-with:The patient"
    said = build_parser().parse_args(["verdict", "x.jsonl", "--side", "model=base", "--check", written])
    (check,) = parse_checks(said.check)
    assert isinstance(check, StartsWith)
    refused("max-words:N, starts-with:TEXT", parse_check, "nonsense")
    sides = {rows[0].side: rows for rows in (answered("base", 12), answered("tuned", 12))}
    facts = [SideFacts(side, kind) for side, kind in zip(sides, ("base", "fine-tune"), strict=True)]
    record = conclude(sides, facts, [check]).record | {"checks": [written]}
    assert record["main_metric"] == "pass"
    assert {record["sides"][0]["metrics"][name]["value"] for name in (written, "format", "pass")} == {1.0}
    assert "Starts with “The patient”" in body_html(record, [])
    assert [check.grade(reply) for reply in ("The patient sat", "See: The patient", "x")] == [1.0, 0.9, 0.0]
