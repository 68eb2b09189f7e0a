"""What a run is to do: one frozen value, checked when built, written as run.json before the worker starts."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from playground.data.render import ALL, LAST
from playground.errors import InputError
from playground.methods.options import Options

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
"""What can be trained -> what the file may hold, its own kind first. Of a kind, the first objective is the one that is meant unless
a person says otherwise."""
TURNS = (ALL, LAST)
REWARD_MODEL = "model="
"""How a reward begins that is a trained reward model; any other is a check."""


@dataclass(frozen=True)
class RunSpec:
    """One training run.

    run: its id. name: what the adapter will be called. base: as the person named it; base_path: the folder on disk.
    file: the examples, a copy under the home folder. mapping: role -> column, empty = guess.
    steps, lr, rank, batch_size: optimiser steps, peak learning rate, the method's rank (0 = it has none), rows a step.
    options: what the method was told beyond that, by name; see ``Options``.
    max_tokens: longest row, prompt and answer together. save_steps: steps between checkpoints.
    limit_bytes: largest file that is read. adapters_dir: where the finished adapter is published.
    estimated_memory_bytes: the reservation made beforehand. estimated_seconds: how long it was thought to take.
    disk_bytes: what it writes, about. limit_memory_bytes: the most that the worker may take, 0 = what there is.
    rows, tokens_p95, answer_max: what the estimate was made from, for naming a smaller setting; 0 = unknown.
    turns: ``all`` learns every assistant turn of a chat, ``last`` the last alone.
    split: row numbers held back for ``validation`` and ``test``, how many are left to ``train`` on, and the ``seed`` that drew them;
        empty = the worker draws a validation part. left_out: rows that the person does not want trained on.
    rewards: what ``grpo`` is rewarded by: checks, and ``model=ID`` for a reward model. reward_files: the paths these name, by reward.
    start, start_path: the adapter whose weights the run begins with, "" = a new one.
    early_stop: end after so many checkpoints without a better held-out loss, 0 = never.
    docs: name of the documents whose passages stand in every question, "" = none; docs_path: the run's copy of them.
    """

    run: str
    name: str
    method: str
    base: str
    base_path: str
    base_fingerprint: str
    file: str
    data: str
    adapters_dir: str
    shipped_dir: str
    steps: int
    lr: float
    rank: int
    objective: str = "sft"
    batch_size: int = 8
    max_tokens: int = 2048
    seed: int = 7
    save_steps: int = 10
    owner: str = "local"
    created_s: float = 0.0
    mapping: dict[str, str] = field(default_factory=dict)
    limit_bytes: int = 256 * 1024 * 1024
    estimated_memory_bytes: int = 0
    estimated_seconds: float = 0.0
    disk_bytes: int = 0
    limit_memory_bytes: int = 0
    rows: int = 0
    tokens_p95: int = 0
    answer_max: int = 0
    turns: str = ALL
    split: dict[str, Any] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    rewards: list[str] = field(default_factory=list)
    reward_files: dict[str, str] = field(default_factory=dict)
    start: str = ""
    start_path: str = ""
    early_stop: int = 0
    docs: str = ""
    docs_path: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        faults = []
        if self.objective not in OBJECTIVES:
            faults.append(f"the objective {self.objective!r} cannot be trained yet; there is {', '.join(OBJECTIVES)}")
        if self.turns not in TURNS:
            faults.append(f"the turns to learn are {self.turns!r}; there is {' and '.join(TURNS)}")
        for name, low, high in (
            ("steps", 1, 100_000),
            ("batch_size", 1, 1024),
            ("max_tokens", 16, 131_072),
            ("save_steps", 1, 100_000),
            ("rank", 0, 256),
            ("early_stop", 0, 1000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                faults.append(f"{name.replace('_', ' ')} is {value}; it goes from {low} to {high}")
        if self.objective == "grpo" and not self.rewards:
            faults.append("grpo needs a reward: a check such as contains:TEXT, or a reward model")
        if self.rewards and self.objective != "grpo":
            faults.append(f"{self.objective} learns from its rows and takes no reward; grpo does")
        if self.limit_memory_bytes < 0:
            faults.append(f"the memory limit is {self.limit_memory_bytes}; it takes a number of bytes, 0 = what there is")
        try:
            Options.of(self.options)
        except InputError as error:
            faults.append(str(error).rstrip("."))
        if not 0 < self.lr <= 1:
            faults.append(f"the learning rate is {self.lr}; it lies above 0 and at most 1, usually near 0.001 for LoRA")
        if faults:
            text = "; ".join(faults)
            raise InputError(text[0].upper() + text[1:] + ".")

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
