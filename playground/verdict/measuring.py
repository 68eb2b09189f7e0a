"""One verdict's measuring: everything that is asked, phase by phase, and what is there so far."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from playground.errors import InputError, OutOfMemoryError
from playground.evaluation.forgetting import Forgetting, refusals
from playground.evaluation.verdict import Answered
from playground.jobs import Job
from playground.library.card import AdapterCard
from playground.verdict.answers import Answering, Item, Progress
from playground.verdict.files import VERDICT, State, VerdictFiles
from playground.verdict.losses import ForgettingService
from playground.verdict.request import VerdictRequest

T = TypeVar("T")
AFTER = 0.3
"""What comes after the answers, as a share of them: for the time left."""


@dataclass
class Work:
    """What is measured so far. failed: side -> why it cannot answer."""

    state: State
    began_s: float = 0.0
    answers: dict[tuple[int, str], Answered] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    forgotten: dict[str, Any] = field(default_factory=dict)
    refusals: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def drop_failed(self) -> None:
        """A side that cannot answer all is compared in nothing: what it wrote before goes."""
        for key in [key for key in self.answers if key[1] in self.failed]:
            del self.answers[key]


class Measuring:
    """Asks, and writes every answer down as it comes."""

    def __init__(self, answering: Answering, forgetting: ForgettingService, files: VerdictFiles) -> None:
        self._answering, self._forgetting, self._files = answering, forgetting, files

    def run(self, work: Work, request: VerdictRequest, job: Job) -> None:
        """All that has to be asked. Raises CancelledError when it is stopped; what was measured by then stays in
        ``work``."""
        work.began_s = time.monotonic()
        asking, failed = self._answering, work.failed
        items, session = asking.prepare(request), f"verdict {request.owner}"
        self._follow(work, job, "answers_s", asking.answers(request, items, session, failed))
        self._follow(work, job, "repeats_s", asking.repeats(request, items, session, failed))
        if request.purpose == VERDICT:
            self._follow(work, job, "timing_s", asking.timings(request, items, session, failed))
        able = [item for item in items if item.side.label not in failed]
        if request.losses:
            self._follow(work, job, "losses_s", asking.losses(able, session))
        if request.refusals and request.purpose == VERDICT:
            said = self._follow(work, job, "refusals_s", asking.refusals(request, session, failed))
            work.refusals = {side: refusals(replies).as_json() for side, replies in said.items()}
        if request.forgetting:
            self._forgetting_of(work, job, able, session)

    def _follow(self, work: Work, job: Job, timing: str, steps: Generator[Progress, None, T]) -> T:
        """Run one phase to its end, or until it is stopped; returns what it returns."""
        started = time.monotonic()
        pending: dict[int, dict[str, Any]] = {}
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
                for answer in step.answers:
                    work.answers[answer.example, answer.side] = answer
                work.drop_failed()
                self._files.keep(work.state.id, (*step.answers, *_learn(work, step, pending)))
                job.check()
        finally:
            steps.close()
            work.timings[timing] = round(time.monotonic() - started, 2)

    def _forgetting_of(self, work: Work, job: Job, items: Sequence[Item], session: str) -> None:
        def steps(asked: Sequence[AdapterCard]) -> Generator[Progress, None, Sequence[Forgetting]]:
            found: Sequence[Forgetting] = ()
            for one in self._forgetting.measure(asked, session):
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

        cards = {item.card.id: item.card for item in items if item.card is not None}
        by_card = measured(list(cards.values())) if cards else {}
        for item in items:
            if item.card is not None and (forgotten := by_card.get(item.card.id)) is not None:
                work.forgotten[item.side.label] = asdict(forgotten) | {"words": forgotten.words}


def _learn(work: Work, step: Progress, pending: dict[int, dict[str, Any]]) -> list[Answered]:
    """Put what is now known of answers into them, an example at a time as soon as it is known of all its sides, so
    that sides are compared on the same examples wherever it is stopped; returns the answers that changed."""
    changed, sides = [], {side for _, side in work.answers}
    for (row, side), value in step.known.items():
        pending.setdefault(row, {})[side] = value
    for row in [row for row, known in pending.items() if step.what and sides <= known.keys()]:
        known = pending.pop(row)
        for name in sides:  # a side may have failed meanwhile
            work.answers[row, name] = replace(work.answers[row, name], **{step.what: known[name]})
            changed.append(work.answers[row, name])
    return changed
