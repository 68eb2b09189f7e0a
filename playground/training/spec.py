"""A run's settings, each written down once with its help, flag, unit and bounds; the run as its worker reads it; and
what it will need, from these and the base's shapes. Pure but for run.json; no torch.

Memory = weights + what the method keeps a weight it trains (gradient, two Adam moments) + activations of one batch +
logits of the answers + the process itself + what the objective asks beyond that: more rows, a second model, replies.
Constants were fitted to measured peaks (benchmarks/results/memory_estimate.json, objectives.json).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from playground.data.render import ALL, LAST
from playground.errors import InputError
from playground.library.files import write_json
from playground.methods.method import NO_OPTIONS, Method, Options, Shapes, file_bytes, linears, weights_in

SCHEMA = 1
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "sft": ("sft",),
    "pretrain": ("text",),
    "dpo": ("preference",),
    "kto": ("unpaired_preference", "preference"),
    "orpo": ("preference",),
    "reward": ("preference",),
    "grpo": ("sft", "prompts"),
}
"""What can be trained -> what the file may hold, its own kind first. A kind's first objective is the default."""
WHOLE_BATCH = ("kto", "grpo")
"""What compares a step's rows with one another."""
TURNS = (ALL, LAST)
REWARD_MODEL = "model="  # how a reward begins that is a trained reward model; any other is a check
MAX_TOKENS = 2048  # the longest row unless a person says otherwise


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
    return {"setting": Setting(kind, help, flag, **more)}


def whole(low: int, high: int, help: str = "", **more: Any) -> dict[str, Setting]:
    """A whole number from ``low`` to ``high``."""
    bounds = f"it goes from {low} to {high}"
    return setting(int, help, bounds=bounds, allowed=lambda value: low <= value <= high, **more)


def share(help: str, **more: Any) -> dict[str, Setting]:
    bounds = "it goes from 0 (none) to below 1, such as 0.1"
    return setting(float, help, unit="share", metavar="SHARE", bounds=bounds, allowed=lambda v: 0 <= v < 1, **more)


def given(default: Any, metadata: dict[str, Setting]) -> Any:
    """A dataclass field that is a setting."""
    return field(default=default, metadata=metadata)


def settings_of(kind: type) -> dict[str, Setting]:
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
_PARTS = "compute a step's rows in so many parts: less memory, the same learning"
_ONCE = "leave gradient accumulation at 1, or choose a smaller batch"
_DIVIDE = "let gradient accumulation divide the batch"
_STOP_HELP = "end after N checkpoints without a better held-out loss; 0: never"


