"""What a run will be, before it is one: settings completed, checked against the file, estimated, compared with what there is."""

from __future__ import annotations

import math
import shutil
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from playground.data.example import Checked, Judged, Passage, Preference
from playground.data.render import ALL, encode
from playground.data.split import VALIDATION, Parts, Row, split
from playground.errors import InputError
from playground.gpu.device import CudaDevice
from playground.gpu.manager import DeviceManager
from playground.library.adapters import AdapterLibrary
from playground.library.base_shapes import BaseShapes
from playground.library.card import AdapterCard
from playground.methods import all_methods, get_method
from playground.methods.exceptions import check_pair
from playground.methods.method import Method
from playground.methods.shapes import Shapes
from playground.services import processes
from playground.services.bases import BaseService
from playground.services.beginnings import begins_with, rewarded_by
from playground.services.data import DataService
from playground.services.presets import QUICK_STEPS
from playground.services.quota import Quota
from playground.services.runner import Workers
from playground.services.store import RunStore
from playground.services.train_request import MAX_TOKENS, TrainRequest
from playground.settings import Settings
from playground.training.cost import RATES, needs, reply_tokens
from playground.training.estimate import Estimate
from playground.training.failure import size_words
from playground.training.families import written_out
from playground.training.smaller import smaller, smallest_bytes
from playground.training.spec import OBJECTIVES, REWARD_MODEL, RunSpec

DISK_FACTOR = 4
"""What a run writes, in sizes of its result: the adapter, and checkpoints that hold two moments a weight beside it."""

PACKED_TOKENS = 256
"""The longest row of raw text, which fills every row up to it, unless a person says otherwise."""
ANSWERS = 200
"""So many answers are measured for an estimate."""
REMEMBERED = 8


@dataclass(frozen=True)
class Plan:
    """What a run will be: counts of weights and rows (rows: learned from), seconds, bytes. blocked: why it cannot start, "" if it can."""

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
    validation_rows: int = 0
    test_rows: int = 0


@dataclass(frozen=True)
class Settled:
    """A request with everything decided. left_out: rows that the person does not want trained on. rewards: name -> the file it names,
    "" for none. start: the adapter that the run begins with."""

    method: Method
    checked: Checked
    objective: str
    steps: int
    max_tokens: int
    parts: Parts
    left_out: tuple[int, ...]
    rewards: dict[str, str]
    start: AdapterCard | None


