"""Races as values: what is asked, every method's run planned, the record (JSON in the database, which several processes
and a restart share), and the table that page, command line and docs show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from playground.db import RaceTable
from playground.errors import InputError, PlaygroundError
from playground.methods import all_methods, get_method
from playground.plain import size
from playground.report import charts
from playground.runs.planner import Plan
from playground.runs.request import TrainRequest

RACERS = ("sft", "pretrain", "dpo", "kto", "orpo")
"""Objectives whose results write replies and need no reward beside the rows."""


@dataclass(frozen=True)
class RaceRequest(TrainRequest):
    """What all runs of a race have in common, and: methods: names, () = all. minutes: what each method may take, by its
    own estimate, in place of ``steps``; neither = 20 steps. check: how replies are judged, as in ``evaluation.checks``;
    "" = that of the shipped set, if the file is one. name: of the race, "" = the file's. Learning rate and rank are
    each method's own. Raises InputError."""

    methods: tuple[str, ...] = ()
    minutes: float | None = None
    check: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.minutes is not None:
            raise InputError("A race has one budget: steps or minutes, not both.")
        if self.minutes is not None and not 0 < self.minutes <= 24 * 60:
            raise InputError(f"The budget is {self.minutes:g} minutes a method; it lies above 0 and at most 1440.")
        if self.objective and self.objective not in RACERS:
            why = f"{self.objective} cannot be raced: it writes no replies, or needs a reward."
            raise InputError(f"{why} A race takes {', '.join(RACERS)}.")

    def run_of(self, method: str, steps: int | None) -> TrainRequest:
        """One method's run. It is scored once, at its end: what a race spends goes into training."""
        values = {one.name: getattr(self, one.name) for one in fields(TrainRequest)}
        values["name"] = f"{self.name.strip() or Path(self.file).stem} {label(method)}"[:80]
        return TrainRequest(**values | {"method": method, "steps": steps, "save_steps": max(1, steps or 1)})


class Lane(NamedTuple):
    """One method that can run."""

    request: TrainRequest
    plan: Plan


def chosen(methods: tuple[str, ...]) -> list[str]:
    """In the order in which they run: whole models last, they take most memory. Raises InputError."""
    there = list(all_methods())
    if unknown := [name for name in methods if name not in there]:
        raise InputError(f"There is no method {', '.join(map(repr, unknown))}. There are: {', '.join(there)}.")
    names = [name for name in there if name in methods or not methods]
    if len(names) < 2:
        raise InputError("A race needs two methods or more. Choose another one, or train this one alone.")
    return sorted(names, key=lambda name: get_method(name).whole)


def lanes(request: RaceRequest, plan: Callable[[TrainRequest], Plan]) -> list[Lane]:
    """Every method's run. plan: as in TrainingService. Raises InputError that names every method which cannot run."""
    names, found, faults = chosen(request.methods), list[Lane](), dict[str, str]()
    for name in names:
        try:
            steps = request.steps if request.minutes is None else _fitting(request, name, plan)
            wanted = request.run_of(name, steps)
            if steps is None:
                wanted = replace(wanted, save_steps=plan(wanted).steps)
            found.append(Lane(wanted, plan(wanted)))
            if blocked := found[-1].plan.blocked:
                raise InputError(blocked)
        except PlaygroundError as error:
            faults[name] = str(error)
    if not faults:
        return found
    if len(faults) == len(names) and len(set(faults.values())) == 1:  # the file, not the methods
        raise InputError(next(iter(faults.values())))
    words = [f"{len(faults)} of {len(names)} methods cannot run."]
    words += [f"{label(name)}: {why}" for name, why in faults.items()]
    raise InputError(" ".join([*words, "Leave them out, or change the settings."]))


def _fitting(request: RaceRequest, method: str, plan: Callable[[TrainRequest], Plan]) -> int:
    """So many steps as fit the minutes, by the method's own estimate. Raises InputError where not one does."""
    one, many = (plan(request.run_of(method, steps)).seconds for steps in (1, 101))
    step = max(1e-6, (many - one) / 100)
    steps = int(((request.minutes or 0.0) * 60 - (one - step)) / step)
    if steps < 1:
        needed = f"one step takes about {one / 60:.1f} minutes with loading"
        raise InputError(f"{needed}, the budget is {request.minutes:g}.")
    return min(steps, 100_000)


