"""Blind votes on an ended verdict: which of two unnamed replies is better, and what the votes say with names."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from playground.errors import InputError
from playground.evaluation.votes import Agreement, Standing, Winner, agreement, bradley_terry
from playground.verdict.files import JUDGE, Cast, Place, Said, as_votes, vote_files
from playground.verdict.service import VerdictService
from playground.workspace.visitors import LOCAL

CHOICES = ("left", "right", "tie", "skip")


class Ballot(NamedTuple):
    """What a person is asked, naming nobody. number: how many they were asked before. left, right: replies."""

    number: int
    question: str
    left: str
    right: str


@dataclass(frozen=True)
class Judgement:
    """A judge's votes. agreement: with people's, on what both voted on; None where there is nothing of it."""

    name: str
    standings: tuple[Standing, ...]
    votes: int
    agreement: Agreement | None


@dataclass(frozen=True)
class Revealed:
    """standings: the strongest first. agreement: with the main metric, None where that says nothing of replies."""

    standings: tuple[Standing, ...]
    votes: int
    metric: str
    agreement: Agreement | None
    judge: Judgement | None = None


class Poll(NamedTuple):
    """places: (example, a, b) whose replies differ. replies: (example, side) -> reply."""

    sides: tuple[str, ...]
    places: tuple[Place, ...]
    replies: Mapping[tuple[int, str], str]
    rows: Mapping[tuple[int, str], dict[str, Any]]
    record: dict[str, Any]


class Voting:
    """Every call names the verdict and its owner; nothing is remembered between calls but the votes."""

    def __init__(self, verdicts: VerdictService) -> None:
        self._verdicts, self.files = verdicts, vote_files(verdicts.files)

    def next(self, id: str, owner: str = LOCAL) -> Ballot | None:
        """What to ask now; None when everything was. Raises NotFoundError, InputError with nothing to vote on."""
        poll, cast = self.poll(id, owner), self.files.read(id)
        if (drawn := _drawn(id, owner, poll, cast)) is None:
            return None
        (example, a, b), swapped = drawn
        left, right = (poll.replies[example, side] for side in ((b, a) if swapped else (a, b)))
        return Ballot(_asked(cast, owner), poll.rows[example, a]["question"], left, right)

    def vote(self, id: str, number: int, choice: str, owner: str = LOCAL) -> None:
        """choice: one of ``CHOICES``. number: of its ballot, not answered before. Raises NotFoundError, InputError."""
        if choice not in CHOICES:
            raise InputError(f"That is no vote. There are: {', '.join(CHOICES)}.")
        poll = self.poll(id, owner)

        def make(cast: list[Cast]) -> Cast | None:
            drawn = _drawn(id, owner, poll, cast)
            if drawn is None or number != _asked(cast, owner):
                return None
            place, swapped = drawn
            words: tuple[Said, ...] = ("b", "a", "tie", "skip") if swapped else ("a", "b", "tie", "skip")
            return Cast(*place, words[CHOICES.index(choice)], owner, time.time())

        self.files.add(id, make)

    def undo(self, id: str, owner: str = LOCAL) -> None:
        """Take one's last vote back; it is asked again. Raises NotFoundError."""
        self._verdicts.show(id, owner)
        self.files.take_back(id, owner)

    def count(self, id: str, owner: str = LOCAL) -> tuple[int, int]:
        """(own votes, ballots that can still be asked). Raises NotFoundError."""
        poll, mine = self.poll(id, owner), self.files.of(id, owner)
        return len(as_votes(mine)), len(set(poll.places) - {one.place for one in mine})

    def reveal(self, id: str, owner: str = LOCAL) -> Revealed:
        """What people's votes say, with names. Raises NotFoundError, and InputError before there is a vote."""
        poll = self.poll(id, owner)
        cast = [one for one in self.files.read(id) if {one.a, one.b} <= set(poll.sides) and one.winner != "skip"]
        people, judged = [one for one in cast if one.owner != JUDGE], [one for one in cast if one.owner == JUDGE]
        if not cast:
            raise InputError("There is no vote yet. Vote first; the names come after.")
        standings = tuple(bradley_terry(as_votes(people), poll.sides)) if people else ()
        judge = _judgement(poll, people, judged) if judged else None
        return Revealed(standings, len(people), poll.record["main_metric"] or "", _with_metric(poll, people), judge)

    def record(self, id: str, owner: str = LOCAL) -> dict[str, Any] | None:
        """The verdict's, None before it has ended. Raises NotFoundError."""
        return self._verdicts.show(id, owner).record

    def poll(self, id: str, owner: str = LOCAL) -> Poll:
        """Raises NotFoundError, and InputError where there is nothing to vote on."""
        if (record := self.record(id, owner)) is None:
            raise InputError("Votes begin when a verdict has ended and something of it was measured.")
        sides = tuple(side["side"] for side in record["sides"])
        rows = {(row["example"], row["side"]): row for row in self._verdicts.rows(id, owner)}
        replies = {key: row["reply"].strip() for key, row in rows.items()}
        examples = dict.fromkeys(example for example, _ in rows)
        places = tuple(
            (example, a, b)
            for (a, b), example in itertools.product(itertools.combinations(sides, 2), examples)
            if (example, a) in replies and replies[example, a] != replies.get((example, b), replies[example, a])
        )
        if not places:
            raise InputError("There is nothing to vote on: it takes two sides that answer differently.")
        return Poll(sides, places, replies, rows, record)


