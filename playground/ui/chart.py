"""The loss curve as one inline SVG: two lines told apart by colour and by dash, the same in light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from playground.ui import html

_W, _H = 420, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 8, 24

Points = Sequence[tuple[int, float]]


def loss(training: Points, validation: Points, steps: int) -> str:
    """Empty until there are two points; the step axis is fixed, so the picture grows and does not jump."""
    if len(training) + len(validation) < 2:
        return ""
    top = max(value for _, value in (*training, *validation)) * 1.05 or 1.0
    ticks = _ticks(top)
    last = max(steps, *(step for step, _ in (*training, *validation)), 1)

    def x(step: float) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * step / last

    def y(value: float) -> float:
        return _TOP + (_H - _TOP - _BOTTOM) * (1 - value / top)

    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/><text x="{_LEFT - 6}" y="{y(v) + 4:.1f}" '
        f'text-anchor="end">{v:g}</text>'
        for v in ticks
    )
    marks = sorted({0, last // 2, last})
    grid += "".join(
        f'<text x="{x(s):.1f}" y="{_H - 6}" text-anchor="{"start" if s == 0 else "end" if s == last else "middle"}">'
        f"{'step ' if s == last else ''}{s}</text>"
        for s in marks
    )
    summary = _summary("training", training) + _summary("held-out", validation)
    legend = '<span><i class="train"></i>training</span>' + ('<span><i class="held"></i>held-out</span>' if validation else "")
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{html.esc("Loss. " + summary)}">'
        f'<g class="grid">{grid}</g>{_line(training, x, y, "train")}{_line(validation, x, y, "held")}</svg>'
        f"<figcaption>Loss: lower is closer to your answers. {legend}</figcaption></figure>"
    )


def _ticks(top: float) -> list[float]:
    step = next(size for size in (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 50, 1e9) if top / size <= 4)
    return [round(step * i, 4) for i in range(int(top / step) + 1)]


def _line(points: Points, x, y, name: str) -> str:  # type: ignore[no-untyped-def]
    if not points:
        return ""
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    step, value = points[-1]
    return f'<polyline class="{name}" points="{path}"/><circle class="{name}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>'


def _summary(name: str, points: Points) -> str:
    return f"{name} from {points[0][1]:.2f} to {points[-1][1]:.2f} at step {points[-1][0]}. " if points else ""
