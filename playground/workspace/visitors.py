"""Who works in a home folder: the one process that owns it, and where the app is shared its visitors. A visitor is
whoever holds a random cookie; without cookies, one browser tab. The owner that runs, uploads and adapters carry is a
hash of that: safe in a path, never ``local`` (whoever runs the app), and no way back to the cookie."""

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
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from playground.db import Visit, VisitTable
from playground.errors import NotFoundError, PlaygroundError
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
        """Nothing of theirs is left."""
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
