"""What a run will be: settings completed, checked against the file, estimated, compared with what there is."""

from __future__ import annotations

import math
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from playground.data.example import Checked, Judged, Passage, Preference, PromptOnly, Row, variants
from playground.data.render import ALL, encode, thinking
from playground.data.split import VALIDATION, Parts, SplitBy
from playground.db import RunStore
from playground.errors import InputError
from playground.evaluation.checks import SCHEMA, parse_check, schema_file
from playground.gpu.device import FAST, CudaDevice
from playground.gpu.manager import DeviceManager
from playground.library.adapters import AdapterCard, AdapterLibrary
from playground.library.bases import BaseShapes
from playground.library.card import OFF
from playground.methods import all_methods, get_method
from playground.methods.method import Method, weights_in
from playground.models.bases import BaseService, own_weights
from playground.plain import duration, plural, size
from playground.runs.cluster import RayWorkers
from playground.runs.request import CONTENT_STEPS, QUICK_STEPS, TrainRequest, begins_with, content_steps, refuse_base
from playground.runs.runner import START_S, Workers
from playground.settings import Settings
from playground.training import processes
from playground.training.failure import oom_advice, smallest_bytes
from playground.training.spec import (
    MAX_TOKENS,
    OBJECTIVES,
    RATES,
    REWARD_MODEL,
    START_UP_S,
    WHOLE_BATCH,
    Estimate,
    RunSettings,
    RunSpec,
    can_pack_sequences,
    needs,
    reply_tokens,
    settings_of,
    trains_in_half,
)
from playground.workspace.examples import DataService
from playground.workspace.visitors import Quota

DISK_FACTOR = 4
"""What a run writes, in sizes of its result: the adapter, and checkpoints that hold two moments a weight beside it."""
PACKED_TOKENS = 256
"""The longest row of raw text, which fills every row up to it, unless a person says otherwise."""
ANSWERS = 200
"""So many answers are measured for an estimate."""
REMEMBERED = 8
_NEEDS = {
    "sft": "a column of prompts and one of answers",
    "text": "raw text",
    "preference": "a better and a worse answer to each prompt (columns chosen and rejected)",
    "unpaired_preference": "answers marked good or bad, or pairs of a better and a worse one",
}
"""What a file of each kind holds, in words."""


def rewarded_by(
    rewards: Sequence[str], objective: str, find: Callable[[str], AdapterCard], base: BaseShapes, *, files: bool = True
) -> dict[str, str]:
    """Reward -> the path that it names, "" for none. files: as in ``parse_check``. Raises InputError."""
    if objective != "grpo":
        if rewards:
            raise InputError(f"{objective} learns from its rows and takes no reward. grpo does (--objective grpo).")
        return {}
    if not rewards:
        checks = "--reward contains:TEXT or another check (several count in equal parts)"
        model = "--reward model=ID for a reward model that was trained here"
        raise InputError(f"grpo needs to know what a reply is worth: {checks}, or {model}.")
    found: dict[str, str] = {}
    for reward in rewards:
        if reward.startswith(REWARD_MODEL):
            card = find(reward.removeprefix(REWARD_MODEL))
            if card.objective != "reward":
                raise InputError(f"{card.id} writes replies and scores none. Train a reward model: --objective reward.")
            refuse_base(card, base, "be rewarded by")
            found[reward] = str(card.path)
            continue
        parse_check(reward, files=files)
        file = schema_file(reward)
        found[f"{SCHEMA}{file.name}" if file else reward] = str(file.expanduser().absolute()) if file else ""
    return found


@dataclass(frozen=True)
class Plan:
    """Counts of weights and rows (rows: learned from), seconds, bytes. blocked: why it cannot start, or ""."""

    trainable_params: int
    total_params: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    rows: int
    steps: int
    lr: float
    rank: int
    blocked: str = ""
    validation_rows: int = 0
    test_rows: int = 0
    objective: str = "sft"
    batch_size: int = RunSettings.batch_size
    accumulate: int = 1

    @property
    def teaches(self) -> str:
        """Whether it is long enough for content, a sentence, or ""."""
        if self.objective != "sft" or not self.rows:
            return ""
        apart = f" A step is computed in {self.accumulate} parts." if self.accumulate > 1 else ""
        passes, wanted = self.steps * self.batch_size / self.rows, content_steps(self.rows, self.batch_size)
        how = f"{plural(self.steps, 'step')} go {passes:.1f} times through the rows"
        if self.steps >= min(wanted, CONTENT_STEPS) and passes >= 1:
            return f"Form and content: {how}.{apart}"
        more = START_UP_S + max(0.0, self.seconds - START_UP_S) / self.steps * wanted
        return f"Form only: {how}. Content takes about {wanted:,} steps, {duration(more)}.{apart}"


