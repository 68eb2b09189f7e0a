"""What stands between Gradio and the handlers: who is asking, and how an answer reaches the page. A handler is a
top-level function ``handler(visit, tab, *, name, ...)`` that returns ``{widget: update}``; a test calls it
directly. ``listen`` and ``unasked`` make of it the function that Gradio calls."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, cast, get_args

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.blocks import Block, BlockContext
from gradio.component_meta import ComponentMeta
from gradio.components import FormComponent
from gradio.events import Dependency
from gradio.state_holder import SessionState

from playground.report.safe_html import safe_html
from playground.services import Services
from playground.ui.html import card
from playground.workspace.visitors import cookie_name, owner_of

SETTABLE = (FormComponent, gr.File, gr.Dataframe)
"""Widgets whose value a person sets."""
AS_HTML = (gr.HTML, gr.Chatbot)
"""Widgets that show their value as HTML."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For every listener: no spinner over the page, and no endpoint in the public listing."""
BARE: dict[str, Any] = {"container": False, "show_label": False}
"""For a widget whose label only a screen reader needs."""

Value: TypeAlias = object
"""A widget's value, or an update of it."""
Updates: TypeAlias = "dict[Block, Any]"
"""What a handler answers: widget -> its value, or an update of it. Widgets that are left out stay as they are."""
Shown: TypeAlias = gr.HTML | gr.Markdown | gr.Chatbot | gr.Button | gr.State | gr.Timer | gr.Plot | BlockContext
"""Widgets that a person reads or presses and cannot set."""
Choosable: TypeAlias = gr.Dropdown | gr.Radio | gr.CheckboxGroup
Drawn: TypeAlias = "dict[Shown | Choosable, Any]"
"""What an ``unasked`` handler answers: anything for a widget that is Shown, ``Choices`` for a Choosable one."""
Stream: TypeAlias = "Iterator[Updates]"
"""What a handler that streams answers."""
Event: TypeAlias = Callable[..., Any]
"""``button.click``, or ``dependency.then``."""
Events: TypeAlias = Event | Sequence[Event]
Handler: TypeAlias = Callable[..., Any]


class _NoStub(ComponentMeta):
    """As Gradio makes a component's class, but for the .pyi file that it writes beside the source."""

    __new__ = ABCMeta.__new__  # type: ignore[assignment]


Choice: TypeAlias = str | int | float


def _one(value: Value) -> Choice | None:
    """What a page says was chosen, whether or not it can be chosen now; only its type is checked. Raises gr.Error."""
    if isinstance(value, str | int | float | None):
        return value
    raise gr.Error(f"A choice cannot be a {type(value).__name__}.")


def _several(value: Value) -> list[Choice]:
    if isinstance(value, str | int | float):
        raise gr.Error(f"Several choices cannot be a {type(value).__name__}.")
    return [one for one in map(_one, value if isinstance(value, list) else [_one(value)]) if one is not None]


class Dropdown(gr.Dropdown, metaclass=_NoStub):
    """For choices that change after the page is built, as are ``Radio`` and ``CheckboxGroup``. The page goes on holding
    what was chosen before, and Gradio would refuse every event that reads it; here the handler gets it."""

    is_template = True

    def preprocess(self, payload: Value) -> Choice | list[Choice] | None:
        return _several(payload) if self.multiselect else _one(payload)


class Radio(gr.Radio, metaclass=_NoStub):
    is_template = True

    def preprocess(self, payload: Value) -> Choice | None:
        return _one(payload)


class CheckboxGroup(gr.CheckboxGroup, metaclass=_NoStub):
    is_template = True

    def preprocess(self, payload: Value) -> list[Choice]:
        return _several(payload)


