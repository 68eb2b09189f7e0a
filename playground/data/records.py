"""What a file holds before anybody knows what its columns mean: numbered records, and those that could not be read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Broken:
    """A record that could not be read: what is wrong and what to do."""

    reason: str
    fix: str


@dataclass(frozen=True)
class Records:
    """One file's records.

    columns: every column (or key), cleaned, in the order they first appear.
    rows: (number, record). The number is what the person sees: the line of a JSONL file, the item of a JSON list, the
        data row of a table; all from 1. A missing cell of a table is ``""``.
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, Any] | Broken]]


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
