"""Losses of texts that are there already, scored a few rows at a time under leases, and what tuned models forgot:
the shipped general text and questions through the base and through them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from playground.chat.batching import WAIT_S, Asked, Batches, Written, place_in_line
from playground.data.example import Example, Message
from playground.data.render import encode, render_example, render_prompt
from playground.engine.request import ROOM, Sampling, Score, ScoreRow
from playground.engine.request import TOGETHER as SCORED_TOGETHER
from playground.errors import PlaygroundError, RunFailedError
from playground.evaluation.forgetting import REPLY_TOKENS, Forgetting, Scored, material, pooled, right
from playground.gpu.manager import DeviceManager
from playground.library.card import AdapterCard
from playground.models.bases import BaseService, kv_bytes_per_token, retried
from playground.models.residents import Residents

LOGIT_BYTES = 128_000_000
"""About what the distributions that are held at once take, beside the rows' KV cache."""
LONGEST = 131_072
"""Tokens of a row, where nothing is to be cut: the engine says what does not fit."""
NO_DIVERGENCE = "a full fine-tune is a model of its own: its distribution and the base's are never in memory at once"


@dataclass(frozen=True)
class ToScore:
    """A text for a model. card: whose weights, None = the base. prompt, completion, divergence: as in ``ScoreRow``.
    Of a full fine-tune the divergence stays None (NO_DIVERGENCE says why); the base's loss is measured by the base
    in its turn."""

    card: AdapterCard | None
    prompt: str
    completion: str
    divergence: bool = False


@dataclass(frozen=True)
class Scoring:
    """How far it has come. scores: in the order of what was asked, None = not yet. waiting: its place in the
    device's queue, in words."""

    scores: tuple[Score | None, ...]
    waiting: str = ""

    @property
    def done(self) -> int:
        return sum(score is not None for score in self.scores)


