"""The one renderer: messages -> text and token ids, and raw text -> packed sequences."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from playground.data.example import (
    CHANNELS,
    FAMILIES,
    HALF_CHARACTER,
    TAGS,
    TOOLS,
    Example,
    Message,
    Passage,
    PromptOnly,
    Tags,
    joined,
    uses_tools,
)
from playground.data.tools import OPEN, WHO_CAN, LaidOut, ToolSupport, laid_out, tool_support
from playground.errors import InputError

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""For bases that ship no chat template (plain language models)."""

ALL, LAST = "all", "last"  # which of a chat's assistant turns are learned
_NO_THOUGHT = re.compile(r"<think>\s*</think>\s*")
_TAIL = range(24, 5, -1)  # characters at a prompt's end after which its reply begins, however the rest is written
_QUESTION, _ANSWER, _THOUGHT = "?", "An answer.", "A thought."
_REFUSED = (TemplateError, TypeError)
"""What a chat template raises for turns that it does not take."""
_SWITCHES = ("enable_thinking", "thinking")
"""What families call the variable of their template that turns thinking on and off (Qwen3, DeepSeek-V3.1)."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example as the model sees it."""

    prompt_text: str
    completion_text: str
    prompt_ids: list[int]
    completion_ids: list[int]  # these alone count for the loss
    cut: int = 0  # tokens taken from the start so that the row fits the limit
    read: tuple[tuple[int, int], ...] = ()  # ranges of completion_ids that do not: a person's turns between two answers

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def learned(self) -> int:
        """How many tokens count for the loss."""
        return len(self.completion_ids) - sum(end - begin for begin, end in self.read)


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a base's chat template has it think, as its renderings show.

    switch: the variable that turns it on and off, "" = none. by_itself: it thinks where nobody says otherwise. opens:
    then a prompt ends inside a thought. as_field: a turn's thought is a field of its own, not part of its text. tags:
    what it stands between. special: the ids in these that decoding would leave out."""

    switch: str = ""
    by_itself: bool = False
    opens: bool = False
    as_field: bool = False
    tags: Tags = TAGS
    special: frozenset[int] = frozenset()

    def opened(self, prompt: str) -> bool:
        """Whether a rendered prompt ends inside a thought."""
        return prompt[-64:].rstrip().endswith(self.tags.begin)

    def comes_first(self, prompt: str, think: bool | None) -> bool:
        """Whether the reply to a rendered prompt begins with a thought. think: as it was rendered."""
        if prompt[-64:].rstrip().endswith(self.tags.end):
            return False
        return self.opened(prompt) or (self.by_itself if think is None else think)


def thinking(tokenizer: Any) -> Thinking:
    return _thinking(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=8)
def _thinking(tokenizer: Any, template: Any) -> Thinking:
    def rendered(*turns: dict[str, str], **variables: Any) -> str:
        return _tried(tokenizer, [{"role": "user", "content": _QUESTION}, *turns], not turns, **variables)

    switch = next((one for one in _SWITCHES if rendered(**{one: True}) != rendered(**{one: False})), "")
    prompt = rendered()
    whole = rendered({"role": "assistant", "content": _ANSWER, **_aloud(_THOUGHT)})
    before, as_field, after = whole.partition(_THOUGHT)
    known = getattr(tokenizer, "added_tokens_encoder", ())
    tags = next((one for one in FAMILIES if one.end in known), CHANNELS if "<|channel|>" in known else TAGS)
    if as_field and (end := after.partition(_ANSWER)[0].strip()):
        own = before[len(os.path.commonprefix([before, prompt])) :].strip() or before.strip().rpartition("\n")[2]  # noqa: RUF071 (text)
        tags = Tags(own, end) if len(encode(tokenizer, end)) == 1 else tags
    hidden = {id for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    special = {id for tag in tags for id in encode(tokenizer, tag)} & hidden
    opens = Thinking(tags=tags).opened(prompt)
    by_itself = opens or tags == CHANNELS or bool(switch and prompt == rendered(**{switch: True}))
    return Thinking(switch, by_itself, opens, bool(as_field), tags, frozenset(special))


def _tried(tokenizer: Any, turns: list[Any], prompt: bool, **variables: Any) -> str:
    """As ``_applied``; "" for what the template refuses."""
    try:
        return str(_applied(tokenizer, turns, prompt, **variables))
    except _REFUSED:
        return ""


def tools_of_base(tokenizer: Any) -> ToolSupport:
    """How a base's chat template writes tools, as its renderings show."""
    return _tools_of_base(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=8)
