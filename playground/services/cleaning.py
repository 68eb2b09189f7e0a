"""What nobody will come back for, removed in the background: of visitors long gone, and files that were only passing through."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from playground.services.sessions import Sessions, Visit
from playground.services.storage import StorageService
from playground.settings import Settings

TICK_S = 120.0
INCOMING_S = 15 * 60.0
"""A file that a browser sent is copied at once; what is left of it is of no use to anybody."""
EXPORTED_S = 3600.0
STAGED_S = 24 * 3600.0
"""An adapter that has been put together for so long never will be."""
_log = logging.getLogger(__name__)


class Cleaner:
    """clock: seconds since 1970."""

    def __init__(
        self, settings: Settings, storage: StorageService, sessions: Sessions, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings, self._storage, self._sessions, self._clock = settings, storage, sessions, clock
        self._stop = threading.Event()

    def start(self) -> None:
        """Only the home's owner cleans."""
        threading.Thread(target=self._clean, name="cleaning", daemon=True).start()

    def close(self) -> None:
        self._stop.set()

    def _clean(self) -> None:
        while not self._stop.is_set():
            try:
                self.tick()
            except Exception:  # a disk hiccup must not end it; the next tick tries again
                _log.exception("cleaning did not finish")
            self._stop.wait(TICK_S)

    def tick(self) -> None:
        """One round. Never touches what is in use, what ships with the app, or what its own person made."""
        now = self._clock()
        _sweep(self._settings.incoming_dir, now - INCOMING_S)
        _sweep(self._settings.exports_dir, now - EXPORTED_S)
        _sweep(self._settings.adapters_dir / ".staging", now - STAGED_S)
        if self._settings.shared:
            self._visitors(now)

    def _visitors(self, now: float) -> None:
        visits = self._sessions.visits()
        owners = self._storage.owners()
        for owner in owners - set(visits):
            self._sessions.seen(owner)  # from before visits were written down: their time begins now
        for owner, visit in visits.items():
            before = _gone_before(visit, now, self._settings.keep_s)
            if before is None:
                continue
            left = self._storage.sweep(owner, before) if owner in owners else False
            if not left and now - visit.seen_s >= self._settings.keep_s:
                self._sessions.forget(owner)


def _gone_before(visit: Visit, now: float, keep_s: float) -> float | None:
    """What this owner made before that moment is to go; None = nothing is."""
    if now - visit.seen_s >= keep_s:
        return now
    return visit.left_s or None


def _sweep(folder: Path, before_s: float) -> None:
    """Remove what lies in ``folder`` and was last changed before a moment."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(OSError):
            if entry.lstat().st_mtime >= before_s:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
