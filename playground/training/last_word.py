"""What a worker still has to say when the disk is full: written over room that was taken at its start."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = "last_word.json"
ROOM_BYTES = 4096
LONGEST = 1200
"""Letters of a message; four bytes each at most, so that it always fits."""


def make_room(run_dir: Path) -> None:
    """Take the room. Raises OSError when there is none."""
    with (run_dir / FILE).open("wb") as handle:
        handle.write(b" " * ROOM_BYTES)
        handle.flush()
        os.fsync(handle.fileno())


def say(run_dir: Path, **event: Any) -> None:
    """Overwrite the room in place; nothing is allocated. Raises OSError."""
    event["message"] = str(event.get("message", ""))[:LONGEST]
    text = json.dumps(event, ensure_ascii=False).encode()[:ROOM_BYTES].ljust(ROOM_BYTES)
    with (run_dir / FILE).open("r+b") as handle:
        handle.write(text)


def heard(run_dir: Path, attempt: int) -> dict[str, Any] | None:
    """What the worker of this attempt said there, None if it had no need to."""
    try:
        event = json.loads((run_dir / FILE).read_bytes().strip() or b"null")
    except (OSError, ValueError):
        return None
    return event if isinstance(event, dict) and event.get("attempt") == attempt else None
