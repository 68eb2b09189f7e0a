"""Every picture as inline SVG: intervals, curves, a radar, losses, lengths, a race. Colours come from the page's style
sheets, shapes and dashes say the same; what each picture says in words is its ``aria-label``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLOURS = 6
Points = Sequence[tuple[float, float]]
_R, _MIDDLE, _RIM = 120, 150, 138
"""The radar: radius, centre, and where the numbers of its axes stand, in pixels."""
_LABEL_HEIGHT = 12
"""Least distance in pixels of two labels that stand beside each other."""
_LABEL_WIDTH, _NEAR = 84, 40
"""Room in pixels that a label takes; how near another dot is one that a label goes around."""


def tag(name: str, *children: str | int, **attributes: object) -> Markup:
    """One element. What goes in is escaped unless it is an element itself; ``class_`` is class, ``text_anchor``
    text-anchor; None is left out, and a float has one digit."""
    said = Markup().join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else value
        )
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup("<{}{}/>").format(name, said)
    return Markup("<{0}{1}>{2}</{0}>").format(name, said, Markup().join(map(Markup.escape, children)))


@dataclass(frozen=True)
class Line:
    """One line of a picture. points: (x, y), by x. name: the class that gives its colour. marks: points with a ring."""

    label: str
    points: Points
    name: str
    marks: Points = ()


@dataclass(frozen=True)
class Dot:
    """x: trained weights. y: held-out loss."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class _Axes:
    """A plot area. margins: left, right, top, bottom, in pixels. The x axis runs from ``x_low`` to ``x_high``, the y
    axis from 0 to ``y_high``."""

    width: int
    height: int
    margins: tuple[int, int, int, int]
    x_high: float
    y_high: float
    x_low: float = 0.0

    def x(self, value: float) -> float:
        left, right, _, _ = self.margins
        return left + (self.width - left - right) * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        _, _, top, bottom = self.margins
        return top + (self.height - top - bottom) * (1 - value / self.y_high)

    def across(self, value: float, class_: str | None = None) -> Markup:
        left, right, _, _ = self.margins
        return tag("line", class_=class_, x1=left, x2=self.width - right, y1=self.y(value), y2=self.y(value))

    def up(self, value: float, class_: str | None = None) -> Markup:
        _, _, top, bottom = self.margins
        return tag("line", class_=class_, x1=self.x(value), x2=self.x(value), y1=top, y2=self.height - bottom)

    def y_ticks(self, ticks: Iterable[tuple[float, str]]) -> Markup:
        left = self.margins[0] - 6
        return Markup().join(
            self.across(value) + tag("text", words, x=left, y=self.y(value) + 4, text_anchor="end")
            for value, words in ticks
        )

    def x_tick(self, value: float, words: str, anchor: str, above_end: int) -> Markup:
        return tag("text", words, x=self.x(value), y=self.height - above_end, text_anchor=anchor)

    def path(self, points: Points) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def dot(self, point: tuple[float, float], r: float | int, class_: str | None = None) -> Markup:
        return tag("circle", class_=class_, cx=self.x(point[0]), cy=self.y(point[1]), r=r)

    def figure(self, said: str, grid: Markup, *marks: Markup, caption: str, class_: str = "chart") -> Markup:
        drawn = tag("g", grid, class_="grid")
        svg = tag("svg", drawn, *marks, viewBox=f"0 0 {self.width} {self.height}", role="img", aria_label=said)
        return tag("figure", svg, tag("figcaption", caption), class_=class_)


def line_and_dot(
    value: float | None,
    low: float | None,
    high: float | None,
    scale: tuple[float, float],
    colour: str,
    label: str,
    band: tuple[float, float] | None = None,
) -> Markup:
    """A figure as a dot and its interval as a line with two ends, over an axis; as wide as its place. label: what it
    says in words. band: (bar - margin, bar), drawn behind it."""
    if value is None or low is None or high is None:
        return Markup()
    bottom, top = scale
    shares = [min(1.0, max(0.0, (x - bottom) / (top - bottom or 1))) for x in (value, low, high, *(band or ()))]
    middle, left, right, *ends = (f"{100 * share:.2f}%" for share in shares)
    behind = []
    if band is not None:
        wide = f"{100 * (shares[4] - shares[3]):.2f}%"
        behind.append(tag("rect", class_="margin", x=ends[0], width=wide, y=0, height=20))
        behind.append(tag("line", class_="bar", x1=ends[1], x2=ends[1], y1=0, y2=20))
    marks = [
        *behind,
        tag("line", class_="axis", x1="0", x2="100%", y1=10, y2=10),
        tag("line", class_="span", x1=left, x2=right, y1=10, y2=10),
        *(tag("line", class_="end", x1=x, x2=x, y1=5, y2=15) for x in (left, right)),
        tag("circle", cx=middle, cy=10, r=5),
    ]
    return tag("svg", *marks, class_=f"v-range {colour}", width="100%", height=20, role="img", aria_label=label)


