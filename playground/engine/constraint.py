"""Constrained decoding: before a token is drawn, all that would break the reply's form are masked (Willard and Louf
2023, arXiv:2307.09702), by llguidance's parser over the tokenizer's own tokens.

A reply always knows tokens that end its document. A token after which the document could no longer end within the
longest reply is replaced by the first of them, so that no document is cut off."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, regex_to_lark
from llguidance.hf import from_tokenizer
from torch import Tensor

from playground.data.render import encode, thinking
from playground.engine.request import Row
from playground.errors import InputError
from playground.evaluation.form import REGEX, grammar, hints, patterns

FIRST = b'}]",:0123456789tfn-[{@._/; \n()<>|#*+=aAZz'
"""Bytes that a search for a document's end tries, in this order, before any others that may come."""
MOST_TRIED, TRIED_BETWEEN = 12_000, 1000
"""Continuations that a search tries, some 30 us each, before it gives up: beforehand, and between two steps."""
PATTERNS_MAX = 8
"""Patterns of a form whose shortest matches are looked for, a third of a second each; without, an end may be longer."""
LONGEST_MATCH = 2048
REACH = 64
"""How far into a known ending the part is looked for that still ends the document, in bytes."""
Tokens = Sequence[int]


class _Compiled(NamedTuple):
    """matcher: before the first token. closing: the shortest document that was found. hints: what may stand in one."""

    matcher: LLMatcher
    closing: Tokens
    hints: Sequence[Tokens]


class _Thought(NamedTuple):
    """Token ids: those that begin a thought, () where the prompt does; the one that ends it; those after it."""

    begin: Tokens
    end: int
    after: Tokens


class Grammars:
    """Forms, compiled for one tokenizer. vocabulary: rows of the model's embedding; those beyond the tokenizer's are
    padding, and never drawn. ends: token ids that end a reply."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Collection[int]) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._ends = sorted(ends) or [int(tokenizer.eos_token_id or 0)]
        self._compiled = lru_cache(maxsize=64)(self._compile)

    def constraint(self, row: Row) -> Constraint:
        """A new reply's, of a row that is held to a form. Raises InputError."""
        made = self._compiled(row.sampling.format), self._search, self._ends
        return AfterThought(*made, thought) if (thought := self._thought(row)) else Constraint(*made)

    def _thought(self, row: Row) -> _Thought | None:
        """None where the reply does not begin with one. Raises InputError."""
        family = thinking(self._tokenizer)
        if not family.comes_first(row.prompt, row.sampling.think):
            return None
        if len(end := encode(self._tokenizer, family.tags.end)) != 1:
            said = f"{family.tags.end}, which ends a thought, is no single token of this base"
            raise InputError(f"Replies that think cannot be held to a form: {said}. Leave one of them out.")
        begin = [] if family.opened(row.prompt) else encode(self._tokenizer, f"{family.tags.begin}\n")
        return _Thought(begin, end[0], encode(self._tokenizer, "\n\n"))

    def least(self, form: str) -> int:
        """Tokens of the shortest document that was found. Raises InputError for a form that cannot be held to."""
        return len(self._compiled(form).closing)

    def check(self, row: Row) -> None:
        """Raises InputError as ``least``, and where no document of so few tokens is known."""
        longest, least = row.sampling.max_tokens, self.least(row.sampling.format)
        if thought := self._thought(row):
            least += len(thought.begin) + 1 + len(thought.after)
        if least > longest:
            short = f"The shortest reply of the form that is asked for has {least} tokens, and the longest may have"
            raise InputError(f"{short} {longest}. Let replies have at least {least} tokens, or ask for a shorter form.")

    @cached_property
    def _search(self) -> Search:
        size = max(self._vocabulary, len(self._tokenizer))
        try:
            return Search(from_tokenizer(self._tokenizer, size, self._ends))
        except ValueError as error:
            raise InputError(
                f"This base's tokenizer cannot hold replies to a form: {error}. Ask without one."
            ) from error

    def _compile(self, form: str) -> _Compiled:
        search = self._search
        matcher = LLMatcher(search.tokenizer, grammar(form), log_level=0)
        texts = [text.encode() for text in hints(form)]
        for pattern in patterns(form)[:PATTERNS_MAX]:
            found = search.shortest_match(pattern)
            texts += [found[at:] + (b"" if form.startswith(REGEX) else b'"') for at in range(min(len(found), REACH))]
        known = [search.tokens(text) for text in texts]
        ways = [] if matcher.is_error() else [search.closing(matcher, one, most=MOST_TRIED) for one in (known, ())]
        closing = min((way for way in ways if way is not None), key=len, default=None)
        if closing is None:
            why = matcher.get_error() or f"no document of it was found within {MOST_TRIED} steps."
            raise InputError(f"Replies cannot be held to {form!r:.60}: {why:.200} Ask for a simpler form.")
        return _Compiled(matcher, closing, known)


