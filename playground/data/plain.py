"""Plain text and Markdown -> one record a passage, under the column ``text``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from playground.data import names
from playground.data.records import Records, spelling
from playground.data.source import Text
from playground.errors import InputError

COLUMN = "text"
_TABLE = ("\t", ";", "|", ",")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_UNDERLINE = re.compile(r"\s{0,3}(=+|-+)\s*$")


def parse_plain(text: Text) -> Records:
    """Passages of a text, numbered from 1.

    1. Blank lines separate passages. 2. A text without any blank line between is one passage a line. 3. Headings stay with the
    passage under them. 4. A blank line inside a fenced block of code separates nothing.
    Raises InputError when there is no passage.
    """
    passages = [*_joined(_blocks(text.lines()))]
    if len(passages) == 1:  # 2
        passages = [line for line in passages[0].split("\n") if line.strip()]
    text.limits.check_rows(len(passages))
    if not passages:
        raise InputError(f"{text.name} holds no text. Write passages with a blank line between them.")
    return Records((COLUMN,), [(number, {COLUMN: passage}) for number, passage in enumerate(passages, 1)])


def table_in_text(text: Text) -> str | None:
    """The separator of a table that is saved as .txt; None when the first line is not a line of known column names."""
    first = next((line for line in text.lines(cut=True) if line.strip()), "")
    known = names.PROMPTS.keys() | names.COMPLETIONS.keys() | names.CHOSEN.keys() | names.REJECTED.keys() | names.INPUTS.keys()
    for separator in _TABLE:
        cells = [spelling(cell) for cell in first.split(separator)]
        if len(cells) >= 2 and len(set(cells) & known) >= 2 and len(set(cells) - known) <= len(cells) // 2:
            return separator
    return None


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    held: list[str] = []
    fence = ""
    for line in lines:
        mark = line.strip()[:3]
        if mark in ("```", "~~~") and fence in ("", mark):  # 4
            fence = "" if fence else mark
        if line.strip() or fence:
            held.append(line.rstrip())
        elif held:
            yield held
            held = []
    if held:
        yield held


def _joined(blocks: Iterable[list[str]]) -> Iterator[str]:
    headings: list[str] = []
    for block in blocks:
        passage = "\n".join(block).strip("\n")
        if all(_HEADING.match(line) for line in block) or (len(block) == 2 and _UNDERLINE.match(block[1])):  # 3
            headings.append(passage)
            continue
        yield "\n\n".join((*headings, passage))
        headings = []
    if headings:
        yield "\n\n".join(headings)
