"""Which smaller setting would fit? Pure: a run's figures and the base's shapes in, a setting out.

1. Fewer rows a step, halved until it fits.
2. A shorter limit at one row a step, halved down to a quarter of what the rows have now.
3. Another method that keeps less in memory, with as many rows as then fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from playground.methods import all_methods, get_method
from playground.methods.method import Method
from playground.methods.options import NO_OPTIONS
from playground.methods.shapes import Shapes
from playground.training.cost import needs
from playground.training.spec import RunSpec

SURE = 0.9
"""An estimate may be off by a tenth; so much less than what was too much, or than what there is, is asked for."""
SHORTEST = 32
"""Tokens; below that few prompts keep their question."""
_LIGHTER = {"full": ("lora", "qlora")}


@dataclass(frozen=True)
class Setting:
    """What to set in place of the run's own. memory_bytes: the estimate for it."""

    method: str
    batch_size: int
    max_tokens: int
    memory_bytes: int

    def words(self, spec: RunSpec) -> str:
        """The sentence, with the names of the command line beside those of the page."""
        parts = []
        if self.method != spec.method:
            parts.append(f"{get_method(self.method).label} (--method {self.method})")
        if self.batch_size != spec.batch_size:
            rows = "one row" if self.batch_size == 1 else f"{self.batch_size} rows"
            parts.append(f"a batch of {rows} (--batch-size {self.batch_size})")
        if self.max_tokens != spec.max_tokens:
            parts.append(f"a limit of {self.max_tokens} tokens (--max-tokens {self.max_tokens})")
        return f"Start it with {' and '.join(parts)}: that needs about {self.memory_bytes / 1e9:.1f} GB."


def smaller(spec: RunSpec, shapes: Shapes, there_bytes: int, flat: bool = False, cuda: bool = False) -> Setting | None:
    """The nearest smaller setting that should fit ``there_bytes``; None when even the smallest does not.
    flat, cuda: see ``needs``."""
    asked = estimated(spec, shapes, spec.method, spec.batch_size, spec.max_tokens, flat, cuda)
    goal = SURE * min(asked, there_bytes)
    for method, batch_size, max_tokens in _candidates(spec):
        needs = estimated(spec, shapes, method, batch_size, max_tokens, flat, cuda)
        if needs <= goal:
            return Setting(method, batch_size, max_tokens, needs)
    return None


def smallest_bytes(spec: RunSpec, shapes: Shapes, flat: bool = False, cuda: bool = False) -> int:
    """What the smallest of all settings needs. flat, cuda: see ``needs``."""
    return min(estimated(spec, shapes, *candidate, flat, cuda) for candidate in _candidates(spec))


def estimated(
    spec: RunSpec, shapes: Shapes, method: str, batch_size: int, max_tokens: int, flat: bool = False, cuda: bool = False
) -> int:
    """The estimate of a run like ``spec`` with these settings, in bytes."""
    chosen: Method = get_method(method)
    same = method == spec.method
    rank = 0 if chosen.rank is None else (spec.rank if same else 0) or chosen.rank
    longest = min(spec.tokens_p95 or spec.max_tokens, max_tokens)
    return needs(
        spec.objective, shapes, chosen, rank=rank, steps=spec.steps, batch_size=min(batch_size, spec.rows or batch_size), tokens_p95=longest, tokens_mean=float(longest),
        answer_max=min(spec.answer_max or longest // 2, max_tokens), options=spec.method_options if same else NO_OPTIONS,
        reward_models=spec.reward_models, flat=flat, cuda=cuda,
    ).memory_bytes  # fmt: skip


def _candidates(spec: RunSpec) -> Iterator[tuple[str, int, int]]:
    limit = spec.max_tokens
    batch = min(spec.batch_size, spec.rows or spec.batch_size)  # more rows than there are never come together
    yield from ((spec.method, rows, limit) for rows in _halves(batch // 2, 1))
    longest = min(spec.tokens_p95 or limit, limit)
    floor = max(SHORTEST, longest // 4)
    yield from ((spec.method, 1, tokens) for tokens in _halves(longest // 2, floor))
    for method in _LIGHTER.get(spec.method, ("qlora",)):
        if method != spec.method and method in all_methods():
            yield from ((method, rows, limit) for rows in _halves(batch, 1))


def _halves(start: int, end: int) -> Iterator[int]:
    while start >= end and start >= 1:
        yield start
        start //= 2