def _tools_of_base(tokenizer: Any, template: Any) -> ToolSupport:
    return tool_support(lambda *asked, **variables: _tried(tokenizer, *asked, **variables))


def render_prompt(tokenizer: Any, messages: Sequence[Message], think: bool | None = None) -> str:
    """The text the model is given before it answers ``messages``: of what was thought before earlier answers, nothing.

    think: on or off, by the template's own switch, None = as it is by itself. A template that opens every thought and
    has no switch is turned off by closing it at once. Raises InputError for half a character in it."""
    text = _template(tokenizer, messages, prompt=True, think=think)
    return _checked(_closed(tokenizer, text) if think is False else text)


def _closed(tokenizer: Any, prompt: str) -> str:
    family = thinking(tokenizer)
    is_open = family.opens and not family.switch and family.opened(prompt)
    return f"{prompt}\n{family.tags.end}\n\n" if is_open else prompt


def with_passages(question: str, passages: Sequence[str]) -> str:
    """What is asked, in training and afterwards, with something to read first; the question alone without passages."""
    if not passages:
        return question
    numbered = "\n\n".join(f"[{place}] {text}" for place, text in enumerate(passages, 1))
    return f"Passages:\n{numbered}\n\nAnswer from the passages.\n\n{question}"


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of rendered text, which holds every special token. Raises InputError for half a character in it."""
    return list(tokenizer(_checked(text), add_special_tokens=False)["input_ids"])


def _checked(text: str) -> str:
    if HALF_CHARACTER.search(text):
        what = "The text holds half a character (a lone surrogate), which no tokenizer reads"
        raise InputError(f"{what}. Type that character again.")
    return text


def render_example(tokenizer: Any, example: Example, max_tokens: int, turns: str = LAST) -> Rendered:
    """One example, cut to ``max_tokens``: the start goes, the last answer stays. An answer with a thought is learned
    after a prompt that asks for one, any other after one that does not.

    turns: ``all`` learns every assistant turn that may be learned, ``last`` the last alone. A template that shows
    earlier turns otherwise than it showed them when they were the last (thinking models) has the last learned alone.
    What is learned last ends with a token that ends a reply (``end_tokens``), and does not begin with the empty thought
    that some templates write before an answer without one. Raises InputError when the last answer alone is too long,
    nothing of it would be learned, or the base's template refuses the turns.
    """
    texts = _in_turn(tokenizer, example) if turns == ALL else None
    if not texts:
        last = example.messages[-1]
        prompt = render_prompt(tokenizer, example.prompt, bool(last.thought))
        whole = _template(tokenizer, example.messages, prompt=False, think=bool(last.thought))
        own = whole[len(prompt) :]
        if not whole.startswith(prompt):  # templates that treat the last turn in their own way (thinking models)
            family = thinking(tokenizer)
            if uses_tools(example.messages) and OPEN in last.content:
                asked = prompt.rpartition(family.tags.begin)[0] if prompt.rstrip().endswith(family.tags.end) else prompt
                tail = next((asked[-size:] for size in _TAIL if asked[-size:] in whole), "")
                own = whole.rpartition(tail)[2] if tail else ""
                if not own:
                    what = f"Row {example.row}: the base's chat template writes the call elsewhere than it asks for one"
                    raise InputError(f"{what}. Leave the row out, or use another base.")
            else:
                own = joined(last.thought, last.content, family.tags) + (tokenizer.eos_token or "")
                own = own.removeprefix(family.tags.begin).lstrip() if family.opened(prompt) else own
        texts = [(prompt, False), (learned_answer(own, tokenizer), True)]
    pieces = [_Piece(text, encode(tokenizer, text), is_learned) for text, is_learned in texts]
    learned = pieces[-1].ids
    if not learned or set(learned) <= set(getattr(tokenizer, "all_special_ids", ())):
        what = f"Row {example.row}: the base's chat template leaves nothing of the answer to learn"
        raise InputError(f"{what}. Write an answer, or use another base.")
    if len(learned) >= max_tokens:
        what = f"Row {example.row}: the answer alone is {len(learned)} tokens, the limit is {max_tokens}"
        raise InputError(f"{what}. Raise the limit to at least {len(learned) + 1}, or leave the row out.")
    cut = max(0, sum(len(piece.ids) for piece in pieces) - max_tokens)
    end, ids = 0, []
    learned_at: list[tuple[int, int, int]] = []  # place among the pieces, first token, end
    for place, piece in enumerate(pieces):
        begin, end = end, end + len(piece.ids)
        ids += piece.ids[max(0, cut - begin) :]
        if piece.learned and begin > cut:  # at least one token before it to predict it from; a cut answer is read
            learned_at.append((place, begin - cut, end - cut))
    place, first, _ = learned_at[0]
    read = ((end - first, begin - first) for (_, _, end), (_, begin, _) in pairwise(learned_at))
    prompt, completion = ("".join(piece.text for piece in part) for part in (pieces[:place], pieces[place:]))
    spans = tuple(span for span in read if span[0] < span[1])
    return Rendered(prompt, completion, ids[:first], ids[first:], cut, spans)


class _Piece(NamedTuple):
    text: str
    ids: list[int]
    learned: bool


def _in_turn(tokenizer: Any, example: Example) -> list[tuple[str, bool]] | None:
    """A chat's texts in turn, each with whether it is learned; None where the template does not write it so."""
    texts: list[tuple[str, bool]] = []
    done, rest = "", ""
    for place, turn in enumerate(example.messages):
        if turn.role != "assistant" or all(one.role != "user" for one in example.messages[:place]):
            continue
        think = bool(turn.thought)
        before = render_prompt(tokenizer, example.messages[:place], think)
        after = _template(tokenizer, example.messages[: place + 1], prompt=False, think=think)
        if not before.startswith(done + rest) or not after.startswith(before):
            return None
        learned, rest = closed_answer(after[len(before) :], tokenizer)
        texts += [(before[len(done) :], False), (learned, turn.learned)]
        done = before + learned
    return [*texts[:-1], (learned_answer(texts[-1][0], tokenizer), True)] if texts else None


