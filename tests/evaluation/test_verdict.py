"""Answers to a record: figures and p-values by another road, costs, what was never timed, labels, draws."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from playground.evaluation.checks import parse_check
from playground.evaluation.comparison import Facts, Questions, compare_sides
from playground.evaluation.cost import Prices
from playground.evaluation.criterion import parse_criterion
from playground.evaluation.metrics import metrics_for
from playground.evaluation.verdict import SideFacts, conclude
from tests.evaluation.helpers import cases, passes, rows, table

DONE = "ends-with:done"
found = pytest.fixture(lambda measured: compare_sides(measured), scope="module")


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(8)
    references = ["yes" if at % 3 else "no" for at in range(24)]
    sides = {}
    for side, wrong in (("base", 0.6), ("prompt", 0.3), ("tuned", 0.0)):
        flip = rng.random(24) < wrong
        other = {"yes": "no", "no": "yes"}
        replies = [other[text] if bad else text for text, bad in zip(references, flip, strict=True)]
        replies = [text + (" done" if rng.random() > wrong else "") for text in replies]
        said = rows(replies, references, side, loss=rng.random(24).tolist())
        sides[side] = metrics_for(said, [parse_check(DONE)], ["no", "yes"])
    return sides


def test_every_side_and_every_pair_of_every_metric(measured, found):
    figures = {side: {name: one.value for name, one in metrics.items()} for side, metrics in found.sides.items()}
    assert figures == {side: {name: one.pooled for name, one in metrics.items()} for side, metrics in measured.items()}
    every = {(a, b, name) for a, b in itertools.combinations(measured, 2) for name in measured["base"]}
    assert {(pair.a, pair.b, pair.metric) for pair in found.pairs} == every
    for pair in found.pairs:
        a, b = (found.sides[side][pair.metric].value for side in (pair.a, pair.b))
        assert pair.difference == pytest.approx(a - b)
        assert pair.low <= pair.difference <= pair.high
        assert pair.p_value <= pair.p_adjusted <= 1
        assert (pair.enough, pair.n) == (pair.p_adjusted <= 0.05, 24)
    one = next(pair for pair in found.pairs if {pair.a, pair.b, pair.metric} == {"base", "tuned", DONE})
    tuned, base = (np.array(measured[side][DONE].values) for side in ("tuned", "base"))
    won, lost = int(np.sum(tuned > base)), int(np.sum(tuned < base))
    assert one.p_value == pytest.approx(stats.binomtest(won, won + lost).pvalue)


def test_holm_is_over_the_pairs_of_one_metric_and_sides_meet_where_both_have_answers():
    pairs = table({"a": {"json": passes(40)}, "b": {"json": passes(33)}, "c": {"json": passes(32)}}).pairs
    p = {(pair.a, pair.b): pair for pair in pairs}
    assert (p["a", "b"].p_value, p["a", "c"].p_value) == (2 / 2**7, 2 / 2**8)
    assert (p["a", "b"].p_adjusted, p["a", "c"].p_adjusted) == (2 * 2 / 2**7, 3 * 2 / 2**8)
    assert p["b", "c"].p_adjusted == 1
    sides = table({"a": {"json": passes(3, 9), "rouge_l": [0.5] * 9}, "b": {"json": passes(3, 9)}})
    assert ([pair.metric for pair in sides.pairs], sides.sides["a"]["rouge_l"].method) == (["json"], "point")
    sides = {"base": rows(["x"] * 6, ["x"] * 6), "other": rows(["x", "y", "y", "x"], ["x"] * 4, "other")}
    sides["nobody"] = [replace(row, side="nobody", example=row.example + 100) for row in sides["other"]]
    both = compare_sides({side: metrics_for(said) for side, said in sides.items()})
    assert {(pair.a, pair.b) for pair in both.pairs} == {("base", "other")}
    pair, chrf = (next(one for one in both.pairs if one.metric == name) for name in ("exact_match", "chrf"))
    assert (pair.n, pair.difference, chrf.n, both.sides["base"]["exact_match"].n) == (4, 0.5, 4, 6)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_any_values(values):
    a, b, yes, no = zip(*values, strict=True)
    sides = table({"a": {"rouge_l": a, "json": [*map(float, yes)]}, "b": {"rouge_l": b, "json": [*map(float, no)]}})
    for pair in sides.pairs:
        assert pair.low <= pair.difference <= pair.high
        assert 0 < pair.p_value <= pair.p_adjusted <= 1
    assert all(one.low <= one.value <= one.high for metrics in sides.sides.values() for one in metrics.values())


BUSY = Questions(volume=1_000_000)
SIDES = [SideFacts("prompt", "prompt"), SideFacts("tuned", "fine-tune", 3_600.0)]
YES = [parse_check("contains:yes")]


def right(timed, n=40):
    """Both sides are right always."""
    return {
        side: [replace(row, seconds=1.0 if side in timed else None) for row in rows(["yes"] * n, ["yes"] * n, side)]
        for side in ("prompt", "tuned")
    }


@pytest.mark.parametrize("timed", [(), ("prompt",), ("tuned",), ("prompt", "tuned")])
def test_a_side_that_was_not_timed_is_not_for_nothing(timed):
    record = conclude(right(timed), SIDES, YES, BUSY, Prices(device_per_hour=2.0), Facts(100)).record
    costs = {side["side"]: side["cost"] for side in record["sides"]}
    assert {side for side, cost in costs.items() if cost["per_request"]} == set(timed)
    assert costs["tuned"]["once"] == 1.0
    assert all(set(point["totals"]) == set(timed) for point in record["cost_curve"])
    if len(timed) < 2:
        assert (record["choice"], record["rule"]) == ("prompt", "3a"), "in the ladder's order: no cost is weighed"
        assert record["prompt_length"] is None
        assert not any("saves" in reason["text"] or "paid back" in reason["text"] for reason in record["reasons"])


def test_by_tokens_nobody_needs_to_be_timed_and_training_without_a_record_is_not_for_nothing():
    record = conclude(right(()), SIDES, YES, BUSY, Prices(), Facts(100)).record
    assert all(side["cost"]["per_request"] > 0 for side in record["sides"])
    assert record["prompt_length"] is not None
    cheaper = Prices(**dict.fromkeys(("prompt_per_million", "completion_per_million"), 100))
    cheaper = replace(cheaper, tuned_prompt_per_million=1, tuned_completion_per_million=1)
    unknown = [SIDES[0], SideFacts("tuned", "fine-tune")]
    for sides, prices, choice in (
        (SIDES, cheaper, "fine-tune"),
        (unknown, cheaper, "prompt"),
        (unknown, replace(cheaper, training=1.0), "fine-tune"),
    ):
        assert conclude(right(()), sides, YES, BUSY, prices, Facts(100)).record["choice"] == choice


def judged(prices=Prices(), timed=40, facts=Facts(100), **asked):  # noqa: B008
    said = right(("prompt", "tuned"))
    for side, seconds in (("prompt", 1.0), ("tuned", 3.0)):
        said[side] = [replace(row, seconds=seconds if at < timed else None) for at, row in enumerate(said[side])]
    sides = [SIDES[0], replace(SIDES[1], rows_trained=100)]
    return conclude(said, sides, YES, Questions(**asked), prices, facts).record


def test_the_cheapest_of_a_year_comes_first_where_a_volume_is_given_and_hosting_and_changes_count():
    dear = Prices(tuned_prompt_per_million=0.1, tuned_completion_per_million=0.1)
    assert judged(dear, volume=1_000_000)["choice"] == "fine-tune"
    for changed in (replace(dear, hosting_per_month=50.0), replace(dear, label_each=1.0)):
        record = judged(changed, volume=1_000_000)
        assert record["choice"] == "prompt"
        for side in record["sides"]:
            assert side["cost"]["total"] == pytest.approx(sum(side["cost"]["items"].values()))
    assert judged(dear, volume=1_000_000, changes="weekly")["choice"] == "prompt"
    record = judged(volume=1_000_000)
    assert record["by_cost"]
    assert "at example prices" in record["reason"]
    assert not judged()["by_cost"]
    assert "example" not in judged()["reason"]


@pytest.mark.parametrize("timed", [40, 0])
def test_a_budget_holds_whether_or_not_replies_were_timed(timed):
    record = judged(Prices(device_per_hour=1.0, training_per_hour=100.0), timed, budget=50)
    assert record["left_out"] == ["tuned: training costs 100.00 USD, above your 50.00 USD"]
    assert not any(guard["name"] == "budget" for guard in record["guards"])


def test_a_limit_of_seconds_takes_twenty_timed_replies_and_a_budget_that_could_not_be_applied_is_said():
    slow, few = judged(latency_s=2.0), judged(latency_s=2.0, timed=19)
    assert slow["left_out"] == ["tuned: takes 3.0 s a reply (3.0 to 3.0), above your limit of 2 s"]
    assert few["left_out"] == []
    (guard,) = (one for one in few["guards"] if one["name"] == "timing")
    assert "not timed well enough (19 replies; 20 are needed)" in guard["sentence"]
    sides = [SIDES[0], SideFacts("tuned", "fine-tune")]
    record = conclude(right(("prompt", "tuned")), sides, YES, Questions(budget=1)).record
    assert record["left_out"] == []
    (guard,) = (one for one in record["guards"] if one["name"] == "budget")
    assert guard["sides"] == ["tuned"]


def test_a_tuned_side_that_forgot_more_than_is_allowed_is_left_out_and_one_trained_too_little_is_said():
    facts = Facts(100, forgotten={"tuned": (2.5, -4.1, 9.0)})
    (out,) = judged(facts=facts, forgets=8)["left_out"]
    assert out.startswith("tuned: may have lost up to 9 points of the general questions")
    assert judged(facts=facts, forgets=9)["left_out"] == judged(facts=facts)["left_out"] == []
    assert judged(forgets=8)["guards"][0]["name"] == "forgetting", "not measured, so not applied"
    record = judged(facts=Facts(100, undertrained={"tuned": "It saw half of its rows."}))
    assert next((one["name"], one["sides"]) for one in record["guards"]) == ("undertrained", ["tuned"])
    assert not any(one["set_aside"] for one in record["ladder"])


FOUR = ["yes", "no", "perhaps", "never"]


@pytest.mark.parametrize(("unended", "tuned", "undertrained", "helps"), cases("helps"))
def test_where_nothing_is_good_enough_it_is_said_what_is_wrong_and_what_would_help(unended, tuned, undertrained, helps):
    wanted = [f"name: n{at}\nplace: p{at}" for at in range(40)]
    said = [f"name: {'m' if at < 10 else 'n'}{at}\nplace: {'q' if at < 30 else 'p'}{at}" for at in range(40)]
    formed = [text + ("" if at < unended else "\nend") for at, text in enumerate(said)]
    facts = Facts(100, undertrained={"it": "few steps"} if undertrained else {})
    sides, form = [SideFacts("it", "fine-tune" if tuned else "prompt")], [parse_check("ends-with:end")]
    criterion = parse_criterion("fields:name,place", wanted)
    record = conclude({"it": rows(formed, wanted, "it")}, sides, form, facts=facts, criterion=criterion).record
    assert record["choice"] == "none-good-enough"
    (reason,) = [one for one in record["reasons"] if "wrong by" in one["text"]]
    assert reason["text"].startswith(f"it is wrong by {helps}")


@pytest.mark.parametrize(
    ("few", "many", "helps"),
    [(20, 50, "more rows still help"), (40, 40, "as many more would hardly help"), (40, 42, "is not shown")],
)
def test_a_side_that_learned_half_of_anothers_rows_tells_whether_more_rows_help(few, many, helps):
    wanted = [f"name: n{at}" for at in range(100)]
    said = {side: wanted[:right] + ["name: x"] * (100 - right) for side, right in (("few", few), ("many", many))}
    answers = {side: rows(texts, wanted, side) for side, texts in said.items()}
    sides, criterion = [SideFacts(side, "fine-tune") for side in said], parse_criterion("fields:name", wanted)
    facts = Facts(100, grown={"many": ("few", 100, 200)})
    record = conclude(answers, sides, [], facts=facts, criterion=criterion).record
    (reason,) = [one["text"] for one in record["reasons"] if "wrong by" in one["text"]]
    assert "From 100 to 200 training rows: " in reason
    assert helps in reason


@pytest.mark.parametrize(
    ("asked", "all_of_them", "labels"),
    [
        (["yes", "no"] * 3, None, ["no", "yes"]),
        # chance made them look like labels
        (["yes", "no"] * 3, ["yes", "no"] * 3 + [f"A sentence, number {n}." for n in range(60)], None),
        (FOUR, FOUR * 5, sorted(FOUR)),  # too few to tell
        (["yes", "no"], None, None),
    ],
)
def test_labels_are_found_in_all_references(asked, all_of_them, labels):
    said = {side: rows(asked, asked, side) for side in ("prompt", "tuned")}
    record = conclude(said, SIDES, [], references=all_of_them).record
    assert record["labels"] == labels
    assert ("accuracy" in record["about"]) is (labels is not None)


def test_draws_of_a_side_are_one_side_with_their_spread_and_count_from_five_on():
    def judged(many, turned=False, **asked):
        names = ["shown", *(f"shown, draw {at}" for at in range(2, many + 1))]
        replies = {name: ["yes"] * (20 - at) + ["no"] * at for at, name in enumerate(names)}
        answers = {
            name: [
                replace(one, seconds=1.0 + at if one.example < 8 else None) for one in rows(said, ["yes"] * 20, name)
            ]
            for at, (name, said) in enumerate(replies.items())
        }
        if turned:
            answers = {name: said[::-1] for name, said in answers.items()}
        sides = [
            SideFacts(name, "few-shot", draw_of="shown" * (at > 0), drawn="shot draws" * (at > 0))
            for at, name in enumerate(names)
        ]
        facts = Facts(forgotten={"shown": (1, 0, 5), names[-1]: (4, 0, 9)})
        return conclude(answers, sides, [parse_check("contains:yes")], Questions(**asked), facts=facts)

    one, few, many = (judged(draws).record["sides"] for draws in (1, 3, 5))
    assert [len(found) for found in (one, few, many)] == [1, 1, 1]
    assert (one[0]["interval_over"], one[0]["spread"], one[0]["draws"]) == ("rows", None, [])
    assert few[0]["metrics"]["pass"] == one[0]["metrics"]["pass"], "below five the first draw decides"
    assert (few[0]["interval_over"], few[0]["spread"]) == ("rows, of the first of 3 shot draws", [0.9, 1.0])
    assert (many[0]["interval_over"], many[0]["spread"]) == ("rows, 5 shot draws", [0.8, 1.0])
    assert [draw["value"] for draw in many[0]["draws"]] == [1.0, 0.95, 0.9, 0.85, 0.8]
    figure = many[0]["metrics"]["pass"]
    assert figure["value"] == pytest.approx(0.9)
    assert figure["low"] < 0.9 < figure["high"]
    assert [found[0]["seconds_mean"] for found in (one, few, many)] == [1.0, 2.0, 3.0], "of all draws"
    assert few[0]["timed"] == many[0]["timed"] == one[0]["timed"]
    (left,) = judged(3, forgets=8).record["left_out"]
    assert "up to 9 points of the general questions (4 were measured, of the worst of 2 shot draws)" in left
    assert judged(5, turned=True).record == judged(5).record, "in whatever order the replies came"


@pytest.mark.parametrize(("mine", "theirs", "n", "words"), cases("not_worse"))
def test_what_takes_a_recorded_models_place_is_told_to_be_no_worse_or_not(mine, theirs, n, words):
    texts, old = ["yes"] * n, {"recorded": {"file": "old.jsonl"}}
    made = {"Old": theirs, "Tuned": mine}
    replies = {side: rows(["yes"] * k + ["no"] * (n - k), texts, side) for side, k in made.items()}
    sides = [SideFacts("Old", "larger-model", described=old), SideFacts("Tuned", "fine-tune")]
    record = conclude(replies, sides, [], criterion=parse_criterion("exact", texts)).record
    assert re.search(words, record["reason"])
    (one,) = record["not_worse"]
    assert one["shown"] == (one["low"] >= -0.05) == ("Tuned is not" in record["reason"].partition("That ")[0])
    assert one["low"] <= one["difference"] <= one["high"]
    cut = conclude(replies, sides, [], criterion=parse_criterion("exact", texts), facts=Facts(leaked={"Tuned": 0.5}))
    assert cut.record["not_worse"] == [], "a side that is set aside is not said to be anything"
