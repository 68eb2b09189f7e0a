"""Rows -> their token report. 100,000 rows take seconds: templates are rendered many at once, words are counted once."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError

from playground.data.counting import TokenCounter
from playground.data.example import BadRow, Checked, Example, Judged, Message, Passage, Preference
from playground.data.lengths import Cancelled, TokenReport
from playground.data.progress import Progress, Tell
from playground.data.render import LAST, PLAIN_TEMPLATE, render_example
from playground.errors import CancelledError, InputError

Row = Example | Preference | Judged | Passage
Counts = tuple[int, int]
"""Tokens of a prompt before it is cut, and of its answer."""
_ROWS_AT_ONCE = 512
_TRIED = 24  # rows whose quick count must be the slow one's, or all are counted slowly


def token_report(
    checked: Checked,
    tokenizer: Any,
    max_tokens: int,
    turns: str = LAST,
    progress: Tell | None = None,
    cancelled: Cancelled | None = None,
) -> TokenReport:
    """Lengths as the base sees them. A preference counts with its longer answer; raw text is never cut, it is read in pieces.

    turns: ``all`` or ``last``, as for ``render_example``. progress: told the share done, at most ten times a second.
    Raises InputError when max_tokens is below 2, or nothing can be learned from any row; CancelledError.
    """
    if max_tokens < 2:
        raise InputError(f"The limit of {max_tokens} tokens leaves no room for a prompt and an answer. Give at least 2.")
    rows: Sequence[Row] = checked.examples or checked.others
    if checked.examples and checked.others:
        rows = (*checked.examples, *checked.others)
    measure = _Measure(tokenizer, max_tokens, turns, rows)
    told = Progress(progress)
    numbers, prompts, answers = (array("L") for _ in range(3))
    bad: list[BadRow] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        if cancelled is not None and cancelled():
            raise CancelledError("The check was cancelled.")
        chunk = rows[start : start + _ROWS_AT_ONCE]
        for row, found in zip(chunk, measure.rows(chunk), strict=True):
            if isinstance(found, BadRow):
                bad.append(found)
                continue
            numbers.append(row.row)
            prompts.append(found[0])
            answers.append(found[1])
        told.at((start + len(chunk)) / len(rows))
    if not numbers:
        every = sorted((*checked.bad, *bad), key=lambda item: item.row)
        first = " ".join(f"Row {row.row}: {row.reason}. {row.fix}" for row in every[:3])
        raise InputError(f"The file: none of the {checked.rows} rows can be used. {first}")
    return TokenReport.of(numbers, prompts, answers, max_tokens, packed=checked.objective == "text", bad=bad)


class _Measure:
    """Counts like ``render_example``, which it asks itself wherever the quick way is not known to say the same."""

    def __init__(self, tokenizer: Any, max_tokens: int, turns: str, rows: Sequence[Row]) -> None:
        self._tokenizer, self._max_tokens, self._turns = tokenizer, max_tokens, turns
        special = sorted(
            filter(None, getattr(tokenizer, "all_special_tokens", None) or [tokenizer.eos_token]), key=len, reverse=True
        )
        self._empty = re.compile(rf"(?:\s|{'|'.join(map(re.escape, special))})*" if special else r"\s*")
        sample = rows[:: max(1, len(rows) // _TRIED)][:_TRIED]
        self._counter = TokenCounter(tokenizer, [row.text for row in sample if isinstance(row, Passage)])
        self._quick = self._counter.batched
        if self._quick:
            tried = [example for row in sample for example in _variants(row)]
            right = [self._slow(example) for example in tried]
            self._quick = self._examples(tried) == right
            if not self._quick and self._counter.by_words:
                self._counter.by_words, self._quick = False, True
                self._quick = self._examples(tried) == right

    def rows(self, rows: Sequence[Row]) -> Iterator[Counts | BadRow]:
        """For each row its lengths, or why it cannot be learned."""
        examples = iter(self._examples([example for row in rows for example in _variants(row)]))
        texts = iter(self._counter.count([row.text for row in rows if isinstance(row, Passage)]))
        for row in rows:
            if isinstance(row, Passage):
                length = next(texts)
                why = "the base's tokenizer makes no tokens of it", "Write some text, or remove the row."
                yield (0, length) if length else BadRow(row.row, *why)
                continue
            found = [next(examples) for _ in _variants(row)]
            bad = next((item for item in found if isinstance(item, BadRow)), None)
            yield bad or max((item for item in found if not isinstance(item, BadRow)), key=sum)

    def _examples(self, examples: Sequence[Example]) -> list[Counts | BadRow]:
        found: list[Counts | BadRow | None] = [None] * len(examples)
        if self._quick:
            quick = [at for at, example in enumerate(examples) if self._turns == LAST or _answers(example) == 1]
            self._quickly(examples, quick, found)
        return [self._slow(examples[at]) if item is None else item for at, item in enumerate(found)]

    def _quickly(self, examples: Sequence[Example], places: Sequence[int], found: list[Counts | BadRow | None]) -> None:
        """Fills in what can be told without ``render_example``; an error or an odd template is left to it."""
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


def _variants(row: Row) -> tuple[Example, ...]:
    """What is rendered of a row: one example, or one for each side of a preference."""
    if isinstance(row, Example):
        return (row,)
    if isinstance(row, Passage):
        return ()
    answers = (row.chosen, row.rejected) if isinstance(row, Preference) else (row.completion,)
    return tuple(Example((*row.prompt, Message("assistant", answer)), row.row) for answer in answers)


def _answers(example: Example) -> int:
    return sum(turn.role == "assistant" for turn in example.messages)