SCHEMA = 1
RUNNING, MEASURING, DONE, CANCELLED = "RUNNING", "MEASURING", "DONE", "CANCELLED"
LIVE = (RUNNING, MEASURING)


@dataclass(frozen=True)
class Entry:
    """One method in a race. method: its name, "" = the base, for comparison. run: its run's id. lr: its learning rate,
    0 = unknown. planned_s: how long the run was thought to take. state, reason: how the run ended, and why where it was
    not well, or what could not be measured. adapter: what it made. figures: the run's summary, and bytes, of the
    adapter on disk. loss, eval_loss: (step, value). passed, asked: greedy replies on validation rows that keep the
    format, None = no check. forgot: ``Forgetting`` as a record. measured_s: what measuring took; None = not yet."""

    method: str
    run: str = ""
    steps: int = 0
    planned_s: float = 0.0
    state: str = ""
    reason: str = ""
    adapter: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    loss: list[list[float]] = field(default_factory=list)
    eval_loss: list[list[float]] = field(default_factory=list)
    passed: int | None = None
    asked: int = 0
    forgot: dict[str, Any] | None = None
    measured_s: float | None = None
    lr: float = 0.0

    @property
    def step(self) -> int:
        """The last one whose loss is known."""
        return int(self.loss[-1][0]) if self.loss else 0


@dataclass(frozen=True)
class Race:
    """file: the examples' name. check: as it was written, "" = none. steps, minutes: the budget of each method, one of
    them. state: RUNNING while its runs train, MEASURING, DONE or CANCELLED. message: what it is doing, in words."""

    race: str
    owner: str
    name: str
    file: str
    created_s: float
    state: str
    check: str
    steps: int | None
    minutes: float | None
    entries: tuple[Entry, ...]
    base: Entry = Entry("")
    message: str = ""
    schema: int = SCHEMA

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Race:
        """From its record; what it does not know is left out. Raises PlaygroundError for a newer schema."""
        if record.get("schema", SCHEMA) > SCHEMA:
            newer = f"was written by a newer version (schema {record['schema']}; this one knows {SCHEMA})"
            raise PlaygroundError(f"The race {record.get('race')} {newer}. Update.")
        values = _known(cls, record)
        values["entries"] = tuple(Entry(**_known(Entry, entry)) for entry in values["entries"])
        values["base"] = Entry(**_known(Entry, values.get("base", {"method": ""})))
        return cls(**values | {"schema": SCHEMA})


def _known(kind: type[Race] | type[Entry], record: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: record[one.name] for one in fields(kind) if one.name in record}


@dataclass(frozen=True)
class RaceView:
    """seconds_left: an estimate, None when it has ended. measured: methods that are done with, of ``of``."""

    race: Race
    seconds_left: float | None
    measured: int
    of: int

    @property
    def live(self) -> bool:
        return self.race.state in LIVE


class RaceStore(RaceTable):
    """The table of races, as ``Race`` values."""

    def add(self, race: Race) -> None:
        self.add_record(race.race, race.owner, race.created_s, asdict(race))

    def all(self) -> list[Race]:
        """Newest first."""
        return [Race.of(record) for record in self.records()]

    def change(self, race: str, change: Callable[[Race], Race]) -> Race:
        """Read, change and write in one transaction. Raises NotFoundError."""
        return Race.of(self.change_record(race, lambda record: asdict(change(Race.of(record)))))


HEAD = ["Method", "Rate", "Held-out loss", "Keeps the format", "Trained", "On disk", "Peak memory", "Seconds"]
HEAD += ["Tokens/s", "General text", "Questions", "Divergence"]
NOTES = (
    "Held-out loss: nats a token on the validation rows, lower is better. Keeps the format: greedy replies to "
    "validation rows that pass the check. What it forgot, against the base: loss on a general text (nats a token, "
    "above 0 is worse), general questions answered rightly, and how far its distribution has moved from the base's on "
    "that text (KL, nats a token)."
)
NONE = "–"


