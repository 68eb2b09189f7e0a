"""Pictures as inline SVG, the same in light and dark: the loss as two lines told apart by colour and dash, lengths as bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from playground.ui import html

_W, _H = 420, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 8, 24
COLOURS = 6

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One line of a picture. name: of its colour. best: (step, value) that is marked."""

    label: str
    points: Points
    name: str
    best: tuple[int, float] | None = None


def loss(training: Points, validation: Points, steps: int) -> str:
    """Both losses, the best held-out step marked. Empty until there are two points."""
    best = min(validation, key=lambda point: (point[1], point[0])) if len(validation) > 1 else None
    drawn = [Line("training", training, "train")]
    if validation:
        drawn.append(Line("held-out" + (f", best at step {best[0]}" if best else ""), validation, "held", best))
    return lines(drawn, steps, "Loss: lower is closer to your answers.")


def overlay(runs: Sequence[tuple[str, Points]]) -> str:
    """Losses of several runs laid over each other, at most six."""
    drawn = [Line(label, points, f"c{place}") for place, (label, points) in enumerate(runs[:COLOURS]) if points]
    return lines(drawn, 0, "Held-out loss, where there is one; lower is closer to your answers.")


def small(label: str, points: Points, steps: int, show: Callable[[float], str]) -> str:
    """A figure of a run over its steps, with its newest value in words. Empty until there are two points."""
    if len(points) < 2:
        return ""
    return lines([Line("", points, "train")], steps, f"{label}: {show(points[-1][1])}", height=96, show=show)


def lines(
    drawn: Sequence[Line], steps: int, caption: str, *, height: int = _H, show: Callable[[float], str] | None = None
) -> str:
    """Lines over steps. Empty until there are two points; the step axis is fixed, so the picture grows and does not jump."""
    points = [point for line in drawn for point in line.points]
    if len(points) < 2:
        return ""
    top = max(value for _, value in points) * 1.05 or 1.0
    last = max(steps, *(step for step, _ in points), 1)
    room = height - _TOP - _BOTTOM

    def x(step: float) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * step / last

    def y(value: float) -> float:
        return _TOP + room * (1 - value / top)

    ticks = _ticks(top) if show is None else [0.0, top / 1.05]
    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/><text x="{_LEFT - 6}" y="{y(v) + 4:.1f}" '
        f'text-anchor="end">{f"{v:g}" if show is None else html.esc(show(v).split(" ")[0]) if v else 0}</text>'
        for v in ticks
    )
    grid += "".join(
        f'<text x="{x(s):.1f}" y="{height - 6}" text-anchor="{"start" if s == 0 else "end" if s == last else "middle"}">'
        f"{'step ' if s == last else ''}{s:,}</text>"
        for s in sorted({0, last // 2, last})
    )
    summary = " ".join(_summary(line.label or caption, line.points) for line in drawn)
    legend = "".join(f'<span><i class="{html.esc(line.name)}"></i>{html.esc(line.label)}</span>' for line in drawn if line.label)
    marks = "".join(
        f'<circle class="best" cx="{x(line.best[0]):.1f}" cy="{y(line.best[1]):.1f}" r="5"/>'
        for line in drawn
        if line.best is not None
    )
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_W} {height}" role="img" aria-label="{html.esc(summary)}">'
        f'<g class="grid">{grid}</g>{"".join(_line(line.points, x, y, line.name) for line in drawn)}{marks}</svg>'
        f"<figcaption>{html.esc(caption)} {legend}</figcaption></figure>"
    )


def histogram(bins: Sequence[tuple[int, int, int]], limit: int | None) -> str:
    """Rows by their length in tokens, (shortest, longest, rows) each; what lies past the limit is another colour, with a line there."""
    if len(bins) < 2:
        return ""
    top = max(count for _, _, count in bins) or 1
    low, high = bins[0][0], bins[-2][1] + (bins[0][1] - bins[0][0] + 1)
    span = max(1, high - low)
    width = (_W - _LEFT - _RIGHT) / len(bins)
    height = _H - _TOP - _BOTTOM
    bars = []
    for place, (first, last, count) in enumerate(bins):
        tall = height * count / top
        name = "over" if limit is not None and first > limit else "bin"
        bars.append(
            f'<rect class="{name}" x="{_LEFT + place * width + 0.5:.1f}" y="{_TOP + height - tall:.1f}" width="{max(1.0, width - 1):.1f}" '
            f'height="{tall:.1f}"><title>{first:,} to {last:,} tokens: {count:,}</title></rect>'
        )
    marks = f'<text x="{_LEFT}" y="{_H - 6}">{low:,}</text><text x="{_W - _RIGHT}" y="{_H - 6}" text-anchor="end">{bins[-1][1]:,} tokens</text>'
    marks += f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{top:,}</text>'
    line = ""
    if limit is not None and low < limit < high:
        x = _LEFT + (_W - _LEFT - _RIGHT) * (limit - low) / span
        line = f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + height}"/>'
    summary = f"Rows by length: {low:,} to {bins[-1][1]:,} tokens; the most common bin has {top:,} rows."
    said = f" The line is the limit of {limit:,}." if line else ""
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{html.esc(summary)}">'
        f'<g class="grid">{marks}</g>{"".join(bars)}{line}</svg><figcaption>Rows by their length in tokens.{said}</figcaption></figure>'
    )


def _ticks(top: float) -> list[float]:
    step = next(size for size in (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 50, 1e9) if top / size <= 4)
    return [round(step * i, 4) for i in range(int(top / step) + 1)]


def _line(points: Points, x, y, name: str) -> str:  # type: ignore[no-untyped-def]
    if not points:
        return ""
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    step, value = points[-1]
    return f'<polyline class="{html.esc(name)}" points="{path}"/><circle class="{html.esc(name)}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>'


def _summary(name: str, points: Points) -> str:
    return f"{name} from {points[0][1]:.2f} to {points[-1][1]:.2f} at step {points[-1][0]}. " if points else ""
