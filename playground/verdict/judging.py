"""What is said of an ended verdict's replies: blind votes on pairs, labels of single ones, and a model as a judge of
both beside the person, of pairs in both orders."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from playground.errors import InputError
from playground.evaluation.values import is_blank
from playground.evaluation.votes import (
    Agreement,
    Messages,
    Standing,
    Winner,
    agreement,
    both_orders,
    bradley_terry,
    combined,
    parse_answer,
    parse_yes,
    rubric,
)
from playground.jobs import Job, Jobs
from playground.verdict.files import JUDGE, LABELS, Cast, Label, LineFiles, Place, Said, as_votes
from playground.verdict.judges import Judge, Judges, Trust, in_batches
from playground.verdict.service import VerdictService
from playground.workspace.visitors import LOCAL, Quota


class Sheet(NamedTuple):
    """One reply to label, naming no side. number: how many this person labelled before."""

    number: int
    question: str
    reply: str
    reference: str


class Count(NamedTuple):
    """Labels that say right or wrong, those that say neither, and replies that are left."""

    right: int
    wrong: int
    unsure: int
    left: int


class Labelling:
    """Every call names the verdict and its owner; nothing is remembered between calls but the labels."""

    def __init__(self, verdicts: VerdictService) -> None:
        self._verdicts, self.files = verdicts, LineFiles(verdicts.files, Label)

    def next(self, id: str, owner: str = LOCAL) -> Sheet | None:
        """What to label now; None when everything was. Raises NotFoundError, InputError with nothing to label."""
        rows, mine = self._rows(id, owner), self.files.of(id, owner)
        done = {one.place for one in mine}
        row = next((row for place, row in rows.items() if place not in done), None)
        return Sheet(len(mine), row["question"], row["reply"].strip(), row["reference"]) if row is not None else None

    def label(self, id: str, number: int, choice: str, owner: str = LOCAL) -> None:
        """choice: one of ``LABELS``. number: of its sheet, not answered before. Raises NotFoundError, InputError."""
        if choice not in LABELS:
            raise InputError(f"That is no label. There are: {', '.join(LABELS)}.")
        rows = self._rows(id, owner)

        def make(there: list[Label]) -> Label | None:
            done = [one.place for one in there if one.owner == owner]
            place = next((place for place in rows if place not in done), None)
            return Label(*place, choice, owner, time.time()) if place is not None and number == len(done) else None

        self.files.add(id, make)

    def undo(self, id: str, owner: str = LOCAL) -> None:
        """Take one's last label back; it is asked again. Raises NotFoundError."""
        self._verdicts.show(id, owner)
        self.files.take_back(id, owner)

    def count(self, id: str, owner: str = LOCAL) -> Count:
        """Raises NotFoundError, and InputError with nothing to label."""
        rows, mine = self._rows(id, owner), self.files.of(id, owner)
        right, wrong, unsure = (sum(one.label == label for one in mine) for label in LABELS)
        return Count(right, wrong, unsure, len(rows.keys() - {one.place for one in mine}))

    def labelled(self, id: str, owner: str = LOCAL) -> dict[tuple[int, str], Mapping[str, Any]]:
        """The rows of which this person said whether they are right, by place. Raises NotFoundError, InputError."""
        rows = self._rows(id, owner)
        return {one.place: rows[one.place] for one in self.files.of(id, owner) if one.is_said and one.place in rows}

    def trust(self, id: str, judge: str, owner: str = LOCAL) -> Trust:
        """How far a judge goes with this person on the examples of a verdict. Raises NotFoundError, InputError."""
        record = self._verdicts.show(id, owner).record or {}
        return self._verdicts.judges.trust(self._verdicts.files, judge, owner, str(record.get("file", "")))

    def _rows(self, id: str, owner: str) -> dict[tuple[int, str], dict[str, Any]]:
        """What can be labelled, in this owner's order: one reply of each example, drawn, then the next; of sides that
        say the same to one example the first, and nothing empty. Raises NotFoundError, InputError."""
        view, rng = self._verdicts.show(id, owner), random.Random(f"{id} {owner} labels")
        by_example: dict[int, dict[str, dict[str, Any]]] = {}
        for row in self._verdicts.rows(id, owner) if view.record is not None else ():
            if not is_blank(row["reply"], row["reference"]):
                by_example.setdefault(row["example"], {}).setdefault(row["reply"].strip(), row)
        drawn = [
            (turn, rng.random(), row)
            for _, replies in sorted(by_example.items())
            for turn, row in enumerate(rng.sample(list(replies.values()), len(replies)))
        ]
        if not drawn:
            raise InputError("There is nothing to label yet: it takes a verdict that has ended, with replies in it.")
        drawn.sort(key=lambda one: one[:2])
        return {(row["example"], row["side"]): row for _, _, row in drawn}


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
        self._verdicts, self.files = verdicts, LineFiles(verdicts.files, Cast)

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


MOST = 60  # comparisons that a judge is asked at one go, each in both orders: first those that the person voted on
VOTES, MARKS = "judging", "marking"
"""What a judge is asked for: to vote on pairs, or to mark single replies that the person labelled."""


@dataclass(frozen=True)
class JudgingView:
    """done, of: comparisons or replies. unread: those whose answers cannot be read. error: why it ended early."""

    verdict: str
    name: str
    done: int = 0
    of: int = 0
    unread: int = 0
    live: bool = False
    waiting: str = ""
    error: str = ""


@dataclass
class _Work:
    """One judging. view: all but what its job says."""

    view: JudgingView
    job: Job | None = None


