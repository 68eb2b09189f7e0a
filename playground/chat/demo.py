"""The built-in story, computed each time: a careful prompt against twenty steps of LoRA on the hospital examples."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from playground.chat.compare import CompareService, Reply, Side
from playground.data.check import check_file
from playground.data.example import Example, question_of
from playground.db import ENDED
from playground.engine.request import Sampling
from playground.errors import CancelledError, PlaygroundError
from playground.evaluation.checks import parse_check
from playground.evaluation.criterion import Criterion, parse_criteria
from playground.jobs import Job, Jobs
from playground.runs.service import TrainingService, TrainRequest
from playground.workspace.examples import DataService, ShippedSet

SET = "hospital_reports"
STEPS = 20
ROWS = 16
"""Held-out rows that are asked, of 40: enough to tell 0 from 16, little enough for two cores."""
BATCH = 8
MAX_TOKENS = 128


@dataclass(frozen=True)
class DemoRow:
    """passed of n replies keep the format, and right of them have the content of the reference, whatever their format;
    mean tokens of a request and of a reply; mean seconds a reply."""

    name: str
    passed: int
    right: int
    n: int
    prompt_tokens: float
    completion_tokens: float
    seconds: float


@dataclass(frozen=True)
class DemoStep:
    """state: todo, now or done."""

    label: str
    state: str
    detail: str = ""


LABELS = (
    "Train a LoRA on the hospital examples",
    "Ask the base, with its careful prompt",
    "Ask the trained model, without a prompt",
)


@dataclass(frozen=True)
class DemoState:
    """phase: idle, training, measuring, done, failed or cancelled. progress: 0 to 1. table: as far as measured."""

    phase: str = "idle"
    steps: tuple[DemoStep, ...] = tuple(DemoStep(label, "todo") for label in LABELS)
    run: str | None = None
    adapter: str | None = None
    progress: float = 0.0
    seconds_left: float | None = None
    table: tuple[DemoRow, ...] = ()
    error: str = ""

    @property
    def running(self) -> bool:
        return self.phase in ("training", "measuring")


class DemoService:
    """Plays the story in the background, once at a time for each owner; ``play`` is the same in the foreground."""

    def __init__(self, data: DataService, training: TrainingService, compare: CompareService, jobs: Jobs) -> None:
        self._data, self._training, self._compare, self._jobs = data, training, compare, jobs
        self._playing: dict[str, tuple[Job, _Story]] = {}
        self._lock = threading.Lock()

    def state(self, owner: str = "local") -> DemoState:
        job, story = self._playing.get(owner, (None, None))
        if job is None or story is None:
            return DemoState()
        if job.live or not story.state.running:
            return story.state
        error = job.error if job.failed else "Stopped. What was measured so far stays on the page."
        return replace(story.state, phase="failed" if job.failed else "cancelled", seconds_left=None, error=error)

    def start(self, owner: str = "local") -> None:
        """Begin; does nothing while it plays already."""
        with self._lock:
            if not self.state(owner).running:
                story = self._story(owner)
                self._playing[owner] = self._jobs.start(f"demo {owner} {id(story)}", story.play, "The demo"), story

    def cancel(self, owner: str = "local") -> None:
        """Stop at the next step; the run it trains is cancelled too."""
        job, story = self._playing.get(owner, (None, None))
        if job is not None and story is not None and job.live:
            job.stop()
            if story.state.run is not None:
                self._training.cancel(story.state.run, owner)

    def reset(self, owner: str = "local") -> None:
        """Back to the beginning; what it trained stays in the library."""
        self.cancel(owner)
        self._playing.pop(owner, None)

    def play(self, tell: Callable[[DemoState], None], owner: str = "local") -> DemoState:
        """The whole story; ``tell`` is called with every change. Raises PlaygroundError."""
        story = self._story(owner, tell)
        with self._jobs.here(f"demo {owner}", "The demo", "The demo plays already.") as job:
            story.play(job)
        return story.state

    def _story(self, owner: str, tell: Callable[[DemoState], None] = lambda state: None) -> _Story:
        return _Story(self._data.shipped(SET), self._training, self._compare, owner, tell)


@dataclass
class _Story:
    """One playing of the story."""

    _shipped: ShippedSet
    _training: TrainingService
    _compare: CompareService
    _owner: str
    _tell: Callable[[DemoState], None]
    state: DemoState = DemoState("training")

    def play(self, job: Job) -> None:
        self._tell(self.state)
        adapter = self._train(job)
        example_rows = list(check_file(self._shipped.heldout).examples)
        rows = random.Random(7).sample(example_rows, min(ROWS, len(example_rows)))
        right = parse_criteria(self._shipped.right, [row.completion for row in example_rows])
        self._set(phase="measuring", progress=0.6, seconds_left=None, adapter=adapter)
        self._measure(1, Side("base", self._shipped.system_prompt, name="Base + prompt"), rows, right, job)
        self._measure(2, Side(adapter, name="Fine-tuned, no prompt"), rows, right, job)
        self._set(phase="done", progress=1.0, seconds_left=None)

    def _train(self, job: Job) -> str:
        training = self._training
        self._step(0, "now", "In line for the device")
        run = training.start(TrainRequest(self._shipped.file, "hospital demo", steps=STEPS, owner=self._owner))
        self._set(run=run)
        while True:
            view = training.show(run, self._owner)
            if view.state in ENDED:
                break
            loss = f", loss {view.loss[-1][1]:.2f}" if view.loss else ""
            detail = f"Step {view.step} of {view.steps}{loss}" if view.step else view.message or "Starting"
            self._step(0, "now", detail)
            self._set(progress=0.6 * view.step / view.steps, seconds_left=view.seconds_left)
            if job.pause(0.5):
                training.cancel(run, self._owner)
                raise CancelledError("The demo was stopped.")
        if view.state == "CANCELLED":
            raise CancelledError("The run was cancelled.")
        if view.state != "DONE" or view.adapter is None:
            raise PlaygroundError(view.error or "The run did not finish.")
        summary = view.summary
        self._step(0, "done", f"{summary['rows_used']} examples, {view.steps} steps, {summary['seconds']:.0f} s")
        return view.adapter

    def _measure(self, place: int, side: Side, rows: Sequence[Example], criterion: Criterion, job: Job) -> None:
        questions = [question_of(row.prompt) for row in rows]
        check, session = parse_check(self._shipped.check), f"demo {self._owner}"
        replies: list[Reply] = []
        started = time.monotonic()
        for start in range(0, len(questions), BATCH):
            part, batch = questions[start : start + BATCH], list[Reply]()
            sampling = Sampling(max_tokens=MAX_TOKENS)
            for batch in self._compare.ask_each(side, part, sampling, self._owner, session, "measure"):
                job.check("The demo was stopped.")
            replies += batch
            if failed := next((reply.error for reply in replies if reply.error), ""):
                raise PlaygroundError(failed)
            passed, done, of = sum(check.passes(reply.text) for reply in replies), len(replies), len(questions)
            right = sum(
                criterion.mark(reply.text, row.completion).right for reply, row in zip(replies, rows, strict=False)
            )
            tokens = fmean(one.prompt_tokens for one in replies), fmean(one.completion_tokens for one in replies)
            seconds = (time.monotonic() - started) / done
            self._set(
                table=(*self.state.table[: place - 1], DemoRow(side.label, passed, right, done, *tokens, seconds)),
                progress=0.6 + 0.2 * (place - 1) + 0.2 * done / of,
                seconds_left=seconds * (of - done) or None,
            )
            detail = f"Of {done}, {passed} {'keeps' if passed == 1 else 'keep'} the format, {right} "
            detail += f"{'has' if right == 1 else 'have'} the right content"
            self._step(place, "done" if done == of else "now", detail)

    def _step(self, place: int, state: str, detail: str) -> None:
        steps = list(self.state.steps)
        steps[place] = DemoStep(LABELS[place], state, detail)
        self._set(steps=tuple(steps))

    def _set(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self._tell(self.state)
