"""One question to several sides at once, in one batch, streamed; and a whole comparison, every turn to its end, for
the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.chat.batching import Asked, Batches, Written
from playground.chat.sides import Side, Turn, conversation, passages_for
from playground.data.example import Example
from playground.data.render import encode, render_prompt
from playground.data.split import part, split
from playground.engine.request import Sampling, stamp_hash
from playground.errors import InputError, PlaygroundError, RunFailedError
from playground.evaluation.checks import parse_check
from playground.library.card import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.models.residents import Residents
from playground.workspace.examples import DataService

SIDES_MAX = 6
QUESTION_LIMIT = 20_000
SHOW_S = 0.15
"""Between two snapshots of growing replies: smooth to read, and drawing them does not slow the writing down."""


@dataclass(frozen=True)
class Reply:
    """How far a side's reply has come. waiting: its place in the device's queue, in words. first_token_s, seconds:
    from the start of the batch. error: why this side gave none. no_effect: the adapter changes nothing. stamp: what
    ran."""

    text: str = ""
    done: bool = False
    waiting: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0
    stamp: dict[str, Any] | None = None
    stamp_id: str = ""
    error: str = ""
    no_effect: bool = False


@dataclass(frozen=True)
class _Prepared:
    """A side ready to run: its place among the sides, its card (None = the base), its prompt."""

    place: int
    card: AdapterCard | None
    prompt: str


class CompareService:
    """Puts a person's question to the sides; each batch holds one lease."""

    def __init__(
        self, bases: BaseService, data: DataService, adapters: AdapterService, residents: Residents, batches: Batches
    ) -> None:
        self._bases, self._data, self._adapters = bases, data, adapters
        self._residents, self._batches = residents, batches

    def ask(
        self,
        sides: Sequence[Side],
        histories: Sequence[Sequence[Turn]],
        question: str,
        sampling: Sampling,
        owner: str = "local",
        session: str = "local",
    ) -> Iterator[list[Reply]]:
        """Ask every side; yields all replies as they grow, the last time with every one done. Closing it frees the
        device.

        Raises InputError for a question that is empty or too long. A side that fails says so in its own reply.
        """
        question = question.strip()
        if not question:
            raise InputError("Write a question first.")
        if len(question) > QUESTION_LIMIT:
            raise InputError(f"The question has {len(question)} characters; at most {QUESTION_LIMIT} are taken.")
        if not 1 <= len(sides) <= SIDES_MAX:
            raise InputError(f"A comparison has 1 to {SIDES_MAX} sides; this one has {len(sides)}.")
        prepared: list[_Prepared] = []
        replies = [Reply() for _ in sides]
        for place, side in enumerate(sides):
            try:
                prepared.append(self._prepared(place, side, histories[place], question, sampling, owner))
            except PlaygroundError as error:
                replies[place] = Reply(done=True, error=str(error))
        yield list(replies)
        if prepared:
            yield from self._run(prepared, replies, sampling, session)

    def ask_each(
        self,
        side: Side,
        questions: Sequence[str],
        sampling: Sampling,
        owner: str = "local",
        session: str = "local",
        lane: str = "chat",
    ) -> Iterator[list[Reply]]:
        """One side, several questions, each a conversation of its own, in one batch of that lane. Raises
        NotFoundError."""
        prepared = [
            self._prepared(place, side, (), question, sampling, owner) for place, question in enumerate(questions)
        ]
        yield from self._run(prepared, [Reply() for _ in questions], sampling, session, lane)

    def _prepared(
        self, place: int, side: Side, history: Sequence[Turn], question: str, sampling: Sampling, owner: str
    ) -> _Prepared:
        card = None if side.model == "base" else self._adapters.get(side.model, owner)
        passages = passages_for(side, question, self._data.documents(side.docs, owner) if side.docs else None)
        messages = conversation(
            side, history, question, self._pool(side, sampling.seed, owner), sampling.seed, passages
        )
        return _Prepared(place, card, render_prompt(self._bases.tokenizer(), messages))

    def passes(self, check: str, text: str) -> bool:
        """Whether a reply passes a check, written as in ``evaluation.checks``. Raises InputError when it is not one."""
        return parse_check(check, files=False).passes(text)

    def prompt_tokens(self, text: str) -> int:
        """How many tokens ``text`` is for the base in use."""
        return len(encode(self._bases.tokenizer(), text)) if text.strip() else 0

    def _run(
        self, prepared: list[_Prepared], replies: list[Reply], sampling: Sampling, session: str, lane: str = "chat"
    ) -> Iterator[list[Reply]]:
        """The first words are shown at once, then one snapshot every SHOW_S."""
        shown = 0.0
        for written in self._batches.run([Asked(item.card, item.prompt, sampling) for item in prepared], session, lane):
            for item, one in zip(prepared, written, strict=True):
                replies[item.place] = self._reply(item, one)
            begun = any(reply.completion_tokens for reply in replies)
            if not begun or all(reply.done for reply in replies) or time.monotonic() - shown > SHOW_S:
                shown = time.monotonic() if begun else shown
                yield list(replies)

    def _reply(self, item: _Prepared, written: Written) -> Reply:
        state, stamp = written.state, written.stamp if written.state.finish else None
        return Reply(
            text=state.text,
            done=written.done,
            waiting=written.waiting,
            prompt_tokens=state.prompt_tokens,
            completion_tokens=state.completion_tokens,
            first_token_s=state.first_token_s,
            seconds=state.seconds,
            stamp=stamp,
            stamp_id=stamp_hash(stamp) if stamp else "",
            error=str(written.failure or ""),
            no_effect=bool(stamp) and self._residents.no_effect(item.card),
        )

    def _pool(self, side: Side, seed: int, owner: str) -> list[Example]:
        """Examples that shots may be drawn from: the training part only, so that nothing held out is shown."""
        if not side.shots or side.shots_from is None:
            return []
        file = Path(side.shots_from)
        examples = self._data.check(file, owner=owner).examples
        return part(examples, split(examples, seed, test=self._data.test_share(file)).train)


