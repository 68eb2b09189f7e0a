"""Tokens of each row for the base: which rows are cut and where, what padding costs, which cannot be learned; and a row
shown token by token."""

from __future__ import annotations

import math
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from playground.data import render
from playground.data.example import (
    BadRow,
    Checked,
    Example,
    Judged,
    Passage,
    Preference,
    PromptOnly,
    Row,
    RowWarning,
    uses_tools,
    variants,
)
from playground.data.files import no_usable_rows
from playground.data.records import OnProgress, Progress
from playground.errors import InputError

_SHUFFLES = 10
_ENOUGH_ROWS = 5_000  # from here on one random order shows as much as ten


class Cut(NamedTuple):
    """A row that is cut: the first ``tokens`` of its ``prompt`` tokens do not fit beside its ``answer`` tokens."""

    row: int
    tokens: int
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Padding:
    """The share of a batch's positions that are padding, 0 to 1: rows in random order, and of like length together."""

    batch_size: int
    random: float
    by_length: float


@dataclass(frozen=True)
class TokenReport:
    """Tokens per usable row, prompt and answer together, before anything is cut (nearest-rank percentiles)."""

    rows: array[int] = field(repr=False)  # the numbers of all that can be learned (at least one), in the file's order
    prompt_lengths: array[int] = field(repr=False)  # of a preference with its longer answer; 0 of raw text
    answer_lengths: array[int] = field(repr=False)
    limit: int  # the most tokens a row may have
    packed: bool  # raw text, which is never cut or padded but packed into pieces of ``limit`` tokens
    bad: tuple[BadRow, ...] = ()  # rows whose answer is too long, or teaches nothing
    unsaid: tuple[int, ...] = ()  # rows of which the base's template leaves out what is said beside a call

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row before anything is cut, in the order of ``rows``."""
        return [*map(int.__add__, self.prompt_lengths, self.answer_lengths)]

    def _ranked(self, share: float) -> int:
        return int(np.quantile(self.lengths, share, method="inverted_cdf"))

    @property
    def min(self) -> int:
        return self._ranked(0)

    @property
    def median(self) -> int:
        return self._ranked(0.5)

    @property
    def p95(self) -> int:
        return self._ranked(0.95)

    @property
    def max(self) -> int:
        return self._ranked(1)

    @property
    def mean(self) -> float:
        """Mean tokens of a row that can be learned, each cut to the limit."""
        return sum(min(self.limit, length) for length in self.lengths) / len(self.rows)

    @cached_property
    def cut(self) -> list[Cut]:
        """Where the limit cuts, in the file's order."""
        if self.packed:
            return []
        each = zip(self.rows, self.prompt_lengths, self.answer_lengths, strict=True)
        return [Cut(row, p + a - self.limit, p, a) for row, p, a in each if p + a > self.limit]

    @property
    def truncated(self) -> int:
        """Rows whose prompt is cut."""
        return len(self.cut)

    @cached_property
    def warnings(self) -> tuple[RowWarning, ...]:
        """The rows whose prompt is cut, and those of which something is left out."""
        unsaid = "the base's chat template leaves out what is said beside a call; the call is learned"
        reason = "cut: the first {} of {} tokens do not fit into {}; the answer is kept"
        each = ((row, reason.format(cut, prompt + answer, self.limit)) for row, cut, prompt, answer in self.cut)
        return (*(RowWarning(row, why, "long") for row, why in each), *(RowWarning(row, unsaid) for row in self.unsaid))

    def histogram(self, bins: int = 20) -> list[tuple[int, int, int]]:
        """(shortest, longest, rows) of bins of one width, ends included; the last is open where few are far longer."""
        low, top = self.min, self.max if self.max <= 3 * self.p95 else 2 * self.p95
        width = max(1, math.ceil((top - low + 1) / max(1, bins)))
        last = (top - low) // width
        found = np.bincount(np.minimum((np.array(self.lengths) - low) // width, last), minlength=last + 1).tolist()
        ends = [low + (place + 1) * width - 1 for place in range(len(found) - 1)]
        return [(low + place * width, end, found[place]) for place, end in enumerate((*ends, self.max))]

    def padding(self, batch_size: int = 8, seed: int = 0) -> Padding:
        """As batches are built for training: prompts padded to the longest on the left, answers on the right."""
        count = len(self.rows)
        size = max(1, batch_size)
        if self.packed:
            return Padding(size, 0.0, 0.0)
        answers = np.array(self.answer_lengths, np.int64)
        prompts = np.minimum(np.array(self.prompt_lengths, np.int64), self.limit - answers)
        starts = np.arange(0, count, size)
        sizes = np.minimum(size, count - starts)

        def share(*orders: Sequence[int]) -> float:
            both = [part[np.array(order)] for order in orders for part in (prompts, answers)]
            positions = sum(int((sizes * np.maximum.reduceat(part, starts)).sum()) for part in both)
            return 1 - len(orders) * int(prompts.sum() + answers.sum()) / positions if positions else 0.0

        chance = random.Random(seed)
        shuffles = [chance.sample(range(count), count) for _ in range(1 if count >= _ENOUGH_ROWS else _SHUFFLES)]
        return Padding(size, share(*shuffles), share(np.lexsort((answers, prompts + answers)).tolist()))


Counts = tuple[int, int]  # tokens of a prompt before it is cut, and of its answer
_CHUNK_ROWS = 512
_BATCH = 2_000_000  # characters encoded at once: about 100 MB while it lasts
_MAX_TRIED = 24  # rows whose quick count must be the slow one's, or all are counted slowly


def token_report(
    checked: Checked, tokenizer: Any, max_tokens: int, turns: str = render.LAST, on_progress: OnProgress | None = None
) -> TokenReport:
    """Lengths as the base sees them; raises InputError when max_tokens is below 2, or no row teaches anything."""
    if max_tokens < 2:
        what = f"The limit of {max_tokens} tokens leaves no room for a prompt and an answer"
        raise InputError(f"{what}. Give at least 2.")
    rows = checked.usable
    measure = _Measure(tokenizer, max_tokens, turns, rows)
    progress = Progress(on_progress)
    numbers, prompts, answers = (array("L") for _ in range(3))
    bad: list[BadRow] = []
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[start : start + _CHUNK_ROWS]
        for row, found in zip(chunk, measure.rows(chunk), strict=True):
            if isinstance(found, BadRow):
                bad.append(found)
                continue
            numbers.append(row.row)
            prompts.append(found[0])
            answers.append(found[1])
        progress.at((start + len(chunk)) / len(rows))
    if not numbers:
        raise no_usable_rows("The file", checked.rows, sorted((*checked.bad, *bad), key=lambda item: item.row))
    called = [one for one in checked.examples if uses_tools(one.messages)]
    unsaid = tuple(one.row for one in called if render.tools_of_base(tokenizer).silences(one.messages))
    return TokenReport(numbers, prompts, answers, max_tokens, checked.objective == "text", tuple(bad), unsaid)


class _Measure:
    """Counts like ``render_example``, which it asks itself wherever the quick way is not known to say the same.

    The quick way renders many templates and encodes many texts at once, after a few rows have counted the same.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, turns: str, rows: Sequence[Row]) -> None:
        self._tokenizer, self._max_tokens, self._turns = tokenizer, max_tokens, turns
        special = filter(None, getattr(tokenizer, "all_special_tokens", None) or [tokenizer.eos_token])
        alternatives = (r"\s", *map(re.escape, sorted(special, key=len, reverse=True)))
        self._empty = re.compile(f"(?:{'|'.join(alternatives)})*")
        sample = rows[:: max(1, len(rows) // _MAX_TRIED)][:_MAX_TRIED]
        self._quick = False
        right = [*self.rows(sample)]  # this also switches the truncation off that a tokenizer's file may ask for
        if getattr(tokenizer, "is_fast", False) and hasattr(tokenizer, "backend_tokenizer"):
            self._quick = True
            self._quick = [*self.rows(sample)] == right

    def rows(self, rows: Sequence[Row]) -> Iterator[Counts | BadRow]:
        """For each row its lengths, or why it cannot be learned."""
        examples = iter(self._examples([example for row in rows for example in variants(row)]))
        texts = iter(self._count([row.text for row in rows if isinstance(row, Passage)]))
        for row in rows:
            if isinstance(row, Passage):
                length = next(texts)
                why = "the base's tokenizer makes no tokens of it", "Write some text, or remove the row."
                yield (0, length) if length else BadRow(row.row, *why)
                continue
            if isinstance(row, PromptOnly):
                yield len(render.render_asked(self._tokenizer, row).prompt_ids), 0
                continue
            found = [next(examples) for _ in variants(row)]
            bad = next((item for item in found if isinstance(item, BadRow)), None)
            yield bad or max((item for item in found if not isinstance(item, BadRow)), key=sum)

    def _count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as ``len(encode(tokenizer, text))``."""
        if not self._quick:
            return [len(render.encode(self._tokenizer, text)) for text in texts]
        found: list[int] = []
        start = size = 0
        for end, text in enumerate(texts, 1):
            size += len(text)
            if size >= _BATCH or end == len(texts):
                batch = list(texts[start:end])
                found += map(len, self._tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False))
                start, size = end, 0
        return found

    def _examples(self, examples: Sequence[Example]) -> list[Counts | BadRow]:
        """An error, an odd template, thoughts, tools, and several answers to learn are left to ``render_example``."""

        def is_plain(example: Example) -> bool:
            one = self._turns == render.LAST or sum(turn.role == "assistant" for turn in example.messages) == 1
            return one and not example.messages[-1].thought and not uses_tools(example.messages)

        able = [(place, example) for place, example in enumerate(examples) if self._quick and is_plain(example)]
        whole = render.render_many(self._tokenizer, [example.messages for _, example in able], prompt=False)
        prompts = render.render_many(self._tokenizer, [example.prompt for _, example in able], prompt=True)
        todo: list[int] = []
        texts: list[str] = []
        for (place, _), text, prompt in zip(able, whole, prompts, strict=True):
            answer = render.learned_answer(text[len(prompt) :], self._tokenizer)
            if text and prompt and text.startswith(prompt) and not self._empty.fullmatch(answer):
                todo.append(place)
                texts += (prompt, answer)
        counts = self._count(texts)
        found = zip(todo, counts[::2], counts[1::2], strict=True)
        quick = {place: (prompt, answer) for place, prompt, answer in found if 0 < answer < self._max_tokens}
        return [quick.get(place) or self._slow(example) for place, example in enumerate(examples)]

    def _slow(self, example: Example) -> Counts | BadRow:
        try:
            parts = render.answer_by_answer(self._tokenizer, example, self._turns)
            each = [render.render_example(self._tokenizer, one, self._max_tokens, self._turns) for one in parts]
        except InputError as error:
            reason, _, fix = str(error).removeprefix(f"Row {example.row}: ").partition(". ")
            return BadRow(example.row, reason, fix)
        rendered = max(each, key=lambda one: one.tokens + one.cut)
        if self._empty.fullmatch(rendered.completion_text):
            reason = "its answer is nothing but the base's special tokens: there is nothing to learn"
            return BadRow(example.row, reason, "Write an answer in words, or remove the row.")
        return rendered.cut + len(rendered.prompt_ids), len(rendered.completion_ids)


READ, LEARNED, CUT = "read", "learned", "cut"


class Token(NamedTuple):
    """A token's own text and its kind: READ, LEARNED or CUT. A character of several tokens stands in the last one."""

    text: str
    kind: str


@dataclass(frozen=True)
class TokenPreview:
    """title: which of a row's texts it is, "" where there is one. tokens: all of them, in order."""

    title: str
    tokens: tuple[Token, ...]

    def count(self, kind: str) -> int:
        return sum(token.kind == kind for token in self.tokens)


def preview_tokens(tokenizer: Any, row: Row, max_tokens: int, turns: str = render.LAST) -> tuple[TokenPreview, ...]:
    """A row as the base is given it: a preference is two texts. Raises InputError as ``render_example`` does."""
    if isinstance(row, Passage):
        return (TokenPreview("", tuple(_tokens(tokenizer, render.encode(tokenizer, row.text), LEARNED))),)
    if isinstance(row, PromptOnly):
        return (TokenPreview("", tuple(_tokens(tokenizer, render.render_asked(tokenizer, row).prompt_ids, READ))),)
    titles: tuple[str, ...] = ("",)
    if isinstance(row, Preference):
        titles = ("The better answer", "The worse answer")
    elif isinstance(row, Judged):
        titles = (f"A {'good' if row.good else 'bad'} answer",)
    if isinstance(row, Example) and len(parts := render.answer_by_answer(tokenizer, row, turns)) > 1:
        turns, titles = render.LAST, tuple(f"Up to turn {len(one.messages)}" for one in parts)
    else:
        turns, parts = turns if isinstance(row, Example) else render.LAST, [*variants(row)]
    each = zip(titles, parts, strict=True)
    return tuple(TokenPreview(title, tuple(_preview(tokenizer, one, max_tokens, turns))) for title, one in each)


def _preview(tokenizer: Any, example: Example, max_tokens: int, turns: str) -> Iterator[Token]:
    row = render.render_example(tokenizer, example, max_tokens, turns)
    if row.cut:
        whole = render.render_example(tokenizer, example, row.tokens + row.cut, turns)
        yield from _tokens(tokenizer, (whole.prompt_ids + whole.completion_ids)[: row.cut], CUT)
    yield from _tokens(tokenizer, row.prompt_ids, READ)
    at = 0
    for begin, end in (*row.read, (len(row.completion_ids),) * 2):
        yield from _tokens(tokenizer, row.completion_ids[at:begin], LEARNED)
        yield from _tokens(tokenizer, row.completion_ids[begin:end], READ)
        at = end


def _tokens(tokenizer: Any, ids: Sequence[int], kind: str) -> Iterator[Token]:
    pending: list[int] = []
    for place, token in enumerate(ids):
        pending.append(token)
        text = tokenizer.decode(pending)
        if text.endswith("\ufffd") and len(pending) < 8 and place < len(ids) - 1:
            text = ""  # half a character
        else:
            pending = []
        yield Token(text, kind)