@dataclass(frozen=True)
class RunSettings:
    """What a run's request and its spec share; None, 0 or "" = the program decides. InputError tells every fault."""

    method: str = given("lora", setting(str, flag="--method", stated=True))
    objective: str = given("", setting(str, "default: what the file can train", flag="--objective", stated=True))
    steps: int | None = given(None, whole(1, 100_000, unit="optimiser steps", flag="--steps"))
    lr: float | None = given(None, _RATE)
    rank: int | None = given(None, whole(1, 256, "rank, virtual tokens or width: what the method has", flag="--rank"))
    batch_size: int = given(8, whole(1, 1024, unit="rows a step", flag="--batch-size", stated=True))
    accumulate: int = given(
        1, whole(1, 64, _PARTS, unit="parts a step", flag="--accumulate", label="gradient accumulation")
    )
    max_tokens: int = given(MAX_TOKENS, whole(16, 131_072, unit="tokens a row", flag="--max-tokens", stated=True))
    seed: int = given(7, whole(0, 2**32 - 1, flag="--seed", stated=True))
    save_steps: int = given(10, whole(1, 100_000, unit="steps between checkpoints", flag="--save-steps", stated=True))
    limit_memory_bytes: int = given(0, _MEMORY)
    turns: str = given(ALL, _TURNS)
    start: str = given("", setting(str, "begin with this adapter's weights", flag="--from", metavar="ID"))
    early_stop: int = given(0, whole(0, 1000, _STOP_HELP, flag="--early-stop", unit="checkpoints", metavar="N"))

    def __post_init__(self) -> None:
        if faults := self.faults():
            text = "; ".join(faults)
            raise InputError(f"{text[0].upper()}{text[1:]}.")

    def faults(self) -> list[str]:
        """What is wrong with the values, each as a part of a sentence."""
        found = [
            f"{one.label or name.replace('_', ' ')} is {value}; {one.bounds}"
            for name, one in settings_of(type(self)).items()
            if (value := getattr(self, name)) is not None and not one.allowed(value)
        ]
        if not found and self.batch_size % self.accumulate:
            found.append(
                f"{self.batch_size} rows a step cannot be computed in {self.accumulate} equal parts; {_DIVIDE}"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class RunSpec(RunSettings):
    """One training run with everything decided; rank 0 = the method has none. Written as run.json.
    run: its id. name: what the adapter will be called. base: as the person named it; base_path: the folder on disk.
    file: the examples, a copy under the home folder. mapping: role -> column, empty = guess. repairs: what
    was done to which rows where it says ``repair``. options: see ``Options``.
    limit_bytes: largest file that is read. adapters_dir: where the finished adapter is published. disk_bytes: what it
    writes, about. rows, tokens_p95, answer_max: what the estimate was made from, for naming a smaller setting; 0 =
    unknown. split: row numbers held back for ``validation`` and ``test``, how many are left to ``train`` on, and the
    ``seed`` that drew them; empty = the worker draws a validation part. left_out: rows that the person does not want
    trained on. rewards: what ``grpo`` is rewarded by: checks, and ``model=ID`` for a reward model. reward_files: the
    paths these name, by reward. start, start_path: the adapter whose weights the run begins with, "" = a new one.
    docs: name of the documents whose passages stand in every question, "" = none; docs_path: the run's copy of them.
    precision: ``bf16`` where a processor multiplies by a base that stays in it, "" = what suits the device.
    think: ``off`` where no answer holds a thought and the base is one that thinks: so the adapter is asked later."""

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
    repairs: list[dict[str, Any]] = field(default_factory=list)
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
    think: str = ""
    precision: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def faults(self) -> list[str]:
        faults = []
        if self.objective not in OBJECTIVES:
            faults.append(f"the objective {self.objective!r} cannot be trained yet; there is {', '.join(OBJECTIVES)}")
        if self.objective == "grpo" and not self.rewards:
            faults.append("grpo needs a reward: a check such as contains:TEXT, or a reward model")
        if self.accumulate > 1 and self.objective in WHOLE_BATCH:
            faults.append(
                f"{self.objective} compares a step's rows with one another and computes them at once; {_ONCE}"
            )
        if self.rewards and self.objective != "grpo":
            faults.append(f"{self.objective} learns from its rows and takes no reward; grpo does")
        try:
            Options.of(self.options)
        except InputError as error:
            faults.append(str(error).rstrip("."))
        return [*super().faults(), *faults]

    @property
    def reward_models(self) -> int:
        return sum(name.startswith(REWARD_MODEL) for name in self.rewards)

    @property
    def method_options(self) -> Options:
        return Options.of(self.options)

    def write(self, run_dir: Path) -> None:
        """Write run.json whole or not at all."""
        write_json(run_dir / "run.json", asdict(self))

    @classmethod
    def read(cls, run_dir: Path) -> RunSpec:
        """Read run.json, ignoring keys of a newer schema. Raises InputError if it is missing or damaged."""
        try:
            record: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
            known = {item.name for item in fields(cls)}
            return cls(**{key: value for key, value in record.items() if key in known})
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{run_dir / 'run.json'} cannot be read ({error}). Start the run again.") from error


PROCESS_BYTES = 650_000_000  # what a worker takes before it holds a base: the peak of runs on a base of 13 MB
PACKED_SPARES = 1.6
"""Activations (floats) that a token of packed sequences does not keep, per output of every linear layer (see
``Method.kept``): fitted to LoRA, full and bottleneck runs on hospital_reports."""
HALF_KEPT_PACKED, HALF_KEPT = 0.5, 0.75
"""Share of these bytes that is kept in half precision: of packed sequences over weights that stay, and elsewhere, where
norms and what moves keep fp32 (counted over saved tensors of LoRA, QLoRA and full runs: 0.50, and 0.69 to 0.82)."""
PACKED_LOGITS = 128  # tokens whose logits such a run holds at a time
NF4_BYTES = 0.57  # bytes a quantised weight, with its scales (Dettmers et al. 2023)
DEFAULT_TOKENS_PER_S = 130.0
"""Measured on two CPU cores with the default base; replaced by what finished runs on this machine really did."""
CUDA_FLOPS, CUDA_TOKENS_PER_S = 3e13, 15_000.0
"""What a CUDA device does a second in half precision, cautiously (between a T4 and an A100), and what small bases reach
there, which wait for the calls; not measured here. Four operations a weight and token (Kaplan et al. 2020, less the
gradients of weights that stay)."""
START_UP_S = 12  # until the first step
PACKED_SPEED = 1.4
"""How much faster a step over packed sequences is: LoRA 1.5 times, methods of PEFT's own modules less."""
DEFAULT_BODY = 106_200_000
REPLIES = 4  # replies to each prompt that grpo compares
SHORTEST_REPLY, LONGEST_REPLY = 64, 256
"""Tokens that grpo lets a reply have: from the first on what the file's own answers need, up to the second."""
RATES = {"sft": 1.0, "pretrain": 1.0, "dpo": 0.1, "kto": 0.1, "orpo": 0.4, "reward": 0.3, "grpo": 0.1}
"""Share of the method's learning rate, which is for sft. Papers: dpo 1e-6 to 5e-6, orpo 8e-6 beside 2e-5."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Cost:
    """rows: how many run through the model for one row of a batch. passes: what a step takes, in trainings of one row.
    reference: a whole second model where the method trains every weight. logits_of_all: of prompts too, not of answers
    alone. held: activations and logits that a step holds, in those of sft over as many rows: TRL's trainers keep more,
    from the peaks of benchmarks/results/objectives.json (three steps) and grpo_six_steps.json (forty: replies of
    changing length fragment memory)."""

    rows: int = 1
    passes: float = 1.0
    reference: bool = False
    logits_of_all: bool = False
    held: float = 1.0


COSTS = {
    "sft": Cost(),
    "pretrain": Cost(),
    "dpo": Cost(rows=2, passes=2 * 4 / 3, reference=True, held=1.45),
    "kto": Cost(rows=1, passes=2.0, reference=True, held=1.4),
    "orpo": Cost(rows=2, passes=2.0, logits_of_all=True, held=1.2),
    "reward": Cost(rows=2, passes=2.0, held=0.95),
    "grpo": Cost(rows=1, passes=2.5, held=1.65),
}


@dataclass(frozen=True)
class Estimate:
    """memory_bytes: peak; batch_bytes: what of it is one batch's activations and logits. seconds: from start to the
    finished adapter. disk_bytes: the result's weights, to the byte. trainable_params, total_params: weights."""

    memory_bytes: int
    seconds: float
    disk_bytes: int
    trainable_params: int
    total_params: int
    batch_bytes: int


def needs(
    objective: str,
    shapes: Shapes,
    method: Method,
    *,
    rank: int,
    steps: int,
    batch_size: int,
    accumulate: int = 1,
    tokens_p95: int,
    tokens_mean: float,
    answer_max: int,
    tokens_per_s: float | None = None,
    options: Options = NO_OPTIONS,
    reward_models: int = 0,
    packed: bool = False,
    cuda: bool = False,
    half: bool = False,
) -> Estimate:
    """Estimate a run. tokens_p95, tokens_mean: prompt and answer of a row; answer_max: the longest answer.
    tokens_per_s: as a run of this objective measured it. reward_models: how many it is rewarded by. packed: whether
    ``can_pack_sequences`` the base. cuda: it is the memory of a CUDA device that counts, where products are in half
    precision and so is a base that stays, moments of a 4-bit base's adapter take a byte each, and the process takes
    nothing. half: whether this processor trains in bf16 where it can.
    Raises InputError for options that the method or the base has no place for."""
    cost = COSTS[objective]
    packed = packed and objective == "sft" and not method.virtual
    rows = rows_a_step(objective, batch_size) * cost.rows
    held = -(-rows // accumulate)  # at a time
    layers, total = linears(shapes), weights_in(shapes)
    body = sum(one.outputs * one.inputs for one in layers)
    method.check(options)
    trained, saved = method.trains(shapes, rank, options), method.saves(shapes, rank, options)
    outputs = sum(one.outputs for one in layers)
    vocabulary = max((shape[0] for shape in shapes.values() if len(shape) == 2), default=0)
    each = 2 if cuda or (half and trains_in_half(objective, method, packed)) else 4  # bytes a weight that stays
    weights = total * (4 + 2 * cuda if method.whole else each)  # autocast holds a copy of weights that move
    if method.quantised:
        weights = int(body * NF4_BYTES + (total - body) * each)
    # A base that is trained itself is counted already; gradient and two moments come to it, in fp32 like an adapter's.
    optimiser = (
        trained * 12 if method.whole else max(trained, weights_in(saved)) * (10 if method.quantised and cuda else 16)
    )
    others = total * (each * reward_models + (4 if cost.reference and method.whole else 0))
    length = tokens_p95 + (rank if method.virtual else 0)
    each_kept = 4 * (1.0 if not cuda else HALF_KEPT_PACKED if packed and not method.whole else HALF_KEPT)
    activations = int(held * length * outputs * each_kept * (method.kept - PACKED_SPARES if packed else method.kept))
    predicted = held * ((tokens_p95 if cost.logits_of_all else answer_max) + 1)
    logits = (min(predicted, PACKED_LOGITS) if packed else predicted) * vocabulary * 4 * 3
    batch = activations + logits + int((cost.held - 1) * (activations + logits))
    guess = DEFAULT_TOKENS_PER_S * DEFAULT_BODY / max(body, 1) / method.pace * (PACKED_SPEED if packed else 1.0)
    if cuda:
        guess = min(CUDA_TOKENS_PER_S, CUDA_FLOPS / 4 / max(body, 1)) / method.pace
    tokens = tokens_mean if tokens_per_s else tokens_mean * cost.passes / cost.rows
    return Estimate(
        memory_bytes=weights + optimiser + others + batch + (0 if cuda else PROCESS_BYTES),
        seconds=START_UP_S + steps * rows * tokens / (tokens_per_s or guess),
        disk_bytes=file_bytes(saved),
        trainable_params=trained,
        total_params=total,
        batch_bytes=batch,
    )


def trains_in_half(objective: str, method: Method, packed: bool) -> bool:
    """Whether a processor may keep the base in bf16: the forward pass of ``fused.py`` rounds nothing else."""
    return packed and objective == "sft" and not (method.virtual or method.whole or method.quantised)


def rows_a_step(objective: str, batch_size: int) -> int:
    """Rows that a step really takes: kto compares two at least, grpo takes whole groups of replies."""
    if objective == "grpo":
        return REPLIES * -(-batch_size // REPLIES)
    return max(2, batch_size) if objective == "kto" else batch_size


def reply_tokens(answers: Iterable[int], max_tokens: int) -> int:
    """How long grpo lets a reply become, from the token counts of the file's own answers: a quarter more than 95 in a
    hundred need, and half of a row at most; of a file without answers what is allowed."""
    lengths = sorted(answers)
    needed = lengths[int(0.95 * (len(lengths) - 1))] * 5 // 4 if lengths else 0
    needed = needed or LONGEST_REPLY
    return min(LONGEST_REPLY, max(SHORTEST_REPLY, needed), max_tokens // 2)


def can_pack_sequences(config: Mapping[str, Any]) -> bool:
    """Whether ``fused.py`` trains this base on packed sequences, by its config.json: no sliding windows, plain
    rotary positions, silu, no dropout in attention."""
    family = config.get("model_type")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    slides = config.get("sliding_window") and config.get("use_sliding_window", True) and family != "llama"
    return (
        family in FAMILIES
        and not slides
        and (rope.get("rope_type") or rope.get("type") or "default") in ROPES
        and config.get("hidden_act", "silu") == "silu"
        and not config.get("attention_dropout")
    )
