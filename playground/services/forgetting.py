"""What tuned models forgot: runs the shipped general text and questions through the base and through them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from playground.data.example import Message
from playground.data.render import render_prompt
from playground.engine.request import Sampling
from playground.engine.scoring import Score
from playground.evaluation.forgetting import REPLY_TOKENS, Forgetting, Scored, material, pooled, right
from playground.library.card import AdapterCard
from playground.services.bases import BaseService
from playground.services.batches import Asked, Batches
from playground.services.scoring import NO_DIVERGENCE, ScoringService, ToScore

TOGETHER = 8
"""Questions that are asked in one batch."""
PASSAGES = 48
"""Passages that are read under one lease."""


@dataclass(frozen=True)
class Recalling:
    """How far it has come. done, of: passages read and questions answered, the base's among them. waiting: as in ``Scoring``.
    found: per card, in their order; filled when all of it is done."""

    done: int
    of: int
    waiting: str = ""
    found: tuple[Forgetting, ...] = ()


class ForgettingService:
    """The base's answers are asked for once for each base, and kept while the app runs."""

    def __init__(self, bases: BaseService, batches: Batches, scoring: ScoringService) -> None:
        self._bases, self._batches, self._scoring = bases, batches, scoring
        self._known: dict[tuple[str, str], list[str]] = {}
        self._lock = threading.Lock()

    def measure(self, cards: Sequence[AdapterCard], session: str = "local") -> Generator[Recalling, None, None]:
        """Measure tuned models against the base; yields how far it has come, the last time with ``found``. Closing it frees the
        device. Raises PlaygroundError."""
        shipped = material()
        base = self._bases.resolve().fingerprint
        key = (base, shipped.sha256)
        models: list[AdapterCard | None] = [*([] if key in self._known else [None]), *cards]
        of = len(shipped.texts) * len(cards) + len(shipped.questions) * len(models)
        done = 0
        yield Recalling(0, of)
        # A passage with all models in turn, so that the base reads it once for those that are scored together.
        asked = [ToScore(card, "", text, divergence=True) for text in shipped.texts for card in cards]
        scores: list[Score] = []
        for begin in range(0, len(asked), PASSAGES):
            earlier = list(scores)
            for scoring in self._scoring.run(asked[begin : begin + PASSAGES], session):
                scores = [*earlier, *(score for score in scoring.scores if score is not None)]
                done = len(scores)
                yield Recalling(done, of, scoring.waiting)
        texts = [
            pooled([Scored(s.tokens, s.loss, s.base_loss, s.divergence) for s in scores[n :: len(cards)]])
            for n in range(len(cards))
        ]
        replies: list[list[str]] = []
        for model in models:
            said: list[str] = []
            for begin in range(0, len(shipped.questions), TOGETHER):
                questions = [one.question for one in shipped.questions[begin : begin + TOGETHER]]
                for waiting in self._ask(model, questions, said, session):
                    yield Recalling(done, of, waiting)
                done += len(questions)
                yield Recalling(done, of)
            if model is None:
                with self._lock:
                    self._known[key] = said
            else:
                replies.append(said)
        before = right(self._known[key], shipped.questions)
        found = [
            Forgetting(
                text.base_loss or 0.0, text.loss, text.tokens, before, right(said, shipped.questions), len(shipped.questions),
                text.divergence, "" if text.divergence is not None else NO_DIVERGENCE,
            )
            for text, said in zip(texts, replies, strict=True)
        ]  # fmt: skip
        yield Recalling(of, of, "", tuple(found))

    def _ask(
        self, model: AdapterCard | None, questions: Sequence[str], said: list[str], session: str
    ) -> Generator[str, None, None]:
        """Answers of one batch, put behind ``said``; yields its place in the queue while it waits."""
        tokenizer, sampling = self._bases.tokenizer(), Sampling(max_tokens=REPLY_TOKENS)
        asked = [Asked(model, render_prompt(tokenizer, [Message("user", question)]), sampling) for question in questions]
        written = []
        for written in self._batches.run(asked, session, "measure"):
            if failure := next((one.failure for one in written if one.failure is not None), None):
                raise failure
            if written[0].waiting:
                yield written[0].waiting
        said += [one.state.text for one in written]
