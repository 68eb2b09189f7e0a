"""How much of a reply stands in the passages that were there to read."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
SHORTEST = 4
"""A word with fewer letters counts only where it is written with a capital inside a sentence, as a name is."""
_COMMON_WORDS = """
    about above after again against also although always another because been before being below between both cannot could
    does doing down during each every from further have having here hers herself himself into itself just like many more most
    much must only other ours ourselves over please same shall should since some such than that their theirs them themselves
    then there therefore these they this those through thus under until upon very well were what when where whether which
    while whom whose will with within without would your yours yourself
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def groundedness(reply: str, passages: Sequence[str]) -> float | None:
    """The share of a reply's different numbers, names and content words that stand in its passages, 0 to 1; None where it has none.

    A number is read as it is written (12.5, 110/70). A name is a word with a capital that does not begin a sentence. A content word has
    at least four letters and is not one of a short list of English function words. Case and a plural's s make no difference. It
    tells that words were taken from the passages, not that what is said with them is true.
    """
    items = _items(reply)
    if not items:
        return None
    text = " ".join(passages)
    there = set(_NUMBER.findall(text)) | {_bare(word) for word in _WORD.findall(text)}
    return len(items & there) / len(items)


def _items(reply: str) -> set[str]:
    found = set(_NUMBER.findall(reply))
    for match in _WORD.finditer(reply):
        word = match.group()
        before = reply[: match.start()].rstrip(" \t\"'(“")
        begins = not before or before[-1] in ".!?:\n"
        if (word[0].isupper() and not begins) or (len(word) >= SHORTEST and word.casefold() not in _COMMON):
            found.add(_bare(word))
    return found


def _bare(word: str) -> str:
    plain = re.split("['’]", word.casefold())[0]
    return plain[:-1] if len(plain) > SHORTEST and plain.endswith("s") and not plain.endswith("ss") else plain
