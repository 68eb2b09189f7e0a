"""The bytes of a text file -> its encoding. Tells a binary file from a text one. Reads in blocks, never the whole file."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass

from playground.data.legacy import legacy_encoding
from playground.errors import InputError

MAGIC = (
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
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
KINDS = "Save it as CSV, TSV, JSON or JSONL text, or name it by its real kind (.xlsx, .parquet, .csv.gz)."
_SAMPLE = 64 * 1024  # bytes of lines beyond ASCII that an old encoding is told from


@dataclass(frozen=True)
class Encoding:
    """name: the codec's. mark: bytes of the byte-order mark before the text. blank: the text is only white space."""

    name: str
    mark: int = 0
    blank: bool = False


def find_encoding(blocks: Iterable[bytes], name: str) -> Encoding:
    """How a file's blocks of bytes are to be decoded, with damage replaced by U+FFFD.

    1. a byte-order mark decides; 2. NUL bytes in a pattern are UTF-16 or UTF-32; 3. what reads as UTF-8 is UTF-8; 4. mostly
    UTF-8 with some damage keeps U+FFFD where a character was lost; 5. an old encoding of the language that the bytes show.

    Raises InputError for a binary file.
    """
    found: _Look | None = None
    for block in blocks:
        if found is None:
            for magic, kind in MAGIC:
                if block.startswith(magic):
                    raise InputError(f"{name} is {kind}, not a text file. {KINDS}")
            found = _Look(block)
        found.add(block)
    return found.encoding(name) if found else Encoding("utf-8", blank=True)


class _Look:
    """What is seen of a file, block by block."""

    def __init__(self, first: bytes) -> None:
        marked = next((item for item in MARKS if first.startswith(item[0])), None)
        self.mark, named = (len(marked[0]), marked[1]) if marked else (0, None)
        self.head = first[:4096]
        self.wide = named if named not in (None, "utf-8") else None if named else _wide(self.head)
        self.marked = named is not None
        self.nul, self.blank, self.valid = False, True, True
        self.lost = self.beyond = 0
        self.sample = bytearray()
        self._skip = self.mark
        self._text = codecs.getincrementaldecoder(self.wide or "utf-8")("replace")
        self._strict = codecs.getincrementaldecoder("utf-8")("strict")
        self._pending = False

    def add(self, block: bytes) -> None:
        block, self._skip = block[self._skip :], 0
        if self.wide or self._pending or not block.isascii():
            text = self._text.decode(block)
            if not self.wide:
                self._pending = bool(self._text.getstate()[0])
                self._judge(block, text)
            self.nul = self.nul or "\0" in text
            self.blank = self.blank and not text.strip().strip("\ufeff")
        else:
            self.nul = self.nul or b"\0" in block
            self.blank = self.blank and not block.decode("ascii").strip()

    def _judge(self, block: bytes, text: str) -> None:
        if self.valid:
            try:
                self._strict.decode(block)
            except UnicodeDecodeError:
                self.valid = False
        self.lost += text.count("\ufffd")
        self.beyond += len(text) - len(text.encode("ascii", errors="ignore"))
        if len(self.sample) < _SAMPLE:
            for line in block.split(b"\n")[1:-1] if len(block) > _SAMPLE else block.split(b"\n"):
                if not line.isascii() and len(self.sample) < _SAMPLE:
                    self.sample += line + b"\n"

    def encoding(self, name: str) -> Encoding:
        if self.nul:
            raise InputError(f"{name} holds NUL bytes: it is a binary file, not text. {KINDS}")
        if self.wide:  # 1, 2
            return Encoding(self.wide, self.mark, self.blank)
        if (self.valid and not self._pending) or self.marked:  # 1, 3
            return Encoding("utf-8", self.mark, self.blank)
        lost = self.lost + self._pending
        if self.beyond - self.lost > lost:  # 4
            return Encoding("utf-8", self.mark, self.blank)
        return Encoding(legacy_encoding(bytes(self.sample)), self.mark, False)  # 5


def _wide(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: in Western text all bytes but one of each character are nearly always NUL."""
    if b"\0" not in sample:
        return None
    if len(sample) >= 8:
        quarter = len(sample) // 4
        four = [sample[place::4].count(0) / quarter for place in range(4)]
        if four[0] < 0.1 and min(four[1:]) > 0.9:
            return "utf-32-le"
        if four[3] < 0.1 and min(four[:3]) > 0.9:
            return "utf-32-be"
    half = max(1, len(sample) // 2)
    first, second = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if second > 0.4 and first < 0.05:
        return "utf-16-le"
    if first > 0.4 and second < 0.05:
        return "utf-16-be"
    return None
