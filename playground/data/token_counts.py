"""How many tokens each row is for the base: which rows are cut and where, what padding costs, which cannot be learned.

100,000 rows take seconds: templates are rendered many at once, and words are counted once. A byte-level BPE tokenizer
never joins two
words: it cuts its text before every single space between two characters which are not space, and encodes what comes
before and after by itself. So a text's tokens are the sum of its words' tokens. That holds for the tokenizers of which
``separable`` says so, and is tried on real texts first; every other tokenizer encodes whole texts in batches."""

from __future__ import annotations

import json
import math
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jinja2 import TemplateError

from playground.data.example import BadRow, Checked, Example, Passage, Row, RowWarning, variants
from playground.data.read import no_usable_rows
from playground.data.records import OnProgress, Progress
from playground.data.render import LAST, PLAIN_TEMPLATE, encode, render_example
from playground.errors import InputError

_SHUFFLES = 10
_ENOUGH_ROWS = 5_000  # from here on one random order shows as much as ten


@dataclass(frozen=True, slots=True)
class Cut:
    """A row that is cut: the first ``tokens`` of its ``prompt`` tokens do not fit beside its ``answer`` tokens."""

    row: int
    tokens: int
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Padding:
    """The share of a batch's positions that are padding, from 0 to 1: rows in random order, and rows of like length
    together."""

    batch_size: int
    random: float
    by_length: float


