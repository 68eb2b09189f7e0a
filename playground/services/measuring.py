"""One verdict's measuring: everything that has to be asked, step by step, and what is there so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from playground.errors import CancelledError, InputError, OutOfMemoryError
from playground.evaluation.refusals import refusals
from playground.evaluation.scored import Answered
from playground.library.card import AdapterCard
from playground.services.answering import Answering, Item, Progress
from playground.services.forgetting import ForgettingService
from playground.services.verdict_files import State, VerdictFiles
from playground.services.verdict_request import VERDICT, VerdictRequest

AFTER = 0.3
"""What comes after the answers, as a share of them: for the time left."""


@dataclass
class Work:
    """What a running verdict has so far. replies: what it was counted with when it began."""

    state: State
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=lambda: Progress("Waiting for its turn", 0, 0))
    began_s: float = 0.0
    answers: dict[tuple[int, str], Answered] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    forgotten: dict[str, Any] = field(default_factory=dict)
    refusals: dict[str, Any] = field(default_factory=dict)
    replies: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Side -> why it cannot answer."""

    phase: tuple[str, float, int] = ("", 0.0, 0)
    """Its name, when it began, and how much was done then."""

    def goes_on(self, progress: Progress) -> None:
        if progress.phase != self.phase[0]:
            self.phase = (progress.phase, time.monotonic(), progress.done)
        self.progress = progress

    def drop_failed(self) -> None:
        """A side that cannot answer all is compared in nothing: what it wrote before goes."""
        for key in [key for key in self.answers if key[1] in self.failed]:
            del self.answers[key]

    @property
    def seconds_left(self) -> float | None:
        """By the pace of this phase so far, and while the examples are answered with a share for what comes after; None before there is
        a pace."""
        name, began_s, before = self.phase
        done = self.progress.done - before
        if not began_s or done <= 0 or self.progress.phase != name:
            return None
        all_of = self.progress.of * (1 + AFTER if name == "Answering" else 1)
        return (time.monotonic() - began_s) / done * (all_of - self.progress.done)


class Measuring:
    """Asks, and writes every answer down as it comes."""

    def __init__(self, answering: Answering, forgetting: ForgettingService, files: VerdictFiles) -> None:
        self._answering, self._forgetting, self._files = answering, forgetting, files

    def run(self, work: Work, request: VerdictRequest) -> None:
        """All that has to be asked. Raises CancelledError when it is stopped; what was measured by then stays in ``work``."""
        work.began_s = time.monotonic()
        items, session = self._answering.prepare(request), f"verdict {request.owner}"
        self._follow(work, "answers_s", self._answering.answers(request, items, session, work.failed))
        self._follow(work, "repeats_s", self._answering.repeats(request, items, session, work.failed))
        if request.purpose == VERDICT:
            self._follow(work, "timing_s", self._answering.timings(request, items, session, work.failed))
        able = [item for item in items if item.side.label not in work.failed]
        if request.losses:
            self._follow(work, "losses_s", self._answering.losses(able, session))
        if request.refusals and request.purpose == VERDICT:
            said = self._follow(work, "refusals_s", self._answering.refusals(request, session, work.failed))
            work.refusals = {side: refusals(replies).as_json() for side, replies in said.items()}
        if request.forgetting:
            self._forgot(work, able, session)

    def _follow(self, work: Work, timing: str, steps: Generator[Progress, None, Any]) -> Any:
        """Run it to its end, or until it is stopped; returns what it returns."""
        started = time.monotonic()
        pending: dict[int, dict[str, Any]] = {}
        try:
            while True:
                try:
                    step = next(steps)
                except StopIteration as ended:
                    work.drop_failed()
                    return ended.value
                work.goes_on(step)
                for answer in step.answers:
                    work.answers[answer.example, answer.side] = answer
                work.drop_failed()
                self._files.keep(work.state.id, (*step.answers, *_learn(work, step, pending)))
                if work.stop.is_set():
                    raise CancelledError("Stopped.")
        finally:
            steps.close()
            work.timings[timing] = round(time.monotonic() - started, 2)

    def _forgot(self, work: Work, items: Sequence[Item], session: str) -> None:
        cards: dict[str, AdapterCard] = {item.card.id: item.card for item in items if item.card is not None}
        if not cards:
            return

        def steps(asked: Sequence[AdapterCard]) -> Generator[Progress, None, Sequence[Any]]:
            found: Sequence[Any] = ()
            for one in self._forgetting.measure(asked, session):
                found = one.found
                yield Progress("What was forgotten", one.done, one.of, waiting=one.waiting)
            return found

        def measured(asked: Sequence[AdapterCard]) -> dict[str, Any]:
            """All together; where one of them fails, each alone, and without that one."""
            try:
                return dict(zip([card.id for card in asked], self._follow(work, "forgetting_s", steps(asked)), strict=True))
            except (InputError, OutOfMemoryError):
                return {} if len(asked) == 1 else {id: found for card in asked for id, found in measured([card]).items()}

        by_card = measured(list(cards.values()))
        for item in items:
            if item.card is not None and item.card.id in by_card:
                forgotten = by_card[item.card.id]
                work.forgotten[item.side.label] = asdict(forgotten) | {"words": forgotten.words}


def _learn(work: Work, step: Progress, pending: dict[int, dict[str, Any]]) -> list[Answered]:
    """Put what is now known of answers into them, an example at a time as soon as it is known of all its sides, so that sides are compared
    on the same examples wherever it is stopped; returns the answers that changed."""
    changed, sides = [], {side for _, side in work.answers}
    for (row, side), value in step.known.items():
        pending.setdefault(row, {})[side] = value
    for row in [row for row, known in pending.items() if step.what and sides <= known.keys()]:  # a side may have failed meanwhile
        known = pending.pop(row)
        for name in sides:
            work.answers[row, name] = replace(work.answers[row, name], **{step.what: known[name]})
            changed.append(work.answers[row, name])
    return changed
