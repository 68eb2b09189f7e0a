"""What one visitor of a shared app may keep on disk and run; a refusal says what there is and what to do."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from playground.db import RunStore
from playground.errors import InputError
from playground.library.adapters import AdapterCard, AdapterLibrary
from playground.settings import Settings


def bytes_in(place: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 when it is not there. Links are not followed."""
    if not place.is_dir():
        return _size(place)
    folders = ((Path(folder), names) for folder, _, names in os.walk(place))  # what cannot be listed is passed over
    return sum(_size(folder / name) for folder, names in folders for name in names)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # removed while we looked
        return 0


FREE_MIN_BYTES = 1_000_000_000
"""Disk that stays free, whoever asks."""
_ROOM = "Remove some under Storage in the Device panel, or delete your data there."


class Quota:
    """Reads what is on disk each time; counts replies from the moment they are taken until they are given back."""

    def __init__(
        self,
        settings: Settings,
        store: RunStore,
        library: AdapterLibrary,
        verdict_bytes: Callable[[str], int] = lambda owner: 0,
    ) -> None:
        """verdict_bytes: owner -> bytes of the verdicts kept for it."""
        self._settings, self._store, self._library = settings, store, library
        self._verdict_bytes = verdict_bytes
        self._replies: Counter[str] = Counter()
        self._lock = threading.Lock()

    def used_bytes(self, owner: str) -> int:
        """Uploads, runs, adapters, verdicts and exports together."""
        runs = sum(bytes_in(self._settings.runs_dir / row.run) for row in self._store.all() if row.owner == owner)
        adapters = sum(bytes_in(card.path) for card in self._own_adapters(owner))
        exports = sum(bytes_in(room) for room in self.rooms(owner))
        return bytes_in(self._settings.uploads_dir / owner) + runs + adapters + self._verdict_bytes(owner) + exports

    def room(self, owner: str, more_bytes: int, what: str) -> Path:
        """A new folder, to be fetched by whoever knows its name, so nobody can guess it. Raises InputError."""
        self.check_disk(owner, more_bytes, what)
        return self._settings.exports_dir / f"{_tag(owner)}{secrets.token_hex(16)}"

    def rooms(self, owner: str) -> list[Path]:
        """The folders of what was handed out to this owner and still lies there."""
        return sorted(self._settings.exports_dir.glob(f"{_tag(owner)}*"))

    def check_disk(self, owner: str, more_bytes: int, what: str) -> None:
        """Raises InputError when ``more_bytes`` for ``what`` would be too much."""
        if refused := self._no_room(owner, more_bytes, what):
            raise InputError(refused)

    def check_adapter(self, owner: str, more_bytes: int) -> None:
        """Raises InputError when one more adapter would be too many, or too large."""
        if refused := self._too_many_adapters(owner, coming=0):
            raise InputError(refused)
        self.check_disk(owner, more_bytes, "The adapter")

    def take_replies(self, owner: str, count: int, what: str) -> None:
        """Count a long job's replies as this owner's until they are given back. Raises InputError for too many."""
        with self._lock:
            waiting, limit = self._replies[owner], self._settings.session_replies
            if self._settings.is_visitor(owner) and waiting + count > limit:
                others = f"; {waiting:,} of yours wait or are written already" if waiting else ""
                wait = ", or wait until those have ended" if waiting else ""
                may = f"One visitor may have {limit:,} at once here. Use fewer rows, sides or repeats{wait}."
                raise InputError(f"{what} takes {count:,} replies{others}. {may}")
            self._replies[owner] += count

    def give_back_replies(self, owner: str, count: int) -> None:
        """A long job has ended."""
        with self._lock:
            self._replies[owner] -= count
            self._replies = +self._replies  # owners without any go

    def run_refused(self, owner: str, more_bytes: int, steps: int, seconds: float) -> str:
        """Why a visitor cannot start one more run of so many steps and seconds, or ""; runs not ended will make
        adapters."""
        most, minutes = self._settings.session_steps, self._settings.session_minutes
        if steps > most:
            return f"The run has {steps:,} steps; one visitor's run may have {most:,} here. Choose fewer."
        if seconds > minutes * 60:
            takes = f"{seconds / 3600:,.1f} hours" if seconds > 2 * 3600 else f"{seconds / 60:.0f} minutes"
            may = f"one visitor's run may take {minutes} minutes here"
            return f"The run would take about {takes}; {may}. Choose fewer steps, a smaller batch or shorter rows."
        mine, limit = sum(row.owner == owner for row in self._store.active()), self._settings.session_runs
        if mine >= limit:
            runs = "run of yours waits or trains" if mine == 1 else "runs of yours wait or train"
            return f"{mine} {runs} already, of {limit} that may at once. Wait until one has ended, or cancel one."
        return self._too_many_adapters(owner, coming=mine) or self._no_room(owner, more_bytes, "The run")

    def _too_many_adapters(self, owner: str, coming: int) -> str:
        if not self._settings.is_visitor(owner):
            return ""
        count, limit = len(self._own_adapters(owner)), self._settings.session_adapters
        if count + coming < limit:
            return ""
        on_the_way = f", and {coming} on the way" if coming else ""
        have = "1 adapter" if count == 1 else f"{count} adapters"
        return f"You have {have}{on_the_way}; {limit} may be kept here. Export and delete one on the Adapters tab."

    def _no_room(self, owner: str, more_bytes: int, what: str) -> str:
        if not self._settings.is_visitor(owner):
            return ""
        used, limit = self.used_bytes(owner), self._settings.session_disk_bytes
        if used + more_bytes > limit:
            has = f"you use {_mb(used)} of the {_mb(limit)} that one visitor may"
            return f"{what} needs {_mb(more_bytes)}; {has}. {_ROOM}"
        if disk_free(self._settings.home) - more_bytes < FREE_MIN_BYTES:
            return "The disk of this app is nearly full. Try again in an hour, or delete what you no longer need."
        return ""

    def _own_adapters(self, owner: str) -> list[AdapterCard]:
        return [card for card in self._library.list(owner, shared=True) if not card.shipped]


def _tag(owner: str) -> str:
    """How the names of an owner's folders begin; it does not tell the owner."""
    return hashlib.sha256(f"exports of {owner}".encode(errors="replace")).hexdigest()[:16]


def disk_free(home: Path) -> int:
    """Bytes free on the disk that holds ``home``, which need not exist yet."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    return shutil.disk_usage(there).free


def _mb(count: int) -> str:
    return f"{count / 1048576:.0f} MB" if count >= 10 * 1048576 else f"{count / 1048576:.1f} MB"
