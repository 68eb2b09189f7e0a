"""Text as the metrics read it: white space, words, and words without what does not carry meaning."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from string import punctuation

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that are written without spaces: each sign counts as a word."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
_SIGN = re.compile(f"([{_ALONE}])")
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def collapsed(text: str) -> str:
    """Stripped, with every run of white space as one space. Case stays."""
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case, in order. On plain English this is what ROUGE's own tokenizer gives; letters of other
    languages count too."""
    return _WORD.findall(text.lower())


def squad_words(text: str) -> list[str]:
    """As SQuAD's evaluation takes an answer apart: lower case, no punctuation, no articles, split at white space."""
    bare = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return _SIGN.sub(r" \1 ", _ARTICLE.sub(" ", bare)).split()


@lru_cache(maxsize=4096)
def _is_punctuation(letter: str) -> bool:
    return letter in punctuation or unicodedata.category(letter).startswith("P")
