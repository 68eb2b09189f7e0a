"""The one renderer: training, comparing, judging and the API all turn messages into text and tokens here.

No system prompt given means the base's chat template as it is, its own default system prompt included. The template
comes from the base, never from an adapter. A base without a template gets the plain one below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError

from playground.data.example import HALF_CHARACTER, Example, Message
from playground.errors import InputError

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
"""For bases that ship no chat template (plain language models)."""


ALL, LAST = "all", "last"
"""Which of a chat's assistant turns are learned."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example as the model sees it. Token ids are lists of int.

    Only ``completion_ids`` count for the loss, and of those not the ranges in ``read``: later turns of a person between two
    learned answers. cut: tokens taken from the start so that the row fits the limit.
    """

    prompt_text: str
    completion_text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    cut: int = 0
    read: tuple[tuple[int, int], ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def learned(self) -> int:
        """How many tokens count for the loss."""
        return len(self.completion_ids) - sum(end - begin for begin, end in self.read)


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The exact text the model is given before it answers ``messages`` (the last one is the user's). Raises InputError for half a
    character in it."""
    return _whole(_template(tokenizer, messages, add_generation_prompt=True))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of rendered text; the template already holds every special token. Raises InputError for half a character in it."""
    return list(tokenizer(_whole(text), add_special_tokens=False)["input_ids"])


def _whole(text: str) -> str:
    if HALF_CHARACTER.search(text):
        raise InputError(
            "The text holds half a character (a lone surrogate), which no tokenizer reads. Type that character again."
        )
    return text


def render_example(tokenizer: Any, example: Example, max_tokens: int, turns: str = LAST) -> Rendered:
    """One example, cut to ``max_tokens``: the start goes, the last answer stays.

    turns: ``all`` learns every assistant turn, ``last`` the last alone. A template that shows earlier turns otherwise than it showed
    them when they were the last (thinking models) has the last learned alone.
    Raises InputError when the last answer alone is too long, nothing of it would be learned, or the base's template refuses the turns.
    """
    if turns == ALL and sum(turn.role == "assistant" for turn in example.messages) > 1:
        pieces = _pieces(tokenizer, example)
        if pieces is not None:
            return _fitted(pieces, example.row, max_tokens, tokenizer)
    prompt = render_prompt(tokenizer, example.prompt)
    whole = _template(tokenizer, example.messages, add_generation_prompt=False)
    # Templates that treat the last turn in their own way (thinking models) do not begin with the prompt.
    completion = whole[len(prompt) :] if whole.startswith(prompt) else example.completion + (tokenizer.eos_token or "")
    completion, _ = _closed(completion, tokenizer)
    pieces = [_Piece(prompt, encode(tokenizer, prompt), False), _Piece(completion, encode(tokenizer, completion), True)]
    return _fitted(pieces, example.row, max_tokens, tokenizer)


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    ids: list[int]
    learned: bool


def _pieces(tokenizer: Any, example: Example) -> list[_Piece] | None:
    """A chat in turn: read, learned, read, learned. None where the template does not write it so."""
    texts: list[tuple[str, bool]] = []
    done, rest = "", ""
    for place, turn in enumerate(example.messages):
        if turn.role != "assistant":
            continue
        before = render_prompt(tokenizer, example.messages[:place])
        after = _template(tokenizer, example.messages[: place + 1], add_generation_prompt=False)
        if not before.startswith(done + rest) or not after.startswith(before):
            return None
        learned, rest = _closed(after[len(before) :], tokenizer)
        texts += [(before[len(done) :], False), (learned, True)]
        done = before + learned
    return [_Piece(text, encode(tokenizer, text), learned) for text, learned in texts]


def _closed(answer: str, tokenizer: Any) -> tuple[str, str]:
    """An answer up to its end token, and the line break that a template may write after it."""
    eos = tokenizer.eos_token or ""
    ends = answer.rstrip("\n")
    return (ends, answer[len(ends) :]) if eos and ends.endswith(eos) else (answer, "")


def _fitted(pieces: Sequence[_Piece], row: int, max_tokens: int, tokenizer: Any) -> Rendered:
    """The pieces as one row. What a cut leaves of an answer is read, not learned: its beginning is missing."""
    last = pieces[-1].ids
    if not last or set(last) <= set(getattr(tokenizer, "all_special_ids", ())):
        raise InputError(
            f"Row {row}: the base's chat template leaves nothing of the answer to learn. Write an answer, or use another base."
        )
    if len(last) >= max_tokens:
        raise InputError(
            f"Row {row}: the answer alone is {len(last)} tokens, the limit is {max_tokens}. "
            f"Raise the limit to at least {len(last) + 1}, or leave the row out."
        )
    cut = max(0, sum(len(piece.ids) for piece in pieces) - max_tokens)
    at, first, ids = 0, -1, []
    learned: list[tuple[int, int]] = []
    for piece in pieces:
        begin, at = at, at + len(piece.ids)
        ids += piece.ids[max(0, cut - begin) :]
        if piece.learned and begin > cut:  # at least one token before it to be told from
            learned.append((begin - cut, at - cut))
    first = learned[0][0]
    read = tuple((end - first, begin - first) for (_, end), (begin, _) in pairwise(learned))
    place = next(place for place, piece in enumerate(pieces) if piece.learned and sum(len(p.ids) for p in pieces[:place]) > cut)
    texts = ["".join(piece.text for piece in part) for part in (pieces[:place], pieces[place:])]
    return Rendered(texts[0], texts[1], ids[:first], ids[first:], cut, tuple(span for span in read if span[0] < span[1]))


def _template(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [message.as_dict() for message in messages],
            chat_template=None if tokenizer.chat_template else PLAIN_TEMPLATE,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:  # e.g. Gemma's template takes no system turn
        what = f"the base's chat template refuses these turns ({error})"
        raise InputError(f"{what}. Change the roles, or use another base.") from error
    return str(text)
