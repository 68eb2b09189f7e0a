"""Marks inside a text: a chat template's (ChatML, Llama, Gemma, ``### Instruction``) -> the turns they mark; and the
tags around what a thinking model writes before its answer, for replies and for data. And the roles of tools' turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

TOOLS, TOOL = "tools", "tool"
"""Roles of turns: what may be called (JSON, the first turn of a chat with tools), and what a call gave back."""
_SPEAKERS = {"human": "user", "instruction": "user", "question": "user", "input": "user", "model": "assistant"}
_SPEAKERS |= {"response": "assistant", "answer": "assistant", "bot": "assistant", "gpt": "assistant"}
_SPEAKERS |= {role: role for role in ("system", "user", "assistant")}


class _Style(NamedTuple):
    name: str
    sign: str  # stands in every text of it
    mark: re.Pattern[str]  # before a turn; its group says who speaks


_WORDS = "Instruction|Input|Response|Human|User|Assistant|System|Question|Answer"
_STYLES = (
    _Style("ChatML", "<|im_start|>", re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n?")),
    _Style("Llama 3", "<|start_header_id|>", re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\s*")),
    _Style("Gemma", "<start_of_turn>", re.compile(r"<start_of_turn>[ \t]*(\w+)[ \t]*\n?")),
    _Style("Llama 2", "[/INST]", re.compile(r"(?:<s>\s*)?(\[/?INST\])\s*")),
    _Style("Zephyr", "<|assistant|>", re.compile(r"<\|(system|user|assistant)\|>\s*")),
    _Style(
        "### headings",
        "### ",
        re.compile(rf"(?:\A|(?<=\n)|(?=### (?:Human|Assistant):))###[ \t]*({_WORDS})[ \t]*:?[ \t]*\n?", re.IGNORECASE),
    ),
)
_SIGNS = tuple(style.sign for style in _STYLES)
"""One of these stands in every text that marks turns."""
_BEGIN = re.compile(r"\A(?:\s|<\|begin_of_text\|>|<\|endoftext\|>|<bos>|<s>)+")
_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<eos>", "</s>")
_PLACES = ("<image>", "<video>", "<audio>", "<|image_pad|>", "<|image|>", "<image_1>")
_SYSTEM = re.compile(r"\A\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)


def without_end(text: str) -> str:
    """The text without the tokens that end a turn, which the base's own template writes."""
    if ">" not in text[-20:]:
        return text
    while (bare := text.rstrip()).endswith(_ENDS):
        end = next(end for end in _ENDS if bare.endswith(end))
        if end == "</s>" and "<s>" in bare:  # crossed out in HTML
            break
        text = bare.removesuffix(end)
    return text


def style_of(text: str) -> str:
    """What the marks in a text are, "" where they mark no turns."""
    return next((style.name for style in _STYLES if style.sign in text and _turns(text, style)), "")


def is_marked(text: str) -> bool:
    """Whether a sign of a template stands in a text."""
    return any(map(text.__contains__, _SIGNS))


def read_markup(text: str) -> list[tuple[str, str]]:
    """(role, what is said) of every turn that a text marks, but an empty last one; [] where it marks none."""
    for style in _STYLES:
        if style.sign in text and (turns := _turns(text, style)):
            return turns
    return []


def _turns(text: str, style: _Style) -> list[tuple[str, str]]:
    before, *parts = style.mark.split(_BEGIN.sub("", text))
    headings = style.sign == "### "
    if not parts or (before.strip() and not headings):
        return []
    turns = [("system", before.strip())] if before.strip() else []
    for who, said in zip(parts[::2], parts[1::2], strict=True):
        role = {"[INST]": "user", "[/INST]": "assistant"}.get(who) or _SPEAKERS.get(who.casefold())
        if role is None:
            return []
        said = without_end(said).strip()
        if style.sign == "[/INST]" and role == "user" and (system := _SYSTEM.match(said)):
            turns.append(("system", system[1].strip()))
            said = said[system.end() :]
        if headings and who.casefold() == "input" and turns and turns[-1][0] == "user":
            turns[-1] = ("user", f"{turns[-1][1]}\n\n{said}".strip())
        else:
            turns.append((role, said))
    roles = {role for role, _ in turns}
    if headings and roles.isdisjoint({"assistant"} if turns[-1][0] != "assistant" else {"user"}):
        return []  # a text with one such heading
    return turns[:-1] if len(turns) > 1 and turns[-1] == ("assistant", "") else turns


def picture_in(text: str) -> bool:
    """Whether a turn begins or ends with what stands for an image, a video or a sound, or names one between marks."""
    between = "<img>" in text and "</img>" in text
    return between or text.lstrip().startswith(_PLACES) or text.rstrip().endswith(_PLACES)


class Tags(NamedTuple):
    """What a thought stands between."""

    begin: str
    end: str


TAGS = Tags("<think>", "</think>")
"""Nearly every family's."""
FAMILIES = (
    *(TAGS, Tags("<|channel>thought", "<channel|>")),
    *(Tags("[THINK]", "[/THINK]"), Tags("<|START_THINKING|>", "<|END_THINKING|>")),
)
"""Those of Gemma 4, Magistral and Command A, by their tokens, where the template does not show them."""
CHANNELS = Tags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
"""Those of gpt-oss, whose replies are messages on channels: what is on the channel ``final`` is the answer."""
_HEADER = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_MARK, _CHANNEL = re.compile(r"<\|(?:end|return|call|start)\|>"), "<|channel|>"


class Parted(NamedTuple):
    """is_open: the thought goes on, and there is no answer yet."""

    thought: str
    answer: str
    is_open: bool = False


def parted(text: str, tags: Tags = TAGS, *, opened: bool | None = False, done: bool = True) -> Parted:
    """A reply, or what there is of it.

    opened: the prompt ended inside the thought; None = not known (another server's template): then a closing tag alone
    ends one. done: no more of it comes; before, the first characters of a tag are held back. A thought that does not
    end leaves an empty answer."""
    inside = text.lstrip()
    if inside.startswith(_CHANNEL):
        return _of_channels(inside, done)
    if inside.startswith(tags.begin):
        inside = inside[len(tags.begin) :]
    elif not done and (tags.begin.startswith(inside) or _CHANNEL.startswith(inside)):
        return Parted("", "", bool(opened))
    elif not (opened or (opened is None and tags.end in text)):
        return Parted("", text)
    thought, end, answer = inside.partition(tags.end)
    if end:
        return Parted(thought.strip(), answer.lstrip())
    held = max((n for n in range(1, len(tags.end)) if thought.endswith(tags.end[:n])), default=0)
    return Parted(thought[: len(thought) - held].strip(), "", True)


def _of_channels(text: str, done: bool) -> Parted:
    """A reply of gpt-oss, or what there is of it: what stands on any other channel than ``final`` is thought."""
    _, *parts = _HEADER.split(text if done else re.sub(r"<(\|\w*\|?)?\Z", "", text))
    said = [(name, _MARK.split(body)[0].strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)]
    thought, answer = ("\n".join(body for name, body in said if (name == "final") is so) for so in (False, True))
    return Parted(thought.strip(), answer, "final" not in parts[::2])


def joined(thought: str, answer: str, tags: Tags = TAGS) -> str:
    """The other way round, as most families write it; the answer alone without a thought."""
    return f"{tags.begin}\n{thought}\n{tags.end}\n\n{answer}" if thought else answer


class Turn(Protocol):
    """A turn of a chat, as ``Message`` is one."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...


def uses_tools(messages: Sequence[Turn]) -> bool:
    return any(turn.role in (TOOLS, TOOL) for turn in messages)
