from __future__ import annotations

from pathlib import Path

from playground.training.curve import POINTS, curve_of
from playground.training.events import EventWriter


def test_losses_by_step_over_all_attempts_thinned_with_both_ends(tmp_path: Path) -> None:
    assert curve_of(tmp_path) == {}
    events = EventWriter(tmp_path)
    events.write("eval", step=0, loss=3.0)
    for step in range(1, 101):
        events.write("step", step=step, loss=3.0 / step)
    events.write("step", step=100, loss=9.0)
    events.write("step", step=50, loss=float("nan"))
    events.close()
    curve = curve_of(tmp_path)
    assert curve["held_out"] == [[0, 3.0]]
    assert len(curve["training"]) == POINTS
    assert curve["training"][0] == [1, 3.0]
    assert curve["training"][-1] == [100, 9.0], "a resumed worker's word counts"
