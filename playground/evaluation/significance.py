"""Whether two sides differ at all, and how many examples would tell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from playground.evaluation.measured import Tally, tally_of

ALPHA = 0.05
POWER = 0.8
FLIPS = 10_000
EXACT_ROWS = 13
"""Up to so many examples all 2^n flips are gone through."""
MOST_ROWS = 20_000
"""More examples than this are not worth naming: nobody writes them."""
SEED = 20_261
AT_ONCE = 2_000_000


@dataclass(frozen=True)
class RowsNeeded:
    """rows: how many examples would show the observed difference with the power asked for; None = there is none to show, or more than
    20,000. spread: the share of examples in which the sides differ (yes/no), or the standard deviation of the differences."""

    rows: int | None
    spread: float


def normal_quantile(p: float) -> float:
    """The standard normal distribution's quantile."""
    return NormalDist().inv_cdf(p)


def mcnemar_exact(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact McNemar p-value (McNemar 1947): of the examples in which only one holds, are as many a's as b's? 1 where there is
    no such example. Raises ValueError for unequal lengths."""
    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    differing = only_a + only_b
    tail = sum(math.comb(differing, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**differing))


def paired_p(a: Sequence[float] | Tally, b: Sequence[float] | Tally) -> float:
    """Two-sided p-value of the difference of two figures of the same examples, by a sign-flip permutation test.

    If the sides were the same, swapping what they gave to an example would change nothing: the p-value is how often a difference at
    least as large comes out where each example is swapped by a coin (approximate randomisation; Noreen 1989, Riezler and Maxwell 2005).
    Up to 13 examples all swaps are gone through, beyond that 10,000 drawn with a fixed seed. Raises ValueError for unequal lengths.
    """
    first, second = (values if isinstance(values, Tally) else tally_of(values) for values in (a, b))
    n = len(first.rows)
    if n != len(second.rows) or n == 0:
        raise ValueError(f"Pairs need two lists of one length; these have {n} and {len(second.rows)}.")
    swaps = _all_swaps(n) if n <= EXACT_ROWS else None
    observed = abs(first.figure() - second.figure())
    least = observed - 1e-9 * max(1.0, abs(first.figure()), abs(second.figure()))
    whole = first.rows.sum(axis=0), second.rows.sum(axis=0)
    gap = second.rows - first.rows
    rng = np.random.default_rng(SEED)
    hits, done, batch = 0, 0, max(1, AT_ONCE // n)
    total = FLIPS if swaps is None else len(swaps)
    while done < total:
        size = min(batch, total - done)
        chosen = (rng.random((size, n)) < 0.5).astype(float) if swaps is None else swaps[done : done + size]
        moved = chosen @ gap
        with np.errstate(all="ignore"):
            hits += int(np.sum(np.abs(first.pool(whole[0] + moved) - second.pool(whole[1] - moved)) >= least))
        done += size
    return hits / total if swaps is not None else (hits + 1) / (total + 1)


def _all_swaps(n: int) -> np.ndarray:
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for how many there are (Holm 1979), in the order they came: never below the value itself, never above 1."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[at]))
        adjusted[at] = worst
    return adjusted


def rows_needed(
    a: Sequence[float], b: Sequence[float], *, yes_no: bool, alpha: float = ALPHA, power: float = POWER
) -> RowsNeeded:  # fmt: skip
    """How many examples would show the difference that these show, were it the true one, at this power.

    yes/no: exact McNemar, its power summed over every count of differing examples, from the observed shares. Otherwise a paired t-test,
    by the normal approximation. The estimate is as unsure as the difference it starts from. Raises ValueError for unequal lengths.
    """
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if yes_no:
        only_a, only_b = float(np.mean(differences > 0)), float(np.mean(differences < 0))
        return RowsNeeded(_mcnemar_rows(only_a, only_b, alpha, power), only_a + only_b)
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    return RowsNeeded(mean_rows(float(np.mean(differences)), spread, alpha, power), spread)


def mean_rows(difference: float, spread: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Examples that a paired t-test needs for a mean difference with this standard deviation; None for no difference or too many."""
    if difference == 0:
        return None
    z = normal_quantile(1 - alpha / 2)
    rows = ((z + normal_quantile(power)) * spread / difference) ** 2 + z * z / 2
    return math.ceil(rows) if rows <= MOST_ROWS else None


def _mcnemar_rows(only_a: float, only_b: float, alpha: float, power: float) -> int | None:
    """Connor's approximation (1987) is the start; the exact test needs a little more, which is searched for."""
    differing, difference = only_a + only_b, abs(only_a - only_b)
    if difference == 0:
        return None
    za, zb = normal_quantile(1 - alpha / 2), normal_quantile(power)
    start = ((za * math.sqrt(differing) + zb * math.sqrt(max(0.0, differing - difference**2))) / difference) ** 2
    if start > MOST_ROWS:
        return None
    low = max(1, math.floor(start) - 1)
    high = low
    while mcnemar_power(high, only_a, only_b, alpha) < power:
        low, high = high, math.ceil(high * 1.1) + 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if mcnemar_power(middle, only_a, only_b, alpha) >= power else (middle, high)
    return high


def mcnemar_power(n: int, only_a: float, only_b: float, alpha: float = ALPHA) -> float:
    """How often exact McNemar finds a difference in n examples, of which these shares hold for one side only."""
    from scipy import stats

    differing = np.arange(n + 1)
    # the most that the rarer side may have for p <= alpha; -1 = it cannot be shown with so few
    most = stats.binom.ppf(alpha / 2, differing, 0.5)
    most = np.where(stats.binom.cdf(most, differing, 0.5) > alpha / 2, most - 1, most)
    share = only_a / (only_a + only_b)
    found = stats.binom.cdf(most, differing, share) + stats.binom.sf(differing - most - 1, differing, share)
    return float(np.sum(stats.binom.pmf(differing, n, only_a + only_b) * np.where(most >= 0, found, 0.0)))
