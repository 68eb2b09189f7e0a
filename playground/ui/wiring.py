"""What stands between Gradio and the handlers: who is asking, and how an answer reaches the page.

A handler is a plain top-level function ``handler(services, visitor, *values)``. ``bind`` gives Gradio a function of the
form it wants; the handler itself knows nothing of requests or sessions and a test calls it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.services.sessions import cookie_name, owner_of


@dataclass(frozen=True)
class Visitor:
    """Who asks. ``owner`` owns runs and adapters; ``session`` is this browser tab."""

    owner: str = "local"
    session: str = "local"


QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For every listener: no spinner over the page, and no endpoint in the public listing."""


def visitor(services: Any, request: gr.Request | None) -> Visitor:
    """One person's own machine is one owner; where people share the app, each browser is its own. Whatever is called, this runs
    first, so it is where a visitor is seen. Raises NotFoundError for a tab that is somebody else's."""
    tab = (request.session_hash if request else None) or ""
    if not services.settings.shared:
        return Visitor(owner="local", session=tab or "local")
    cookies = dict(getattr(request, "cookies", None) or {})
    name = cookie_name(*_connection(request)) if request is not None else ""
    owner = owner_of(cookies.get(name, ""), tab)
    if tab:
        services.sessions.claim(tab, owner)
    services.seen(owner)
    return Visitor(owner=owner, session=owner)


def _connection(request: gr.Request) -> tuple[str, str]:
    """Its scheme, and what a proxy says of the one before it."""
    scheme = str(getattr(getattr(request, "url", None), "scheme", ""))
    return scheme, str((getattr(request, "headers", None) or {}).get("x-forwarded-proto", ""))


def bind(services: Any, handler: Callable[..., Any], *fixed: Any) -> Callable[..., Any]:
    """``fixed`` are handed to the handler before the widgets' values."""

    def call(request: gr.Request, *values: Any) -> Any:
        return handler(services, visitor(services, request), *fixed, *values)

    call.__name__ = handler.__name__
    return call


def bind_stream(services: Any, handler: Callable[..., Iterator[Any]], *fixed: Any) -> Callable[..., Iterator[Any]]:
    def call(request: gr.Request, *values: Any) -> Iterator[Any]:
        yield from handler(services, visitor(services, request), *fixed, *values)

    call.__name__ = handler.__name__
    return call


def bind_pick(services: Any, handler: Callable[..., Any]) -> Callable[..., Any]:
    """For a click inside HTML: the event carries an id, which the handler must not trust."""

    def call(request: gr.Request, event: gr.EventData, *values: Any) -> Any:
        return handler(services, visitor(services, request), str(getattr(event, "id", "")), *values)

    call.__name__ = handler.__name__
    return call


def slot(value: str) -> Any:
    """An HTML place that is only there when it says something."""
    return gr.update(value=value, visible=bool(value))


def hidden_slot(**options: Any) -> gr.HTML:
    return gr.HTML("", visible=False, **options)
