"""Every side's answer to every example, in batches through the engine, example by example so that what is there can
be compared."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from playground.chat.batching import Asked, Batches, Written
from playground.chat.compare import Side, Turn, conversation, passages_for
from playground.data.example import Example, Message
from playground.data.render import encode, render_prompt
from playground.data.retrieval import Documents
from playground.data.split import part, split
from playground.engine.request import Sampling
from playground.errors import InputError, OutOfMemoryError, PlaygroundError
from playground.evaluation.forgetting import REFUSALS_REPLY_TOKENS as REPLY_TOKENS
from playground.evaluation.forgetting import questions
from playground.evaluation.verdict import Answered
from playground.library.card import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.verdict.losses import ScoringService, ToScore
from playground.verdict.request import VerdictRequest
from playground.workspace.examples import DataService

TIMED = 3
"""Examples that are asked again one by one, for what an answer takes when nobody else asks; one more goes before
them."""
NO_ANSWER = "The answers are none: this file holds raw text. A verdict needs rows with a request and an answer."


@dataclass(frozen=True)
class Item:
    """One example for one side. prompt: rendered; messages: what it was rendered from."""

    example: Example
    side: Side
    card: AdapterCard | None
    prompt: str
    messages: tuple[Message, ...]
    passages: tuple[str, ...]

    @property
    def key(self) -> tuple[int, str]:
        return self.example.row, self.side.label


@dataclass(frozen=True)
class _Batch:
    """Items that are asked together, and how each is drawn. phase, done, of: as in ``Progress``, before it begins."""

    phase: str
    done: int
    of: int
    items: Sequence[Item]
    sampling: Sequence[Sampling]


@dataclass(frozen=True)
class Progress:
    """phase: what is done, in words. done, of: replies (or texts scored). answers: those that are new since the last
    time. known: (row, side) -> what is new of an answer that is there: its repeats, its seconds or its loss, as
    ``what`` says."""

    phase: str
    done: int
    of: int
    answers: tuple[Answered, ...] = ()
    waiting: str = ""
    what: str = ""
    known: Mapping[tuple[int, str], Any] = field(default_factory=dict)


class Answering:
    """Prepares and runs what a verdict asks for; keeps nothing.

    failed: side -> why it cannot answer. A side that fails is written into it and asked no more; the others go on.
    """

    def __init__(
        self, bases: BaseService, data: DataService, adapters: AdapterService, batches: Batches, scoring: ScoringService
    ) -> None:
        self._bases, self._data, self._adapters = bases, data, adapters
        self._batches, self._scoring = batches, scoring

    def examples(self, request: VerdictRequest) -> list[Example]:
        """The rows to judge by. Raises InputError when there are none."""
        checked = self._data.check(request.file, request.mapping, request.owner)
        rows = part(checked.examples, request.rows) if request.rows is not None else list(checked.examples)
        if not checked.examples:
            raise InputError(NO_ANSWER)
        if not rows:
            raise InputError("No row is left to judge by. Choose another part, or a file with more rows.")
        return rows[: request.limit]

    def cards(self, request: VerdictRequest) -> list[AdapterCard | None]:
        """Whose weights answer, by side. Raises NotFoundError, and InputError for what cannot answer."""
        found = [
            None if side.model == "base" else self._adapters.get(side.model, request.owner) for side in request.sides
        ]
        rows = {row.card.id: row for row in self._adapters.list(request.owner)}
        for card in found:
            if card is not None and card.id in rows and not rows[card.id].usable:
                raise InputError(f"{card.name} cannot be a side: {rows[card.id].reason}.")
        return found

    def replies(self, request: VerdictRequest) -> int:
        """How many replies it takes. Reads all that it will read: raises InputError or NotFoundError for what cannot
        be asked."""
        self._batches.refuse_too_long(request.max_tokens)
        rows = len(self.examples(request))
        self.cards(request)
        for side in request.sides:
            if side.docs is not None:
                self._data.documents(side.docs, request.owner)
            self._pool(side, request)
        return rows * len(request.sides) * request.replies_each

    def prepare(self, request: VerdictRequest) -> list[Item]:
        """All items, an example's sides one after another. Raises InputError, NotFoundError."""
        return self._items(request, self.examples(request))

    def _items(self, request: VerdictRequest, examples: Sequence[Example]) -> list[Item]:
        cards, tokenizer = self.cards(request), self._bases.tokenizer()
        documents = {
            side.docs: self._data.documents(side.docs, request.owner) for side in request.sides if side.docs is not None
        }
        pools = [self._pool(side, request) for side in request.sides]
        items = []
        for example in examples:
            for side, card, pool in zip(request.sides, cards, pools, strict=True):
                messages, passages = _asked(
                    side, example, pool, request.seed, documents.get(side.docs) if side.docs else None
                )
                items.append(Item(example, side, card, render_prompt(tokenizer, messages), tuple(messages), passages))
        return items

    def answers(
        self, request: VerdictRequest, items: Sequence[Item], session: str, failed: dict[str, str]
    ) -> Generator[Progress, None, None]:
        """Every item's reply. Closing it frees the device. Raises PlaygroundError, where every side fails too."""
        of = len(items) * request.replies_each
        done = 0
        for begin in range(0, len(items), self._batches.together):
            asked = items[begin : begin + self._batches.together]
            able = _able(asked, failed)
            batch = _Batch("Answering", done, of, able, [request.sampling()] * len(able))
            yield from self._write(batch, request, session, failed, answers=True)
            done += len(asked)

    def repeats(
        self, request: VerdictRequest, items: Sequence[Item], session: str, failed: dict[str, str]
    ) -> Generator[Progress, None, None]:
        """Sampled repeats of every item."""
        found: dict[tuple[int, str], list[str]] = {}
        many = request.repeats if request.repeats > 1 else 0
        asked = [(item, repeat) for item in items for repeat in range(1, many + 1)]
        of = len(items) + len(asked)
        for begin in range(0, len(asked), self._batches.together):
            chunk = [one for one in asked[begin : begin + self._batches.together] if one[0].side.label not in failed]
            done, drawn = len(items) + begin, [request.sampling(repeat) for _, repeat in chunk]
            batch = _Batch("Repeating", done, of, [item for item, _ in chunk], drawn)
            written = yield from self._write(batch, request, session, failed)
            for (item, _), one in zip(chunk, written, strict=True):
                found.setdefault(item.key, []).append(one.state.text)
            whole = {key: tuple(found.pop(key)) for key in list(found) if len(found[key]) == many}
            yield Progress("Repeating", done + len(chunk), of, what="repeats", known=whole)

    def timings(
        self, request: VerdictRequest, items: Sequence[Item], session: str, failed: dict[str, str]
    ) -> Generator[Progress, None, None]:
        """Seconds of some answers when each is asked alone.

        As in use: the prefix that all requests of a side share (its prompt, its shots) is cached from the one before,
        the rest is not. So the prefix cache is cleared first, under the lease, and each side's first ask is not
        counted; with one example there is no other.
        """
        rows = list(dict.fromkeys(item.example.row for item in items))[: TIMED + 1]
        timed = [item for item in items if item.example.row in rows]
        able = _able(timed, failed)
        batch = _Batch("Timing", 0, len(timed), able, [request.sampling()] * len(able))
        yield from self._write(batch, request, session, failed, timed=set(rows[1:] or rows))
        yield Progress(
            "Timing", len(timed), len(timed), what="seconds"
        )  # what waited for a side that has failed is known now

    def refusals(
        self, request: VerdictRequest, session: str, failed: dict[str, str]
    ) -> Generator[Progress, None, dict[str, list[str]]]:
        """What sides with documents say to questions that no documents answer; returns side -> replies, in the
        questions' order."""
        sides = tuple(side for side in request.sides if side.docs is not None and side.label not in failed)
        if not sides:
            return {}
        asked = [
            Example((Message("user", text), Message("assistant", "")), row) for row, text in enumerate(questions(), 1)
        ]
        items = self._items(replace(request, sides=sides), asked)
        sampling = replace(request.sampling(), max_tokens=min(REPLY_TOKENS, request.max_tokens))
        found: dict[str, list[str]] = {side.label: [] for side in sides}
        for begin in range(0, len(items), self._batches.together):
            chunk = _able(items[begin : begin + self._batches.together], failed)
            batch = _Batch("Unanswerable questions", begin, len(items), chunk, [sampling] * len(chunk))
            written = yield from self._write(batch, request, session, failed)
            for item, one in zip(chunk, written, strict=True):
                found[item.side.label].append(one.state.text)
        return {label: replies for label, replies in found.items() if label not in failed}

    def losses(self, items: Sequence[Item], session: str) -> Generator[Progress, None, None]:
        """Loss of every reference, in nats a token; a row that does not fit the base's context with some side's
        prompt is left out."""
        rendered = [(item, *self._scoring.rendered(item.messages, item.example.completion)) for item in items]
        tokenizer, context = self._bases.tokenizer(), self._bases.context()

        def fits(item: Item, text: str) -> bool:
            own = item.card.virtual_tokens if item.card else 0
            return context is None or own + len(encode(tokenizer, text)) <= context

        long = {item.example.row for item, prompt, said in rendered if not fits(item, prompt + said)}
        items = [item for item in items if item.example.row not in long]
        asked = [ToScore(item.card, prompt, said) for item, prompt, said in rendered if item.example.row not in long]
        scored: set[int] = set()
        for begin in range(0, len(asked), self._batches.together):
            for scoring in self._scoring.run(asked[begin : begin + self._batches.together], session):
                new = {
                    at: score
                    for at, score in enumerate(scoring.scores, begin)
                    if score is not None and at not in scored
                }
                scored |= new.keys()
                known = {items[at].key: score.loss for at, score in new.items()}
                done, of = len(scored), len(asked)
                yield Progress("Scoring the references", done, of, waiting=scoring.waiting, what="loss", known=known)

    def _write(
        self,
        batch: _Batch,
        request: VerdictRequest,
        session: str,
        failed: dict[str, str],
        answers: bool = False,
        timed: Collection[int] | None = None,
    ) -> Generator[Progress, None, list[Written]]:
        """One batch to its end, under one lease. answers: yield each as it ends. timed: one after another, and of
        these rows the seconds as each ends. Raises a failure that is the device's, or that leaves no side."""
        written: list[Written] = []
        known: set[int] | None = None
        items = batch.items
        asked = [Asked(item.card, item.prompt, one) for item, one in zip(items, batch.sampling, strict=True)]
        for written in self._batches.run(asked, session, "measure", apart=timed is not None):
            waiting = next((one.waiting for one in written if one.waiting), "")
            ended = {place for place, one in enumerate(written) if one.done}
            if waiting or ended != known:
                new = [place for place in sorted(ended - (known or set())) if written[place].failure is None]
                known = ended
                fresh = tuple(_answered(items[place], written[place]) for place in new) if answers else ()
                counted = [place for place in new if items[place].example.row in (timed or ())]
                seconds = {items[place].key: written[place].state.seconds for place in counted}
                done, what = batch.done + len(ended), "seconds" if seconds else ""
                yield Progress(batch.phase, done, batch.of, fresh, waiting, what, seconds)
        faults: dict[str, PlaygroundError] = {}
        for item, one in zip(items, written, strict=True):
            if one.failure is not None:
                faults.setdefault(item.side.label, _named(one.failure, item.side))
        others = [fault for fault in faults.values() if not isinstance(fault, (InputError, OutOfMemoryError))]
        if faults and (others or len({*failed, *faults}) == len(request.sides)):
            raise [*others, *faults.values()][0]
        failed.update({label: str(fault).removeprefix(f"{label}: ") for label, fault in faults.items()})
        return written

    def _pool(self, side: Side, request: VerdictRequest) -> list[Example]:
        """Answered examples that shots come from. A file that is judged by gives its other rows; one that is not,
        its training part."""
        if not side.shots:
            return []
        source = Path(side.shots_from or request.examples or request.file)
        same = source.resolve() == request.file.resolve()
        checked = self._data.check(source, request.mapping if source == request.file else None, request.owner)
        if request.rows is None and same:
            return list(checked.examples)
        parts = split(checked.examples, request.seed, test=self._data.test_share(source))
        judged = set(request.rows or ()) if same else set()
        return [example for example in part(checked.examples, parts.train) if example.row not in judged]


