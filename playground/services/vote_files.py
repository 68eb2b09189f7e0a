"""Votes on the replies of a verdict, kept in its folder: ``votes.jsonl``, one line a vote, in the order they were cast."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from playground.errors import PlaygroundError
from playground.evaluation.votes import WINNERS, Vote
from playground.library.files import write_text
from playground.services.verdict_files import VerdictFiles

Said = Literal["a", "b", "tie", "skip"]
JUDGE = "judge"
"""The owner of a model's votes; no visitor is ever called so."""
VOTES_MAX = 20_000
"""Of one verdict: twelve sides on a hundred examples make 6,600 comparisons."""


@dataclass(frozen=True)
class Cast:
    """One line. a, b: sides, in the verdict's order. winner: ``skip`` = the person passed it by; ``tie`` = as good. judge: which model, where
    it was one. when: seconds since 1970."""

    example: int
    a: str
    b: str
    winner: Said
    owner: str
    when: float
    judge: str = ""

    @property
    def place(self) -> tuple[int, str, str]:
        """What was voted on."""
        return self.example, self.a, self.b


def as_votes(cast: Sequence[Cast]) -> list[Vote]:
    """Those that say something."""
    return [Vote(one.a, one.b, one.winner) for one in cast if one.winner != "skip"]


class VoteFiles:
    """Reads, appends, and takes back."""

    def __init__(self, files: VerdictFiles) -> None:
        self._files, self._lock = files, threading.RLock()

    def read(self, id: str) -> list[Cast]:
        """A line that cannot be read, such as the last one after a full disk, is left out."""
        try:
            lines = self._file(id).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        return [cast for line in lines if (cast := _cast(line)) is not None]

    def add(self, id: str, make: Callable[[list[Cast]], Cast | None]) -> None:
        """Append what ``make`` says to the votes there are; None = nothing. Raises PlaygroundError."""
        with self._lock:
            there = self.read(id)
            cast = make(there)
            if cast is None:
                return
            if len(there) >= VOTES_MAX:
                raise PlaygroundError(f"This verdict has {len(there):,} votes, as many as it may have.")
            try:
                with self._file(id).open("a", encoding="utf-8") as out:
                    out.write(_line(cast))
            except OSError as error:
                raise PlaygroundError(f"The vote was not kept: {error.strerror or error}. Vote again.") from error

    def change(self, id: str, make: Callable[[list[Cast]], list[Cast]]) -> None:
        """Put what ``make`` makes of the votes in their place, in one step. Raises PlaygroundError."""
        with self._lock:
            there = self.read(id)
            new = make(there)
            if new == there:
                return
            try:
                write_text(self._file(id), "".join(map(_line, new)))
            except OSError as error:
                raise PlaygroundError(f"The votes were not changed: {error.strerror or error}. Try again.") from error

    def _file(self, id: str) -> Path:
        return self._files.folder(id) / "votes.jsonl"


def _line(cast: Cast) -> str:
    said = {name: value for name, value in asdict(cast).items() if name != "judge" or value}
    return json.dumps(said, ensure_ascii=False, allow_nan=False) + "\n"


def _cast(line: str) -> Cast | None:
    try:
        cast = Cast(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return cast if cast.winner in (*WINNERS, "skip") and cast.a != cast.b else None
