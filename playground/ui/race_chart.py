"""A race as one picture: held-out loss against trained weights, or the losses of all methods laid over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from playground.services.race_store import Entry
from playground.services.race_table import eval_loss, label
from playground.ui import chart, html

_W, _H = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 92, 14, 40
_LINE = 12
"""Least distance of two labels that stand beside each other."""
_WIDE, _NEAR = 84, 40
"""Room that a label takes; how near another dot is one that a label goes around."""


@dataclass(frozen=True)
class Dot:
    """x: trained weights. y: held-out loss."""

    label: str
    x: float
    y: float


def picture(entries: Sequence[Entry], base: Entry, curves: bool) -> str:
    """Either picture as HTML; "" while there is nothing to see. curves: the losses."""
    return losses(entries) if curves else scatter(entries, base)


def losses(entries: Sequence[Entry]) -> str:
    """Training loss over steps, one line a method."""
    drawn = [(entry, [(int(step), value) for step, value in entry.loss]) for entry in entries if len(entry.loss) > 1]
    lines = [
        chart.Line(label(entry.method), points, f"c{place % chart.COLOURS}{' again' if place >= chart.COLOURS else ''}")
        for place, (entry, points) in enumerate(drawn)
    ]
    return chart.lines(lines, 0, "Training loss; lower is closer to your answers.", height=240) if lines else ""


def scatter(entries: Sequence[Entry], base: Entry) -> str:
    """Held-out loss against trained weights, on a log axis; the untrained base as a line. Replies that keep the format stand in the
    table alone: there methods soon share one figure."""
    found = [
        Dot(label(entry.method), float(entry.figures["trainable_params"]), value)
        for entry in entries
        if entry.figures.get("trainable_params") and (value := eval_loss(entry)) is not None
    ]
    return _figure(found, eval_loss(base)) if found else ""


def _figure(dots: Sequence[Dot], base: float | None) -> str:
    low, high = math.floor(math.log10(min(dot.x for dot in dots))), math.ceil(math.log10(max(dot.x for dot in dots)))
    high = max(high, low + 1)
    top = 1.08 * max([*(dot.y for dot in dots), base or 0.0]) or 1.0

    def x(value: float) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * (math.log10(value) - low) / (high - low)

    def y(value: float) -> float:
        return _TOP + (_H - _TOP - _BOTTOM) * (1 - value / top)

    grid = "".join(
        f'<line x1="{x(10**p):.1f}" x2="{x(10**p):.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>'
        f'<text x="{x(10**p):.1f}" y="{_H - _BOTTOM + 15}" text-anchor="middle">{_power(p)}</text>'
        for p in range(low, high + 1)
    )
    grid += "".join(
        f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.2f}</text>'
        for v in (top * part / 4 for part in range(5))
    )
    grid += f'<text x="{(_LEFT + _W - _RIGHT) / 2:.0f}" y="{_H - 6}" text-anchor="middle">trained weights, log scale</text>'
    below = ""
    if base is not None:
        below = (
            f'<line class="limit" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(base):.1f}" y2="{y(base):.1f}"/>'
            f'<text x="{_W - _RIGHT + 4}" y="{y(base) + 4:.1f}">base</text>'
        )
    placed = _spread([(dot, x(dot.x), y(dot.y)) for dot in dots])
    marks = "".join(
        f'<line x1="{x(dot.x):.1f}" y1="{y(dot.y):.1f}" x2="{left - 3:.1f}" y2="{at:.1f}"/>'
        f'<text class="name" x="{left:.1f}" y="{at + 4:.1f}">{html.esc(dot.label)}</text>'
        for dot, left, at in placed
    )
    marks += "".join(f'<circle class="train" cx="{x(dot.x):.1f}" cy="{y(dot.y):.1f}" r="4.5"/>' for dot in dots)
    said = "; ".join(f"{dot.label} {dot.y:.3f}" for dot in dots)
    what = "Held-out loss, lower is better"
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{html.esc(f"{what}. {said}.")}">'
        f'<g class="grid">{grid}</g>{below}{marks}</svg><figcaption>{what}, against trained weights.</figcaption></figure>'
    )


def _spread(dots: Sequence[tuple[Dot, float, float]]) -> list[tuple[Dot, float, float]]:
    """Where each label begins: right of its dot and of others beside it, and lower (at the picture's end higher) where another label stands
    there already."""
    taken: list[tuple[float, float]] = []
    found = []
    for dot, x, y in sorted(dots, key=lambda one: (one[2], one[1])):
        left = max(other for _, other, height in dots if abs(height - y) < _NEAR and x <= other < x + _NEAR) + 12
        below = sorted(
            {y, *(b + _LINE for _, b in taken if b + _LINE >= y)}
        )  # from the top down, so that labels keep the dots' order
        options = [*below, *(y - turn * _LINE for turn in range(len(dots) + 1))]
        free = (
            at
            for at in options
            if _TOP - 4 <= at <= _H - _BOTTOM + 4
            and not any(abs(at - b) < _LINE - 0.01 and abs(left - a) < _WIDE for a, b in taken)
        )
        at = next(free, y)
        taken.append((left, at))
        found.append((dot, left, at))
    return found


def _power(power: int) -> str:
    value = 10.0**power
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.0f} {name}"
    return f"{value:.0f}"
