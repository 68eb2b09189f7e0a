"""A model as a judge of a verdict's replies, beside the person's own votes and labels: of pairs, in both orders, and of
single replies."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from playground.errors import InputError
from playground.evaluation.votes import Messages, both_orders, combined, parse_answer, parse_yes, rubric
from playground.jobs import Job, Jobs
from playground.verdict.files import JUDGE, Cast, Label, Place
from playground.verdict.judges import Judge, Judges, Trust, in_batches
from playground.verdict.labels import Labelling
from playground.verdict.votes import Poll, Voting
from playground.workspace.visitors import LOCAL, Quota

MOST = 60  # comparisons that a judge is asked at one go, each in both orders: first those that the person voted on
VOTES, LABELS = "judging", "marking"
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
            self._voting.files.change(
                id,
                lambda cast: [
                    *(had for had in cast if had.owner != JUDGE or (had.key == one.key and had.place != made.place)),
                    made,
                ],
            )
            return winner is not None

        self._begin(VOTES, id, owner, one, [_orders(poll, place) for place in places], keep)

    def mark(self, id: str, judge: str, owner: str = LOCAL) -> None:
        """Say in the background of each reply that the person labelled, and this judge did not mark, whether it is
        right. Raises NotFoundError, and InputError where there is none."""
        labelled, one = self._labelling.labelled(id, owner), self._judges.get(judge, owner)
        marked = {had.place for had in self._labelling.files.read(id) if had.judge == one.key}
        rows = [row for place, row in labelled.items() if place not in marked]
        if not rows:
            why = (
                f"{one.name} has marked all {len(labelled)} that you labelled" if labelled else "There is no label yet"
            )
            raise InputError(f"{why}. Label replies first: right or wrong.")

        def keep(at: int, said: Sequence[str]) -> bool:
            row, yes = rows[at], parse_yes(*said)
            label = "right" if yes else "wrong"
            made = Label(row["example"], row["side"], label, JUDGE, time.time(), one.key)
            self._labelling.files.change(
                id, lambda had: [*(mark for mark in had if (mark.judge, mark.place) != (one.key, made.place)), made]
            )
            return yes is not None

        asked = [(rubric(row["question"], row["reply"], row["reference"]),) for row in rows]
        self._begin(LABELS, id, owner, one, asked, keep)

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