def _asked(cast: Sequence[Cast], owner: str) -> int:
    """How many ballots an owner has answered: the number of the next one."""
    return sum(one.owner == owner for one in cast)


def _drawn(id: str, owner: str, poll: Poll, cast: Sequence[Cast]) -> tuple[Place, bool] | None:
    """The next comparison, and whether a stands on the right. The pair with the fewest votes of people, an example
    of it that this owner was not asked; which of several, and the places, are drawn by the ballot's number."""
    asked = {one.place for one in cast if one.owner == owner}
    left = [place for place in poll.places if place not in asked]
    if not left:
        return None
    votes = Counter((one.a, one.b) for one in cast if one.owner != JUDGE and one.winner != "skip")
    rng = random.Random(f"{id} {owner} {_asked(cast, owner)}")
    fewest = min(votes[place[1:]] for place in left)
    pair = rng.choice(list(dict.fromkeys(place[1:] for place in left if votes[place[1:]] == fewest)))
    return rng.choice([place for place in left if place[1:] == pair]), rng.random() < 0.5


def _with_metric(poll: Poll, cast: Sequence[Cast]) -> Agreement | None:
    """How far votes go with the main metric of the two replies."""
    metric = poll.record["main_metric"]
    if metric is None:
        return None
    better = 1 if poll.record["about"][metric]["higher_is_better"] else -1
    by_metric: dict[Place, Winner] = {}
    for one in cast:
        a, b = (poll.rows.get((one.example, side), {}).get("metrics", {}).get(metric) for side in (one.a, one.b))
        if a is not None and b is not None:
            by_metric[one.place] = "tie" if a == b else "a" if better * (a - b) > 0 else "b"
    return _agreed(by_metric, cast)


def _judgement(poll: Poll, people: Sequence[Cast], judged: Sequence[Cast]) -> Judgement:
    votes = as_votes(judged)
    said = {one.place: vote.winner for one, vote in zip(judged, votes, strict=True)}
    return Judgement(judged[-1].judge, tuple(bradley_terry(votes, poll.sides)), len(votes), _agreed(said, people))


def _agreed(said: Mapping[Place, Winner], people: Sequence[Cast]) -> Agreement | None:
    """How far people's votes go with what was said of the same places."""
    voted = zip(people, as_votes(people), strict=True)
    both = [(said[one.place], vote.winner) for one, vote in voted if one.place in said]
    return agreement([a for a, _ in both], [b for _, b in both])
