"""What a tuned model forgot, and whether a side with documents says what they cannot answer. The unanswerable questions
are about what is made up, as in SQuAD 2.0 (Rajpurkar et al. 2018), but without the documents' own subject."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from playground.evaluation.statistics import Tally, bootstrap, mean, newcombe_paired, wilson

MATERIAL = Path(__file__).parent / "material"
REPLY_TOKENS = 16  # the longest reply to a general question, drawn greedily
REFUSALS_REPLY_TOKENS = 40  # the longest reply to an unanswerable one: who refuses does so in the first sentence
LOSS_NOISE = 0.02  # nats a token below which a change of loss is not spoken of
_NOT = r"(?:do(?:es)?|did|is|are|was|were|has|have|can|could|would|am)(?: not|n['’]t)|cannot"
_REFUSED = re.compile(
    rf"\b(?:{_NOT}|unable to|impossible to)(?: \w+)? (?:know|say|tell|find|answer|mention|state|specify|contain"
    r"|include|determine|provide|see|indicate)"
    rf"|\b(?:{_NOT}|not) (?:\w+ )?(?:mentioned|stated|specified|given|provided|available|known|found|recorded"
    r"|contained|included|answered|determined)"
    r"|\b(?:no|not enough|insufficient|any) (?:\w+ )?(?:information|mention|details?|records?|answer|data)\b"
    r"|\b(?:not sure|unsure|unknown|no idea)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Question:
    """answers: the accepted spellings; case does not matter."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """texts: passages that are scored as they stand. sha256: of both files, which figures are told by."""

    texts: tuple[str, ...]
    questions: tuple[Question, ...]
    sha256: str


def _rows(file: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.splitlines() if line.strip()]


@cache
def material() -> Material:
    """The passages and general questions that ship with the project."""
    files = [(MATERIAL / name).read_bytes() for name in ("general_text.jsonl", "general_questions.jsonl")]
    texts, asked = (_rows(file) for file in files)
    questions = tuple(Question(row["question"], tuple(row["answers"])) for row in asked)
    return Material(tuple(row["text"] for row in texts), questions, sha256(b"\n".join(files)).hexdigest())


@cache
def questions() -> tuple[str, ...]:
    """The unanswerable questions that ship with the project."""
    return tuple(row["question"] for row in _rows((MATERIAL / "unanswerable_questions.jsonl").read_bytes()))


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether one of the accepted answers stands in the reply as a word of its own."""
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", reply, re.IGNORECASE) for answer in answers)


def _between(found: Sequence[float], form: str, what: str = "") -> str:
    return f" ({what}{found[1]:{form}} to {found[2]:{form}})" if found else ""


def marks(replies: Sequence[str], questions: Sequence[Question]) -> list[bool]:
    """Which of the questions are answered rightly; replies in their order."""
    return [is_right(reply, asked.answers) for reply, asked in zip(replies, questions, strict=True)]


def harder(texts: Sequence[tuple[float, float, int]]) -> tuple[float, ...]:
    """By how much the loss of passages grew, nats a token, and the ends of its 95 % interval. texts: (loss before, loss
    after, tokens) of each; () for none."""
    if not texts:
        return ()
    before, after = (
        Tally(np.array([(text[at] * text[2], text[2]) for text in texts], dtype=float), mean) for at in (0, 1)
    )
    found = bootstrap(after, before)
    return found.value, found.low, found.high


def lost(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, ...]:
    """Points of questions lost, and the ends of the 95 % interval; () for none."""
    if not before:
        return ()
    found = newcombe_paired(before, after)
    return 100 * found.value, 100 * found.low, 100 * found.high


@dataclass(frozen=True)
class Forgetting:
    """Before = the base, after = the tuned model. loss_*: mean nats a token on the general text (tokens of it).
    right_*: questions answered rightly, of ``questions``. divergence: KL(tuned || base) over the same places, mean nats
    a token; None with the reason in ``no_divergence``. harder: by how much the loss grew, with the two ends of its 95 %
    interval (bootstrap over the passages); lost: the same of the points of questions lost (Newcombe 1998, paired);
    () = a record of a time before these."""

    loss_before: float
    loss_after: float
    tokens: int
    right_before: int
    right_after: int
    questions: int
    divergence: float | None = None
    no_divergence: str = ""
    harder: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()

    @property
    def words(self) -> str:
        """One sentence for a person."""
        change = self.loss_after - self.loss_before
        text = "General text is as easy for it as before"
        if abs(change) >= LOSS_NOISE:
            text = f"General text is {'harder' if change > 0 else 'easier'} by {abs(change):.2f} nats a token"
        right = f"{self.right_after} of {self.questions} general questions are answered rightly"
        lost = _between(self.lost, ".0f", "points lost: ")
        return f"{text}{_between(self.harder, '.2f')}; {right}, {self.right_before} before{lost}."


def is_refusal(reply: str) -> bool:
    """Whether an English reply says, in one of the usual phrases, that the answer is not known or not there."""
    return bool(_REFUSED.search(reply))


def refusals(replies: Sequence[str]) -> dict[str, Any]:
    """How many replies refuse, with Wilson's 95 % interval of the share, and words. Raises ValueError for none."""
    asked, refused = len(replies), sum(is_refusal(reply) for reply in replies)
    share = wilson(refused, asked)
    said = f"It said of {refused} of {asked} questions that its documents cannot answer that it does not know."
    words = said if refused else f"It answered all {asked} questions that its documents cannot answer."
    return {"asked": asked, "refused": refused, "low": share.low, "high": share.high, "words": words}
