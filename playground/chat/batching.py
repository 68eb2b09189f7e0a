"""Replies under one lease: they wait for the device together, decode in one batch, and free it on every way out."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from playground.data.example import Message, parted
from playground.data.render import encode, render_prompt, thinking
from playground.engine.request import ROWS_MAX, Decoder, Direct, EngineLike, Row, RowState, Sampling
from playground.errors import (
    AdapterError,
    BaseUnavailableError,
    InputError,
    OutOfMemoryError,
    PlaygroundError,
    RunFailedError,
    is_out_of_memory,
)
from playground.gpu.manager import DeviceManager, Request, make_room
from playground.library.adapters import AdapterCard
from playground.models.adapters import Residents
from playground.models.bases import BaseService, Tokenizer, kv_bytes_per_token
from playground.models.endpoints import Endpoints
from playground.models.remote import Client, Remote, RemoteReply
from playground.runs.progress import ordinal

WAIT_S = 0.5
"""How often a waiting batch reports its place in the queue."""
PACE_S, LONG_PACE_S = 0.05, 0.5
"""How often somebody who looks on sees a reply grow, at most; and a job, or a program that waits for the end."""
POLL_S = 0.1
"""How often replies of other servers are looked at."""
READ_ERRORS = (
    *(OSError, EOFError, ImportError, RuntimeError, MemoryError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError),
)
"""What reading a damaged adapter or a model that does not fit raises: it fails its own side, not the others."""


@dataclass(frozen=True)
class Asked:
    """card: whose weights answer, None = the base in use. prompt: rendered text. logprobs: as in ``Row``. remote: the
    server that answers in their place. pace_s: as in ``Row``, None = by the lane."""

    card: AdapterCard | None
    prompt: str
    sampling: Sampling
    logprobs: int | None = None
    remote: Remote | None = None
    pace_s: float | None = None


@dataclass(frozen=True)
class Written:
    """How far a reply has come. waiting: its place in the device's queue, in words. stamp: what runs, None before it
    does. failure: why there will be no more of it."""

    state: RowState = field(default_factory=RowState)
    waiting: str = ""
    stamp: dict[str, Any] | None = None
    failure: PlaygroundError | None = None

    @property
    def done(self) -> bool:
        return bool(self.state.finish) or self.failure is not None


class Batches:
    """Everything that answers, for a person or a program, goes through here.

    shipped: where the app is shared, the system prompts that come with it; then every session has a prefix cache of its
    own, but for what begins with one of these. None = one person, one cache. longest: the most tokens that a reply may
    be asked to have, None = as many as the engine writes. together: how many rows are best asked at a time.
    endpoints: servers that may answer, None = none; client: asks them."""

    def __init__(
        self,
        manager: DeviceManager,
        bases: BaseService,
        residents: Residents,
        decoder: Decoder | None = None,
        shipped: Callable[[], Sequence[str]] | None = None,
        longest: int | None = None,
        endpoints: Endpoints | None = None,
        client: Client | None = None,
    ) -> None:
        self.endpoints, self.client = endpoints or Endpoints(), client or Client()
        self._manager, self._bases, self._residents, self._decoder = manager, bases, residents, decoder or Direct()
        self._shipped = shipped
        self.together, self.longest = self._decoder.together, longest
        self.observers: list[Callable[[Sequence[Written]], None]] = []
        """Called with a batch's replies as they stand at its end, however it ends."""

    def run(
        self, asked: Sequence[Asked], session: str, lane: str = "chat", *, apart: bool = False
    ) -> Generator[list[Written], None, None]:
        """Yields how far each reply has come, the last time with every one done. Closing it frees the device. lane: of
        the device; ``measure`` for a batch of a long job, which takes turns with others. apart: one reply after
        another, with an empty prefix cache. An error becomes the reply's ``failure``: nothing the others wrote is lost.
        Models that do not fit into memory together answer one after another. Other servers answer beside them, as many
        requests at a time as each one takes."""
        written, pace_s = list[Written](), LONG_PACE_S if lane == "measure" else PACE_S
        asked = [one if one.pace_s is not None else replace(one, pace_s=pace_s) for one in asked]
        try:
            with contextlib.closing(self._run(asked, session, lane, apart)) as source:
                for written in source:
                    yield written
        finally:
            for observe in self.observers:
                observe(written)

    def _run(
        self, asked: Sequence[Asked], session: str, lane: str, apart: bool
    ) -> Generator[list[Written], None, None]:
        if not asked:
            return
        try:
            self.refuse_too_long(max(one.sampling.max_tokens for one in asked))
        except InputError as error:
            yield [Written(failure=error) for _ in asked]
            return
        away = {place: (one.remote, one.sampling) for place, one in enumerate(asked) if one.remote is not None}
        here = [place for place in range(len(asked)) if place not in away]
        own = self._here([asked[place] for place in here], session, lane, apart)
        if not away:
            yield from own
            return
        found, over = [Written() for _ in asked], False
        sending = self.client.send(list(away.values()))
        try:
            with contextlib.closing(own):
                while not over:
                    written = next(own, None)
                    over = written is None and sending.wait(POLL_S)
                    for place, one in zip(here, written or (), strict=False):
                        found[place] = one
                    for place, reply in zip(away, sending.replies, strict=True):
                        found[place] = self._written(reply)
                    yield list(found)
        finally:
            sending.close()

    def _written(self, reply: RemoteReply) -> Written:
        """Tokens of a server that does not count them are estimated by this base's tokenizer."""
        state = reply.state
        if state.finish and not reply.reported and not state.prompt_tokens:
            tokenizer, texts = self._bases.tokenizer(), [one.content for one in reply.remote.messages]
            state.prompt_tokens = sum(len(encode(tokenizer, text)) for text in texts)
            state.thought_tokens = len(encode(tokenizer, state.thought))
            state.completion_tokens = state.thought_tokens + len(encode(tokenizer, state.text))
        return Written(replace(state), stamp=reply.stamp if reply.done else None, failure=reply.failure)

    def _here(
        self, asked: Sequence[Asked], session: str, lane: str, apart: bool
    ) -> Generator[list[Written], None, None]:
        """``run`` of what this machine answers."""
        if not asked:
            return
        models = _by_model(asked)
        try:
            base, wanted = self._bases.spec, self._residents.wanted([one.card for one in asked])
            request = self._manager.request(lane, session, "Answering", self._needs(asked), wanted)
        except PlaygroundError as error:
            if isinstance(error, OutOfMemoryError) and len(models) > 1:
                yield from self._in_turn(asked, models, session, lane, apart)
                return
            yield [Written(failure=error) for _ in asked]
            return
        try:
            lease = request.wait(0)
            while lease is None:
                yield [Written(waiting=place_in_line(request)) for _ in asked]
                lease = request.wait(WAIT_S)
            with lease:
                if not apart:
                    yield from self._decode(asked, base, session)
                    return
                self.forget()
                written = [Written() for _ in asked]
                for place, one in enumerate(asked):
                    for (written[place],) in self._decode([one], base, session):
                        yield list(written)
        finally:
            request.cancel()

    def refuse_too_long(self, tokens: int) -> None:
        """Raises InputError for replies that may have more tokens than one may ask for here."""
        if self.longest is not None and tokens > self.longest:
            may = f"up to {self.longest} may be asked for here"
            raise InputError(f"The longest reply is {tokens} tokens; {may}. Ask for shorter ones.")

    def _in_turn(
        self, asked: Sequence[Asked], models: Sequence[Sequence[int]], session: str, lane: str, apart: bool
    ) -> Generator[list[Written], None, None]:
        """Each model's rows under a lease of their own. models: the places of each one's."""
        found = [Written() for _ in asked]
        for places in models:
            for written in self._here([asked[place] for place in places], session, lane, apart):
                for place, one in zip(places, written, strict=True):
                    found[place] = one
                yield list(found)

    def forget(self) -> None:
        """Clear the prefix caches: the next question takes as long as if nobody had asked one like it."""
        self._residents.forget()

    def _decode(self, asked: Sequence[Asked], base: str, session: str) -> Iterator[list[Written]]:
        """One batch a model in memory: the base with all its adapters, then full fine-tunes. base: of the lease."""
        found = [Written() for _ in asked]
        batches: dict[int, tuple[EngineLike, dict[int, Row]]] = {}
        salt, public = ("", []) if self._shipped is None else (session or "app", self._public(self._shipped()))
        for place, one in enumerate(asked):
            try:
                engine, adapter = self._residents.ready(one.card, base)
            except PlaygroundError as error:
                # A whole model that cannot be loaded fails its own side, a base that cannot fails all of them.
                own = isinstance(error, BaseUnavailableError) and one.card is not None and one.card.is_whole
                found[place] = Written(failure=AdapterError(str(error)) if own else error)
                continue
            except READ_ERRORS as error:
                found[place] = Written(failure=AdapterError(str(_stopped(error))) if one.card else _stopped(error))
                continue
            rows = batches.setdefault(id(engine), (engine, {}))[1]
            shared = max((os.path.commonprefix([one.prompt, text]) for text in public), key=len, default="")  # noqa: RUF071 (text)
            rows[place] = Row(one.prompt, adapter, one.sampling, one.logprobs, salt, shared, one.pace_s or 0.0)
        for engine, rows in batches.values():
            for place in rows:
                found[place] = replace(found[place], stamp=self._stamp(engine, asked[place], min(len(rows), ROWS_MAX)))
        yield list(found)
        for engine, rows in batches.values():
            yield from self._write(engine, rows, asked, found)
        self._residents.account([one.card for one in asked])

    def _public(self, prompts: Sequence[str]) -> list[str]:
        """Rendered prompts without a question: the base's own default, and those with a system prompt that ships."""
        rendered = []
        for turns in ([], *([Message("system", text)] for text in prompts)):
            with contextlib.suppress(InputError):  # a template that takes no system turn
                rendered.append(render_prompt(self._bases.tokenizer(), [*turns, Message("user", "")]))
        return rendered

    def _write(
        self, engine: EngineLike, rows: dict[int, Row], asked: Sequence[Asked], found: list[Written]
    ) -> Iterator[list[Written]]:
        """One batch, into ``found``. A row that cannot begin (its prompt is too long, its adapter cannot be read) is
        found by halving the batch, and the others go on without it."""
        begun, apart = False, {place: _Apart(engine.tokenizer, row.prompt) for place, row in rows.items()}
        try:
            for states in self._stream(engine, list(rows.values())):
                for place, state in zip(rows, states, strict=True):
                    # The fault is this row's alone, so it fails no other side.
                    kind = AdapterError if asked[place].card else InputError
                    failure = kind(state.fault) if state.fault else None
                    # A copy: the engine writes on in its own.
                    found[place] = replace(found[place], state=apart[place].of(replace(state)), failure=failure)
                begun = begun or any(state.tokens for state in states)
                yield list(found)
        except PlaygroundError as error:
            if isinstance(error, InputError) and len(rows) > 1 and not begun:
                places = list(rows)
                for half in (places[: len(places) // 2], places[len(places) // 2 :]):
                    for place in half:
                        found[place] = Written(stamp=self._stamp(engine, asked[place], min(len(half), ROWS_MAX)))
                    yield from self._write(engine, {place: rows[place] for place in half}, asked, found)
                return
            for place in rows:
                if not found[place].done:
                    found[place] = replace(found[place], failure=error)
            yield list(found)

    def _stream(self, engine: EngineLike, rows: list[Row]) -> Iterator[list[RowState]]:
        """The engine's stream. Out of memory: once more from the start after idle models have left, then a smaller
        setting is named. Raises PlaygroundError, and nothing else."""
        for again in (False, True):
            stream = self._decoder.stream(engine, rows)
            try:
                yield from stream
                return
            except PlaygroundError:
                raise
            except Exception as error:  # of torch: told by its text
                if not is_out_of_memory(error):
                    raise _stopped(error) from error
                if again:
                    raise OutOfMemoryError(_smaller(rows)) from error
            finally:
                stream.close()
            make_room(self._manager)

    def _stamp(self, engine: EngineLike, one: Asked, rows: int) -> dict[str, Any]:
        """Everything that decides a reply's tokens: on the same device, dtype and number of rows they come again."""
        drawn = asdict(one.sampling) | {"stop": list(one.sampling.stop)}
        seed = drawn.pop("seed")
        adapter = None if one.card is None or one.card.is_base else one.card
        named = {"base_name": one.card.name} if one.card is not None and one.card.is_base else {}
        return named | {
            "base": base_of(one.card, self._bases),
            "adapter": adapter.id if adapter else None,
            "adapter_sha256": adapter.sha256 if adapter else None,
            "prompt": {"text": one.prompt, "sha256": hashlib.sha256(one.prompt.encode()).hexdigest()},
            "sampling": drawn,
            "seed": seed,
            **self._decoder.where(engine),
            "rows": rows,
        }

    def _needs(self, asked: Sequence[Asked]) -> int:
        """Bytes of the KV cache of the rows decoded at once, as long as the longest may become; grows in steps. Each
        model in memory has a cache of its own. None where a server computes."""
        if self._bases.elsewhere:
            return 0
        from playground.engine.llama_memory import STEP

        needed = 0
        for rows in ([asked[place] for place in places] for places in _by_model(asked)):
            card = rows[0].card if rows[0].card is not None and rows[0].card.is_base else None
            tokenizer = self._bases.tokenizer(card)
            tokens = max(
                len(encode(tokenizer, one.prompt))
                + one.sampling.max_tokens
                + (one.card.virtual_tokens if one.card else 0)
                for one in rows
            )
            tokens = min(tokens, self._bases.context(card) or tokens)  # what is longer is refused row by row
            folder = card.path if card is not None else self._bases.resolve().path
            needed += min(len(rows), ROWS_MAX) * -(-tokens // STEP) * STEP * kv_bytes_per_token(folder, 4)
        return needed


class _Apart:
    """Parts a local reply's thought from its text as both grow."""

    def __init__(self, tokenizer: Any, prompt: str) -> None:
        family = thinking(tokenizer)
        self._tokenizer, self._tags, self._opened = tokenizer, family.tags, family.opened(prompt)
        self._tokens = 0  # of the thought, once it has ended

    def of(self, state: RowState) -> RowState:
        """The state, changed. Tokens are counted once, as the thought ends."""
        found = parted(state.text, self._tags, opened=self._opened, done=bool(state.finish))
        if found.answer == state.text:
            return state
        written = state.completion_tokens
        if found.thought and not found.is_open and not self._tokens:
            end = encode(self._tokenizer, self._tags.end)
            exact = len(end) == 1 and end[0] in state.tokens
            answer = len(encode(self._tokenizer, found.answer))
            self._tokens = state.tokens.index(end[0]) + 1 if exact else max(0, written - answer)
        state.thought, state.text = found.thought, found.answer
        state.thought_tokens = written if found.is_open else self._tokens
        return state


def prompt_of(tokenizer: Tokenizer, messages: Sequence[Message], card: AdapterCard | None, think: bool | None) -> str:
    """The text that a model of this machine is given. think: None = as the adapter was trained, else as the base's
    template does by itself. Raises InputError where the template cannot be told."""
    if think is not None and not thinking(tokenizer).switch:
        raise InputError("This base's chat template has no switch that turns thinking on and off. Leave it out.")
    return render_prompt(tokenizer, messages, card.think if think is None and card is not None else think)


def _stopped(error: Exception) -> RunFailedError:
    return RunFailedError(f"The engine stopped ({type(error).__name__}: {str(error)[:200]}). Ask again.")


def _by_model(asked: Sequence[Asked]) -> list[list[int]]:
    """Places of the rows of each model in memory: the base with all its adapters, then each whole model."""
    found: dict[str, list[int]] = {"": []}
    for place, one in enumerate(asked):
        found.setdefault(one.card.id if one.card is not None and one.card.is_whole else "", []).append(place)
    return [places for places in found.values() if places]


def base_of(card: AdapterCard | None, bases: BaseService) -> str:
    """The fingerprint a stamp names: of the base's weights, or of a whole model's own."""
    return card.sha256[:16] if card is not None and card.is_whole else bases.resolve().fingerprint


def _smaller(rows: Sequence[Row]) -> str:
    """What to ask for instead: half the cache, by half the sides or by shorter replies."""
    tokens = max(row.sampling.max_tokens for row in rows)
    at_once = min(len(rows), ROWS_MAX)
    half = "one side" if at_once < 4 else f"{at_once // 2} sides"
    instead = f"Ask {half} at a time, or set" if at_once > 1 else "Shorten the prompt, or set"
    written = f"Memory ran out while {at_once} replies of up to {tokens} tokens were written."
    return f"{written} {instead} the longest reply to {max(1, tokens // 2)} tokens."


def place_in_line(request: Request) -> str:
    return f"{ordinal(request.position)} in line, about {max(1, round(request.wait_s))} s"
