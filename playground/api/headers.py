"""A Content-Security-Policy on every answer: what a browser may run, fetch and frame, should a text become a tag all the same."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.api.hosts import path_in

HUB = "https://huggingface.co"
"""Shows a Space in a frame of its own page."""
_INLINE = re.compile(rb"<script(?:\s(?:(?!\ssrc=)[^>])*)?>(.*?)</script>", re.DOTALL | re.IGNORECASE)
_PAGE = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self'; manifest-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""The page. Gradio's own inline scripts are named by their hashes, so no other one runs, nor does an attribute such as ``onerror``; its
templates and listeners need ``eval``. Styles are set inline throughout."""
_ELSE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Everything else: data, and files that were handed out. The report is HTML with styles and pictures in it, and without scripts."""


class ContentPolicy:
    """ASGI middleware; only the page is held until it is whole, so that streams pass untouched. space: the hub's page may frame this."""

    def __init__(self, app: ASGIApp, space: bool = False) -> None:
        self._app = app
        self._framed = f"; frame-ancestors 'self'{f' {HUB}' if space else ''}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_page = path_in(scope) == "/"
        started: Message = {}
        body = b""

        async def with_policy(message: Message) -> None:
            nonlocal started, body
            if message["type"] == "http.response.start" and is_page:
                started = message
            elif message["type"] == "http.response.start":
                await send(self._ruled(message, _ELSE))
            elif is_page and message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await send(self._ruled(started, _PAGE.format(scripts=_hashes(body))))
                    await send({**message, "body": body})
            else:
                await send(message)

        await self._app(scope, receive, with_policy)

    def _ruled(self, message: Message, policy: str) -> Message:
        MutableHeaders(scope=message)["content-security-policy"] = policy + self._framed
        return message


def _hashes(page: bytes) -> str:
    """The page's inline scripts, as a policy names them."""
    found = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE.findall(page))
    return "".join(f" 'sha256-{one}'" for one in found)