@dataclass(frozen=True)
class Resolved:
    """A request with everything decided: defaults filled in, the file read and split. rank: 0 = the method has none.
    left_out: rows excluded from training. rewards: name -> the file it names, "" for none. start: the adapter that the
    run begins with."""

    request: TrainRequest
    method: Method
    checked: Checked
    objective: str
    steps: int
    rank: int
    max_tokens: int
    parts: Parts
    left_out: tuple[int, ...]
    rewards: dict[str, str]
    start: AdapterCard | None


class Planner:
    """Answers what a run needs and what it should be; starts nothing."""

    def __init__(
        self,
        settings: Settings,
        manager: DeviceManager,
        bases: BaseService,
        data: DataService,
        store: RunStore,
        library: AdapterLibrary,
        quota: Quota,
        workers: Workers = processes,
    ) -> None:
        self._settings, self._manager, self._bases, self._data, self._store = settings, manager, bases, data, store
        self._library, self._quota, self._workers = library, quota, workers
        self._answers: dict[tuple[int, str], tuple[Checked, int]] = {}
        self._measuring = threading.Lock()

    def methods(self) -> list[Method]:
        """In the order of a form, with the defaults for the base in use where it is on disk."""
        methods = list(all_methods().values())
        if self._bases.folder() is None:
            return methods
        return [method.sized(self._bases.weights()) for method in methods]

    @property
    def gpu(self) -> bool:
        """Whether a run that teaches content takes minutes here."""
        return isinstance(self._manager.device, FAST)

    def plan(self, resolved: Resolved) -> Plan:
        request, needed = resolved.request, self._estimate(resolved)
        names = ("trainable_params", "total_params", "seconds", "memory_bytes", "disk_bytes")
        return Plan(
            **{name: getattr(needed, name) for name in names},
            rows=len(resolved.parts.train),
            steps=resolved.steps,
            lr=request.lr or resolved.method.default_rate(request.options) * RATES[resolved.objective],
            rank=resolved.rank,
            blocked=self._blocked(resolved, needed),
            validation_rows=len(resolved.parts.validation),
            test_rows=len(resolved.parts.test),
            objective=resolved.objective,
            batch_size=request.batch_size,
            accumulate=request.accumulate,
        )

    def _blocked(self, resolved: Resolved, needed: Estimate) -> str:
        """By 1. disk, 2. memory, 3. the visitor's quota, 4. the workers' own limit; "" if it can start."""
        self._settings.home.mkdir(parents=True, exist_ok=True)
        writes, free = needed.disk_bytes * DISK_FACTOR, shutil.disk_usage(self._settings.home).free
        if writes > free:
            return f"The run writes about {size(writes)}; {size(free)} of disk are free. Free some space."
        budget, method = self._manager.run_bytes, resolved.method
        if needed.memory_bytes > budget and not isinstance(self._workers, RayWorkers):  # Ray knows its nodes' memory
            parts = "" if resolved.objective in WHOLE_BATCH else "more parts a step (gradient accumulation) or "
            instead = "Choose LoRA." if method.whole else f"Choose {parts}a smaller batch."
            needs_gb, budget_gb = needed.memory_bytes / 1e9, budget / 1e9
            return f"{method.label} needs {needs_gb:.1f} GB; the budget is {budget_gb:.1f} GB. {instead}"
        owner, refused = resolved.request.owner, ""
        if self._settings.is_visitor(owner):
            refused = self._quota.run_refused(owner, writes, resolved.steps, needed.seconds)
        seconds, longest_s = needed.seconds + START_S, self._workers.longest_s
        if not refused and longest_s is not None and seconds > longest_s:
            lent = f"this Space lends its device for {longest_s:.0f} s at a time"
            instead = "Choose fewer steps or a smaller batch, or train on a machine of your own."
            return f"The run would take about {seconds:.0f} s, and {lent}. {instead}"
        return refused

    def spec(self, resolved: Resolved, plan: Plan, run: str, file: Path, now_s: float) -> RunSpec:
        """The whole run in one value. file: the copy of the examples that belongs to it. Raises InputError."""
        base, request, files = self._bases.resolve(), resolved.request, resolved.checked.files
        longest, answers = self._longest(resolved)
        packed = can_pack_sequences(self._bases.shapes().config)
        kept = {name: getattr(request, name) for name in settings_of(RunSettings)}
        decided = {"objective": resolved.objective, "max_tokens": resolved.max_tokens}
        planned = {name: getattr(plan, name) for name in ("steps", "lr", "rank", "rows")}
        return RunSpec(
            **kept | decided | planned,
            run=run,
            name=(request.name.strip() or Path(request.file).stem)[:80],
            base=base.id,
            base_path=str(base.path),
            base_fingerprint=base.fingerprint,
            file=str(file),
            data=f"{files[0].name} and {len(files) - 1} more" if len(files) > 1 else Path(request.file).name,
            adapters_dir=str(self._settings.adapters_dir),
            shipped_dir=str(self._settings.shipped_adapters_dir),
            owner=request.owner,
            created_s=now_s,
            mapping=dict(request.mapping or {}),
            repairs=[asdict(one) for one in resolved.checked.repairs],
            limit_bytes=self._settings.upload_limit_bytes,
            estimated_memory_bytes=plan.memory_bytes,
            estimated_seconds=plan.seconds,
            disk_bytes=plan.disk_bytes * DISK_FACTOR,
            tokens_p95=longest,
            answer_max=answers,
            split=resolved.parts.as_record(),
            left_out=list(resolved.left_out),
            options=request.options.chosen(),
            rewards=list(resolved.rewards),
            reward_files={name: file for name, file in resolved.rewards.items() if file},
            start_path=str(resolved.start.path) if resolved.start else "",
            think=self._think(resolved),
            precision="bf16" * (trains_in_half(resolved.objective, resolved.method, packed) and self._half()),
        )

    def _think(self, resolved: Resolved) -> str:
        family, rows = thinking(self._bases.tokenizer()), resolved.checked.usable
        if not (family.switch or family.opens) or resolved.objective == "pretrain":
            return ""
        return "" if any(one.messages[-1].thought for row in rows for one in variants(row)) else OFF

    def _there(self) -> int:
        """Bytes that a run could have by now on some card."""
        devices, cards = (self._manager.device, *self._manager.others), self._manager.cards()
        return max(0, *(min(budget, one.free_bytes) for one, (_, budget, _) in zip(devices, cards, strict=True)))

    def remedy(self, spec: RunSpec) -> tuple[str, dict[str, object]]:
        """A sentence with a smaller setting that should fit, and that setting. Raises PlaygroundError."""
        base = BaseShapes.from_folder(Path(spec.base_path))
        shapes = own_weights(base)
        place = {"packed": can_pack_sequences(base.config), "cuda": isinstance(self._manager.device, CudaDevice)}
        place["half"] = spec.precision == "bf16"
        there = spec.limit_memory_bytes or self._there()
        if (setting := oom_advice(spec, shapes, there, **place)) is not None:
            return setting.words(spec), {"smaller": asdict(setting)}
        least_gb, there_gb = smallest_bytes(spec, shapes, **place) / 1e9, there / 1e9
        words = f"Even the smallest setting needs about {least_gb:.1f} GB; {there_gb:.1f} GB are there."
        return f"{words} Choose a smaller base.", {}

    def resolve(self, request: TrainRequest) -> Resolved:
        """What the run will be made of. Raises InputError for a file or a setting that cannot be used."""
        method = get_method(request.method)
        method.check(request.options)
        if request.base is not None and request.base != self._bases.spec:
            raise InputError(f"The base in use is {self._bases.spec}. Choose {request.base} as the base first.")
        checked = self._data.check(request.file, request.mapping, request.owner)
        objective = _objective(request, checked)
        if request.docs is not None:
            if objective != "sft":
                words = f"Documents are read with requests and answers (sft); {objective} takes none."
                raise InputError(f"{words} Leave them out.")
            checked = self._data.with_documents(checked, request.docs, request.owner)
        method.check_objective(objective)
        shared = self._settings.shared

        def adapter(id: str) -> AdapterCard:
            return self._library.get(id, request.owner, shared)

        shapes = self._bases.shapes()
        rewards = rewarded_by(request.rewards, objective, adapter, shapes, files=not shared)
        start = begins_with(request, objective, adapter(request.start), shapes) if request.start else None
        packed = objective == "pretrain" and request.max_tokens == MAX_TOKENS
        max_tokens = PACKED_TOKENS if packed else request.max_tokens
        left_out = self._left_out(request, checked, max_tokens)
        validation = VALIDATION if request.validation is None else request.validation
        by = SplitBy(request.group_column, request.time_column)
        seed = request.seed if request.split_seed is None else request.split_seed
        parts = self._data.split(
            request.file, checked.usable, seed, validation, request.test, by, request.owner, checked
        ).without(left_out)  # only then: the verdict's rows are the same, whatever is left out
        if left_out and not parts.train:
            name = Path(request.file).name
            raise InputError(f"Every row of {name} to learn from is left out. Keep some of those that have a warning.")
        if request.rows is not None and request.rows > len(parts.train):
            raise InputError(f"{request.rows} rows are asked for; there are {len(parts.train)} to learn from.")
        if request.rows is not None:  # nested: the first of one order
            random.Random(seed).shuffle(order := list(parts.train))
            parts = replace(parts, train=tuple(sorted(order[: request.rows])))
            left_out |= set(order[request.rows :])
        resolved = Resolved(
            request=request,
            method=method.sized(self._bases.weights()),
            checked=checked,
            objective=objective,
            steps=self._steps(request, checked, objective, max_tokens, len(parts.train)),
            rank=0 if method.rank is None else (start and start.rank) or request.rank or method.rank,
            max_tokens=max_tokens,
            parts=parts,
            left_out=tuple(sorted(left_out)),
            rewards=rewards,
            start=start,
        )
        return replace(resolved, request=self._suited(resolved)) if self.gpu else resolved

    def _suited(self, resolved: Resolved) -> TrainRequest:
        """The request, for a GPU: a step in as many parts as its memory asks for, where that changes nothing learned,
        and a long run's checkpoints twenty in all, where a person left both as they are."""
        request, fewest = resolved.request, RunSettings.save_steps
        if request.save_steps == fewest:
            request = replace(request, save_steps=max(fewest, resolved.steps // 20))
        if request.accumulate > 1 or resolved.objective in WHOLE_BATCH:
            return request
        divisors = [n for n in range(1, min(64, request.batch_size) + 1) if request.batch_size % n == 0]
        tried = (replace(request, accumulate=n) for n in divisors)
        budget = self._manager.run_bytes
        return next((r for r in tried if self._estimate(replace(resolved, request=r)).memory_bytes <= budget), request)

    def _left_out(self, request: TrainRequest, checked: Checked, max_tokens: int) -> set[int]:
        if not request.leave_out:
            return set()
        warnings = (*checked.warnings, *self._data.tokens(checked, max_tokens).warnings)
        return {warning.row for warning in warnings if warning.kind in request.leave_out}

    def _steps(self, request: TrainRequest, checked: Checked, objective: str, max_tokens: int, rows: float) -> int:
        if request.steps is not None:
            return request.steps
        if request.epochs is None and (not self.gpu or objective == "grpo"):
            return QUICK_STEPS
        if objective == "pretrain":  # packed: several texts in a row
            rows = math.ceil(rows * self._data.tokens(checked, max_tokens).median / max_tokens)
        if request.epochs is None:
            return content_steps(rows, request.batch_size, objective)
        return max(1, math.ceil(request.epochs * rows / request.batch_size))

    def _estimate(self, resolved: Resolved) -> Estimate:
        request, method, objective = resolved.request, resolved.method, resolved.objective
        tokens = self._data.tokens(resolved.checked, resolved.max_tokens)
        longest, answers = self._longest(resolved)
        if objective == "grpo":  # generated replies, in place of the file's answers
            replies = reply_tokens([answers], resolved.max_tokens)
            longest, answers = min(longest - answers + replies, resolved.max_tokens), replies
        return needs(
            objective,
            self._bases.weights(),
            method,
            rank=resolved.rank,
            steps=resolved.steps,
            batch_size=request.batch_size,
            accumulate=request.accumulate,
            tokens_p95=longest,
            tokens_mean=resolved.max_tokens if objective == "pretrain" else tokens.mean,
            answer_max=answers,
            tokens_per_s=self._speed(method.name, objective),
            options=request.options,
            reward_models=sum(name.startswith(REWARD_MODEL) for name in resolved.rewards),
            packed=can_pack_sequences(self._bases.shapes().config),
            cuda=isinstance(self._manager.device, CudaDevice),
            half=self._half(),
        )

    def _half(self) -> bool:
        return self._bases.precision.of(self._bases.resolve().path, "train") == "bf16"

    def _speed(self, method: str, objective: str) -> float | None:
        """Tokens a second of the newest finished run of this kind, a base twice as large half as fast; else as the
        workers say; None = unknown."""
        here = weights_in(self._bases.weights())
        for row in self._store.all():
            speed, there = row.summary.get("tokens_per_s"), row.summary.get("total_params") or here
            same = row.method == method and row.summary.get("objective", "sft") == objective
            if row.state == "DONE" and same and speed:
                return float(speed) * there / here
        return self._workers.tokens_per_s if objective in ("sft", "pretrain") else None

    def _longest(self, resolved: Resolved) -> tuple[int, int]:
        """Tokens of a long row (the 95th percentile), and of what a long one learns. Judged by the first rows."""
        checked, turns = resolved.checked, resolved.request.turns
        if resolved.objective == "pretrain":
            return resolved.max_tokens, resolved.max_tokens - 1
        longest = min(self._data.tokens(checked, resolved.max_tokens).p95, resolved.max_tokens)
        with self._measuring:
            key = (id(checked), turns)
            known = self._answers.get(key)
            if known is None or known[0] is not checked:
                tokenizer = self._bases.tokenizer()
                texts = [_learned(one, turns) for one in checked.usable[:ANSWERS]]
                lengths = sorted(len(encode(tokenizer, text)) + 2 * bool(text) for text in texts)
                known = self._answers[key] = (checked, lengths[int(0.95 * (len(lengths) - 1))])
                if len(self._answers) > REMEMBERED:
                    del self._answers[next(iter(self._answers))]
        return longest, min(known[1], longest)


def _learned(example: Row, turns: str) -> str:
    """What is learned: of a chat with every answer all after the first prompt; of two answers the longer."""
    if isinstance(example, Preference):
        return max(example.chosen, example.rejected, key=len)
    if isinstance(example, Judged):
        return example.completion
    if isinstance(example, Passage | PromptOnly):
        return example.text if isinstance(example, Passage) else ""
    first = next(place for place, turn in enumerate(example.messages) if turn.role == "assistant")
    return "\n".join(turn.whole for turn in example.messages[first if turns == ALL else -1 :])


def _objective(request: TrainRequest, checked: Checked) -> str:
    """What was asked for, or what the file is for. Raises InputError when these do not go together."""
    able = [objective for objective, holds in OBJECTIVES.items() if checked.objective in holds]
    own = [objective for objective in able if OBJECTIVES[objective][0] == checked.objective]
    kind, name = checked.objective.replace("_", " "), Path(request.file).name
    if request.objective and request.objective not in OBJECTIVES:
        raise InputError(f"There is no objective {request.objective!r}. There is: {', '.join(OBJECTIVES)}.")
    if request.objective and request.objective not in able:
        wants, can = _NEEDS[OBJECTIVES[request.objective][0]], ", ".join(able)
        raise InputError(f"{name} holds {kind} rows; {request.objective} needs {wants}. These rows can train {can}.")
    return request.objective or (own or able)[0]
