"""One sequence's reply, from logits to text and its end; and the handle through which a caller follows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from playground.data.render import thinking
from playground.engine.constraint import Constraint
from playground.engine.request import Row, RowState, Sampling, Score, TokenLogprob
from playground.errors import is_out_of_memory

T = TypeVar("T")
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
        self.sampling, self._constraint = sampling, constraint
        self._ends = sorted(ends)
        self.seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._drawn = 0
        self._generator: torch.Generator | None = None

    @property
    def kind(self) -> tuple[float, ...]:
        """Rows of one kind are computed together."""
        sampling = self.sampling
        return sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty

    @property
    def suppressed(self) -> list[int]:
        """The ends, while the reply is too short."""
        return self._ends if self._drawn < self.sampling.min_tokens else []

    def broken(self) -> Tensor | None:
        """Of every token whether it would break the form; None where none would."""
        return None if self._constraint is None else self._constraint.broken()

    def number(self) -> float:
        """The next of this row's random numbers, 0 to 1; made on the CPU, so that devices draw alike."""
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.sampling.seed)
        return float(torch.rand(1, generator=self._generator, dtype=torch.float64))

    def take(self, token: int) -> int:
        """The token to write where ``token`` was drawn."""
        self._drawn += 1
        if self._constraint is not None:
            token = self._constraint.take(token, self.sampling.max_tokens - self._drawn)
        if self.sampling.repetition_penalty != 1:
            self.seen.add(token)
        return token


def draw(samplers: Sequence[Sampler], logits: Tensor, *, blind: bool | None = None) -> list[int | Exception]:
    """Each row's next token id from logits [rows, vocabulary], which are left as they are, or why it has none:
    FloatingPointError where they are not finite, or no token has a share of the probability. Rows of one kind are
    computed together where the logits are, and the host waits for the device once. Raises when memory runs out.

    blind: look at nothing before the tokens, at the cost of a sort where a look would have saved it; None = on CUDA."""
    if logits.device.type not in ("cpu", "cuda"):
        logits = logits.cpu()  # Apple's GPU has no double precision
    blind = logits.is_cuda if blind is None else blind
    found: list[int | Exception] = [FloatingPointError("logits that are not finite") for _ in samplers]
    kinds: dict[tuple[float, ...], list[int]] = {}
    for place, sampler in enumerate(samplers):
        if isinstance(failed := _tried(sampler.broken), Exception):  # its parser may have failed
            found[place] = failed
        else:
            kinds.setdefault(sampler.kind, []).append(place)
    picked = [
        _picked([samplers[place] for place in places], rows_of(logits, places), blind) for places in kinds.values()
    ]
    tokens, finite = torch.cat(picked, dim=1).tolist() if picked else ((), ())
    order = [place for places in kinds.values() for place in places]
    for place, token, is_finite in zip(order, tokens, finite, strict=True):
        if is_finite:
            found[place] = _tried(partial(samplers[place].take, token))
    for one in found:
        if isinstance(one, Exception) and is_out_of_memory(one):
            raise one
    return found