class JudgingService:
    """One judging of a kind and verdict at a time, in the background; what was judged is kept as it comes, and the next
    one goes on from there."""

    def __init__(self, voting: Voting, labelling: Labelling, judges: Judges, quota: Quota, jobs: Jobs) -> None:
        self._voting, self._labelling, self._judges = voting, labelling, judges
        self._quota, self._jobs = quota, jobs
        self._latest: dict[str, _Work] = {}
        self._lock = threading.Lock()

    def judges(self, owner: str = LOCAL) -> list[tuple[str, str]]:
        """(name, id) of everything that may judge."""
        return self._judges.known(owner)

    def start(self, id: str, judge: str, owner: str = LOCAL, limit: int = MOST) -> None:
        """Vote in the background on pairs that this judge has not read, in the place of another judge's votes. Raises
        NotFoundError, and InputError where there is none."""
        poll, one = self._voting.poll(id, owner), self._judges.get(judge, owner)
        mine = {had.place: had.winner for had in self._voting.files.read(id) if had.key == one.key}
        left = [place for place in self._places(id, owner, poll) if mine.get(place, "skip") == "skip"]
        places = sorted(left, key=lambda place: place in mine)[:limit]  # those that it could not tell come last
        if not places:
            raise InputError(f"{one.name} has judged all {len(mine)} comparisons. Choose another judge.")

        def keep(at: int, said: Sequence[str]) -> bool:
            winner = combined(*map(parse_answer, said))
            made = Cast(*places[at], winner or "skip", JUDGE, time.time(), one.name, one.key)

            def left(had: Cast) -> bool:
                return had.owner != JUDGE or (had.key == one.key and had.place != made.place)

            self._voting.files.change(id, lambda cast: [*filter(left, cast), made])
            return winner is not None

        self._begin(VOTES, id, owner, one, [_orders(poll, place) for place in places], keep)

    def mark(self, id: str, judge: str, owner: str = LOCAL) -> None:
        """Say in the background of each reply that the person labelled, and this judge did not mark, whether it is
        right. Raises NotFoundError, and InputError where there is none."""
        labelled, one = self._labelling.labelled(id, owner), self._judges.get(judge, owner)
        marked = {had.place for had in self._labelling.files.read(id) if had.judge == one.key}
        rows = [row for place, row in labelled.items() if place not in marked]
        if not rows:
            marked_all = f"{one.name} has marked all {len(labelled)} that you labelled"
            raise InputError(
                f"{marked_all if labelled else 'There is no label yet'}. Label replies first: right or wrong."
            )

        def keep(at: int, said: Sequence[str]) -> bool:
            row, yes = rows[at], parse_yes(*said)
            label = "right" if yes else "wrong"
            made = Label(row["example"], row["side"], label, JUDGE, time.time(), one.key)
            self._labelling.files.change(
                id, lambda had: [*(mark for mark in had if (mark.judge, mark.place) != (one.key, made.place)), made]
            )
            return yes is not None

        asked = [(rubric(row["question"], row["reply"], row["reference"]),) for row in rows]
        self._begin(MARKS, id, owner, one, asked, keep)

    def trust(self, id: str, judge: str, owner: str = LOCAL) -> Trust:
        """How far a judge goes with the person on a verdict's examples. Raises NotFoundError, InputError."""
        return self._labelling.trust(id, judge, owner)

    def show(self, id: str, owner: str = LOCAL, kind: str = VOTES) -> JudgingView | None:
        """How far it is; None where nothing judged since the app began. Raises NotFoundError."""
        self._voting.record(id, owner)
        if (work := self._latest.get(f"{kind} {id}")) is None:
            return None
        if (job := work.job) is None:
            return work.view
        return replace(work.view, live=job.live, waiting=job.progress.waiting if job.live else "", error=job.error)

    def stop(self, id: str, owner: str = LOCAL, kind: str = VOTES) -> None:
        """End it and keep what was judged. Raises NotFoundError."""
        self._voting.record(id, owner)
        if (job := self._jobs.get(f"{kind} {id}")) is not None:
            job.stop()

    def _begin(
        self,
        kind: str,
        id: str,
        owner: str,
        judge: Judge,
        asked: Sequence[Sequence[Messages]],
        keep: Callable[[int, Sequence[str]], bool],
    ) -> None:
        """keep: puts the answers to one item away as they come, and returns whether they can be read."""
        key, replies = f"{kind} {id}", sum(map(len, asked))
        work = _Work(JudgingView(id, judge.name, of=len(asked)))

        def judged(job: Job) -> None:
            try:
                with contextlib.closing(in_batches(judge.ask, asked)) as steps:
                    for waiting, said in steps:
                        for at in range(work.view.done, len(said)):
                            unread = work.view.unread + (not keep(at, said[at]))
                            work.view = replace(work.view, done=at + 1, unread=unread)
                        if job.stopping:
                            return
                        job.report("Judging", waiting=waiting)
            finally:
                self._quota.give_back_replies(owner, replies)

        with self._lock:
            if self._jobs.get(key) is not None:
                name = self._latest[key].view.name
                raise InputError(f"{name} judges this verdict already. Stop it, or wait for its end.")
            self._quota.take_replies(owner, replies, "Judging")
            self._latest[key] = work
            work.job = self._jobs.start(key, judged, "The judging")

    def _places(self, id: str, owner: str, poll: Poll) -> list[Place]:
        """What to judge: first what the person voted on, then the rest, an example's pairs one after another."""
        mine, known = self._voting.files.of(id, owner), set(poll.places)
        voted = dict.fromkeys(one.place for one in mine if one.winner != "skip" and one.place in known)
        return [*voted, *sorted((place for place in poll.places if place not in voted), key=lambda place: place[0])]


def _orders(poll: Poll, place: Place) -> tuple[Messages, Messages]:
    example, a, b = place
    row = poll.rows[example, a]
    return both_orders(row["question"], poll.replies[example, a], poll.replies[example, b], row["reference"])
