from __future__ import annotations

import json
from pathlib import Path

from playground.training.events import LOG, POINTS, EventReader, EventWriter, curve_of


def test_what_is_written_is_read_once_and_never_a_nan(tmp_path: Path) -> None:
    writer, reader = EventWriter(tmp_path), EventReader(tmp_path)
    writer.write("step", step=1, loss=float("nan"))
    writer.close()
    (event,) = reader.read()
    assert (event["event"], event["step"], event["loss"]) == ("step", 1, None)
    assert reader.read() == []


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    log = tmp_path / LOG
    log.write_text('{"event": "step"')
    assert reader.read() == []
    with log.open("a") as handle:
        handle.write(', "step": 2}\n')
    assert [event["step"] for event in reader.read()] == [2]


def test_a_resumed_worker_closes_the_torn_line_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"event": "step", "st')
    writer = EventWriter(tmp_path)
    writer.write("started", pid=1)
    writer.close()
    assert [event["event"] for event in EventReader(tmp_path).read()] == ["started"]
    assert json.loads((tmp_path / LOG).read_text().splitlines()[-1])["pid"] == 1


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
