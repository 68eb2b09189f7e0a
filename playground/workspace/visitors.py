"""Who works in a home folder: the one process that owns it, and where the app is shared its visitors. A visitor is
whoever holds a random cookie; without cookies, one browser tab. The owner that runs, uploads and adapters carry is a
hash of that: safe in a path, never ``local`` (whoever runs the app), and no way back to the cookie. And what one
visitor may keep on disk and run; a refusal says what there is and what to do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from playground.db import RunStore, Visit, VisitTable
from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.library.adapters import AdapterCard, AdapterLibrary
from playground.library.files import private_folder, write_text
from playground.settings import Settings

LOCK = "owner.lock"
RECORD = "owner.json"
WAIT_S = 20.0


class HomeTaken(PlaygroundError):
    """Another process owns this home; ``url`` is where it serves, "" if it does not."""

    def __init__(self, url: str, token: str) -> None:
        what = "Another process of Prompt or Tune works in this home folder"
        super().__init__(f"{what}. Wait until it is done, or set PLAYGROUND_HOME to another folder.")
        self.url, self.token = url, token


@dataclass
class Home:
    """The lock, held. ``token`` lets commands of the same person on this machine ask the serving app."""

    folder: Path
    token: str
    _lock: FileLock

    @classmethod
    def take(cls, settings: Settings, wait_s: float = 0.0) -> Home:
        """Raises HomeTaken. The operating system frees the lock when its owner dies, however that happens. wait_s: for
        a command that is about to end; an app that serves is not waited for."""
        private_folder(settings.home)
        lock, until = FileLock(settings.home / LOCK), time.monotonic() + wait_s
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout as error:
                record = _read(settings.home)
                if record.get("url") or time.monotonic() >= until:
                    raise HomeTaken(str(record.get("url", "")), str(record.get("token", ""))) from error
                time.sleep(0.2)
        home = cls(settings.home, secrets.token_urlsafe(24), lock)
        home.serves("")
        return home

    def release(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / RECORD).unlink()
        self._lock.release()

    def serves(self, url: str) -> None:
        """Tell other processes where the app answers, "" = it does not."""
        record = {"pid": os.getpid(), "url": url, "token": self.token}
        write_text(self.folder / RECORD, json.dumps(record), mode=0o600)


def _read(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text())
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}


LOCAL = "local"
"""The owner of what the person who runs the app makes, on the command line too."""
COOKIE = "prompt_or_tune"
HOST_COOKIE = f"__Host-{COOKIE}"
"""The same over HTTPS: browsers take it from this very host only, so no other site of the domain can put one there."""
OWNER = re.compile(r"v[0-9a-f]{24}")
_TOKEN = re.compile(r"[0-9a-f]{32}")
WRITE_S = 60.0
"""A visit is written down at most so often."""
TABS_MAX = 10_000


def new_token() -> str:
    """What a visitor's cookie holds."""
    return secrets.token_hex(16)


def is_token(text: str) -> bool:
    return bool(_TOKEN.fullmatch(text))


def cookie_name(scheme: str, forwarded_proto: str = "") -> str:
    """What the cookie is called on a connection. forwarded_proto: the X-Forwarded-Proto of a proxy that ends HTTPS."""
    https = scheme == "https" or forwarded_proto.split(",")[0].strip() == "https"
    return HOST_COOKIE if https else COOKIE


def owner_of(token: str, tab: str) -> str:
    """The owner behind a cookie, else behind a browser tab; a caller with neither is a new one at every call."""
    key = f"cookie {token}" if is_token(token) else f"tab {tab or secrets.token_hex(16)}"
    return "v" + hashlib.sha256(key.encode(errors="replace")).hexdigest()[:24]


class Sessions:
    """When each visitor was last here (in the database), and which tab is whose. clock: seconds since 1970."""

    def __init__(self, database: Path, clock: Callable[[], float] = time.time) -> None:
        self._table, self._clock = VisitTable(database), clock
        self._lock = threading.Lock()
        self._written: dict[str, float] = {}
        self._tabs: OrderedDict[str, str] = OrderedDict()

    def seen(self, owner: str) -> None:
        """Record a request; cheap, so call it at every one."""
        now = self._clock()
        with self._lock:
            if now - self._written.get(owner, float("-inf")) < WRITE_S:
                return
            if len(self._written) > TABS_MAX:
                self._written.clear()
            self._written[owner] = now
        self._table.seen(owner, now)

    def claim(self, tab: str, owner: str) -> None:
        """A tab belongs to the first who used it: its state in memory is nobody else's. Raises NotFoundError."""
        with self._lock:
            if self._tabs.setdefault(tab, owner) != owner:
                raise NotFoundError("There is no such page of yours. Reload it.")
            self._tabs.move_to_end(tab)
            while len(self._tabs) > TABS_MAX:
                self._tabs.popitem(last=False)

    def leave(self, owner: str) -> None:
        """Everything this owner has made up to now is to go, also what still has to come to its end."""
        self._table.left(owner, self._clock())

    def visits(self) -> dict[str, Visit]:
        return self._table.all()

    def forget(self, owner: str) -> None:
        with self._lock:
            self._written.pop(owner, None)
        self._table.remove(owner)


MARK = ".of-"
"""Begins the name of an empty file in the folder of what was sent; it goes on with the owner."""


def handed_over(settings: Settings, path: Path, owner: str = LOCAL) -> Path:
    """``path`` if it was uploaded. Raises NotFoundError."""
    folder, real = settings.incoming_dir.resolve(), Path(path).resolve()
    missing = f"There is no uploaded file {Path(path).name[:80]!r}. Upload it again."
    if not (real.is_relative_to(folder) and real.is_file()):
        raise NotFoundError(missing)
    if settings.shared and owner.isalnum() and real.parent != folder:
        try:
            (folder / real.relative_to(folder).parts[0] / f"{MARK}{owner}").touch()
        except FileNotFoundError as error:  # removed meanwhile
            raise NotFoundError(missing) from error
    return real


def remove_incoming(settings: Settings, owner: str) -> None:
    """Remove what this owner handed over, but not what another sent too: the page's server keeps equal files once."""
    for mark in list(settings.incoming_dir.glob(f"*/{MARK}{owner}")) if owner.isalnum() else []:
        mark.unlink(missing_ok=True)
        if not any(mark.parent.glob(f"{MARK}*")):
            shutil.rmtree(mark.parent, ignore_errors=True)


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
