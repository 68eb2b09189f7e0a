"""Intervals and differences: published examples, scipy, and by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from playground.evaluation import statistics
from playground.evaluation.metrics import Bleu
from playground.evaluation.statistics import Tally, bootstrap, holm, paired_p, tally_of, wilson
from tests.refused import refused

QUICK = {"deadline": None, "max_examples": 40, "derandomize": True}


def pairs(both, only_a, only_b, neither):
    counts = ((True, True, both), (True, False, only_a), (False, True, only_b), (False, False, neither))
    return [a for a, _, times in counts for _ in range(times)], [b for _, b, times in counts for _ in range(times)]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman, Machin, Bryant, Gardner: Statistics with Confidence, 2000, p. 52
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, method 10
        ((1, 1, 7, 12), -0.507, -0.0256),  # Fagerland, Lydersen, Laake: Analysis of Contingency Tables, 2017, ch. 8
    ],
)
def test_newcombe_against_published_examples(counts, low, high):
    found = statistics.newcombe_paired(*pairs(*counts))
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


@settings(**QUICK)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_shares_hold_their_figure_and_newcombe_turns_with_its_sides(both):
    a, b = [x for x, _ in both], [y for _, y in both]
    there, back = statistics.newcombe_paired(a, b), statistics.newcombe_paired(b, a)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert (back.low, back.value, back.high) == (pytest.approx(-there.high), -there.value, pytest.approx(-there.low))
    assert sum(statistics.paired_counts(a, b)) == len(a)
    share = wilson(sum(a), len(a))
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert share.low < share.high


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=1, max_size=30))
def test_a_bootstrap_holds_its_figure_and_turns_with_its_sides(values):
    a, b = tally_of([x for x, _ in values]), tally_of([y for _, y in values])
    found = bootstrap(a)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(a.figure(), abs=1e-9)
    there, back = bootstrap(a, b), bootstrap(b, a)
    assert there.low <= there.value <= there.high
    if there.method == back.method != "point":
        width = there.high - there.low + 1e-9
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.1 * width)


def test_the_bootstrap_is_scipys_and_without_spread_a_point_or_a_percentile():
    values = np.random.default_rng(1).gamma(1.0, size=40)
    mine = bootstrap(tally_of(values))
    plain = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    assert mine.method == "BCa bootstrap"
    assert (mine.low, mine.high) == pytest.approx(tuple(plain), abs=0.08 * (plain.high - plain.low))
    assert bootstrap(tally_of(values)) == mine, "the same seed each time"
    for one, other in (([0.7] * 20, None), ([0.7], None), ([1.0, 2.0, 3.0], tally_of([0.0, 1.0, 2.0]))):
        found = bootstrap(tally_of(one), other)
        assert (found.low, found.high, found.method) == (found.value, found.value, "point")
    # leaving any one example out changes nothing, so BCa's acceleration is 0 / 0
    values = tally_of([float(at < 10) for at in range(20)])
    found = bootstrap(Tally(values.rows, lambda sums: np.round(sums[..., 0] / sums[..., 1], 1)))
    assert found.method == "percentile bootstrap"
    assert found.low < 0.5 < found.high


def test_exact_p_values_and_holm_by_hand_and_what_has_no_interval():
    assert statistics.mcnemar_exact(*pairs(10, 6, 0, 0)) == 2 / 64
    assert statistics.mcnemar_exact(*pairs(3, 4, 1, 0)) == 2 * (1 + 5) / 32
    assert statistics.mcnemar_exact(*pairs(0, 2, 2, 0)) == statistics.mcnemar_exact(*pairs(5, 0, 0, 0)) == 1
    assert paired_p(tally_of([1.0, 2.0, 3.0]), tally_of([0.0] * 3)) == 2 / 8
    assert paired_p(tally_of([1.0, 0.0]), tally_of([0.0, 1.0])) == 1
    assert paired_p(tally_of([0.5] * 4), tally_of([0.5] * 4)) == 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert (holm([0.6, 0.02, 0.7]), holm([])) == (pytest.approx([1.0, 0.06, 1.0]), [])
    one, none = tally_of([1.0]), tally_of([])
    for call, *asked in (
        *((wilson, 3, 2), (wilson, 0, 0), (bootstrap, none), (bootstrap, one, none), (paired_p, one, none)),
        *((statistics.newcombe_paired, [True], []), (statistics.newcombe_paired, [], [])),
    ):
        refused(r"share|Pairs|bootstrap", call, *asked, error=ValueError)


@pytest.mark.parametrize("n", [10, 40])
def test_the_permutation_test_is_scipys(n):
    rng = np.random.default_rng(2)
    a = rng.random(n)
    b = a + rng.normal(0.1, 0.25, n)
    options = {"permutation_type": "samples", "vectorized": True, "n_resamples": 20_000, "rng": 3}
    plain = stats.permutation_test((a - b,), np.mean, **options).pvalue
    assert paired_p(tally_of(a), tally_of(b)) == pytest.approx(plain, abs=0.012)


def test_corpus_figures_swap_sentences():
    references = [f"it is number {at} of the long list" for at in range(8)]
    good = Bleu().score(references, references)[1]
    bad = Bleu().score([text.replace("of the", "for some") for text in references], references)[1]
    whole = abs(good.figure() - bad.figure())
    hits = 0
    for flips in itertools.product((False, True), repeat=8):
        swapped = np.array(flips)[:, None]
        one, other = np.where(swapped, bad.rows, good.rows), np.where(swapped, good.rows, bad.rows)
        hits += abs(float(good.pool(one.sum(axis=0))) - float(good.pool(other.sum(axis=0)))) >= whole - 1e-9
    assert (paired_p(good, bad), paired_p(good, good)) == (hits / 256, 1)


def test_draws_and_examples_by_hand():
    """Draws that agree add nothing; examples that agree leave Student's interval of the draws."""
    row = np.array([[1.0, 1, 1, 0, 1, 0, 1, 1, 1, 1] * 3])
    agreed, one = statistics.hierarchical_bootstrap(np.repeat(row, 5, axis=0)), statistics.hierarchical_bootstrap(row)
    assert (agreed.low, agreed.high) == (pytest.approx(one.low), pytest.approx(one.high))
    shares = np.array([0.6, 0.7, 0.75, 0.8, 0.9])
    found = statistics.hierarchical_bootstrap(np.repeat(shares[:, None], 12, axis=1))
    student = stats.t.interval(0.95, 4, shares.mean(), shares.std(ddof=1) / np.sqrt(5))
    assert (found.low, found.high) == pytest.approx(student, abs=0.02)
    same = statistics.hierarchical_bootstrap(np.ones((5, 8)), np.zeros((1, 8)))
    assert (same.value, same.low, same.high, same.method) == (1, 1, 1, "point")
    pair = statistics.paired_draws(np.ones((5, 8)), np.ones((5, 8)))
    assert pair.low < 0 < pair.high, "where nothing differs, eight rows still say little"
    assert statistics.hierarchical_paired_p(np.ones((5, 3)), np.zeros((5, 3))) == 0.25, "of eight flips"
    refused("as many of both", statistics.hierarchical_bootstrap, np.ones((5, 8)), np.ones((5, 7)), error=ValueError)


def test_an_interval_over_draws_holds_the_truth_where_one_over_examples_alone_does_not():
    rng, held, alone, wrong = np.random.default_rng(3), 0, 0, 0
    for _ in range(100):
        shares = 0.8 + rng.uniform(-0.15, 0.15, size=(5, 1))
        values = (rng.random((5, 200)) < shares).astype(float)
        found, plain = statistics.hierarchical_bootstrap(values), wilson(int(values[0].sum()), 200)
        held += found.low <= 0.8 <= found.high
        alone += plain.low <= 0.8 <= plain.high
        wrong += statistics.hierarchical_p(values, 0.8) <= 0.05
    assert held >= 92
    assert alone < 70
    assert wrong <= 10
