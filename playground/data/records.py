"""A text file's lines and encoding, numbered records with their columns, and the limits of what one file may hold."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

from playground.data.column_profile import MAX_KEYS, is_nested, parents_of
from playground.data.encodings import codec_of, legacy_encoding
from playground.data.turns import Unusable
from playground.errors import InputError

UNPACKED = 10  # a compressed file may unpack to this many times the upload limit
COLUMNS = 1000
LONGEST_LINE = 16 * 1024 * 1024  # characters of one line of JSONL, or of one cell
_ROW_BYTES, _MIN_ROWS = 100, 100_000
_A_ROW = {"rows": 1, "lines": 4, "cells": 40}
"""How many of each there may be for every row; a quoted cell or a passage may have several lines."""
KEEP_FEWER = "Keep fewer rows, or split the file."


@dataclass(frozen=True)
class Limits:
    """What a file may hold at this limit of an upload; counted while it is read, the checks raise InputError."""

    name: str
    upload_bytes: int

    @property
    def rows(self) -> int:
        """One for every 100 bytes of the largest upload: 209,715 at 20 MB, 2,684,354 at 256 MB."""
        return max(_MIN_ROWS, self.upload_bytes // _ROW_BYTES)

    def check(self, what: str, count: int) -> None:
        """what: ``rows``, ``lines`` or ``cells``."""
        most = _A_ROW[what] * self.rows
        if count > most:
            fix = "Keep fewer columns or rows." if what == "cells" else KEEP_FEWER
            raise InputError(f"{self.name} has more than {most:,} {what}, the most that are read here. {fix}")

    def check_unpacked(self, count: int) -> None:
        if count > UNPACKED * self.upload_bytes:
            raise InputError(f"{self.name} unpacks to more than {UNPACKED} times the size limit. Keep fewer rows.")

    def check_columns(self, count: int) -> None:
        if count > COLUMNS:
            what = f"{self.name} has {count:,} columns; at most {COLUMNS} are read"
            raise InputError(f"{what}. Keep the ones to train on.")


@dataclass(frozen=True)
class Reading:
    """How a person wants files read; "" = as they look. encoding: of text. sheet: of a workbook. split: the only one
    that is read. repair: ``rows`` = mended where that is easy, left out where they teach nothing (``Mender``)."""

    encoding: str = ""
    sheet: str = ""
    split: str = ""
    repair: str = ""

    def said(self) -> dict[str, str]:
        return {name: value for name, value in vars(self).items() if value}

    def flags(self) -> list[str]:
        """The same on the command line."""
        each = ([f"--{name}"] if name == "repair" else [f"--{name}", value] for name, value in self.said().items())
        return [word for words in each for word in words]


AS_FOUND = Reading()
READING = tuple(each.name for each in fields(Reading))


def reading_of(mapping: Mapping[str, str] | None) -> tuple[Reading, dict[str, str]]:
    """(how the files are read, role -> column): a mapping holds both."""
    given = dict(mapping or {})
    return Reading(**{name: given.pop(name, "") for name in READING}), given


def of_copy(reading: Mapping[str, str]) -> dict[str, str]:
    """What of it holds for a copy of the file as JSONL, too, which is UTF-8 and holds one sheet."""
    return {name: value for name, value in reading.items() if name in ("split", "repair")}


OnProgress = Callable[[float], None]  # called with a share from 0 to 1


class Progress:
    """Calls ``on_progress`` at most ten times a second; with 1 always, and never with less than before."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._last, self._share = -1.0, 0.0

    def at(self, share: float) -> None:
        """share: of the whole work, from 0 to 1."""
        if self._on_progress is None:
            return
        share = min(1.0, max(share, self._share))
        now = time.monotonic()
        if share >= 1 > self._share or now - self._last >= 0.1:
            self._last, self._share = now, share
            self._on_progress(share)

    def part(self, start: float, end: float) -> OnProgress:
        """A callback for one part of the work: its 0 is ``start`` of the whole, its 1 is ``end``."""
        return lambda share: self.at(start + (end - start) * min(1.0, share))


_SAMPLE = 500  # records in a sample: at least so many, at most twice as many, from all over the file
Numbered = tuple[int, dict[str, Any] | Unusable]


@dataclass(frozen=True)
class Rows:
    """``count`` records, read from the file anew at every iteration."""

    read: Callable[[], Iterable[Numbered]]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Numbered]:
        return iter(self.read())


@dataclass(frozen=True)
class Records:
    """One file's records, numbered from 1 as the person sees them: line of JSONL, item of JSON, data row, passage."""

    columns: tuple[str, ...]  # cleaned, in the order they first appear; a nested one with dots (``data.prompt``)
    rows: Rows | Sequence[Numbered]  # a missing cell of a table is ""
    sample: Sequence[dict[str, Any]]  # of the readable ones, spread evenly; empty only when none can be read
    note: str = ""  # what of the file is in no record, "" = nothing
    encoding: str = ""  # the codec that its text was read with, "" of a kind that has none
    sheet: str = ""  # of a workbook
    sheets: tuple[str, ...] = ()  # all of its sheets that hold something
    splits: tuple[str, ...] = ()  # several lists of rows, which the column ``split`` tells apart


