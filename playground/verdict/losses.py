"""Losses of given texts, scored a few rows at a time under leases; and what tuned models forgot of the shipped ones."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from playground.chat.batching import WAIT_S, Asked, Batches, Written, place_in_line
from playground.data.example import Example, Message
from playground.data.render import encode, render_example, render_prompt
from playground.engine.request import ROOM, Sampling, Score, ScoreRow
from playground.engine.request import TOGETHER as SCORED_TOGETHER
from playground.errors import RunFailedError
from playground.evaluation.forgetting import REPLY_TOKENS, Forgetting, harder, lost, marks, material
from playground.gpu.manager import DeviceManager, retried
from playground.library.adapters import AdapterCard
from playground.models.adapters import Residents
from playground.models.bases import BaseService, kv_bytes_per_token

LOGIT_BYTES = 128_000_000  # about what the distributions that are held at once take, beside the rows' KV cache
LONGEST = 131_072  # tokens of a row, where nothing is to be cut: the engine says what does not fit
NOT_SENT = "the server that answers here does not send whole distributions"
NO_DIVERGENCE = "a full fine-tune is a model of its own: its distribution and the base's are never in memory at once"


def texts(
    batches: Batches, asked: Sequence[Asked], session: str, said: list[str]
) -> Generator[tuple[str, int], None, None]:
    """Append a batch's replies to ``said``; yields (its place in the queue, replies done). Raises the first failure."""
    written: list[Written] = []
    for written in batches.run(asked, session, "measure"):
        if failure := next((one.failure for one in written if one.failure is not None), None):
            raise failure
        yield next((one.waiting for one in written if one.waiting), ""), sum(one.done for one in written)
    said += [one.state.text for one in written]


class ToScore(NamedTuple):
    """A text for a model. card: None = the base. Others: as in ``ScoreRow``. A full fine-tune has no divergence
    (NO_DIVERGENCE says why); the base's loss is then a turn of its own."""

    card: AdapterCard | None
    prompt: str
    completion: str
    divergence: bool = False


class Scoring(NamedTuple):
    """scores: in the order of what was asked, None = not yet. waiting: its place in the device's queue, in words."""

    scores: tuple[Score | None, ...]
    waiting: str = ""

    @property
    def done(self) -> int:
        return sum(score is not None for score in self.scores)


class ScoringService:
    """Rows of one base and all its adapters are read together; a full fine-tune is a turn of its own. On ZeroGPU, where
    the device is lent for seconds at a time, the app's own process scores on its processor."""

    def __init__(self, manager: DeviceManager, bases: BaseService, residents: Residents) -> None:
        self._manager, self._bases, self._residents = manager, bases, residents

    def rendered(self, messages: Sequence[Message], answer: str) -> tuple[str, str]:
        """(prompt, completion) as training renders them, the end token included. Raises InputError."""
        example = Example((*messages, Message("assistant", answer)), 1)
        found = render_example(self._bases.tokenizer(), example, LONGEST)
        return found.prompt_text, found.completion_text

    def run(self, asked: Sequence[ToScore], session: str) -> Generator[Scoring, None, None]:
        """Score everything; yields after every few rows, the last time with all of it. Closing it frees the device.
        Rows that share a text are best asked one after another: the base reads it once. Raises InputError,
        AdapterError, BusyError, OutOfMemoryError, RunFailedError."""
        found: list[Score | None] = [None] * len(asked)
        turns: dict[str, list[int]] = {"": []}  # a full fine-tune's id -> its places; "" = the base and its adapters
        for place, one in enumerate(asked):
            turns.setdefault(one.card.id if one.card is not None and one.card.kind == "full" else "", []).append(place)
        plain = [ToScore(None, one.prompt, one.completion) for one in asked]
        yield Scoring(tuple(found))
        for waiting in self._turn(asked, turns.pop(""), found, session):
            yield Scoring(tuple(found), waiting)
        for places in turns.values():
            own, base = list(found), list(found)
            compared = [place for place in places if asked[place].divergence]
            for waiting in self._turn(asked, places, own, session):
                yield Scoring(tuple(found), waiting)
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
        """Score those at ``places``, of one model in memory, into ``found``; yields its place in the queue, or ""."""
        if not places:
            return
        rows = [asked[place] for place in places]
        wanted = self._residents.wanted([one.card for one in rows])
        request = self._manager.request("measure", session, "Scoring", self._needs(rows), wanted)
        try:
            lease = request.wait(0)
            while lease is None:
                yield place_in_line(request)
                lease = request.wait(WAIT_S)
            with lease:
                for begin in range(0, len(rows), SCORED_TOGETHER):
                    together = slice(begin, begin + SCORED_TOGETHER)
                    for place, score in zip(places[together], self._score(rows[together]), strict=True):
                        found[place] = score
                    yield ""
            self._bases.account()
        finally:
            request.cancel()

    def _score(self, asked: Sequence[ToScore]) -> list[Score]:
        """Raises PlaygroundError, and nothing else. Out of memory: once more after idle models have left."""
        ready = [self._residents.ready(one.card) for one in asked]
        engine = ready[0][0]
        rows = [
            ScoreRow(one.prompt, one.completion, adapter, one.divergence)
            for one, (_, adapter) in zip(asked, ready, strict=True)
        ]
        failed = f"Memory ran out while {len(rows)} texts were scored"
        try:
            return retried(lambda: engine.score(rows), self._manager, failed, "Shorten the texts")
        except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, OSError) as error:
            why = f"{type(error).__name__}: {str(error)[:200]}"
            raise RunFailedError(f"The engine stopped ({why}). Try again.") from error

    def _needs(self, asked: Sequence[ToScore]) -> int:
        """Bytes of the KV cache of rows that are scored together, and of the distributions of some places."""
        if self._bases.elsewhere:
            return 0
        tokenizer, longest = self._bases.tokenizer(), ROOM
        for one in asked:
            tokens = sum(len(encode(tokenizer, text)) for text in (one.prompt, one.completion))
            longest = max(longest, tokens + (one.card.virtual_tokens if one.card else 0))
        return longest * kv_bytes_per_token(self._bases.resolve().path, 4) + LOGIT_BYTES


