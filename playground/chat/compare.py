"""One question to several sides in one batch, streamed; and every turn to its end, for the command line."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from playground.chat.batching import Asked, Batches, Written, prompt_of
from playground.data.example import TOOLS, Example, Message, question_of
from playground.data.render import encode, thinking, with_passages
from playground.data.retrieval import Documents
from playground.data.split import part
from playground.engine.request import Sampling, stamp_hash
from playground.errors import InputError, PlaygroundError
from playground.evaluation.checks import parse_check
from playground.evaluation.cost import Prices
from playground.evaluation.form import REFERENCES, grammar, shared_form
from playground.library.adapters import AdapterCard
from playground.library.bases import label_of
from playground.models.adapters import AdapterService, Residents
from playground.models.bases import BASE, BaseService
from playground.models.bases import PREFIX as BASE_PREFIX
from playground.models.endpoints import PREFIX, Endpoint
from playground.models.remote import Remote
from playground.workspace.examples import DataService

RECORDED = "recorded"
"""The model of a side whose replies were recorded elsewhere."""
SHOTS_MAX = 16
DRAWS_MAX = 20


@dataclass(frozen=True)
class Side:
    """model: ``base``, an adapter's id, ``base:ID`` (another base) or ``endpoint:NAME``. system_prompt: "" = the
    model's own default. shots: answered examples put before the question, drawn from ``shots_from`` by the seed, or the
    nearest to the question. docs: a text whose nearest passages are put into the question. format: what its replies are
    held to (``evaluation.form``), "" = free; ``references`` is the form of the answers in ``shots_from``. think: on or
    off, None = as its adapter was trained, else as the base's template does by itself. name: for a person. draws: of
    its shots, each a side of its own in ``drawn``; draw: which of these this one is, from 1, 0 = not one of them.
    picked: numbers of the rows of ``shots_from`` that are its shots, in this order, () = they are drawn.
    replies: a file of recorded replies, which are judged and never asked for; column: that holds them, "" = by its
    name; prices: what that model costs, a million tokens read and written."""

    model: str = "base"
    system_prompt: str = ""
    shots: int = 0
    shots_from: Path | None = None
    name: str = ""
    docs: Path | None = None
    nearest: bool = False
    draws: int = 1
    draw: int = 0
    format: str = ""
    think: bool | None = None
    replies: Path | None = None
    column: str = ""
    prices: tuple[float, float] | None = None
    picked: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "picked", tuple(self.picked))
        if self.picked and (len(set(self.picked)) != self.shots or self.nearest or self.draws > 1):
            raise InputError(f"{len(self.picked)} rows are picked as shots: name each once, shots={len(self.picked)}.")
        if (self.model == RECORDED) != (self.replies is not None):
            raise InputError("A recorded side is a file of replies: replies=FILE, in place of model=.")
        asked = self.system_prompt or self.shots or self.docs or self.format or self.think is not None
        if self.replies is not None and asked:
            raise InputError("Recorded replies are as they are: leave out prompt=, shots=, docs=, format= and think=.")
        if self.prices is not None and not all(0 <= price < math.inf for price in self.prices):
            raise InputError("The prices of recorded replies are two numbers from 0: a million tokens in and out.")
        if not 0 <= self.shots <= SHOTS_MAX:
            raise InputError(f"A side has {self.shots} shots; it goes from 0 to {SHOTS_MAX}.")
        if self.shots and self.shots_from is None:
            raise InputError("Shots are drawn from examples: name a file of them.")
        if not 1 <= self.draws <= DRAWS_MAX:
            raise InputError(f"A side has {self.draws} draws of its shots; it goes from 1 to {DRAWS_MAX}.")
        if self.draws > 1 and (self.nearest or not self.shots):
            raise InputError(f"Only shots drawn by the seed have {self.draws} draws: name shots=K, without nearest.")
        if self.format not in ("", REFERENCES):
            grammar(self.format)  # raises what is wrong with it

    @property
    def is_remote(self) -> bool:
        """Whether another server answers."""
        return self.model.startswith(PREFIX)

    @property
    def is_other_base(self) -> bool:
        """Whether a base of this machine answers that is named by its id."""
        return self.model.startswith(BASE_PREFIX)

    @property
    def is_here(self) -> bool:
        """Whether a model on this machine answers."""
        return not self.is_remote and self.replies is None

    @property
    def adapter(self) -> str:
        """The id of its adapter, "" = it has none."""
        return "" if self.model == BASE or not self.is_here or self.is_other_base else self.model

    @property
    def label(self) -> str:
        return f"{self.approach}, draw {self.draw}" if self.draw > 1 else self.approach

    @property
    def approach(self) -> str:
        """Its label, the same for all its draws."""
        if self.replies is not None:
            return self.name or self.column or self.replies.stem
        extra = ["prompt"] if self.system_prompt else []
        how = "nearest " if self.nearest else "picked " if self.picked else ""
        extra += [f"{self.shots} {how}shots"] if self.shots else []
        extra += ["documents"] if self.docs else []
        extra += ["form"] if self.format else []
        extra += [] if self.think is None else ["thinking" if self.think else "no thinking"]
        model = self.model
        if self.is_other_base:
            model = BASE_PREFIX + label_of(model.removeprefix(BASE_PREFIX))
        return self.name or " + ".join([model, *extra])

    @property
    def drawn(self) -> tuple[Side, ...]:
        """Each draw of its shots as a side, by the seed, seed + 1, ...; itself where there is one."""
        if self.draws == 1 or self.draw:
            return (self,)
        return tuple(replace(self, draw=draw) for draw in range(1, self.draws + 1))


@dataclass(frozen=True)
class Turn:
    """An earlier question of this side's conversation and the reply it got."""

    question: str
    reply: str


