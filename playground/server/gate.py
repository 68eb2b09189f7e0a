"""Middleware before the page's server: ``Gate`` (whose page asks, for which route, with how large a body; everything
else is refused) and ``Answered`` (a Content-Security-Policy on every answer, a visitor's cookie with the page). And who
may call: Host, Origin and Sec-Fetch-Site of a request; for /v1 the token, or, without one, programs on this machine
only; a body's size and time are checked while it arrives."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import re
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from playground.errors import InputError
from playground.library.files import refuse_constant
from playground.settings import ALLOWED_HOSTS, HOST_NAME, Settings
from playground.storage import Incoming
from playground.workspace import visitors

OWN = "own"
UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file={path_or_url:path}"
_GET = (
    *("/", "/gradio_api/startup-events"),  # Gradio asks itself whether it has begun
    # what the page is made of
    *("/assets/{path:path}", "/static/{path:path}", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"),
    # what it does; app_id: after a lost connection, is it still the same app
    *("/gradio_api/queue/data", "/gradio_api/heartbeat/{session_hash}", "/gradio_api/app_id"),
    *("/gradio_api/upload_progress", FILE),
    # what Gradio's own clients ask besides
    *("/config", "/gradio_api/info", "/gradio_api/call/{api_name}/{event_id}"),
)
_POST = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset", UPLOAD, "/gradio_api/call/{api_name}")
GRADIO_ROUTES = frozenset({("HEAD", "/"), *(("GET", path) for path in _GET), *(("POST", path) for path in _POST)})
"""The method and path, as Gradio writes it, of every route of Gradio's that is answered."""
SIGN_IN_ROUTES = frozenset(("GET", path) for path in ("/login/huggingface", "/login/callback", "/logout"))
"""Beside these where a person signs in to the hub."""
LOGIN_ROUTES = frozenset({("POST", "/login"), ("GET", "/login_check"), ("GET", "/logout")})
"""Beside these where the page asks for a name and a password."""
FRAMING_BYTES = 1 << 20  # what a multipart body may hold besides the files
BODY_S = 60.0  # how long any other body may take to arrive
UPLOAD_S = 900.0  # how long an upload may take
HEADERS_BYTES = 32 * 1024
_VISITOR = re.compile(rf"{visitors.COOKIE}=([0-9a-f]{{32}})(?![0-9a-f])")
"""A visitor's cookie, also where a prefix of its name binds it to this host."""
_JUDGED_ELSEWHERE = ("/healthz", "/v1/")
"""Probes ask /healthz by address, and it tells nothing; who may use /v1 is decided in ``access``."""


class Gate:
    """ASGI middleware; plain, so that streams pass untouched. own: our routes, which are answered too and read their
    own bodies. body_s, upload_s: how long the body of a call and of an upload may take to arrive. free: bytes where a
    folder lies."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        own: Sequence[Route] = (),
        body_s: float = BODY_S,
        upload_s: float = UPLOAD_S,
        free: Callable[[Path], int] = visitors.disk_free,
    ) -> None:
        self._app, self._settings, self._body_s, self._upload_s, self._free = app, settings, body_s, upload_s, free
        self._routes = [(method, OWN, route.path_regex) for route in own for method in sorted(route.methods or ())]
        more = (SIGN_IN_ROUTES if settings.sign_in else frozenset()) | (LOGIN_ROUTES if settings.login else frozenset())
        routes = GRADIO_ROUTES | more
        self._routes += [(method, path, compile_path(path)[0]) for method, path in sorted(routes)]
        self._folders = [folder.resolve() for folder in (settings.incoming_dir, settings.exports_dir)]
        self._incoming = Incoming(settings.incoming_dir, settings.upload_limit_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await WebSocketClose(1008)(scope, receive, send)  # no route of ours or Gradio's speaks it
        elif refused := self._refused(scope):
            await refused(scope, receive, send)
        elif not (route := self._route(scope)):
            await _no(404, "Not Found")(scope, receive, send)
        elif scope["method"] != "POST" or route == OWN:
            await self._app(scope, receive, send)
        else:
            await (self._upload if route == UPLOAD else self._call)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_BYTES:
            return _no(431, f"The request's headers are larger than {HEADERS_BYTES} bytes. Delete this site's cookies.")
        if not path_in(scope).startswith(_JUDGED_ELSEWHERE) and (words := foreign(scope, self._settings)):
            looked_at = "text/html" in Headers(scope=scope).get("accept", "")
            return PlainTextResponse(words, 403) if looked_at else _no(403, words)
        return None

    def _route(self, scope: Scope) -> str:
        """OWN, or the path of the allowed route as Gradio writes it; "" when there is none."""
        path = path_in(scope)
        for method, route, regex in self._routes:
            if method == scope["method"] and (found := regex.match(path)):
                return route if route != FILE or self._is_handed_out(found["path_or_url"]) else ""
        return ""

    def _is_handed_out(self, file: str) -> bool:
        """Whether a path lies where exports and uploads do. For a URL Gradio would go and fetch it."""
        try:
            real = Path(file).resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links
            return False
        return Path(file).is_absolute() and any(real.is_relative_to(folder) for folder in self._folders)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """JSON is read here, and goes on once it is whole and not too large."""
        try:
            unread = [await read_bytes(Request(scope, receive), self._body_s)]
        except ClientDisconnect:
            return
        except (TooLargeError, TooSlowError) as error:
            await _no(413 if isinstance(error, TooLargeError) else 408, str(error))(scope, receive, send)
            return

        async def again() -> Message:
            return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await receive()

        await self._app(scope, again, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Files are counted as they arrive. One too many ends as an unreadable body does: Gradio removes its files."""
        headers, limit = Headers(scope=scope), self._settings.upload_limit_bytes
        most = f"{limit >> 20} MB together"
        too_large = f"The files are larger than the maximum allowed size, {most}. Send a part of them."
        said, refused = headers.get("content-length", "0"), None
        if not said.isdecimal() or int(said) > limit + FRAMING_BYTES:
            refused = PlainTextResponse(too_large, 413)
        elif self._settings.shared and self._free(self._settings.home) < visitors.FREE_MIN_BYTES:
            refused = PlainTextResponse("The disk of this app is nearly full. Try again in an hour.", 507)
        elif self._incoming.is_crowded():
            refused = PlainTextResponse("Too many files wait here. Try again in a quarter of an hour.", 507)
        if refused is not None:
            await refused(scope, receive, send)
            return
        visitor = _VISITOR.search(headers.get("cookie", ""))
        arrived, whole = 0, False
        end_s = asyncio.get_running_loop().time() + self._upload_s

        async def counted() -> Message:
            nonlocal arrived, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(end_s):
                    message = await receive()
            except TimeoutError as error:
                raise MultiPartException("The upload took too long. Send smaller files, or try again.") from error
            if message["type"] != "http.request":
                raise MultiPartException("The upload was cut off.")
            count, whole = len(message.get("body", b"")), not message.get("more_body", False)
            arrived += count
            if arrived > limit + FRAMING_BYTES:
                raise MultiPartException(too_large)
            if self._settings.shared and (words := self._incoming.refusal(visitor[1] if visitor else "", count)):
                raise MultiPartException(words)
            return message

        await self._app(scope, counted, send)


