"""The built-in story, computed each time: a careful prompt against twenty steps of LoRA on the hospital examples."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from playground.data.check import check_file
from playground.errors import CancelledError, PlaygroundError
from playground.evaluation.checks import parse_check
from playground.services.compare import CompareService, Reply
from playground.services.data import DataService, ShippedSet
from playground.services.sides import Side
from playground.services.store import ENDED
from playground.services.training import TrainingService, TrainRequest

SET = "hospital_reports"
STEPS = 20
ROWS = 16
"""Held-out rows that are asked, of 40: enough to tell 0 from 16, little enough for two cores."""
BATCH = 8
MAX_TOKENS = 128


@dataclass(frozen=True)
class DemoRow:
    """One side's measured figures: passed of n replies keep the format; mean tokens of a request and of a reply; mean seconds a reply."""

    name: str
    passed: int
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
    """phase: idle, training, measuring, done, failed or cancelled. progress: 0 to 1. table: filled as it is measured."""

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

    def __init__(self, data: DataService, training: TrainingService, compare: CompareService) -> None:
        self._data, self._training, self._compare = data, training, compare
        self._lock = threading.Lock()
        self._states: dict[str, DemoState] = {}
        self._cancel: dict[str, threading.Event] = {}

    def state(self, owner: str = "local") -> DemoState:
        return self._states.get(owner, DemoState())

    def start(self, owner: str = "local") -> None:
        """Begin; does nothing while it plays already."""
        with self._lock:
            if self.state(owner).running:
                return
            self._states[owner] = DemoState("training")
            self._cancel[owner] = threading.Event()
        threading.Thread(target=self._play_quietly, args=(owner,), name="demo", daemon=True).start()

    def cancel(self, owner: str = "local") -> None:
        """Stop at the next moment; the run it trains is cancelled too."""
        if self.state(owner).running:
            self._cancel[owner].set()
            run = self.state(owner).run
            if run is not None:
                self._training.cancel(run, owner)

    def reset(self, owner: str = "local") -> None:
        """Back to the beginning; what it trained stays in the library."""
        self.cancel(owner)
        with self._lock:
            self._states.pop(owner, None)

    def play(self, tell: Callable[[DemoState], None], owner: str = "local", stop: threading.Event | None = None) -> DemoState:
        """The whole story; ``tell`` hears every change. Raises PlaygroundError."""
        story = _Story(self, owner, tell, stop or threading.Event())
        return story.play()

    def _play_quietly(self, owner: str) -> None:
        stop = self._cancel[owner]

        def tell(state: DemoState) -> None:
            if self._cancel.get(owner) is stop and not (stop.is_set() and owner not in self._states):
                self._states[owner] = state

        try:
            self.play(tell, owner, stop)
        except CancelledError:
            tell(
                replace(
                    self.state(owner),
                    phase="cancelled",
                    seconds_left=None,
                    error="Stopped. What was measured so far stays on the page.",
                )
            )
        except Exception as error:
            words = (
                str(error) if isinstance(error, PlaygroundError) else "Something went wrong on our side; the log has the details."
            )
            tell(replace(self.state(owner), phase="failed", seconds_left=None, error=words))
            if not isinstance(error, PlaygroundError):
                raise


class _Story:
    """One playing of the story."""

    def __init__(self, demo: DemoService, owner: str, tell: Callable[[DemoState], None], stop: threading.Event) -> None:
        self._demo, self._owner, self._tell_to, self._stop = demo, owner, tell, stop
        self._state = DemoState("training")
        self._shipped: ShippedSet = demo._data.shipped(SET)

    def play(self) -> DemoState:
        self._tell()
        adapter = self._train()
        example_rows = list(check_file(self._shipped.heldout).examples)
        rows = random.Random(7).sample(example_rows, min(ROWS, len(example_rows)))
        questions = [row.messages[-2].content for row in rows]
        self._set(phase="measuring", progress=0.6, seconds_left=None, adapter=adapter)
        self._measure(1, Side("base", self._shipped.system_prompt, name="Base + prompt"), questions)
        self._measure(2, Side(adapter, name="Fine-tuned, no prompt"), questions)
        self._set(phase="done", progress=1.0, seconds_left=None)
        return self._state

    def _train(self) -> str:
        training = self._demo._training
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
            if self._stop.wait(0.5):
                training.cancel(run, self._owner)
                raise CancelledError("The demo was stopped.")
        if view.state == "CANCELLED":
            raise CancelledError("The run was cancelled.")
        if view.state != "DONE" or view.adapter is None:
            raise PlaygroundError(view.error or "The run did not finish.")
        summary = view.summary
        self._step(0, "done", f"{summary['rows_used']} examples, {view.steps} steps, {summary['seconds']:.0f} s")
        return view.adapter

    def _measure(self, place: int, side: Side, questions: Sequence[str]) -> None:
        from playground.engine.request import Sampling

        check = parse_check(self._shipped.check)
        replies: list[Reply] = []
        started = time.monotonic()
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            for batch in self._demo._compare.ask_each(
                side, part, Sampling(max_tokens=MAX_TOKENS), self._owner, f"demo {self._owner}", "measure"
            ):
                if self._stop.is_set():
                    raise CancelledError("The demo was stopped.")
                seen = [*replies, *[reply for reply in batch if reply.done]]
            replies = seen
            if failed := next((reply.error for reply in replies if reply.error), ""):
                raise PlaygroundError(failed)
            passed = sum(check.passes(reply.text) for reply in replies)
            row = DemoRow(
                side.label, passed, len(replies), _mean(replies, "prompt_tokens"), _mean(replies, "completion_tokens"),
                (time.monotonic() - started) / len(replies),
            )  # fmt: skip
            self._set(
                table=(*self._state.table[: place - 1], row),
                progress=0.6 + 0.2 * (place - 1) + 0.2 * len(replies) / len(questions),
                seconds_left=(time.monotonic() - started) * (len(questions) - len(replies)) / len(replies) or None,
            )
            kept = "keep" if passed != 1 else "keeps"
            finished = len(replies) == len(questions)
            self._step(place, "done" if finished else "now", f"{passed} of {len(replies)} {kept} the format")

    def _step(self, place: int, state: str, detail: str) -> None:
        steps = list(self._state.steps)
        steps[place] = DemoStep(LABELS[place], state, detail)
        self._set(steps=tuple(steps))

    def _set(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        self._tell()

    def _tell(self) -> None:
        self._tell_to(self._state)


def _mean(replies: Sequence[Reply], name: str) -> float:
    return sum(getattr(reply, name) for reply in replies) / max(1, len(replies))
