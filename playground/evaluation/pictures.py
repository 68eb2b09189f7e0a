"""The pictures of a report as inline SVG: interval as line and dot, curves, a radar. Colours come from the page, shapes tell as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from playground.evaluation.shown import esc

_W, _H = 400, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 12, 30
_R, _MIDDLE = 120, 150
_PLACE = 18
"""How far outside the radar its axes' numbers stand."""


@dataclass(frozen=True)
class Curve:
    """One line. colour: of its side. points: (x, y), by x. marks: points to be marked by a ring."""

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[tuple[float, float]] = ()


def line_and_dot(
    value: float | None, low: float | None, high: float | None, scale: tuple[float, float], colour: str, label: str
) -> str:
    """A figure as a dot and its interval as a line with two ends, over an axis. As wide as its place. label: for who cannot see it."""
    if value is None or low is None or high is None:
        return ""
    bottom, top = scale

    def at(x: float) -> str:
        return f"{100 * min(1.0, max(0.0, (x - bottom) / (top - bottom or 1))):.2f}%"

    ends = "".join(f'<line class="end" x1="{at(x)}" x2="{at(x)}" y1="5" y2="15"/>' for x in (low, high))
    return (
        f'<svg class="v-range {esc(colour)}" width="100%" height="20" role="img" aria-label="{esc(label)}">'
        f'<line class="axis" x1="0" x2="100%" y1="10" y2="10"/><line class="span" x1="{at(low)}" x2="{at(high)}" y1="10" y2="10"/>'
        f'{ends}<circle cx="{at(value)}" cy="10" r="5"/></svg>'
    )


def curves(drawn: Sequence[Curve], x_words: str, show: Callable[[float], str], caption: str) -> str:
    """Lines from 0 on both axes; x_words: unit of the x axis; show: a y value in words. Empty where there is nothing to draw."""
    points = [point for curve in drawn for point in curve.points]
    if len(points) < 2:
        return ""
    right = max(x for x, _ in points) or 1.0
    top = 1.05 * max(y for _, y in points) or 1.0

    def x(value: float) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * value / right

    def y(value: float) -> float:
        return _TOP + (_H - _TOP - _BOTTOM) * (1 - value / top)

    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{esc(show(v))}</text>'
        for v in (0.0, top / 2.1, top / 1.05)
    )
    for v, anchor in ((0.0, "start"), (right / 2, "middle"), (right, "end")):
        unit = f" {x_words}" if v == right else ""
        grid += f'<text x="{x(v):.1f}" y="{_H - 8}" text-anchor="{anchor}">{v:,.0f}{esc(unit)}</text>'
    lines = ""
    for place, curve in enumerate(drawn):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in curve.points)
        rings = "".join(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="5"/>' for a, b in curve.marks if a <= right)
        lines += f'<g class="{esc(curve.colour)} d{place % 4}"><polyline points="{path}"/>{rings}</g>'
    said = " ".join(
        f"{curve.label}: {show(curve.points[0][1])} to {show(curve.points[-1][1])}." for curve in drawn if curve.points
    )
    return (
        f'<figure class="v-chart"><svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{esc(said)}"><g class="grid">{grid}</g>{lines}</svg>'
        f"<figcaption>{legend([(curve.label, curve.colour) for curve in drawn])}<span>{esc(caption)}</span></figcaption></figure>"
    )


def radar(axes: Sequence[str], sides: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """Sides as polygons over at least three axes from 0 (middle) to 1 (rim). sides: (label, colour, a value an axis). The axes bear
    numbers; their names stand in a list beside it. Empty with fewer axes."""
    if len(axes) < 3:
        return ""

    def at(place: int, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * place / len(axes) - math.pi / 2
        return _MIDDLE + share * _R * math.cos(angle), _MIDDLE + share * _R * math.sin(angle)

    def ring(values: Sequence[float]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(place, value) for place, value in enumerate(values)))

    grid = "".join(f'<polygon points="{ring([share] * len(axes))}"/>' for share in (0.25, 0.5, 0.75, 1.0))
    for place in range(len(axes)):
        (x, y), (tx, ty) = at(place, 1.0), at(place, 1 + _PLACE / _R)
        grid += f'<line x1="{_MIDDLE}" y1="{_MIDDLE}" x2="{x:.1f}" y2="{y:.1f}"/>'
        grid += f'<text x="{tx:.1f}" y="{ty + 4:.1f}" text-anchor="middle">{place + 1}</text>'
    shapes = ""
    for number, (_, colour, values) in enumerate(sides):
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in (at(n, v) for n, v in enumerate(values)))
        shapes += f'<g class="{esc(colour)} d{number % 4}"><polygon points="{ring(values)}"/>{dots}</g>'
    said = ". ".join(
        f"{label}: " + ", ".join(f"{a} {v:.2f}" for a, v in zip(axes, values, strict=True)) for label, _, values in sides
    )
    names = "".join(f"<li>{esc(axis)}</li>" for axis in axes)
    return (
        f'<figure class="v-radar"><svg viewBox="0 0 {2 * _MIDDLE} {2 * _MIDDLE}" role="img" aria-label="{esc(said)}"><g class="grid">{grid}</g>'
        f"{shapes}</svg><figcaption><ol>{names}</ol>{legend([(label, colour) for label, colour, _ in sides])}</figcaption></figure>"
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Which line is whose: colour and dashes."""
    items = "".join(
        f'<span class="{esc(colour)} d{place % 4}"><svg width="26" height="8" aria-hidden="true"><polyline points="0,4 26,4"/></svg>{esc(label)}</span>'
        for place, (label, colour) in enumerate(entries)
    )
    return f'<span class="v-legend">{items}</span>'
