"""What a run will need, before it starts: memory, time and disk, from the base's shapes and the run's settings. Pure;
no torch.

Memory = weights + what the method keeps a weight it trains (gradient, two Adam moments) + activations of one batch, its
virtual tokens among them + logits of the answers + the process itself + what the objective asks beyond that: more rows,
a second model, replies to write. Constants were fitted to measured peaks (benchmarks/results/memory_estimate.json,
objectives.json).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from playground.methods.method import NO_OPTIONS, Method, Options, file_bytes
from playground.methods.shapes import Shapes, linear_weights, linears, weights_in

PROCESS_BYTES = 650_000_000
"""What a worker takes before it holds a base: the peak of runs on a base of 13 MB."""
PACKED_SPARES = 1.6
"""Activations (floats) that a token of packed sequences does not keep, per output of every linear layer (see
``Method.kept``): fitted to LoRA, full and bottleneck runs on hospital_reports."""
PACKED_LOGITS = 128
"""Tokens whose logits such a run holds at a time."""
NF4_BYTES = 0.57
"""Bytes a quantised weight, with its scales (Dettmers et al. 2023)."""
DEFAULT_TOKENS_PER_S = 130.0
"""Measured on two CPU cores with the default base; replaced by what finished runs on this machine really did."""
PACKED_SPEED = 1.4
"""How much faster a step over packed sequences is: LoRA 1.5 times, methods of PEFT's own modules less."""
DEFAULT_BODY = 106_200_000
REPLIES = 4
"""Replies to each prompt that grpo compares."""
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
    tokens_p95: int,
    tokens_mean: float,
    answer_max: int,
    tokens_per_s: float | None = None,
    options: Options = NO_OPTIONS,
    reward_models: int = 0,
    packed: bool = False,
    cuda: bool = False,
) -> Estimate:
    """Estimate a run. tokens_p95, tokens_mean: prompt and answer of a row; answer_max: the longest answer.
    tokens_per_s: as a run of this objective measured it. reward_models: how many it is rewarded by. packed: whether
    ``can_pack_sequences`` the base. cuda: it is the memory of a CUDA device that counts, where a base that stays is in
    bf16 and the process itself takes nothing.

    Raises InputError for options that the method or the base has no place for."""
    cost = COSTS[objective]
    packed = packed and objective == "sft" and not method.virtual
    rows = rows_a_step(objective, batch_size) * cost.rows
    total, body = weights_in(shapes), linear_weights(shapes)
    trained, saved = method.trained(shapes, rank, options), method.saves(shapes, rank, options)
    outputs = sum(one.outputs for one in linears(shapes))
    vocabulary = max((shape[0] for shape in shapes.values() if len(shape) == 2), default=0)
    each = 2 if cuda else 4  # bytes a weight of a base that stays
    weights = total * (4 if method.whole else each)
    if method.quantised:
        weights = int(body * NF4_BYTES + (total - body) * 4)
    # A base that is trained itself is counted already; gradient and two moments come to it, in fp32 like an adapter's.
    optimiser = trained * 12 if method.whole else max(trained, weights_in(saved)) * 16
    others = total * (each * reward_models + (4 if cost.reference and method.whole else 0))
    length = tokens_p95 + (rank if method.virtual else 0)
    activations = int(rows * length * outputs * 4 * (method.kept - PACKED_SPARES if packed else method.kept))
    predicted = rows * ((tokens_p95 if cost.logits_of_all else answer_max) + 1)
    logits = (min(predicted, PACKED_LOGITS) if packed else predicted) * vocabulary * 4 * 3
    batch = activations + logits + int((cost.held - 1) * (activations + logits))
    guess = DEFAULT_TOKENS_PER_S * DEFAULT_BODY / max(body, 1) / method.pace * (PACKED_SPEED if packed else 1.0)
    tokens = tokens_mean if tokens_per_s else tokens_mean * cost.passes / cost.rows
    return Estimate(
        memory_bytes=weights + optimiser + others + batch + (0 if cuda else PROCESS_BYTES),
        seconds=12 + steps * rows * tokens / (tokens_per_s or guess),
        disk_bytes=file_bytes(saved),
        trainable_params=trained,
        total_params=total,
        batch_bytes=batch,
    )


def rows_a_step(objective: str, batch_size: int) -> int:
    """Rows that a step really takes: kto compares two at least, grpo takes whole groups of replies."""
    if objective == "grpo":
        return REPLIES * -(-batch_size // REPLIES)
    return max(2, batch_size) if objective == "kto" else batch_size


def reply_tokens(answers: Iterable[int], max_tokens: int) -> int:
    """How long grpo lets a reply become, from the token counts of the file's own answers: a quarter more than 95 in a
    hundred need, and half of a row at most."""
    lengths = sorted(answers)
    needed = lengths[int(0.95 * (len(lengths) - 1))] * 5 // 4 if lengths else 0
    return min(LONGEST_REPLY, max(SHORTEST_REPLY, needed), max_tokens // 2)


def can_pack_sequences(config: Mapping[str, Any]) -> bool:
    """Whether ``fused/llama.py`` trains this base on packed sequences, by its config.json: no sliding windows, plain
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
