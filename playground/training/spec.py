"""A run's settings, each written down once with its help, flag, unit and bounds, and the run as its worker reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from playground.data.render import ALL, LAST
from playground.errors import InputError
from playground.methods.method import Options

SCHEMA = 1
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "sft": ("sft",),
    "pretrain": ("text",),
    "dpo": ("preference",),
    "kto": ("unpaired_preference", "preference"),
    "orpo": ("preference",),
    "reward": ("preference",),
    "grpo": ("sft",),
}
"""What can be trained -> what the file may hold, its own kind first. A kind's first objective is the default."""
TURNS = (ALL, LAST)
REWARD_MODEL = "model="
"""How a reward begins that is a trained reward model; any other is a check."""
MAX_TOKENS = 2048
"""The longest row unless a person says otherwise."""


@dataclass(frozen=True)
class Setting:
    """One setting of a run, for whatever shows or reads it: the command line, a settings file, the page, the checks.

    kind: str, int, float, bool, Path, or tuple for several texts. flag: on the command line, "" = none. metavar: what
    the flag takes. scale: the value in the flag's unit. label: its name in an error; bounds: what values there are, in
    words; allowed: whether a value is one of them. carried: a settings file and a recipe carry it. stated: a recipe
    names it even at its default."""

    kind: type
    help: str = ""
    flag: str = ""
    unit: str = ""
    metavar: str | None = None
    scale: float = 1.0
    choices: tuple[str, ...] = ()
    label: str = ""
    bounds: str = ""
    allowed: Callable[[Any], bool] = lambda value: True
    carried: bool = True
    stated: bool = False


def setting(kind: type, help: str = "", *, flag: str = "", **more: Any) -> dict[str, Setting]:
    """A dataclass field's metadata."""
    return {"setting": Setting(kind, help, flag, **more)}


def whole(low: int, high: int, help: str = "", **more: Any) -> dict[str, Setting]:
    """A whole number from ``low`` to ``high``."""
    bounds = f"it goes from {low} to {high}"
    return setting(int, help, bounds=bounds, allowed=lambda value: low <= value <= high, **more)


def share(help: str, **more: Any) -> dict[str, Setting]:
    """A share from 0 to below 1."""
    bounds = "it goes from 0 (none) to below 1, such as 0.1"
    return setting(float, help, unit="share", metavar="SHARE", bounds=bounds, allowed=lambda v: 0 <= v < 1, **more)


def settings_of(kind: type) -> dict[str, Setting]:
    """The settings of a dataclass, by name."""
    return {item.name: item.metadata["setting"] for item in fields(kind) if "setting" in item.metadata}


_RATE = setting(
    float,
    flag="--lr",
    unit="peak learning rate",
    label="the learning rate",
    bounds="it lies above 0 and at most 1, usually near 0.001 for LoRA",
    allowed=lambda value: 0 < value <= 1,
)
_MEMORY = setting(
    int,
    "the most that training may take; 0: what there is",
    flag="--memory-limit",
    unit="bytes",
    metavar="GB",
    scale=1e9,
    label="the memory limit",
    bounds="it takes a number of bytes, 0 = what there is",
    allowed=lambda value: value >= 0,
)
_TURNS = setting(
    str,
    "which answers of a chat are learned",
    flag="--turns",
    choices=TURNS,
    label="the choice of turns",
    bounds=f"there is {' and '.join(TURNS)}",
    allowed=lambda value: value in TURNS,
)
_STOP_HELP = "end after N checkpoints without a better held-out loss; 0: never"
_EARLY_STOP = whole(0, 1000, _STOP_HELP, flag="--early-stop", unit="checkpoints", metavar="N")


@dataclass(frozen=True)
class RunSettings:
    """What a run's request and its spec share; None, 0 or "" = the program decides. InputError tells every fault."""

    method: str = field(default="lora", metadata=setting(str, flag="--method", stated=True))
    objective: str = field(
        default="", metadata=setting(str, "default: what the file can train", flag="--objective", stated=True)
    )
    steps: int | None = field(default=None, metadata=whole(1, 100_000, unit="optimiser steps", flag="--steps"))
    lr: float | None = field(default=None, metadata=_RATE)
    rank: int | None = field(
        default=None, metadata=whole(1, 256, "rank, virtual tokens or width: what the method has", flag="--rank")
    )
    batch_size: int = field(default=8, metadata=whole(1, 1024, unit="rows a step", flag="--batch-size", stated=True))
    max_tokens: int = field(
        default=MAX_TOKENS, metadata=whole(16, 131_072, unit="tokens a row", flag="--max-tokens", stated=True)
    )
    seed: int = field(default=7, metadata=whole(0, 2**32 - 1, flag="--seed", stated=True))
    save_steps: int = field(
        default=10, metadata=whole(1, 100_000, unit="steps between checkpoints", flag="--save-steps", stated=True)
    )
    limit_memory_bytes: int = field(default=0, metadata=_MEMORY)
    turns: str = field(default=ALL, metadata=_TURNS)
    start: str = field(
        default="", metadata=setting(str, "begin with this adapter's weights", flag="--from", metavar="ID")
    )
    early_stop: int = field(default=0, metadata=_EARLY_STOP)

    def __post_init__(self) -> None:
        refuse(self.faults())

    def faults(self) -> list[str]:
        """What is wrong with the values, each as a part of a sentence."""
        return [
            f"{one.label or name.replace('_', ' ')} is {value}; {one.bounds}"
            for name, one in settings_of(type(self)).items()
            if (value := getattr(self, name)) is not None and not one.allowed(value)
        ]


