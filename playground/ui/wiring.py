"""What stands between Gradio and the handlers: who is asking, and how an answer reaches the page.

A handler is a plain top-level function ``handler(services, visitor, tab, *, name=value, ...)`` that returns ``{widget:
update}``; a test
calls it directly. ``listen`` and ``unasked`` give Gradio a function of the form it wants.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Literal, TypeAlias, cast, get_args

import gradio as gr
from gradio.blocks import Block, BlockContext
from gradio.component_meta import ComponentMeta
from gradio.components import FormComponent
from gradio.events import Dependency

from playground.report.safe_html import safe_html
from playground.services import Services
from playground.ui.html import card
from playground.workspace.visitors import cookie_name, owner_of


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
    """For choices that change after the page is built. The page goes on holding what was chosen before, and Gradio
    would refuse every
    event that reads it; here the handler gets it, and says that it is gone. The same for ``Radio`` and
    ``CheckboxGroup``."""

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
    """The page. Every answer of every handler passes ``postprocess_data`` on its way to a browser, so what must hold
    for all stands here.

    What is shown as HTML passes ``safe_html``: no tag that the app does not write itself gets out, whoever forgot to
    escape it. What the
    page is built with passes ``seal``.

    An answer that nobody asked for (a timer's, the page's opening, and what follows from these) never carries the value
    of a widget that
    a person can set: it was made from what the page held when it was sent for, and a person, or another answer, may
    have set the widget
    since. Choices may change. Only the opening itself gives first values, to widgets that were built with
    ``interactive=False`` and are
    opened with them: nobody can have set those.

    ``.change`` of a state or picture that the opening or a timer writes counts as unasked too, whoever changed it;
    ``.change`` of a widget
    that a person can set is that person's, since nothing unasked writes it once it is open."""

    def seal(self) -> None:
        for block in self.blocks.values():
            if isinstance(block, AS_HTML):
                block.value = _safe(block, block.value)

    @cached_property
    def unasked(self) -> dict[int, bool]:
        """Ids of the listeners that answer unasked -> whether it is the page's opening. What one of them writes may set
        off others
        (``change``), and each may be followed by more (``then``)."""
        found: dict[int, bool] = {}
        waiting = [one for one in self.fns.values() if any(event in ("tick", "load") for _, event in one.targets)]
        while waiting:
            one = waiting.pop()
            if one._id in found:
                continue
            found[one._id] = any(event == "load" for _, event in one.targets)
            written = {(block._id, "change") for block in one.outputs if not isinstance(block, SETTABLE)}
            waiting += [
                other for other in self.fns.values() if other.trigger_after == one._id or written & set(other.targets)
            ]
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
    if not isinstance(block, SETTABLE) or isinstance(
        value, Enum
    ):  # an Enum is Gradio's mark for a stream that has ended
        return value
    update = value if isinstance(value, dict) and value.get("__type__") == "update" else gr.update(value=value)
    if opening and block.interactive is False:
        return {"interactive": True, **update}
    return {name: said for name, said in update.items() if name != "value"}


QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For every listener: no spinner over the page, and no endpoint in the public listing."""


def visitor(services: Any, request: gr.Request | None) -> Visitor:
    """One person's own machine is one owner; where people share the app, each browser is its own. Whatever is called,
    this runs
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


Updates: TypeAlias = "dict[Block, Any]"
"""What a handler answers: widget -> its value, or an update of it. Widgets that are left out stay as they are."""
Shown: TypeAlias = gr.HTML | gr.Markdown | gr.Chatbot | gr.Button | gr.State | gr.Timer | gr.Plot | BlockContext
"""Widgets that a person reads or presses and cannot set."""
Choosable: TypeAlias = gr.Dropdown | gr.Radio | gr.CheckboxGroup
Drawn: TypeAlias = "dict[Shown | Choosable, Any]"
"""What an ``unasked`` handler answers: anything for a widget that is Shown, ``Choices`` for a Choosable one."""
Event: TypeAlias = Callable[..., Any]
"""``button.click``, or ``dependency.then``."""


