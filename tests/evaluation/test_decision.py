"""The decision protocol: every leaf of its tree, the counts that can pass, planning, looks, and guards."""

import re

import numpy as np
import pytest

from playground.evaluation import decision
from playground.evaluation.decision import Candidate, Terms, decide, least_passes
from playground.settings import PROJECT_ROOT
from tests.refused import refused

TERMS = Terms()


def side(rung, passed, n=100, **said):
    """The first ``passed`` of n rows pass."""
    return Candidate(said.pop("name", rung), rung, np.arange(n) < passed, **said)


def answer(*sides, **said):
    return decide(sides, said.pop("terms", TERMS), **said)


CUT = side("prompt", 97, cut_off=0.2)
"""Replies that were cut off: it cannot be chosen, the others can."""


LEAVES = [
    ("3a", "prompt", [side("prompt", 96), side("fine-tune", 99)]),
    ("3a", "prompt", [side("base", 97), side("fine-tune", 99)]),
    ("3a", "few-shot", [side("prompt", 60), side("few-shot", 97), side("fine-tune", 99)]),
    ("3a", "constraint", [side("constraint", 97), side("few-shot", 97)]),
    ("3a", "larger-model", [side("prompt", 55), side("larger-model", 97)]),
    ("3b", "fine-tune", [side("prompt", 3), side("fine-tune", 97)]),
    ("3b", "fine-tune+documents", [side("documents", 3), side("fine-tune", 60), side("fine-tune+documents", 97)]),
    ("4", "none-good-enough", [side("prompt", 60), side("fine-tune", 75)]),
    ("5a", "not-enough-evidence", []),
    ("5a", "not-enough-evidence", [side("fine-tune", 99, leaked=0.5)]),
    ("5b", "not-enough-evidence", [side("prompt", 12, 12), side("fine-tune", 12, 12)]),
    ("5c", "not-enough-evidence", [side("prompt", 60), side("fine-tune", 90)]),
    ("4", "none-good-enough", [side("prompt", 0), side("fine-tune", 0)]),
    ("3a", "fine-tune", [CUT, side("fine-tune", 97)]),
    ("5c", "not-enough-evidence", [CUT, side("fine-tune", 50)]),
    ("4", "none-good-enough", [side("prompt", 0, cut_off=0.4), side("fine-tune", 50)]),  # even if all of it passed
    ("5c", "not-enough-evidence", [side("prompt", 0, cut_off=0.9), side("fine-tune", 50)]),
]


def test_the_docs_and_the_docstring_name_every_leaf():
    table = (PROJECT_ROOT / "docs" / "decision.md").read_text()
    leaves = {leaf for leaf, *_ in LEAVES}
    assert set(re.findall(r"^\| (\d[a-z]?) \|", table, re.MULTILINE)) == leaves
    assert all(re.search(rf"\b{leaf}\b", str(decision.__doc__)) for leaf in leaves)


@pytest.mark.parametrize(("leaf", "choice", "sides"), LEAVES)
def test_each_leaf(leaf, choice, sides):
    made = answer(*sides)
    assert (made.leaf, made.choice) == (leaf, choice)
    assert made.sentence
    assert (made.side == "") == (choice in ("none-good-enough", "not-enough-evidence"))


@pytest.mark.parametrize(
    ("rungs", "n", "least"),
    [(1, 20, 20), (1, 38, None), (1, 40, 38), (1, 100, 92), (5, 30, 30), (5, 40, 40), (5, 100, 94), (5, 200, 182)],
)
def test_how_many_must_pass(rungs, n, least):
    found = least_passes(n, TERMS, rungs)
    assert found == least if least is not None else found is not None and found >= 36


def test_the_plan_says_how_many_rows_it_takes_and_rests_on_bar_margin_and_rungs_not_on_what_was_seen():
    made = answer(side("prompt", 12, 12))
    assert made.planned_rows == 68
    assert "68 rows" in made.sentence
    plans = {answer(side("prompt", 60), side("fine-tune", seen)).planned_rows for seen in (10, 50, 88)}
    assert plans == {decision.planned_rows(TERMS, 2)}


def test_a_leak_stops_tuned_sides_alone_one_guard_names_all_that_were_cut_off_a_limit_takes_a_side_out():
    for leaked, choice, guard in ((0.2, "not-enough-evidence", "leakage"), (None, "fine-tune", "unknown-training")):
        made = answer(side("prompt", 60), side("fine-tune", 99, leaked=leaked))
        assert (made.choice, [one.name for one in made.guards]) == (choice, [guard])
    assert answer(side("prompt", 97), side("fine-tune", 99, leaked=0.2)).choice == "prompt"
    (guard,) = answer(CUT, side("few-shot", 97), side("fine-tune", 97, cut_off=0.08)).guards
    assert (guard.name, guard.sides) == ("cut-off", ("prompt", "fine-tune"))
    assert "20% of prompt, 8% of fine-tune" in guard.sentence
    made = answer(side("prompt", 97, limit="slower than 2 s"), side("fine-tune", 97))
    assert (made.side, made.left_out) == ("fine-tune", ("prompt: slower than 2 s",))
    sides = side("few-shot", 97, cost=9.0), side("fine-tune", 97, cost=1.0)
    assert (answer(*sides).side, answer(*sides, by_cost=True).side) == ("few-shot", "fine-tune")


