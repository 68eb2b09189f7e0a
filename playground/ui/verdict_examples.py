"""Where a verdict's examples come from: a shipped set, the Train tab's upload, a file of its own. And what fits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.split import split
from playground.errors import InputError
from playground.evaluation.inferred import inferred
from playground.services.sides import Side
from playground.ui import words
from playground.ui.figures import plural
from playground.ui.source import Source
from playground.ui.wiring import Visitor

SET, UPLOAD, FILE = "set:", "upload", "file"
"""Where examples come from: a shipped set by its id, the Train tab's upload, a file that was dropped on this tab."""
FEWEST_INFERRED = 5


@dataclass(frozen=True)
class Drawn:
    """The examples of a verdict. rows: their numbers, None = every row. shots: the file that answered examples come from.
    references: answers that are not judged by, to infer checks from."""

    file: Path
    rows: tuple[int, ...] | None
    count: int
    shots: Path
    mapping: dict[str, str] | None
    words: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """Files of this tab's visitor and sides that came over from the Compare tab: a page's own state, never a page's word."""

    dropped: Path | None = None
    docs: Path | None = None
    carried: tuple[Side, ...] = ()


def sources(services: Any, uploaded: Path | None, kept: Kept) -> list[tuple[str, str]]:
    choices = [(f"{one.title}: its held-out rows", SET + one.id) for one in services.data.sets()]
    if uploaded is not None:
        choices.append((f"Your file {uploaded.name}: its test part", UPLOAD))
    if kept.dropped is not None:
        choices.append((f"{kept.dropped.name}: every row", FILE))
    return choices


def drawn(
    services: Any, visitor: Visitor, source: str, kept: Kept, uploaded: Path | None, training: Source, seed: float, test: float
) -> Drawn:
    """The examples behind a choice. Raises InputError with what is missing."""
    if (source or "").startswith(SET):
        shipped = next((one for one in services.data.sets() if SET + one.id == source), None)
        if shipped is None:
            raise InputError("There is no such example set. Choose one of those in the list.")
        judged = services.data.check(shipped.heldout, None, visitor.owner)
        count = len(judged.examples)
        said = f"{plural(count, 'held-out row')} of {shipped.title}; shots come from its {shipped.file.name}."
        return Drawn(shipped.heldout, None, count, shipped.file, None, said)
    if source == UPLOAD and uploaded is not None:
        mapping = training.mapping if training.path == uploaded else None
        checked = services.data.check(uploaded, mapping, visitor.owner)
        share = services.data.test_share(uploaded) and float(test) / 100
        rows = split(checked.examples, int(seed), 0.0, share).test
        if not rows:
            raise InputError(
                f"{uploaded.name} has no test part: {plural(len(checked.examples), 'row')} with an answer, and the part is drawn from 20 on. "
                "Drop a file to judge by."
            )
        held = set(rows)
        learned = tuple(one.completion for one in checked.examples if one.row not in held)
        said = f"{plural(len(rows), 'row')} of {uploaded.name} that training does not read, drawn by seed {int(seed)}."
        return Drawn(uploaded, rows, len(rows), uploaded, mapping, said, learned)
    if source == FILE and kept.dropped is not None:
        checked = services.data.check(kept.dropped, None, visitor.owner)
        count = len(checked.examples)
        if not count:
            raise InputError(f"{kept.dropped.name} holds no row with a request and an answer. A verdict needs both.")
        said = f"{plural(count, 'row')} of {kept.dropped.name}. Rows that the adapter was trained on are counted and told."
        return Drawn(kept.dropped, None, count, kept.dropped, None, said, tuple(one.completion for one in checked.examples))
    raise InputError(words.VERDICT_EXAMPLES)


def prompt_for(services: Any, source: str) -> str:
    """A shipped set's careful prompt; "" elsewhere."""
    shipped = next((one for one in services.data.sets() if SET + one.id == source), None)
    return str(shipped.system_prompt) if shipped else ""


def documents_for(services: Any, source: str, kept: Kept) -> Path | None:
    """The person's own text to look things up in, else the shipped set's."""
    shipped = next((one for one in services.data.sets() if SET + one.id == source), None)
    return kept.docs or (shipped.documents if shipped is not None else None)


def checks_for(services: Any, source: str, found: Drawn) -> str:
    """A shipped set's check, or what the references have in common; one a line."""
    shipped = next((one for one in services.data.sets() if SET + one.id == source), None)
    if shipped is not None:
        return str(shipped.check)
    return "\n".join(inferred(found.references)) if len(found.references) >= FEWEST_INFERRED else ""