class ScoringService:
    """Rows of one base and all its adapters are read together; a full fine-tune is a turn of its own. Where the
    device is lent for seconds at a time (ZeroGPU) the app's own process scores, on its processor."""

    def __init__(self, manager: DeviceManager, bases: BaseService, residents: Residents) -> None:
        self._manager, self._bases, self._residents = manager, bases, residents

    def rendered(self, messages: Sequence[Message], answer: str) -> tuple[str, str]:
        """(prompt, completion) of an answer to ``messages`` as training renders it, the end token included. Raises
        InputError."""
        example = Example((*messages, Message("assistant", answer)), 1)
        found = render_example(self._bases.tokenizer(), example, LONGEST)
        return found.prompt_text, found.completion_text

    def run(self, asked: Sequence[ToScore], session: str) -> Generator[Scoring, None, None]:
        """Score everything; yields how far it has come after every few rows, the last time with all of it. Closing it
        frees the device. Rows that share a text are best asked for one after another: the base reads it once for them.

        Raises InputError for a row that cannot be scored, AdapterError, BusyError when the queue is full,
        OutOfMemoryError.
        """
        found: list[Score | None] = [None] * len(asked)
        bases = [place for place, one in enumerate(asked) if one.card is None or one.card.kind != "full"]
        whole: dict[str, list[int]] = {}
        for place, one in enumerate(asked):
            if one.card is not None and one.card.kind == "full":
                whole.setdefault(one.card.id, []).append(place)
        yield Scoring(tuple(found))
        for waiting in self._turn([asked[place] for place in bases], bases, found, session):
            yield Scoring(tuple(found), waiting)
        for places in whole.values():
            own: list[Score | None] = [None] * len(asked)
            for waiting in self._turn([asked[place] for place in places], places, own, session):
                yield Scoring(tuple(found), waiting)
            base: list[Score | None] = [None] * len(asked)
            compared = [place for place in places if asked[place].divergence]
            plain = [ToScore(None, asked[place].prompt, asked[place].completion) for place in compared]
            for waiting in self._turn(plain, compared, base, session):
                yield Scoring(tuple(found), waiting)
            for place in places:
                score, beside = own[place], base[place]
                if score is not None:
                    found[place] = Score(score.tokens, score.loss, None, beside.loss if beside else None)
            yield Scoring(tuple(found))

    def _turn(
        self, asked: Sequence[ToScore], places: Sequence[int], found: list[Score | None], session: str
    ) -> Iterator[str]:
        """Rows of one model in memory, under one lease; fills ``found`` at their places. Yields its place in the
        queue, "" once it runs."""
        if not asked:
            return
        wanted = self._residents.wanted([one.card for one in asked])
        request = self._manager.request("measure", session, "Scoring", self._needs(asked), wanted)
        try:
            lease = request.wait(0)
            while lease is None:
                yield place_in_line(request)
                lease = request.wait(WAIT_S)
            with lease:
                for begin in range(0, len(asked), SCORED_TOGETHER):
                    part = asked[begin : begin + SCORED_TOGETHER]
                    for place, score in zip(places[begin : begin + SCORED_TOGETHER], self._score(part), strict=True):
                        found[place] = score
                    yield ""
            self._bases.account()
        finally:
            request.cancel()

    def _score(self, asked: Sequence[ToScore]) -> list[Score]:
        """Raises PlaygroundError, and nothing else. Out of memory: once more after idle models have left."""
        ready = [self._residents.ready(one.card) for one in asked]
        engine, adapters = ready[0][0], [adapter for _, adapter in ready]
        rows = [
            ScoreRow(one.prompt, one.completion, adapter, one.divergence)
            for one, adapter in zip(asked, adapters, strict=True)
        ]
        failed = f"Memory ran out while {len(rows)} texts were scored"
        try:
            return retried(lambda: engine.score(rows), self._manager, failed, "Shorten the texts")
        except PlaygroundError:
            raise
        except Exception as error:  # of torch or of a tokenizer: whoever asked is told
            raise RunFailedError(
                f"The engine stopped ({type(error).__name__}: {str(error)[:200]}). Try again."
            ) from error

    def _needs(self, asked: Sequence[ToScore]) -> int:
        """Bytes of the KV cache of the rows that are scored together, and of the distributions of some of their
        places."""
        tokenizer = self._bases.tokenizer()
        tokens = [
            sum(len(encode(tokenizer, text)) for text in (one.prompt, one.completion))
            + (one.card.virtual_tokens if one.card else 0)
            for one in asked
        ]
        return max(ROOM, *tokens) * kv_bytes_per_token(self._bases.resolve().path, 4) + LOGIT_BYTES


TOGETHER = 8
"""Questions that are asked in one batch."""
PASSAGES = 48
"""Passages that are read under one lease."""


@dataclass(frozen=True)
class Recalling:
    """How far it has come. done, of: passages read and questions answered, the base's among them. waiting: as in
    ``Scoring``. found: per card, in their order; filled when all of it is done."""

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
        """Measure tuned models against the base; yields how far it has come, the last time with ``found``. Closing
        it frees the device. Raises PlaygroundError."""
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
        before, of_questions = right(self._known[key], shipped.questions), len(shipped.questions)
        found = []
        for text, said in zip(texts, replies, strict=True):
            after, why = right(said, shipped.questions), "" if text.divergence is not None else NO_DIVERGENCE
            losses = (text.base_loss or 0.0, text.loss, text.tokens)
            found.append(Forgetting(*losses, before, after, of_questions, text.divergence, why))
        yield Recalling(of, of, "", tuple(found))

    def _ask(
        self, model: AdapterCard | None, questions: Sequence[str], said: list[str], session: str
    ) -> Generator[str, None, None]:
        """Answers of one batch, put behind ``said``; yields its place in the queue while it waits."""
        tokenizer, sampling = self._bases.tokenizer(), Sampling(max_tokens=REPLY_TOKENS)
        asked = [
            Asked(model, render_prompt(tokenizer, [Message("user", question)]), sampling) for question in questions
        ]
        written: list[Written] = []
        for written in self._batches.run(asked, session, "measure"):
            if failure := next((one.failure for one in written if one.failure is not None), None):
                raise failure
            if written[0].waiting:
                yield written[0].waiting
        said += [one.state.text for one in written]
