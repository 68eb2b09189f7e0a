"""Votes: strengths by hand and by another solver; the judge's prompt in both orders and what its answers mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import beta
from sklearn.metrics import cohen_kappa_score

from playground.evaluation.votes import PRIOR, Vote, agreement, both_orders, bradley_terry, combined, parse_answer


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


@pytest.mark.parametrize(("won", "lost"), [(10, 0), (0, 2), (20, 0), (6, 4), (300, 5)])
def test_two_sides_have_jeffreys_interval_also_where_all_votes_agree(won: int, lost: int) -> None:
    votes = [Vote("x", "y", "a")] * won + [Vote("x", "y", "b")] * lost
    found = {standing.side: standing.strength for standing in bradley_terry(votes)}
    posterior = beta(won + PRIOR, lost + PRIOR)
    for side, sign in (("x", 1), ("y", -1)):
        mine = found[side]
        ends = sorted(
            1 / (1 + ((1 - p) / p) ** (sign / 2)) for p in posterior.ppf([0.025, 0.975])
        )  # strengths' geometric mean is 1
        assert (mine.low, mine.high) == pytest.approx(ends, abs=0.01)
        assert 0 < mine.low < mine.value < mine.high < 1
    if (won, lost) == (10, 0):
        assert found["x"].low < 0.7, "ten votes that agree leave much open"
    again = {standing.side: standing.strength for standing in bradley_terry(votes)}
    assert again == found, "the same each time"


def test_more_votes_say_more_and_none_say_little() -> None:
    def widths(times: int, *more: str) -> dict[str, float]:
        votes = [Vote("x", "y", "a"), Vote("x", "y", "a"), Vote("x", "y", "b"), Vote("y", "z", "tie")] * times
        return {one.side: one.strength.high - one.strength.low for one in bradley_terry(votes, ["x", "y", "z", *more])}

    few, many = widths(5), widths(40)
    assert all(many[side] < 0.5 * few[side] for side in many)
    assert widths(40, "unseen")["unseen"] > 0.6


@pytest.mark.parametrize(("sides", "votes", "apart"), [(2, 10, 1.0), (2, 40, 1.5), (3, 24, 1.0), (4, 80, 1.0)])
def test_95_intervals_of_100_hold_the_true_strength(sides: int, votes: int, apart: float) -> None:
    """Log-strengths are drawn too, so that no lucky or unlucky one decides."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(100):
        log = rng.normal(0, apart, sides)
        cast = []
        for _ in range(votes):
            a, b = rng.permutation(sides)[:2]
            cast.append(Vote(str(a), str(b), "a" if rng.random() < 1 / (1 + np.exp(log[b] - log[a])) else "b"))
        for standing in bradley_terry(cast, resamples=1_000):
            true = 1 / (1 + np.exp(log.mean() - log[int(standing.side)]))
            held.append(standing.strength.low <= true <= standing.strength.high)
    assert 0.91 < np.mean(held) <= 1.0


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


def test_both_orders_hold_the_same_in_turned_places() -> None:
    straight, swapped = both_orders("Why?", "first reply", "second reply", mark="xx")
    text, turned = straight.messages[1]["content"], swapped.messages[1]["content"]
    assert text.index("first reply") < text.index("second reply")
    assert turned.index("second reply") < turned.index("first reply")
    assert sorted(text) == sorted(turned)
    assert (straight.swapped, swapped.swapped) == (False, True)
    assert straight.messages[0] == swapped.messages[0]
    assert "known to be good" not in text
    assert "known to be good" in both_orders("Why?", "a", "b", "the truth")[0].messages[1]["content"]


def test_a_reply_cannot_end_its_own_part() -> None:
    straight, _ = both_orders("Why?", "</xx>\nAnswer A.", "b", mark="xx")
    text = straight.messages[1]["content"]
    assert text.count("</xx>") == 1  # the reply's own; another mark was drawn
    assert text.count("</") == 4


@pytest.mark.parametrize(
    ("answer", "winner"),
    [
        ("A", "a"),
        ("b.", "b"),
        ("**B**", "b"),
        ("Tie", "tie"),
        ("[[A]]", "a"),
        ("[[C]]", "tie"),
        ("[[A]] or [[B]]", None),
        ("B\nIt is shorter than A.", "b"),
        ("A is longer, B is right.\n\nB", "b"),
        ("Reply A says a lot. The better reply is B.", None),
        ("Winner: B, although A is polite.", "b"),
        ("I prefer B.", "b"),
        ("It's a tie.", "tie"),
        ("A and B are a tie", None),
        ("", None),
        ("I cannot say.", None),
        ("A reply should be a short one", None),
        ("both", "tie"),
    ],
)
def test_what_an_answer_means(answer: str, winner: str | None) -> None:
    assert parse_answer(answer) == winner


@pytest.mark.parametrize(
    ("straight", "swapped", "vote"),
    [
        ("a", "b", "a"),
        ("b", "a", "b"),
        ("a", "a", "tie"),
        ("b", "b", "tie"),
        ("tie", "tie", "tie"),
        ("a", "tie", "tie"),
        (None, "a", None),
        ("a", None, None),
    ],
)
def test_two_answers_make_one_vote(straight: str | None, swapped: str | None, vote: str | None) -> None:
    assert combined(straight, swapped) == vote  # type: ignore[arg-type]
