"""CSV and TSV text -> records. A row whose quotes do not match is one broken row; reading goes on at the next line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from playground.data.limits import LONGEST_LINE, Limits
from playground.data.records import Broken, Numbered, Records, clean_name, listed
from playground.data.source import Text
from playground.errors import InputError

SEPARATORS = (",", ";", "\t", "|")
_NO_SEPARATOR = "\x1f"  # a table of one column: commas belong to the text
_QUOTES = 'Put quotes around a cell that holds separators or line breaks, and write a quote inside it twice ("").'

Cells = list[str]


class Table(Collection[Numbered]):
    """The data rows under a line of column names, made into records anew each time they are gone through."""

    def __init__(self, columns: list[str], rows: Callable[[], Iterable[list[object] | Cells | Broken]], limits: Limits) -> None:
        """Goes through the rows once to count them. Raises InputError where they are too many."""
        self._columns, self._rows = columns, rows
        self._count = 0
        for self._count, _ in enumerate(rows(), 1):
            limits.check_rows(self._count)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: object) -> bool:
        return any(row == mine for mine in self)

    def __iter__(self) -> Iterator[Numbered]:
        columns, width = self._columns, len(self._columns)
        for number, cells in enumerate(self._rows(), 1):
            if isinstance(cells, Broken):
                yield number, cells
            elif len(cells) > width and any(cell not in (None, "") for cell in cells[width:]):
                yield number, Broken(f"{len(cells)} cells in a table of {width} columns", _QUOTES)
            else:
                record: dict[str, object] = {
                    name: "" if cell is None else cell for name, cell in zip(columns, cells, strict=False)
                }
                for name in columns[len(cells) :]:
                    record[name] = ""
                yield number, record


def parse_separated(text: Text, hint: str = ",") -> Records:
    """``hint``: the separator the file's extension promises. Raises InputError when there are no columns or no rows."""
    lines = [*text.lines()]
    told = re.fullmatch(r"sep=([,;|\t])", lines[0].strip(" \"'"))  # Excel's own way to say it
    if told:
        lines = lines[1:]
    separator = told[1] if told else _separator(lines, hint)
    header = next(_rows(lines, separator), None)
    if isinstance(header, Broken):
        raise InputError(f"{text.name}: the line with the column names cannot be read: {header.reason}. {header.fix}")
    return build_table(header or [], lambda: islice(_rows(lines, separator), 1, None), text.limits)


def build_table(header: Iterable[object], rows: Callable[[], Iterable[list[object] | Cells | Broken]], limits: Limits) -> Records:
    """Records from a line of column names and the data rows under it. Raises InputError when either is missing, or there is too much."""
    columns, name = _columns(header, limits), limits.name
    if not columns:
        raise InputError(f"{name} has no column names. Its first line must name the columns, for example: prompt,completion")
    table = Table(columns, rows, limits)
    if not len(table):
        raise InputError(f"{name} has column names ({listed(columns)}) but no rows. Add rows under them.")
    return Records(tuple(columns), table)


def _columns(header: Iterable[object], limits: Limits) -> list[str]:
    names = [clean_name(cell) for cell in header]
    while names and not names[-1]:
        names.pop()
    limits.check_columns(len(names))
    columns: list[str] = []
    for place, name in enumerate(names, 1):
        unique = name or f"column {place}"
        columns.append(unique if unique not in columns else f"{unique} ({place})")
    return columns


def _separator(lines: list[str], hint: str) -> str:
    """The separator that splits the header, and most rows into as many cells as the header has."""
    best, found = (0.0, 0), _NO_SEPARATOR
    for separator in (hint, *(other for other in SEPARATORS if other != hint)):
        header, *rest = [*islice(_rows(lines[:400], separator), 51)] or [[]]
        if isinstance(header, Broken) or len(header) < 2:
            continue
        agree = sum(not isinstance(row, Broken) and len(row) == len(header) for row in rest) / max(1, len(rest))
        if (agree, len(header)) > best:
            best, found = (agree, len(header)), separator
    return found


class _Feed:
    """Lines for csv.reader, with the place it has reached."""

    def __init__(self, lines: list[str], at: int) -> None:
        self.lines, self.at = lines, at

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at >= len(self.lines):
            raise StopIteration
        self.at += 1
        return self.lines[self.at - 1] + "\n"


def _rows(lines: list[str], separator: str) -> Iterator[Cells | Broken]:
    """Every row that is not a blank line. Linear: after a quote that never closes, each line is a row of its own."""
    csv.field_size_limit(LONGEST_LINE)  # a quote that never closes must not swallow a whole large file
    spaced = any(f'{separator} "' in line for line in lines[:50])
    at, alone, width = 0, False, 0
    while at < len(lines):
        feed = _Feed(lines[at : at + 1] if alone else lines, 0 if alone else at)
        begin = at
        try:
            for cells in csv.reader(feed, delimiter=separator, strict=True, skipinitialspace=spaced):
                begin = at + 1 if alone else feed.at
                if cells and not (len(cells) == 1 and cells[0].isspace()):
                    width = width or len(cells)
                    yield cells
            at = begin
            if not alone:
                return
        except csv.Error as error:
            at = begin + 1
            plain = lines[begin].split("\t")
            if separator == "\t" and width and len(plain) == width:
                yield plain  # many TSV files do not quote: the marks are part of the text
                continue
            inner = "expected after" in str(error)
            alone = alone or not inner
            yield Broken("a quote inside the text is not doubled" if inner else "a quote is opened and never closed", _QUOTES)