class Constraint:
    """Where one reply is in its form. The next mask is computed on another thread, while the forward pass runs.

    done: the document is whole, and nothing can be added to it."""

    def __init__(self, compiled: _Compiled, search: Search, ends: Tokens) -> None:
        self._matcher, self._closing = compiled.matcher.deep_copy(), list(compiled.closing)
        self._hints, self._search, self._ends = compiled.hints, search, ends
        self.done = False
        self._compute()

    def broken(self) -> Tensor | None:
        """Of every token whether it would break the form, and perhaps of more; None where none would."""
        return self._mask.result()

    def take(self, token: int, left: int) -> int:
        """The token to write where ``token`` was drawn: itself, where the document can end within ``left`` more tokens,
        else the next of those that end it. Raises RuntimeError where the parser reaches a limit of its own."""
        self._mask.result()  # until then the matcher is the other thread's
        if token in self._ends:
            return token
        closing = self._consumed(token, left)
        if closing is None:
            if not self._closing:
                return self._ends[0]
            token, closing = self._closing[0], self._closing[1:]
            if not self._matcher.consume_token(token):
                raise RuntimeError(self._matcher.get_error())
        self._closing, self.done = closing, self._matcher.is_stopped()
        self._compute()
        return token

    def _compute(self) -> None:
        self._mask: Future[Tensor] = _threads(os.getpid()).submit(_broken, self._matcher)

    def _consumed(self, token: int, left: int) -> list[int] | None:
        """What ends the document after a token, which the matcher has then read; None = more than may be left, and it
        has not."""
        if not self._matcher.try_consume_tokens([token]):
            return None
        is_next = self._closing[:1] == [token]
        found = self._closing[1:] if is_next else self._search.closing(self._matcher, self._hints, self._closing)
        if found is None or len(found) > left:
            self._matcher.rollback(1)
            return None
        return found


class AfterThought(Constraint):
    """A thought, which is free, before the document. It is ended where the document would no longer fit after it."""

    def __init__(self, compiled: _Compiled, search: Search, ends: Tokens, thought: _Thought) -> None:
        super().__init__(compiled, search, ends)
        self._thought, self._next = thought, list(thought.begin)  # tokens that come next, whatever is drawn
        self._is_free, self._is_ending = True, False

    def broken(self) -> Tensor | None:
        return None if self._is_free else super().broken()

    def take(self, token: int, left: int) -> int:
        if not self._is_free:
            return super().take(token, left)
        if self._next:
            token = self._next.pop(0)
        else:
            least = 1 + len(self._thought.after) + len(self._closing)
            token = self._thought.end if token in self._ends or left < least else token
            if token == self._thought.end:
                self._next, self._is_ending = list(self._thought.after), True
        self._is_free = not self._is_ending or bool(self._next)
        return token


