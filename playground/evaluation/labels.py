"""Answers that are labels: whether they are, which one a reply gives, and accuracy and macro F1."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from playground.evaluation.measured import Tally
from playground.evaluation.text import collapsed

FEWEST_ROWS, MOST_LABELS, MOST_WORDS, MOST_CHARACTERS = 6, 200, 8, 60
_OUTER = " \t\n\"'`*.,:;!?()[]{}<>“”‘’„«»"


def key_of(text: str) -> str:
    """What two spellings of one label share: no case, no outer punctuation, one space for ``_``, ``-`` and white space."""
    return collapsed(re.sub(r"[_\-\s]+", " ", text).strip(_OUTER)).casefold()


def labels_of(references: Sequence[str]) -> list[str] | None:
    """The labels, sorted, where the references are labels; else None.

    1. There are at least 6 references. 2. Each is one line of at most 8 words and 60 characters, and holds a letter or digit.
    3. There are 2 to 200 different ones, and at most half as many as references. Case, outer punctuation, and whether words are joined by
    a space, ``_`` or ``-`` make no difference; the commonest spelling stands for all.
    """
    texts = [text.strip() for text in references]
    if len(texts) < FEWEST_ROWS:  # 1
        return None
    for text in texts:  # 2
        if "\n" in text or len(text) > MOST_CHARACTERS or len(key_of(text).split()) > MOST_WORDS or not key_of(text):
            return None
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        spelled[key_of(text)][collapsed(text)] += 1
    if not 2 <= len(spelled) <= min(MOST_LABELS, len(texts) // 2):  # 3
        return None
    return sorted(spellings.most_common(1)[0][0] for spellings in spelled.values())


def label_in(reply: str, labels: Sequence[str]) -> str | None:
    """The label that a reply gives, or None.

    Case, outer punctuation and ``_`` or ``-`` for a space make no difference. 1. The reply is a label. 2. Its first line is one, or
    becomes one without a heading such as ``Category:``. 3. One label stands in the reply as whole words and no other does; a label that
    only occurs inside a longer one does not count. Several, or none: None.
    """
    known = {key_of(label): label for label in reversed(labels)}
    if (whole := key_of(reply)) in known:  # 1
        return known[whole]
    first = next(iter(reply.strip().splitlines()), "")
    for line in (first, first.partition(":")[2]):  # 2
        if key_of(line) in known:
            return known[key_of(line)]
    found: list[str] = []  # 3
    rest = whole
    for key in sorted(known, key=len, reverse=True):
        rest, times = re.subn(rf"(?<!\w){re.escape(key)}(?!\w)", " | ", rest)
        found += [known[key]] * bool(times)
    return found[0] if len(found) == 1 else None


def accuracy(replies: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> list[float]:
    """1 where the reply gives the reference's label. A reply without a label, or with several, is wrong."""
    return [float(given is not None and given == right) for given, right in _given(replies, references, labels)]


def macro_f1(replies: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Tally:
    """The tally of macro F1: the mean, over the labels that the references hold, of each label's F1. Where examples are drawn again, it
    is the mean over the labels that were drawn. References outside ``labels`` count as one more label, which no reply can give."""
    given = _given(replies, references, labels)
    place = {label: at for at, label in enumerate(labels)}
    rows = np.zeros((len(given), 3, len(labels) + 1))  # right, given, wanted
    for row, (said, right) in enumerate(given):
        rows[row, 2, place.get(right, -1)] = 1
        if said is not None:
            rows[row, 1, place[said]] = 1
            rows[row, 0, place[said]] = said == right
    return Tally(rows.reshape(len(given), -1), macro_f1_of)


def macro_f1_of(sums: np.ndarray) -> np.ndarray:
    """[..., (right, given, wanted) x labels] -> macro F1."""
    right, given, wanted = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = 2 * right / np.maximum(given + wanted, 1)
    there = wanted > 0
    return np.where(there, f1, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)


def _given(replies: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> list[tuple[str | None, str]]:
    """For each example the label that was given and the one that is right. A reference outside the labels is a label of its own."""
    return [
        (label_in(reply, labels), label_in(reference, labels) or collapsed(reference))
        for reply, reference in zip(replies, references, strict=True)
    ]
