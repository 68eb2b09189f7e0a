"""A race before it is one: every method's run planned, and one message that names all that cannot run. And what a
race measures of an adapter that its run does not: whether replies keep the format, and what was forgotten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from playground.chat.batching import Asked, Batches, Written
from playground.data.example import Example, Message, Preference
from playground.data.render import ALL, encode, render_prompt
from playground.data.split import part
from playground.engine.request import Sampling
from playground.errors import InputError, PlaygroundError
from playground.evaluation.checks import parse_check
from playground.evaluation.forgetting import Forgetting
from playground.library.card import AdapterCard
from playground.methods import all_methods, get_method
from playground.models.bases import BaseService
from playground.runs.planner import Plan
from playground.runs.request import TrainRequest
from playground.training.spec import MAX_TOKENS, RunSpec
from playground.verdict.losses import ForgettingService
from playground.workspace.examples import DataService
from playground.workspace.visitors import LOCAL

RACERS = ("sft", "pretrain", "dpo", "kto", "orpo")
"""Objectives whose results write replies and need no reward beside the rows."""
SHARED = ("batch_size", "max_tokens", "seed", "mapping", "owner", "validation", "test", "turns", "leave_out")
"""What all runs of a race have in common."""


@dataclass(frozen=True)
class RaceRequest:
    """What a person asks for.

    methods: names, () = all. steps: of each method; or minutes: what each method may take, by its own estimate; neither
    = 20 steps. check: how replies are judged, () as in ``evaluation.checks``; "" = that of the shipped set, if the file
    is one. name: of the race, "" = the file's. The others are shared by all runs and as in ``TrainRequest``; learning
    rate and rank are each method's own.
    """

    file: Path
    methods: tuple[str, ...] = ()
    steps: int | None = None
    minutes: float | None = None
    check: str = ""
    name: str = ""
    objective: str = ""
    batch_size: int = 8
    max_tokens: int = MAX_TOKENS
    seed: int = 7
    mapping: dict[str, str] | None = None
    owner: str = "local"
    validation: float | None = None
    test: float | None = None
    turns: str = ALL
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise InputError("A race has one budget: steps or minutes, not both.")
        if self.minutes is not None and not 0 < self.minutes <= 24 * 60:
            raise InputError(f"The budget is {self.minutes:g} minutes a method; it lies above 0 and at most 1440.")
        if self.objective and self.objective not in RACERS:
            raise InputError(
                f"{self.objective} cannot be raced: it writes no replies, or needs a reward. A race takes "
                f"{', '.join(RACERS)}."
            )

    def run_of(self, method: str, steps: int | None) -> TrainRequest:
        """One method's run. It is scored once, at its end: what a race spends goes into training."""
        label = all_methods()[method].label
        name = f"{self.name.strip() or Path(self.file).stem} {label}"[:80]
        shared = {each: getattr(self, each) for each in SHARED}
        return TrainRequest(
            self.file, name, method, self.objective, steps=steps, save_steps=max(1, steps or 1), **shared
        )


@dataclass(frozen=True)
class Lane:
    """One method that can run."""

    request: TrainRequest
    plan: Plan


def chosen(methods: tuple[str, ...]) -> list[str]:
    """The methods in the order in which they run. Raises InputError for a name there is not, or one method alone."""
    there = list(all_methods())
    unknown = [name for name in methods if name not in there]
    if unknown:
        raise InputError(f"There is no method {', '.join(map(repr, unknown))}. There are: {', '.join(there)}.")
    names = [name for name in there if name in methods or not methods]
    if len(names) < 2:
        raise InputError("A race needs two methods or more. Choose another one, or train this one alone.")
    return sorted(
        names, key=lambda name: get_method(name).whole
    )  # it takes the most memory, and the others are known by then


