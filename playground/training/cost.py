"""What an objective asks of a batch beyond its rows: more rows, a second model, replies to write. Pure, for planning and training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from playground.methods.method import Method
from playground.methods.options import NO_OPTIONS, Options
from playground.methods.shapes import Shapes, weights_in
from playground.training.estimate import Estimate, estimate

REPLIES = 4
"""Replies to each prompt that grpo compares."""
SHORTEST_REPLY, LONGEST_REPLY = 64, 256
"""Tokens that grpo lets a reply have: from the first on what the file's own answers need, up to the second."""

RATES = {"sft": 1.0, "pretrain": 1.0, "dpo": 0.1, "kto": 0.1, "orpo": 0.4, "reward": 0.3, "grpo": 0.1}
"""Learning rate as a share of the method's own, which is for sft. In the papers: dpo 1e-6 to 5e-6 and orpo 8e-6 beside 2e-5."""


@dataclass(frozen=True)
class Cost:
    """rows: how many run through the model for one row of a batch. passes: what a step takes, in trainings of one row.

    reference: a whole second model where the method trains every weight. logits_of_all: of prompts too, not of answers alone.
    held: activations and logits that a step holds, in those of sft over as many rows: what TRL's trainers keep beside them, from the peaks of
    benchmarks/results/objectives.json (three steps) and grpo_six_steps.json (forty: replies of ever other
    lengths leave gaps behind).
    """

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


def rows_a_step(objective: str, batch_size: int) -> int:
    """Rows that a step really takes: kto compares two at least, grpo takes whole groups of replies."""
    if objective == "grpo":
        return REPLIES * -(-batch_size // REPLIES)
    return max(2, batch_size) if objective == "kto" else batch_size


def reply_tokens(answers: Iterable[int], max_tokens: int) -> int:
    """How long grpo lets a reply become, from the token counts of the file's own answers: a quarter more than 95 in a hundred need, and
    half of a row at most."""
    lengths = sorted(answers)
    needed = lengths[int(0.95 * (len(lengths) - 1))] * 5 // 4 if lengths else 0
    return min(LONGEST_REPLY, max(SHORTEST_REPLY, needed), max_tokens // 2)


def needs(
    objective: str, shapes: Shapes, method: Method, *, rank: int, steps: int, batch_size: int, tokens_p95: int, tokens_mean: float,
    answer_max: int, tokens_per_s: float | None = None, options: Options = NO_OPTIONS, reward_models: int = 0,
    flat: bool = False, cuda: bool = False,
) -> Estimate:  # fmt: skip
    """``estimate`` for an objective. tokens_per_s: as a run of this objective measured it. reward_models: how many it is rewarded by.
    flat: whether the base is one of ``families.written_out``. cuda: see ``estimate``."""
    cost = COSTS[objective]
    rows = rows_a_step(objective, batch_size) * cost.rows
    found = estimate(
        shapes, method, rank=rank, steps=steps, batch_size=rows, tokens_p95=tokens_p95,
        tokens_mean=tokens_mean if tokens_per_s else tokens_mean * cost.passes / cost.rows,
        answer_max=tokens_p95 if cost.logits_of_all else answer_max, tokens_per_s=tokens_per_s, options=options,
        flat=flat and objective == "sft" and not method.virtual, cuda=cuda,
    )  # fmt: skip
    more = reward_models * (2 if cuda else 4) + (4 if cost.reference and method.whole else 0)  # bytes a weight of the base
    held = int((cost.held - 1) * found.batch_bytes)
    memory = found.memory_bytes + held + more * weights_in(shapes)
    return replace(found, memory_bytes=memory, batch_bytes=found.batch_bytes + held)