def refuse(faults: list[str]) -> None:
    """Raise InputError with all faults in one sentence, if there are any."""
    if faults:
        text = "; ".join(faults)
        raise InputError(f"{text[0].upper()}{text[1:]}.")


@dataclass(frozen=True, kw_only=True)
class RunSpec(RunSettings):
    """One training run with everything decided; rank 0 = the method has none. Written as run.json.

    run: its id. name: what the adapter will be called. base: as the person named it; base_path: the folder on disk.
    file: the examples, a copy under the home folder. mapping: role -> column, empty = guess. options: see ``Options``.
    limit_bytes: largest file that is read. adapters_dir: where the finished adapter is published. disk_bytes: what it
    writes, about. rows, tokens_p95, answer_max: what the estimate was made from, for naming a smaller setting; 0 =
    unknown. split: row numbers held back for ``validation`` and ``test``, how many are left to ``train`` on, and the
    ``seed`` that drew them; empty = the worker draws a validation part. left_out: rows that the person does not want
    trained on. rewards: what ``grpo`` is rewarded by: checks, and ``model=ID`` for a reward model. reward_files: the
    paths these name, by reward. start, start_path: the adapter whose weights the run begins with, "" = a new one.
    docs: name of the documents whose passages stand in every question, "" = none; docs_path: the run's copy of them."""

    run: str
    name: str
    base: str
    base_path: str
    base_fingerprint: str
    file: str
    data: str
    adapters_dir: str
    shipped_dir: str
    method: str
    objective: str = "sft"
    steps: int = field(metadata=whole(1, 100_000))
    lr: float = field(metadata=_RATE)
    rank: int = field(metadata=whole(0, 256))
    owner: str = "local"
    created_s: float = 0.0
    mapping: dict[str, str] = field(default_factory=dict)
    limit_bytes: int = 256 * 1024 * 1024
    estimated_memory_bytes: int = 0
    estimated_seconds: float = 0.0
    disk_bytes: int = 0
    rows: int = 0
    tokens_p95: int = 0
    answer_max: int = 0
    split: dict[str, Any] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    rewards: list[str] = field(default_factory=list)
    reward_files: dict[str, str] = field(default_factory=dict)
    start_path: str = ""
    docs: str = ""
    docs_path: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def faults(self) -> list[str]:
        faults = []
        if self.objective not in OBJECTIVES:
            faults.append(f"the objective {self.objective!r} cannot be trained yet; there is {', '.join(OBJECTIVES)}")
        if self.objective == "grpo" and not self.rewards:
            faults.append("grpo needs a reward: a check such as contains:TEXT, or a reward model")
        if self.rewards and self.objective != "grpo":
            faults.append(f"{self.objective} learns from its rows and takes no reward; grpo does")
        try:
            Options.of(self.options)
        except InputError as error:
            faults.append(str(error).rstrip("."))
        return [*super().faults(), *faults]

    @property
    def reward_models(self) -> int:
        """How many of the rewards are trained models."""
        return sum(name.startswith(REWARD_MODEL) for name in self.rewards)

    @property
    def method_options(self) -> Options:
        return Options.of(self.options)

    def write(self, run_dir: Path) -> None:
        """Write run.json whole or not at all."""
        partial = run_dir / "run.json.tmp"
        partial.write_text(json.dumps(asdict(self), indent=1))
        os.replace(partial, run_dir / "run.json")

    @classmethod
    def read(cls, run_dir: Path) -> RunSpec:
        """Read run.json, ignoring keys of a newer schema. Raises InputError if it is missing or damaged."""
        try:
            record: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
            known = {item.name for item in fields(cls)}
            return cls(**{key: value for key, value in record.items() if key in known})
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{run_dir / 'run.json'} cannot be read ({error}). Start the run again.") from error
