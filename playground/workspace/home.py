"""One home folder, one owner of the device: a lock file tells which process that is, and where it serves."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from playground.errors import PlaygroundError
from playground.library.files import private_folder
from playground.settings import Settings

LOCK = "owner.lock"
RECORD = "owner.json"
WAIT_S = 20.0


class HomeTaken(PlaygroundError):
    """Another process owns this home; ``url`` is where it serves, "" if it does not."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(
            "Another process of Prompt or Tune works in this home folder. Wait until it is done, or set PLAYGROUND_HOME"
            " to another folder."
        )
        self.url, self.token = url, token


@dataclass
class Home:
    """The lock, held. ``token`` lets commands of the same person on this machine ask the serving app."""

    folder: Path
    token: str
    _lock: FileLock

    @classmethod
    def take(cls, settings: Settings) -> Home:
        """Raises HomeTaken. The operating system frees the lock when its owner dies, however that happens."""
        private_folder(settings.home)
        lock = FileLock(settings.home / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            record = _read(settings.home)
            raise HomeTaken(str(record.get("url", "")), str(record.get("token", ""))) from error
        home = cls(settings.home, secrets.token_urlsafe(24), lock)
        home._write("")
        return home

    @classmethod
    def take_patiently(cls, settings: Settings, wait_s: float = WAIT_S) -> Home:
        """Wait a little for a command that is about to end; an app that serves is not waited for. Raises HomeTaken."""
        until = time.monotonic() + wait_s
        while True:
            try:
                return cls.take(settings)
            except HomeTaken as error:
                if error.url or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def serves(self, url: str) -> None:
        """Tell other processes where the app answers."""
        self._write(url)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / RECORD).unlink()
        self._lock.release()

    def _write(self, url: str) -> None:
        partial = self.folder / f"{RECORD}.tmp"
        partial.unlink(missing_ok=True)  # with whatever rights it had
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            json.dump({"pid": os.getpid(), "url": url, "token": self.token}, handle)
        os.replace(partial, self.folder / RECORD)


def _read(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text())
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}
