"""What a person asks to be judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from playground.engine.request import Sampling
from playground.errors import InputError
from playground.evaluation.checks import parse_checks, schema_file
from playground.evaluation.cost import Prices
from playground.evaluation.questions import Questions
from playground.services.sides import Side, side_as_json, side_from

SIDES_MAX = 12
REPEATS_MAX = 20
VERDICT, BENCH = "verdict", "bench"
"""What it is measured for: to judge by, or to choose a prompt by (services/bench.py)."""
REPEAT_TEMPERATURE = 0.7
"""Repeats are drawn at least this freely: greedy ones would always agree."""


@dataclass(frozen=True)
class VerdictRequest:
    """file: the examples. rows: numbers of those to use, None = all. limit: at most so many of them, the first ones.

    examples: where shots come from, None = the other rows of the file. checks: as written. repeats: 1 = one reply an example; above,
    so many sampled ones beside it. losses: score the references. forgetting: measure what tuned sides forgot.
    refusals: ask sides with documents what these cannot answer. mapping: role -> column.
    tried: how the prompt was found, in words. name: for a person. purpose: a bench is left out of the list of verdicts, and nothing is
    timed. Raises InputError that names every fault.
    """

    file: Path
    sides: tuple[Side, ...]
    checks: tuple[str, ...] = ()
    rows: tuple[int, ...] | None = None
    examples: Path | None = None
    repeats: int = 1
    limit: int | None = None
    max_tokens: int = 96
    temperature: float = 0.0
    seed: int = 7
    mapping: Mapping[str, str] | None = None
    name: str = ""
    owner: str = "local"
    questions: Questions = field(default_factory=Questions)
    prices: Prices = field(default_factory=Prices)
    losses: bool = True
    forgetting: bool = True
    refusals: bool = True
    tried: str = ""
    purpose: str = VERDICT

    def __post_init__(self) -> None:
        labels = [side.label for side in self.sides]
        faults = [
            said
            for wrong, said in (
                (not 1 <= len(self.sides) <= SIDES_MAX, f"A verdict has 1 to {SIDES_MAX} sides; this one has {len(self.sides)}."),
                (len(set(labels)) < len(labels), f"Two sides are called the same ({', '.join(labels)}). Give one another name."),
                (not 1 <= self.repeats <= REPEATS_MAX, f"Repeats go from 1 to {REPEATS_MAX}; {self.repeats} are asked for."),
                (self.purpose not in (VERDICT, BENCH), f"{self.purpose!r} is no purpose. There are: {VERDICT}, {BENCH}."),
                (self.limit is not None and self.limit < 1, f"The limit of rows is {self.limit}; it is at least 1."),
            )
            if wrong
        ]
        try:
            parse_checks([check for check in self.checks if schema_file(check) is None])  # files are opened by who may
        except InputError as error:
            faults.append(str(error))
        if faults:
            raise InputError(" ".join(faults))
        self.sampling()  # raises what is wrong with it

    def sampling(self, repeat: int = 0) -> Sampling:
        """How the main reply (0) or a repeat (1 ...) is drawn."""
        temperature = max(self.temperature, REPEAT_TEMPERATURE) if repeat else self.temperature
        return Sampling(temperature=temperature, max_tokens=self.max_tokens, seed=self.seed + repeat)

    @property
    def replies_each(self) -> int:
        """Replies of one side to one example: the main one, and its repeats."""
        return 1 if self.repeats == 1 else 1 + self.repeats

    def as_json(self) -> dict[str, Any]:
        """As one process tells another, and as it is kept."""
        paths = {name: str(path.resolve()) if (path := getattr(self, name)) else None for name in ("file", "examples")}
        sides = [side_as_json(side) for side in self.sides]
        return {**asdict(self), **paths, "sides": sides, "mapping": dict(self.mapping) if self.mapping else None}


def request_from(said: Mapping[str, Any]) -> VerdictRequest:
    """What ``as_json`` told. Raises InputError, KeyError or TypeError."""
    made = dict(said)
    made["file"], made["examples"] = Path(said["file"]), Path(said["examples"]) if said.get("examples") else None
    made["sides"] = tuple(side_from(side) for side in said["sides"])
    made["checks"] = tuple(said.get("checks", ()))
    made["rows"] = tuple(said["rows"]) if said.get("rows") is not None else None
    made["questions"], made["prices"] = Questions(**said.get("questions", {})), Prices(**said.get("prices", {}))
    return VerdictRequest(**made)


def named(request: VerdictRequest) -> VerdictRequest:
    """The same with a name, made from its file."""
    return request if request.name.strip() else replace(request, name=request.file.stem)