def _no(status: int, words: str) -> Response:
    """A refusal in the shape of Gradio's own."""
    return JSONResponse({"detail": words}, status)


HUB = "https://huggingface.co"  # shows a Space in a frame of its own page
_INLINE = re.compile(rb"<script(?:\s(?:(?!\ssrc=)[^>])*)?>(.*?)</script>", re.DOTALL | re.IGNORECASE)
_PAGE = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self'"
    " data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self'; manifest-src 'self';"
    " object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""The page. Gradio's own inline scripts are named by their hashes, so no other one runs, nor does an attribute such as
``onerror``; its templates and listeners need ``eval``. Styles are set inline throughout."""
_ELSE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Everything else: data, and files handed out. The report is HTML with styles and pictures, without scripts."""


class Answered:
    """ASGI middleware; holds only the page until it is whole. space: the hub may frame it. shared: set a cookie."""

    def __init__(self, app: ASGIApp, space: bool = False, shared: bool = False) -> None:
        self._app, self._shared = app, shared
        self._framed = f"; frame-ancestors 'self'{f' {HUB}' if space else ''}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and path_in(scope) == "/"
        started: Message = {}
        body = b""

        async def with_headers(message: Message) -> None:
            nonlocal started, body
            if message["type"] == "http.response.start":
                started = message
                if not is_page:
                    await send(self._ruled(message, _ELSE))
            elif is_page and message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    hashes = (hashlib.sha256(script).digest() for script in _INLINE.findall(body))
                    scripts = "".join(f" 'sha256-{base64.b64encode(one).decode()}'" for one in hashes)
                    if self._shared and scope["method"] == "GET" and started["status"] < 400:
                        headers = MutableHeaders(scope=started)
                        headers.append("set-cookie", _cookie(scope))
                        headers["cache-control"] = "no-store"
                    await send(self._ruled(started, _PAGE.format(scripts=scripts)))
                    await send({**message, "body": body})
            else:
                await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)

    def _ruled(self, message: Message, policy: str) -> Message:
        MutableHeaders(scope=message)["content-security-policy"] = policy + self._framed
        return message


KEPT_S = 30 * 24 * 3600  # the cookie's life after the last visit; what it gives access to is gone sooner


def _cookie(scope: Scope) -> str:
    """The same token again, so that its life begins anew, or a fresh one. A Space is shown in a frame of another site:
    there the cookie has to say so, and is kept apart for each site that frames it."""
    name = visitors.cookie_name(scope["scheme"], Headers(scope=scope).get("x-forwarded-proto", ""))
    held = Request(scope).cookies.get(name, "")
    token = held if visitors.is_token(held) else visitors.new_token()
    where = "SameSite=None; Secure; Partitioned" if name == visitors.HOST_COOKIE else "SameSite=Lax"
    return f"{name}={token}; Path=/; Max-Age={KEPT_S}; HttpOnly; {where}"


# -- who may call, and with how much ----------------------------------------------------------------------------------

TOKEN_VARIABLE = "PLAYGROUND_API_TOKEN"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_PROXIES = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"})
LIMIT_BYTES = 2_000_000


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


class Login:
    """Whether a name and a password open the page, in the same time whichever is wrong. After TRIES wrong ones within a
    minute nothing does until that minute is over. clock: seconds, monotonic."""

    TRIES = 10

    def __init__(self, name: str, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._expected = hashlib.sha256(f"{name}:{password}".encode()).digest()
        self._clock, self._wrong_s = clock, deque[float](maxlen=self.TRIES)

    def __call__(self, name: str, password: str) -> bool:
        now = self._clock()
        if len(self._wrong_s) == self.TRIES and now - self._wrong_s[0] < 60:
            return False
        given = hashlib.sha256(f"{name}:{password}".encode("utf-8", "surrogatepass")).digest()
        if right := secrets.compare_digest(given, self._expected):
            return right
        self._wrong_s.append(now)
        return False


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
