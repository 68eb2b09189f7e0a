"""One training row, and what was found in a file. Plain values: no file, no tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from playground.data.markup import TAGS, TOOLS, joined, parted

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
