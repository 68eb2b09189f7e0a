"""A model as a judge of a verdict's replies, in both orders, beside the person's own votes: another side of the playground, or an endpoint."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

from playground.data.example import Message
from playground.data.render import render_prompt
from playground.engine.request import Sampling
from playground.errors import InputError, PlaygroundError
from playground.evaluation.judge import Asked, both_orders, combined, parse_answer
from playground.library.card import AdapterCard
from playground.services.adapters import AdapterService
from playground.services.bases import BaseService
from playground.services.batches import Asked as ToWrite
from playground.services.batches import Batches
from playground.services.endpoint import Endpoint
from playground.services.quota import Quota
from playground.services.sessions import LOCAL
from playground.services.vote_files import JUDGE, Cast
from playground.services.voting import Place, Poll, Voting

ENDPOINT, BASE = "endpoint", "base"
MOST = 60
"""Comparisons that a judge is asked at one go, each in both orders: first those that the person voted on."""
TOGETHER = 4
"""Comparisons of one batch."""
ANSWER_TOKENS = 16
_LOG = logging.getLogger(__name__)
Steps = Generator[str | list[str], None, None]
"""Yields words while it waits, and the answers at its end. Closing it frees the device."""
Ask = Callable[[Sequence[Asked]], Steps]


@dataclass(frozen=True)
class JudgingView:
    """done, of: comparisons. unread: those whose answers name no reply. error: why it ended early."""

    verdict: str
    name: str
    done: int = 0
    of: int = 0
    unread: int = 0
    live: bool = False
    waiting: str = ""
    error: str = ""


@dataclass
class _Work:
    view: JudgingView
    stop: threading.Event = field(default_factory=threading.Event)


class JudgingService:
    """One judging a verdict at a time, in a thread of this process; what was judged before it was stopped is kept.

    endpoint: reads the environment anew at each look. shared: people who do not know each other use the app; the endpoint, which somebody
    pays for and which would see their replies, is then not offered.
    """

    def __init__(
        self, voting: Voting, bases: BaseService, adapters: AdapterService, batches: Batches, quota: Quota, *, shared: bool = False,
        endpoint: Callable[[], Endpoint | None] = Endpoint.from_env, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._voting, self._bases, self._adapters, self._batches = voting, bases, adapters, batches
        self._quota, self._shared, self._endpoint, self._clock = quota, shared, endpoint, clock
        self._work: dict[str, _Work] = {}
        self._lock = threading.Lock()

    def judges(self, owner: str = LOCAL) -> list[tuple[str, str]]:
        """(name, id) of everything that may judge: the base, adapters, and an endpoint where one is set."""
        found = [("The base", BASE)]
        found += [(row.card.name, row.card.id) for row in self._adapters.list(owner) if row.usable]
        try:
            elsewhere = None if self._shared else self._endpoint()
        except InputError:  # told when it is chosen
            return [*found, ("The endpoint, which is not set right", ENDPOINT)]
        return [*found, (elsewhere.name, ENDPOINT)] if elsewhere is not None else found

    def start(self, id: str, judge: str, owner: str = LOCAL, limit: int = MOST) -> None:
        """Let it judge in the background; its earlier votes on this verdict go when it has said something. Raises NotFoundError, InputError."""
        poll = self._voting.poll(id, owner)
        ask, name = self._asker(judge, owner)
        places = self._places(id, owner, poll)[:limit]
        with self._lock:
            if (work := self._work.get(id)) is not None and work.view.live:
                raise InputError(f"{work.view.name} judges this verdict already. Stop it, or wait for its end.")
            replies = 2 * len(places)
            self._quota.take_replies(owner, replies, "Judging")
            work = self._work[id] = _Work(JudgingView(id, name, of=len(places), live=True))

        def counted() -> None:
            try:
                self._judge(id, poll, places, ask, work)
            finally:
                self._quota.give_back_replies(owner, replies)

        threading.Thread(target=counted, name=f"judge-{id}", daemon=True).start()

    def show(self, id: str, owner: str = LOCAL) -> JudgingView | None:
        """How far it is; None where nothing judged since the app began. Raises NotFoundError."""
        self._voting.poll(id, owner)
        work = self._work.get(id)
        return work.view if work is not None else None

    def stop(self, id: str, owner: str = LOCAL) -> None:
        """End it and keep what was judged. Raises NotFoundError."""
        self._voting.poll(id, owner)
        if (work := self._work.get(id)) is not None:
            work.stop.set()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _asker(self, judge: str, owner: str) -> tuple[Ask, str]:
        """(how it is asked, its name). Raises NotFoundError, InputError."""
        if judge == ENDPOINT:
            elsewhere = None if self._shared else self._endpoint()
            if elsewhere is None:
                raise InputError(
                    "No endpoint is set. Whoever runs the app sets JUDGE_URL, JUDGE_MODEL and JUDGE_KEY in its environment."
                )
            return lambda asked: _answered(elsewhere, asked), elsewhere.name
        card = None if judge == BASE else self._adapters.get(judge, owner)
        return lambda asked: self._written(card, asked, f"judge {owner}"), card.name if card is not None else "The base"

    def _written(self, card: AdapterCard | None, asked: Sequence[Asked], session: str) -> Steps:
        """One batch of the playground's own. Raises the first failure."""
        tokenizer, sampling = self._bases.tokenizer(), Sampling(max_tokens=ANSWER_TOKENS)
        prompts = [render_prompt(tokenizer, [Message(one["role"], one["content"]) for one in each.messages]) for each in asked]
        written = []
        for written in self._batches.run([ToWrite(card, prompt, sampling) for prompt in prompts], session, "measure"):
            yield next((one.waiting for one in written if one.waiting), "")
        if failed := next((one.failure for one in written if one.failure is not None), None):
            raise failed
        yield [one.state.text for one in written]

    def _places(self, id: str, owner: str, poll: Poll) -> list[Place]:
        """What to judge: first what the person voted on, then the rest, an example's pairs one after another."""
        voted = dict.fromkeys(
            one.place
            for one in self._voting.files.read(id)
            if one.owner == owner and one.winner != "skip" and one.place in set(poll.places)
        )
        return [*voted, *sorted((place for place in poll.places if place not in voted), key=lambda place: place[0])]

    def _judge(self, id: str, poll: Poll, places: Sequence[Place], ask: Ask, work: _Work) -> None:
        found: list[Cast] = []
        error = ""
        try:
            for begin in range(0, len(places), TOGETHER):
                chunk = places[begin : begin + TOGETHER]
                answers = self._answers(work, [one for place in chunk for one in _orders(poll, place)], ask)
                if answers is None:
                    break
                for at, (example, a, b) in enumerate(chunk):
                    winner = combined(parse_answer(answers[2 * at]), parse_answer(answers[2 * at + 1]))
                    found.append(Cast(example, a, b, winner or "skip", JUDGE, self._clock(), work.view.name))
                unread = sum(one.winner == "skip" for one in found)
                work.view = replace(work.view, done=len(found), unread=unread, waiting="")
        except PlaygroundError as failed:
            error = str(failed)
        except Exception as failed:
            _LOG.exception("judging %s", id)
            error = f"The judging stopped ({type(failed).__name__}). Try again."
        try:
            if found:
                self._voting.files.change(id, lambda cast: [*(one for one in cast if one.owner != JUDGE), *found])
        except PlaygroundError as failed:
            error = str(failed)
        work.view = replace(work.view, live=False, waiting="", error=error)

    def _answers(self, work: _Work, asked: Sequence[Asked], ask: Ask) -> list[str] | None:
        """None when it was stopped; the device is free then."""
        steps = ask(asked)
        try:
            for step in steps:
                if work.stop.is_set():
                    return None
                if isinstance(step, list):
                    return step
                work.view = replace(work.view, waiting=step)
        finally:
            steps.close()
        return None


def _answered(endpoint: Endpoint, asked: Sequence[Asked]) -> Steps:
    """One after another, so that it can be stopped in between. Raises RunFailedError."""
    answers = []
    for one in asked:
        yield ""
        answers.append(endpoint.answer(one.messages))
    yield answers


def _orders(poll: Poll, place: Place) -> tuple[Asked, Asked]:
    example, a, b = place
    row = poll.rows[example, a]
    return both_orders(row["question"], poll.replies[example, a], poll.replies[example, b], row["reference"])