PATHS = ("shots_from", "docs", "replies")


def side_as_json(side: Side) -> dict[str, Any]:
    """A side as it is sent to another process; paths are absolute."""
    paths = {name: str(path.resolve()) if (path := getattr(side, name)) else None for name in PATHS}
    return asdict(side) | paths


def side_from(said: Mapping[str, Any]) -> Side:
    """From ``side_as_json``. Raises InputError."""
    values: dict[str, Any] = {name: Path(said[name]) if said.get(name) else None for name in PATHS}
    values["prices"] = tuple(said["prices"]) if said.get("prices") else None
    try:
        return Side(**{**said, **values})
    except TypeError as error:
        raise InputError(f"A side cannot be understood: {error}.") from error


def conversation(
    side: Side, history: Sequence[Turn], question: str, pool: Sequence[Example], seed: int, passages: Sequence[str] = ()
) -> list[Message]:
    """System prompt, shots, what was said before, and the question with its passages."""
    messages = [Message("system", side.system_prompt)] if side.system_prompt.strip() else []
    for example in shots_for(side, question, pool, seed):
        messages += [message for message in example.messages if message.role not in ("system", TOOLS)]
    for turn in history:
        messages += [Message("user", turn.question), Message("assistant", turn.reply)]
    return [*messages, Message("user", with_passages(question, passages))]


def shots_for(side: Side, question: str, pool: Sequence[Example], seed: int) -> list[Example]:
    """The answered examples a side is shown: those that are picked, or drawn by the seed and the side's draw, the same
    for every question, or the nearest, the nearest last. The question itself is never among them."""
    if not side.shots:
        return []
    if side.picked:
        there = {example.row: example for example in pool if question_of(example.prompt) != question}
        return [there[row] for row in side.picked if row in there]
    asked = [example for example in pool if question_of(example.prompt) != question]
    many = min(side.shots, len(asked))
    if side.nearest:
        places = Documents([question_of(example.prompt) for example in asked]).places(question)[:many]
        return [asked[place] for place in reversed(places)]
    return random.Random(seed + max(0, side.draw - 1)).sample(asked, many)


def picked_rows(side: Side, pool: Sequence[Example]) -> list[Example]:
    """Those of a side's picked rows, in the file's order. Raises InputError where some are not there."""
    found = part(pool, side.picked)
    if missing := sorted(set(side.picked) - {example.row for example in found}):
        where = side.shots_from.name if side.shots_from else "the examples"
        raise InputError(
            f"Rows {', '.join(map(str, missing))} of {where} cannot be shots: they have no answer, or are judged by."
        )
    return found