class Page(gr.Blocks):
    """The page. Every answer of every handler passes ``postprocess_data`` on its way to a browser; HTML then passes
    ``safe_html``, so that no tag gets out that the app does not write itself. What the page is built with passes
    ``seal``.

    An answer that nobody asked for (a timer's, the page's opening, and what follows from these) never carries the value
    of a widget that a person can set: a person, or another answer, may have set it since the request was sent. Choices
    may change. Only the opening gives first values, to widgets that were built with ``interactive=False``. ``.change``
    of a state or picture that the opening or a timer writes counts as unasked too; that of a widget that a person can
    set is that person's."""

    def seal(self) -> None:
        for block in self.blocks.values():
            if isinstance(block, AS_HTML):
                block.value = _safe(block, block.value)

    @cached_property
    def unasked(self) -> dict[int, bool]:
        """Ids of the listeners that answer unasked -> whether it is the page's opening; those that follow from them
        (``change``, ``then``) included."""
        found: dict[int, bool] = {}
        waiting = [one for one in self.fns.values() if any(event in ("tick", "load") for _, event in one.targets)]
        while waiting:
            one = waiting.pop()
            if one._id in found:
                continue
            found[one._id] = any(event == "load" for _, event in one.targets)
            written = {(block._id, "change") for block in one.outputs if not isinstance(block, SETTABLE)}
            follows = [other for other in self.fns.values() if other.trigger_after == one._id]
            waiting += follows + [other for other in self.fns.values() if written & set(other.targets)]
        return found

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        outputs = block_fn.outputs
        values = _listed(outputs, predictions)
        if (opening := self.unasked.get(block_fn._id)) is not None:
            values = [_unasked(block, value, opening) for block, value in zip(outputs, values, strict=False)]
        if any(isinstance(block, AS_HTML) for block in outputs):
            values = await asyncio.to_thread(lambda: list(map(_safe, outputs, values)))
        return await super().postprocess_data(block_fn, values[0] if len(values) == 1 else values, state)


def _listed(outputs: Sequence[Block], predictions: Any) -> list[Any]:
    """What a handler returned, a value an output: a list, the value of the only output, or a dictionary by output."""
    if isinstance(predictions, dict) and (len(outputs) != 1 or outputs[0] in predictions):
        return [predictions.get(block, gr.skip()) for block in outputs]
    return [predictions] if len(outputs) == 1 else list(predictions or ())


def _safe(block: Block, value: Any) -> Any:
    """A widget's value, or an update of it."""
    if not isinstance(block, AS_HTML):
        return value
    if isinstance(value, list):  # a Chatbot's messages
        return [_safe(block, one) for one in value]
    if isinstance(value, dict):
        return {name: _safe(block, one) if name in ("value", "content") else one for name, one in value.items()}
    return safe_html(value) if isinstance(value, str) else value


def update_of(value: Value) -> dict[str, Any]:
    is_update = isinstance(value, dict) and value.get("__type__") == "update"
    return cast(dict[str, Any], value) if is_update else gr.update(value=value)


def _unasked(block: Block, value: Any, opening: bool) -> Any:
    """What may be sent to a widget unasked: anything but its value, unless this opens it."""
    if not isinstance(block, SETTABLE) or isinstance(value, Enum):  # Gradio's mark for a stream that has ended
        return value
    update = update_of(value)
    if opening and getattr(block, "interactive", None) is False:
        return {"interactive": True, **update}
    return {name: one for name, one in update.items() if name != "value"}


@dataclass(frozen=True)
class Visit:
    """Who asks, and the services that answer. ``owner`` owns runs and adapters; ``session`` is this browser tab."""

    services: Services
    owner: str = "local"
    session: str = "local"


def visit_of(services: Services, request: gr.Request | None) -> Visit:
    """One person's own machine is one owner; where people share the app, each browser is its own. It runs before every
    handler, so it is where a visit is noted. Raises NotFoundError for a tab that is somebody else's."""
    tab = (request.session_hash if request else None) or ""
    if not services.settings.shared:
        return Visit(services, session=tab or "local")
    cookies = dict(getattr(request, "cookies", None) or {})
    scheme = str(getattr(getattr(request, "url", None), "scheme", ""))
    proxied = str((getattr(request, "headers", None) or {}).get("x-forwarded-proto", ""))
    owner = owner_of(cookies.get(cookie_name(scheme, proxied), ""), tab)
    if tab:
        services.sessions.claim(tab, owner)
    services.seen(owner)
    return Visit(services, owner, owner)


