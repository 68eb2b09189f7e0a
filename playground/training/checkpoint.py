"""Checkpoints are complete or ignored: a marker with every file's size and SHA-256 is written last, atomically.

Two stay: the newest, to go on from, and the best by held-out loss. An older one goes only once a newer one is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

MARKER = "complete.json"
SCORE = "score.json"
STATE = "trained.safetensors"
"""The weights that are trained, where the adapter's file does not hold them. No part of an adapter."""


def mark_complete(folder: Path) -> None:
    """Write the marker of a checkpoint whose files are all there, and flush both to disk."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in (MARKER, SCORE):
            with file.open("rb") as handle:
                files[str(file.relative_to(folder))] = {
                    "bytes": file.stat().st_size,
                    "sha256": hashlib.file_digest(handle, "sha256").hexdigest(),
                }
                os.fsync(handle.fileno())
    partial = folder / f"{MARKER}.tmp"
    with partial.open("w") as handle:
        json.dump(files, handle)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(partial, folder / MARKER)


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file is as it says."""
    try:
        files = json.loads((folder / MARKER).read_text())
        for name, expected in files.items():
            if (folder / name).stat().st_size != expected["bytes"]:
                return False
            with (folder / name).open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != expected["sha256"]:
                    return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(files)


def newest_complete(run_dir: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    return next((folder for folder in reversed(_folders(run_dir)) if is_complete(folder)), None)


def marked_step(run_dir: Path) -> int:
    """The step from which a run would resume, 0 = its start. Looks at markers only: cheap."""
    return next((step_of(folder) for folder in reversed(_folders(run_dir)) if (folder / MARKER).is_file()), 0)


def step_of(folder: Path) -> int:
    """``checkpoint-40`` -> 40."""
    return int(folder.name.rpartition("-")[2])


def set_score(folder: Path, eval_loss: float) -> None:
    """Remember a checkpoint's held-out loss, in nats a token."""
    partial = folder / f"{SCORE}.tmp"
    partial.write_text(json.dumps({"eval_loss": eval_loss}))
    os.replace(partial, folder / SCORE)


def score_of(folder: Path) -> float | None:
    try:
        return float(json.loads((folder / SCORE).read_text())["eval_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def best(run_dir: Path) -> tuple[int, float] | None:
    """(step, held-out loss) of the best checkpoint there is; the older one where two are equal."""
    scored = [
        (score, step_of(folder))
        for folder in _folders(run_dir)
        if (folder / MARKER).is_file() and (score := score_of(folder)) is not None
    ]
    return (min(scored)[1], min(scored)[0]) if scored else None


def drop_torn(run_dir: Path) -> Path | None:
    """Remove what was left behind the newest complete checkpoint; returns that one, or None."""
    newest = newest_complete(run_dir)
    for folder in _folders(run_dir):
        if newest is None or step_of(folder) > step_of(newest) or not (folder / MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
    return newest


def prune(run_dir: Path) -> None:
    """Keep the newest complete checkpoint and the best one; call it when a new one has been marked."""
    marked = [folder for folder in _folders(run_dir) if (folder / MARKER).is_file()]
    best_step = (best(run_dir) or (0, 0.0))[0]
    for folder in marked[:-1]:
        if step_of(folder) != best_step:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(run_dir: Path) -> list[Path]:
    """All checkpoint folders, by step."""
    found = [folder for folder in run_dir.glob("checkpoints/checkpoint-*") if folder.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=step_of)
