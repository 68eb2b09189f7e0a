"""How many tokens each row is for the base: which rows are cut and where, what padding costs, which cannot be learned.

100,000 rows take seconds: templates are rendered many at once, and words are counted once. A byte-level BPE tokenizer
never joins two words: it cuts its text before every single space between two characters which are not space, and
encodes what comes before and after by itself, so that a text's tokens are the sum of its words' tokens. That is used
for the tokenizers of which ``separable`` says so, and tried on real texts first; others encode whole texts in batches.
"""

from __future__ import annotations

import json
import math
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from playground.data.check import no_usable_rows
from playground.data.example import BadRow, Checked, Example, Passage, Row, RowWarning, variants
from playground.data.records import OnProgress, Progress
from playground.data.render import LAST, closed_answer, encode, render_example, render_many
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

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row before anything is cut, in the order of ``rows``."""
        return [*map(int.__add__, self.prompt_lengths, self.answer_lengths)]

    @cached_property
    def _sorted(self) -> list[int]:
        return sorted(self.lengths)

    def _ranked(self, share: float) -> int:
        return self._sorted[max(0, math.ceil(share * len(self.rows)) - 1)]

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
        """The rows whose prompt is cut."""
        reason = "cut: the first {} of {} tokens do not fit into {}; the answer is kept"
        return tuple(
            RowWarning(row, reason.format(tokens, prompt + answer, self.limit), "long")
            for row, tokens, prompt, answer in self.cut
        )

    def histogram(self, bins: int = 20) -> list[tuple[int, int, int]]:
        """(shortest, longest, rows) of bins of one width, ends included; the last is open where few are far longer."""
        low, top = self.min, self.max if self.max <= 3 * self.p95 else 2 * self.p95
        width = max(1, math.ceil((top - low + 1) / max(1, bins)))
        found = [0] * math.ceil((top - low + 1) / width)
        for length in self.lengths:
            found[min(len(found) - 1, (length - low) // width)] += 1
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


_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)")
WORD_PATTERNS = tuple(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)
"""How Qwen and Llama 3 cut text into words. ByteLevel's own is GPT-2's."""
_LONGEST_WORD = 40  # characters of a word that is remembered
_MOST_WORDS = 200_000  # about 25 MB
_BATCH = 2_000_000  # characters encoded at once: about 100 MB while it lasts


def separable(backend: Any) -> bool:
    """Whether a ``tokenizers.Tokenizer`` encodes each word by itself, whatever stands around it.

    1. BPE without dropout, on text as it is or in NFC; 2. cut into words in a way known to end before a single space;
    3. no added token that holds a space or takes one from its surroundings.
    """
    rules = json.loads(backend.to_str())
    model, normalizer = rules["model"], rules["normalizer"]
    if model["type"] != "BPE" or model.get("dropout") or (normalizer and normalizer["type"] != "NFC"):  # 1
        return False
    before = rules["pre_tokenizer"] or {"pretokenizers": []}
    steps = before.get("pretokenizers", [before])
    known = all(_cuts_words(step) or _changes_nothing(step) for step in steps)
    if not known or not any(_cuts_words(step) for step in steps):  # 2
        return False
    taken = ("lstrip", "rstrip", "single_word")
    return not any(
        re.search(r"\s", token["content"]) or any(token[key] for key in taken) for token in rules["added_tokens"]
    )  # 3


def _cuts_words(step: Any) -> bool:
    if step["type"] == "Split":
        return step["pattern"].get("Regex") in WORD_PATTERNS and step["behavior"] == "Isolated" and not step["invert"]
    return step["type"] == "ByteLevel" and not step["add_prefix_space"] and bool(step.get("use_regex", True))


def _changes_nothing(step: Any) -> bool:
    """Whether a step leaves the cuts between words as they are."""
    return step["type"] == "Digits" or (step["type"] == "ByteLevel" and not step["add_prefix_space"])


class TokenCounter:
    """Counts by words where ``sample`` shows that they add up, else by whole texts. One thread at a time."""

    def __init__(self, tokenizer: Any, sample: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, int] = {}
        self.batched = bool(getattr(tokenizer, "is_fast", False)) and hasattr(tokenizer, "backend_tokenizer")
        self.by_words = self.batched and separable(tokenizer.backend_tokenizer)
        if self.batched:
            right = [len(encode(tokenizer, text)) for text in sample]
            self.by_words = self.by_words and self.count(sample) == right
            self.batched = self.by_words or self.count(sample) == right

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as ``len(encode(tokenizer, text))``."""
        if not self.batched:
            return [len(encode(self._tokenizer, text)) for text in texts]
        if not self.by_words:
            return self._whole(texts)
        lines = [_BETWEEN_WORDS.split(text) for text in texts]
        known = self._words
        new = list({word for line in lines for word in line if word not in known})
        known.update(zip(new, self._whole(new), strict=True))
        counts = [sum(map(known.__getitem__, line)) for line in lines]
        full = len(known) > _MOST_WORDS
        for word in new:
            if full or len(word) > _LONGEST_WORD:
                del known[word]
        return counts

    def _whole(self, texts: Sequence[str]) -> list[int]:
        backend = self._tokenizer.backend_tokenizer
        plain = backend.truncation is None and backend.padding is None
        found: list[int] = []
        for batch in _batches(texts):
            if plain:
                found += map(len, backend.encode_batch_fast(batch, add_special_tokens=False))
            else:
                encoded = self._tokenizer(batch, add_special_tokens=False, return_attention_mask=False)
                found += map(len, encoded["input_ids"])
        return found


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    start = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= _BATCH or end == len(texts):
            yield list(texts[start:end])
            start, size = end, 0


