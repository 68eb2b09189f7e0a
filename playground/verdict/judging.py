"""A model as a judge of a verdict's replies, in both orders, beside the person's own votes: a side of the app, or
a server that answers as OpenAI's chat completions do, whose address and key come from the environment alone."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import urlsplit

from playground.chat.batching import Asked, Batches
from playground.data.example import Message
from playground.data.render import render_prompt
from playground.engine.request import Sampling
from playground.errors import InputError, RunFailedError
from playground.evaluation.votes import Messages, both_orders, combined, parse_answer
from playground.jobs import Job, Jobs
from playground.library.card import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.verdict.files import JUDGE, Cast, Place
from playground.verdict.losses import texts
from playground.verdict.votes import Poll, Voting
from playground.workspace.quota import Quota
from playground.workspace.visitors import LOCAL

TIMEOUT_S = 60.0
ENDPOINT_ANSWER_TOKENS = 256  # room for a judge that thinks aloud before its word
ANSWER_BYTES = 1_000_000
_ENDS = "Check that JUDGE_URL ends where /chat/completions begins."
_ADVICE = {
    **dict.fromkeys((401, 403), "Check JUDGE_KEY."),
    404: "Check JUDGE_URL and JUDGE_MODEL.",
    429: "It takes no more requests now. Try again later.",
    **dict.fromkeys(range(300, 400), "Check JUDGE_URL, or point it straight to the server."),
}


@dataclass(frozen=True)
class Endpoint:
    """url: the base address, as https://api.example.com/v1. key: shown to that server alone; "" = none needed."""

    url: str
    model: str
    key: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Endpoint | None:
        """``JUDGE_URL``, ``JUDGE_MODEL``, ``JUDGE_KEY``; None where no address is set. Raises InputError."""
        env = os.environ if env is None else env
        url, model, key = (env.get(f"JUDGE_{name}", "").strip() for name in ("URL", "MODEL", "KEY"))
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            takes = "It takes one such as https://api.example.com/v1, without a key in it."
            raise InputError(f"JUDGE_URL is no address of a server. {takes}")
        if not model:
            raise InputError("JUDGE_URL is set and JUDGE_MODEL is not. Name the model that judges.")
        return cls(url.rstrip("/"), model, key)

    @property
    def name(self) -> str:
        """For a person: the model and where it is."""
        return f"{self.model} at {urlsplit(self.url).hostname}"

    def answer(self, messages: Messages) -> str:
        """What it says to these messages, greedy. Raises RunFailedError that never names the key."""
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": ENDPOINT_ANSWER_TOKENS}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=TIMEOUT_S) as response:
                text: object = json.loads(response.read(ANSWER_BYTES))["choices"][0]["message"]["content"]
                return text if isinstance(text, str) else ""
        except urllib.error.HTTPError as error:
            wrong = f"answered {error.code}. {_ADVICE.get(error.code, 'Try again.')}"
        except OSError as error:
            reason = str(getattr(error, "reason", None) or error)[:120]
            wrong = f"cannot be reached ({reason}). Check JUDGE_URL and the network."
        except (ValueError, LookupError, TypeError):
            wrong = f"does not answer as a chat completion. {_ENDS}"
        raise RunFailedError(f"{self.name} {wrong}")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key goes where it was meant to go."""

    def redirect_request(self, *args: object, **named: object) -> None:
        return None


ENDPOINT, BASE = "endpoint", "base"
MOST = 60  # comparisons that a judge is asked at one go, each in both orders: first those that the person voted on
TOGETHER = 4  # comparisons of one batch
ANSWER_TOKENS = 16
Ask = Callable[[Sequence[Messages], list[str]], Generator[str, None, None]]
"""Puts the answers behind a list; yields words while it waits. Closing it frees the device."""


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
    """One judging. view: all but what its job says."""

    view: JudgingView
    job: Job | None = None


class JudgingService:
    """One judging a verdict at a time, in the background; what was judged before it was stopped is kept. shared: by
    people who do not know each other: no endpoint, which somebody pays and which sees replies."""

    def __init__(
        self,
        voting: Voting,
        bases: BaseService,
        adapters: AdapterService,
        batches: Batches,
        quota: Quota,
        jobs: Jobs,
        *,
        shared: bool = False,
        endpoint: Callable[[], Endpoint | None] = Endpoint.from_env,
    ) -> None:
        self._voting, self._bases, self._adapters, self._batches = voting, bases, adapters, batches
        self._quota, self._jobs, self._endpoint = quota, jobs, (lambda: None) if shared else endpoint
        self._latest: dict[str, _Work] = {}
        self._lock = threading.Lock()

    def judges(self, owner: str = LOCAL) -> list[tuple[str, str]]:
        """(name, id) of everything that may judge: the base, adapters, and an endpoint where one is set."""
        found = [("The base", BASE)]
        found += [(row.card.name, row.card.id) for row in self._adapters.list(owner) if row.usable]
        try:
            elsewhere = self._endpoint()
        except InputError:  # told when it is chosen
            return [*found, ("The endpoint, which is not set right", ENDPOINT)]
        return [*found, (elsewhere.name, ENDPOINT)] if elsewhere is not None else found

    def start(self, id: str, judge: str, owner: str = LOCAL, limit: int = MOST) -> None:
        """Judge in the background, in the place of earlier judgements. Raises NotFoundError, InputError."""
        poll = self._voting.poll(id, owner)
        ask, name = self._asker(judge, owner)
        places = self._places(id, owner, poll)[:limit]
        work, replies = _Work(JudgingView(id, name, of=len(places))), 2 * len(places)

        def judged(job: Job) -> None:
            try:
                self._judge(poll, places, ask, work, job)
            finally:
                self._quota.give_back_replies(owner, replies)

        with self._lock:
            if self._jobs.get(f"judging {id}") is not None:
                name = self._latest[id].view.name
                raise InputError(f"{name} judges this verdict already. Stop it, or wait for its end.")
            self._quota.take_replies(owner, replies, "Judging")
            self._latest[id] = work
            work.job = self._jobs.start(f"judging {id}", judged, "The judging")

    def show(self, id: str, owner: str = LOCAL) -> JudgingView | None:
        """How far it is; None where nothing judged since the app began. Raises NotFoundError."""
        self._voting.poll(id, owner)
        if (work := self._latest.get(id)) is None:
            return None
        if (job := work.job) is None:
            return work.view
        return replace(work.view, live=job.live, waiting=job.progress.waiting if job.live else "", error=job.error)

    def stop(self, id: str, owner: str = LOCAL) -> None:
        """End it and keep what was judged. Raises NotFoundError."""
        self._voting.poll(id, owner)
        if (job := self._jobs.get(f"judging {id}")) is not None:
            job.stop()

    def _asker(self, judge: str, owner: str) -> tuple[Ask, str]:
        """(how it is asked, its name). Raises NotFoundError, InputError."""
        if judge != ENDPOINT:
            card = None if judge == BASE else self._adapters.get(judge, owner)
            name = card.name if card is not None else "The base"
            return partial(self._written, card, f"judge {owner}"), name
        if (elsewhere := self._endpoint()) is None:
            sets = "Whoever runs the app sets JUDGE_URL, JUDGE_MODEL and JUDGE_KEY in its environment."
            raise InputError(f"No endpoint is set. {sets}")

        def answered(asked: Sequence[Messages], said: list[str]) -> Generator[str, None, None]:
            """One after another, so that it can be stopped in between. Raises RunFailedError."""
            for messages in asked:
                yield ""
                said.append(elsewhere.answer(messages))

        return answered, elsewhere.name

    def _written(
        self, card: AdapterCard | None, session: str, asked: Sequence[Messages], said: list[str]
    ) -> Generator[str, None, None]:
        """One batch of the playground's own. Raises the first failure."""
        tokenizer, sampling = self._bases.tokenizer(), Sampling(max_tokens=ANSWER_TOKENS)
        prompts = (render_prompt(tokenizer, [Message(**one) for one in messages]) for messages in asked)
        batch = [Asked(card, prompt, sampling) for prompt in prompts]
        for waiting, _ in texts(self._batches, batch, session, said):
            yield waiting

    def _places(self, id: str, owner: str, poll: Poll) -> list[Place]:
        """What to judge: first what the person voted on, then the rest, an example's pairs one after another."""
        mine = (one for one in self._voting.files.read(id) if one.owner == owner and one.winner != "skip")
        known = set(poll.places)
        voted = dict.fromkeys(one.place for one in mine if one.place in known)
        return [*voted, *sorted((place for place in poll.places if place not in voted), key=lambda place: place[0])]

    def _judge(self, poll: Poll, places: Sequence[Place], ask: Ask, work: _Work, job: Job) -> None:
        found: list[Cast] = []
        try:
            for begin in range(0, len(places), TOGETHER):
                chunk = places[begin : begin + TOGETHER]
                said: list[str] = []
                asked = [messages for place in chunk for messages in _orders(poll, place)]
                with contextlib.closing(ask(asked, said)) as steps:
                    for waiting in steps:
                        if job.stopping:
                            return
                        job.report("Judging", waiting=waiting)
                for at, (example, a, b) in enumerate(chunk):
                    winner = combined(parse_answer(said[2 * at]), parse_answer(said[2 * at + 1]))
                    found.append(Cast(example, a, b, winner or "skip", JUDGE, time.time(), work.view.name))
                unread = sum(one.winner == "skip" for one in found)
                work.view = replace(work.view, done=len(found), unread=unread)
        finally:
            if found:
                change = self._voting.files.change
                change(work.view.verdict, lambda cast: [*(one for one in cast if one.owner != JUDGE), *found])


def _orders(poll: Poll, place: Place) -> tuple[Messages, Messages]:
    example, a, b = place
    row = poll.rows[example, a]
    return both_orders(row["question"], poll.replies[example, a], poll.replies[example, b], row["reference"])
