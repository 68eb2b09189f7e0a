"""Every side's answer to every example, in batches through the engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from playground.chat.batching import Asked, Batches, Written, prompt_of
from playground.chat.compare import Side, conversation, form_like, passages_for, picked_rows
from playground.data.example import TOOLS, Example, Message, question_of
from playground.data.render import encode, thinking
from playground.data.retrieval import Documents
from playground.data.split import BY_CHANCE, part
from playground.engine.request import Sampling
from playground.errors import EndpointError, InputError, OutOfMemoryError, PlaygroundError
from playground.evaluation.comparison import TIMED
from playground.evaluation.forgetting import REFUSALS_REPLY_TOKENS as REPLY_TOKENS
from playground.evaluation.forgetting import questions
from playground.evaluation.form import REFERENCES
from playground.evaluation.verdict import Answered
from playground.library.adapters import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.models.endpoints import Endpoint
from playground.models.remote import Remote, Spending
from playground.verdict.files import VERDICT
from playground.verdict.losses import ScoringService, ToScore
from playground.verdict.records import judged_at, rows_judged
from playground.verdict.request import (
    Asking,
    Item,
    Key,
    Progress,
    Size,
    VerdictRequest,
    recorded_answers,
    recorded_replies,
    refuse_missing_replies,
)
from playground.workspace.examples import DataService

TIMING_S = 60.0
"""Timing ends after about so long: all sides then have the same number of timed replies, at least one."""
TIMING_FOR_LIMIT = 5
"""So many times as long it may take where a limit of seconds or a price of the device's hours rests on it."""
SCORED = 24
"""Rows of which the references are scored, the first ones: enough for a mean, and it decides nothing."""
QUIET_S = 1.0
"""Between two looks at whether a job is to end, while replies are being written."""


SHORTEST_REPLY, LONGEST_REPLY = 16, 1024
"""Tokens of a reply, where the person names no limit."""
THOUGHT_TOKENS = 1024
"""Beside these, where a side thinks before it answers."""