def _tried(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except Exception as error:  # one reply's form must not end the others
        return error


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device. From memory that is pinned the host does not wait for all that the device has yet to
    do, as it would otherwise; CUDA's allocator keeps that memory until the copy is made."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def rows_of(logits: Tensor, places: Sequence[int]) -> Tensor:
    """Some rows [places, ...] of a tensor; a list as an index would make the host wait for the device."""
    return logits if len(places) == len(logits) else torch.stack([logits[place] for place in places])


def _picked(samplers: Sequence[Sampler], logits: Tensor, blind: bool) -> Tensor:
    """(token, whether it is sound) of rows of one kind, [2, rows]."""
    if samplers[0].sampling.temperature == 0:
        changed = _changed(samplers, logits)
        tokens = changed.argmax(-1)  # of a NaN, where there is one
        return torch.stack([tokens, changed.gather(1, tokens[:, None])[:, 0].isfinite().long()])
    # one number and a search: torch.multinomial draws one for every token of the vocabulary, which takes longer
    reached = shares(samplers, logits, blind).cumsum(-1, dtype=torch.float64)
    last = reached[:, -1:].contiguous()
    numbers = torch.tensor([[sampler.number()] for sampler in samplers], dtype=torch.float64)
    tokens = torch.searchsorted(reached, send(numbers, logits.device) * last, right=True)
    tokens = torch.minimum(tokens, torch.searchsorted(reached, last))
    return torch.cat([tokens, last.isfinite().long()], dim=1).t()


def _changed(samplers: Sequence[Sampler], logits: Tensor) -> Tensor:
    """logits [rows, vocabulary] after the repetition penalty, the suppression of the reply's end, and the form."""
    width, penalty = logits.shape[1], samplers[0].sampling.repetition_penalty
    masks, ends = [sampler.broken() for sampler in samplers], [sampler.suppressed for sampler in samplers]
    if penalty == 1 and not any(ends) and all(mask is None for mask in masks):
        return logits

    def flat(ids: Sequence[Collection[int]]) -> Tensor:
        """Places in all rows' logits side by side."""
        known = [torch.tensor(list(own), dtype=torch.long) for own in ids]
        return send(torch.cat([own[own < width] + row * width for row, own in enumerate(known)]), logits.device)

    logits = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if penalty != 1:
        seen = flat([sampler.seen for sampler in samplers])
        values = logits.view(-1)[seen]
        logits.view(-1)[seen] = torch.where(values < 0, values * penalty, values / penalty)
    if any(ends):
        logits.view(-1).index_fill_(0, flat(ends), float("-inf"))
    if any(mask is not None for mask in masks):
        free = torch.zeros(width, dtype=torch.bool)
        broken = torch.stack([free if mask is None else mask[:width] for mask in masks])
        logits.masked_fill_(send(broken, logits.device), float("-inf"))
    return logits


def shares(samplers: Sequence[Sampler], logits: Tensor, blind: bool = False) -> Tensor:
    """Each token's probability [rows, vocabulary] as the next draw of rows of one kind would have it. Not for a
    temperature of 0."""
    sampling = samplers[0].sampling
    scaled = _changed(samplers, logits).float() / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[1]:
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k).values[:, -1:], float("-inf"))
    found = scaled.softmax(-1)
    if sampling.top_p == 1:
        return found
    if blind:
        return _nucleus(found, sampling.top_p, *found.sort(descending=True))
    return torch.cat([_likeliest(row[None], sampling.top_p) for row in found])


def _likeliest(found: Tensor, top_p: float) -> Tensor:
    """One row's nucleus, [1, vocabulary]."""
    values, indices = found.topk(min(LIKELY, found.shape[1]))
    if float(values.sum()) < top_p:
        values, indices = found.sort(descending=True)
    return _nucleus(found, top_p, values, indices)


def _nucleus(found: Tensor, top_p: float, values: Tensor, indices: Tensor) -> Tensor:
    """values, indices [rows, any]: the likeliest tokens, likeliest first."""
    kept = values.masked_fill(values.cumsum(-1) - values >= top_p, 0)
    return torch.zeros_like(found).scatter_(1, indices, kept / kept.sum(-1, keepdim=True))


class Drawn(NamedTuple):
    """A row's next token, or why it has none. logprobs: where they were asked for, its own, then those of the likeliest
    tokens and these tokens' ids."""

    token: int | Exception
    logprobs: Sequence[float] = ()


