"""Sampled repeats of one request: do they agree, and does the worst of them pass?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from playground.evaluation.checks import Check
from playground.evaluation.labels import label_in
from playground.evaluation.text import collapsed


def consistency(repeats: Sequence[str], labels: Sequence[str] | None = None) -> float | None:
    """The share of pairs of repeats that agree, 0 to 1; None below two repeats. Two agree where they are the same but for white space,
    or, where there are labels, give the same label."""
    if len(repeats) < 2:
        return None
    said = Counter((labels and label_in(repeat, labels)) or collapsed(repeat) for repeat in repeats)
    agreeing = sum(times * (times - 1) for times in said.values())
    return agreeing / (len(repeats) * (len(repeats) - 1))


def worst(check: Check, repeats: Sequence[str]) -> float | None:
    """1 where the check holds for every repeat, 0 where it fails once; None without repeats."""
    return float(all(check.passes(repeat) for repeat in repeats)) if repeats else None
