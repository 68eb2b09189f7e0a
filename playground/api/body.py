"""A request's body: one JSON object, of a size that is looked at while it arrives."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import Request

from playground.errors import InputError

LIMIT_BYTES = 2_000_000
BODY_S = 60.0
"""How long a body may take to arrive."""


class TooLargeError(InputError):
    """The body is larger than what is taken."""


class TooSlowError(InputError):
    """The body did not arrive in time."""


async def read_body(request: Request, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Raises what ``read_bytes`` does, and InputError when it is no JSON object or holds half a character, which no answer could repeat."""
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
