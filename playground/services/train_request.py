"""What a person asks to have trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from playground.data.render import ALL
from playground.errors import InputError
from playground.methods.options import NO_OPTIONS, Options

MAX_TOKENS = 2048
"""The longest row unless a person says otherwise."""
WITHIN = {
    "steps": (1, 100_000),
    "rank": (1, 256),
    "batch_size": (1, 1024),
    "max_tokens": (16, 131_072),
    "seed": (0, 2**32 - 1),
    "save_steps": (1, 100_000),
    "early_stop": (0, 1000),
}
"""Whole numbers of a request: the least and the most."""
MOST_EPOCHS = 10_000


@dataclass(frozen=True)
class TrainRequest:
    """What a person asks for; None = the method's default. file: the examples. mapping: role -> column, where corrected.

    objective: "" = what the file can train. limit_memory_bytes: the most that the training process may take, 0 = what there is.
    validation, test: shares held back; None = a tenth, and for the verdict about a seventh (none where the file has a test part of its own).
    turns: which assistant turns of a chat are learned, ``all`` or ``last``. leave_out: kinds of warnings whose rows are not trained on.
    options: what the method is told beyond rank and learning rate.
    rewards: for grpo, checks and ``model=ID``. start: id of an adapter whose weights the run begins with, "" = a new one.
    early_stop: end after so many checkpoints without a better held-out loss, 0 = never.
    docs: a text whose nearest passages are put into every question.
    Raises InputError, with every fault at once, for numbers that no run can have.
    """

    file: Path
    name: str = ""
    method: str = "lora"
    objective: str = ""
    base: str | None = None
    steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    rank: int | None = None
    batch_size: int = 8
    max_tokens: int = MAX_TOKENS
    seed: int = 7
    save_steps: int = 10
    mapping: dict[str, str] | None = None
    strict: bool = False
    owner: str = "local"
    limit_memory_bytes: int = 0
    validation: float | None = None
    test: float | None = None
    turns: str = ALL
    leave_out: tuple[str, ...] = ()
    options: Options = NO_OPTIONS
    rewards: tuple[str, ...] = ()
    start: str = ""
    early_stop: int = 0
    docs: Path | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name.replace('_', ' ')} is {value}; it goes from {low} to {high}"
            for name, (low, high) in WITHIN.items()
            if (value := getattr(self, name)) is not None and not low <= value <= high
        ]
        if self.epochs is not None and not 0 < self.epochs <= MOST_EPOCHS:
            faults.append(f"epochs is {self.epochs}; it lies above 0 and at most {MOST_EPOCHS}")
        if self.lr is not None and not 0 < self.lr <= 1:
            faults.append(f"the learning rate is {self.lr}; it lies above 0 and at most 1, usually near 0.001 for LoRA")
        faults += [
            f"the {name} share is {share}; it goes from 0 (none) to below 1, such as 0.1"
            for name, share in (("validation", self.validation), ("test", self.test))
            if share is not None and not 0 <= share < 1
        ]
        if self.limit_memory_bytes < 0:
            faults.append(f"the memory limit is {self.limit_memory_bytes}; it takes a number of bytes, 0 = what there is")
        if faults:
            text = "; ".join(faults)
            raise InputError(text[0].upper() + text[1:] + ".")
