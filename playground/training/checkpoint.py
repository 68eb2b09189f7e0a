"""Checkpoints are complete or ignored: a marker with every file's size and SHA-256 is written last, atomically."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

MARKER = "complete.json"


def mark_complete(folder: Path) -> None:
    """Write the marker of a checkpoint whose files are all there, and flush both to disk."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MARKER:
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
    folders = [folder for folder in run_dir.glob("checkpoints/checkpoint-*") if folder.name.rpartition("-")[2].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True):
        if is_complete(folder):
            return folder
    return None
