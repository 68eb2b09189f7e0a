"""Whether a side that reads documents says so when they do not hold the answer. Pure: the shipped questions, reading a reply, words.

The questions are our own and about people and places that are made up, so no documents answer them, and a reply that does is made up
too. Like the unanswerable questions of SQuAD 2.0 (Rajpurkar et al. 2018), but without the documents' own subject.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from playground.evaluation.intervals import wilson

FILE = Path(__file__).parent / "material" / "unanswerable_questions.jsonl"
REPLY_TOKENS = 40
"""The longest reply: who refuses does so in the first sentence."""
_NOT = r"(?:do(?:es)?|did|is|are|was|were|has|have|can|could|would|am)(?: not|n['’]t)|cannot"
_REFUSED = re.compile(
    "|".join(
        (
            rf"\b(?:{_NOT}|unable to|impossible to)(?: \w+)? (?:know|say|tell|find|answer|mention|state|specify|contain|include|determine|provide|see|indicate)",
            rf"\b(?:{_NOT}|not) (?:\w+ )?(?:mentioned|stated|specified|given|provided|available|known|found|recorded|contained|included|answered|determined)",
            r"\b(?:no|not enough|insufficient|any) (?:\w+ )?(?:information|mention|details?|records?|answer|data)\b",
            r"\b(?:not sure|unsure|unknown|no idea)\b",
        )
    ),
    re.IGNORECASE,
)


@cache
def questions() -> tuple[str, ...]:
    """The questions that ship with the project."""
    lines = FILE.read_text(encoding="utf-8").split("\n")
    return tuple(json.loads(line)["question"] for line in lines if line.strip())


def is_refusal(reply: str) -> bool:
    """Whether an English reply says that the answer is not known or not there. Read from set phrases, so a rare wording is missed."""
    return bool(_REFUSED.search(reply))


@dataclass(frozen=True)
class Refusals:
    """refused of asked questions, low and high: Wilson's 95 % interval of the share."""

    asked: int
    refused: int
    low: float
    high: float

    @property
    def words(self) -> str:
        if not self.refused:
            return f"It answered all {self.asked} questions that its documents cannot answer."
        return f"It said of {self.refused} of {self.asked} questions that its documents cannot answer that it does not know."

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"words": self.words}


def refusals(replies: Sequence[str]) -> Refusals:
    """Count them. Raises ValueError for no replies."""
    refused = sum(is_refusal(reply) for reply in replies)
    share = wilson(refused, len(replies))
    return Refusals(len(replies), refused, share.low, share.high)
