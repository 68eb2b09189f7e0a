"""One conversation, one model, one or a few replies: what a program asks over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

from playground.chat.batching import Asked, Batches, Written
from playground.data.example import Message
from playground.data.render import encode, render_prompt
from playground.engine.request import SEED_MAX, Sampling
from playground.errors import BaseUnavailableError, InputError, NotFoundError
from playground.gpu.manager import DeviceManager
from playground.library.bases import label_of
from playground.library.card import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.plain import plain_text
from playground.settings import Settings

BASE = "base"
REPLIES_MAX = 4
PATIENCE_S = 120.0
"""How long a question waits for a base that is being prepared, where the caller does not leave before."""
LOOK_S = 0.5
"""How often it looks, and reports how far the base is."""


@dataclass(frozen=True)
class Chat:
    """What is asked.

    model: ``base`` or an adapter's id. replies: how many, in one batch; each takes the next seed. logprobs: as in
    ``Row``. fit: shorten ``sampling.max_tokens`` to what the base still holds, and to what may be asked for here, in
    place of refusing.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    replies: int = 1
    logprobs: int | None = None
    fit: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.replies <= REPLIES_MAX:
            raise InputError(f"{self.replies} replies are asked for; 1 to {REPLIES_MAX} can be had at once.")


class CompletionService:
    """Answers programs. Where the app is shared a program is nobody's session: it sees the base and the shipped
    adapters.

    clock: seconds, monotonic. pause: waits that many seconds.
    """

    def __init__(
        self,
        settings: Settings,
        manager: DeviceManager,
        bases: BaseService,
        adapters: AdapterService,
        batches: Batches,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._shared, self._manager, self._bases = settings.shared, manager, bases
        self._adapters, self._batches = adapters, batches
        self._clock, self._pause = clock, pause
        self._owner = "" if settings.shared else "local"

    @property
    def base(self) -> str:
        """The base's own id; where the app is shared, without the folder it lies in."""
        return label_of(self._bases.spec) if self._shared else self._bases.spec

    def adapters(self) -> list[AdapterCard]:
        """Every adapter that may be asked on the base in use."""
        return [row.card for row in self._adapters.list(self._owner) if row.usable]

    def card(self, model: str) -> AdapterCard | None:
        """None for the base. Raises NotFoundError (says what there is)."""
        if model == BASE:
            return None
        try:
            return self._adapters.get(model, self._owner)
        except NotFoundError as error:
            there = ", ".join([BASE, *[card.id for card in self.adapters()]])
            raise NotFoundError(f"There is no model {plain_text(model, 80)!r}. There is: {there}.") from error

    def complete(self, chat: Chat, session: str) -> Generator[list[Written]]:
        """Yields how far each reply has come, the last time with every one done. Closing it frees the device.

        A base that is being prepared is waited for. Raises NotFoundError, InputError, BaseUnavailableError when there
        is no base after PATIENCE_S or there will be none, BusyError when the queue is full, OutOfMemoryError.
        """
        card = self.card(chat.model)
        for waiting in self._until_there_is_a_base():
            yield [Written(waiting=waiting) for _ in range(chat.replies)]
        prompt = render_prompt(self._bases.tokenizer(), chat.messages)
        sampling = self._fitting(prompt, chat, card.virtual_tokens if card else 0)
        asked = [
            Asked(card, prompt, replace(sampling, seed=seed % (SEED_MAX + 1)), chat.logprobs)
            for seed in range(sampling.seed, sampling.seed + chat.replies)
        ]
        for written in self._batches.run(asked, session):
            for one in written:
                if one.failure is not None:
                    raise one.failure
            yield written

    def retry_after_s(self) -> int:
        """When a place in a full queue is likely to be free."""
        return max(1, round(min((request.wait_s for request in self._manager.queue()), default=1.0)))

    def _until_there_is_a_base(self) -> Iterator[str]:
        """How far the base is, in words, every LOOK_S. One that was unloaded is loaded by the question itself."""
        end_s = self._clock() + PATIENCE_S
        while self._bases.loaded is None and (state := self._bases.state()).phase != "ready":
            if state.phase == "failed":
                raise BaseUnavailableError(state.message)
            if self._clock() >= end_s:
                raise BaseUnavailableError(
                    f"The base is still being prepared ({state.message}). Try again in a minute."
                )
            yield state.message
            self._pause(LOOK_S)

    def _fitting(self, prompt: str, chat: Chat, before: int) -> Sampling:
        """The sampling, with a longest reply that the base's context holds beside the prompt and ``before`` tokens
        of the adapter."""
        context, most = self._bases.context(), self._batches.longest
        if chat.fit and most is not None and chat.sampling.min_tokens <= most < chat.sampling.max_tokens:
            chat = replace(chat, sampling=replace(chat.sampling, max_tokens=most))
        length = before + len(encode(self._bases.tokenizer(), prompt))
        longest = chat.sampling.max_tokens
        if context is None or length + longest <= context:
            return chat.sampling
        if chat.fit and chat.sampling.min_tokens < context - length:
            return replace(chat.sampling, max_tokens=context - length)
        asked = max(1, chat.sampling.min_tokens) if chat.fit else longest
        counted = f", {before} of them the adapter's," if before else ""
        raise InputError(
            f"The prompt is {length} tokens{counted} and the reply may take {asked}; this base holds {context}. "
            "Shorten the messages, or ask for a shorter reply."
        )
