"""One question to several sides at once, in one batch, streamed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playground.data.render import encode, render_prompt
from playground.data.split import split
from playground.engine.request import Row, RowState, Sampling, make_stamp, stamp_hash
from playground.errors import InputError, PlaygroundError
from playground.evaluation.checks import parse_check
from playground.gpu.manager import DeviceManager, Lease, Request
from playground.library.card import AdapterCard
from playground.services.adapters import AdapterService
from playground.services.bases import BaseService, kv_bytes_per_token
from playground.services.data import DataService
from playground.services.residents import Residents
from playground.services.sides import Side, Turn, conversation
from playground.services.words import ordinal

SIDES_MAX = 6
QUESTION_LIMIT = 20_000
WAIT_S = 0.5
SHOW_S = 0.15
"""Between two snapshots of growing replies: smooth to read, and drawing them does not slow the writing down."""


@dataclass(frozen=True)
class Reply:
    """How far a side's reply has come. waiting: its place in the device's queue, in words. first_token_s, seconds: from the
    start of the batch. error: why this side gave none. no_effect: the adapter changes nothing. stamp: what ran."""

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
    """Everything that answers a person goes through here; each batch holds one lease."""

    def __init__(
        self, manager: DeviceManager, bases: BaseService, data: DataService, adapters: AdapterService, residents: Residents
    ) -> None:
        self._manager, self._bases, self._data = manager, bases, data
        self._adapters, self._residents = adapters, residents

    def ask(
        self, sides: Sequence[Side], histories: Sequence[Sequence[Turn]], question: str, sampling: Sampling,
        owner: str = "local", session: str = "local",
    ) -> Iterator[list[Reply]]:  # fmt: skip
        """Ask every side; yields all replies as they grow, the last time with every one done. Closing it frees the device.

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
                card = None if side.model == "base" else self._adapters.get(side.model, owner)
                messages = conversation(side, histories[place], question, self._pool(side, sampling.seed), sampling.seed)
                prepared.append(_Prepared(place, card, render_prompt(self._bases.tokenizer(), messages)))
            except PlaygroundError as error:
                replies[place] = Reply(done=True, error=str(error))
        yield list(replies)
        if prepared:
            yield from self._run(prepared, replies, sampling, session)

    def ask_each(
        self, side: Side, questions: Sequence[str], sampling: Sampling, owner: str = "local", session: str = "local"
    ) -> Iterator[list[Reply]]:
        """One side, several questions, each a conversation of its own, in one batch. Raises NotFoundError."""
        card = None if side.model == "base" else self._adapters.get(side.model, owner)
        pool = self._pool(side, sampling.seed)
        prepared = []
        for place, question in enumerate(questions):
            messages = conversation(side, [], question, pool, sampling.seed)
            prepared.append(_Prepared(place, card, render_prompt(self._bases.tokenizer(), messages)))
        yield from self._run(prepared, [Reply() for _ in questions], sampling, session)

    def passes(self, check: str, text: str) -> bool:
        """Whether a reply passes a check, written as in ``evaluation.checks``. Raises InputError when it is not one."""
        return parse_check(check).passes(text)

    def prompt_tokens(self, text: str) -> int:
        """How many tokens ``text`` is for the base in use."""
        return len(encode(self._bases.tokenizer(), text)) if text.strip() else 0

    def _run(self, prepared: list[_Prepared], replies: list[Reply], sampling: Sampling, session: str) -> Iterator[list[Reply]]:
        try:
            request = self._manager.request("chat", session, "Answering", self._needs(prepared, sampling))
        except PlaygroundError as error:
            yield _failed(replies, prepared, str(error))
            return
        try:
            lease = request.wait(0)
            while lease is None:
                words = _waiting(request)
                yield [reply if reply.done else replace(reply, waiting=words) for reply in replies]
                lease = request.wait(WAIT_S)
            yield from self._stream(prepared, replies, sampling, lease)
        finally:
            request.cancel()

    def _stream(self, prepared: list[_Prepared], replies: list[Reply], sampling: Sampling, lease: Lease) -> Iterator[list[Reply]]:
        """One batch for each model in memory: the base with all its adapters, then any full fine-tune."""
        batches: dict[int, tuple[Any, list[_Prepared]]] = {}
        adapters: dict[int, str | None] = {}
        with lease:
            for item in prepared:
                try:
                    engine, adapters[item.place] = self._residents.ready(item.card)
                    batches.setdefault(id(engine), (engine, []))[1].append(item)
                except PlaygroundError as error:
                    replies[item.place] = Reply(done=True, error=str(error))
            for engine, items in batches.values():
                rows = [Row(item.prompt, adapters[item.place], sampling) for item in items]
                stream = engine.stream(rows)
                shown = 0.0
                try:
                    for states in stream:
                        for item, state in zip(items, states, strict=True):
                            replies[item.place] = self._reply(engine, item, state, sampling, len(items))
                        if time.monotonic() - shown > SHOW_S or all(state.finish for state in states):
                            shown = time.monotonic()
                            yield list(replies)
                except PlaygroundError as error:
                    yield _failed(replies, items, str(error))
                finally:
                    stream.close()
        yield list(replies)

    def _reply(self, engine: Any, item: _Prepared, state: RowState, sampling: Sampling, rows: int) -> Reply:
        stamp = None
        card = item.card
        if state.finish:
            base = card.sha256[:16] if card is not None and card.kind == "full" else self._bases.state().fingerprint
            stamp = make_stamp(
                base=base, adapter=card.id if card else None, adapter_sha256=card.sha256 if card else None, prompt=item.prompt,
                sampling=sampling, dtype=str(engine.loaded.dtype).removeprefix("torch."), device=str(engine.loaded.device), rows=rows,
            )  # fmt: skip
        return Reply(
            state.text, bool(state.finish), "", state.prompt_tokens, state.completion_tokens, state.first_token_s, state.seconds,
            stamp, stamp_hash(stamp) if stamp else "", "", card is not None and engine.has_no_effect(card.id),
        )  # fmt: skip

    def _pool(self, side: Side, seed: int) -> list[Any]:
        """Examples that shots may be drawn from: the training part only, so that nothing held out is shown."""
        if not side.shots or side.shots_from is None:
            return []
        checked = self._data.check(Path(side.shots_from))
        return split(checked.examples, seed=seed)[0]

    def _needs(self, prepared: list[_Prepared], sampling: Sampling) -> int:
        base = self._bases.resolve()
        tokenizer = self._bases.tokenizer()
        tokens = max(len(encode(tokenizer, item.prompt)) for item in prepared) + sampling.max_tokens
        return len(prepared) * tokens * kv_bytes_per_token(base.path, 4)


def _failed(replies: list[Reply], items: Sequence[_Prepared], words: str) -> list[Reply]:
    for item in items:
        if not replies[item.place].done:
            replies[item.place] = replace(replies[item.place], done=True, waiting="", error=words)
    return list(replies)


def _waiting(request: Request) -> str:
    return f"{ordinal(request.position)} in line, about {max(1, round(request.wait_s))} s"
