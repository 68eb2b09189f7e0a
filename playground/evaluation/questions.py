"""What goes into the choice beside the figures, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from playground.errors import InputError

SideKind = Literal["base", "prompt", "few-shot", "documents", "tuned", "tuned+documents"]
Answer = Literal["prompt", "few-shot", "documents", "fine-tune", "fine-tune+documents", "not-enough-evidence"]
Changes = Literal["never", "monthly", "weekly"]
CHANGES: tuple[Changes, ...] = ("never", "monthly", "weekly")

SIMPLEST: tuple[SideKind, ...] = ("prompt", "base", "few-shot", "documents", "tuned", "tuned+documents")
"""The kinds, the simplest to keep first. Of a prompt and the bare base that do equally well, the prompt is what people know."""
UNTUNED: tuple[SideKind, ...] = ("base", "prompt", "few-shot", "documents")
TUNED: tuple[SideKind, ...] = ("tuned", "tuned+documents")
ANSWERS: dict[SideKind, Answer] = {
    "base": "prompt", "prompt": "prompt", "few-shot": "few-shot", "documents": "documents",
    "tuned": "fine-tune", "tuned+documents": "fine-tune+documents",
}  # fmt: skip
"""What keeping a side means. A plain base that does it needs no training either, so it counts as prompting."""
WORDS: dict[Answer, str] = {
    "prompt": "Keep the prompt", "few-shot": "Show it examples", "documents": "Give it documents", "fine-tune": "Fine-tune",
    "fine-tune+documents": "Fine-tune and give it documents", "not-enough-evidence": "Not enough evidence",
}  # fmt: skip


@dataclass(frozen=True)
class Questions:
    """What a person answers. volume: requests a month, None = not said. changes: how often the task does. latency_s: the most seconds that
    an answer may take. budget: the most that training may cost, in the prices' currency. None = no limit. Raises InputError."""

    volume: int | None = None
    changes: Changes = "never"
    latency_s: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value!r}; it takes a number from 0"
            for name, value in (("volume", self.volume), ("latency_s", self.latency_s), ("budget", self.budget))
            if value is not None and not value >= 0
        ]
        if self.changes not in CHANGES:
            faults.append(f"changes is {self.changes!r}; there are {', '.join(CHANGES)}")
        if faults:
            raise InputError("The answers cannot be used: " + "; ".join(faults) + ".")


@dataclass(frozen=True)
class Facts:
    """rows_trained: examples that the tuned sides learned from, None = not known. poor_share: of these, bad, repeated or contradictory
    ones, 0 to 1. overlap: test examples that a tuned side was trained on. currency: of the costs."""

    rows_trained: int | None = None
    poor_share: float = 0.0
    overlap: int = 0
    currency: str = "USD"


NO_FACTS = Facts()


@dataclass(frozen=True)
class Reason:
    """One sentence, its number, and the id of the figure that it comes from (``wording`` makes these)."""

    text: str
    number: float | None
    link: str


@dataclass(frozen=True)
class Choice:
    """choice: the answer. sentence: for a person. reasons: in the order they came up. runner_up: the next best answer, or None. side: the
    side chosen, None without evidence. rule: number of the rule that decided (``choose``). rows_needed: test examples that would tell,
    where there is not enough evidence; None = more than anybody writes."""

    choice: Answer
    sentence: str
    reasons: tuple[Reason, ...]
    runner_up: Answer | None
    side: str | None
    rule: int
    rows_needed: int | None = None
