"""Who a visitor is where the app is shared, and when each was last here.

A visitor is whoever holds a random cookie; without cookies, one browser tab. The owner that runs, uploads and adapters carry is a
hash of that, so it is safe in a path, never ``local`` (whoever runs the app), and tells nobody the cookie.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from playground.errors import NotFoundError
from playground.library.database import connect

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

_TABLE = "CREATE TABLE IF NOT EXISTS visitors (owner TEXT PRIMARY KEY, seen_s REAL NOT NULL, left_s REAL NOT NULL DEFAULT 0)"


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


@dataclass(frozen=True)
class Visit:
    """seen_s: last sign of life. left_s: everything made before this moment is to go, 0 = nothing. Seconds since 1970."""

    owner: str
    seen_s: float
    left_s: float = 0.0


class Sessions:
    """The record of visits, in the database, so that a restart loses none."""

    def __init__(self, database: Path, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        self._written: dict[str, float] = {}
        self._tabs: OrderedDict[str, str] = OrderedDict()

    def seen(self, owner: str) -> None:
        """A sign of life; cheap, so call it at every request."""
        now = self._clock()
        with self._lock:
            if now - self._written.get(owner, float("-inf")) < WRITE_S:
                return
            if len(self._written) > TABS_MAX:
                self._written.clear()
            self._written[owner] = now
        self._write(
            "INSERT INTO visitors (owner, seen_s) VALUES (?, ?) ON CONFLICT DO UPDATE SET seen_s = excluded.seen_s", owner, now
        )

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
        now = self._clock()
        self._write(
            "INSERT INTO visitors (owner, seen_s, left_s) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET left_s = excluded.left_s",
            owner,
            now,
            now,
        )

    def visits(self) -> dict[str, Visit]:
        with self._open() as db:
            return {row[0]: Visit(*row) for row in db.execute("SELECT owner, seen_s, left_s FROM visitors")}

    def forget(self, owner: str) -> None:
        """Nothing of theirs is left."""
        with self._lock:
            self._written.pop(owner, None)
        self._write("DELETE FROM visitors WHERE owner = ?", owner)

    def _write(self, statement: str, *values: object) -> None:
        with self._open() as db:
            db.execute(statement, values)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Opened each time: it is asked once a minute, from any thread."""
        db = connect(self._database)
        try:
            with db:
                db.execute(_TABLE)
                yield db
        finally:
            db.close()
