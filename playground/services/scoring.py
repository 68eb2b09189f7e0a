"""Texts under leases: what models think of texts that are there already, a few rows at a time, so that it can be stopped in between."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.example import Example, Message
from playground.data.render import encode, render_example
from playground.engine.scoring import ROOM, TOGETHER, Score, ScoreRow
from playground.errors import PlaygroundError, RunFailedError
from playground.gpu.manager import DeviceManager, Request
from playground.library.card import AdapterCard
from playground.services.bases import BaseService, kv_bytes_per_token
from playground.services.batches import WAIT_S
from playground.services.memory import retried
from playground.services.residents import Residents
from playground.services.words import ordinal

LOGIT_BYTES = 128_000_000
"""What the distributions of the places that are held at once take, about, beside the rows' keys and values."""
LONGEST = 131_072
"""Tokens of a row, where nothing is to be cut: the engine says what does not fit."""
NO_DIVERGENCE = "a full fine-tune is a model of its own: its distribution and the base's are never in memory at once"


@dataclass(frozen=True)
class ToScore:
    """A text for a model. card: whose weights, None = the base. prompt, completion, divergence: as in ``ScoreRow``. Of a full
    fine-tune the divergence stays None (NO_DIVERGENCE says why); the base's loss is measured by the base in its turn."""

    card: AdapterCard | None
    prompt: str
    completion: str
    divergence: bool = False


@dataclass(frozen=True)
class Scoring:
    """How far it has come. scores: in the order of what was asked, None = not yet. waiting: its place in the device's queue, in words."""

    scores: tuple[Score | None, ...]
    waiting: str = ""

    @property
    def done(self) -> int:
        return sum(score is not None for score in self.scores)


class ScoringService:
    """Rows of one base and all its adapters are read together; a full fine-tune is a turn of its own. Where the device is lent for
    seconds at a time (ZeroGPU) the app's own process scores, on its processor."""

    def __init__(self, manager: DeviceManager, bases: BaseService, residents: Residents) -> None:
        self._manager, self._bases, self._residents = manager, bases, residents

    def rendered(self, messages: Sequence[Message], answer: str) -> tuple[str, str]:
        """(prompt, completion) of an answer to ``messages`` as training renders it, the end token included. Raises InputError."""
        example = Example((*messages, Message("assistant", answer)), 1)
        found = render_example(self._bases.tokenizer(), example, LONGEST)
        return found.prompt_text, found.completion_text

    def run(self, asked: Sequence[ToScore], session: str) -> Generator[Scoring, None, None]:
        """Score everything; yields how far it has come after every few rows, the last time with all of it. Closing it frees the
        device. Rows that share a text are best asked for one after another: the base reads it once for them.

        Raises InputError for a row that cannot be scored, AdapterError, BusyError when the queue is full, OutOfMemoryError.
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

    def _turn(self, asked: Sequence[ToScore], places: Sequence[int], found: list[Score | None], session: str) -> Iterator[str]:
        """Rows of one model in memory, under one lease; fills ``found`` at their places. Yields its place in the queue, "" once it runs."""
        if not asked:
            return
        wanted = self._residents.wanted([one.card for one in asked])
        request = self._manager.request("measure", session, "Scoring", self._needs(asked), wanted)
        try:
            lease = request.wait(0)
            while lease is None:
                yield _place(request)
                lease = request.wait(WAIT_S)
            with lease:
                for begin in range(0, len(asked), TOGETHER):
                    part = asked[begin : begin + TOGETHER]
                    for place, score in zip(places[begin : begin + TOGETHER], self._score(part), strict=True):
                        found[place] = score
                    yield ""
            self._bases.account()
        finally:
            request.cancel()

    def _score(self, asked: Sequence[ToScore]) -> list[Score]:
        """Raises PlaygroundError, and nothing else. Out of memory: once more after idle models have left."""
        ready = [self._residents.ready(one.card) for one in asked]
        engine: Any = ready[0][0]
        rows = [
            ScoreRow(one.prompt, one.completion, adapter, one.divergence) for one, (_, adapter) in zip(asked, ready, strict=True)
        ]
        failed = f"Memory ran out while {len(rows)} texts were scored"
        try:
            scores: list[Score] = retried(lambda: engine.score(rows), self._manager, failed, "Shorten the texts")
        except PlaygroundError:
            raise
        except Exception as error:
            raise RunFailedError(f"The engine stopped ({type(error).__name__}: {str(error)[:200]}). Try again.") from error
        return scores

    def _needs(self, asked: Sequence[ToScore]) -> int:
        """Bytes of keys and values of the rows that are read together, and of the distributions of some of their places."""
        tokenizer = self._bases.tokenizer()
        longest = max(
            len(encode(tokenizer, one.prompt))
            + len(encode(tokenizer, one.completion))
            + (one.card.virtual_tokens if one.card else 0)
            for one in asked
        )
        return max(ROOM, longest) * kv_bytes_per_token(self._bases.resolve().path, 4) + LOGIT_BYTES


def _place(request: Request) -> str:
    return f"{ordinal(request.position)} in line, about {max(1, round(request.wait_s))} s"
