"""One training row, and what was found in a file. Plain values: no file, no tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
"""A lone surrogate: JSON and Python hold it in a text, and no tokenizer or UTF-8 file does."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


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


Row = Example | Preference | Judged | Passage


def texts_of(row: Row, *, system: bool = True) -> list[str]:
    """Every text of a row. system: its system prompt, too."""
    if isinstance(row, Passage):
        return [row.text]
    return [*(turn.content for turn in row.prompt if system or turn.role != "system"), *row.answers]


def variants(row: Row) -> tuple[Example, ...]:
    """A row as examples, one for each of its answers; none for raw text."""
    if isinstance(row, Example):
        return (row,)
    return tuple(Example((*row.prompt, Message("assistant", answer)), row.row) for answer in row.answers)


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
class FilePart:
    """Where one of several files stands among the rows: its first row's number, and how many rows it has."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Checked:
    """What was found in one file, or in several. ``len(examples) + len(others) + len(bad) == rows``."""

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
    files: tuple[FilePart, ...] = ()  # of several, whose rows are numbered on through all of them; empty for one

    @property
    def usable(self) -> tuple[Row, ...]:
        """Every row that can be trained on, whatever it trains."""
        return (*self.examples, *self.others)

    def part_of(self, row: int) -> FilePart | None:
        """The file that a row is in, where there are several."""
        return next((part for part in self.files if part.first <= row < part.first + part.rows), None)

    def place(self, row: int) -> str:
        """The row as the person finds it: its number, and its file's name where there are several."""
        part = self.part_of(row)
        return f"{part.name} {row - part.first + 1}" if part else str(row)

    @property
    def good(self) -> int:
        """Rows that can be trained on."""
        return len(self.examples) + len(self.others)
