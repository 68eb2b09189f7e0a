"""The rows that a verdict is measured on: a shipped set's held-out ones, the test part of the Train tab's upload, or a
file that was dropped on the Verdict tab; and those that its prompts are tried on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from playground.chat.compare import Side
from playground.data.example import Example
from playground.data.split import BY_CHANCE, Parts, SplitBy
from playground.errors import InputError
from playground.services import Services
from playground.ui import words
from playground.ui.html import plural
from playground.ui.rows import Source
from playground.ui.wiring import Visit
from playground.verdict.records import judged_at
from playground.workspace.examples import ShippedSet

SET, UPLOAD, FILE = "set:", "upload", "file"
"""Where examples come from: a shipped set by its id, the Train tab's upload, a file that was dropped on this tab."""


@dataclass(frozen=True)
class Judged:
    """The examples of a verdict. rows: their numbers, None = every row. shots: the file that answered examples come
    from. about: in words. references: answers that are not judged by, to infer checks from. answers: of all rows of the
    file. judged: (row, answer) of those that are judged by. by: columns that the file is split by."""

    file: Path
    rows: tuple[int, ...] | None
    count: int
    shots: Path
    mapping: dict[str, str] | None
    about: str
    references: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    judged: tuple[tuple[int, str], ...] = ()
    by: SplitBy = BY_CHANCE


@dataclass(frozen=True)
class Kept:
    """Files of this tab's visitor and sides that came over from the Compare tab: state, never a value from the page.
    reading: of the dropped file, as in ``Source``."""

    dropped: Path | None = None
    reading: dict[str, str] = field(default_factory=dict)
    docs: Path | None = None
    replies: Path | None = None
    carried: tuple[Side, ...] = ()

    @property
    def opened(self) -> Source:
        """The dropped file, and how its rows are read."""
        return Source(self.dropped, reading=self.reading)


class ExampleValues(TypedDict):
    """Where examples come from. training, seed, test: of the Train tab, the test part as a percentage."""

    source: str | None
    kept: Kept
    uploaded: Path | None
    training: Source
    seed: float
    test: float


def shipped_set(services: Services, source: str | None) -> ShippedSet | None:
    return next((one for one in services.data.sets() if SET + one.id == source), None)


def sources(services: Services, uploaded: Path | None, kept: Kept) -> list[tuple[str, str]]:
    choices = [(f"{one.title}: its held-out rows", SET + one.id) for one in services.data.sets()]
    if uploaded is not None:
        choices.append((f"Your file {uploaded.name}: its test part", UPLOAD))
    if kept.dropped is not None:
        choices.append((f"{kept.dropped.name}: every row", FILE))
    return choices


def examples(visit: Visit, where: ExampleValues) -> Judged:
    """The examples behind a choice. Raises InputError with what is missing."""
    source, uploaded, dropped = where["source"] or "", where["uploaded"], where["kept"].dropped
    if source.startswith(SET):
        shipped = shipped_set(visit.services, source)
        if shipped is None:
            raise InputError("There is no such example set. Choose one of those in the list.")
        there = visit.services.data.check(shipped.heldout, None, visit.owner).examples
        about = f"{plural(len(there), 'held-out row')} of {shipped.title}; shots come from its {shipped.file.name}."
        return Judged(shipped.heldout, None, len(there), shipped.file, None, about, (), *_answers(there))
    if source == UPLOAD and uploaded is not None:
        tried = _of_upload(visit, where, uploaded)
        data, mapping, seed, by = visit.services.data, tried.mapping, tried.seed, tried.by
        checked = data.check(uploaded, mapping, visit.owner)
        rows = data.split(uploaded, checked.examples, seed, 0.0, tried.test, by, visit.owner, checked).test
        if not rows:
            few = f"{uploaded.name} has no test part: {plural(len(checked.examples), 'row')} with an answer"
            raise InputError(f"{few}, and the part is drawn from 20 on. Drop a file to judge by.")
        held = set(rows)
        learned = tuple(one.completion for one in judged_at(checked.examples) if one.row not in held)
        about = f"{plural(len(rows), 'row')} of {uploaded.name} that training does not read, drawn by seed {seed}."
        answers = _answers(checked.examples, held)
        return Judged(uploaded, rows, len(rows), uploaded, mapping, about, learned, *answers, by)
    if source == FILE and dropped is not None:
        asked = where["kept"].opened.asked
        found = visit.services.data.check(dropped, asked, visit.owner).examples
        if not found:
            raise InputError(f"{dropped.name} holds no row with a request and an answer. A verdict needs both.")
        count = f"{plural(len(found), 'row')} of {dropped.name}"
        about = f"{count}. Rows that the adapter was trained on are counted and said."
        answers = _answers(found)
        return Judged(dropped, None, len(found), dropped, asked, about, answers[0], *answers)
    raise InputError(words.VERDICT_EXAMPLES)


def _answers(
    there: Sequence[Example], rows: Collection[int] | None = None
) -> tuple[tuple[str, ...], tuple[tuple[int, str], ...]]:
    """(all answers; number and answer of these rows, None = of all)."""
    said = [(one.row, one.completion) for one in judged_at(there)]
    return tuple(text for _, text in said), tuple(one for one in said if rows is None or one[0] in rows)


@dataclass(frozen=True)
class Tried:
    """Where a prompt is tried: the rows of the validation part, by the Train tab's seed and shares."""

    file: Path
    mapping: dict[str, str] | None
    seed: int
    test: float
    by: SplitBy = BY_CHANCE

    def parts(self, visit: Visit) -> Parts:
        """Raises InputError where there is no validation part."""
        return visit.services.bench.parts(self.file, visit.owner, self.mapping, self.seed, self.test, self.by)


def _of_upload(visit: Visit, where: ExampleValues, uploaded: Path) -> Tried:
    training = where["training"]
    mapping, by = (training.asked, training.by) if training.path == uploaded else (None, BY_CHANCE)
    rows = len(visit.services.data.check(uploaded, mapping, visit.owner).examples)
    share = visit.services.data.test_share(uploaded, rows) and float(where["test"]) / 100
    return Tried(uploaded, mapping, int(where["seed"]), share, by)


def tried_on(visit: Visit, where: ExampleValues) -> Tried:
    """The examples behind the form's choice. Raises InputError where none of them may be used to choose a prompt."""
    shipped, uploaded = shipped_set(visit.services, where["source"]), where["uploaded"]
    if shipped is not None:
        return Tried(shipped.file, None, int(where["seed"]), 0.0)
    if where["source"] == UPLOAD and uploaded is not None:
        return _of_upload(visit, where, uploaded)
    if where["source"] == FILE:
        what = "Every row of this file is judged by, so none is left to choose a prompt by"
        raise InputError(f"{what}. Choose an example set, or a file of the Train tab.")
    raise InputError("Choose the examples of the verdict first: a prompt is tried on other rows of the same.")
