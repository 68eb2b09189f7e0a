"""What a cell says of an answer: good or bad, or which of two is the better."""

from __future__ import annotations

import re


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TRUE = _words("""
    true yes 1 1.0 good y t up 👍 thumbs_up thumbsup like liked positive desirable chosen accept accepted correct +1
""")
_FALSE = _words("""
    false no 0 0.0 bad n f down 👎 thumbs_down thumbsdown dislike disliked negative undesirable rejected reject incorrect -1
""")
_FIRST = _words("a j first left chosen")
_SECOND = _words("b k second right rejected")
_STEM = re.compile(r"^(model|response|answer|completion|output|option|assistant|reply|conversation|text|candidate|choice)[\s_-]*")


def truth(value: object) -> bool | None:
    """A label as true or false; None when it is neither."""
    word = str(value).strip().casefold()
    return True if word in _TRUE else False if word in _FALSE else None


def first_won(value: object, lowest: int) -> bool | None:
    """Whether a cell names the first of two answers as the better: ``a``, ``model_b``, ``response 1``; None when neither.

    lowest: the number that stands for the first answer, 0 or 1; below 0: a negative number does, a positive is the second.
    """
    word = _STEM.sub("", str(value).strip().casefold()).removesuffix(".0")
    if lowest < 0 and re.fullmatch(r"-?\d+", word):
        return None if int(word) == 0 else int(word) < 0
    if word in _FIRST or word == str(lowest):
        return True
    return False if word in _SECOND or word == str(lowest + 1) else None