class Planner:
    """Answers what a run needs and what it should be; starts nothing."""

    def __init__(
        self, settings: Settings, manager: DeviceManager, bases: BaseService, data: DataService, store: RunStore,
        quota: Quota, workers: Workers = processes,
    ) -> None:  # fmt: skip
        self._settings, self._manager, self._bases, self._data, self._store = settings, manager, bases, data, store
        self._quota, self._workers = quota, workers
        self._answers: dict[tuple[int, str], tuple[Checked, int]] = {}
        self._measuring = threading.Lock()

    def methods(self) -> list[Method]:
        """In the order of a form, with the defaults for the base in use where it is on disk."""
        methods = list(all_methods().values())
        return [method.sized(self._bases.weights()) for method in methods] if self._bases.folder() is not None else methods

    def plan(self, request: TrainRequest) -> Plan:
        """What the run will need and whether it can start. Raises InputError for a file or a setting that cannot be used."""
        settled = self.settled(request)
        method = settled.method
        needed = self._estimate(request, settled)
        blocked = ""
        budget = self._manager.budget_bytes
        if needed.memory_bytes > budget:
            blocked = f"{method.label} needs {needed.memory_bytes / 1e9:.1f} GB; the budget is {budget / 1e9:.1f} GB. "
            blocked += "Choose LoRA." if method.whole else "Choose a smaller batch."
        self._settings.home.mkdir(parents=True, exist_ok=True)
        free_disk = shutil.disk_usage(self._settings.home).free
        if needed.disk_bytes * DISK_FACTOR > free_disk:
            writes = needed.disk_bytes * DISK_FACTOR
            blocked = f"The run writes about {size_words(writes)}; {size_words(free_disk)} of disk are free. Free some space."
        blocked = blocked or self._quota.run_refused(
            request.owner, needed.disk_bytes * DISK_FACTOR, settled.steps, needed.seconds
        )
        blocked = blocked or self._workers.refused(needed.seconds)
        return Plan(
            needed.trainable_params, needed.total_params, needed.seconds, needed.memory_bytes, self._manager.free_bytes,
            needed.disk_bytes, len(settled.parts.train), settled.steps, request.lr or method.default_rate(request.options) * RATES[settled.objective], _rank(request, settled), blocked,
            len(settled.parts.validation), len(settled.parts.test),
        )  # fmt: skip

    def spec(self, request: TrainRequest, plan: Plan, run: str, file: Path, now_s: float) -> RunSpec:
        """The whole run in one value. file: the copy of the examples that belongs to it. Raises InputError."""
        base = self._bases.resolve()
        settled = self.settled(request)
        longest, answers = self._longest(settled, request.turns)
        return RunSpec(
            run=run, name=(request.name.strip() or Path(request.file).stem)[:80], method=request.method, objective=settled.objective,
            base=base.id, base_path=str(base.path), base_fingerprint=base.fingerprint, file=str(file), data=_data_name(settled.checked, Path(request.file)),
            adapters_dir=str(self._settings.adapters_dir), shipped_dir=str(self._settings.shipped_adapters_dir),
            steps=plan.steps, lr=plan.lr, rank=plan.rank, batch_size=request.batch_size, max_tokens=settled.max_tokens,
            seed=request.seed, save_steps=request.save_steps, owner=request.owner, created_s=now_s,
            mapping=dict(request.mapping or {}), limit_bytes=self._settings.upload_limit_bytes,
            estimated_memory_bytes=plan.memory_bytes, estimated_seconds=plan.seconds, disk_bytes=plan.disk_bytes * DISK_FACTOR,
            limit_memory_bytes=request.limit_memory_bytes, rows=plan.rows, tokens_p95=longest, answer_max=answers,
            turns=request.turns, split=settled.parts.as_record(), left_out=list(settled.left_out), options=request.options.chosen(),
            rewards=list(settled.rewards), reward_files={name: file for name, file in settled.rewards.items() if file},
            start=request.start, start_path=str(settled.start.path) if settled.start else "", early_stop=request.early_stop,
        )  # fmt: skip

    def remedy(self, spec: RunSpec) -> tuple[str, dict[str, object]]:
        """For a run whose memory ran out: a sentence that names a smaller setting which should fit, and that setting. Raises
        PlaygroundError where the base cannot be read."""
        base = BaseShapes.from_folder(Path(spec.base_path))
        shapes = trainable_shapes(base)
        place = {"flat": written_out(base.config), "cuda": isinstance(self._manager.device, CudaDevice)}
        there = spec.limit_memory_bytes or min(self._manager.budget_bytes, self._manager.device.free_bytes)
        if (setting := smaller(spec, shapes, there, **place)) is not None:
            return setting.words(spec), {"smaller": asdict(setting)}
        least = smallest_bytes(spec, shapes, **place)
        return (
            f"Even the smallest setting needs about {least / 1e9:.1f} GB; {there / 1e9:.1f} GB are there. Choose a smaller base.",
            {},
        )

    def settled(self, request: TrainRequest) -> Settled:
        """What the run will be made of. Raises InputError for a file or a setting that cannot be used."""
        method = get_method(request.method)
        method.check(request.options)
        if request.base is not None and request.base != self._bases.spec:
            raise InputError(f"The base in use is {self._bases.spec}. Choose {request.base} as the base first.")
        checked = self._data.check(request.file, request.mapping, request.owner)
        objective = _objective(request, checked)
        if request.docs is not None:
            if objective != "sft":
                raise InputError(f"Documents are read with requests and answers (sft); {objective} takes none. Leave them out.")
            checked = self._data.told(checked, request.docs, request.owner)
        check_pair(method.name, objective)
        library = AdapterLibrary(self._settings.adapters_dir, self._settings.shipped_adapters_dir)
        mine = (request.owner, self._settings.shared)
        rewards = rewarded_by(
            request.rewards, objective, lambda id: library.get(id, *mine), self._bases.shapes(), files=not self._settings.shared
        )
        start = (
            begins_with(request, objective, library.get(request.start, *mine), self._bases.shapes()) if request.start else None
        )
        method = method.sized(self._bases.weights())
        max_tokens = request.max_tokens
        if objective == "pretrain" and max_tokens == MAX_TOKENS:
            max_tokens = PACKED_TOKENS
        left_out: set[int] = set()
        if request.leave_out:
            warnings = (*checked.warnings, *self._data.tokens(checked, max_tokens).warnings)
            left_out = {warning.row for warning in warnings if warning.kind in request.leave_out}
        usable = [row for row in checked.usable if row.row not in left_out]
        if not usable:
            raise InputError(f"Every row of {Path(request.file).name} is left out. Keep some of those that have a warning.")
        test = self._data.test_share(request.file) if request.test is None else request.test
        parts = split(usable, request.seed, VALIDATION if request.validation is None else request.validation, test)
        steps = request.steps
        if steps is None and request.epochs is not None:
            rows = len(parts.train)
            if objective == "pretrain":
                rows = math.ceil(rows * self._data.tokens(checked, max_tokens).median / max_tokens)
            steps = max(1, math.ceil(request.epochs * rows / request.batch_size))
        return Settled(
            method, checked, objective, QUICK_STEPS if steps is None else steps, max_tokens, parts, tuple(sorted(left_out)),
            rewards, start,
        )  # fmt: skip

    def _estimate(self, request: TrainRequest, settled: Settled) -> Estimate:
        method = settled.method
        tokens = self._data.tokens(settled.checked, settled.max_tokens)
        longest, answers = self._longest(settled, request.turns)
        measured = [
            row.summary.get("tokens_per_s")
            for row in self._store.all()
            if row.method == method.name and row.state == "DONE" and row.summary.get("objective", "sft") == settled.objective
        ]
        speed = next((float(speed) for speed in measured if speed), None)
        if settled.objective in ("sft", "pretrain"):
            speed = speed or self._workers.tokens_per_s
        mean = settled.max_tokens if settled.objective == "pretrain" else tokens.mean
        if settled.objective == "grpo":  # replies of its own, in place of the file's answers
            replies = reply_tokens([answers], settled.max_tokens)
            longest, answers = min(longest - answers + replies, settled.max_tokens), replies
        return needs(
            settled.objective, self._bases.weights(), method, rank=_rank(request, settled), steps=settled.steps, batch_size=request.batch_size,
            tokens_p95=longest, tokens_mean=mean, answer_max=answers,
            tokens_per_s=speed, options=request.options, reward_models=sum(name.startswith(REWARD_MODEL) for name in settled.rewards),
            flat=written_out(self._bases.shapes().config), cuda=isinstance(self._manager.device, CudaDevice),
        )  # fmt: skip

    def _longest(self, settled: Settled, turns: str) -> tuple[int, int]:
        """Tokens of a long row, and of what a long one learns: of 95 in a hundred none is longer. Judged by the first rows."""
        checked = settled.checked
        if settled.objective == "pretrain":
            return settled.max_tokens, settled.max_tokens - 1
        longest = min(self._data.tokens(checked, settled.max_tokens).p95, settled.max_tokens)
        with self._measuring:
            key = (id(checked), turns)
            known = self._answers.get(key)
            if known is None or known[0] is not checked:
                tokenizer = self._bases.tokenizer()
                lengths = sorted(len(encode(tokenizer, _learned(one, turns))) + 2 for one in checked.usable[:ANSWERS])
                known = self._answers[key] = (checked, lengths[int(0.95 * (len(lengths) - 1))])
                if len(self._answers) > REMEMBERED:
                    del self._answers[next(iter(self._answers))]
        return longest, min(known[1], longest)


