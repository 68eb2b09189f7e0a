from __future__ import annotations

from pathlib import Path

from playground.training.checkpoint import (
    MARKER,
    best,
    drop_torn,
    is_complete,
    mark_complete,
    marked_step,
    newest_complete,
    prune,
    set_score,
)


def checkpoint(run: Path, step: int, text: str = "weights") -> Path:
    folder = run / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(text)
    return folder


def test_without_its_marker_a_checkpoint_is_ignored(tmp_path: Path) -> None:
    mark_complete(checkpoint(tmp_path, 2))
    mark_complete(checkpoint(tmp_path, 10))
    checkpoint(tmp_path, 20)
    assert newest_complete(tmp_path) == tmp_path / "checkpoints" / "checkpoint-10"


def test_a_changed_or_missing_file_makes_it_incomplete(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    mark_complete(folder)
    assert is_complete(folder)
    (folder / "adapter_model.safetensors").write_text("weighty")
    assert not is_complete(folder)
    (folder / "adapter_model.safetensors").unlink()
    assert not is_complete(folder)
    assert newest_complete(tmp_path) is None


def test_a_torn_marker_counts_as_none(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / MARKER).write_text('{"adapter_model')
    assert not is_complete(folder)


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    for step, loss in ((10, 2.0), (20, 1.0), (30, 1.5), (40, 3.0)):
        folder = checkpoint(tmp_path, step)
        mark_complete(folder)
        prune(tmp_path)
        set_score(folder, loss)
        prune(tmp_path)
    assert best(tmp_path) == (20, 1.0)
    assert {folder.name for folder in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-20", "checkpoint-40"}
    assert is_complete(tmp_path / "checkpoints" / "checkpoint-40"), "a score does not count as a change"


def test_nothing_complete_goes_before_the_next_is_complete(tmp_path: Path) -> None:
    mark_complete(checkpoint(tmp_path, 10))
    checkpoint(tmp_path, 20)  # being written
    prune(tmp_path)
    assert newest_complete(tmp_path) == tmp_path / "checkpoints" / "checkpoint-10"
    assert marked_step(tmp_path) == 10


def test_what_a_kill_left_is_removed_before_going_on(tmp_path: Path) -> None:
    mark_complete(checkpoint(tmp_path, 10))
    damaged = checkpoint(tmp_path, 20)
    mark_complete(damaged)
    (damaged / "adapter_model.safetensors").write_text("torn")
    checkpoint(tmp_path, 30)
    assert drop_torn(tmp_path) == tmp_path / "checkpoints" / "checkpoint-10"
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-10"]


def test_without_any_a_run_starts_at_its_beginning(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    assert marked_step(tmp_path) == 0
    assert drop_torn(tmp_path) is None