def lanes(request: RaceRequest, plan: Callable[[TrainRequest], Plan]) -> list[Lane]:
    """Every method's run. plan: as ``TrainingService.plan``. Raises InputError that names every method which cannot
    run, and why."""
    names = chosen(request.methods)
    found: list[Lane] = []
    faults: dict[str, str] = {}
    for name in names:
        try:
            steps = request.steps if request.minutes is None else _fitting(request, name, plan)
            wanted = request.run_of(name, steps)
            if steps is None:
                wanted = replace(wanted, save_steps=plan(wanted).steps)
            planned = plan(wanted)
            if planned.blocked:
                raise InputError(planned.blocked)
            found.append(Lane(wanted, planned))
        except PlaygroundError as error:
            faults[name] = str(error)
    if not faults:
        return found
    if len(faults) == len(names) and len(set(faults.values())) == 1:  # the file, not the methods
        raise InputError(next(iter(faults.values())))
    words = " ".join(f"{all_methods()[name].label}: {why}" for name, why in faults.items())
    raise InputError(
        f"{len(faults)} of {len(names)} methods cannot run. {words} Leave them out, or change the settings."
    )


def _fitting(request: RaceRequest, method: str, plan: Callable[[TrainRequest], Plan]) -> int:
    """So many steps as fit the minutes, by the method's own estimate. Raises InputError where not one does."""
    one, many = (plan(request.run_of(method, steps)).seconds for steps in (1, 101))
    step = max(1e-6, (many - one) / 100)
    given = (request.minutes or 0.0) * 60
    steps = int((given - (one - step)) / step)
    if steps < 1:
        raise InputError(
            f"one step takes about {one / 60:.1f} minutes with loading, the budget is {request.minutes:g}."
        )
    return min(steps, 100_000)


ROWS = 16
"""Validation rows that are answered: enough to tell 0 from 16, little enough for two cores."""
SHORTEST, LONGEST = 32, 256
"""Tokens that a reply may take: a quarter more than the file's own answers need, within these."""

Tell = Callable[[str], None]


class Measuring:
    """``tell`` is called at every step; what it raises ends the measuring, and the device is free again."""

    def __init__(self, bases: BaseService, data: DataService, batches: Batches, forgetting: ForgettingService) -> None:
        self._bases, self._data, self._batches, self._forgetting = bases, data, batches, forgetting

    def adherence(
        self, card: AdapterCard | None, spec: RunSpec, check: str, session: str, tell: Tell
    ) -> tuple[int, int]:
        """(greedy replies to the run's validation rows that pass the check, of how many). card: None = the base."""
        asked, passes = self._prompts(spec), parse_check(check).passes
        if not asked:
            return 0, 0
        answer = min(LONGEST, max(SHORTEST, spec.answer_max * 5 // 4))
        context, tokenizer = self._bases.context(), self._bases.tokenizer()
        prompts = [render_prompt(tokenizer, messages) for messages in asked]
        if context is not None:
            before = card.virtual_tokens if card else 0
            answer = max(1, min(answer, context - before - max(len(encode(tokenizer, prompt)) for prompt in prompts)))
        rows = [Asked(card, prompt, Sampling(max_tokens=answer)) for prompt in prompts]
        written: list[Written] = []
        with closing(self._batches.run(rows, session, "measure")) as steps:
            for written in steps:
                if failure := next((one.failure for one in written if one.failure is not None), None):
                    raise failure
                tell(written[0].waiting or f"{sum(one.done for one in written)} of {len(rows)} replies")
        return sum(passes(one.state.text) for one in written), len(written)

    def forgot(self, card: AdapterCard, session: str, tell: Tell) -> dict[str, Any]:
        """``Forgetting`` as a record."""
        found: tuple[Forgetting, ...] = ()
        with closing(self._forgetting.measure([card], session)) as steps:
            for step in steps:
                found = step.found
                tell(step.waiting or f"what it forgot, {step.done} of {step.of}")
        return asdict(found[0])

    def _prompts(self, spec: RunSpec) -> list[tuple[Message, ...]]:
        """Of the run's validation rows; none of raw text, which asks nothing. Raises InputError."""
        checked = self._data.check(Path(spec.file), spec.mapping or None, LOCAL)
        rows = part(checked.usable, spec.split.get("validation", []))
        return [row.prompt for row in rows if isinstance(row, Example | Preference)][:ROWS]