def test_sides_of_one_rung_compete_on_validation_rows_which_then_decide_nothing_else():
    validation = np.arange(100) < 20
    first = Candidate("first", "prompt", np.arange(100) >= 20)  # right in every test row, wrong in validation
    second = Candidate("second", "prompt", np.arange(100) < 90)
    made = answer(first, second, validation=validation)
    assert [(one.side, one.passed, one.n) for one in made.standings] == [("second", 70, 80)]
    refused("validation", answer, first, second, error=ValueError)
    rivals = side("fine-tune", 99, leaked=0.9, name="knows"), side("fine-tune", 98, name="fresh")
    assert answer(*rivals, validation=validation).side == "fresh", "one that is set aside does not take the place"


def test_no_difference_shown_is_not_equality_and_what_is_said_of_rows_is_true_of_them():
    few = answer(side("prompt", 39, 40), side("fine-tune", 40, 40))
    many = answer(side("prompt", 970, 1000), side("fine-tune", 980, 1000))
    more = answer(side("prompt", 940, 1000), side("fine-tune", 1000, 1000))
    assert few.choice == "not-enough-evidence" or few.as_good_as_best is False
    assert (many.side, many.as_good_as_best) == ("prompt", True)
    assert (more.side, more.as_good_as_best) == ("prompt", False)
    assert "would add 6 points" in more.sentence
    near, spent = answer(side("prompt", 176, 200)), answer(side("prompt", 80, 80), looks=[40])
    assert (near.leaf, spent.leaf) == ("5c", "5b")
    assert "more than 200" in near.sentence
    assert "can show nothing" in spent.sentence
    better = answer(side("few-shot", 95), side("fine-tune", 99))
    assert (better.as_good_as_best, "is not shown; about 495 rows would tell" in better.sentence) == (False, True)
    assert "1 row cannot" in answer(side("prompt", 1, 1)).sentence


@pytest.mark.parametrize("maximum", [None, 200])
def test_what_rows_can_show_is_said_of_what_the_first_look_may_spend(maximum):
    terms = Terms(maximum=maximum)
    least = int(decision.power_words(100, terms, 1).partition("good enough from ")[2].partition(" ")[0])
    found = [answer(side("prompt", passed), terms=terms).choice for passed in (least - 1, least)]
    assert found == ["not-enough-evidence", "prompt"]


def test_watching_all_along_is_wrong_in_at_most_one_of_twenty():
    rng = np.random.default_rng(3)
    passed = np.cumsum(rng.random((300, 120)) < 0.9, axis=1)
    looks = [[decision.confidence_sequence(int(one[n - 1]), n) for n in (5, 20, 40, 80, 120)] for one in passed]
    assert sum(not all(low <= 0.9 <= high for low, high in one) for one in looks) / 300 <= 0.05
    low, high = decision.confidence_sequence(90, 100)
    assert low < 0.82 < 0.9 < 0.96 < high, "wider than an interval that is looked at once"
    assert decision.confidence_sequence(0, 0) == (0.0, 1.0)
    assert decision.confidence_sequence(40, 40)[1] == 1.0


def test_looks_spend_what_they_may_and_terms_that_cannot_be_tested_are_refused():
    terms = Terms(maximum=100)
    first, last = decision.level(50, terms), decision.level(100, terms, [50])
    assert (first, first + last) == (pytest.approx(0.00557, abs=1e-4), pytest.approx(0.05))
    assert decision.level(100, TERMS, [50]) == 0.0, "without a maximum stated first, a second look shows nothing"
    assert answer(side("prompt", 6000, 6000), looks=[50]).leaf == "5b", "not even with a p-value too small to hold"
    for terms in ((0.9, 0.0, None), (0.05, 0.05, None), (1.1, 0.05, None), (0.9, 0.05, 0)):
        refused("bar|maximum", Terms, *terms, error=ValueError)


def drawn(*shares, n=100):
    draws = np.array([np.arange(n) < round(share * n) for share in shares], dtype=float)
    return {"passed": draws.mean(axis=0), "draws": draws}


def test_five_draws_that_agree_decide_as_one_and_five_that_do_not_are_not_shown():
    one = answer(side("few-shot", 96))
    agreed = answer(Candidate("few-shot", "few-shot", **drawn(0.96, 0.96, 0.96, 0.96, 0.96)))
    assert (agreed.choice, agreed.standings[0].passed) == (one.choice, one.standings[0].passed)
    assert agreed.standings[0].low == pytest.approx(one.standings[0].low), "never narrower than the exact bound"
    apart = answer(Candidate("few-shot", "few-shot", **drawn(1, 1, 1, 1, 0.7)))
    assert (apart.standings[0].passed, answer(side("few-shot", 94)).choice) == (94, "few-shot")
    assert (apart.choice, apart.leaf) == ("not-enough-evidence", "5c")
    assert apart.standings[0].low < one.standings[0].low
    assert apart.standings[0].high >= one.standings[0].high
    prompt = side("prompt", 470, 500)  # draws that differ are not shown as good as the best; their mean is 94 % too
    for shares, as_good in (([0.94] * 5, True), ((1, 1, 1, 1, 0.7), False)):
        assert answer(prompt, Candidate("tuned", "fine-tune", **drawn(*shares, n=500))).as_good_as_best is as_good