def curves(drawn: Sequence[Line], x_words: str, show: Callable[[float], str], caption: str) -> Markup:
    """Lines from 0 on both axes; x_words: unit of the x axis; show: a y value in words. Empty where there is nothing to
    draw."""
    points = [point for line in drawn for point in line.points]
    if len(points) < 2:
        return Markup()
    right = max(x for x, _ in points) or 1.0
    axes = _Axes(400, 230, (50, 14, 12, 30), right, 1.05 * max(y for _, y in points) or 1.0)
    grid = axes.y_ticks((value, show(value)) for value in (0.0, axes.y_high / 2.1, axes.y_high / 1.05))
    grid += axes.x_tick(0, "0", "start", 8) + axes.x_tick(right / 2, f"{right / 2:,.0f}", "middle", 8)
    grid += axes.x_tick(right, f"{right:,.0f} {x_words}", "end", 8)
    shapes = []
    for place, line in enumerate(drawn):
        rings = (axes.dot(mark, 5) for mark in line.marks if mark[0] <= right)
        shapes.append(
            tag("g", tag("polyline", points=axes.path(line.points)), *rings, class_=f"{line.name} d{place % 4}")
        )
    said = (f"{line.label}: {show(line.points[0][1])} to {show(line.points[-1][1])}." for line in drawn if line.points)
    under = legend([(line.label, line.name) for line in drawn]) + tag("span", caption)
    return axes.figure(" ".join(said), grid, *shapes, caption=under, class_="v-chart")


