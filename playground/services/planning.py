"""What a run will be, before it is one: settings completed, checked against the file, estimated, compared with what there is."""

from __future__ import annotations

import math
import shutil
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from playground.data.example import Checked
from playground.data.render import encode
from playground.errors import InputError
from playground.gpu.manager import DeviceManager
from playground.library.base_shapes import BaseShapes
from playground.methods import all_methods, get_method
from playground.methods.method import Method, Shapes
from playground.services import processes
from playground.services.bases import BaseService
from playground.services.data import DataService
from playground.services.quota import Quota
from playground.services.runner import Workers
from playground.services.store import RunStore
from playground.settings import Settings
from playground.training.estimate import Estimate, estimate
from playground.training.failure import size_words
from playground.training.smaller import smaller, smallest_bytes
from playground.training.spec import OBJECTIVES, RunSpec

QUICK_STEPS = 20
DISK_FACTOR = 4
"""What a run writes, in sizes of its result: the adapter, and checkpoints that hold two moments a weight beside it."""

ANSWERS = 200
"""So many answers are measured for an estimate."""
REMEMBERED = 8


@dataclass(frozen=True)
class TrainRequest:
    """What a person asks for; None = the method's default. file: the examples. mapping: role -> column, where corrected.

    limit_memory_bytes: the most that the training process may take, 0 = what there is.
    """

    file: Path
    name: str = ""
    method: str = "lora"
    objective: str = "sft"
    base: str | None = None
    steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    rank: int | None = None
    batch_size: int = 8
    max_tokens: int = 2048
    seed: int = 7
    save_steps: int = 10
    mapping: dict[str, str] | None = None
    strict: bool = False
    owner: str = "local"
    limit_memory_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run will be: counts of weights and rows, seconds, bytes. blocked: why it cannot start, "" if it can."""

    trainable_params: int
    total_params: int
    seconds: float
    memory_bytes: int
    free_bytes: int
    disk_bytes: int
    rows: int
    steps: int
    lr: float
    rank: int
    blocked: str = ""


@dataclass(frozen=True)
class Preset:
    """How much time to give a run. steps: optimiser steps."""

    name: str
    label: str
    steps: int


class Planner:
    """Answers what a run needs and what it should be; starts nothing."""

    def __init__(
        self, settings: Settings, manager: DeviceManager, bases: BaseService, data: DataService, store: RunStore,
        quota: Quota | None = None, workers: Workers = processes,
    ) -> None:  # fmt: skip
        self._settings, self._manager, self._bases, self._data, self._store = settings, manager, bases, data, store
        self._quota, self._workers = quota, workers
        self._answers: dict[int, tuple[Checked, int]] = {}
        self._measuring = threading.Lock()

    def methods(self) -> list[Method]:
        return list(all_methods().values())

    def presets(self, rows: int, batch_size: int = 8) -> list[Preset]:
        """Quick look, Good and Thorough: a fixed look, then two and four times through the data, within reason."""
        good = min(max(2 * QUICK_STEPS, math.ceil(1.5 * rows / batch_size)), 150)
        thorough = min(max(2 * good, math.ceil(4 * rows / batch_size)), 500)
        return [
            Preset("quick", "Quick look", QUICK_STEPS),
            Preset("good", "Good", good),
            Preset("thorough", "Thorough", thorough),
        ]

    def plan(self, request: TrainRequest) -> Plan:
        """What the run will need and whether it can start. Raises InputError for a file or a setting that cannot be used."""
        method, checked, steps = self.settled(request)
        needs = self._estimate(request, method, checked, steps)
        blocked = ""
        budget = self._manager.budget_bytes
        if needs.memory_bytes > budget:
            blocked = f"{method.label} needs {needs.memory_bytes / 1e9:.1f} GB; the budget is {budget / 1e9:.1f} GB. "
            blocked += "Choose LoRA." if method.rank is None else "Choose a smaller batch."
        self._settings.home.mkdir(parents=True, exist_ok=True)
        free_disk = shutil.disk_usage(self._settings.home).free
        if needs.disk_bytes * DISK_FACTOR > free_disk:
            writes = needs.disk_bytes * DISK_FACTOR
            blocked = f"The run writes about {size_words(writes)}; {size_words(free_disk)} of disk are free. Free some space."
        if self._quota is not None:
            blocked = blocked or self._quota.run_refused(request.owner, needs.disk_bytes * DISK_FACTOR)
        blocked = blocked or self._workers.refused(needs.seconds)
        return Plan(
            needs.trainable_params, needs.total_params, needs.seconds, needs.memory_bytes, self._manager.free_bytes,
            needs.disk_bytes, len(checked.examples), steps, request.lr or method.learning_rate, _rank(request, method), blocked,
        )  # fmt: skip

    def spec(self, request: TrainRequest, plan: Plan, run: str, file: Path, now_s: float) -> RunSpec:
        """The whole run in one value. file: the copy of the examples that belongs to it. Raises InputError."""
        base = self._bases.resolve()
        _, checked, _ = self.settled(request)
        longest, answers = self._longest(checked, request)
        return RunSpec(
            run=run, name=(request.name.strip() or Path(request.file).stem)[:80], method=request.method, objective=request.objective,
            base=base.id, base_path=str(base.path), base_fingerprint=base.fingerprint, file=str(file), data=Path(request.file).name,
            adapters_dir=str(self._settings.adapters_dir), shipped_dir=str(self._settings.shipped_adapters_dir),
            steps=plan.steps, lr=plan.lr, rank=plan.rank, batch_size=request.batch_size, max_tokens=request.max_tokens,
            seed=request.seed, save_steps=request.save_steps, owner=request.owner, created_s=now_s,
            mapping=dict(request.mapping or {}), limit_bytes=self._settings.upload_limit_bytes,
            estimated_memory_bytes=plan.memory_bytes, estimated_seconds=plan.seconds, disk_bytes=plan.disk_bytes * DISK_FACTOR,
            limit_memory_bytes=request.limit_memory_bytes, rows=plan.rows, tokens_p95=longest, answer_max=answers,
        )  # fmt: skip

    def remedy(self, spec: RunSpec) -> tuple[str, dict[str, object]]:
        """For a run whose memory ran out: a sentence that names a smaller setting which should fit, and that setting. Raises
        PlaygroundError where the base cannot be read."""
        shapes = trainable_shapes(BaseShapes.from_folder(Path(spec.base_path)))
        there = spec.limit_memory_bytes or min(self._manager.budget_bytes, self._manager.device.free_bytes)
        if (setting := smaller(spec, shapes, there)) is not None:
            return setting.words(spec), {"smaller": asdict(setting)}
        needs = smallest_bytes(spec, shapes)
        return (
            f"Even the smallest setting needs about {needs / 1e9:.1f} GB; {there / 1e9:.1f} GB are there. Choose a smaller base.",
            {},
        )

    def settled(self, request: TrainRequest) -> tuple[Method, Checked, int]:
        """The method, the checked file, and how many steps. Raises InputError."""
        method = get_method(request.method)
        if request.objective not in OBJECTIVES:
            raise InputError(f"The objective {request.objective!r} cannot be trained yet. There is: {', '.join(OBJECTIVES)}.")
        if request.base is not None and request.base != self._bases.spec:
            raise InputError(f"The base in use is {self._bases.spec}. Choose {request.base} as the base first.")
        checked = self._data.check(request.file, request.mapping, request.owner)
        if checked.objective != "sft":
            kind = checked.objective.replace("_", " ")
            raise InputError(
                f"{Path(request.file).name} holds {kind} rows. Supervised training needs a column of prompts and one of answers."
            )
        if request.steps is not None:
            return method, checked, request.steps
        if request.epochs is not None:
            return method, checked, max(1, math.ceil(request.epochs * len(checked.examples) / request.batch_size))
        return method, checked, QUICK_STEPS

    def _estimate(self, request: TrainRequest, method: Method, checked: Checked, steps: int) -> Estimate:
        tokens = self._data.tokens(checked, request.max_tokens)
        longest, answers = self._longest(checked, request)
        measured = [
            row.summary.get("tokens_per_s") for row in self._store.all() if row.method == method.name and row.state == "DONE"
        ]
        return estimate(
            self._bases.weights(), method, rank=_rank(request, method), steps=steps, batch_size=request.batch_size,
            tokens_p95=longest, tokens_mean=float(tokens.median), answer_max=answers,
            tokens_per_s=next((float(speed) for speed in measured if speed), self._workers.tokens_per_s),
        )  # fmt: skip

    def _longest(self, checked: Checked, request: TrainRequest) -> tuple[int, int]:
        """Tokens of a long row, and of a long answer: of 95 in a hundred none is longer. Answers are judged by the first rows."""
        longest = min(self._data.tokens(checked, request.max_tokens).p95, request.max_tokens)
        with self._measuring:
            known = self._answers.get(id(checked))
            if known is None or known[0] is not checked:
                tokenizer = self._bases.tokenizer()
                lengths = sorted(len(encode(tokenizer, one.completion)) + 2 for one in checked.examples[:ANSWERS])
                known = self._answers[id(checked)] = (checked, lengths[int(0.95 * (len(lengths) - 1))])
                if len(self._answers) > REMEMBERED:
                    del self._answers[next(iter(self._answers))]
        return longest, min(known[1], longest)


def trainable_shapes(base: BaseShapes) -> Shapes:
    """Shapes of the weights there are to train: a head tied to the embeddings is counted once."""
    tied = base.config.get("tie_word_embeddings", True)
    return {name: shape for name, shape in base.shapes.items() if not (tied and name == "lm_head.weight")}


def _rank(request: TrainRequest, method: Method) -> int:
    return 0 if method.rank is None else (request.rank or method.rank)