def render_asked(tokenizer: Any, row: PromptOnly) -> Rendered:
    """A prompt that the model answers itself: nothing of it is learned. Raises InputError as ``render_prompt``."""
    text = render_prompt(tokenizer, row.prompt, False)
    return Rendered(text, "", encode(tokenizer, text), [])


def learned_answer(answer: str, tokenizer: Any) -> str:
    """What is learned of an answer as the template wrote it: without an empty thought, and with an end token."""
    answer = closed_answer(_NO_THOUGHT.sub("", answer, count=1) if _NO_THOUGHT.match(answer) else answer, tokenizer)[0]
    is_closed = not answer.strip() or answer.endswith(end_tokens(tokenizer))
    return answer if is_closed else answer.rstrip("\n") + (tokenizer.eos_token or "")


def closed_answer(answer: str, tokenizer: Any) -> tuple[str, str]:
    """An answer up to its end token, and what a template may write after it: a line break, a second end token."""
    ends = "|".join(map(re.escape, end_tokens(tokenizer)))
    found = re.search(rf"(?:{ends})(?=(?:\s|{ends})*$)", answer) if ends else None
    return (answer[: found.end()], answer[found.end() :]) if found else (answer, "")


def end_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The tokens that end a reply: the tokenizer's own, and the one that its chat template closes an answer with where
    that is another (``<|im_end|>`` where the end token is ``<|endoftext|>``)."""
    return _end_tokens(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=8)
def _end_tokens(tokenizer: Any, template: Any) -> tuple[str, ...]:
    try:
        after = _template(tokenizer, (Message("user", "?"), Message("assistant", _ANSWER)), prompt=False)
    except InputError:
        after = ""
    after = after.rpartition(_ANSWER)[2].lstrip()
    known = {*getattr(tokenizer, "all_special_tokens", ()), *getattr(tokenizer, "added_tokens_encoder", ())}
    closing = max((one for one in known if after.startswith(one)), key=len, default=None)
    return tuple(dict.fromkeys(filter(None, (tokenizer.eos_token, closing))))


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids of ``end_tokens``."""
    return tuple(tokenizer.convert_tokens_to_ids(list(end_tokens(tokenizer))))


