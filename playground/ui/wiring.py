"""What stands between Gradio and the handlers: who is asking, and how an answer reaches the page.

A handler is a plain top-level function ``handler(services, visitor, *values)``. ``bind`` gives Gradio a function of the
form it wants; the handler itself knows nothing of requests or sessions and a test calls it directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import gradio as gr
from gradio.components import FormComponent

from playground.evaluation.safe_html import safe_html
from playground.services.sessions import cookie_name, owner_of


@dataclass(frozen=True)
class Visitor:
    """Who asks. ``owner`` owns runs and adapters; ``session`` is this browser tab."""

    owner: str = "local"
    session: str = "local"


SETTABLE = (FormComponent, gr.File, gr.Dataframe)
"""Widgets whose value a person sets."""
AS_HTML = (gr.HTML, gr.Chatbot)
"""Widgets that show their value as HTML."""


class Page(gr.Blocks):
    """The page. Every answer of every handler passes ``postprocess_data`` on its way to a browser, so what must hold for all stands here.

    What is shown as HTML passes ``safe_html``: no tag that the app does not write itself gets out, whoever forgot to escape it. What the
    page is built with passes ``seal``.

    An answer that nobody asked for (a timer's, the page's opening, and what follows from these) never carries the value of a widget that
    a person can set: it was made from what the page held when it was sent for, and a person, or another answer, may have set the widget
    since. Choices may change. Only the opening itself gives first values, to widgets that were built with ``interactive=False`` and are
    opened with them: nobody can have set those.

    ``.change`` of a state or picture that the opening or a timer writes counts as unasked too, whoever changed it; ``.change`` of a widget
    that a person can set is that person's, since nothing unasked writes it once it is open."""

    def seal(self) -> None:
        for block in self.blocks.values():
            if isinstance(block, AS_HTML):
                block.value = _safe(block, block.value)

    @cached_property
    def unasked(self) -> dict[int, bool]:
        """Ids of the listeners that answer unasked -> whether it is the page's opening. What one of them writes may set off others
        (``change``), and each may be followed by more (``then``)."""
        found: dict[int, bool] = {}
        waiting = [one for one in self.fns.values() if any(event in ("tick", "load") for _, event in one.targets)]
        while waiting:
            one = waiting.pop()
            if one._id in found:
                continue
            found[one._id] = any(event == "load" for _, event in one.targets)
            written = {(block._id, "change") for block in one.outputs if not isinstance(block, SETTABLE)}
            waiting += [other for other in self.fns.values() if other.trigger_after == one._id or written & set(other.targets)]
        return found

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        values = _listed(block_fn.outputs, predictions)
        if (opening := self.unasked.get(block_fn._id)) is not None:
            values = [_unasked(block, value, opening) for block, value in zip(block_fn.outputs, values, strict=False)]
        if any(isinstance(block, AS_HTML) for block in block_fn.outputs):
            values = await asyncio.to_thread(
                lambda: [_safe(block, one) for block, one in zip(block_fn.outputs, values, strict=False)]
            )
        return await super().postprocess_data(block_fn, values[0] if len(values) == 1 else values, state)


def _listed(outputs: list[Any], predictions: Any) -> list[Any]:
    """What a handler returned, a value an output: a list, the value of the only output, or a dictionary by output."""
    if isinstance(predictions, dict) and (len(outputs) != 1 or outputs[0] in predictions):
        return [predictions.get(block, gr.skip()) for block in outputs]
    return [predictions] if len(outputs) == 1 else list(predictions or ())


def _safe(block: Any, value: Any) -> Any:
    """A widget's value, or an update of it."""
    if not isinstance(block, AS_HTML):
        return value
    if isinstance(value, str):
        return safe_html(value)
    if isinstance(value, list):  # a Chatbot's messages
        return [_safe(block, one) for one in value]
    if isinstance(value, dict):
        return {name: _safe(block, one) if name in ("value", "content") else one for name, one in value.items()}
    return value


def _unasked(block: Any, value: Any, opening: bool) -> Any:
    """What may be sent to a widget unasked: anything but its value, unless this opens it."""
    if not isinstance(block, SETTABLE) or isinstance(value, Enum):  # an Enum is Gradio's mark for a stream that has ended
        return value
    update = value if isinstance(value, dict) and value.get("__type__") == "update" else gr.update(value=value)
    if opening and block.interactive is False:
        return {"interactive": True, **update}
    return {name: said for name, said in update.items() if name != "value"}


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
