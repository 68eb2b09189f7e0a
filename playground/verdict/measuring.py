"""A verdict's measuring, phase by phase: what is not known yet is asked, and written down as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from playground.errors import InputError, OutOfMemoryError
from playground.evaluation.criterion import judges_in
from playground.evaluation.forgetting import Forgetting, refusals
from playground.evaluation.verdict import Answered
from playground.jobs import Job
from playground.library.adapters import AdapterCard
from playground.models.remote import Spending
from playground.verdict.answers import SCORED, Answering, untimed
from playground.verdict.files import VERDICT, State, VerdictFiles
from playground.verdict.losses import ForgettingService
from playground.verdict.request import Asking, Key, Progress, VerdictRequest

T = TypeVar("T")
AFTER = 0.3
"""What comes after the answers, as a share of them: for the time left."""


@dataclass
class Work:
    """What is measured so far. measured_s: what it took before it was measured further. aside: what failed sides
    answered, which is not asked again when they are. failed: side -> why it cannot answer; before: those of the verdict
    that is measured further. judges: how far each judge that says what is right goes with the person, as the record has
    it. notes: what went wrong beside, in words. recorded: sides that are asked nothing."""

    state: State
    began_s: float = 0.0
    measured_s: float = 0.0
    answers: dict[Key, Answered] = field(default_factory=dict)
    aside: dict[Key, Answered] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    forgotten: dict[str, Any] = field(default_factory=dict)
    refusals: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    judges: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spending: Spending = field(default_factory=Spending)
    recorded: set[str] = field(default_factory=set)

    def complete(self, sides: Collection[str]) -> set[int]:
        """Rows that each of these sides has answered."""
        return {row for row, _ in self.answers if all((row, side) in self.answers for side in sides)}

    def drop_failed(self) -> None:
        """A side that cannot answer all is compared in nothing: what it wrote before is put aside."""
        for key in [key for key in self.answers if key[1] in self.failed]:
            self.aside[key] = self.answers.pop(key)

    def leave_behind(self, sides: Iterable[str]) -> None:
        """Of these sides, one that had failed before and has not caught up with the others has failed still: the rows
        that these share would be fewer otherwise."""
        able = {side for side in sides if side not in {*self.failed, *self.before}}
        late = (side for side in self.before if self.complete(able) - self.complete({side}))
        self.failed |= {side: self.before[side] for side in late if side not in self.failed}
        self.drop_failed()


Marking = Callable[[Collection[str], Collection[Answered], str], Generator[Progress, None, None]]
"""(judges, answers, owner) -> each judge's marks of the answers, as they come."""


Search = Callable[[Work, Asking], Generator[Progress, None, None]]
"""(work, what is asked) -> the candidates' answers, as they come; each is in ``work`` before the next is asked."""