def all_replies(
    service: CompareService,
    sides: Sequence[Side],
    questions: Sequence[str],
    sampling: Sampling,
    tell: Callable[[int, int], None] = lambda turn, tokens: None,
) -> list[dict[str, Any]]:
    """Ask ``questions`` as turns of one conversation with every side. tell: called with (turn, tokens written so far).

    A side that fails says why (``error``) in its last reply and is asked no more; the others go on. Raises
    RunFailedError when all fail.
    """
    histories: list[list[Turn]] = [[] for _ in sides]
    failed: dict[int, str] = {}
    found: list[dict[str, Any]] = []
    for turn, question in enumerate(questions):
        asked = [place for place in range(len(sides)) if place not in failed]
        replies: Sequence[Reply] = []
        for replies in service.ask(
            [sides[place] for place in asked], [histories[place] for place in asked], question, sampling
        ):
            tell(turn, sum(reply.completion_tokens for reply in replies))
        for place, reply in zip(asked, replies, strict=True):
            if reply.error:
                failed[place] = reply.error
            else:
                histories[place].append(Turn(question, reply.text))
            found.append(_as_json(sides[place].label, turn, reply))
        if len(failed) == len(sides):
            raise RunFailedError("\n".join(f"{sides[place].label}: {why}" for place, why in failed.items()))
    return found


def _as_json(side: str, turn: int, reply: Reply) -> dict[str, Any]:
    record = {
        "side": side,
        "turn": turn,
        "text": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "first_token_s": round(reply.first_token_s or 0.0, 4),
        "seconds": round(reply.seconds, 4),
        "stamp": reply.stamp,
    }
    return record | ({"error": reply.error} if reply.error else {})