def sample(replies: Sequence[Generation], logits: Tensor) -> list[Drawn]:
    """Draw every reply's next token from logits [rows, vocabulary]. The host waits for the device once, and where
    logprobs are asked for once more. Raises when memory runs out, which is the whole batch's affair."""
    found = [Drawn(token) for token in draw([reply.sampler for reply in replies], logits)]
    asking = [place for place, reply in enumerate(replies) if reply.logprobs is not None]
    tokens = {place: token for place in asking if isinstance(token := found[place].token, int)}
    if tokens:
        logprobs = rows_of(logits, list(tokens)).float().log_softmax(-1)
        own = logprobs.gather(1, send(torch.tensor(list(tokens.values())), logprobs.device)[:, None])
        most = max(replies[place].logprobs or 0 for place in tokens)
        top = logprobs.topk(min(most, logprobs.shape[1]))
        together = torch.cat([own, top.values, top.indices.float()], dim=1)  # ids below 2**24 stay exact
        for (place, token), row in zip(tokens.items(), together.tolist(), strict=True):
            found[place] = Drawn(token, row)
    return found


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
        self.sampler, self.logprobs = Sampler(row.sampling, prompt, ends, constraint), row.logprobs
        self._text = IncrementalDetokenizer(tokenizer)

    def add(self, drawn: Drawn, now_s: float) -> None:
        """Update the state with what ``sample`` found. now_s: since the batch's start.

        An error ends this reply and no other (``RowState.fault``); only memory that runs out is the whole batch's."""
        try:
            if isinstance(drawn.token, Exception):
                raise drawn.token
            self._add(drawn.token, drawn.logprobs, now_s)
        except Exception as error:  # one reply's settings or numbers must not end the others
            if is_out_of_memory(error):
                raise
            self.fail(self._message(error))

    def fail(self, fault: str) -> None:
        self.state.fault = fault  # first: whoever sees the end sees why
        self.state.finish = "error"

    def _add(self, token: int, logprobs: Sequence[float], now_s: float) -> None:
        state, sampling, constraint = self.state, self._row.sampling, self._constraint
        state.seconds = now_s
        if state.first_token_s is None:
            state.first_token_s = now_s
        finish = ""
        if token in self._ends and (sampling.format or not sampling.ignore_eos):
            finish = "stop"
        else:
            self.tokens.append(token)
            state.tokens = tuple(self.tokens)
            state.completion_tokens = len(self.tokens)
            self._text.add(token)
            if self.logprobs is not None:
                state.logprobs = (*state.logprobs, self._logprob(token, logprobs, self.logprobs))
            if state.completion_tokens >= sampling.max_tokens:
                finish = "length" if constraint is None else "stop"  # which keeps room for the document's end
            elif constraint is not None and constraint.done:
                finish = "stop"
        self.tell(finish)

    def tell(self, finish: str) -> None:
        """The text of the tokens so far, cut off at a stop string. finish: as in ``RowState``."""
        state, sampling = self.state, self._row.sampling
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

    def _logprob(self, token: int, logprobs: Sequence[float], count: int) -> TokenLogprob:
        """logprobs: as ``Drawn``'s, of at least ``count`` tokens."""
        (own, *rest), decode = logprobs, self._tokenizer.decode
        pairs = list(zip(rest[len(rest) // 2 :], rest[: len(rest) // 2], strict=True))[:count]
        return TokenLogprob(str(decode([token])), own, tuple((str(decode([int(i)])), value) for i, value in pairs))


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
    """One call's sequences: iterate for their states, ``cancel`` on every way out. lock: the scheduler's. pace_s: as in
    ``Row``."""

    def __init__(self, lock: threading.RLock, pace_s: float = 0.0) -> None:
        self.states: list[RowState] = []
        self.started = time.perf_counter()
        self.cancelled = False
        self._error: BaseException | None = None
        self._changed, self._pace_s = threading.Condition(lock), pace_s
        self._due, self._told_s, self._marks = True, self.started, 0

    def cancel(self) -> None:
        with self._changed:
            self.cancelled = True

    def fail(self, error: BaseException) -> None:
        """End the iteration with what stopped the batch."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def tell(self) -> None:
        """After a round: wake who iterates where a reply has begun or ended, or the pace asks for it. Whoever wakes at
        every step takes the interpreter from the thread that computes the next one."""
        with self._changed:
            now = time.perf_counter()
            marks = sum((one.first_token_s is not None) + bool(one.finish) for one in self.states)
            if marks != self._marks or now - self._told_s >= self._pace_s:
                self._due, self._told_s, self._marks = True, now, marks
                self._changed.notify_all()

    def __iter__(self) -> Iterator[list[RowState]]:
        """Snapshots after rounds, at the pace, until every sequence is done. Raises what stopped the batch."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._error is not None)
                if self._error is not None:
                    raise self._error
                self._due = False
                states = [replace(state) for state in self.states]
            yield states
            if all(state.finish for state in states):
                return


@dataclass
class LossSum:
    """A text's score, summed over its places as they are read. divergence: also measure the adapter's from the base."""

    divergence: bool
    _tokens: int = 0
    _sums: tuple[float, ...] = (0.0, 0.0, 0.0)

    def add(self, logits: Tensor, tokens: Tensor, base: Tensor | None) -> None:
        """logits [places, vocabulary], the base's too where ``divergence``; tokens [places]."""
        sums = [_losses(logits, tokens).sum()]
        if base is not None:
            p, q = logits.float().log_softmax(-1), base.float().log_softmax(-1)
            apart = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)  # KL(p || q) of each place
            sums += [apart.clamp_(min=0.0).sum(), _losses(base, tokens).sum()]
        found = [*torch.stack(sums).tolist(), 0.0, 0.0]
        self._tokens += len(tokens)
        self._sums = tuple(sum(pair) for pair in zip(self._sums, found, strict=False))

    def score(self) -> Score:
        loss, divergence, base_loss = (total / self._tokens for total in self._sums)
        return Score(self._tokens, loss, *((divergence, base_loss) if self.divergence else (None, None)))


def _losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of each place's token, nats."""
    return functional.cross_entropy(logits.float(), tokens, reduction="none")
