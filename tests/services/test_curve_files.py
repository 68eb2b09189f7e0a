from __future__ import annotations

import csv
from pathlib import Path

import pytest

from playground.errors import InputError
from playground.runs.progress import RunView, write_curves

VIEW = RunView("r1", "mine", "DONE", "lora", 2, 2, "mine", None, None, 1.0)
VIEW.loss, VIEW.eval_loss, VIEW.curves = [(1, 2.0), (2, 1.5)], [(0, 2.2), (2, 1.6)], {"lr": [(1, 1e-3), (2, 5e-4)]}


def test_as_csv_with_a_step_column(tmp_path: Path) -> None:
    with write_curves(VIEW, tmp_path / "new", "csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["train/loss"] == ""
    assert float(rows[2]["train/loss"]) == 1.5
    assert float(rows[2]["eval/loss"]) == 1.6
    assert float(rows[1]["train/lr"]) == 1e-3


def test_as_an_event_file_that_is_replaced_when_written_again(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    write_curves(VIEW, tmp_path, "tensorboard")
    file = write_curves(VIEW, tmp_path, "tensorboard")
    assert [path.name for path in (tmp_path / "r1").iterdir()] == [file.name]
    data, found, at = file.read_bytes(), set(), 0
    while at < len(data):  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found |= {(value.tag, event.step, round(value.simple_value, 6)) for value in event.summary.value}
        at += 16 + length
    assert ("train/loss", 2, 1.5) in found
    assert ("eval/loss", 0, 2.2) in found
    assert len(found) == 6


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="csv or tensorboard"):
        write_curves(VIEW, tmp_path, "excel")
    with pytest.raises(InputError, match="no curves yet"):
        write_curves(RunView("r2", "new", "QUEUED", "lora", 0, 2, None, None, None, 1.0), tmp_path, "csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="another folder"):
        write_curves(VIEW, tmp_path / "file" / "below", "csv")
