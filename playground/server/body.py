"""A request's body: one JSON object, its size checked while it arrives; and a quota on uploads that wait, a visitor's
and in all."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from starlette.requests import Request

from playground.errors import InputError
from playground.workspace.storage import INCOMING_S, TICK_S

LIMIT_BYTES = 2_000_000
BODY_S = 60.0
"""How long a body may take to arrive."""


class TooLargeError(InputError):
    """The body is larger than what is taken."""


class TooSlowError(InputError):
    """The body did not arrive in time."""


async def read_body(request: Request, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Raises what ``read_bytes`` does, and InputError when it is no JSON object or holds half a character, which no
    answer could repeat."""
    body = await read_bytes(request, limit_bytes)
    try:
        value = json.loads(body, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError("The request holds half a character (a lone surrogate). Send whole characters.") from error
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"The request is not JSON{where}. Send one JSON object.") from error
    if not isinstance(value, dict):
        raise InputError(f"The request is a JSON {type(value).__name__}; it takes one JSON object.")
    return value


async def read_bytes(request: Request, limit_bytes: int, within_s: float = BODY_S) -> bytes:
    """Raises TooLargeError, TooSlowError, and starlette's ClientDisconnect."""
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > limit_bytes:
        raise TooLargeError(f"The request is larger than {limit_bytes} bytes. Send less.")
    parts, size = [], 0
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                size += len(part)
                if size > limit_bytes:
                    raise TooLargeError(f"The request is larger than {limit_bytes} bytes. Send less.")
                parts.append(part)
    except TimeoutError as error:
        raise TooSlowError(f"The request did not arrive within {within_s:.0f} s. Try again.") from error
    return b"".join(parts)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


VISITOR_UPLOADS = 5
"""Uploads of the largest size that one visitor may have waiting, where the app is shared."""
ALL_UPLOADS = 50
FILES_MAX = 5_000
"""Files that may lie in the folder, however small."""
WAITS_S = INCOMING_S + TICK_S
"""After so long a file has been removed."""


class Incoming:
    """Counts uploaded bytes as they arrive; each counts until its file is sure to be gone. Visitors without a cookie
    share one quota.

    folder: where the files lie. largest_bytes: of one upload. clock: seconds, monotonic.
    """

    def __init__(self, folder: Path, largest_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._largest, self._clock = folder, largest_bytes, clock
        self._lock = threading.Lock()
        self._arrived: deque[tuple[float, str, int]] = deque()
        self._bytes: Counter[str] = Counter()

    def refusal(self, visitor: str, count: int) -> str:
        """Why ``count`` more bytes of a visitor are not taken, or "" and they are counted."""
        with self._lock:
            self._forget()
            if self._bytes[visitor] + count > VISITOR_UPLOADS * self._largest:
                return (
                    f"You have sent {self._bytes[visitor] >> 20} MB in the last {WAITS_S / 60:.0f} minutes. Wait a"
                    " little, then send more."
                )
            if self._bytes.total() + count > ALL_UPLOADS * self._largest:
                return (
                    "Too many files have been sent to this app in the last minutes. Try again in a quarter of an hour."
                )
            self._bytes[visitor] += count
            self._arrived.append((self._clock() + WAITS_S, visitor, count))
            return ""

    def is_crowded(self) -> bool:
        """Whether too many files lie there already."""
        try:
            with os.scandir(self._folder) as entries:
                return sum(1 for _ in entries) >= FILES_MAX
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        while self._arrived and self._arrived[0][0] <= self._clock():
            _, visitor, count = self._arrived.popleft()
            self._bytes[visitor] -= count
            if self._bytes[visitor] <= 0:
                del self._bytes[visitor]
