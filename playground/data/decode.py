"""Bytes of a text file -> text. Tells a binary file from a text one, and finds the encoding."""

from __future__ import annotations

import codecs

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
KINDS = "Save it as CSV, TSV, JSON or JSONL text, or name it by its real kind (.xlsx, .parquet)."


def decode(data: bytes, name: str) -> str:
    """The text of a file, with ``\\n`` line ends and no byte-order mark.

    1. a byte-order mark decides; 2. NUL bytes in a pattern are UTF-16; 3. what reads as UTF-8 is UTF-8; 4. mostly UTF-8 with
    some damage keeps U+FFFD where a character was lost; 5. the rest is Windows' Latin-1.

    Raises InputError for a binary file.
    """
    for magic, kind in MAGIC:
        if data.startswith(magic):
            raise InputError(f"{name} is {kind}, not a text file. {KINDS}")
    return _text(data, name).replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def _text(data: bytes, name: str) -> str:
    for mark, encoding in MARKS:  # 1
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, errors="replace")
            if "\0" in text:
                break
            return text
    if b"\0" in data:  # 2
        wide = _wide(data)
        if wide is None:
            raise InputError(f"{name} holds NUL bytes: it is a binary file, not text. {KINDS}")
        return data.decode(wide, errors="replace")
    try:
        return data.decode("utf-8")  # 3
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
    lost = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", errors="ignore"))
    if beyond_ascii - lost > lost:  # 4
        return text
    try:  # 5
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: in Western text one byte of each pair is nearly always NUL."""
    sample = data[:4096]
    half = max(1, len(sample) // 2)
    first, second = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if second > 0.4 and first < 0.05:
        return "utf-16-le"
    if first > 0.4 and second < 0.05:
        return "utf-16-be"
    return None
