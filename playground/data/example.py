"""One training row, what marks its turns inside a text (ChatML, Llama, Gemma, ``### Instruction``; a thinking model's
tags), and what was found in a file. Plain values: no file, no tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

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
MEDIA = re.compile(
    r"data:(image|audio|video)/|\S+\.(png|jpe?g|gif|webp|bmp|wav|mp3|flac|ogg|mp4|webm|pdf)$", re.IGNORECASE
)
"""Matches a text that is nothing but the path or the address of a file which is not text."""
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
    """Whether a turn begins or ends with what stands for an image, a video or a sound, names one between marks, or is
    nothing but the path of one. A PDF's name alone stays a question: names of documents are sorted, too."""
    text = text.strip()
    between = "<img>" in text and "</img>" in text
    path = MEDIA.match(text) is not None and not text.lower().endswith(".pdf")
    return between or path or text.startswith(_PLACES) or text.endswith(_PLACES)


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


HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
"""A lone surrogate: JSON and Python hold it in a text, and no tokenizer or UTF-8 file does."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. role: ``system``, ``user``, ``assistant``, ``tool`` (what a call gave back), or ``tools`` (what may be
    called, first in a chat with tools). content: of the assistant with its calls (``with_calls``). thought: what it
    thought before it spoke. learned: whether its words may be learned."""

    role: str
    content: str
    thought: str = ""
    learned: bool = True

    @property
    def whole(self) -> str:
        """What was said, after the thought between its tags where there is one."""
        return joined(self.thought, self.content)


def answer_turn(text: str, thought: str = "") -> Message:
    """The assistant's turn. A thought that its text begins with, between tags, is no part of what it says."""
    if TAGS.begin not in text:
        return Message("assistant", text, thought.strip())
    found = parted(text)
    own, said = ("", text) if found.is_open else (found.thought, found.answer)  # without an end it is no thought
    return Message("assistant", said, thought.strip() or own)


def question_of(prompt: Sequence[Message]) -> str:
    """What a person asked last; "" where nobody did."""
    return next((turn.content for turn in reversed(prompt) if turn.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Example:
    """One row to train on, numbered as in its file: the last message is the assistant's answer, the rest the prompt."""

    messages: tuple[Message, ...]
    row: int

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def completion(self) -> str:
        return self.messages[-1].content

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.completion,)


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first. ``prompt`` ends with the user's turn."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    row: int

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer and whether it was good (unpaired preference). ``prompt`` ends with the user's turn."""

    prompt: tuple[Message, ...]
    completion: str
    good: bool
    row: int

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.completion,)


@dataclass(frozen=True, slots=True)
class Passage:
    """Raw text of a domain: no prompt, no answer."""

    text: str
    row: int
    prompt: ClassVar[tuple[Message, ...]] = ()
    answers: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """What is asked, to be answered by the model itself (grpo). ``prompt`` ends with the user's turn."""

    prompt: tuple[Message, ...]
    row: int
    answers: ClassVar[tuple[str, ...]] = ()


Row = Example | Preference | Judged | Passage | PromptOnly


def texts_of(row: Row, *, system: bool = True) -> list[str]:
    """Every text of a row. system: its system prompt and its tools, too."""
    if isinstance(row, Passage):
        return [row.text]
    return [*(turn.content for turn in row.prompt if system or turn.role not in ("system", TOOLS)), *row.answers]


def variants(row: Row) -> tuple[Example, ...]:
    """A row as examples, one for each of its answers; none for raw text."""
    if isinstance(row, Example):
        return (row,)
    return tuple(Example((*row.prompt, answer_turn(answer)), row.row) for answer in row.answers)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be trained on: what is wrong with it and what to do."""

    row: int
    reason: str
    fix: str


WARNINGS = ("duplicate", "conflict", "long", "damaged", "label")


@dataclass(frozen=True, slots=True)
class RowWarning:
    """A row that is kept, and what to know of it. kind: one of WARNINGS; a person may leave out all rows of a kind."""

    row: int
    reason: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done to mend rows in bulk, or could be. kind: one of WORDS. rows: their numbers, in order."""

    kind: str
    rows: tuple[int, ...]

    WORDS: ClassVar = {
        "markup": "a chat template's marks inside a turn are unwrapped",
        "join": "neighbouring turns of one role are joined",
        "greeting": "the assistant's words before the first question are read and not learned (left out where the "
        "base's chat template takes none)",
        "end": "what stands after the last answer is left out",
        "blank": "blank rows are left out",
        "duplicate": "rows that repeat an earlier one are left out",
    }

    @property
    def what(self) -> str:
        return self.WORDS[self.kind]

    @property
    def leaves_out(self) -> bool:
        """Whether the rows are left out, rather than changed."""
        return self.kind in ("blank", "duplicate")