def render_many(tokenizer: Any, chats: Sequence[Sequence[Message]], *, prompt: bool) -> list[str]:
    """Each chat without thoughts rendered, as a prompt to be answered or whole; ``""`` for what the base's template
    refuses."""
    try:
        texts = _applied(tokenizer, [*map(_plain, chats)], prompt, **_switched(tokenizer, False)) if chats else []
        return [_closed(tokenizer, text) for text in texts] if prompt else [*texts]
    except TemplateError:
        if len(chats) == 1:
            return [""]
    return [text for chat in chats for text in render_many(tokenizer, [chat], prompt=prompt)]


def _template(tokenizer: Any, messages: Sequence[Message], *, prompt: bool, think: bool | None = None) -> str:
    """A system turn that the template refuses (Gemma's does) is joined to the first turn of the user; the assistant's
    words before that turn are left out where it refuses them (Llama 2's, Mistral's). A thought before a call stands
    while its results are answered, where the template takes thoughts apart."""
    variables: dict[str, Any] = dict(_switched(tokenizer, think))
    turns: list[dict[str, Any]] = [*_plain(messages)]
    if calls := uses_tools(messages):
        turns, offered = _with_tools(tokenizer, messages)
        variables |= {tools_of_base(tokenizer).variable: offered} if offered else {}
        messages = [turn for turn in messages if turn.role != TOOLS]
    if messages and (thought := messages[-1].thought):
        family = thinking(tokenizer)
        whole = joined(thought, turns[-1]["content"], family.tags)
        turns[-1] |= _aloud(thought) if family.as_field else {"content": whole}
    try:
        return str(_applied(tokenizer, turns, prompt, **variables))
    except _REFUSED as error:
        first = next((place for place, turn in enumerate(messages) if turn.role == "user"), 0)
        if calls:
            pass
        elif any(turn.role == "assistant" and not turn.learned for turn in messages[:first]):
            asked = (*(turn for turn in messages[:first] if turn.role != "assistant"), *messages[first:])
            return _template(tokenizer, asked, prompt=prompt, think=think)
        elif [turn.role for turn in messages[:2]] == ["system", "user"]:
            both = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
            return _template(tokenizer, (both, *messages[2:]), prompt=prompt, think=think)
        what = f"the base's chat template refuses these turns ({error})"
        raise InputError(f"{what}. Change the roles, or use another base.") from error


def _with_tools(tokenizer: Any, messages: Sequence[Message]) -> LaidOut:
    """Raises InputError where the template would leave calls, results or what may be called out."""
    able = tools_of_base(tokenizer)
    if missing := able.lacks(messages):
        what = f"the base's chat template leaves out {missing}, so that chats with tools cannot be trained on or asked"
        raise InputError(f"{what}. Choose a base that has tools ({WHO_CAN}), or write calls and results as plain text.")
    turns, tools = laid_out(messages, able.form)
    asked = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=0)
    told = [turn for turn in messages if turn.role != TOOLS]
    for turn, said in zip(turns[asked:-1], told[asked:-1], strict=True):
        turn |= _aloud(said.thought) if said.thought and thinking(tokenizer).as_field else {}
    return LaidOut(turns, tools)


