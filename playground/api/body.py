"""A request's body: one JSON object, of a size that is looked at while it arrives."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from playground.errors import InputError

LIMIT_BYTES = 2_000_000


class TooLargeError(InputError):
    """The body is larger than what is taken."""


async def read_body(request: Request, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Raises TooLargeError, or InputError when it is no JSON object or holds half a character, which no answer could repeat."""
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > limit_bytes:
        raise TooLargeError(f"The request is larger than {limit_bytes} bytes. Send less.")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise TooLargeError(f"The request is larger than {limit_bytes} bytes. Send less.")
        parts.append(part)
    try:
        value = json.loads(b"".join(parts), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError("The request holds half a character (a lone surrogate). Send whole characters.") from error
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"The request is not JSON{where}. Send one JSON object.") from error
    if not isinstance(value, dict):
        raise InputError(f"The request is a JSON {type(value).__name__}; it takes one JSON object.")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
