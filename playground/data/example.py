"""One training row, and what was found in a file. Plain values: no file, no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Message:
    """One turn. ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Example:
    """One row to train on: ``messages[:-1]`` is the prompt, ``messages[-1]`` the assistant's answer.

    row: its number in the person's own file, from 1.
    """

    messages: tuple[Message, ...]
    row: int

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def completion(self) -> str:
        return self.messages[-1].content


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the better one first. ``prompt`` ends with the user's turn."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    row: int


@dataclass(frozen=True)
class Judged:
    """One answer and whether it was good (unpaired preference). ``prompt`` ends with the user's turn."""

    prompt: tuple[Message, ...]
    completion: str
    good: bool
    row: int


@dataclass(frozen=True)
class Passage:
    """Raw text of a domain: no prompt, no answer."""

    text: str
    row: int


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be trained on: what is wrong with it and what to do."""

    row: int
    reason: str
    fix: str


@dataclass(frozen=True)
class RowWarning:
    """A row that is kept, and what a person should know of it."""

    row: int
    reason: str


@dataclass(frozen=True)
class Checked:
    """What was found in one file. ``len(examples) + len(others) + len(bad) == rows``.

    format: ``prompt-completion``, ``instruction``, ``chat``, ``preference``, ``unpaired-preference`` or ``text``.
    objective: what the file can train: ``sft``, ``preference``, ``unpaired_preference`` or ``text``.
    others: the usable rows of a file that trains something other than ``sft``; ``examples`` is then empty.
    columns: every column (or key) the file has, in its order.
    mapping: role -> column, as guessed or as the person corrected it, e.g. ``{"prompt": "patient", "completion": "report"}``.
    duplicates: rows that repeat an earlier row exactly.
    """

    format: str
    objective: str
    rows: int
    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...] = ()
    warnings: tuple[RowWarning, ...] = ()
    duplicates: int = 0
    columns: tuple[str, ...] = ()
    mapping: dict[str, str] = field(default_factory=dict)
    others: tuple[Preference | Judged | Passage, ...] = ()

    @property
    def good(self) -> int:
        """Rows that can be trained on."""
        return len(self.examples) + len(self.others)