@dataclass(frozen=True)
class TokenReport:
    """Tokens per usable row, prompt and answer together, before anything is cut (nearest-rank percentiles).

    truncated: rows whose prompt is cut. warnings: those rows. bad: rows whose answer is too long, or teaches nothing.
    limit: the most tokens a row may have. packed: raw text, which is never cut or padded but packed into pieces of
    ``limit`` tokens.
    rows, prompt_lengths, answer_lengths: the row numbers and tokens of every row that can be learned, in the file's
    order; of a preference its longer side; of raw text the answer is all of it."""

    min: int
    median: int
    p95: int
    max: int
    truncated: int
    warnings: tuple[RowWarning, ...]
    bad: tuple[BadRow, ...]
    limit: int
    packed: bool
    rows: array[int] = field(repr=False)
    prompt_lengths: array[int] = field(repr=False)
    answer_lengths: array[int] = field(repr=False)

    @classmethod
    def of(
        cls,
        rows: array[int],
        prompts: array[int],
        answers: array[int],
        limit: int,
        *,
        packed: bool,
        bad: Sequence[BadRow] = (),
    ) -> TokenReport:
        """From the lengths of at least one row."""
        lengths = sorted(map(int.__add__, prompts, answers))
        median, p95 = (lengths[max(0, math.ceil(share * len(lengths)) - 1)] for share in (0.5, 0.95))
        report = cls(lengths[0], median, p95, lengths[-1], 0, (), tuple(bad), limit, packed, rows, prompts, answers)
        reason = "cut: the first {} of {} tokens do not fit into {}; the answer is kept"
        warnings = tuple(
            RowWarning(cut.row, reason.format(cut.tokens, cut.prompt + cut.answer, limit), "long") for cut in report.cut
        )
        return replace(report, truncated=len(warnings), warnings=warnings)

    @property
    def mean(self) -> float:
        """Mean tokens of a row that can be learned, each cut to the limit."""
        return sum(min(self.limit, length) for length in self.lengths) / max(1, len(self.rows))

    @property
    def lengths(self) -> array[int]:
        """Tokens of each row before anything is cut, in the order of ``rows``."""
        return array("L", map(int.__add__, self.prompt_lengths, self.answer_lengths))

    @property
    def cut(self) -> list[Cut]:
        """Where the limit cuts, in the file's order."""
        if self.packed:
            return []
        each = zip(self.rows, self.prompt_lengths, self.answer_lengths, strict=True)
        return [Cut(row, p + a - self.limit, p, a) for row, p, a in each if p + a > self.limit]

    def histogram(self, bins: int = 20) -> list[tuple[int, int, int]]:
        """(shortest, longest, rows) of each bin, both ends in it; of equal width, the last one open where a few rows
        are far longer.

        Their rows add up to all rows. Fewer bins where there are fewer lengths.
        """
        low, top = self.min, self.max if self.max <= 3 * self.p95 else 2 * self.p95
        width = max(1, math.ceil((top - low + 1) / max(1, bins)))
        found = [0] * math.ceil((top - low + 1) / width)
        for length in self.lengths:
            found[min(len(found) - 1, (length - low) // width)] += 1
        ends = [low + (place + 1) * width - 1 for place in range(len(found) - 1)]
        return [(low + place * width, end, found[place]) for place, end in enumerate((*ends, self.max))]

    def padding(self, batch_size: int = 8, seed: int = 0) -> Padding:
        """As batches are built for training: prompts padded to the longest on the left, answers to the longest on the
        right."""
        size, count = max(1, batch_size), len(self.rows)
        if self.packed or not count:
            return Padding(size, 0.0, 0.0)
        answers = np.array(self.answer_lengths, np.int64)
        prompts = np.minimum(np.array(self.prompt_lengths, np.int64), self.limit - answers)
        starts = np.arange(0, count, size)
        sizes = np.minimum(size, count - starts)

        def share(orders: Sequence[Sequence[int]]) -> float:
            longest = (
                np.maximum.reduceat(part[order], starts)
                for order in map(np.array, orders)
                for part in (prompts, answers)
            )
            positions = sum(int((sizes * most).sum()) for most in longest)
            return 1 - len(orders) * int(prompts.sum() + answers.sum()) / positions if positions else 0.0

        chance = random.Random(seed)
        shuffles = [chance.sample(range(count), count) for _ in range(1 if count >= _ENOUGH_ROWS else _SHUFFLES)]
        return Padding(size, share(shuffles), share([np.lexsort((answers, prompts + answers)).tolist()]))


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
    3. no added token that holds a space or takes one from its surroundings."""
    rules = json.loads(backend.to_str())
    model, normalizer = rules["model"], rules["normalizer"]
    if model["type"] != "BPE" or model.get("dropout") or (normalizer and normalizer["type"] != "NFC"):  # 1
        return False
    steps = _steps(rules["pre_tokenizer"])
    if not all(_known(step) for step in steps) or not any(_cuts_words(step) for step in steps):  # 2
        return False
    taken = ("lstrip", "rstrip", "single_word")
    return not any(
        re.search(r"\s", token["content"]) or any(token[key] for key in taken) for token in rules["added_tokens"]
    )  # 3


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
                found += map(
                    len, self._tokenizer(batch, add_special_tokens=False, return_attention_mask=False)["input_ids"]
                )
        return found


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    start = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= _BATCH or end == len(texts):
            yield list(texts[start:end])
            start, size = end, 0


def _steps(pre_tokenizer: Any) -> list[Any]:
    if not pre_tokenizer:
        return []
    return list(pre_tokenizer["pretokenizers"]) if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]


def _known(step: Any) -> bool:
    if step["type"] == "ByteLevel":
        return not step["add_prefix_space"]
    return step["type"] == "Digits" or _cuts_words(step)


def _cuts_words(step: Any) -> bool:
    if step["type"] == "Split":
        return step["pattern"].get("Regex") in WORD_PATTERNS and step["behavior"] == "Isolated" and not step["invert"]
    return step["type"] == "ByteLevel" and bool(step.get("use_regex", True))


Counts = tuple[int, int]
"""Tokens of a prompt before it is cut, and of its answer."""
_CHUNK_ROWS = 512
_MAX_TRIED = 24  # rows whose quick count must be the slow one's, or all are counted slowly


def token_report(
    checked: Checked, tokenizer: Any, max_tokens: int, turns: str = LAST, on_progress: OnProgress | None = None
) -> TokenReport:
    """Lengths as the base sees them. A preference counts with its longer answer; raw text is never cut, it is read in
    pieces.

    turns: ``all`` or ``last``, as for ``render_example``. on_progress: called with the share done.
    Raises InputError when max_tokens is below 2, or nothing can be learned from any row.
    """
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
    return TokenReport.of(numbers, prompts, answers, max_tokens, packed=checked.objective == "text", bad=bad)


class _Measure:
    """Counts like ``render_example``, which it asks itself wherever the quick way is not known to say the same."""

    def __init__(self, tokenizer: Any, max_tokens: int, turns: str, rows: Sequence[Row]) -> None:
        self._tokenizer, self._max_tokens, self._turns = tokenizer, max_tokens, turns
        special = sorted(
            filter(None, getattr(tokenizer, "all_special_tokens", None) or [tokenizer.eos_token]), key=len, reverse=True
        )
        self._empty = re.compile(rf"(?:\s|{'|'.join(map(re.escape, special))})*" if special else r"\s*")
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
        found: list[Counts | BadRow | None] = [None] * len(examples)
        if self._quick:
            quick = [at for at, example in enumerate(examples) if self._turns == LAST or _answers(example) == 1]
            self._quickly(examples, quick, found)
        return [self._slow(examples[at]) if item is None else item for at, item in enumerate(found)]

    def _quickly(self, examples: Sequence[Example], places: Sequence[int], found: list[Counts | BadRow | None]) -> None:
        """Fills in the counts that do not need ``render_example``; an error or an odd template is left to it."""
        turns = [[turn.as_dict() for turn in examples[at].messages] for at in places]
        if not turns:
            return
        whole, prompts = self._texts(turns, prompt=False), self._texts([each[:-1] for each in turns], prompt=True)
        eos = self._tokenizer.eos_token or ""
        todo: list[int] = []
        texts: list[str] = []
        for at, text, prompt in zip(places, whole, prompts, strict=True):
            answer = text[len(prompt) :]
            closed = answer.rstrip("\n")
            answer = closed if eos and closed.endswith(eos) else answer
            if text and prompt and text.startswith(prompt) and not self._empty.fullmatch(answer):
                todo.append(at)
                texts += (prompt, answer)
        counts = self._counter.count(texts)
        for at, prompt_tokens, answer_tokens in zip(todo, counts[::2], counts[1::2], strict=True):
            if 0 < answer_tokens < self._max_tokens:
                found[at] = (prompt_tokens, answer_tokens)

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

    def _texts(self, turns: list[list[dict[str, str]]], *, prompt: bool) -> list[str]:
        """Each conversation rendered; ``""`` for what the template refuses."""
        template = None if self._tokenizer.chat_template else PLAIN_TEMPLATE
        how = {"chat_template": template, "tokenize": False, "add_generation_prompt": prompt}
        try:
            return list(self._tokenizer.apply_chat_template(turns, **how))
        except TemplateError:
            if len(turns) == 1:
                return [""]
        return [text for each in turns for text in self._texts([each], prompt=prompt)]


def _answers(example: Example) -> int:
    return sum(turn.role == "assistant" for turn in example.messages)
