"""The one SQLite file of a home, opened alike by everybody: private to its person, and what is deleted leaves the disk."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from playground.library.files import private_folder


def connect(path: Path, timeout_s: float = 30.0, *, create: bool = True) -> sqlite3.Connection:
    """A connection that overwrites what it deletes or changes. create: make the file, and its folder, where they are missing; else
    sqlite3.OperationalError is raised."""
    if create:
        private_folder(path.parent)
        with contextlib.suppress(
            OSError
        ):  # SQLite says best what is wrong; one that is there is not opened: closing it frees SQLite's locks
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}", uri=True, timeout=timeout_s)
    try:
        db.execute("PRAGMA secure_delete = ON")
    except BaseException:
        db.close()
        raise
    return db


def wipe(path: Path, timeout_s: float = 30.0) -> None:
    """Take what was deleted before out of the file and out of its log (WAL): none of it can be read from either. Raises sqlite3.Error
    where others use it for too long, or the disk is full."""
    db = connect(path, timeout_s, create=False)
    try:
        db.execute("VACUUM")
        busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("the log still holds what was deleted: others read it")
    finally:
        db.close()
