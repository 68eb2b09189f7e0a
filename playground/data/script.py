"""Which script most letters of a text are in; enough to notice an answer in another language than the rest."""

from __future__ import annotations

import re

_SCRIPTS = {
    "Latin": r"A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ",
    "Cyrillic": r"Ѐ-ԯ",
    "Greek": r"Ͱ-Ͽἀ-῿",
    "Arabic": r"؀-ۿݐ-ݿ",
    "Hebrew": r"֐-׿",
    "Devanagari": r"ऀ-ॿ",
    "Thai": r"฀-๿",
    "Chinese or Japanese": r"぀-ヿ㐀-䶿一-鿿",
    "Korean": r"가-힣ᄀ-ᇿ",
}
_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}
_NOT_LATIN = re.compile("[^\x00-\u024f\u1e00-\u1eff\u2000-\u20cf\u2100-\u214f]")
"""Anything but Latin letters, digits, signs of money and punctuation."""
_LOOKED_AT = 1_000  # characters
_FEWEST = 4  # letters that tell something


def script(text: str) -> str:
    """The script's name, or ``""`` where there are few letters, or none of these makes up more than half."""
    text = text[:_LOOKED_AT]
    letters = sum(map(str.isalpha, text))
    if letters < _FEWEST:
        return ""
    if text.isascii() or not _NOT_LATIN.search(text):
        return "Latin"
    counts = {name: len(pattern.findall(text)) for name, pattern in _LETTERS.items()}
    most = max(counts, key=lambda name: counts[name])
    return most if counts[most] * 2 > letters else ""