def stream(
    read: Callable[[OnProgress | None], Iterable[Numbered]],
    limits: Limits,
    on_progress: OnProgress | None = None,
    columns: Sequence[str] = (),
) -> Records:
    """Records that stay on disk: one pass for their number, a sample, and the columns where these are not known.

    Raises InputError for too many.
    """
    number, readable, step = 0, 0, 1
    sample: list[dict[str, Any]] = []
    plain: dict[str, bool] = {}  # column -> whether it holds more than objects
    for number, (_, record) in enumerate(read(on_progress), 1):
        limits.check("rows", number)
        if isinstance(record, Unusable):
            continue
        for name, value in () if columns else record.items():
            if name not in plain:
                plain[name] = not is_nested(value)
            elif not plain[name] and not is_nested(value) and value not in (None, ""):
                plain[name] = True
        if readable % step == 0:
            sample.append(record)
            if len(sample) >= 2 * _SAMPLE:
                sample, step = sample[::2], 2 * step
        readable += 1
    return Records(tuple(columns or _columns(plain)), Rows(lambda: read(None), number), sample)


def _columns(plain: Mapping[str, bool]) -> Iterator[str]:
    """An object is no column beside its entries; one with very many different keys over the rows is one column."""
    inside = Counter(parent for name in plain for parent in parents_of(name) if parent in plain)
    crowded = {parent for parent, keys in inside.items() if keys > MAX_KEYS}
    for name, is_plain in plain.items():
        if (is_plain or name in crowded or name not in inside) and crowded.isdisjoint(parents_of(name)):
            yield name


DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity are not JSON: a missing value


def parsed(text: str) -> Any:
    """The value of JSON; None where it is too long or does not parse."""
    try:
        return DECODER.decode(text) if len(text) <= LONGEST_LINE else None
    except (ValueError, RecursionError):
        return None


