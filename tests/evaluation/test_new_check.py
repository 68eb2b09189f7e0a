"""A check of somebody's own: one class in one file, from ``--check`` to the report and a reward."""

from __future__ import annotations

import pytest

from playground.cli.arguments import build_parser
from playground.errors import InputError
from playground.evaluation.checks import Check, parse_check, parse_checks
from playground.evaluation.verdict import SideFacts, conclude
from playground.report.report import body_html
from tests.evaluation.verdicts import answered


class StartsWith(Check):
    """All there is to it."""

    kind = "starts-with"
    takes = "TEXT"

    @property
    def label(self) -> str:
        return f"Starts with “{self.value}”"

    def passes(self, reply: str) -> bool:
        return reply.strip().startswith(self.value)

    def share(self, reply: str) -> float:
        return float(self.value in reply)


def test_a_new_check_is_one_class() -> None:
    written = "starts-with:The patient"
    said = build_parser().parse_args(["verdict", "x.jsonl", "--side", "model=base", "--check", written])
    (check,) = parse_checks(said.check)
    assert isinstance(check, StartsWith)
    with pytest.raises(InputError, match="max-words:N, starts-with:TEXT"):
        parse_check("nonsense")
    sides = {rows[0].side: rows for rows in (answered("base", 45), answered("tuned", 49))}
    facts = [SideFacts(side, kind) for side, kind in zip(sides, ("base", "tuned"), strict=True)]
    record = conclude(sides, facts, [check]).record | {"checks": [written]}
    assert record["main_metric"] == written
    assert record["sides"][0]["metrics"][written]["value"] == 1.0
    assert "Starts with “The patient”" in body_html(record, [])
    assert [check.grade(reply) for reply in ("The patient sat", "See: The patient", "x")] == [1.0, 0.9, 0.0]
