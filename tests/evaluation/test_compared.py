"""Sides and pairs: every figure and every p-value again, by another road."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from playground.evaluation.checks import parse_check
from playground.evaluation.comparison import compare_sides
from playground.evaluation.metrics import metrics_for
from tests.evaluation.make import passes, rows, table

CHECK = parse_check("ends-with:done")


def some_sides() -> dict:
    rng = np.random.default_rng(8)
    references = [("yes" if at % 3 else "no") for at in range(24)]
    sides = {}
    for side, wrong in (("base", 0.6), ("prompt", 0.3), ("tuned", 0.0)):
        flip = rng.random(24) < wrong
        replies = [
            {"yes": "no", "no": "yes"}[text] if bad else text for text, bad in zip(references, flip, strict=True)
        ]
        replies = [text + (" done" if rng.random() > wrong else "") for text in replies]
        sides[side] = rows(replies, references, side, loss=rng.random(24).tolist())
    return sides


def test_every_figure_by_another_road() -> None:
    answered = some_sides()
    found = compare_sides({side: metrics_for(given, [CHECK], ["no", "yes"]) for side, given in answered.items()})
    for side, given_rows in answered.items():
        replies, references = [row.reply for row in given_rows], [row.reference for row in given_rows]
        labels = [reply.removesuffix(" done") for reply in replies]
        figures = found.sides[side]
        assert figures["ends-with:done"].value == np.mean([reply.endswith("done") for reply in replies])
        assert figures["accuracy"].value == pytest.approx(
            np.mean([a == b for a, b in zip(labels, references, strict=True)])
        )
        assert figures["macro_f1"].value == pytest.approx(f1_score(references, labels, average="macro"))
        assert figures["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(replies, [references]).score)
        assert figures["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(replies, [references]).score)
        assert figures["perplexity"].value == pytest.approx(np.exp(np.mean([row.loss for row in given_rows])))
        share = int(sum(reply.endswith("done") for reply in replies))
        wilson = stats.binomtest(share, 24).proportion_ci(method="wilson")
        assert (figures["ends-with:done"].low, figures["ends-with:done"].high) == (
            pytest.approx(wilson.low, abs=1e-12),
            pytest.approx(wilson.high),
        )


def test_every_pair_of_every_metric() -> None:
    answered = some_sides()
    measured = {side: metrics_for(given, [CHECK], ["no", "yes"]) for side, given in answered.items()}
    found = compare_sides(measured)
    assert {(pair.a, pair.b, pair.metric) for pair in found.pairs} == {
        (a, b, name) for a, b in itertools.combinations(answered, 2) for name in measured["base"]
    }
    for pair in found.pairs:
        assert pair.difference == pytest.approx(
            found.sides[pair.a][pair.metric].value - found.sides[pair.b][pair.metric].value
        )
        assert pair.low <= pair.difference <= pair.high
        assert pair.p_value <= pair.p_adjusted <= 1
        assert pair.enough == (pair.p_adjusted <= 0.05)
        assert pair.rows_needed is None or (not pair.enough and pair.rows_needed > pair.n == 24)
    one = found.pair("tuned", "base", "ends-with:done")
    turned = found.pair("base", "tuned", "ends-with:done")
    assert one is not None
    assert turned is not None
    assert (one.difference, one.low, one.high) == (-turned.difference, -turned.high, -turned.low)
    tuned, base = (measured[side]["ends-with:done"].values for side in ("tuned", "base"))
    won, lost = (
        sum(a > b for a, b in zip(tuned, base, strict=True)),
        sum(a < b for a, b in zip(tuned, base, strict=True)),
    )
    assert one.p_value == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert found.pair("base", "nobody", "bleu") is None


def test_holm_is_over_the_pairs_of_one_metric() -> None:
    found = table({"a": {"json": passes(40, 40)}, "b": {"json": passes(33, 40)}, "c": {"json": passes(32, 40)}})
    p = {(pair.a, pair.b): pair for pair in found.pairs}
    assert p["a", "b"].p_value == 2 / 2**7
    assert p["a", "c"].p_value == 2 / 2**8
    assert p["a", "c"].p_adjusted == 3 * 2 / 2**8
    assert p["a", "b"].p_adjusted == 2 * 2 / 2**7
    assert p["b", "c"].p_adjusted == 1
    assert p["b", "c"].rows_needed is not None


def test_what_only_one_side_has_makes_no_pair() -> None:
    found = table({"a": {"json": passes(3, 9), "rouge_l": [0.5] * 9}, "b": {"json": passes(3, 9)}})
    assert [pair.metric for pair in found.pairs] == ["json"]
    assert found.sides["a"]["rouge_l"].method == "point"


def test_sides_that_answered_different_examples_meet_where_both_did() -> None:
    both = metrics_for(rows(["x"] * 6, ["x"] * 6)), metrics_for(rows(["x", "y", "y", "x"], ["x"] * 4, "other"))
    found = compare_sides({"base": both[0], "other": both[1]})
    pair = found.pair("base", "other", "exact_match")
    assert pair is not None
    assert (pair.n, pair.difference) == (4, 0.5)
    assert found.sides["base"]["exact_match"].n == 6
    bleu = found.pair("base", "other", "chrf")
    assert bleu is not None
    assert bleu.n == 4


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_any_values(values: list[tuple[float, float, bool, bool]]) -> None:
    a, b, yes, no = zip(*values, strict=True)
    found = table(
        {"a": {"rouge_l": a, "json": [float(x) for x in yes]}, "b": {"rouge_l": b, "json": [float(x) for x in no]}}
    )
    for pair in found.pairs:
        assert pair.low <= pair.difference <= pair.high
        assert 0 < pair.p_value <= pair.p_adjusted <= 1
    for metrics in found.sides.values():
        assert all(one.low <= one.value <= one.high for one in metrics.values())