def _data_name(checked: Checked, file: Path) -> str:
    """What the examples are called: their file, or the first of several."""
    more = len(checked.files) - 1
    return f"{checked.files[0].name} and {more} more" if more > 0 else file.name


def _learned(example: Row, turns: str) -> str:
    """What comes after the first prompt: a chat of which every answer is learned needs its logits from the first on. Of two answers
    the longer one."""
    if isinstance(example, Preference):
        return max(example.chosen, example.rejected, key=len)
    if isinstance(example, Judged):
        return example.completion
    if isinstance(example, Passage):
        return example.text
    first = next(place for place, turn in enumerate(example.messages) if turn.role == "assistant")
    return "\n".join(turn.content for turn in example.messages[first if turns == ALL else -1 :])


def _objective(request: TrainRequest, checked: Checked) -> str:
    """What was asked for, or what the file is for. Raises InputError when these do not go together."""
    able = [objective for objective, holds in OBJECTIVES.items() if checked.objective in holds]
    own = [objective for objective in able if OBJECTIVES[objective][0] == checked.objective]
    kind, name = checked.objective.replace("_", " "), Path(request.file).name
    if request.objective and request.objective not in OBJECTIVES:
        raise InputError(f"There is no objective {request.objective!r}. There is: {', '.join(OBJECTIVES)}.")
    if request.objective and request.objective not in able:
        wants = _NEEDS[OBJECTIVES[request.objective][0]]
        raise InputError(f"{name} holds {kind} rows; {request.objective} needs {wants}. These rows can train {', '.join(able)}.")
    return request.objective or own[0]


_NEEDS = {
    "sft": "a column of prompts and one of answers",
    "text": "raw text",
    "preference": "a better and a worse answer to each prompt (columns chosen and rejected)",
    "unpaired_preference": "answers marked good or bad, or pairs of a better and a worse one",
}
"""What a file of each kind holds, in words."""


def trainable_shapes(base: BaseShapes) -> Shapes:
    """Shapes of the weights there are to train: a head tied to the embeddings is counted once."""
    tied = base.config.get("tie_word_embeddings", True)
    return {name: shape for name, shape in base.shapes.items() if not (tied and name == "lm_head.weight")}


def _rank(request: TrainRequest, settled: Settled) -> int:
    if settled.method.rank is None:
        return 0
    begun = settled.start.rank if settled.start else None
    return begun or request.rank or settled.method.rank
