"""What a person asks to have trained, how much time to give it, and what it may go on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from playground.data.example import WARNINGS
from playground.errors import InputError
from playground.library.adapters import AdapterCard
from playground.library.bases import BaseShapes
from playground.library.safety import unfit
from playground.methods import all_methods, get_method
from playground.methods.method import NO_OPTIONS, Options
from playground.training.spec import RunSettings, setting, settings_of, share, whole

_EPOCHS = setting(
    float,
    flag="--epochs",
    unit="times through the rows",
    bounds="it lies above 0 and at most 10000",
    allowed=lambda value: 0 < value <= 10_000,
    carried=False,
)
_ROWS_HELP = "learn from so many rows, drawn by the seed: more hold fewer, for a learning curve; default: all"
_ROWS = whole(1, 10_000_000, _ROWS_HELP, flag="--rows", metavar="N")
_VALIDATION = share("held back to choose by; default 0.1", flag="--validation", label="the validation share")
_TEST_HELP = "held back for the verdict; default: what it needs (68 rows), but 0.15 to 0.3, from 20 rows on"
_TEST = share(_TEST_HELP, flag="--test", label="the test share")
_GROUP = setting(str, "rows with the same value stay in one part", flag="--group", metavar="COLUMN")
_TIME = setting(str, "the newest rows by this column are the test part", flag="--time", metavar="COLUMN")
_LEAVE_OUT = setting(
    tuple, f"rows to leave out: {', '.join(WARNINGS)}", flag="--leave-out", metavar="KIND", choices=WARNINGS
)
_REWARDS = setting(
    tuple, "what grpo rewards; again for more, in equal parts", flag="--reward", metavar="CHECK|model=ID"
)
_DOCS_HELP = "a text (or a folder): its nearest passages stand in every question"
_DOCS = setting(Path, _DOCS_HELP, flag="--docs", metavar="FILE")


@dataclass(frozen=True)
class _Job:
    file: Path
    name: str = field(default="", metadata=setting(str, flag="--name", carried=False))


@dataclass(frozen=True)
class TrainRequest(RunSettings, _Job):
    """A run as a person asks for it; None = the method's default. file: the examples. mapping: role -> column, where
    corrected. rows: of the training part, None = all. validation, test: shares held back; None = a tenth, and for the
    verdict ``share_for_test`` (none where the file has a test part of its own). group_column, time_column: what the
    parts follow (``SplitBy``), "" = chance.
    turns: which assistant turns of a chat are learned, ``all`` or ``last``.
    leave_out: kinds of warnings whose rows are not trained on. options: the method's own, beyond rank and learning
    rate. rewards: for grpo, checks and ``model=ID``. start: id of an adapter whose weights the run begins with, "" = a
    new one. docs: a text whose nearest passages are put into every question. split_seed: what draws the parts that are
    held back; None = the seed. Raises InputError, with every fault at once, for numbers that no run can have."""

    base: str | None = None
    mapping: dict[str, str] | None = None
    owner: str = "local"
    options: Options = NO_OPTIONS
    epochs: float | None = field(default=None, metadata=_EPOCHS)
    rows: int | None = field(default=None, metadata=_ROWS)
    validation: float | None = field(default=None, metadata=_VALIDATION)
    test: float | None = field(default=None, metadata=_TEST)
    group_column: str = field(default="", metadata=_GROUP)
    time_column: str = field(default="", metadata=_TIME)
    leave_out: tuple[str, ...] = field(default=(), metadata=_LEAVE_OUT)
    rewards: tuple[str, ...] = field(default=(), metadata=_REWARDS)
    docs: Path | None = field(default=None, metadata=_DOCS)
    split_seed: int | None = None
    strict: bool = field(
        default=False, metadata=setting(bool, "refuse a file that has a bad row", flag="--strict", carried=False)
    )

    def seeded(self, many: int) -> list[TrainRequest]:
        """The same run by so many seeds from its own on, on the same rows: NAME, NAME-s2, ... Raises InputError."""
        if not 1 <= many <= SEEDS_MAX:
            raise InputError(f"Seeds go from 1 to {SEEDS_MAX}; {many} are asked for.")
        name, drawn = self.name.strip() or self.file.stem, self.seed if self.split_seed is None else self.split_seed
        more = range(1, many)
        return [
            self,
            *(replace(self, seed=self.seed + at, name=f"{name[:70]}-s{at + 1}", split_seed=drawn) for at in more),
        ]


SEEDS_MAX = 20
SETTINGS = settings_of(TrainRequest)
"""Every setting that a person has, by its name in ``TrainRequest``."""

QUICK_STEPS = 20
CONTENT_STEPS, CONTENT_MOST, CPU_MOST = 150, 2000, 500
"""After 24 steps (less than a pass) the default base has learned the form of reports and none of their content; after
150 (five passes) the content too. Of many rows fewer passes, but one at least."""
PASSES = {"sft": 5, "pretrain": 3}
"""Times through the rows that teach content; 1 for what learns from feedback."""
QUICK_S = 180.0
"""A Quick look takes no longer, by its estimate, and has fewer steps where it would."""
FEWEST_STEPS = 4
"""Of a Quick look: below that nothing is seen."""


@dataclass(frozen=True)
class Preset:
    """How much time to give a run. steps: optimiser steps."""

    name: str
    label: str
    steps: int


def content_steps(rows: float, batch_size: int = RunSettings.batch_size, objective: str = "sft") -> int:
    """Optimiser steps that teach what so many rows hold, not their form alone."""
    a_pass, fewest = math.ceil(rows / batch_size), CONTENT_STEPS if objective == "sft" else QUICK_STEPS
    return max(1, a_pass, min(max(PASSES.get(objective, 1) * a_pass, fewest), CONTENT_MOST))


def presets_for(rows: int, *, gpu: bool = False) -> list[Preset]:
    """Quick look, Good and Thorough: a fixed look, about 1.5 times through the data within reason, and what content
    takes; on a GPU that comes first."""
    good = min(max(2 * QUICK_STEPS, math.ceil(1.5 * rows / TrainRequest.batch_size)), 150)
    whole = content_steps(rows) if gpu else min(content_steps(rows), CPU_MOST)
    thorough = Preset("thorough", "Thorough: form and content", max(good, whole))
    quick, middle = Preset("quick", "Quick look: form only", QUICK_STEPS), Preset("good", "Good", good)
    return [thorough, quick, middle] if gpu else [quick, middle, thorough]


def within_reach(presets: Sequence[Preset], seconds: Callable[[int], float]) -> list[Preset]:
    """The presets for a file that is known. seconds: what a run of so many steps takes by its estimate, so much a step
    and what stands before the first. Where the first is no Quick look, they stay."""
    quick, *others = presets
    if quick.steps <= QUICK_STEPS and (whole := seconds(quick.steps)) > QUICK_S:
        one = seconds(1)
        a_step = (whole - one) / (quick.steps - 1)
        steps = int((QUICK_S - (one - a_step)) / a_step)
        quick = replace(quick, steps=min(max(FEWEST_STEPS, steps), quick.steps))
    return [quick, *others]


def goes_on_by(card: AdapterCard) -> str:
    """The method that trains an adapter further; QLoRA can do so with what it wrote as LoRA too."""
    known = all_methods().get(card.method)
    return (known and (known.goes_on_as or known.writes)) or card.method


def begins_with(request: TrainRequest, objective: str, card: AdapterCard, base: BaseShapes) -> AdapterCard:
    """The adapter that a run goes on from. Raises InputError, also where it was trained on another base."""
    faults, writes = [], get_method(request.method).writes or request.method
    by = goes_on_by(card)
    if card.objective == "reward" or objective == "reward":
        faults.append("reward models begin at the base, and nothing else begins with one")
    if by != writes:
        faults.append(f"it is {card.method} and the run {request.method}; choose --method {by}")
    if request.rank and card.rank and request.rank != card.rank:
        faults.append(f"its rank is {card.rank}, not {request.rank}; leave the rank out")
    if request.options.chosen():
        faults.append(f"{', '.join(request.options.chosen())} can only be set for a new adapter")
    if faults:
        raise InputError(f"A run cannot begin with {card.id}: {'; '.join(faults)}.")
    refuse_base(card, base, "begin with")
    return card


def refuse_base(card: AdapterCard, base: BaseShapes, what: str) -> None:
    if why := unfit(card, base, numbers=True):
        raise InputError(f"A run on this base cannot {what} {card.id}: {why}.")