Counts = tuple[int, int]
"""Tokens of a prompt before it is cut, and of its answer."""
_CHUNK_ROWS = 512
_MAX_TRIED = 24  # rows whose quick count must be the slow one's, or all are counted slowly


def token_report(
    checked: Checked, tokenizer: Any, max_tokens: int, turns: str = LAST, on_progress: OnProgress | None = None
) -> TokenReport:
    """Lengths as the base sees them; raises InputError when max_tokens is below 2, or no row teaches anything."""
    if max_tokens < 2:
        raise InputError(
            f"The limit of {max_tokens} tokens leaves no room for a prompt and an answer. Give at least 2."
        )
    rows: Sequence[Row] = checked.usable
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
    return TokenReport(numbers, prompts, answers, max_tokens, checked.objective == "text", tuple(bad))


class _Measure:
    """Counts like ``render_example``, which it asks itself wherever the quick way is not known to say the same."""

    def __init__(self, tokenizer: Any, max_tokens: int, turns: str, rows: Sequence[Row]) -> None:
        self._tokenizer, self._max_tokens, self._turns = tokenizer, max_tokens, turns
        special = filter(None, getattr(tokenizer, "all_special_tokens", None) or [tokenizer.eos_token])
        alternatives = (r"\s", *map(re.escape, sorted(special, key=len, reverse=True)))
        self._empty = re.compile(f"(?:{'|'.join(alternatives)})*")
        sample = rows[:: max(1, len(rows) // _MAX_TRIED)][:_MAX_TRIED]
        self._counter = TokenCounter(tokenizer, [row.text for row in sample if isinstance(row, Passage)])
        self._quick = self._counter.batched
        if self._quick:
            tried = [example for row in sample for example in variants(row)]
            right = [self._slow(example) for example in tried]
            self._quick = self._examples(tried) == right
            if not self._quick and self._counter.by_words:
                self._counter.by_words, self._quick = False, True
                self._quick = self._examples(tried) == right

    def rows(self, rows: Sequence[Row]) -> Iterator[Counts | BadRow]:
        """For each row its lengths, or why it cannot be learned."""
        examples = iter(self._examples([example for row in rows for example in variants(row)]))
        texts = iter(self._counter.count([row.text for row in rows if isinstance(row, Passage)]))
        for row in rows:
            if isinstance(row, Passage):
                length = next(texts)
                why = "the base's tokenizer makes no tokens of it", "Write some text, or remove the row."
                yield (0, length) if length else BadRow(row.row, *why)
                continue
            found = [next(examples) for _ in variants(row)]
            bad = next((item for item in found if isinstance(item, BadRow)), None)
            yield bad or max((item for item in found if not isinstance(item, BadRow)), key=sum)

    def _examples(self, examples: Sequence[Example]) -> list[Counts | BadRow]:
        quick: dict[int, Counts] = {}
        if self._quick:
            one = [place for place, example in enumerate(examples) if self._turns == LAST or _answers(example) == 1]
            quick = self._quickly(examples, one)
        return [quick.get(place) or self._slow(example) for place, example in enumerate(examples)]

    def _quickly(self, examples: Sequence[Example], places: Sequence[int]) -> dict[int, Counts]:
        """By place, the counts that do not need ``render_example``; an error or an odd template is left to it."""
        whole = render_many(self._tokenizer, [examples[place].messages for place in places], prompt=False)
        prompts = render_many(self._tokenizer, [examples[place].prompt for place in places], prompt=True)
        todo: list[int] = []
        texts: list[str] = []
        for place, text, prompt in zip(places, whole, prompts, strict=True):
            answer, _ = closed_answer(text[len(prompt) :], self._tokenizer)
            if text and prompt and text.startswith(prompt) and not self._empty.fullmatch(answer):
                todo.append(place)
                texts += (prompt, answer)
        counts = self._counter.count(texts)
        found = zip(todo, counts[::2], counts[1::2], strict=True)
        return {place: (prompt, answer) for place, prompt, answer in found if 0 < answer < self._max_tokens}

    def _slow(self, example: Example) -> Counts | BadRow:
        try:
            rendered = render_example(self._tokenizer, example, self._max_tokens, self._turns)
        except InputError as error:
            reason, _, fix = str(error).removeprefix(f"Row {example.row}: ").partition(". ")
            return BadRow(example.row, reason, fix)
        if self._empty.fullmatch(rendered.completion_text):
            reason = "its answer is nothing but the base's special tokens: there is nothing to learn"
            return BadRow(example.row, reason, "Write an answer in words, or remove the row.")
        return rendered.cut + len(rendered.prompt_ids), len(rendered.completion_ids)


def _answers(example: Example) -> int:
    return sum(turn.role == "assistant" for turn in example.messages)