class Search:
    """Finds tokens that end a document, by trying: the parser tells what may come next, not how much is to come."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer
        texts = [tokenizer.decode_bytes([one]) for one in range(tokenizer.vocab_size)]
        self._lengths = np.array([len(text) if text.isalnum() else 0.5 for text in texts])  # of bytes, ASCII alone
        self._singles = [one for byte in FIRST if len(one := self.tokens(bytes([byte]))) == 1]
        self._empty = self.tokens(b'""')
        self._closers = [self.tokens(b"}"), self.tokens(b"]")]

    def tokens(self, text: bytes) -> list[int]:
        return self.tokenizer.tokenize_bytes(text)

    def closing(
        self, matcher: LLMatcher, hints: Sequence[Tokens], known: Tokens = (), most: int = TRIED_BETWEEN
    ) -> list[int] | None:
        """A few tokens that end the document, None where none were found in ``most`` tries; the matcher is left as it
        was. known: what would have ended it one token ago: the rest of it may do."""
        if matcher.is_accepting():
            return []
        if known and self._ends(matcher, known):
            return list(known)
        text = self.tokenizer.decode_bytes(list(known))
        for at in range(1, min(len(text), REACH)):
            if self._ends(matcher, tokens := self.tokens(text[at:])):
                return tokens
        found, tried = list[int](), 0
        while not matcher.is_accepting() and tried < most:
            step, count = self._step(matcher, hints)
            if not step or not matcher.consume_tokens(step):
                break
            found, tried = found + step, tried + count
        whole = matcher.is_accepting()
        matcher.rollback(len(found))
        if not whole:
            return None
        again = self.tokens(self.tokenizer.decode_bytes(found))
        return again if len(again) < len(found) and self._ends(matcher, again) else found

    def shortest_match(self, pattern: str) -> bytes:
        """Of a pattern, in UTF-8; b"" where none is found. The parser intersects it with a length."""
        inside = regex_to_lark(pattern)

        def of(length: int) -> bytes | None:
            made = LLMatcher.grammar_from_lark(f"start: T\nT: /(?s:{inside})/ & /(?s:.{{0,{length}}})/")
            matcher = LLMatcher(self.tokenizer, made, log_level=0)
            found = None if matcher.is_error() else self.closing(matcher, ())
            return None if found is None else self.tokenizer.decode_bytes(found)

        longest, text = 1, of(1)
        while text is None and longest < LONGEST_MATCH:
            longest *= 2
            text = of(longest)
        shorter = longest // 2
        while text and longest - shorter > 1:
            middle = (shorter + longest) // 2
            if (found := of(middle)) is None:
                shorter = middle
            else:
                text, longest = found, middle
        return text or b""

    def _step(self, matcher: LLMatcher, hints: Sequence[Tokens]) -> tuple[list[int], int]:
        """(tokens to go on with, how many ways were tried). 1. A hint that ends the document. 2. A bracket, a hint or
        one byte, after which other tokens may come than now. 3. The longest token."""
        now = matcher.compute_bitmask()
        allowed = _bits(now)
        likely = [hint for hint in hints if hint and allowed[hint[0]]]
        if matcher.validate_tokens(self._empty) == len(self._empty):  # an empty text does, so no fixed one is needed
            likely = [hint for hint in likely if not self.tokenizer.decode_bytes(list(hint)).endswith(b'"')]
        for tokens in likely:  # 1
            if self._ends(matcher, tokens):
                return list(tokens), 1
        singles = [one for one in self._singles if allowed[one[0]]]
        for tried, tokens in enumerate((*self._closers, *likely, *singles), 1):  # 2
            count = matcher.try_consume_tokens(list(tokens))
            mask = matcher.compute_bitmask() if count == len(tokens) else b""
            ended = bool(mask) and matcher.is_accepting()
            matcher.rollback(count)
            if ended or mask not in (b"", now):
                return list(tokens), tried
        longest = int((self._lengths * allowed[: len(self._lengths)]).argmax())  # 3
        return [longest] if allowed[longest] else [], len(singles) + 1

    def _ends(self, matcher: LLMatcher, tokens: Tokens) -> bool:
        """Whether these tokens end the document: an end token may come after them."""
        return bool(matcher.validate_tokens([*tokens, self.tokenizer.eos_token]) == len(tokens) + 1)


def _bits(mask: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One of a mask's bits each."""
    return np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")


def _broken(matcher: LLMatcher) -> Tensor:
    """Of every token whether it would break the form."""
    return torch.from_numpy(_bits(matcher.compute_bitmask()) == 0)


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Of this process: one that was forked has none of its parent's threads."""
    return ThreadPoolExecutor(2, "mask")
