"""Rows, figures and tables for the tests of the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from playground.evaluation.comparison import Table, compare_sides
from playground.evaluation.statistics import Measured, averaged
from playground.evaluation.verdict import Answered


def rows(
    replies: Sequence[str], references: Sequence[str], side: str = "base", **more: Sequence[object]
) -> list[Answered]:
    """One row an example; ``more``: field -> its values."""
    return [
        Answered(
            example=at,
            side=side,
            question="Why?",
            prompt="Why?",
            reply=reply,
            reference=reference,
            prompt_tokens=10,
            completion_tokens=5,
            seconds=0.5,
            stamp=None,
            **{name: values[at] for name, values in more.items()},
        )
        for at, (reply, reference) in enumerate(zip(replies, references, strict=True))
    ]


def passes(yes: int, n: int, start: int = 0) -> list[float]:
    """``yes`` ones in a row from ``start`` on, in n values."""
    return [float(start <= at < start + yes) for at in range(n)]


def table(
    sides: Mapping[str, Mapping[str, Sequence[float]]], mean: Sequence[str] = ("seconds", "rouge_l", "loss")
) -> Table:
    """side -> metric -> its values; yes/no but for the names in ``mean``."""
    measured: dict[str, dict[str, Measured]] = {}
    for side, metrics in sides.items():
        measured[side] = {
            name: averaged(name, values, name, yes_no=name not in mean, higher=name not in ("seconds", "loss"))
            for name, values in metrics.items()
        }
    return compare_sides(measured)
