"""Quick look, Good, Thorough: how much time to give a run. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

QUICK_STEPS = 20
QUICK_S = 180.0
"""A Quick look takes no longer, by its estimate, and has fewer steps where it would."""
FEWEST_STEPS = 4
"""Of a Quick look: below that nothing is seen."""


@dataclass(frozen=True)
class Preset:
    """How much time to give a run. steps: optimiser steps."""

    name: str
    label: str
    steps: int


def presets_for(rows: int, batch_size: int = 8) -> list[Preset]:
    """Quick look, Good and Thorough: a fixed look, then about one and a half and four times through the data, within reason."""
    good = min(max(2 * QUICK_STEPS, math.ceil(1.5 * rows / batch_size)), 150)
    thorough = min(max(2 * good, math.ceil(4 * rows / batch_size)), 500)
    return [
        Preset("quick", "Quick look", QUICK_STEPS),
        Preset("good", "Good", good),
        Preset("thorough", "Thorough", thorough),
    ]


def within_reach(presets: Sequence[Preset], seconds: Callable[[int], float]) -> list[Preset]:
    """The presets for a file that is known. seconds: what a run of so many steps takes by its estimate, so much a step and what stands
    before the first."""
    quick, *others = presets
    if (whole := seconds(quick.steps)) > QUICK_S:
        one = seconds(1)
        a_step = (whole - one) / (quick.steps - 1)
        steps = int((QUICK_S - (one - a_step)) / a_step)
        quick = replace(quick, steps=min(max(FEWEST_STEPS, steps), quick.steps))
    return [quick, *others]