class Measuring:
    """Asks, and writes every answer down as it comes. search: how candidates are asked, None = there are none."""

    def __init__(
        self,
        answering: Answering,
        forgetting: ForgettingService,
        files: VerdictFiles,
        marking: Marking,
        search: Search | None = None,
    ) -> None:
        self._answering, self._forgetting, self._files, self._marking = answering, forgetting, files, marking
        self._search = search

    def run(self, work: Work, request: VerdictRequest, job: Job) -> None:
        """Ask all of it but rows that are answered, then the judges that say what is right. Raises CancelledError when
        it is stopped; what was measured by then stays in ``work``."""
        work.began_s, work.spending.cap = time.monotonic(), request.spend_cap
        asker, judged = self._answering, request.purpose == VERDICT
        asking = Asking(request, (), f"verdict {request.owner}", work.failed, work.spending)
        if request.budget_s is not None and self._search is not None:
            self._follow(work, job, "search_s", self._search(work, asking))
            return
        items = asker.prepare(request)

        def without(value: str, rows: int | None = None) -> Asking:
            """Those of which this is not known yet. rows: of the first so many rows alone."""
            first = {*[*dict.fromkeys(item.example.row for item in items)][:rows]}
            known = {key for key, one in work.answers.items() if not value or getattr(one, value)}
            left = [item for item in items if item.key not in known and item.example.row in first]
            return asking._replace(items=left)

        known = asker.recorded(request, work.answers) if request.has_recorded else []
        work.answers |= {(one.example, one.side): one for one in known}
        work.recorded = {side.label for side in request.sides if side.replies is not None}
        self._files.keep(work.state.id, known)
        self._follow(work, job, "answers_s", asker.answers(without("")))
        if judges := judges_in(request.right):
            self._follow(work, job, "judging_s", self._marking(judges, list(work.answers.values()), request.owner))
        self._follow(work, job, "repeats_s", asker.repeats(without("repeats")))
        if judged:
            self._follow(work, job, "timing_s", asker.timings(asking._replace(items=untimed(items, work.answers))))
        if request.losses:
            self._follow(work, job, "losses_s", asker.losses(without("loss", SCORED)))
        if judged and request.refusals:
            said = self._follow(work, job, "refusals_s", asker.refusals(asking, work.refusals))
            work.refusals |= {side: refusals(replies) for side, replies in said.items()}
        if request.forgetting:
            self._forgetting_of(work, job, asking._replace(items=items))

    def _follow(self, work: Work, job: Job, timing: str, steps: Generator[Progress, None, T]) -> T:
        """Run one phase to its end, or until it is stopped; returns what it returns."""
        started = time.monotonic()
        pending: dict[int, dict[str, object]] = {}
        try:
            while True:
                try:
                    step = next(steps)
                except StopIteration as ended:
                    work.drop_failed()
                    returned: T = ended.value
                    return returned
                after = AFTER if timing == "answers_s" else 0.0
                job.report(step.phase, step.done, step.of, step.waiting, after=after)
                work.answers |= {(answer.example, answer.side): answer for answer in step.answers}
                work.drop_failed()
                self._files.keep(work.state.id, (*step.answers, *_learn(work, step, pending)))
                job.check()
        finally:
            steps.close()
            work.timings[timing] = round(time.monotonic() - started, 2)

    def _forgetting_of(self, work: Work, job: Job, asking: Asking) -> None:
        def steps(asked: Sequence[AdapterCard]) -> Generator[Progress, None, Sequence[Forgetting]]:
            found: Sequence[Forgetting] = ()
            for one in self._forgetting.measure(asked, asking.session):
                found = one.found
                yield Progress("What was forgotten", one.done, one.of, waiting=one.waiting)
            return found

        def measured(asked: Sequence[AdapterCard]) -> dict[str, Forgetting]:
            """All together; where one of them fails, each alone, and without that one."""
            try:
                found = self._follow(work, job, "forgetting_s", steps(asked))
                return {card.id: one for card, one in zip(asked, found, strict=True)}
            except (InputError, OutOfMemoryError):
                alone = [measured([card]) for card in asked] if len(asked) > 1 else []
                return {id: one for each in alone for id, one in each.items()}

        able = (item for item in asking.items if item.side.label not in {*work.failed, *work.forgotten})
        tuned = {item.side.label: item.card for item in able if item.card and item.shares_tokens}
        cards = {card.id: card for card in tuned.values()}
        by_card = measured(list(cards.values())) if cards else {}
        for side, card in tuned.items():
            if (forgotten := by_card.get(card.id)) is not None:
                work.forgotten[side] = asdict(forgotten) | {"words": forgotten.words}


def _learn(work: Work, step: Progress, pending: dict[int, dict[str, object]]) -> list[Answered]:
    """Put what is known into answers, an example once it is known of all sides that lack it; returns those that
    changed. Marks are of all sides at once."""
    changed: list[Answered] = []
    for (row, side), value in step.known.items():
        pending.setdefault(row, {})[side] = value
    for row in [*pending] if step.what else ():
        there = {side: one for (at, side), one in work.answers.items() if at == row}
        if step.what != "marks":  # a side may have failed meanwhile
            there = {side: one for side, one in there.items() if not (side in work.recorded or getattr(one, step.what))}
        if there.keys() <= pending[row].keys():
            values = pending.pop(row)
            for side, one in there.items():
                known: dict[str, Any] = {step.what: values[side]}
                work.answers[row, side] = new = replace(one, **known)
                changed += [new] if new != one else []
    return changed
