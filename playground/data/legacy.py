"""Which of the old encodings a text is in: Japanese, Chinese, Korean, Cyrillic, else Western. Decided from its bytes alone.

Each of the multi-byte ones leaves a trace that Western text does not: bytes beyond ASCII come in runs of even length, and
most of them stand for the commonest characters of the language. What shows no such trace is Windows' Latin-1.
"""

from __future__ import annotations

import re

_SURE = 0.9
_FEWEST = 8  # bytes beyond ASCII; fewer tell nothing


def legacy_encoding(sample: bytes) -> str:
    """The codec's name. sample: whole lines that hold bytes beyond ASCII; some tens of KB are enough.

    1. Japanese by its kana; 2. runs of even length: Chinese, or Korean, whose lead bytes end at C8; 3. long runs of letters:
    Cyrillic; 4. Western, by whether Windows' own characters are all defined.
    """
    beyond = [byte for byte in sample if byte >= 0x80]
    if len(beyond) >= _FEWEST:
        for japanese in ("cp932", "euc_jp"):  # 1
            if _kana(sample, japanese) >= 0.3:
                return japanese
        runs = [match.group() for match in re.finditer(rb"[\x80-\xff]+", sample)]
        pairs = [run for run in runs if len(run) % 2 == 0 and min(run) >= 0xA1]
        if sum(map(len, pairs)) >= _SURE * len(beyond):  # 2
            leads = [byte for run in pairs for byte in run[::2]]
            letters = [byte for byte in leads if byte >= 0xB0]
            if letters and sum(byte <= 0xC8 for byte in letters) >= 0.97 * len(letters) and _reads(sample, "cp949"):
                return "cp949"
            if letters and sum(byte <= 0xD7 for byte in letters) >= 0.8 * len(letters) and _reads(sample, "gb18030"):
                return "gb18030"
        if sum(len(run) for run in runs if len(run) >= 3) >= 0.7 * len(beyond):  # 3
            high, low = sum(byte >= 0xE0 for byte in beyond), sum(0xC0 <= byte < 0xE0 for byte in beyond)
            if high + low >= 0.8 * len(beyond):
                return "cp1251" if high >= low else "koi8_r"
    return "cp1252" if _reads(sample, "cp1252") else "latin-1"  # 4


def _kana(sample: bytes, encoding: str) -> float:
    """The share of kana among the characters beyond ASCII; 0 where it does not read."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    beyond = [char for char in text if char > "\x7f"]
    return sum("\u3041" <= char <= "\u30ff" for char in beyond) / max(1, len(beyond))


def _reads(sample: bytes, encoding: str) -> bool:
    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
