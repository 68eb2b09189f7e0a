"""What is asked of the engine and what comes back: plain values, no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from playground.errors import InputError

SEED_MAX = 2**31 - 1


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. temperature 0 = greedy; top_p = share of the probability kept; max_tokens = longest reply; seed."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 128
    seed: int = 7

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise InputError(f"The temperature is {self.temperature}; it goes from 0 (greedy) to 2.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"Top-p is {self.top_p}; it lies above 0 and at most 1.")
        if not 1 <= self.max_tokens <= 8192:
            raise InputError(f"The longest reply is {self.max_tokens} tokens; it goes from 1 to 8192.")
        if not 0 <= self.seed <= SEED_MAX:
            raise InputError(f"The seed is {self.seed}; it goes from 0 to {SEED_MAX}.")


@dataclass(frozen=True)
class Row:
    """One reply to write: the rendered prompt, the adapter's id (None = the base), and how to draw."""

    prompt: str
    adapter: str | None = None
    sampling: Sampling = Sampling()


@dataclass
class RowState:
    """How far a row has come. first_token_s and seconds count from the start of the batch; ``finish``: "" while it
    runs, then ``stop`` (the model ended it) or ``length``."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0
    finish: str = ""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as the engine needs it: id, folder, SHA-256 of its weights."""

    id: str
    path: Any
    sha256: str


def make_stamp(
    *,
    base: str,
    adapter: str | None,
    adapter_sha256: str | None,
    prompt: str,
    sampling: Sampling,
    dtype: str,
    device: str,
    rows: int,
) -> dict[str, Any]:
    """Everything that decides a reply's tokens: on the same device, dtype and number of rows they come again."""
    drawn = asdict(sampling)
    seed = drawn.pop("seed")
    return {
        "base": base,
        "adapter": adapter,
        "adapter_sha256": adapter_sha256,
        "prompt": {"text": prompt, "sha256": hashlib.sha256(prompt.encode()).hexdigest()},
        "sampling": drawn,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "rows": rows,
    }


def stamp_hash(stamp: dict[str, Any]) -> str:
    """Twelve hex digits that stand for a stamp; the page shows the first four."""
    return hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:12]