def radar(axes: Sequence[str], sides: Sequence[tuple[str, str, Sequence[float]]]) -> Markup:
    """Sides as polygons over at least three axes from 0 (middle) to 1 (rim). sides: (label, colour, a value an axis).
    The axes bear numbers; their names stand in a list beside it. Empty with fewer axes."""
    if len(axes) < 3:
        return Markup()

    def at(place: int, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * place / len(axes) - math.pi / 2
        return _MIDDLE + share * _R * math.cos(angle), _MIDDLE + share * _R * math.sin(angle)

    def ring(values: Sequence[float]) -> Markup:
        points = (at(place, value) for place, value in enumerate(values))
        return tag("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))

    grid = [ring([share] * len(axes)) for share in (0.25, 0.5, 0.75, 1.0)]
    for place in range(len(axes)):
        (x, y), (tx, ty) = at(place, 1.0), at(place, _RIM / _R)
        grid.append(tag("line", x1=_MIDDLE, y1=_MIDDLE, x2=x, y2=y))
        grid.append(tag("text", place + 1, x=tx, y=ty + 4, text_anchor="middle"))
    shapes, said = [], []
    for number, (label, colour, values) in enumerate(sides):
        dots = [tag("circle", cx=x, cy=y, r=3) for x, y in (at(place, value) for place, value in enumerate(values))]
        shapes.append(tag("g", ring(values), *dots, class_=f"{colour} d{number % 4}"))
        figures = (f"{axis} {value:.2f}" for axis, value in zip(axes, values, strict=True))
        said.append(f"{label}: {', '.join(figures)}")
    box, grid_group = f"0 0 {2 * _MIDDLE} {2 * _MIDDLE}", tag("g", *grid, class_="grid")
    svg = tag("svg", grid_group, *shapes, viewBox=box, role="img", aria_label=". ".join(said))
    names = tag("ol", *(tag("li", axis) for axis in axes))
    caption = tag("figcaption", names, legend([(label, colour) for label, colour, _ in sides]))
    return tag("figure", svg, caption, class_="v-radar")


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    key = tag("svg", tag("polyline", points="0,4 26,4"), width=26, height=8, aria_hidden="true")
    items = (tag("span", key, label, class_=f"{name} d{place % 4}") for place, (label, name) in enumerate(entries))
    return tag("span", *items, class_="v-legend")


def loss(training: Points, validation: Points, steps: int) -> Markup:
    """Both losses, the best held-out step marked. Empty until there are two points."""
    best = min(validation, key=lambda point: (point[1], point[0])) if len(validation) > 1 else None
    drawn = [Line("training", training, "train")]
    if validation:
        words = f"held-out, best at step {best[0]}" if best else "held-out"
        drawn.append(Line(words, validation, "held", (best,) if best else ()))
    return lines(drawn, steps, "Loss: lower is closer to your answers.")


def overlay(
    runs: Sequence[tuple[str, Points]],
    caption: str = "Held-out loss, where there is one; lower is closer to your answers.",
    height: int = 170,
) -> Markup:
    """Losses of several runs laid over each other; more than six take the colours again."""
    drawn = [
        Line(label, points, f"c{place % COLOURS}{' again' * (place >= COLOURS)}")
        for place, (label, points) in enumerate(runs)
        if points
    ]
    return lines(drawn, 0, caption, height=height)


def small(label: str, points: Points, steps: int, show: Callable[[float], str]) -> Markup:
    """A figure of a run over its steps, with its newest value in words. Empty until there are two points."""
    if len(points) < 2:
        return Markup()
    return lines([Line("", points, "train")], steps, f"{label}: {show(points[-1][1])}", height=96, show=show)


def lines(
    drawn: Sequence[Line], steps: int, caption: str, *, height: int = 170, show: Callable[[float], str] | None = None
) -> Markup:
    """Lines over steps. Empty until there are two points; the step axis is fixed, so the picture grows and does not
    jump."""
    points = [point for line in drawn for point in line.points]
    if len(points) < 2:
        return Markup()
    last = int(max(steps, *(step for step, _ in points), 1))
    axes = _Axes(420, height, (38, 8, 8, 24), last, max(value for _, value in points) * 1.05 or 1.0)
    if show is None:
        grid = axes.y_ticks((value, f"{value:g}") for value in _ticks(axes.y_high))
    else:
        grid = axes.y_ticks((value, show(value).split(" ")[0] if value else "0") for value in (0.0, axes.y_high / 1.05))
    for step in sorted({0, last // 2, last}):
        anchor = "start" if step == 0 else "end" if step == last else "middle"
        grid += axes.x_tick(step, f"{'step ' if step == last else ''}{step:,}", anchor, 6)
    shapes, said = [], ""
    for line in drawn:
        if line.points:
            newest = line.points[-1]
            shapes.append(tag("polyline", class_=line.name, points=axes.path(line.points)))
            shapes.append(axes.dot(newest, 3, line.name))
            said += f"{line.label or caption} from {line.points[0][1]:.2f} to {newest[1]:.2f} at step {newest[0]:.0f}. "
    marks = [axes.dot(mark, 5, "best") for line in drawn for mark in line.marks]
    names = Markup().join(tag("span", tag("i", "", class_=line.name), line.label) for line in drawn if line.label)
    return axes.figure(said, grid, *shapes, *marks, caption=Markup("{} {}").format(caption, names))


def _ticks(top: float) -> list[float]:
    step = next(size for size in (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 50, 1e9) if top / size <= 4)
    return [round(step * i, 4) for i in range(int(top / step) + 1)]


def histogram(bins: Sequence[tuple[int, int, int]], limit: int | None) -> Markup:
    """Rows by their length in tokens, (shortest, longest, rows) each; what lies past the limit is another colour, with
    a line there."""
    if len(bins) < 2:
        return Markup()
    top = max(count for _, _, count in bins) or 1
    low, high = bins[0][0], bins[-2][1] + (bins[0][1] - bins[0][0] + 1)
    axes = _Axes(420, 170, (38, 8, 8, 24), max(high, low + 1), top, low)
    wide = (axes.width - 38 - 8) / len(bins)
    bars = []
    for place, (first, last, count) in enumerate(bins):
        name = "over" if limit is not None and first > limit else "bin"
        box = {"y": axes.y(count), "width": max(1.0, wide - 1), "height": axes.y(0) - axes.y(count)}
        title = tag("title", f"{first:,} to {last:,} tokens: {count:,}")
        bars.append(tag("rect", title, class_=name, x=38 + place * wide + 0.5, **box))
    grid = tag("text", f"{low:,}", x=38, y=axes.height - 6)
    grid += tag("text", f"{bins[-1][1]:,} tokens", x=axes.width - 8, y=axes.height - 6, text_anchor="end")
    grid += tag("text", f"{top:,}", x=32, y=16, text_anchor="end")
    line = axes.up(limit, "limit") if limit is not None and low < limit < high else Markup()
    said = f"Rows by length: {low:,} to {bins[-1][1]:,} tokens; the most common bin has {top:,} rows."
    caption = "Rows by their length in tokens." + (f" The line is the limit of {limit:,}." if line else "")
    return axes.figure(said, grid, *bars, line, caption=caption)


def scatter(dots: Sequence[Dot], base: float | None) -> Markup:
    """Held-out loss against trained weights, on a log axis; base: the untrained model's loss, as a line. Empty without
    dots."""
    if not dots:
        return Markup()
    low, high = math.floor(math.log10(min(dot.x for dot in dots))), math.ceil(math.log10(max(dot.x for dot in dots)))
    high = max(high, low + 1)
    axes = _Axes(560, 360, (46, 92, 14, 40), high, 1.08 * max([*(dot.y for dot in dots), base or 0.0]) or 1.0, low)
    grid = Markup().join(
        axes.up(power) + axes.x_tick(power, _power(power), "middle", 25) for power in range(low, high + 1)
    )
    grid += axes.y_ticks((value, f"{value:.2f}") for value in (axes.y_high * part / 4 for part in range(5)))
    grid += tag("text", "trained weights, log scale", x=257, y=axes.height - 6, text_anchor="middle")
    marks = []
    if base is not None:
        marks += [axes.across(base, "limit"), tag("text", "base", x=472, y=axes.y(base) + 4)]
    places = [(axes.x(math.log10(dot.x)), axes.y(dot.y)) for dot in dots]
    for place, left, at in _label_places(places, 10, axes.height - 36):
        x, y = places[place]
        marks.append(tag("line", x1=x, y1=y, x2=left - 3, y2=at))
        marks.append(tag("text", dots[place].label, class_="name", x=left, y=at + 4))
    marks += [tag("circle", class_="train", cx=x, cy=y, r=4.5) for x, y in places]
    what = "Held-out loss, lower is better"
    said = f"{what}. {'; '.join(f'{dot.label} {dot.y:.3f}' for dot in dots)}."
    return axes.figure(said, grid, *marks, caption=f"{what}, against trained weights.")


def _label_places(dots: Points, top: float, bottom: float) -> list[tuple[int, float, float]]:
    """(number of the dot, x, y) of each dot's label in pixels: right of its dot and of others beside it, and lower (at
    the picture's end higher) where another label stands there already."""
    taken: list[tuple[float, float]] = []
    found = []

    def free(left: float, at: float) -> bool:
        near = (abs(at - b) < _LABEL_HEIGHT - 0.01 and abs(left - a) < _LABEL_WIDTH for a, b in taken)
        return top <= at <= bottom and not any(near)

    for place, (x, y) in sorted(enumerate(dots), key=lambda one: (one[1][1], one[1][0])):
        left = max(other for other, height in dots if abs(height - y) < _NEAR and x <= other < x + _NEAR) + 12
        # below the labels that stand there first, so that labels keep the dots' order
        below = sorted({y, *(b + _LABEL_HEIGHT for _, b in taken if b + _LABEL_HEIGHT >= y)})
        options = [*below, *(y - turn * _LABEL_HEIGHT for turn in range(len(dots) + 1))]
        at = next((at for at in options if free(left, at)), y)
        taken.append((left, at))
        found.append((place, left, at))
    return found


def _power(power: int) -> str:
    names = {9: "B", 6: "M", 3: "k", 0: ""}
    least = next((step for step in names if power >= step), 0)
    return f"{10.0 ** (power - least):.0f} {names[least]}".strip()
