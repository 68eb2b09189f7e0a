"""How much a folder holds."""

from __future__ import annotations

import os
from pathlib import Path


def bytes_in(place: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 when it is not there. Links are not followed."""
    if not place.is_dir():
        try:
            return place.lstat().st_size
        except OSError:
            return 0
    total = 0
    folders = [place]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:  # removed while we looked
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
                continue
            try:
                total += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
    return total