@dataclass(frozen=True)
class Choices:
    """The most that may be written unasked to a widget that a person can set: choices and label, never its value."""

    choices: Sequence[Any] | None = None
    label: str | None = None
    visible: bool | None = None

    def update(self) -> dict[str, Any]:
        return gr.update(**{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Initial(Choices):
    """The first value of a widget built with ``interactive=False``; only the page's opening may give it."""

    value: Value = None

    def update(self) -> dict[str, Any]:
        return {**super().update(), "value": self.value, "interactive": True}


PICKED = object()
"""As an input: the id that a click inside an HTML widget carries, a text that the handler must not trust."""


SIGNED = object()
"""As an input of a handler that takes no PICKED: the hub token of who signed in on their own Space, "" = nobody. It is
for the hub alone: not to be kept, shown or handed on."""


@dataclass(frozen=True)
class _Listener:
    """What one listener calls, and what it writes; the fields are those of ``listen``."""

    services: Services
    tab: object
    handler: Handler
    inputs: Mapping[str, Any]
    outputs: list[Block]
    failure: gr.HTML | None
    restored: Updates
    as_update: Callable[[Block, Value], Value]

    def answer(self, updates: Updates | None, *, clears: bool = True) -> Value:
        updates = dict(updates or {})
        if self.failure is not None and clears:
            updates.setdefault(self.failure, slot(""))
        if strange := ", ".join(str(block) for block in updates if block not in self.outputs):
            raise TypeError(f"{_name(self.handler)} writes {strange}, which is not among its outputs.")
        values = [self.as_update(one, updates[one]) if one in updates else gr.skip() for one in self.outputs]
        return values[0] if len(values) == 1 else values or None

    def answers(self, request: gr.Request, picked: str, values: tuple[Any, ...]) -> Iterator[Value]:
        """The handler's answers, one after another; an exception is the last of them where there is a place for it."""
        try:
            named = _filled(self.inputs, iter(values), picked)
            made = self.handler(visit_of(self.services, request), self.tab, **named)
            for place, updates in enumerate(made if isinstance(made, Iterator) else [made]):
                yield self.answer(updates, clears=place == 0)
        except Exception as error:  # whatever goes wrong behind a button is shown beside the button
            if self.failure is None or isinstance(error, gr.Error):
                raise
            yield self.answer({**self.restored, self.failure: slot(card(error))})

    def wired(self) -> Handler:
        """The function for Gradio, which looks at its parameters and at whether it is a generator."""

        def call(request: gr.Request, *values: Any) -> Value:
            return next(self.answers(request, "", values))

        def call_picked(request: gr.Request, event: gr.EventData, *values: Any) -> Value:
            return next(self.answers(request, str(getattr(event, "id", "")), values))

        def call_signed(request: gr.Request, token: gr.OAuthToken | None, *values: Any) -> Value:
            return next(self.answers(request, token.token if token is not None else "", values))

        def call_stream(request: gr.Request, *values: Any) -> Iterator[Value]:
            yield from self.answers(request, "", values)

        streams = inspect.isgeneratorfunction(getattr(self.handler, "func", self.handler))
        wired: Handler = call_stream if streams else call_picked if PICKED in self.inputs.values() else call
        if SIGNED in self.inputs.values() and self.services.settings.sign_in:
            wired = call_signed
        wired.__name__ = _name(self.handler)
        return wired


def _as_written(block: Block, value: Value) -> Value:
    return value.update() if isinstance(value, Choices) else value


def listen(
    services: Services,
    tab: object,
    events: Events,
    handler: Handler,
    outputs: Block | Sequence[Block] = (),
    /,
    *,
    failure: gr.HTML | None = None,
    restored: Updates | None = None,
    js: str | None = None,
    trigger_mode: Literal["once", "multiple", "always_last"] | None = None,
    cancels: Sequence[Dependency] | None = None,
    as_update: Callable[[Block, Value], Value] = _as_written,
    **inputs: Any,
) -> Dependency:
    """Calls ``handler(visit, tab, **values)`` when one of ``events`` happens; returns Gradio's dependency.

    A value of ``inputs`` is a widget, PICKED, or a sequence or mapping of these (the handler gets a tuple or a dict).
    What the handler needs and is not given comes from the tab's attribute of that name, ``picked`` is PICKED. The
    handler returns ``Updates``, or yields them. With ``failure``, an exception of the handler is shown there and
    ``restored`` is written, and the place is cleared where all went well. Raises TypeError in the handler's call where
    it writes a widget that is not among ``outputs``. as_update: how an answer for a widget goes to Gradio."""
    written = list(dict.fromkeys([*_sequence(outputs), *(restored or ()), *([failure] if failure else ())]))
    given = needed(handler, tab, inputs)
    wired = _Listener(services, tab, handler, given, written, failure, restored or {}, as_update).wired()
    options = {"js": js, "trigger_mode": trigger_mode, "cancels": cancels}
    given_options = {name: value for name, value in options.items() if value is not None}
    triggers = _sequence(events)
    trigger = triggers[0] if len(triggers) == 1 else partial(gr.on, triggers)
    return cast(Dependency, trigger(wired, list(_leaves(given)), written, **QUIET, **given_options))


def unasked(
    services: Services, tab: object, events: Events, handler: Handler, outputs: Block | Sequence[Block], /, **given: Any
) -> Dependency:
    """As ``listen``, for a timer and for the page's opening; the handler returns ``Drawn``. Raises TypeError, when the
    page is built, for an output that nobody may write unasked, and in the handler's call for a value where only
    ``Choices`` may be."""
    opening = all(getattr(event, "event_name", "") == "load" for event in _sequence(events))

    def closed(block: Block) -> bool:
        """Whether it is built so that nobody can set it before the opening gives its first value."""
        return opening and getattr(block, "interactive", None) is False

    def drawn(block: Block, value: Value) -> Value:
        if isinstance(value, Choices) and (not isinstance(value, Initial) or closed(block)):
            return value.update()
        if isinstance(block, SETTABLE) and value != gr.skip():
            raise TypeError(f"{block} can be set by a person; unasked it gets Choices, not {type(value).__name__}.")
        return value

    may = (*get_args(Shown), *get_args(Choosable))
    if wrong := [one for one in _sequence(outputs) if not isinstance(one, may) and not closed(one)]:
        raise TypeError(f"{_name(handler)} is unasked and may not write {', '.join(map(str, wrong))}.")
    return listen(services, tab, events, handler, outputs, as_update=drawn, **given)


def _name(handler: Handler) -> str:
    return str(getattr(handler, "func", handler).__name__)


def needed(handler: Handler, tab: object, inputs: dict[str, Any]) -> dict[str, Any]:
    """The handler's inputs: those that are given, and for its other keyword parameters the tab's widgets."""
    found = dict(inputs)
    for name, parameter in inspect.signature(handler).parameters.items():
        asked = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if asked and name not in inputs:
            found[name] = PICKED if name == "picked" else getattr(tab, name)
    return found


def _leaves(given: Any) -> Iterator[Block]:
    if isinstance(given, Mapping | list | tuple):
        for one in given.values() if isinstance(given, Mapping) else given:
            yield from _leaves(one)
    elif given not in (PICKED, SIGNED):
        yield given


def _filled(given: Any, values: Iterator[Any], picked: str) -> Any:
    """The same nesting with a value in the place of each widget."""
    if isinstance(given, Mapping):
        return {name: _filled(one, values, picked) for name, one in given.items()}
    if isinstance(given, list | tuple):
        return tuple(_filled(one, values, picked) for one in given)
    return picked if given in (PICKED, SIGNED) else next(values)


def _sequence(one_or_more: Any) -> list[Any]:
    return list(one_or_more) if isinstance(one_or_more, Sequence) else [one_or_more]


class Memo(dict[str, Any]):
    """Name of a part of the page -> what this browser tab was sent last. A widget whose value is the same is left out:
    no flicker, no closed fold, and a button that a person has just pressed is not put back."""

    def changed(self, name: str, value: object) -> bool:
        """Whether it is another value than the last one; from now on it is the last one."""
        changed = name not in self or self[name] != value
        self[name] = value
        return changed

    def fresh(self, part: str, drawn: Drawn) -> Drawn:
        """The widgets of a part whose values have changed. A part names the same widgets in the same order."""
        items = enumerate(drawn.items())
        return {widget: value for place, (widget, value) in items if self.changed(f"{part}-{place}", value)}


def appear(event: Event, place: Block, *, visible: bool = True) -> Dependency:
    """``event`` brings a place on the page, or takes it away."""
    return cast(Dependency, event(lambda: gr.update(visible=visible), None, place, **QUIET))


AWAY = gr.update(visible=False)


def slot(value: str) -> dict[str, Any]:
    """An HTML place that is only there when it says something."""
    return gr.update(value=value, visible=bool(value))


def hidden_slot(**options: Any) -> gr.HTML:
    return gr.HTML("", visible=False, **options)
