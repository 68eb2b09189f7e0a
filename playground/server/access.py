"""Who may call, and with how much: Host, Origin and Sec-Fetch-Site of a request; for /v1 the token, or, without one,
programs on this machine only; and a request's body, its size and time checked while it arrives."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import secrets
import socket
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from playground.errors import InputError
from playground.library.files import refuse_constant
from playground.settings import ALLOWED_HOSTS, HOST_NAME, Settings

TOKEN_VARIABLE = "PLAYGROUND_API_TOKEN"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_PROXIES = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"})
LIMIT_BYTES = 2_000_000
BODY_S = 60.0  # how long a body may take to arrive


def foreign(scope: Scope, settings: Settings) -> str:
    """Why a request is refused whatever it asks for, "" when it is not.

    1. Host is none of the app's names: a page elsewhere may have made its own name point here (DNS rebinding).
    2. Origin is none of them: a page from elsewhere asks. The port is not looked at. Who opens the app from another
       machine has pages of a localhost of their own, which are not the app's.
    3. Sec-Fetch-Site says the same of a request that may change something."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    host = name_in(f"//{hosts[0]}") if len(hosts) == 1 else ""
    if not _is_own(host, scope, settings):  # 1
        named = " and ".join(repr(one[:80]) for one in hosts[:2]) or "nothing at all"
        return f"This app may not be opened as {named}. Open it as localhost{_or_allow(host)}."
    for origin in headers.getlist("origin"):  # 2
        page = _page_in(origin)
        if not _is_own(page, scope, settings) or (page in LOCAL_NAMES and host not in LOCAL_NAMES):
            return f"A page from {origin[:80]!r} may not ask this app. Open the app's own page{_or_allow(page)}."
    if scope.get("method") not in ("GET", "HEAD") and "cross-site" in headers.getlist("sec-fetch-site"):  # 3
        return "A page from elsewhere may not make this app do anything. Open the app's own page."
    return ""


def path_in(scope: Scope) -> str:
    """The path as the router sees it: without the path under which a proxy shows the app."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return (path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path) or "/"


def name_in(address: str) -> str:
    """The host name in ``//host:port`` or in a URL that ends there, in small letters; "" when it cannot be read."""
    try:
        parts = urlsplit(address)
        more = parts.username is not None or parts.path or parts.query or parts.fragment or parts.port == 0
        return "" if more else parts.hostname or ""
    except ValueError:
        return ""


def _page_in(origin: str) -> str:
    return name_in(origin) if origin.startswith(("http://", "https://")) else ""


def _is_own(name: str, scope: Scope, settings: Settings) -> bool:
    """A name of this machine for itself, the address at which the request came in, what other machines of a local
    network call this one, or a name that the settings allow."""
    if name in LOCAL_NAMES or name in settings.allowed_hosts:
        return True
    machine, address = socket.gethostname().lower(), str(_ip((scope.get("server") or ("",))[0]) or "")
    return bool(name) and name in {address, machine, f"{machine.split('.')[0]}.local" if machine else ""}


def _or_allow(name: str) -> str:
    told = HOST_NAME.fullmatch(name) and name not in LOCAL_NAMES
    return f", or start it with {ALLOWED_HOSTS}={name} where that is a name of this app" if told else ""


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, an IPv4 one also where it comes mapped into IPv6."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def refusal(request: Request, settings: Settings) -> tuple[int, str] | None:
    """Why this request may not use /v1, or None: the HTTP status, and what is wrong with what to do.

    1. With a token: whoever shows it, from any host; nobody else.
    2. Without one, where the app is shared: nobody.
    3. Without one, on a person's own machine: a program on that machine, not by way of a proxy, that names the machine
       as itself. A foreign Host, Origin or Sec-Fetch-Site is a page from elsewhere."""
    if settings.api_token:  # 1
        wrong = f"The token is missing or wrong. Send 'Authorization: Bearer' with the one in {TOKEN_VARIABLE}."
        return None if shows(request, settings.api_token) else (401, wrong)
    headers = request.headers
    if settings.shared:  # 2
        words = f"/v1 is off: this app is shared and has no token. Whoever runs it can set {TOKEN_VARIABLE}."
    elif not from_here(request):  # 3
        words = "Without a token /v1 answers programs on its own machine only."
        words += f" Set {TOKEN_VARIABLE} to call from others."
    elif [name_in(f"//{host}") in LOCAL_NAMES for host in headers.getlist("host")] != [True]:
        words = f"Without a token /v1 must be called as localhost or 127.0.0.1. Do so, or set {TOKEN_VARIABLE}."
    elif "cross-site" in headers.getlist("sec-fetch-site") or any(
        _page_in(origin) not in LOCAL_NAMES for origin in headers.getlist("origin")
    ):
        words = f"A page from elsewhere may not call /v1 without a token. Set {TOKEN_VARIABLE}, and send it."
    else:
        return None
    return 403, words


def shows(request: Request, token: str) -> bool:
    """Whether the request carries the bearer token; takes as long for a wrong one as for the right one."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = secrets.compare_digest(given.strip().encode("latin-1", "replace"), token.encode("utf-8", "surrogateescape"))
    return same and scheme.lower() == "bearer"


def from_here(request: Request) -> bool:
    """Whether the caller runs on this machine and did not come by way of a proxy."""
    forwarded = any(name in _PROXIES or name.startswith("x-forwarded-") for name in request.headers)
    address = _ip(request.client.host) if request.client is not None and not forwarded else None
    return address is not None and address.is_loopback


class TooLargeError(InputError):
    """The body is larger than what is taken."""


class TooSlowError(InputError):
    """The body did not arrive in time."""


async def read_body(request: Request) -> dict[str, Any]:
    """A JSON object. Raises what ``read_bytes`` does, and InputError for anything else, or a lone surrogate in it."""
    body = await read_bytes(request)
    try:
        value = json.loads(body, parse_constant=refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError("The request holds half a character (a lone surrogate). Send whole characters.") from error
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"The request is not JSON{where}. Send one JSON object.") from error
    if not isinstance(value, dict):
        raise InputError(f"The request is a JSON {type(value).__name__}; it takes one JSON object.")
    return value


async def read_bytes(request: Request, within_s: float = BODY_S) -> bytes:
    """Raises TooLargeError, TooSlowError, and starlette's ClientDisconnect."""
    too_large = TooLargeError(f"The request is larger than {LIMIT_BYTES} bytes. Send less.")
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > LIMIT_BYTES:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                size += len(part)
                if size > LIMIT_BYTES:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise TooSlowError(f"The request did not arrive within {within_s:.0f} s. Try again.") from error
    return b"".join(parts)