def json_fault(error: Exception) -> str:
    """What ``DECODER`` found wrong."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number of thousands of digits"


_BLOCK = 1024 * 1024
_SAMPLE_BYTES = 64 * 1024  # bytes of lines beyond ASCII that decide between the encodings from before Unicode
_KINDS = "Save it as CSV, TSV, JSON or JSONL text, or name it by its real kind (.xlsx, .parquet, .csv.gz)."
_MAGIC = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PAR1", "a Parquet file"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"SQLite format 3", "an SQLite database"),
)
# UTF-32 first: its little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Text:
    """A text file whose encoding is known."""

    path: Path
    packed: bool  # it is gzip
    size: int  # its bytes on disk
    limits: Limits  # of what it may hold
    encoding: str = "utf-8"  # the codec's name
    mark: int = 0  # bytes of the byte-order mark before the text
    blank: bool = True  # the text is only white space

    @property
    def name(self) -> str:
        return self.path.name

    def lines(self, on_progress: OnProgress | None = None, *, cut: bool = False) -> Iterator[str]:
        r"""Every line without its end (``\n``, ``\r\n`` or ``\r``) and without a byte-order mark.

        cut: a line of more than ``LONGEST_LINE`` characters is given to one more than that; else it raises InputError.
        """
        with self._opened() as (raw, file), self._reader(file) as reader:
            for place in count():
                line = rest = reader.readline(LONGEST_LINE + 1)
                if not line:
                    return
                while rest and not rest.endswith("\n"):  # read over, so that no more than that is in memory
                    rest = reader.readline(LONGEST_LINE)
                if len(line) > LONGEST_LINE and not cut:
                    what = f"line {place + 1:,} is longer than {LONGEST_LINE:,} characters"
                    raise InputError(f"{self.name}: {what}. Cut it into several lines.")
                if place % 256 == 0:
                    self.limits.check("lines", place)
                    if on_progress is not None:
                        on_progress(raw.tell() / max(1, self.size))
                line = line.removesuffix("\n")
                yield line.removeprefix("\ufeff") if place == 0 else line

    def whole(self) -> str:
        r"""All of it, with ``\n`` line ends, to be parsed in one piece. Raises InputError."""
        most = self.limits.upload_bytes
        with self._opened() as (_, file), self._reader(file) as reader:
            text = reader.read(most + 1)
        if len(text) > most:
            what = f"{self.name} unpacks to one JSON document of more than {most:,} bytes"
            raise InputError(f"{what}, the most that is parsed in one piece. Save it as JSONL, one object a line.")
        return text.removeprefix("\ufeff")

    def first_lines(self, most: int) -> list[str]:
        """Stripped, of those that are not blank."""
        return [*islice(filter(None, map(str.strip, self.lines(cut=True))), most)]

    def blocks(self, on_progress: OnProgress | None = None) -> Iterator[bytes]:
        """The unpacked bytes. Raises InputError when a packed file holds too many, or is damaged."""
        size = 0
        with self._opened() as (raw, file):
            while block := file.read(_BLOCK):
                size += len(block)
                if self.packed:
                    self.limits.check_unpacked(size)
                if on_progress is not None:
                    on_progress(raw.tell() / max(1, self.size))
                yield block

    def _reader(self, file: IO[bytes]) -> io.TextIOWrapper:
        file.read(self.mark)
        return io.TextIOWrapper(file, encoding=self.encoding, errors="replace", newline=None)

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """(the file on disk, what is read from it)."""
        try:
            with self.path.open("rb") as raw:
                if not self.packed:
                    yield raw, raw
                    return
                with gzip.GzipFile(fileobj=raw) as file:
                    yield raw, file  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            why = f"is no gzip archive, or damaged: {error}. Pack it again, or choose the unpacked file."
            raise InputError(f"{self.name} {why}") from error
        except OSError as error:
            what = f"{self.name} cannot be opened: {error.strerror or error}"
            raise InputError(f"{what}. Check its permissions.") from error


def open_text(
    path: Path, packed: bool, limits: Limits, on_progress: OnProgress | None = None, encoding: str = ""
) -> Text:
    """Reads the whole file once, for its encoding; raises InputError when it is binary, damaged or too much.

    encoding: where a person names it. Else 1. a byte-order mark decides; 2. NUL bytes in a pattern are UTF-16 or
    UTF-32; 3. what reads as UTF-8 is UTF-8; 4. mostly UTF-8 with some damage keeps U+FFFD where a character was lost;
    5. an encoding from before Unicode.
    """
    text = Text(path, packed, path.stat().st_size, limits)
    found: _Detector | None = None
    for block in text.blocks(on_progress):
        if found is None:
            found = _Detector(block, path.name, encoding and codec_of(encoding))
            block = block[found.mark :]
        found.add(block)
    return replace(text, encoding=found.encoding(), mark=found.mark, blank=found.blank) if found else text


class _Detector:
    """Gathers the evidence for a file's encoding block by block. Raises InputError for a binary file."""

    def __init__(self, first: bytes, name: str, said: str) -> None:
        if kind := next((kind for magic, kind in _MAGIC if first.startswith(magic)), None):
            raise InputError(f"{name} is {kind}, not a text file. {_KINDS}")
        self.name = name
        self.mark, named = next(((len(mark), codec) for mark, codec in _MARKS if first.startswith(mark)), (0, None))
        self.wide = said or (_wide(first[:4096]) if named is None else None if named == "utf-8" else named)
        self.mark = 0 if said.startswith("utf") else self.mark  # its decoder, or the reader of lines, takes it away
        self.nul, self.blank, self.valid = False, True, True
        self.lost = self.beyond = 0
        self.sample = bytearray()
        self._text = codecs.getincrementaldecoder(self.wide or "utf-8")("replace")
        self._strict = codecs.getincrementaldecoder("utf-8")("strict")
        self._pending = False

    def add(self, block: bytes) -> None:
        if self.wide or self._pending or not block.isascii():
            text = self._text.decode(block)
            if not self.wide:
                self._pending = bool(self._text.getstate()[0])
                self._count(block, text)
            self.nul = self.nul or "\0" in text
            self.blank = self.blank and not self._pending and not text.strip().strip("\ufeff")
        else:
            self.nul = self.nul or b"\0" in block
            self.blank = self.blank and not block.decode("ascii").strip()

    def _count(self, block: bytes, text: str) -> None:
        if self.valid:
            try:
                self._strict.decode(block)
            except UnicodeDecodeError:
                self.valid = False
        self.lost += text.count("\ufffd")
        self.beyond += len(text) - len(text.encode("ascii", errors="ignore"))
        lines = block.split(b"\n")
        for line in lines[1:-1] if len(block) > _SAMPLE_BYTES else lines:
            if len(self.sample) < _SAMPLE_BYTES and not line.isascii():
                self.sample += line + b"\n"

    def encoding(self) -> str:
        if self.nul:
            raise InputError(f"{self.name} holds NUL bytes: it is a binary file, not text. {_KINDS}")
        if self.wide:  # 1, 2
            return self.wide
        lost = self.lost + self._pending
        if (self.valid and not self._pending) or self.mark or self.beyond - self.lost > lost:  # 1, 3, 4
            return "utf-8"
        return legacy_encoding(bytes(self.sample))  # 5


def _wide(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: in Western text all bytes but one of each character are nearly always NUL."""
    if b"\0" not in sample:
        return None
    zeros = {width: [sample[at::width].count(0) * width / len(sample) for at in range(width)] for width in (2, 4)}
    two, four = zeros[2], zeros[4]
    if four[0] < 0.1 and min(four[1:]) > 0.9:
        return "utf-32-le"
    if four[3] < 0.1 and min(four[:3]) > 0.9:
        return "utf-32-be"
    if two[1] > 0.4 and two[0] < 0.05:
        return "utf-16-le"
    return "utf-16-be" if two[0] > 0.4 and two[1] < 0.05 else None