class Answering:
    """Runs what a verdict asks. Closing a phase frees the device; it raises PlaygroundError where every side fails."""

    def __init__(
        self,
        bases: BaseService,
        data: DataService,
        adapters: AdapterService,
        batches: Batches,
        scoring: ScoringService,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bases, self._data, self._adapters = bases, data, adapters
        self.batches, self._scoring, self._ticks = batches, scoring, ticks

    def examples(self, request: VerdictRequest) -> list[Example]:
        """The rows to judge by. Raises InputError when there are none."""
        there, rows, seen = self._judged(request)
        if not there:
            needed = "A verdict needs rows with a request and an answer."
            raise InputError(f"The answers are none: this file holds raw text, or prompts alone. {needed}")
        if not rows:
            why = f": {seen} were left out, which a tuned side may have been trained on" * bool(seen)
            raise InputError(f"No row is left to judge by{why}. Choose another part, or a file with more rows.")
        return rows

    def _judged(self, request: VerdictRequest) -> tuple[tuple[Example, ...], list[Example], int]:
        """(all rows of the file, those to judge by, how many were left out)."""
        there = self._data.check(request.file, request.mapping, request.owner).examples
        return there, *rows_judged(request, there, self.cards(request) if request.unseen else ())

    def size(self, request: VerdictRequest) -> Size:
        """How much it is. Raises InputError, NotFoundError."""
        _, rows, seen = self._judged(request)
        asked = sum(side.replies is None for side in request.sides)
        return Size(len(rows), seen, len(rows) * asked * request.replies_each)

    def cards(self, request: VerdictRequest) -> list[AdapterCard | None]:
        """Whose weights answer, by side. Raises NotFoundError, and InputError for what cannot answer."""
        found = [self._adapters.model(side.model, request.owner) if side.is_here else None for side in request.sides]
        for card in found:
            if card is not None and (why := self._adapters.unfit(card)):
                raise InputError(f"{card.name} cannot be a side: {why}.")
        return found

    def endpoints(self, request: VerdictRequest) -> list[Endpoint | None]:
        """Which other server answers, by side. Raises NotFoundError, InputError where a spend cap cannot be kept."""
        there = self.batches.endpoints
        found = [there.get(side.model) if side.is_remote else None for side in request.sides]
        paid = [*found, *([there.get(request.proposer)] if request.proposer else [])]
        unpriced = [one.name for one in paid if one is not None and one.prices is None]
        if request.spend_cap is not None and unpriced:
            raise InputError(
                f"The spend cap cannot be kept: what {', '.join(unpriced)} costs is not known. Give it "
                "prompt_per_million and completion_per_million in endpoints.toml (0 where nothing is paid)."
            )
        return found

    def leaving(self, request: VerdictRequest, answers: Mapping[Key, Answered]) -> str:
        """How many rows go to which other machine, in how many requests, at what price; "" where none leaves this
        one. answers: what is not asked again. Raises InputError, NotFoundError."""
        said, remote = self._reflected(request), tuple(side for side in request.sides if side.is_remote)
        if not remote:
            return f"Rows leave this machine: {said[0]}." if said else ""
        longest, tokenizer = request.max_tokens or self.reply_limit(request), self._bases.tokenizer()
        items = self.prepare(replace(request, sides=remote))
        items = [one for one in items if one.endpoint is not None and not one.endpoint.is_here]
        alone = untimed(items, answers) if request.purpose == VERDICT else []
        items = [one for one in items if one.key not in answers]
        for endpoint in {one.endpoint for one in items if one.endpoint is not None}:
            asked = [one for one in items if one.endpoint == endpoint]
            sides = {one.side.label: one.side for one in asked}.values()
            rows = {one.example.row for one in asked}
            many = len(asked) * request.replies_each
            many += sum(_timed(sum(one.side == side for one in alone)) for side in sides)
            many += len(questions()) * sum(side.docs is not None for side in sides) if request.refusals else 0
            cost = "what they cost is not known (no prices in endpoints.toml)"
            if (prices := endpoint.prices) is not None:
                read = sum(len(encode(tokenizer, turn.content)) for one in asked for turn in one.messages)
                most = prices.of(read * many / len(asked), many * longest)
                cost = f"about {most:.2g} {request.prices.currency} at most"
            said.append(f"{len(rows)} rows in {many} requests to {endpoint.label}, {cost}")
        return f"Rows leave this machine: {'; '.join(sorted(said))}." if said else ""

    def _reflected(self, request: VerdictRequest) -> list[str]:
        """What leaves this machine for the server that rewrites prompts."""
        endpoint = self.batches.endpoints.get(request.proposer) if request.proposer else None
        if endpoint is None or endpoint.is_here:
            return []
        rows = f"some of {len(request.pool)} training rows, with replies and answers"
        return [f"{rows}, to {endpoint.label}, {endpoint.price_words}"]

    def replies(self, request: VerdictRequest, answered: Collection[Key] = ()) -> int:
        """How many replies it takes. answered: those that are not asked again. Raises InputError or NotFoundError for
        what cannot be asked."""
        self.batches.refuse_too_long(request.max_tokens)
        self.cards(request), self.endpoints(request)
        for side in request.sides:
            self._read(side, request)
        examples = self.examples(request)
        refuse_missing_replies(self._data, request, examples, answered)
        asked = [side.label for side in request.sides if side.replies is None]
        left = sum((one.row, side) not in answered for one in examples for side in asked)
        return left * request.replies_each

    def recorded_words(self, request: VerdictRequest) -> list[str]:
        """As in ``VerdictService``."""
        joined = recorded_replies(self._data, request, self.examples(request)) if request.has_recorded else ()
        return [f"{side.label}: {found.words}" for side, _, found in joined]

    def recorded(self, request: VerdictRequest, answered: Collection[Key]) -> list[Answered]:
        """What recorded sides say to rows that are not ``answered`` yet. Raises InputError, NotFoundError."""
        tokenizer = self._bases.tokenizer()

        def count(text: str) -> int:
            return len(encode(tokenizer, text))

        found = recorded_answers(self._data, request, self.examples(request), count)
        return [one for one in found if (one.example, one.side) not in answered]

    def formed(self, request: VerdictRequest) -> VerdictRequest:
        """The request with the form written out where a side takes that of the references: of rows that are not judged
        by, where there are such. Raises InputError, NotFoundError."""

        def form(side: Side) -> str:
            return form_like([one.completion for one in self._read(side, request)[0] or self.examples(request)])

        like = [replace(one, format=form(one)) if one.format == REFERENCES else one for one in request.sides]
        return replace(request, sides=tuple(like))

    def prepare(self, request: VerdictRequest, examples: Sequence[Example] | None = None) -> list[Item]:
        """The items of these examples (None = the request's), side by side. Raises InputError, NotFoundError."""
        examples = self.examples(request) if examples is None else examples
        models = list(zip(self.cards(request), self.endpoints(request), strict=True))
        read = [self._read(side, request) for side in request.sides]
        items = []
        for example in examples:
            for side, (card, endpoint), (pool, documents) in zip(request.sides, models, read, strict=True):
                if side.replies is not None:
                    continue
                messages, passages = _asked(side, example, pool, request.seed, documents)
                tokenizer = self._bases.tokenizer(card)
                prompt = "" if endpoint is not None else prompt_of(tokenizer, messages, card, side.think)
                items.append(Item(example, side, card, prompt, tuple(messages), passages, endpoint))
        return items

    def answers(self, asking: Asking) -> Generator[Progress, None, None]:
        """Every item's reply."""
        drawn = asking.request.sampling()
        of = len(asking.items) * asking.request.replies_each
        for begin, chunk in self._chunks([(item, drawn) for item in asking.items], asking):
            yield from self._write(asking, chunk, Progress("Answering", begin, of), answers=True)

    def repeats(self, asking: Asking) -> Generator[Progress, None, None]:
        """Sampled repeats of every item."""
        request, items = asking.request, asking.items
        found: dict[Key, list[str]] = {}
        many = request.repeats if request.repeats > 1 else 0
        asked = [(item, request.sampling(repeat)) for item in items for repeat in range(1, many + 1)]
        for begin, chunk in self._chunks(asked, asking):
            now = Progress("Repeating", len(items) + begin, len(items) + len(asked), what="repeats")
            written = yield from self._write(asking, chunk, now)
            for (item, _), one in zip(chunk, written, strict=True):
                found.setdefault(item.key, []).append(one.state.text)
            whole = {key: tuple(found.pop(key)) for key in list(found) if len(found[key]) == many}
            yield replace(now, done=now.done + len(chunk), known=whole)

    def timings(self, asking: Asking) -> Generator[Progress, None, None]:
        """Seconds of some answers when each is asked alone, one example after another of all sides in turn.

        As in use: the prefix that all requests of a side share (its prompt, its shots) is cached from the one before,
        the rest is not. So the prefix cache is cleared first, under the lease, and each side's first ask is not
        counted: where that leaves one too few of ``TIMED``, that row is timed last, with an empty cache before another.
        With one example there is no other. Another server has a cache of its own, and that ask costs money.
        """
        by_row: dict[int, list[Item]] = {}
        for item in asking.items:
            by_row.setdefault(item.example.row, []).append(item)
        first, rest, began = [*by_row][:1], [*by_row][1 : TIMED + 1], self._ticks()
        steps = [(row, True) for row in first] + [(row, False) for row in rest]
        if len(rest) == TIMED - 1:
            steps += [(rest[0], True), (first[0], False)]
        done, of, asked = 0, sum(len(by_row[row]) for row, _ in steps), asking.request
        rests = asked.questions.latency_s is not None or asked.prices.device_per_hour is not None
        most_s = TIMING_S * (TIMING_FOR_LIMIT if rests else 1)
        for row, cold in steps:
            started = self._ticks()
            able = [(item, asking.request.sampling()) for item in by_row[row] if item.side.label not in asking.failed]
            able = [one for one in able if one[0].endpoint is None] if cold and rest else able
            # one reply a lease, so that nobody else waits for all of them; those that find no cache, together
            for chunk in [able] if cold else [[one] for one in able]:
                now = Progress("Timing", done, of)
                yield from self._write(asking, chunk, now, timed=() if cold and rest else (row,), apart=cold)
                done += len(chunk)
            if not cold and self._ticks() - began + (self._ticks() - started) > most_s:
                break
        # what waited for a side that has failed is known now
        yield Progress("Timing", of, of, what="seconds")

    def refusals(self, asking: Asking, known: Collection[str]) -> Generator[Progress, None, dict[str, list[str]]]:
        """Side -> its replies to questions that no documents answer, in their order, of those that are not known."""
        request, out = asking.request, {*asking.failed, *known}
        sides = tuple(side for side in request.sides if side.docs is not None and side.label not in out)
        sides = tuple(side for side in sides if side.draw <= 1 and not side.format)  # a form leaves no way to refuse
        if not sides:
            return {}
        rows = [((Message("user", text), Message("assistant", "")), row) for row, text in enumerate(questions(), 1)]
        items = self.prepare(replace(request, sides=sides), [Example(*row) for row in rows])
        sampling = replace(request.sampling(), max_tokens=min(REPLY_TOKENS, request.max_tokens))
        found: dict[str, list[str]] = {side.label: [] for side in sides}
        for begin, chunk in self._chunks([(item, sampling) for item in items], asking):
            now = Progress("Unanswerable questions", begin, len(items))
            written = yield from self._write(asking, chunk, now)
            for (item, _), one in zip(chunk, written, strict=True):
                found[item.side.label].append(one.state.text)
        return {label: replies for label, replies in found.items() if label not in asking.failed}

    def reply_limit(self, request: VerdictRequest) -> int:
        """Tokens of a reply, in steps of 8, for the side that takes most tokens for the references: a quarter more than
        19 of 20 of these have, and enough for the longest one unless that has twice as many; more where a side
        thinks."""
        there = judged_at(self._data.check(request.file, request.mapping, request.owner).examples, request)
        tokens = 0.0
        for card in {
            card.id if card is not None and card.is_base else "": card for card in self.cards(request)
        }.values():
            tokenizer = self._bases.tokenizer(card)
            lengths = sorted(1 + len(encode(tokenizer, one.completion)) for one in there) or [1]
            most = lengths[math.ceil(0.95 * len(lengths)) - 1]
            tokens = max(tokens, 1.25 * most, min(lengths[-1], 2 * most))
        room = THOUGHT_TOKENS if any(map(self._thinks, request.sides, self.cards(request))) else 0
        return room + min(LONGEST_REPLY, max(SHORTEST_REPLY, 8 * math.ceil(tokens / 8)))

    def _thinks(self, side: Side, card: AdapterCard | None) -> bool:
        """Whether it thinks before it answers; of another server that is not known."""
        if side.think is not None or side.is_remote or side.replies is not None:
            return bool(side.think)
        return (card is None or card.think is None) and thinking(self._bases.tokenizer(card)).by_itself

    def losses(self, asking: Asking) -> Generator[Progress, None, None]:
        """Loss of the references, in nats a token; a row too long for some side's context is left out. Another
        server scores none, and another base has other tokens, so that its loss says nothing beside the others."""
        tokenizer, context = self._bases.tokenizer(), self._bases.context()
        able = [one for one in asking.items if one.side.label not in asking.failed]
        elsewhere = dict.fromkeys((one.key for one in able if not one.shares_tokens), None)
        able = [one for one in able if one.shares_tokens]
        rendered = [(item, *self._scoring.rendered(item.messages, item.example.completion)) for item in able]

        def fits(item: Item, text: str) -> bool:
            own = item.card.virtual_tokens if item.card else 0
            return context is None or own + len(encode(tokenizer, text)) <= context

        long = {item.example.row for item, prompt, said in rendered if not fits(item, prompt + said)}
        kept = [one for one in rendered if one[0].example.row not in long]
        asked = [ToScore(item.card, prompt, said) for item, prompt, said in kept]
        scored: set[int] = set()
        yield Progress("Scoring the references", 0, len(asked), what="loss", known=elsewhere)
        for begin in range(0, len(asked), self.batches.together):
            for scoring in self._scoring.run(asked[begin : begin + self.batches.together], asking.session):
                known: dict[Key, object] = {}
                for at, score in enumerate(scoring.scores, begin):
                    if score is not None and at not in scored:
                        scored.add(at)
                        known[kept[at][0].key] = score.loss
                now = Progress("Scoring the references", len(scored), len(asked), waiting=scoring.waiting)
                yield replace(now, what="loss", known=known)

    def _chunks(
        self, asked: Sequence[tuple[Item, Sampling]], asking: Asking
    ) -> Iterator[tuple[int, list[tuple[Item, Sampling]]]]:
        """(where it begins, what its sides that have not failed are asked) of every batch."""
        for begin in range(0, len(asked), self.batches.together):
            chunk = asked[begin : begin + self.batches.together]
            yield begin, [one for one in chunk if one[0].side.label not in asking.failed]

    def _write(
        self,
        asking: Asking,
        chunk: Sequence[tuple[Item, Sampling]],
        now: Progress,
        answers: bool = False,
        timed: Collection[int] = (),
        apart: bool = False,
    ) -> Generator[Progress, None, list[Written]]:
        """One batch to its end, under one lease. now: before it begins. answers: yield each as it ends. timed: of these
        rows the seconds as each ends. apart: one after another, with an empty prefix cache. Raises a failure that is
        the device's, or that leaves no side."""
        written: list[Written] = []
        known: set[int] | None = None
        told_s = time.monotonic()
        items = [item for item, _ in chunk]
        held = [replace(drawn, format=item.side.format, think=item.side.think) for item, drawn in chunk]
        asked = [
            Asked(item.card, item.prompt, drawn, remote=_remote(item, asking))
            for item, drawn in zip(items, held, strict=True)
        ]
        for written in self.batches.run(asked, asking.session, "measure", apart=apart):
            waiting = next((one.waiting for one in written if one.waiting), "")
            ended = {place for place, one in enumerate(written) if one.done}
            if waiting or ended != known or time.monotonic() - told_s > QUIET_S:
                told_s = time.monotonic()
                new = [place for place in sorted(ended - (known or set())) if written[place].failure is None]
                known = ended
                fresh = tuple(_answered(items[place], written[place]) for place in new) if answers else ()
                counted = [place for place in new if items[place].example.row in timed]
                seconds = {items[place].key: written[place].state.seconds for place in counted}
                done, what = now.done + len(ended), "seconds" if seconds else ""
                yield Progress(now.phase, done, now.of, fresh, waiting, what, seconds)
        faults: dict[str, PlaygroundError] = {}
        for item, one in zip(items, written, strict=True):
            if one.failure is not None:
                faults.setdefault(item.side.label, one.failure)
        named = [type(fault)(f"{label}: {fault}") for label, fault in faults.items()]
        others = [fault for fault in named if not isinstance(fault, (InputError, OutOfMemoryError, EndpointError))]
        asked_of = {side.label for side in asking.request.sides if side.replies is None}
        if faults and (others or asked_of <= {*asking.failed, *faults}):
            raise [*others, *named][0]
        asking.failed.update({label: str(fault) for label, fault in faults.items()})
        return written

    def _read(self, side: Side, request: VerdictRequest) -> tuple[list[Example], Documents | None]:
        """(answered examples that shots come from, documents). A file that is judged by gives its other rows; one that
        is not, its training part. Raises InputError, NotFoundError."""
        documents = self._data.documents(side.docs, request.owner) if side.docs is not None else None
        if not side.shots and side.format != REFERENCES:
            return [], documents
        source = Path(side.shots_from or request.examples or request.file)
        same = source.resolve() == request.file.resolve()
        checked = self._data.check_beside(source, request.file, request.mapping, request.owner)
        if side.picked:
            seen = set(request.rows or ()) if same else set()
            return picked_rows(side, [one for one in checked.examples if one.row not in seen]), documents
        if request.rows is None and same:
            return list(checked.examples), documents
        by = request.split_by if same else BY_CHANCE
        learned: Sequence[int] = request.pool if same else ()
        if not learned:
            there, owner = checked.examples, request.owner
            learned = self._data.split(source, there, request.seed, by=by, owner=owner, checked=checked).train
        judged = set(request.rows or ()) if same else set()
        return [example for example in part(checked.examples, learned) if example.row not in judged], documents


def _asked(
    side: Side, example: Example, pool: Sequence[Example], seed: int, documents: Documents | None
) -> tuple[list[Message], tuple[str, ...]]:
    """(messages, passages). The example's own system prompt stands where the side has none; its other turns stay."""
    own = next((message.content for message in example.prompt if message.role == "system"), "")
    offered, turns = ([one for one in example.prompt if (one.role == TOOLS) == yes] for yes in (True, False))
    turns = [one for one in turns if one.role != "system"]
    place = max(place for place, one in enumerate(turns) if one.role == "user")
    passages = passages_for(side, turns[place].content, documents)
    prompted = side if side.system_prompt.strip() or not own else replace(side, system_prompt=own)
    *before, question = conversation(prompted, (), turns[place].content, pool, seed, passages)
    return [*offered, *before, *turns[:place], question, *turns[place + 1 :]], passages


def untimed(items: Sequence[Item], answers: Mapping[Key, Answered]) -> list[Item]:
    """What is timed next, the row that comes before them and is not counted first: sides on the rows that others were
    timed on; further rows where these are too few."""
    timed = {row for (row, _), one in answers.items() if one.seconds is not None}
    left = [one for one in items if (had := answers.get(one.key)) is None or had.seconds is None]
    if len(timed) < TIMED:
        return left
    first = next((one.example.row for one in left if one.example.row not in timed), None)
    behind = {one.side.label for one in left if one.example.row in timed}
    return [one for one in left if one.side.label in behind and one.example.row in {first, *timed}]


def _timed(rows: int) -> int:
    """Replies of a side that are timed, of so many rows: all, but the first where they are too few for a limit."""
    return TIMED if rows >= TIMED else max(min(1, rows), rows - 1)


def _remote(item: Item, asking: Asking) -> Remote | None:
    return None if item.endpoint is None else Remote(item.endpoint, item.messages, asking.spending or Spending())


def _answered(item: Item, one: Written) -> Answered:
    prompt = item.prompt if one.stamp is None else one.stamp["prompt"]["text"]
    said = (prompt, one.state.text, item.example.completion)
    tokens = (one.state.prompt_tokens, one.state.completion_tokens)
    question = question_of(item.example.prompt)
    found = Answered(*item.key, question, *said, *tokens, None, one.stamp, item.passages)
    return replace(found, finish=one.state.finish, thought_tokens=one.state.thought_tokens)
