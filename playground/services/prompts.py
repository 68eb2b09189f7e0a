"""Versions of a prompt that a person has tried, in the home folder: one file an owner, whole or not there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.library.files import write_json
from playground.services.sessions import LOCAL, OWNER

SCHEMA = 1
VERSIONS_MAX = 50
LETTERS_MAX = 20_000
"""Of one prompt: more than any context of the bases here takes."""
NOTED_MAX = 200
"""Benches that are remembered as read; older ones have left their scores long ago."""


@dataclass(frozen=True)
class Score:
    """What one version did with so many shots on the validation rows of a file.

    metric: as the verdict names it. value: its figure. passed: of n, where the metric is yes or no. tokens: of an average request.
    when_s: since 1970. bench: its id."""

    file: str
    shots: int
    metric: str
    value: float
    n: int
    passed: int | None = None
    tokens: float = 0.0
    when_s: float = 0.0
    bench: str = ""


@dataclass(frozen=True)
class Version:
    """id: ``v1``, ``v2`` ..., never given twice. file: the examples it was written for, "" = any. scores: the last one for each file and
    number of shots."""

    id: str
    text: str
    when_s: float
    file: str = ""
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class _Book:
    """What one owner's file holds. next: the number of the next version. noted: benches whose scores are in."""

    versions: tuple[Version, ...] = ()
    next: int = 1
    noted: tuple[str, ...] = ()


class PromptBook:
    """root: ``prompts`` in the home. Several processes may write: each change is read and written under a lock of its owner."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root, self._clock = root, clock

    def versions(self, owner: str = LOCAL) -> list[Version]:
        """Oldest first. Raises PlaygroundError for a file that cannot be read."""
        return list(self._read(owner).versions)

    def get(self, id: str, owner: str = LOCAL) -> Version:
        """Raises NotFoundError."""
        there = self.versions(owner)
        for version in there:
            if version.id == id:
                return version
        ids = ", ".join(version.id for version in there) or "none yet"
        raise NotFoundError(f"There is no version {id[:20]!r} of a prompt. There are: {ids}.")

    def keep(self, text: str, owner: str = LOCAL, file: str = "") -> Version:
        """A new version; the one that is there where it reads the same and is for the same file. Raises InputError."""
        text = text.strip()
        if not text:
            raise InputError("There is no text in this prompt. Write what the model is to do.")
        if len(text) > LETTERS_MAX:
            raise InputError(f"The prompt is {len(text):,} letters long; a version has at most {LETTERS_MAX:,}.")
        with self._changing(owner):
            book = self._read(owner)
            for version in book.versions:
                if version.text == text and version.file == file:
                    return version
            if len(book.versions) >= VERSIONS_MAX:
                raise InputError(
                    f"{len(book.versions)} versions are kept, as many as there may be. Remove one that you do not need."
                )
            made = Version(f"v{book.next}", text, self._clock(), file[:200])
            self._write(owner, replace(book, versions=(*book.versions, made), next=book.next + 1))
        return made

    def remove(self, id: str, owner: str = LOCAL) -> None:
        """Raises NotFoundError."""
        self.get(id, owner)
        with self._changing(owner):
            book = self._read(owner)
            self._write(owner, replace(book, versions=tuple(one for one in book.versions if one.id != id)))

    def noted(self, owner: str = LOCAL) -> frozenset[str]:
        """Benches whose scores are in."""
        return frozenset(self._read(owner).noted)

    def note(self, bench: str, scores: Mapping[str, Iterable[Score]], owner: str = LOCAL) -> None:
        """Put a bench's scores to the versions: text -> its scores. What was scored before on the same file with as many shots goes."""
        with self._changing(owner):
            book = self._read(owner)
            versions = tuple(_scored(one, tuple(scores.get(one.text, ()))) for one in book.versions)
            self._write(owner, replace(book, versions=versions, noted=(*book.noted, bench)[-NOTED_MAX:]))

    # -- as a whole ------------------------------------------------------------------------------------------------

    def owners(self) -> set[str]:
        """Everybody who has a file."""
        return {file.stem for file in self._root.glob("*.json")} if self._root.is_dir() else set()

    def file(self, owner: str) -> Path:
        """Raises NotFoundError for what is no owner: nothing else becomes a path."""
        if owner != LOCAL and not OWNER.fullmatch(owner):
            raise NotFoundError("There are no prompts of yours. Reload the page.")
        return self._root / f"{owner}.json"

    def forget(self, owner: str) -> None:
        self.file(owner).unlink(missing_ok=True)
        self._lock(owner).unlink(missing_ok=True)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _lock(self, owner: str) -> Path:
        return self.file(owner).with_name(f".{owner}.lock")

    def _changing(self, owner: str) -> FileLock:
        self._root.mkdir(parents=True, exist_ok=True)
        return FileLock(self._lock(owner))

    def _read(self, owner: str) -> _Book:
        file = self.file(owner)
        try:
            said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if said["schema"] != SCHEMA:
                raise ValueError(f"schema {said['schema']}, this is {SCHEMA}")
            versions = tuple(
                Version(**{**one, "scores": tuple(Score(**score) for score in one["scores"])}) for one in said["versions"]
            )
            return _Book(versions, int(said["next"]), tuple(said["noted"]))
        except FileNotFoundError:
            return _Book()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlaygroundError(
                f"The kept prompts ({file.name}) cannot be read: {str(error)[:120]}. Move the file away, or remove it under Storage in the Device panel."
            ) from error

    def _write(self, owner: str, book: _Book) -> None:
        write_json(self.file(owner), {"schema": SCHEMA, **asdict(book)})


def _scored(version: Version, new: tuple[Score, ...]) -> Version:
    fresh = {(score.file, score.shots) for score in new}
    return replace(version, scores=(*(one for one in version.scores if (one.file, one.shots) not in fresh), *new))
