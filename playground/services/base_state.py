"""What is told about bases: how far one has come, and which may be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BaseState:
    """phase: fetching, converting, checking, loading, ready or failed. message: the same in words."""

    phase: str
    message: str
    spec: str
    done_bytes: int = 0
    total_bytes: int = 0
    fingerprint: str = ""

    @property
    def label(self) -> str:
        return label_of(self.spec)


@dataclass(frozen=True)
class BaseChoice:
    """A base one may choose. bytes: in memory, 0 = unknown until fetched. fits: whether it does; reason: why not."""

    spec: str
    label: str
    licence: str
    bytes: int
    fits: bool
    reason: str = ""


@dataclass(frozen=True)
class Fingerprint:
    """value: the weights as they are in memory now. unchanged: as at load. seconds: what the check took."""

    value: str
    unchanged: bool
    seconds: float


def label_of(spec: str) -> str:
    """A base's name for a person."""
    return Path(spec).name if spec.startswith(("/", ".", "~")) else spec


def words_of(phase: str, done: int, total: int) -> str:
    """What is being done to a base, for a person."""
    if phase == "fetching":
        return f"Fetching the base, {done // 1_000_000} of {total // 1_000_000} MB" if total else "Fetching the base"
    return {"converting": "Converting the base, about 50 s, once", "checking": "Checking the base"}.get(phase, "Loading the base")
