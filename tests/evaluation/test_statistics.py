"""Intervals and differences: published examples, scipy, by hand, and how often they hold the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from playground.evaluation.statistics import (
    RESAMPLES,
    bootstrap,
    holm,
    mcnemar_exact,
    mcnemar_power,
    mean_rows,
    newcombe_paired,
    paired_counts,
    paired_p,
    rows_needed,
    wilson,
)
from playground.evaluation.text_metrics import bleu

QUICK = {"deadline": None, "max_examples": 60, "derandomize": True}


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    return (
        [True] * both + [True] * only_a + [False] * only_b + [False] * neither,
        [True] * both + [False] * only_a + [True] * only_b + [False] * neither,
    )


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman, Machin, Bryant, Gardner: Statistics with Confidence, 2000, p. 52
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, method 10
        (
            (1, 1, 7, 12),
            -0.507,
            -0.0256,
        ),  # Fagerland, Lydersen, Laake: Statistical Analysis of Contingency Tables, 2017, ch. 8
    ],
)
def test_newcombe_against_published_examples(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    found = newcombe_paired(*pairs(*counts))
    assert found.low == pytest.approx(low, abs=6e-4)
    assert found.high == pytest.approx(high, abs=6e-4)


BOOLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@settings(**QUICK)
@given(BOOLS)
def test_newcombe_holds_its_figure_and_turns_with_its_sides(both: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in both], [y for _, y in both]
    there, back = newcombe_paired(a, b), newcombe_paired(b, a)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert (back.low, back.value, back.high) == (pytest.approx(-there.high), -there.value, pytest.approx(-there.low))
    assert sum(paired_counts(a, b)) == len(a)


@settings(**QUICK)
@given(st.integers(1, 200), st.data())
def test_wilson_holds_its_figure(n: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, n))
    found = wilson(passed, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0
    assert wilson(passed, n, 0.99).low <= found.low


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=1, max_size=30))
def test_a_bootstrap_holds_its_figure_and_turns_with_its_sides(values: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in values], [y for _, y in values]
    found = bootstrap(a)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(np.mean(a), abs=1e-9)
    there, back = bootstrap(a, other=b), bootstrap(b, other=a)
    assert there.low <= there.value <= there.high
    if there.method == back.method != "point":
        width = there.high - there.low + 1e-9
        assert back.low == pytest.approx(-there.high, abs=0.1 * width)
        assert back.high == pytest.approx(-there.low, abs=0.1 * width)


def test_the_bootstrap_is_scipys() -> None:
    values = np.random.default_rng(1).gamma(1.0, size=40)
    mine = bootstrap(values, resamples=20_000)
    plain = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    width = plain.high - plain.low
    assert mine.method == "BCa bootstrap"
    assert mine.low == pytest.approx(plain.low, abs=0.03 * width)
    assert mine.high == pytest.approx(plain.high, abs=0.03 * width)
    median = bootstrap(values, lambda drawn: np.median(drawn, axis=-1))
    assert median.value == np.median(values)
    assert median.low < median.value < median.high


def test_a_corpus_figure_is_drawn_by_its_counts() -> None:
    replies = [f"the cat number {at} sat on the {'mat' if at % 3 else 'chair'}" for at in range(20)]
    references = [f"the cat number {at} sat on the mat" for at in range(20)]
    tally = bleu(replies, references)[1]
    found = bootstrap(tally)
    rng = np.random.default_rng(0)
    drawn = [float(tally.pool(tally.rows[rng.integers(0, 20, 20)].sum(axis=0))) for _ in range(2_000)]
    width = found.high - found.low
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.2 * width)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.2 * width)
    assert bootstrap(tally) == found  # the same seed each time
    assert bootstrap(tally, other=tally).method == "point"


def test_where_there_is_no_spread_the_point_says_so() -> None:
    for found in (bootstrap([0.7] * 20), bootstrap([0.7]), bootstrap([1.0, 2.0, 3.0], other=[0.0, 1.0, 2.0])):
        assert found.low == found.value == found.high
        assert found.method == "point"


def test_percentile_where_bca_is_not_defined() -> None:
    # the largest value is there twice: leaving any one example out changes nothing, so BCa's acceleration is 0 / 0
    values = [float(min(at, 18)) for at in range(20)]
    found = bootstrap(values, lambda drawn: drawn.max(axis=-1))
    assert found.method == "percentile bootstrap"
    assert found.low < found.high == 18


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: bootstrap([]),
        lambda: bootstrap([1.0], other=[]),
        lambda: newcombe_paired([True], []),
        lambda: newcombe_paired([], []),
    ],
)
def test_what_has_no_interval(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"share|Pairs|bootstrap"):
        wrong()


# Coverage: 92 to 98 % at n = 40 is what is promised of 95 % intervals.

N, RUNS = 40, 4_000
SHARES = (0.5, 0.8, 0.95)


@pytest.mark.parametrize("p", SHARES)
def test_wilson_covers(p: float) -> None:
    found = [wilson(passed, N) for passed in range(N + 1)]
    drawn = np.random.default_rng(11).binomial(N, p, size=RUNS)
    simulated = np.mean([found[passed].low <= p <= found[passed].high for passed in drawn])
    exact = sum(
        stats.binom.pmf(passed, N, p) for passed in range(N + 1) if found[passed].low <= p <= found[passed].high
    )
    assert simulated == pytest.approx(exact, abs=0.015)
    assert 0.92 <= exact <= 0.98
    assert 0.92 <= simulated <= 0.98


@pytest.mark.parametrize(
    ("p", "q", "shared"), [(p, q, s) for p, q in itertools.product(SHARES, SHARES) if p <= q for s in (0.0, 0.5)]
)
def test_newcombe_covers(p: float, q: float, shared: float) -> None:
    """shared: how much of the way from independence to the closest that two shares can be. Where both shares are 0.95,
    fewer than five of 40 examples differ, and the interval is wider than it need be: the promise is then only that it
    covers enough."""
    both = p * q + shared * (min(p, q) - p * q)
    counts = np.random.default_rng(12).multinomial(N, [both, p - both, q - both, 1 - p - q + both], size=RUNS)
    known: dict[tuple[int, ...], bool] = {}
    for row in {tuple(row) for row in counts.tolist()}:
        found = newcombe_paired(*pairs(*row))
        known[row] = found.low <= p - q <= found.high
    coverage = np.mean([known[tuple(row)] for row in counts.tolist()])
    assert coverage >= 0.92
    assert coverage <= 0.98 or p == q == 0.95


def covered(draw, truth: float, runs: int = 300) -> float:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(13)
    found = (bootstrap(draw(rng)) for _ in range(runs))
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def test_the_bootstrap_covers_what_it_is_used_for() -> None:
    """Means of values between 0 and 1 that are not all yes or no: flat, and skewed as F1 of a good side is."""
    assert RESAMPLES >= 2_000
    assert 0.91 <= covered(lambda rng: rng.random(N), 0.5) <= 0.98
    assert 0.91 <= covered(lambda rng: rng.beta(4, 1, N), 0.8) <= 0.98


def test_mcnemar_by_hand() -> None:
    assert mcnemar_exact(*pairs(10, 6, 0, 0)) == 2 / 64
    assert mcnemar_exact(*pairs(3, 4, 1, 0)) == 2 * (1 + 5) / 32
    assert mcnemar_exact(*pairs(0, 2, 2, 0)) == 1
    assert mcnemar_exact(*pairs(5, 0, 0, 0)) == 1


def test_all_swaps_by_hand() -> None:
    assert paired_p([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == 2 / 8
    assert paired_p([1.0, 0.0], [0.0, 1.0]) == 1
    assert paired_p([0.5] * 4, [0.5] * 4) == 1


@pytest.mark.parametrize("n", [10, 40])
def test_the_permutation_test_is_scipys(n: int) -> None:
    rng = np.random.default_rng(2)
    a = rng.random(n)
    b = a + rng.normal(0.1, 0.25, n)
    plain = stats.permutation_test(
        (a - b,), np.mean, permutation_type="samples", vectorized=True, n_resamples=20_000, rng=3
    ).pvalue
    assert paired_p(a, b) == pytest.approx(plain, abs=0.012)


def test_corpus_figures_swap_sentences() -> None:
    references = [f"it is number {at} of the long list" for at in range(8)]
    good = bleu(references, references)[1]
    bad = bleu([text.replace("of the", "for some") for text in references], references)[1]
    whole = abs(good.figure() - bad.figure())
    hits = 0
    for flips in itertools.product((0, 1), repeat=8):
        swapped = [(bad.rows, good.rows)[1 - flip][at] for at, flip in enumerate(flips)]
        other = [(good.rows, bad.rows)[1 - flip][at] for at, flip in enumerate(flips)]
        gap = abs(float(good.pool(np.sum(swapped, axis=0))) - float(good.pool(np.sum(other, axis=0))))
        hits += gap >= whole - 1e-9
    assert paired_p(good, bad) == hits / 256
    assert paired_p(good, good) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [pytest.approx(p) for p in (0.03, 0.06, 0.06, 0.02)]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@settings(**QUICK)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_only_raises(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    for (p, q), (r, s) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (p <= r) == (q <= s) or q == s
    assert all(q <= min(1.0, len(p_values) * p) + 1e-12 for p, q in zip(p_values, adjusted, strict=True))


def test_the_power_of_mcnemar_is_what_simulation_finds() -> None:
    rng = np.random.default_rng(6)
    counts = rng.multinomial(60, [0.25, 0.07, 0.68], size=1_500)
    found = np.mean([mcnemar_exact(*pairs(0, a, b, 0)) <= 0.05 for a, b, _ in counts.tolist()])
    assert mcnemar_power(60, 0.25, 0.07) == pytest.approx(found, abs=0.04)


def test_so_many_examples_would_do() -> None:
    needed = rows_needed(*pairs(34, 5, 1, 0), yes_no=True)
    assert needed.spread == pytest.approx(6 / 40)
    assert needed.rows is not None
    assert mcnemar_power(needed.rows, 5 / 40, 1 / 40) >= 0.8
    assert mcnemar_power(needed.rows - 8, 5 / 40, 1 / 40) < 0.8
    assert rows_needed(*pairs(9, 2, 2, 0), yes_no=True).rows is None
    assert rows_needed(*pairs(9_000, 501, 500, 0), yes_no=True).rows is None  # more than anybody writes


def test_so_many_would_do_for_a_mean() -> None:
    rng = np.random.default_rng(7)
    difference = rng.normal(0.2, 1.0, 25)
    needed = rows_needed(difference, np.zeros(25), yes_no=False)
    effect = abs(difference.mean()) / difference.std(ddof=1)
    shift = effect * np.sqrt(needed.rows)
    power = stats.nct.sf(stats.t.ppf(0.975, needed.rows - 1), needed.rows - 1, shift)
    assert power == pytest.approx(0.8, abs=0.01)
    assert mean_rows(0.0, 1.0) is None
    assert mean_rows(1e-6, 1.0) is None
