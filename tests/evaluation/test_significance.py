"""Tests of differences: by hand, by scipy, and by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from playground.evaluation.corpus import bleu
from playground.evaluation.significance import holm, mcnemar_exact, mcnemar_power, mean_rows, paired_p, rows_needed

QUICK = {"deadline": None, "max_examples": 60, "derandomize": True}


def split(only_a: int, only_b: int, rest: int) -> tuple[list[bool], list[bool]]:
    return [True] * only_a + [False] * only_b + [True] * rest, [False] * only_a + [True] * only_b + [True] * rest


def test_mcnemar_by_hand() -> None:
    assert mcnemar_exact(*split(6, 0, 10)) == 2 / 64
    assert mcnemar_exact(*split(4, 1, 3)) == 2 * (1 + 5) / 32
    assert mcnemar_exact(*split(2, 2, 0)) == 1
    assert mcnemar_exact(*split(0, 0, 5)) == 1


@settings(**QUICK)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_binomial_test(only_a: int, only_b: int) -> None:
    found = mcnemar_exact(*split(only_a, only_b, 3))
    assert found == mcnemar_exact(*reversed(split(only_a, only_b, 3)))
    if only_a + only_b:
        assert found == pytest.approx(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


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
        (a - b,), np.mean, permutation_type="samples", vectorized=True, n_resamples=20_000, rng=3,
    ).pvalue  # fmt: skip
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


def test_p_values_of_equal_sides_are_even() -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(200):
        a, b = rng.random(12), rng.random(12)
        found.append(paired_p(a, b))
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.10


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
    found = np.mean([mcnemar_exact(*split(a, b, 0)) <= 0.05 for a, b, _ in counts.tolist()])
    assert mcnemar_power(60, 0.25, 0.07) == pytest.approx(found, abs=0.04)


def test_so_many_examples_would_do() -> None:
    needed = rows_needed(*split(5, 1, 34), yes_no=True)
    assert needed.spread == pytest.approx(6 / 40)
    assert needed.rows is not None
    assert mcnemar_power(needed.rows, 5 / 40, 1 / 40) >= 0.8
    assert mcnemar_power(needed.rows - 8, 5 / 40, 1 / 40) < 0.8
    assert rows_needed(*split(2, 2, 9), yes_no=True).rows is None
    assert rows_needed(*split(501, 500, 9_000), yes_no=True).rows is None  # more than anybody writes


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
