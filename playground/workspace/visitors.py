"""Who a visitor is where the app is shared, and when each was last here.

A visitor is whoever holds a random cookie; without cookies, one browser tab. The owner that runs, uploads and adapters
carry is a
hash of that, so it is safe in a path, never ``local`` (whoever runs the app), and tells nobody the cookie.

Files that a browser sent: opened only where the page's server put them, whatever path a caller names, and marked as
whose they are.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from playground.db import Visit, VisitTable
from playground.errors import NotFoundError
from playground.settings import Settings

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
    """When each visitor was last here, and which browser tab is whose. Visits are kept in the database.

    clock: seconds since 1970.
    """

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
    """Remove what this owner handed over; what another one sent too (the page's server keeps equal files once) stays
    for that one."""
    for mark in list(settings.incoming_dir.glob(f"*/{MARK}{owner}")) if owner.isalnum() else []:
        mark.unlink(missing_ok=True)
        if not any(mark.parent.glob(f"{MARK}*")):
            shutil.rmtree(mark.parent, ignore_errors=True)
