"""What a run will need, before it starts: memory, time and disk, from the base's shapes and the run's settings.

Memory = weights + what the method keeps a weight it trains (gradient, two Adam moments) + activations of one batch +
logits of the answers + the process itself. Constants were fitted to measured peaks of LoRA runs
(benchmarks/results/memory_estimate.json).
"""

from __future__ import annotations

from dataclasses import dataclass

from playground.methods.method import Method, Shapes, linear_shapes, total_weights

PROCESS_BYTES = 1_050_000_000
ACTIVATION_FACTOR = 3.6
"""Kept for the backward pass: floats per output of every linear layer (outputs, norms, attention, copies)."""
NF4_BYTES = 0.57
"""Bytes a quantised weight, with its scales (Dettmers et al. 2023)."""
DEFAULT_TOKENS_PER_S = 130.0
"""Measured on two CPU cores with the default base; replaced by what finished runs on this machine really did."""
DEFAULT_BODY = 106_200_000


@dataclass(frozen=True)
class Estimate:
    """memory_bytes: peak. seconds: from start to the finished adapter. disk_bytes: the result. Counts of weights."""

    memory_bytes: int
    seconds: float
    disk_bytes: int
    trainable_params: int
    total_params: int


def estimate(
    shapes: Shapes, method: Method, *, rank: int, steps: int, batch_size: int, tokens_p95: int, tokens_mean: float, answer_max: int,
    tokens_per_s: float | None = None, weight_bytes: int = 4,
) -> Estimate:  # fmt: skip
    """Estimate a run. tokens_p95, tokens_mean: prompt and answer of a row; answer_max: the longest answer; weight_bytes: 4 in fp32."""
    total = total_weights(shapes)
    trained = method.trains(shapes, rank)
    linears = linear_shapes(shapes)
    body = sum(rows * columns for rows, columns in linears)
    vocabulary = max((shape[0] for shape in shapes.values() if len(shape) == 2), default=0)
    weights = total * weight_bytes
    if method.quantised:
        weights = int(body * NF4_BYTES + (total - body) * weight_bytes)
    optimiser = trained * (3 * 4 + (0 if method.rank is None else 4))
    activations = int(batch_size * tokens_p95 * sum(rows for rows, _ in linears) * 4 * ACTIVATION_FACTOR)
    logits = batch_size * (answer_max + 1) * vocabulary * 4 * 3
    speed = tokens_per_s or DEFAULT_TOKENS_PER_S * DEFAULT_BODY / max(body, 1) * (0.75 if method.rank is None else 1.0)
    return Estimate(
        memory_bytes=weights + optimiser + activations + logits + PROCESS_BYTES,
        seconds=12 + steps * batch_size * tokens_mean / speed,
        disk_bytes=trained * 4,
        trainable_params=trained,
        total_params=total,
    )
