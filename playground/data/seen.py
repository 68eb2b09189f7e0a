"""One row as the base is given it, token by token: what is only read, what is learned, what is cut away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.example import Example, Judged, Message, Passage, Preference
from playground.data.render import LAST, Rendered, encode, render_example

READ, LEARNED, CUT = "read", "learned", "cut"
_LOST = "\ufffd"


@dataclass(frozen=True, slots=True)
class Token:
    """A token's own text and its kind: READ, LEARNED or CUT. A character of several tokens stands in the last of them."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Seen:
    """title: which of a row's texts it is, "" where there is one. tokens: all of them, in order."""

    title: str
    tokens: tuple[Token, ...]

    def count(self, kind: str) -> int:
        return sum(token.kind == kind for token in self.tokens)


def seen(tokenizer: Any, row: Example | Preference | Judged | Passage, max_tokens: int, turns: str = LAST) -> tuple[Seen, ...]:
    """A preference is two texts, everything else one. Raises InputError as ``render_example`` does."""
    if isinstance(row, Passage):
        return (Seen("", tuple(_tokens(tokenizer, encode(tokenizer, row.text), LEARNED))),)
    if isinstance(row, Preference):
        named: tuple[tuple[str, str], ...] = (("The better answer", row.chosen), ("The worse answer", row.rejected))
    elif isinstance(row, Judged):
        named = ((f"A {'good' if row.good else 'bad'} answer", row.completion),)
    else:
        return (Seen("", tuple(_rendered(tokenizer, row, max_tokens, turns))),)
    return tuple(
        Seen(title, tuple(_rendered(tokenizer, Example((*row.prompt, Message("assistant", answer)), row.row), max_tokens, LAST)))
        for title, answer in named
    )


def _rendered(tokenizer: Any, example: Example, max_tokens: int, turns: str) -> Iterator[Token]:
    row: Rendered = render_example(tokenizer, example, max_tokens, turns)
    if row.cut:
        whole = render_example(tokenizer, example, row.tokens + row.cut, turns)
        yield from _tokens(tokenizer, (whole.prompt_ids + whole.completion_ids)[: row.cut], CUT)
    yield from _tokens(tokenizer, row.prompt_ids, READ)
    at = 0
    for begin, end in (*row.read, (len(row.completion_ids),) * 2):
        yield from _tokens(tokenizer, row.completion_ids[at:begin], LEARNED)
        yield from _tokens(tokenizer, row.completion_ids[begin:end], READ)
        at = end


def _tokens(tokenizer: Any, ids: Sequence[int], kind: str) -> Iterator[Token]:
    held: list[int] = []
    for place, token in enumerate(ids):
        held.append(token)
        text = tokenizer.decode(held)
        whole = not text.endswith(_LOST) or len(held) >= 8 or place == len(ids) - 1
        if whole:
            held = []
        yield Token(text if whole else "", kind)
