"""What stands between Gradio and the handlers: who is asking, and how an answer reaches the page.

A handler is a plain top-level function ``handler(services, visitor, *values)``. ``bind`` gives Gradio a function of the
form it wants; the handler itself knows nothing of requests or sessions and a test calls it directly.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta
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


class _NoStub(ComponentMeta):
    """As Gradio makes a component's class, but for the .pyi file that it writes beside the source."""

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> Any:
        return ABCMeta.__new__(cls, name, bases, attrs)


def _chosen(value: Any, several: bool) -> Any:
    """What a page says was chosen, whether or not it can be chosen now; only its type is checked. Raises gr.Error."""
    one = (str, int, float, type(None))
    if isinstance(value, one) and not (several and value is not None):
        return [] if several else value
    if several and isinstance(value, list) and all(isinstance(item, one) for item in value):
        return value
    raise gr.Error(f"A choice cannot be a {type(value).__name__}.")


class Dropdown(gr.Dropdown, metaclass=_NoStub):
    """For choices that change after the page is built. The page goes on holding what was chosen before, and Gradio would refuse every
    event that reads it; here the handler gets it, and says that it is gone. The same for ``Radio`` and ``CheckboxGroup``."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return _chosen(payload, bool(self.multiselect))


class Radio(gr.Radio, metaclass=_NoStub):
    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return _chosen(payload, False)


class CheckboxGroup(gr.CheckboxGroup, metaclass=_NoStub):
    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return _chosen(payload, True)


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


_OFFER_JS = """(before, offer, ...now) => {
  const was = JSON.parse(before || '[]'), offered = JSON.parse(offer || '{}');
  const same = (a, b) => (a ?? '') === (b ?? '');
  const next = now.map((value, place) => {
    if (!(place in offered) || (place < was.length && !same(was[place], value))) return value;
    return (was[place] = offered[place]);
  });
  return [JSON.stringify(was), ...next];
}"""


class Offers:
    """Values that come some time after a person asked for them, for widgets that the person may be setting meanwhile.

    What the widgets held when ``triggers`` went off is noted in the browser. An answer's values reach only those that hold the same
    still, or what an earlier answer put there; a widget that a person has set since keeps what they set."""

    def __init__(self, triggers: Sequence[Any], widgets: Sequence[Any]) -> None:
        self._widgets = list(widgets)
        self._before = gr.Textbox(visible="hidden", label="Held when asked")
        self._offer = gr.Textbox(visible="hidden", label="Offered")
        noted = "(...now) => JSON.stringify(now.map(value => value ?? ''))"
        gr.on(list(triggers), None, self._widgets, self._before, js=noted, trigger_mode="multiple", **QUIET)

    def then(self, event: Any, call: Callable[..., Any], inputs: Any, others: Sequence[Any] = ()) -> Any:
        """After ``event``: what ``call`` returns, an answer a widget and then one for each of ``others``, which are always written."""

        def offered(request: gr.Request, *values: Any) -> list[Any]:
            answers = list(call(request, *values))
            split = [_parted(one) for one in answers[: len(self._widgets)]]
            values_ = {place: update.pop("value") for place, update in enumerate(split) if "value" in update}
            return [json.dumps(values_), *split, *answers[len(self._widgets) :]]

        offered.__name__ = call.__name__
        return event.then(offered, inputs, [self._offer, *self._widgets, *others], **QUIET).then(
            None, [self._before, self._offer, *self._widgets], [self._before, *self._widgets], js=_OFFER_JS, **QUIET
        )


def _parted(answer: Any) -> dict[str, Any]:
    """An answer for one widget as an update."""
    return dict(answer) if isinstance(answer, dict) and answer.get("__type__") == "update" else gr.update(value=answer)


def slot(value: str) -> Any:
    """An HTML place that is only there when it says something."""
    return gr.update(value=value, visible=bool(value))


def hidden_slot(**options: Any) -> gr.HTML:
    return gr.HTML("", visible=False, **options)
