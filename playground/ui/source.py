"""What is open on the Train tab."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """The file (or folder of files) that is open, and how its rows are read.

    mapping: role -> column, where told or corrected. roles: those that can be mapped by hand. good: rows that can be used. index: the one
    that the preview shows, from 0. leave_out: kinds of warnings whose rows are not trained on. turns: which answers of a chat are learned.
    kind: what its rows are, as a check says it (``sft``, ``text``, ``preference``, ``unpaired_preference``). chats: some row has several answers. page: of the rows to edit, from 0.
    """

    path: Path | None = None
    title: str = ""
    slug: str = ""
    mapping: dict[str, str] | None = None
    roles: tuple[str, ...] = ()
    good: int = 0
    index: int = 0
    leave_out: tuple[str, ...] = ()
    turns: str = "all"
    chats: bool = False
    page: int = 0
    kind: str = "sft"