def form_like(references: Sequence[str]) -> str:
    """What ``format=references`` stands for. Raises InputError where these answers share no form."""
    if not (form := shared_form(references)):
        known = "They are no JSON of objects, no labels, and have no headings or ending in common"
        raise InputError(f"The answers share no form ({len(references)} were read). {known}. Write the form yourself.")
    return form


def passages_for(side: Side, question: str, documents: Documents | None) -> tuple[str, ...]:
    """What a side reads before it answers; nothing where it has no documents."""
    return documents.nearest(question) if side.docs is not None and documents is not None else ()


SIDES_MAX = 6
QUESTION_LIMIT = 20_000
SHOW_S = 0.15
"""Between two snapshots of growing replies: smooth to read, and drawing them does not slow the writing down."""


@dataclass(frozen=True)
class Reply:
    """How far a side's reply has come. waiting: its place in the device's queue, in words. first_token_s, seconds:
    from the start of the batch. error: why this side gave none. no_effect: the adapter changes nothing. stamp: what
    ran. thought: what was thought before the text; thought_tokens: of the completion's tokens. cut: the limit of tokens
    ended it."""

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
    thought: str = ""
    thought_tokens: int = 0
    cut: bool = False


class CompareService:
    """Puts a person's question to the sides; each batch holds one lease."""

    def __init__(
        self, bases: BaseService, data: DataService, adapters: AdapterService, residents: Residents, batches: Batches
    ) -> None:
        self._bases, self._data, self._adapters = bases, data, adapters
        self._residents, self._batches = residents, batches
        self._agreed: set[tuple[str, Endpoint]] = set()

    def leaving(self, sides: Sequence[Side], session: str = "local") -> str:
        """What a person agrees to before the first question of this session goes to other machines, in words; "" where
        there is nothing to ask."""
        said: dict[Endpoint, str] = {}
        for side in sides:
            if (endpoint := self._away(side)) is None or (session, endpoint) in self._agreed:
                continue
            what = "the system prompt and " * bool(side.system_prompt.strip())
            what += f"{side.shots} answered examples and " * bool(side.shots)
            cost = f"{Prices.currency} {endpoint.price_words}"
            if endpoint.prices is None:
                cost = "what it costs is not known (no prices in endpoints.toml)"
            said[endpoint] = f"{what}what is asked go{'' if what else 'es'} to {endpoint.label}; {cost}"
        if not said:
            return ""
        return f"This leaves your machine: {'; '.join(said.values())}. You are asked once in this session."

    def agree(self, sides: Sequence[Side], session: str = "local") -> None:
        self._agreed |= {(session, endpoint) for side in sides if (endpoint := self._away(side)) is not None}

    def _away(self, side: Side) -> Endpoint | None:
        """The endpoint of a side that is on another machine; None where it is not there, which asking it tells."""
        if not side.is_remote:
            return None
        with contextlib.suppress(PlaygroundError):
            endpoint = self._batches.endpoints.get(side.model)
            return None if endpoint.is_here else endpoint
        return None

    def ask(
        self,
        sides: Sequence[Side],
        histories: Sequence[Sequence[Turn]],
        question: str,
        sampling: Sampling,
        owner: str = "local",
        session: str = "local",
    ) -> Iterator[list[Reply]]:
        """Yields all replies as they grow, the last time with every one done. Closing it frees the device. A side that
        fails says so in its own reply. Raises InputError for a question that is empty or too long."""
        question = question.strip()
        if not question:
            raise InputError("Write a question first.")
        if len(question) > QUESTION_LIMIT:
            raise InputError(f"The question has {len(question)} characters; at most {QUESTION_LIMIT} are taken.")
        if not 1 <= len(sides) <= SIDES_MAX:
            raise InputError(f"A comparison has 1 to {SIDES_MAX} sides; this one has {len(sides)}.")
        asked: dict[int, Asked] = {}
        replies = [Reply() for _ in sides]
        for place, side in enumerate(sides):
            try:
                asked[place] = self._asked(side, histories[place], question, sampling, owner, session)
            except PlaygroundError as error:
                replies[place] = Reply(done=True, error=str(error))
        yield list(replies)
        if asked:
            yield from self._run(asked, replies, session)

    def ask_each(
        self,
        side: Side,
        questions: Sequence[str],
        sampling: Sampling,
        owner: str = "local",
        session: str = "local",
        lane: str = "chat",
    ) -> Iterator[list[Reply]]:
        """One side, several questions, each a conversation of its own, in one batch. Raises NotFoundError."""
        asked = {place: self._asked(side, (), text, sampling, owner, session) for place, text in enumerate(questions)}
        yield from self._run(asked, [Reply() for _ in questions], session, lane)

    def _asked(
        self, side: Side, history: Sequence[Turn], question: str, sampling: Sampling, owner: str, session: str
    ) -> Asked:
        """Every question goes through here. Raises InputError for one that would leave this machine unagreed to."""
        if side.replies is not None:
            raise InputError(f"{side.label} is recorded replies, and answers nothing new. Judge it in a verdict.")
        if leaves := self.leaving([side], session):
            raise InputError(f"{leaves} Agree to that first (--send, or the question before Ask).")
        card = None if side.is_remote else self._adapters.model(side.model, owner)
        endpoint = self._batches.endpoints.get(side.model) if side.is_remote else None
        passages = passages_for(side, question, self._data.documents(side.docs, owner) if side.docs else None)
        pool = self._pool(side, sampling.seed, owner)
        messages = conversation(side, history, question, pool, sampling.seed, passages)
        form = side.format if side.format != REFERENCES else form_like([one.completion for one in pool])
        sampling = replace(sampling, format=form, think=side.think)
        if endpoint is not None:
            return Asked(None, "", sampling, remote=Remote(endpoint, tuple(messages)))
        return Asked(card, prompt_of(self._bases.tokenizer(card), messages, card, side.think), sampling)

    @property
    def can_think(self) -> bool:
        """Whether the base's chat template has a switch that turns thinking on and off."""
        return bool(thinking(self._bases.tokenizer()).switch)

    def passes(self, check: str, text: str) -> bool:
        """Whether a reply passes a check, written as in ``evaluation.checks``. Raises InputError when it is not one."""
        return parse_check(check, files=False).passes(text)

    def prompt_tokens(self, text: str, model: str = BASE) -> int:
        """How many tokens ``text`` is for the base that a side's model stands on. Raises NotFoundError."""
        card = self._adapters.model(model) if model.startswith(BASE_PREFIX) else None
        return len(encode(self._bases.tokenizer(card), text)) if text.strip() else 0

    def _run(
        self, asked: dict[int, Asked], replies: list[Reply], session: str, lane: str = "chat"
    ) -> Iterator[list[Reply]]:
        """asked: by the place of the reply. The first words are shown at once, then one snapshot every SHOW_S."""
        shown = 0.0
        for written in self._batches.run(list(asked.values()), session, lane):
            for (place, one), found in zip(asked.items(), written, strict=True):
                replies[place] = self._reply(one.card, found)
            begun = any(reply.completion_tokens for reply in replies)
            if not begun or all(reply.done for reply in replies) or time.monotonic() - shown > SHOW_S:
                shown = time.monotonic() if begun else shown
                yield list(replies)

    def _reply(self, card: AdapterCard | None, written: Written) -> Reply:
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
            no_effect=bool(stamp) and self._residents.no_effect(card),
            thought=state.thought,
            thought_tokens=state.thought_tokens,
            cut=state.finish == "length",
        )

    def _pool(self, side: Side, seed: int, owner: str) -> list[Example]:
        """Examples that shots and form may come from: the training part only, so that nothing held out is shown."""
        if not (side.shots or side.format == REFERENCES) or side.shots_from is None:
            return []
        file = Path(side.shots_from)
        checked = self._data.check_as_before(file, owner)
        if side.picked:
            return picked_rows(side, checked.examples)
        return part(checked.examples, self._data.split(file, checked.examples, seed, checked=checked).train)
