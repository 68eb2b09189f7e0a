"""What a file holds before anybody knows what its columns mean: numbered records, and those that could not be read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SAMPLE = 500
"""Records that the columns' meaning is told from: at least so many, at most twice as many, from all over the file."""


@dataclass(frozen=True)
class Broken:
    """A record that could not be read: what is wrong and what to do."""

    reason: str
    fix: str


Numbered = tuple[int, dict[str, Any] | Broken]


@dataclass(frozen=True)
class Records:
    """One file's records.

    columns: every column (or key), cleaned, in the order they first appear; a nested one with dots (``data.prompt``).
    rows: (number, record), to be gone through as often as one likes; large files are read anew each time. The number is what
        the person sees: the line of a JSONL file, the item of a JSON list, the data row of a table, the passage of a text;
        all from 1. A missing cell of a table is ``""``.
    sample: some of the readable records, spread evenly; taken from ``rows`` where a reader gave none.
    """

    columns: tuple[str, ...]
    rows: Collection[Numbered]
    sample: Sequence[dict[str, Any]] = ()

    def some(self) -> Sequence[dict[str, Any]]:
        """The sample; empty only when no record can be read."""
        return self.sample or spread(record for _, record in self.rows if isinstance(record, dict))


class Spread:
    """Every so-many-th of a stream of unknown length, evenly: a sorted file's start tells little."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self._step, self._seen = 1, 0

    def add(self, record: dict[str, Any]) -> None:
        if self._seen % self._step == 0:
            self.kept.append(record)
            if len(self.kept) >= 2 * SAMPLE:
                self.kept = self.kept[::2]
                self._step *= 2
        self._seen += 1


def spread(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to ``2 * SAMPLE`` of the records, evenly."""
    taken = Spread()
    for record in records:
        taken.add(record)
    return taken.kept


def clean_name(name: object) -> str:
    """A column's name without what nobody sees: byte-order mark, zero-width and control characters, outer spaces and quotes."""
    text = "" if name is None else str(name)
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if char in "\n\t" else char for char in text)
        text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc", "Cs"))
        text = re.sub(r"\s+", " ", text)
    return text.strip().strip("\"'").strip()


def spelling(name: str) -> str:
    """The name as it is compared: no case, accents, spaces, underscores or punctuation (``Prompt_Text`` is ``prompttext``)."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(char for char in plain if char.isalnum())


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: the first ``most``, each kept short."""
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
