"""Where the app is shared: every browser gets a random cookie with the page, and no upload is taken when the disk is nearly full."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.api.hosts import path_in
from playground.services.quota import FREE_MIN_BYTES, disk_free
from playground.services.sessions import COOKIE, HOST_COOKIE, cookie_name, is_token, new_token

KEPT_S = 30 * 24 * 3600
"""The cookie's life after the last visit; what it gives access to is gone sooner."""


class Visit:
    """ASGI middleware; plain, so that streams pass untouched. home: the folder that uploads fill."""

    def __init__(self, app: ASGIApp, home: Path) -> None:
        self._app, self._home = app, home

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload") and self._full():
            await PlainTextResponse("The disk of this app is nearly full. Try again in an hour.", 507)(scope, receive, send)
        elif scope["method"] == "GET" and path_in(scope) == "/":
            await self._page(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        cookie = _cookie(headers, cookie_name(scope["scheme"], headers.get("x-forwarded-proto", "")))

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.append("set-cookie", cookie)
                headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, with_cookie)

    def _full(self) -> bool:
        return disk_free(self._home) < FREE_MIN_BYTES


def token_in(header: str, name: str = COOKIE) -> str:
    """The visitor's token in a Cookie header, "" when there is none."""
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None and is_token(morsel.value) else ""


def _cookie(headers: Headers, name: str) -> str:
    """The same token again, so that its life begins anew, or a fresh one. A Space is shown in a frame of another site: there the
    cookie has to say so, and is kept apart for each site that frames it."""
    token = token_in(headers.get("cookie", ""), name) or new_token()
    where = "SameSite=None; Secure; Partitioned" if name == HOST_COOKIE else "SameSite=Lax"
    return f"{name}={token}; Path=/; Max-Age={KEPT_S}; HttpOnly; {where}"
