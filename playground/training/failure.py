"""Why a run failed, in one sentence and by kind (memory, disk, other), and which smaller setting would have fitted.
Pure but for the disk.

``oom_advice``, from a run's figures and the base's shapes:
1. Fewer rows a step, halved until it fits.
2. A shorter limit at one row a step, halved down to a quarter of what the rows have now.
3. Another method that keeps less in memory, with as many rows as then fit.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playground.errors import PlaygroundError
from playground.methods import all_methods, get_method
from playground.methods.method import NO_OPTIONS, Shapes
from playground.plain import size
from playground.training.spec import WHOLE_BATCH, RunSpec, needs

MEMORY, DISK, OTHER = "memory", "disk", "other"
_DISK_NUMBERS = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_DISK_SIGNS = (
    *("no space left on device", "disk quota exceeded", "file too large", "database or disk is full", "iostream error"),
    *("pytorchstreamwriter failed", "file write failed", "unexpected pos", "(os error 28)", "(os error 27)"),
)
_MEMORY_SIGNS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc"),
    *(
        "alloc_failed",
        "outofmemory",
        "memoryerror",
        "unable to mmap",
        "failed to map segment",
        "thread creation failed",
        "can't start new thread",
    ),
)
SURE = 0.9
"""An estimate may be off by a tenth: advice stays below that share of what was too much, and of what there is."""
SHORTEST = 32  # tokens; below that few prompts keep their question


def explain(error: BaseException, spec: RunSpec | None, run_dir: Path) -> tuple[str, str]:
    """(``memory``, ``disk`` or ``other``; for a person what an exception in a worker means). Its causes count too."""
    reason = reason_of(error)
    if reason == DISK:
        return DISK, disk_words(run_dir, spec.disk_bytes if spec else 0)
    if reason == MEMORY:
        rows = f" at {spec.batch_size} rows a step" if spec else ""
        return MEMORY, f"The device ran out of memory{rows}."
    if isinstance(error, PlaygroundError):
        return OTHER, str(error)
    text = str(error).strip().splitlines()[0][:240] if str(error).strip() else "no message"
    return OTHER, f"Training stopped: {type(error).__name__}: {text}"


def reason_of(error: BaseException) -> str:
    """``memory``, ``disk`` or ``other``, by the error or what it came from."""
    seen: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in seen:
        if isinstance(now, OSError) and now.errno in _DISK_NUMBERS:
            return DISK
        if isinstance(now, MemoryError) or (isinstance(now, OSError) and now.errno == errno.ENOMEM):
            return MEMORY
        if not isinstance(now, PlaygroundError) and (reason := reason_in(str(now))) != OTHER:
            return reason
        seen.append(now)
        now = now.__cause__ or now.__context__
    return OTHER


def reason_in(text: str) -> str:
    """The same, from the text of a library's error or of a log."""
    text = text.lower()
    if any(sign in text for sign in _DISK_SIGNS):
        return DISK
    return MEMORY if any(sign in text for sign in _MEMORY_SIGNS) else OTHER


def disk_words(folder: Path, needs_bytes: int) -> str:
    """The sentence for a full disk. needs_bytes: what a run writes, about; 0 = unknown."""
    try:
        free = f": {size(shutil.disk_usage(folder).free)} free"
    except OSError:
        free = ""
    needs = f", the run needs about {size(needs_bytes)}" if needs_bytes else ""
    return f"The disk is full{free}{needs}. Free some space (runs and adapters can be deleted), then resume the run."


@dataclass(frozen=True)
class Setting:
    """What to set in place of the run's own. memory_bytes: the estimate for it."""

    method: str
    batch_size: int
    accumulate: int
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
        if self.accumulate > spec.accumulate:
            parts.append(f"its batch computed in {self.accumulate} parts (--accumulate {self.accumulate})")
        if self.max_tokens != spec.max_tokens:
            parts.append(f"a limit of {self.max_tokens} tokens (--max-tokens {self.max_tokens})")
        return f"Start it with {' and '.join(parts)}: that needs about {self.memory_bytes / 1e9:.1f} GB."


def oom_advice(spec: RunSpec, shapes: Shapes, there_bytes: int, **place: bool) -> Setting | None:
    """The nearest smaller setting that should fit ``there_bytes``, None = none. place: packed and cuda of ``needs``."""
    goal = SURE * min(
        estimated(spec, shapes, spec.method, spec.batch_size, spec.accumulate, spec.max_tokens, **place), there_bytes
    )
    smaller = (Setting(*one, estimated(spec, shapes, *one, **place)) for one in _candidates(spec))
    return next((setting for setting in smaller if setting.memory_bytes <= goal), None)


def smallest_bytes(spec: RunSpec, shapes: Shapes, **place: bool) -> int:
    return min(estimated(spec, shapes, *candidate, **place) for candidate in _candidates(spec))


def estimated(
    spec: RunSpec, shapes: Shapes, method: str, batch_size: int, accumulate: int, max_tokens: int, /, **place: bool
) -> int:
    """The estimate of a run like ``spec`` with these settings, in bytes."""
    chosen, same = get_method(method), method == spec.method
    rank = 0 if chosen.rank is None else (spec.rank if same else 0) or chosen.rank
    longest = min(spec.tokens_p95 or spec.max_tokens, max_tokens)
    return needs(
        spec.objective,
        shapes,
        chosen,
        rank=rank,
        steps=spec.steps,
        batch_size=min(batch_size, spec.rows or batch_size),
        accumulate=accumulate,
        tokens_p95=longest,
        tokens_mean=float(longest),
        answer_max=min(spec.answer_max or longest // 2, max_tokens),
        options=spec.method_options if same else NO_OPTIONS,
        reward_models=spec.reward_models,
        **place,
    ).memory_bytes


def _candidates(spec: RunSpec) -> Iterator[tuple[str, int, int, int]]:
    """Method, rows a step, parts that they are computed in, tokens. Parts come first: they change nothing learned."""
    limit = spec.max_tokens
    batch = min(spec.batch_size, spec.rows or spec.batch_size)  # more rows than there are never come together
    if spec.objective in WHOLE_BATCH:
        steps = [(rows, 1) for rows in (spec.batch_size, *_halves(batch // 2, 1))]
    else:
        parts = (many for many in range(spec.accumulate + 1, batch + 1) if spec.batch_size % many == 0)
        steps = [(spec.batch_size, many) for many in (spec.accumulate, *parts)]
    yield from ((spec.method, *step, limit) for step in steps[1:])
    longest = min(spec.tokens_p95 or limit, limit)
    floor = max(SHORTEST, longest // 4)
    yield from ((spec.method, *steps[-1], tokens) for tokens in _halves(longest // 2, floor))
    for method in get_method(spec.method).lighter:
        if method != spec.method and method in all_methods():
            yield from ((method, *step, limit) for step in steps)


def _halves(start: int, end: int) -> Iterator[int]:
    while start >= end and start >= 1:
        yield start
        start //= 2
