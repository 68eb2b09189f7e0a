from __future__ import annotations

from pathlib import Path

from playground.training.checkpoint import MARKER, is_complete, mark_complete, newest_complete


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
