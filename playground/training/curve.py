"""The course of a run, short enough for its record: losses by step, as its events tell them."""

from __future__ import annotations

from pathlib import Path

from playground.training.events import EventReader

POINTS = 24
"""So many points of either loss are kept; the first and the last always."""

Curve = dict[str, list[list[float]]]


def curve_of(run_dir: Path) -> Curve:
    """``{"training": [[step, loss], ...], "held_out": [...]}``, over all attempts of the run; {} before anything was measured."""
    found: dict[str, dict[int, float]] = {"training": {}, "held_out": {}}
    for event in EventReader(run_dir).read():
        name = {"step": "training", "eval": "held_out"}.get(event.get("event", ""))
        if name and event.get("loss") is not None:
            found[name][event["step"]] = round(event["loss"], 4)
    return {name: _thinned([[step, loss] for step, loss in sorted(points.items())]) for name, points in found.items() if points}


def _thinned(points: list[list[float]]) -> list[list[float]]:
    if len(points) <= POINTS:
        return points
    return [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]
