"""What a run will need, before it starts: memory, time and disk, from the base's shapes and the run's settings.

Memory = weights + what the method keeps a weight it trains (gradient, two Adam moments) + activations of one batch, its virtual
tokens among them + logits of the answers + the process itself. Constants were fitted to measured peaks of LoRA runs
(benchmarks/results/memory_estimate.json).
"""

from __future__ import annotations

from dataclasses import dataclass

from playground.methods.method import Method, file_bytes
from playground.methods.options import NO_OPTIONS, Options
from playground.methods.shapes import Shapes, linear_shapes, weights_in

PROCESS_BYTES = 650_000_000
"""What a worker takes before it holds a base: the peak of runs on a base of 13 MB."""
FLAT_SPARES = 1.6
"""Floats that a token laid end to end does not leave behind, per output of every linear layer (see ``Method.kept``): fitted to LoRA, full
and bottleneck runs on hospital_reports."""
FLAT_LOGITS = 128
"""Tokens whose logits such a run holds at a time."""
NF4_BYTES = 0.57
"""Bytes a quantised weight, with its scales (Dettmers et al. 2023)."""
DEFAULT_TOKENS_PER_S = 130.0
"""Measured on two CPU cores with the default base; replaced by what finished runs on this machine really did."""
FLAT_SPEED = 1.4
"""How much faster a step is over rows laid end to end: LoRA 1.5 times, measured beside padded rows; methods of PEFT's own modules less."""
DEFAULT_BODY = 106_200_000


@dataclass(frozen=True)
class Estimate:
    """memory_bytes: peak; batch_bytes: what of it is one batch's activations and logits. seconds: from start to the finished adapter. disk_bytes: the result's weights, to the byte. Counts of weights."""

    memory_bytes: int
    seconds: float
    disk_bytes: int
    trainable_params: int
    total_params: int
    batch_bytes: int = 0


def estimate(
    shapes: Shapes, method: Method, *, rank: int, steps: int, batch_size: int, tokens_p95: int, tokens_mean: float, answer_max: int,
    tokens_per_s: float | None = None, options: Options = NO_OPTIONS, flat: bool = False, cuda: bool = False,
) -> Estimate:  # fmt: skip
    """Estimate a run. tokens_p95, tokens_mean: prompt and answer of a row; answer_max: the longest answer.
    flat: rows are laid end to end. cuda: it is the memory of a CUDA device that counts, where a base that stays is in bf16 and the process
    itself takes nothing.

    Raises InputError for options that the method or the base has no place for."""
    total = weights_in(shapes)
    trained = method.trained(shapes, rank, options)
    saved = method.saves(shapes, rank, options)
    linears = linear_shapes(shapes)
    body = sum(rows * columns for rows, columns in linears)
    vocabulary = max((shape[0] for shape in shapes.values() if len(shape) == 2), default=0)
    weights = total * (2 if cuda and not method.whole else 4)
    if method.quantised:
        weights = int(body * NF4_BYTES + (total - body) * 4)
    # Of a base that moves itself the weights are counted already; gradient and two moments come to them, in fp32 like an adapter's.
    optimiser = trained * 12 if method.whole else max(trained, weights_in(saved)) * 16
    length = tokens_p95 + (rank if method.virtual else 0)
    kept = method.kept - FLAT_SPARES if flat else method.kept
    activations = int(batch_size * length * sum(rows for rows, _ in linears) * 4 * kept)
    told = batch_size * (answer_max + 1)
    logits = (min(told, FLAT_LOGITS) if flat else told) * vocabulary * 4 * 3
    speed = tokens_per_s or DEFAULT_TOKENS_PER_S * DEFAULT_BODY / max(body, 1) / method.pace * (FLAT_SPEED if flat else 1.0)
    return Estimate(
        memory_bytes=weights + optimiser + activations + logits + (0 if cuda else PROCESS_BYTES),
        seconds=12 + steps * batch_size * tokens_mean / speed,
        disk_bytes=file_bytes(saved),
        trainable_params=trained,
        total_params=total,
        batch_bytes=activations + logits,
    )