@dataclass(frozen=True, slots=True)
class Unused:
    """A column, or a key inside one, of which something stands in no example. warning: why it seems to belong to one,
    "" where nothing says so. role: the role that is free to take it in, "" where there is none."""

    column: str
    warning: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Where one of several files stands among the rows: its first row's number, and how many rows it has."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Checked:
    """What was found in one file, or in several. ``len(examples) + len(others) + len(bad) == rows``: those that repairs
    left out are not counted, and the others keep their numbers."""

    format: str  # prompt-completion, instruction, chat, preference, unpaired-preference or text
    objective: str  # what it can train: sft, preference, unpaired_preference or text
    rows: int
    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...] = ()
    warnings: tuple[RowWarning, ...] = ()
    duplicates: int = 0  # rows that repeat an earlier row exactly
    columns: tuple[str, ...] = ()  # every column (or key), in its order
    mapping: dict[str, str] = field(default_factory=dict)  # role -> column, as guessed or as the person corrected it
    others: tuple[Row, ...] = ()  # the usable rows where it trains something other than sft
    confidence: float = 1.0  # of the guess of format and columns, from 0 to 1; 1 where the person said so
    why: str = ""  # the evidence for it
    unused: tuple[Unused, ...] = ()  # columns, and keys inside them, that do not reach the examples
    encoding: str = ""  # the codec that the text was read with, "" of a kind that has none
    reading: dict[str, str] = field(default_factory=dict)  # how the files were read as a person said, as in ``Reading``
    sheet: str = ""  # of a workbook, the one that is read
    sheets: tuple[str, ...] = ()  # and all that hold something
    splits: dict[str, int | None] = field(default_factory=dict)  # its own splits -> their rows, None = not read
    held: dict[int, str] = field(default_factory=dict)  # rows of its own splits for ``validation`` and ``test``
    repairs: tuple[Repair, ...] = ()  # what was mended, in which rows
    repairable: tuple[Repair, ...] = ()  # what could be, where nothing was
    files: tuple[FilePart, ...] = ()  # of several, whose rows are numbered on through all of them; empty for one

    @property
    def usable(self) -> tuple[Row, ...]:
        """Every row that can be trained on, whatever it trains."""
        return (*self.examples, *self.others)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of every row that was read, usable, bad or left out by repair, in order."""
        left_out = {number for one in self.repairs if one.leaves_out for number in one.rows}
        return tuple(sorted(left_out.union(one.row for one in (*self.usable, *self.bad))))

    def part_of(self, row: int) -> FilePart | None:
        """The file that a row is in, where there are several."""
        return next((part for part in self.files if part.first <= row < part.first + part.rows), None)

    def place(self, row: int) -> str:
        """The row as the person finds it: its number, and its file's name where there are several."""
        part = self.part_of(row)
        return f"{part.name} {row - part.first + 1}" if part else str(row)

    def named(self, rows: Sequence[int], most: int = 5) -> str:
        """``row 3``, ``rows 3 and 9``, ``rows 3, 9, 12, 15, 18 and 37 more``."""
        shown = [self.place(row) for row in rows[:most]]
        rest = len(rows) - len(shown)
        last = f"{rest:,} more" if rest else shown.pop()
        return f"row {last}" if len(rows) == 1 else f"rows {', '.join(shown)} and {last}"

    @property
    def good(self) -> int:
        """Rows that can be trained on."""
        return len(self.examples) + len(self.others)
