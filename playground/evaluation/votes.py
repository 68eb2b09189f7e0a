"""Blind votes: how strong each side is, from who was preferred to whom, and whether a judge votes as the person does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from playground.evaluation.intervals import Interval, wilson

Winner = Literal["a", "b", "tie"]
WINNERS: tuple[Winner, ...] = ("a", "b", "tie")
PRIOR = 0.5
"""Wins that every side is given against every other before the first vote, so that a side that always won, or that was never compared with
the rest, has a finite strength. Worth one drawn vote a pair; it fades as votes come in."""
RESAMPLES = 1_000
SEED = 20_262
_STEPS, _CLOSE = 2_000, 1e-9


@dataclass(frozen=True)
class Vote:
    """One comparison: sides a and b, and which reply was preferred."""

    a: str
    b: str
    winner: Winner


@dataclass(frozen=True)
class Standing:
    """strength: the chance to be preferred to an average side, 0 to 1, with its 95 % interval; n counts the side's votes. won, lost,
    tied: votes."""

    side: str
    strength: Interval
    won: int
    lost: int
    tied: int


@dataclass(frozen=True)
class Agreement:
    """share: votes on which both agree, with Wilson's interval. kappa: Cohen's, 1 = always, 0 = as chance would; None where one word was
    all that either said, so that chance would always agree."""

    share: Interval
    kappa: float | None


def bradley_terry(
    votes: Sequence[Vote], sides: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Standing]:
    """The sides by strength, the strongest first (Bradley and Terry 1952).

    Strengths s make i preferred to j with chance s_i / (s_i + s_j); they are found by Hunter's MM iteration (2004), a tie as half a win for
    each, on top of half a win of each over each (``PRIOR``). They are scaled to a geometric mean of 1, and reported as s / (s + 1). Intervals:
    the votes are drawn again with a fixed seed, and widened to the figure where they leave it out. sides: all that took part, with or
    without votes; None = those voted on. Raises ValueError for a vote between a side and itself, or an unknown winner.
    """
    for vote in votes:
        if vote.a == vote.b or vote.winner not in WINNERS:
            raise ValueError(f"{vote} is no vote between two sides.")
    names = list(dict.fromkeys([*(sides or ()), *(side for vote in votes for side in (vote.a, vote.b))]))
    if not names:
        return []
    k = len(names)
    place = {side: at for at, side in enumerate(names)}
    each = np.zeros((len(votes), k * k))  # each vote's share of the table of wins
    for row, vote in enumerate(votes):
        a, b = place[vote.a], place[vote.b]
        share = {"a": 1.0, "b": 0.0, "tie": 0.5}[vote.winner]
        each[row, a * k + b], each[row, b * k + a] = share, 1 - share
    value = _chances(each.sum(axis=0).reshape(1, k, k))[0]
    low, high = value, value
    if len(votes) > 1:
        rng = np.random.default_rng(seed)
        times = rng.multinomial(len(votes), np.full(len(votes), 1 / len(votes)), size=resamples)
        drawn = _chances((times @ each).reshape(resamples, k, k))
        low, high = np.minimum(value, np.quantile(drawn, 0.025, axis=0)), np.maximum(value, np.quantile(drawn, 0.975, axis=0))
    standings = []
    for side, at in place.items():
        mine = [(vote.winner == "tie", (vote.winner == "a") == (vote.a == side)) for vote in votes if side in (vote.a, vote.b)]
        tied = sum(tie for tie, _ in mine)
        won = sum(win for tie, win in mine if not tie)
        method = "bootstrap over votes" if len(votes) > 1 else "point"
        strength = Interval(float(value[at]), float(low[at]), float(high[at]), len(mine), method)
        standings.append(Standing(side, strength, won, len(mine) - won - tied, tied))
    return sorted(standings, key=lambda standing: -standing.strength.value)


def _chances(wins: np.ndarray) -> np.ndarray:
    """wins [resamples, sides, sides], row over column -> each side's chance against an average one, [resamples, sides]."""
    k = wins.shape[-1]
    wins = wins + PRIOR * (1 - np.eye(k))
    met = wins + np.swapaxes(wins, 1, 2)
    won = wins.sum(axis=2)
    strength = np.ones(wins.shape[:2])
    for _ in range(_STEPS if k > 1 else 0):
        shared = (met / (strength[:, :, None] + strength[:, None, :])).sum(axis=2)
        new = won / shared
        new /= np.exp(np.log(new).mean(axis=1, keepdims=True))
        moved = float(np.abs(np.log(new / strength)).max())
        strength = new
        if moved < _CLOSE:
            break
    return strength / (1 + strength)


def agreement(judge: Sequence[Winner], person: Sequence[Winner]) -> Agreement | None:
    """How far a judge's votes are the person's, of the same pairs in the same order (Cohen 1960); None for no votes. Raises ValueError for
    unequal lengths."""
    if len(judge) != len(person):
        raise ValueError(f"{len(judge)} votes of the judge cannot be compared with {len(person)} of the person.")
    n = len(judge)
    if n == 0:
        return None
    same = sum(a == b for a, b in zip(judge, person, strict=True))
    chance = sum(judge.count(word) * person.count(word) for word in WINNERS) / (n * n)
    kappa = None if chance == 1 else (same / n - chance) / (1 - chance)
    return Agreement(wilson(same, n), kappa)