def takes_system_turn(tokenizer: Any) -> bool:
    """Whether the chat template takes a system turn as such; where it does not, it is joined to the first question."""
    return bool(_tried(tokenizer, [*_plain((Message("system", "?"), Message("user", "?")))], True))


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """As templates take them, without thoughts; ``asdict`` would take thirty times as long, a second for every 100,000
    rows."""
    return [{"role": turn.role, "content": turn.content} for turn in messages]


def _aloud(thought: str) -> dict[str, str]:
    """A turn's thought, as templates call it."""
    return {"reasoning_content": thought, "thinking": thought}


def _switched(tokenizer: Any, think: bool | None) -> dict[str, bool]:
    switch = thinking(tokenizer).switch if think is not None else ""
    return {switch: bool(think)} if switch else {}


def _applied(tokenizer: Any, turns: list[Any], prompt: bool, **variables: Any) -> Any:
    """turns: of one chat, or of each of several. variables: of the template."""
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE
    made: dict[str, Any] = {"chat_template": template, "tokenize": False, "add_generation_prompt": prompt}
    return tokenizer.apply_chat_template(turns, **made, **variables)


def load_tokenizer(folder: Path) -> Any:
    """A base without a padding token pads with its end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def answer_by_answer(tokenizer: Any, example: Example, turns: str) -> list[Example]:
    """What ``render_example`` is given of a row, itself as a rule. A chat with tools whose template shows earlier turns
    otherwise is learned from one example for each call and answer that may be, as each is asked for."""
    able = [place for place, turn in enumerate(example.messages) if turn.role == "assistant" and turn.learned]
    if turns != ALL or len(able) < 2 or not uses_tools(example.messages) or _in_turn(tokenizer, example):
        return [example]
    return [replace(example, messages=example.messages[: place + 1]) for place in able]


def learned_turns(tokenizer: Any, example: Example, turns: str = ALL) -> list[bool]:
    """Which turns are learned where nothing is cut."""
    each = turns == ALL and (len(answer_by_answer(tokenizer, example, turns)) > 1 or _in_turn(tokenizer, example))
    able = [turn.role == "assistant" and turn.learned for turn in example.messages]
    return able if each else [False] * (len(able) - 1) + [True]


_PROMPT_TOKENS = 32
_OPEN = 16  # the newest rows that a document may still be packed into


@dataclass(frozen=True)
class Packed:
    """A row of documents apart: positions begin anew at each, none attends to another or predicts its first token."""

    ids: list[int]  # at most the length asked for
    starts: tuple[int, ...]  # where each document, or piece of a long one, begins

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def prompt_ids(self) -> list[int]:
        """What a sample while training goes on from: the first document's beginning."""
        end = self.starts[1] if len(self.starts) > 1 else len(self.ids)
        return self.ids[: max(1, min(_PROMPT_TOKENS, end // 2))]


def pack(tokenizer: Any, passages: Sequence[Passage], length: int, *, together: bool = True) -> list[Packed]:
    """Every token of every passage once, each closed by the end token; first fit into the newest rows, in order.

    together: several passages may share a row; otherwise each has its own, as methods with virtual tokens need it: what
    stands before a row stands before its first passage only. A passage longer than ``length`` is cut into pieces of it.
    Raises InputError when length is below 2.
    """
    if length < 2:
        raise InputError(f"A length of {length} tokens leaves nothing to predict. Give at least 2.")
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    rows: list[tuple[list[int], list[int]]] = []
    for passage in passages:
        ids = encode(tokenizer, passage.text) + end
        for begin in range(0, len(ids), length):
            piece = ids[begin : begin + length]
            if len(piece) < 2:
                continue  # a lone token has nothing before it to be predicted from
            open_rows = rows[-_OPEN:] if together else []
            row = next((row for row in open_rows if len(row[0]) + len(piece) <= length), None)
            if row is None:
                rows.append(row := ([], []))
            row[1].append(len(row[0]))
            row[0].extend(piece)
    return [Packed(ids, tuple(starts)) for ids, starts in rows]
