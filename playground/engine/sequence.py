"""One sequence's reply, from logits to text and its end; and the handle through which a caller follows it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from playground.data.render import thinking
from playground.engine.constraint import Constraint
from playground.engine.request import Row, RowState, Sampling, Score, TokenLogprob
from playground.errors import is_out_of_memory

LIKELY = 256
"""Tokens that top-p looks at first: nearly always enough, and sorting a whole vocabulary takes 4 ms."""
_UNFINISHED = "�"
"""What a tokenizer puts for a character whose bytes are not all there yet."""


class Sampler:
    """One row's sampler. The same seed and logits give the same tokens, whatever the other rows do.

    In this order: repetition penalty, ends suppressed while the reply is too short, form, temperature, top-k, top-p.
    prompt: the prompt's token ids, which the repetition penalty counts as seen. ends: token ids that end a reply."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int] = (),
        ends: Collection[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self._sampling, self._constraint = sampling, constraint
        self._ends = sorted(ends)
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._drawn = 0
        self._generator: torch.Generator | None = None

    def pick(self, logits: Tensor) -> int:
        """The next token id. logits: [vocabulary], left as they are. Raises FloatingPointError where they are not
        finite, or no token has a share of the probability."""
        sampling = self._sampling
        if sampling.temperature == 0:
            changed = self._changed(logits)
            token = int(changed.argmax())  # of a NaN, where there is one
            _refuse_unless_finite(changed[token])
        else:
            if self._generator is None:
                self._generator = torch.Generator().manual_seed(sampling.seed)
            # one number and a search: torch.multinomial draws one for every token of the vocabulary, which takes longer
            reached = self.shares(logits).cumsum(0, dtype=torch.float64)
            _refuse_unless_finite(reached[-1])
            drawn = torch.rand(1, generator=self._generator, dtype=torch.float64) * reached[-1]
            token = int(torch.searchsorted(reached, drawn, right=True))
            token = min(token, int(torch.searchsorted(reached, reached[-1])))
        self._drawn += 1
        if self._constraint is not None:
            token = self._constraint.take(token, sampling.max_tokens - self._drawn)
        if sampling.repetition_penalty != 1:
            self._seen.add(token)
        return token

    def _changed(self, logits: Tensor) -> Tensor:
        """logits after the repetition penalty, the suppression of the reply's end, and the form."""
        penalty, short = self._sampling.repetition_penalty, self._drawn < self._sampling.min_tokens
        if penalty == 1 and not (short and self._ends):
            return logits if self._constraint is None else self._constraint.masked(logits)
        logits = logits.float().clone()
        if penalty != 1 and self._seen:
            seen = torch.tensor(sorted(self._seen), device=logits.device)
            found = logits[seen]
            logits[seen] = torch.where(found < 0, found * penalty, found / penalty)
        if short and self._ends:
            logits[self._ends] = float("-inf")
        return logits if self._constraint is None else self._constraint.masked(logits)

    def shares(self, logits: Tensor) -> Tensor:
        """Each token's probability [vocabulary] as the next draw would have it. Not for a temperature of 0."""
        sampling = self._sampling
        scaled = self._changed(logits).float().cpu() / sampling.temperature
        if 0 < sampling.top_k < scaled.shape[0]:
            scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k).values[-1], float("-inf"))
        shares = scaled.softmax(-1)
        if sampling.top_p < 1:
            values, indices = shares.topk(min(LIKELY, shares.shape[0]))
            if float(values.sum()) < sampling.top_p:
                values, indices = shares.sort(descending=True)
            kept = values.masked_fill(values.cumsum(0) - values >= sampling.top_p, 0)
            shares = torch.zeros_like(shares).scatter_(0, indices, kept / kept.sum())
        return shares


def _refuse_unless_finite(value: Tensor) -> None:
    if not math.isfinite(float(value)):
        raise FloatingPointError("logits that are not finite")


