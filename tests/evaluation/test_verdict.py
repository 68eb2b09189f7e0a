"""Answers to a record: what was never timed costs nobody's seconds, and labels are found in all references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from playground.evaluation.checks import parse_check
from playground.evaluation.cost import Prices
from playground.evaluation.decision import Facts, Questions
from playground.evaluation.verdict import Answered, SideFacts, conclude
from tests.evaluation.make import rows

BUSY = Questions(volume=1_000_000)
SIDES = [SideFacts("prompt", "prompt"), SideFacts("tuned", "tuned", 3_600.0)]


def answers(timed: Sequence[str], n: int = 40) -> dict[str, list[Answered]]:
    """Both sides are right always."""
    return {
        side: [replace(row, seconds=1.0 if side in timed else None) for row in rows(["yes"] * n, ["yes"] * n, side)]
        for side in ("prompt", "tuned")
    }


def test_a_side_that_was_not_timed_is_not_for_nothing() -> None:
    checks, by_seconds = [parse_check("contains:yes")], Prices(device_per_hour=2.0)
    for timed in ((), ("prompt",), ("tuned",)):
        record = conclude(answers(timed), SIDES, checks, BUSY, by_seconds, Facts(100)).record
        assert (record["choice"], record["rule"]) == ("prompt", 5), "nothing is said to be cheaper"
        costs = {side["side"]: side["cost"] for side in record["sides"]}
        assert costs["tuned"]["once"] == 1.0
        assert {side for side, cost in costs.items() if cost["per_request"] is not None} == set(timed)
        assert all(set(point["totals"]) == set(timed) for point in record["cost_curve"])
        assert record["prompt_length"] is None
        assert not any("saves" in reason["text"] or "paid back" in reason["text"] for reason in record["reasons"])
    both = conclude(answers(("prompt", "tuned")), SIDES, checks, BUSY, by_seconds, Facts(100)).record
    assert all(side["cost"]["per_request"] > 0 for side in both["sides"])
    by_tokens = conclude(answers(()), SIDES, checks, BUSY, Prices(), Facts(100)).record
    assert all(side["cost"]["per_request"] > 0 for side in by_tokens["sides"])
    assert by_tokens["prompt_length"] is not None


def test_a_model_without_a_record_of_its_training_is_not_for_nothing() -> None:
    cheaper = Prices(
        prompt_per_million=100.0,
        completion_per_million=100.0,
        tuned_prompt_per_million=1.0,
        tuned_completion_per_million=1.0,
    )
    checks = [parse_check("contains:yes")]
    for sides, prices, rule in (
        (SIDES, cheaper, 4),
        ([SIDES[0], SideFacts("tuned", "tuned")], cheaper, 5),
        ([SIDES[0], SideFacts("tuned", "tuned")], replace(cheaper, training=1.0), 4),
    ):
        assert conclude(answers(()), sides, checks, BUSY, prices, Facts(100)).record["rule"] == rule


@pytest.mark.parametrize(
    ("asked", "all_of_them", "labels"),
    [
        (["yes", "no"] * 3, None, ["no", "yes"]),
        (
            ["yes", "no"] * 3,
            ["yes", "no"] * 3 + [f"A sentence, number {n}." for n in range(60)],
            None,
        ),  # chance made them look like labels
        (
            ["yes", "no", "perhaps", "never"],
            ["yes", "no", "perhaps", "never"] * 5,
            ["never", "no", "perhaps", "yes"],
        ),  # too few to tell
        (["yes", "no"], None, None),
    ],
)
def test_labels_are_found_in_all_references(
    asked: list[str], all_of_them: list[str] | None, labels: list[str] | None
) -> None:
    said = {side: rows(asked, asked, side) for side in ("prompt", "tuned")}
    record = conclude(said, SIDES, [], references=all_of_them).record
    assert record["labels"] == labels
    assert ("accuracy" in record["about"]) is (labels is not None)
