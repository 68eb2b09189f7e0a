"""What a row writes: token by token drawn, decoded as it grows, and ended by the model, a stop string or its limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from playground.engine.request import Row, RowState, TokenLogprob
from playground.engine.sampling import Sampler
from playground.errors import is_out_of_memory

_UNFINISHED = "�"
"""What a tokenizer puts for a character whose bytes are not all there yet."""


class Writer:
    """One row's reply. prompt: its token ids; ends: token ids that end a reply. ``state`` tells how far it has come."""

    def __init__(self, row: Row, prompt: Sequence[int], tokenizer: Any, ends: Collection[int]) -> None:
        self.state = RowState(prompt_tokens=len(prompt))
        self.tokens: list[int] = []
        self._row, self._ends = row, frozenset(ends)
        self._tokenizer = tokenizer
        self._sampler = Sampler(row.sampling, prompt, ends)
        self._grown = GrowingText(tokenizer)

    def take(self, logits: torch.Tensor, now_s: float) -> None:
        """Draw the next token from logits [vocabulary] and note what the reply says now. now_s: since the batch's start.

        What goes wrong ends this reply and no other (``RowState.fault``); only memory that runs out is the batch's affair."""
        try:
            self._take(logits, now_s)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.state.fault = self._said(error)  # first: whoever sees the end sees why
            self.state.finish = "error"

    def _take(self, logits: torch.Tensor, now_s: float) -> None:
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
            self._grown.add(token)
            if self._row.logprobs is not None:
                state.logprobs = (*state.logprobs, self._logprob(logits, token, self._row.logprobs))
            if state.completion_tokens >= sampling.max_tokens:
                state.finish = "length"
        text = self._grown.whole() if state.finish else self._grown.text
        cut = min((at for stop in sampling.stop if (at := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            text, state.finish = text[:cut], "stop"
        state.text = text if state.finish else text[: len(text) - _begun(text, sampling.stop)]

    def _said(self, error: Exception) -> str:
        """The fault in words for whoever asked."""
        if not isinstance(error, FloatingPointError):
            return f"This reply could not be written ({type(error).__name__}: {str(error)[:200]}). Ask with other settings."
        mend = "Remove it, or train it again at a lower learning rate" if self._row.adapter else "Load it in fp32"
        return f"{self._row.adapter or 'The base'} makes numbers overflow: this reply has no next token. {mend}."

    def _logprob(self, logits: torch.Tensor, token: int, count: int) -> TokenLogprob:
        shares = logits.float().log_softmax(-1)
        top = shares.topk(min(count, shares.shape[0])) if count else None
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
        return TokenLogprob(self._word(token), float(shares[token]), tuple((self._word(i), value) for i, value in pairs))

    def _word(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


class GrowingText:
    """Decodes a reply as it grows, a few tokens at a time: decoding all of it at every token would cost its length squared.

    ``text`` holds back a character whose bytes are not all there yet.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._from = self._upto = 0  # tokens that give the context, tokens that ``text`` holds
        self.text = ""

    def add(self, token: int) -> None:
        self._tokens.append(token)
        known = self._decode(self._tokens[self._from : self._upto])
        now = self._decode(self._tokens[self._from :])
        if len(now) > len(known) and not now.endswith(_UNFINISHED):
            self.text += now[len(known) :]
            self._from, self._upto = self._upto, len(self._tokens)

    def whole(self) -> str:
        """All of it, as the tokenizer gives it at once."""
        return self._decode(self._tokens)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def _begun(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of ``text`` may turn out to begin a stop string."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