def _able(items: Sequence[Item], failed: Mapping[str, str]) -> list[Item]:
    return [item for item in items if item.side.label not in failed]


def _asked(
    side: Side, example: Example, pool: Sequence[Example], seed: int, documents: Documents | None
) -> tuple[list[Message], tuple[str, ...]]:
    """(messages, passages). The example's own system prompt stands where the side has none; its earlier turns stay."""
    own = next((message.content for message in example.prompt if message.role == "system"), "")
    turns = [message for message in example.prompt if message.role != "system"]
    question = turns[-1].content
    history = [Turn(asked.content, said.content) for asked, said in zip(turns[:-1:2], turns[1:-1:2], strict=False)]
    passages = passages_for(side, question, documents)
    prompted = side if side.system_prompt.strip() or not own else replace(side, system_prompt=own)
    return conversation(prompted, history, question, pool, seed, passages), passages


def _answered(item: Item, one: Written) -> Answered:
    example, state = item.example, one.state
    return Answered(
        example=example.row,
        side=item.side.label,
        question=example.messages[-2].content,
        prompt=item.prompt,
        reply=state.text,
        reference=example.completion,
        prompt_tokens=state.prompt_tokens,
        completion_tokens=state.completion_tokens,
        seconds=None,
        stamp=one.stamp,
        passages=item.passages,
    )


def _named(failure: PlaygroundError, side: Side) -> PlaygroundError:
    """The same failure with the side's name before it."""
    return type(failure)(f"{side.label}: {failure}")
