"""A text file on disk, packed or not, as lines that can be read again and again without holding them all."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from playground.data.decode import Encoding, find_encoding
from playground.data.limits import LONGEST_LINE, Limits
from playground.data.progress import Tell
from playground.errors import InputError

_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Text:
    """A text file that was looked through once. packed: it is gzip. size: its bytes on disk. limits: of what it may hold. blank: nothing
    but white space."""

    path: Path
    packed: bool
    size: int
    limits: Limits
    encoding: Encoding

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def blank(self) -> bool:
        return self.encoding.blank

    def lines(self, tell: Tell | None = None, *, cut: bool = False) -> Iterator[str]:
        r"""Every line without its end (``\n``, ``\r\n`` or ``\r``) and without a byte-order mark. cut: a line of more
        than ``LONGEST_LINE`` characters is given without the rest, one character longer than that; else it raises InputError."""
        with self._opened() as (raw, file), self._reader(file) as reader:
            for place, line in enumerate(_whole_lines(reader)):
                if len(line) > LONGEST_LINE and not cut:
                    self.limits.check_line(len(line), place + 1)
                if place % 256 == 0:
                    self.limits.check_lines(place)
                    if tell is not None:
                        tell(raw.tell() / max(1, self.size))
                line = line.removesuffix("\n")
                yield line.removeprefix("\ufeff") if place == 0 else line

    def whole(self) -> str:
        r"""All of it, with ``\n`` line ends, to be parsed in one piece. Raises InputError."""
        with self._opened() as (_, file), self._reader(file) as reader:
            text = reader.read(self.limits.upload_bytes + 1)
            self.limits.check_whole(len(text))
            return text.removeprefix("\ufeff")

    def blocks(self, tell: Tell | None = None) -> Iterator[bytes]:
        """The unpacked bytes. Raises InputError when a packed file holds too many, or is damaged."""
        held = 0
        with self._opened() as (raw, file):
            while block := file.read(_BLOCK):
                held += len(block)
                if self.packed:
                    self.limits.check_unpacked(held)
                if tell is not None:
                    tell(raw.tell() / max(1, self.size))
                yield block

    def _reader(self, file: IO[bytes]) -> io.TextIOWrapper:
        file.read(self.encoding.mark)
        return io.TextIOWrapper(file, encoding=self.encoding.name, errors="replace", newline=None)

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
            why = f"is no gzip archive, or damaged: {error}. Pack it again, or choose the unpacked file"
            raise InputError(f"{self.name} {why}.") from error
        except OSError as error:
            raise InputError(f"{self.name} cannot be opened: {error.strerror or error}. Check its permissions.") from error


def _whole_lines(reader: io.TextIOWrapper) -> Iterator[str]:
    """Every line, or as much of it as shows that it is too long; never more than that in memory."""
    while line := reader.readline(LONGEST_LINE + 1):
        rest = line
        while rest and not rest.endswith("\n"):
            rest = reader.readline(LONGEST_LINE)
        yield line


def open_text(path: Path, packed: bool, limits: Limits, tell: Tell | None = None) -> Text:
    """Looks through the whole file once, in blocks: size when unpacked, damage, encoding.

    Raises InputError when it is binary, damaged, or unpacks to too much.
    """
    text = Text(path, packed, path.stat().st_size, limits, Encoding("utf-8"))
    return replace(text, encoding=find_encoding(text.blocks(tell), path.name))