def pooled(scores: Sequence[Score]) -> Score:
    """Many passages as one long text: means weighted by tokens. A figure that one of them lacks is None for all."""
    tokens = sum(score.tokens for score in scores)

    def mean(name: str) -> float | None:
        values: list[float | None] = [getattr(score, name) for score in scores]
        known = [value * score.tokens for value, score in zip(values, scores, strict=True) if value is not None]
        return sum(known) / tokens if tokens and len(known) == len(values) else None

    return Score(tokens, mean("loss") or 0.0, mean("divergence"), mean("base_loss"))


TOGETHER = 8  # questions that are asked in one batch
PASSAGES = 48  # passages that are read under one lease


class Recalling(NamedTuple):
    """done, of: passages read and questions answered. found: of each card; filled when all of it is done."""

    done: int
    of: int
    waiting: str = ""
    found: tuple[Forgetting, ...] = ()


class ForgettingService:
    """The base's answers are asked for once for each base, and kept while the app runs."""

    def __init__(self, bases: BaseService, batches: Batches, scoring: ScoringService) -> None:
        self._bases, self._batches, self._scoring = bases, batches, scoring
        self._known: dict[tuple[str, str], list[str]] = {}
        self.material = material

    def measure(self, cards: Sequence[AdapterCard], session: str = "local") -> Generator[Recalling, None, None]:
        """Tuned models against the base; the last has ``found``. Closing frees the device. Raises PlaygroundError."""
        shipped = self.material()
        key = (self._bases.resolve().fingerprint, shipped.sha256)
        models: list[AdapterCard | None] = [*([] if key in self._known else [None]), *cards]
        of = len(shipped.texts) * len(cards) + len(shipped.questions) * len(models)
        yield Recalling(0, of)
        # A passage with all models in turn, so that the base reads it once for those that are scored together.
        asked = [ToScore(card, "", text, divergence=True) for text in shipped.texts for card in cards]
        scores: list[Score] = []
        for begin in range(0, len(asked), PASSAGES):
            earlier = list(scores)
            for scoring in self._scoring.run(asked[begin : begin + PASSAGES], session):
                scores = [*earlier, *(score for score in scoring.scores if score is not None)]
                yield Recalling(len(scores), of, scoring.waiting)
        done, said = len(scores), dict[str, list[str]]()
        tokenizer, sampling = self._bases.tokenizer(), Sampling(max_tokens=REPLY_TOKENS)
        for model in models:
            replies: list[str] = []
            for begin in range(0, len(shipped.questions), TOGETHER):
                messages = ([Message("user", one.question)] for one in shipped.questions[begin : begin + TOGETHER])
                batch = [Asked(model, render_prompt(tokenizer, one, think=False), sampling) for one in messages]
                for waiting, _ in texts(self._batches, batch, session, replies):
                    yield Recalling(done, of, waiting)
                done += len(batch)
                yield Recalling(done, of)
            if model is None:
                self._known[key] = replies
            else:
                said[model.id] = replies
        before, found = marks(self._known[key], shipped.questions), []
        for n, card in enumerate(cards):
            own = scores[n :: len(cards)]
            text, after = pooled(own), marks(said[card.id], shipped.questions)
            why = "" if text.divergence is not None else NO_DIVERGENCE if card.is_whole else NOT_SENT
            losses = (text.base_loss or 0.0, text.loss, text.tokens)
            grown = harder([(one.base_loss, one.loss, one.tokens) for one in own if one.base_loss is not None])
            counts = (sum(before), sum(after), len(shipped.questions))
            found.append(Forgetting(*losses, *counts, text.divergence, why, grown, lost(before, after)))
        yield Recalling(of, of, "", tuple(found))