@dataclass(frozen=True)
class Choices:
    """The most that may be written unasked to a widget that a person can set: what it offers and its label, never its
    value."""

    choices: Sequence[Any] | None = None
    label: str | None = None
    visible: bool | None = None

    def update(self) -> Any:
        return gr.update(**{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Initial(Choices):
    """The first value of a widget built with ``interactive=False``, which only the page's opening may give; it opens
    the widget."""

    value: Any = None

    def update(self) -> Any:
        return {**super().update(), "value": self.value, "interactive": True}


class _Picked:
    """As an input: the id that a click inside an HTML widget carries, a text that the handler must not trust."""


PICKED = _Picked()


def listen(
    services: Services,
    events: Event | Sequence[Event],
    handler: Callable[..., Any],
    tab: Any,
    outputs: Block | Sequence[Block],
    /,
    *,
    stream: bool = False,
    failure: gr.HTML | None = None,
    js: str | None = None,
    trigger_mode: Literal["once", "multiple", "always_last"] | None = None,
    cancels: Sequence[Any] | None = None,
    **inputs: Any,
) -> Dependency:
    """Calls ``handler(services, visitor, tab, **values)`` when one of ``events`` happens; returns Gradio's dependency.

    A value of ``inputs`` is a widget, PICKED, or a sequence or mapping of these (the handler gets a tuple or a dict).
    The handler returns ``Updates``, or
    yields them with ``stream``. With ``failure``, an exception of the handler is shown there, and the place is cleared
    where all went
    well. Raises TypeError in the handler's call where it writes a widget that is not among ``outputs``."""
    options = {"js": js, "trigger_mode": trigger_mode, "cancels": cancels}
    return _listen(services, events, handler, tab, outputs, inputs, stream, failure, _as_written, options)


def unasked(
    services: Services,
    events: Event | Sequence[Event],
    handler: Callable[..., Any],
    tab: Any,
    outputs: Block | Sequence[Block],
    /,
    *,
    failure: gr.HTML | None = None,
    js: str | None = None,
    **inputs: Any,
) -> Dependency:
    """As ``listen``, for a timer and for the page's opening; the handler returns ``Drawn``. Raises TypeError, when the
    page is built, for an
    output that nobody may write unasked, and in the handler's call for a value where only ``Choices`` may be."""
    opening = all(getattr(event, "event_name", "") == "load" for event in _sequence(events))

    def closed(block: Block) -> bool:
        """Whether it is built so that nobody can set it before the opening gives its first value."""
        return opening and getattr(block, "interactive", None) is False

    def drawn(block: Block, value: Any) -> Any:
        if isinstance(value, Choices) and (not isinstance(value, Initial) or closed(block)):
            return value.update()
        if isinstance(block, SETTABLE) and value != gr.skip():
            raise TypeError(f"{block} can be set by a person; unasked it gets Choices, not {type(value).__name__}.")
        return value

    may = (*get_args(Shown), *get_args(Choosable))
    if wrong := [one for one in _sequence(outputs) if not isinstance(one, may) and not closed(one)]:
        raise TypeError(f"{handler.__name__} is unasked and may not write {', '.join(map(str, wrong))}.")
    return _listen(services, events, handler, tab, outputs, inputs, False, failure, drawn, {"js": js})


def _as_written(block: Block, value: Any) -> Any:
    return value.update() if isinstance(value, Choices) else value


def _leaves(given: Any) -> Iterator[Block]:
    """The widgets in nested mappings and sequences, in order."""
    if isinstance(given, Mapping | list | tuple):
        for one in given.values() if isinstance(given, Mapping) else given:
            yield from _leaves(one)
    elif given is not PICKED:
        yield given


def _filled(given: Any, values: Iterator[Any], picked: str) -> Any:
    """The same nesting with a value in the place of each widget."""
    if isinstance(given, Mapping):
        return {name: _filled(one, values, picked) for name, one in given.items()}
    if isinstance(given, list | tuple):
        return tuple(_filled(one, values, picked) for one in given)
    return picked if given is PICKED else next(values)


def _sequence(one_or_more: Any) -> list[Any]:
    return list(one_or_more) if isinstance(one_or_more, Sequence) else [one_or_more]


def _listen(
    services: Services,
    events: Event | Sequence[Event],
    handler: Callable[..., Any],
    tab: Any,
    outputs: Block | Sequence[Block],
    inputs: dict[str, Any],
    stream: bool,
    failure: gr.HTML | None,
    sent: Callable[[Block, Any], Any],
    options: dict[str, Any],
) -> Dependency:
    written = _sequence(outputs)
    if failure is not None and failure not in written:
        written.append(failure)
    widgets, picks = list(_leaves(inputs)), PICKED in inputs.values()
    name = getattr(handler, "func", handler).__name__

    def called(request: gr.Request, picked: str, values: tuple[Any, ...]) -> Any:
        named = _filled(inputs, iter(values), picked)
        return handler(services, visitor(services, request), tab, **named)

    def answer(updates: Updates | None, *, clears: bool = True) -> Any:
        updates = dict(updates or {})
        if failure is not None and clears:
            updates.setdefault(failure, slot(""))
        if strange := [block for block in updates if block not in written]:
            raise TypeError(f"{name} writes {', '.join(map(str, strange))}, which is not among its outputs.")
        values = [sent(block, updates[block]) if block in updates else gr.skip() for block in written]
        return values[0] if len(values) == 1 else values or None

    def failed(error: Exception) -> Any:
        if failure is None or isinstance(error, gr.Error):
            raise error
        return answer({failure: slot(card(error))})

    def call(request: gr.Request, *values: Any) -> Any:
        try:
            return answer(called(request, "", values))
        except Exception as error:  # whatever goes wrong behind a button is said where the button is
            return failed(error)

    def call_picked(request: gr.Request, event: gr.EventData, *values: Any) -> Any:
        try:
            return answer(called(request, str(getattr(event, "id", "")), values))
        except Exception as error:  # as in ``call``
            return failed(error)

    def call_stream(request: gr.Request, *values: Any) -> Iterator[Any]:
        try:
            for place, updates in enumerate(called(request, "", values)):
                yield answer(updates, clears=place == 0)
        except Exception as error:  # as in ``call``
            yield failed(error)

    wired = call_stream if stream else call_picked if picks else call
    wired.__name__ = name
    options = {**QUIET, **{name: value for name, value in options.items() if value is not None}}
    triggers = _sequence(events)
    if len(triggers) == 1:
        return triggers[0](wired, widgets, written, **options)
    return gr.on(triggers, wired, widgets, written, **options)


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

    What the widgets held when ``triggers`` went off is noted in the browser. An answer's values reach only those that
    hold the same
    still, or what an earlier answer put there; a widget that a person has set since keeps what they set."""

    def __init__(self, triggers: Sequence[Any], widgets: Sequence[Any]) -> None:
        self._widgets = list(widgets)
        self._before = gr.Textbox(visible="hidden", label="Held when asked")
        self._offer = gr.Textbox(visible="hidden", label="Offered")
        noted = "(...now) => JSON.stringify(now.map(value => value ?? ''))"
        gr.on(list(triggers), None, self._widgets, self._before, js=noted, trigger_mode="multiple", **QUIET)

    def then(
        self,
        services: Services,
        event: Dependency,
        handler: Callable[..., Updates],
        tab: Any,
        others: Sequence[Block],
        /,
        **inputs: Any,
    ) -> Dependency:
        """After ``event``, as ``listen``: values for the widgets are offered; ``others`` are always written."""

        def offered(services: Services, visitor: Visitor, tab: Any, **values: Any) -> Updates:
            answers = handler(services, visitor, tab, **values)
            parted = {widget: _parted(answers[widget]) for widget in self._widgets if widget in answers}
            places = {place: parted.get(widget, {}) for place, widget in enumerate(self._widgets)}
            offer = {place: update.pop("value") for place, update in places.items() if "value" in update}
            return {**answers, **parted, self._offer: json.dumps(offer)}

        offered.__name__ = handler.__name__
        answered = listen(services, event.then, offered, tab, [self._offer, *self._widgets, *others], **inputs)
        held = [self._before, *self._widgets]
        offers = [self._before, self._offer, *self._widgets]
        return answered.then(None, offers, held, js=_OFFER_JS, **QUIET)


def _parted(answer: Any) -> dict[str, Any]:
    """An answer for one widget as an update."""
    return dict(answer) if isinstance(answer, dict) and answer.get("__type__") == "update" else gr.update(value=answer)


def show(event: Event, place: Block, *, visible: bool = True) -> Dependency:
    """``event`` brings a place on the page, or takes it away."""
    return cast(Dependency, event(lambda: gr.update(visible=visible), None, place, **QUIET))


def slot(value: str) -> Any:
    """An HTML place that is only there when it says something."""
    return gr.update(value=value, visible=bool(value))


def hidden_slot(**options: Any) -> gr.HTML:
    return gr.HTML("", visible=False, **options)
