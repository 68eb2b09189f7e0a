"""A race before it is one: every method's run planned, and one message that names all that cannot run. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from playground.data.render import ALL
from playground.errors import InputError, PlaygroundError
from playground.methods import all_methods
from playground.services.planning import Plan
from playground.services.train_request import MAX_TOKENS, TrainRequest

RACERS = ("sft", "pretrain", "dpo", "kto", "orpo")
"""Objectives whose results write replies and need no reward beside the rows."""
LAST = "full"
"""The method that runs last: it takes the most memory and time, and the others are known by then."""


@dataclass(frozen=True)
class RaceRequest:
    """What a person asks for.

    methods: names, () = all. steps: of each method; or minutes: what each method may take, by its own estimate; neither = 20 steps.
    check: how replies are judged, () as in ``evaluation.checks``; "" = that of the shipped set, if the file is one. name: of the race,
    "" = the file's. The others are shared by all runs and as in ``TrainRequest``; learning rate and rank are each method's own.
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
                f"{self.objective} cannot be raced: it writes no replies, or needs a reward. A race takes {', '.join(RACERS)}."
            )

    def run_of(self, method: str, steps: int | None) -> TrainRequest:
        """One method's run. It is scored once, at its end: what a race spends goes into training."""
        label = all_methods()[method].label
        return TrainRequest(
            self.file, f"{self.name.strip() or Path(self.file).stem} {label}"[:80], method, self.objective, steps=steps,
            batch_size=self.batch_size, max_tokens=self.max_tokens, seed=self.seed, save_steps=max(1, steps or 1), mapping=self.mapping,
            owner=self.owner, validation=self.validation, test=self.test, turns=self.turns, leave_out=self.leave_out,
        )  # fmt: skip


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
    return sorted(names, key=lambda name: name == LAST)


def lanes(request: RaceRequest, plan: Callable[[TrainRequest], Plan]) -> list[Lane]:
    """Every method's run. plan: as ``TrainingService.plan``. Raises InputError that names every method which cannot run, and why."""
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
    raise InputError(f"{len(faults)} of {len(names)} methods cannot run. {words} Leave them out, or change the settings.")


def _fitting(request: RaceRequest, method: str, plan: Callable[[TrainRequest], Plan]) -> int:
    """So many steps as fit the minutes, by the method's own estimate. Raises InputError where not one does."""
    one, many = (plan(request.run_of(method, steps)).seconds for steps in (1, 101))
    step = max(1e-6, (many - one) / 100)
    given = (request.minutes or 0.0) * 60
    steps = int((given - (one - step)) / step)
    if steps < 1:
        raise InputError(f"one step takes about {one / 60:.1f} minutes with loading, the budget is {request.minutes:g}.")
    return min(steps, 100_000)
