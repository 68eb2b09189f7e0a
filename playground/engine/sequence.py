"""One sequence's reply: tokens sampled, decoded to text as they come, and ended by the model, a stop string or the
limit; and the handle through which a caller follows the sequences it asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from playground.engine.request import Row, RowState, TokenLogprob
from playground.engine.sampling import Sampler
from playground.errors import is_out_of_memory

_UNFINISHED = "�"
"""What a tokenizer puts for a character whose bytes are not all there yet."""


class Generation:
    """One sequence's reply, ``state`` so far. prompt: its token ids; ends: token ids that end a reply."""

    def __init__(self, row: Row, prompt: Sequence[int], tokenizer: Any, ends: Collection[int]) -> None:
        self.state = RowState(prompt_tokens=len(prompt))
        self.tokens: list[int] = []
        self._row, self._ends = row, frozenset(ends)
        self._tokenizer = tokenizer
        self._sampler = Sampler(row.sampling, prompt, ends)
        self._text = IncrementalDetokenizer(tokenizer)

    def sample(self, logits: torch.Tensor, now_s: float) -> None:
        """Draw the next token from logits [vocabulary] and update the state. now_s: since the batch's start.

        An error ends this reply and no other (``RowState.fault``); only memory that runs out is the whole batch's."""
        try:
            self._sample(logits, now_s)
        except Exception as error:  # one reply's settings or numbers must not end the others
            if is_out_of_memory(error):
                raise
            self.state.fault = self._message(error)  # first: whoever sees the end sees why
            self.state.finish = "error"

    def _sample(self, logits: torch.Tensor, now_s: float) -> None:
        state, sampling = self.state, self._row.sampling
        token = self._sampler.pick(logits)
        state.seconds = now_s
        if state.first_token_s is None:
            state.first_token_s = now_s
        if token in self._ends and not sampling.ignore_eos:
            state.finish = "stop"
        else:
            self.tokens.append(token)
            state.tokens = tuple(self.tokens)
            state.completion_tokens = len(self.tokens)
            self._text.add(token)
            if self._row.logprobs is not None:
                state.logprobs = (*state.logprobs, self._logprob(logits, token, self._row.logprobs))
            if state.completion_tokens >= sampling.max_tokens:
                state.finish = "length"
        text = self._text.whole() if state.finish else self._text.text
        cut = min((at for stop in sampling.stop if (at := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            text, state.finish = text[:cut], "stop"
        state.text = text if state.finish else text[: len(text) - _partial_stop(text, sampling.stop)]

    def _message(self, error: Exception) -> str:
        if not isinstance(error, FloatingPointError):
            fault = f"{type(error).__name__}: {str(error)[:200]}"
            return f"This reply could not be written ({fault}). Ask with other settings."
        mend = "Remove it, or train it again at a lower learning rate" if self._row.adapter else "Load it in fp32"
        return f"{self._row.adapter or 'The base'} makes numbers overflow: this reply has no next token. {mend}."

    def _logprob(self, logits: torch.Tensor, token: int, count: int) -> TokenLogprob:
        logprobs = logits.float().log_softmax(-1)
        top = logprobs.topk(min(count, logprobs.shape[0])) if count else None
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
        decode = self._tokenizer.decode
        return TokenLogprob(
            str(decode([token])), float(logprobs[token]), tuple((str(decode([i])), value) for i, value in pairs)
        )


class IncrementalDetokenizer:
    """Decodes a reply as it grows, a few tokens at a time: decoding all of it at every token would be quadratic in its
    length.

    ``text`` holds back a character whose bytes are not all there yet.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = self._done = 0  # where the tokens begin that give context, and those that ``text`` lacks
        self.text = ""

    def add(self, token: int) -> None:
        self._tokens.append(token)
        known = self._decode(self._tokens[self._context : self._done])
        now = self._decode(self._tokens[self._context :])
        if len(now) > len(known) and not now.endswith(_UNFINISHED):
            self.text += now[len(known) :]
            self._context, self._done = self._done, len(self._tokens)

    def whole(self) -> str:
        """All of it, as the tokenizer gives it at once."""
        return self._decode(self._tokens)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def _partial_stop(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of ``text`` may turn out to begin a stop string."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


class Handle:
    """One call's sequences: iterate for their states, ``cancel`` on every way out. changed: the scheduler's."""

    def __init__(self, states: Sequence[RowState], changed: threading.Condition) -> None:
        self.states = list(states)
        self.started = time.perf_counter()
        self.cancelled = False
        self.error: BaseException | None = None
        self.version = 0
        self._changed = changed

    def cancel(self) -> None:
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[list[RowState]]:
        """Snapshots after each round until every sequence is done. Raises what stopped the batch."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self.version != seen or self.error is not None)  # type: ignore[misc]
                if self.error is not None:
                    raise self.error
                seen = self.version
                states = [replace(state) for state in self.states]
            yield states
            if all(state.finish for state in states):
                return