class Generation:
    """One sequence's reply, ``state`` so far. prompt: its token ids; ends: token ids that end a reply. constraint: what
    holds it to its form."""

    def __init__(
        self,
        row: Row,
        prompt: Sequence[int],
        tokenizer: Any,
        ends: Collection[int],
        constraint: Constraint | None = None,
    ) -> None:
        self.state = RowState(prompt_tokens=len(prompt))
        self.tokens: list[int] = []
        self._row, self._ends = row, frozenset(ends)
        self._tokenizer = tokenizer
        self._constraint = constraint
        self._sampler = Sampler(row.sampling, prompt, ends, constraint)
        self._text = IncrementalDetokenizer(tokenizer)

    def sample(self, logits: Tensor, now_s: float) -> None:
        """Draw the next token from logits [vocabulary] and update the state. now_s: since the batch's start.

        An error ends this reply and no other (``RowState.fault``); only memory that runs out is the whole batch's."""
        try:
            self._sample(logits, now_s)
        except Exception as error:  # one reply's settings or numbers must not end the others
            if is_out_of_memory(error):
                raise
            self.state.fault = self._message(error)  # first: whoever sees the end sees why
            self.state.finish = "error"

    def _sample(self, logits: Tensor, now_s: float) -> None:
        state, sampling, constraint = self.state, self._row.sampling, self._constraint
        token = self._sampler.pick(logits)
        state.seconds = now_s
        if state.first_token_s is None:
            state.first_token_s = now_s
        finish = ""
        if token in self._ends and (constraint is not None or not sampling.ignore_eos):
            finish = "stop"
        else:
            self.tokens.append(token)
            state.tokens = tuple(self.tokens)
            state.completion_tokens = len(self.tokens)
            self._text.add(token)
            if self._row.logprobs is not None:
                state.logprobs = (*state.logprobs, self._logprob(logits, token, self._row.logprobs))
            if state.completion_tokens >= sampling.max_tokens:
                finish = "length" if constraint is None else "stop"  # which keeps room for the document's end
            elif constraint is not None and constraint.done:
                finish = "stop"
        text = self._text.whole() if finish else self._text.text
        cut = min((at for stop in sampling.stop if (at := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            text, finish = text[:cut], "stop"
        state.text = text if finish else text[: len(text) - _partial_stop(text, sampling.stop)]
        state.finish = finish  # last, since other threads read the state: whoever sees the end sees all of the text

    def _message(self, error: Exception) -> str:
        if not isinstance(error, FloatingPointError):
            fault = f"{type(error).__name__}: {str(error)[:200]}"
            return f"This reply could not be written ({fault}). Ask with other settings."
        mend = "Remove it, or train it again at a lower learning rate" if self._row.adapter else "Load it in fp32"
        return f"{self._row.adapter or 'The base'} makes numbers overflow: this reply has no next token. {mend}."

    def _logprob(self, logits: Tensor, token: int, count: int) -> TokenLogprob:
        logprobs = logits.float().log_softmax(-1)
        top = logprobs.topk(min(count, logprobs.shape[0])) if count else None
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
        decode = self._tokenizer.decode
        likeliest = tuple((str(decode([i])), value) for i, value in pairs)
        return TokenLogprob(str(decode([token])), float(logprobs[token]), likeliest)


class IncrementalDetokenizer:
    """Decodes a reply as it grows, a few tokens at a time: decoding all of it at every token would be quadratic in its
    length. ``text`` holds back a character whose bytes are not all there yet. Special tokens are left out, but for
    those that a thought stands between."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tags = thinking(tokenizer).special
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
        if self._tags and not self._tags.isdisjoint(tokens):
            at = next(place for place, token in enumerate(tokens) if token in self._tags)
            tag = str(self._tokenizer.decode(tokens[at : at + 1]))
            return self._decode(tokens[:at]) + tag + self._decode(tokens[at + 1 :])
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def _partial_stop(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of ``text`` may turn out to begin a stop string."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


class Handle:
    """One call's sequences: iterate for their states, ``cancel`` on every way out. changed: the scheduler's."""

    def __init__(self, changed: threading.Condition) -> None:
        self.states: list[RowState] = []
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


@dataclass
class LossSum:
    """A text's score, summed over its places as they are read. divergence: also measure the adapter's from the base."""

    divergence: bool
    _tokens: int = 0
    _sums: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def add(self, logits: Tensor, tokens: Tensor, base: Tensor | None) -> None:
        """logits [places, vocabulary], the base's too where ``divergence``; tokens [places]."""
        loss, divergence, base_loss = self._sums
        loss += float(_losses(logits, tokens).sum())
        if base is not None:
            base_loss += float(_losses(base, tokens).sum())
            p, q = logits.float().log_softmax(-1), base.float().log_softmax(-1)
            apart = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)  # KL(p || q) of each place
            divergence += float(apart.clamp_(min=0.0).sum())
        self._tokens, self._sums = self._tokens + len(tokens), (loss, divergence, base_loss)

    def score(self) -> Score:
        loss, divergence, base_loss = (total / self._tokens for total in self._sums)
        return Score(self._tokens, loss, *((divergence, base_loss) if self.divergence else (None, None)))


def _losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of each place's token, nats."""
    return functional.cross_entropy(logits.float(), tokens, reduction="none")
