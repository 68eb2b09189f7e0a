"""What a tuned model forgot, and whether a side with documents says what they cannot answer.

The texts and questions are our own and ship with the app. General questions have answers of few words; a reply is right
when one of the accepted spellings stands in it as a word. The unanswerable ones are about people and places that are
made up, as in SQuAD 2.0 (Rajpurkar et al. 2018), but without the documents' own subject.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from playground.evaluation.statistics import wilson

MATERIAL = Path(__file__).parent / "material"
REPLY_TOKENS = 16
"""The longest reply to a question, drawn greedily."""
LOSS_NOISE = 0.02
"""Nats a token below which a change of loss is not spoken of."""


@dataclass(frozen=True)
class Question:
    """answers: the accepted spellings; case does not matter."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """texts: passages that are scored as they stand. sha256: of both files, so that figures can say what they were
    measured on."""

    texts: tuple[str, ...]
    questions: tuple[Question, ...]
    sha256: str


@cache
def material() -> Material:
    """The passages and questions that ship with the project."""
    files = [(MATERIAL / name).read_bytes() for name in ("general_text.jsonl", "general_questions.jsonl")]
    texts, questions = ([json.loads(line) for line in file.splitlines() if line.strip()] for file in files)
    return Material(
        tuple(row["text"] for row in texts),
        tuple(Question(row["question"], tuple(row["answers"])) for row in questions),
        sha256(b"\n".join(files)).hexdigest(),
    )


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether one of the accepted answers stands in the reply as a word of its own."""
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", reply, re.IGNORECASE) for answer in answers)


def right(replies: Sequence[str], questions: Sequence[Question]) -> int:
    """How many of the questions are answered rightly; replies in their order."""
    return sum(is_right(reply, asked.answers) for reply, asked in zip(replies, questions, strict=True))


@dataclass(frozen=True)
class Scored:
    """A passage's figures, as ``engine.scoring.Score`` has them: means over its tokens, in nats. None = not
    measured."""

    tokens: int
    loss: float
    base_loss: float | None = None
    divergence: float | None = None


def pooled(scores: Sequence[Scored]) -> Scored:
    """Many passages as one long text: means weighted by tokens. A figure that one of them lacks is None for all."""
    tokens = sum(score.tokens for score in scores)

    def mean(values: Sequence[float | None]) -> float | None:
        if not tokens or any(value is None for value in values):
            return None
        return (
            sum(value * score.tokens for value, score in zip(values, scores, strict=True) if value is not None) / tokens
        )

    loss = mean([score.loss for score in scores])
    return Scored(
        tokens, loss or 0.0, mean([score.base_loss for score in scores]), mean([score.divergence for score in scores])
    )


@dataclass(frozen=True)
class Forgetting:
    """Before = the base, after = the tuned model.

    loss_*: mean nats a token on the general text (tokens of it). right_*: questions answered rightly, of ``questions``.
    divergence: KL(tuned || base) over the same places, mean nats a token; None with the reason in ``no_divergence``.
    """

    loss_before: float
    loss_after: float
    tokens: int
    right_before: int
    right_after: int
    questions: int
    divergence: float | None = None
    no_divergence: str = ""

    @property
    def loss_change(self) -> float:
        """Nats a token; above 0 the general text has become harder."""
        return self.loss_after - self.loss_before

    @property
    def words(self) -> str:
        """One sentence for a person."""
        change = self.loss_change
        if abs(change) < LOSS_NOISE:
            text = "General text is as easy for it as before"
        else:
            text = f"General text is {'harder' if change > 0 else 'easier'} by {abs(change):.2f} nats a token"
        said = (
            f"{self.right_after} of {self.questions} general questions are answered rightly, {self.right_before} before"
        )
        return f"{text}; {said}."


FILE = Path(__file__).parent / "material" / "unanswerable_questions.jsonl"
REFUSALS_REPLY_TOKENS = 40
"""The longest reply: who refuses does so in the first sentence."""
_NOT = r"(?:do(?:es)?|did|is|are|was|were|has|have|can|could|would|am)(?: not|n['’]t)|cannot"
_REFUSED = re.compile(
    "|".join(
        (
            rf"\b(?:{_NOT}|unable to|impossible to)(?: \w+)? (?:know|say|tell|find|answer|mention|state|specify|contain"
            r"|include|determine|provide|see|indicate)",
            rf"\b(?:{_NOT}|not) (?:\w+ )?(?:mentioned|stated|specified|given|provided|available|known|found|recorded"
            r"|contained|included|answered|determined)",
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
    """Whether an English reply says that the answer is not known or not there. Read from set phrases, so a rare wording
    is missed."""
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
        of = f"{self.refused} of {self.asked} questions that its documents cannot answer"
        return f"It said of {of} that it does not know."

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"words": self.words}


def refusals(replies: Sequence[str]) -> Refusals:
    """Count them. Raises ValueError for no replies."""
    refused = sum(is_refusal(reply) for reply in replies)
    share = wilson(refused, len(replies))
    return Refusals(len(replies), refused, share.low, share.high)
