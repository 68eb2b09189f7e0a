"""Votes: strengths by hand, by another solver, and where there is nothing to go by."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score

from playground.evaluation.votes import PRIOR, Vote, agreement, bradley_terry


def test_two_sides_by_hand() -> None:
    votes = [Vote("x", "y", "a")] * 6 + [Vote("y", "x", "a")] * 2 + [Vote("x", "y", "tie")] * 2
    first, second = bradley_terry(votes)
    # 6 + 2 halves + the prior's half against 2 + 2 halves + half: x is preferred in 7.5 of 11
    assert (first.side, first.won, first.lost, first.tied) == ("x", 6, 2, 2)
    ratio = (7.5 / 3.5) ** 0.5  # geometric mean 1
    assert first.strength.value == pytest.approx(ratio / (1 + ratio))
    assert first.strength.value + second.strength.value == pytest.approx(1)
    assert first.strength.low < first.strength.value < first.strength.high


def test_three_sides_by_another_solver() -> None:
    rng = np.random.default_rng(9)
    sides, strong = ["x", "y", "z"], {"x": 1.0, "y": 0.0, "z": -1.0}
    votes = []
    for _ in range(80):
        a, b = rng.choice(sides, size=2, replace=False)
        chance = 1 / (1 + np.exp(strong[b] - strong[a]))
        votes.append(Vote(a, b, "tie" if rng.random() < 0.1 else "a" if rng.random() < chance else "b"))
    wins = np.full((3, 3), PRIOR)
    for vote in votes:
        share = {"a": 1.0, "b": 0.0, "tie": 0.5}[vote.winner]
        wins[sides.index(vote.a), sides.index(vote.b)] += share
        wins[sides.index(vote.b), sides.index(vote.a)] += 1 - share

    def unlikely(log: np.ndarray) -> float:
        gaps = log[:, None] - log[None, :]
        return float(np.sum((wins * np.log1p(np.exp(-gaps)))[~np.eye(3, dtype=bool)]) + 1e-3 * log.mean() ** 2)

    log = minimize(unlikely, np.zeros(3), tol=1e-12).x
    found = {standing.side: standing.strength for standing in bradley_terry(votes)}
    for side, value in zip(sides, log - log.mean(), strict=True):
        assert found[side].value == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-4)
        assert found[side].low <= found[side].value <= found[side].high
    assert [standing.side for standing in bradley_terry(votes)] == sides


def test_one_that_always_won_and_one_that_nobody_saw() -> None:
    found = {standing.side: standing for standing in bradley_terry([Vote("x", "y", "a")] * 20, ["x", "y", "z"])}
    assert 0.5 < found["x"].strength.value < 1
    assert found["z"].strength.value == pytest.approx(0.5, abs=0.01)
    assert found["z"].strength.n == 0
    two_islands = bradley_terry([Vote("a", "b", "a")] * 3 + [Vote("c", "d", "b")] * 3)
    assert {standing.side for standing in two_islands[:2]} == {"a", "d"}


def test_no_votes_and_one_vote() -> None:
    assert bradley_terry([]) == []
    assert [standing.strength.value for standing in bradley_terry([], ["x", "y"])] == [0.5, 0.5]
    assert bradley_terry([Vote("x", "y", "b")])[0].strength.method == "point"


@pytest.mark.parametrize("wrong", [Vote("x", "x", "a"), Vote("x", "y", "c")])  # type: ignore[arg-type]
def test_what_is_no_vote(wrong: Vote) -> None:
    with pytest.raises(ValueError, match="no vote"):
        bradley_terry([wrong])


def test_agreement_is_cohens() -> None:
    judge, person = ["a", "a", "b", "tie", "b", "a"], ["a", "b", "b", "tie", "a", "a"]
    found = agreement(judge, person)
    assert found is not None
    assert found.share.value == pytest.approx(4 / 6)
    assert found.kappa == pytest.approx(cohen_kappa_score(judge, person))
    assert agreement([], []) is None
    same = agreement(["a", "a"], ["a", "a"])
    assert same is not None
    assert same.kappa is None
    with pytest.raises(ValueError, match="cannot be compared"):
        agreement(["a"], [])