def label(method: str) -> str:
    """A method's name for a person; the base's own line has none."""
    known = all_methods().get(method)
    return known.label if known else "Base, untrained"


def cells(entry: Entry) -> list[str]:
    """One line under ``HEAD``. What is not known yet, or cannot be, is a dash."""
    figures, forgot = entry.figures, entry.forgot
    kept = [f"{entry.passed} of {entry.asked}" if entry.passed is not None else NONE]
    forgotten = [NONE] * 3
    if forgot:
        general = f"{round(forgot['loss_after'] - forgot['loss_before'], 2) + 0.0:+.2f}"  # + 0.0: no minus nought
        right = f"{forgot['right_after']} of {forgot['questions']}, was {forgot['right_before']}"
        forgotten = [general, right, _number(forgot.get("divergence"), ".2f")]
    trained = [_number(figures.get("trainable_params"), ",.0f")]
    trained += [NONE if (held := figures.get(name)) is None else size(held) for name in ("bytes", "peak_memory_bytes")]
    trained += [_number(figures.get(name), ".0f") for name in ("seconds", "tokens_per_s")]
    loss = [_number(entry.lr or None, "g"), _number(eval_loss(entry), ".3f")]
    return [label(entry.method), *loss, *kept, *trained, *forgotten]


def status(entry: Entry) -> str:
    """What stands under a method's name while its line is not whole: its state, or why it never will be."""
    if entry.reason or not entry.method:
        return entry.reason
    if entry.state in ("", "QUEUED"):
        return "waits"
    if entry.state in ("RUNNING", "STOPPING"):
        return f"step {entry.step} of {entry.steps}"
    return "" if entry.measured_s is not None else "trained, not measured yet"


def eval_loss(entry: Entry) -> float | None:
    """Of what the run kept; of a run without it, or the base, the newest measured."""
    known = entry.figures.get("eval_loss")
    if known is not None:
        return float(known)
    return float(entry.eval_loss[-1][1]) if entry.eval_loss and not entry.method else None


def picture(entries: Sequence[Entry], base: Entry, curves: bool) -> str:
    """As SVG: held-out loss by trained weights, or ``curves``, the training losses; "" with nothing to see."""
    if curves:
        runs = [(label(one.method), [(int(step), value) for step, value in one.loss]) for one in entries]
        words = "Training loss; lower is closer to your answers."
        return charts.overlay([run for run in runs if len(run[1]) > 1], words, 240)
    found = [(label(one.method), one.figures.get("trainable_params"), eval_loss(one)) for one in entries]
    dots = [charts.Dot(name, float(weights), loss) for name, weights, loss in found if weights and loss is not None]
    return charts.scatter(dots, eval_loss(base))


def text(view: RaceView) -> str:
    """The table in plain text, columns aligned, with what went wrong under it."""
    base, entries = view.race.base, view.race.entries
    lines = [HEAD, *([cells(base)] if base.eval_loss else []), *map(cells, entries)]
    first, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "  ".join([f"{{:<{first}}}", *(f"{{:>{width}}}" for width in widths)])
    shown = [form.format(*line).rstrip() for line in lines]
    return "\n".join([*shown, *(f"{label(entry.method)}: {status(entry)}" for entry in entries if status(entry))])


def record(view: RaceView) -> dict[str, Any]:
    """The race as JSON: what a script reads."""
    race, names = view.race, ("race", "name", "state", "file", "check", "steps", "minutes")
    measured = {"base": _record(race.base), "rows": [*map(_record, race.entries)]}
    return {name: getattr(race, name) for name in names} | measured


def _record(entry: Entry) -> dict[str, Any]:
    names = ("run", "state", "adapter", "steps", "lr", "reason") if entry.method else ("reason",)
    found = {name: getattr(entry, name) for name in (*names, "passed", "asked", "forgot")}
    return {"method": entry.method or "base"} | found | entry.figures | {"eval_loss": eval_loss(entry)}


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
