"""How a handler is called, and what it may write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import pytest

from playground.errors import InputError
from playground.ui.wiring import PICKED, Choices, Drawn, Initial, Updates, Visitor, listen, unasked
from tests.ui.fakes import EVIL, FakeServices


@dataclass(frozen=True)
class Tab:
    name: gr.Textbox
    sides: tuple[gr.Number, ...]
    kind: gr.Dropdown
    first: gr.Dropdown
    said: gr.HTML
    count: gr.State
    go: gr.Button
    timer: gr.Timer


@pytest.fixture
def page() -> Iterator[gr.Blocks]:
    with gr.Blocks() as page:
        yield page


@pytest.fixture
def tab(page: gr.Blocks) -> Tab:
    return Tab(
        gr.Textbox(),
        (gr.Number(), gr.Number()),
        gr.Dropdown(["a"]),
        gr.Dropdown(["a"], interactive=False),
        gr.HTML(),
        gr.State(0),
        gr.Button(),
        gr.Timer(),
    )


def greet(services: Any, visitor: Visitor, tab: Tab, *, name: str, sides: tuple[float, ...], said: str = "") -> Updates:
    if not name:
        raise InputError(f"No name {EVIL}")
    return {tab.said: f"{said}{name} {sides} {visitor.session}", tab.count: sum(sides)}


def test_a_handler_gets_its_values_by_name_and_answers_by_widget(services: FakeServices, tab: Tab) -> None:
    wired = listen(
        services,
        tab,
        [tab.go.click, tab.name.submit],
        greet,
        [tab.count, tab.name, tab.said],
        sides=tab.sides,
        name=tab.name,
    )
    assert wired.fn.__name__ == "greet"
    assert wired.fn(None, 1, 2, "Ann") == [3, gr.skip(), "Ann (1, 2) local"]
    nested = {"name": tab.name, "sides": {"A": tab.sides}}
    both = listen(services, tab, wired.then, lambda *_, given: {tab.said: str(given)}, tab.said, given=nested)
    assert both.fn(None, "Ann", 1, 2) == str({"name": "Ann", "sides": {"A": (1, 2)}})
    only = listen(
        services, tab, wired.then, partial(greet, said="Hello "), [tab.said, tab.count], name=tab.name, sides=[]
    )
    assert only.fn(None, "Ann") == ["Hello Ann () local", 0]


def test_a_failure_is_shown_in_its_place_and_cleared_afterwards(services: FakeServices, tab: Tab) -> None:
    def steps(services: Any, visitor: Visitor, tab: Tab, *, name: str) -> Iterator[Updates]:
        yield {tab.count: 1}
        raise InputError(f"No name {EVIL}")

    def count(services: Any, visitor: Visitor, tab: Tab, *, name: str) -> Updates:
        return {tab.count: 1 / len(name)}

    wired = listen(services, tab, tab.go.click, count, tab.count, failure=tab.said, name=tab.name)
    assert wired.fn(None, "A") == [1.0, gr.update(value="", visible=False)]
    kept, said = wired.fn(None, "")
    assert kept == gr.skip()
    assert "our side" in said["value"]
    streamed = listen(services, tab, tab.go.click, steps, tab.count, failure=tab.said, name=tab.name)
    first, last = list(streamed.fn(None, ""))
    assert first == [1, gr.update(value="", visible=False)]
    assert "No name" in last[1]["value"]
    assert EVIL not in last[1]["value"]


def test_a_widget_that_is_no_output_is_not_written(services: FakeServices, tab: Tab) -> None:
    wired = listen(services, tab, tab.go.click, greet, tab.said, name=tab.name, sides=tab.sides)
    with pytest.raises(TypeError, match="greet writes"):
        wired.fn(None, "Ann", 1, 2)


def test_the_id_of_a_click_inside_html_comes_by_name_too(services: FakeServices, tab: Tab) -> None:
    def pick(services: Any, visitor: Visitor, tab: Tab, *, picked: str, name: str) -> Updates:
        return {tab.said: f"{picked} {name}"}

    wired = listen(services, tab, tab.go.click, pick, tab.said, picked=PICKED, name=tab.name)
    assert wired.fn(None, gr.EventData(None, {"id": 7}), "Ann") == "7 Ann"


def test_what_is_unasked_never_writes_a_widget_that_a_person_can_set(
    services: FakeServices, page: gr.Blocks, tab: Tab
) -> None:
    def draw(services: Any, visitor: Visitor, tab: Tab, *, updates: Any) -> Drawn:
        return dict(updates)

    with pytest.raises(TypeError, match="may not write"):
        unasked(services, tab, tab.timer.tick, draw, tab.name)
    for settable in (gr.File(), gr.Dataframe(), gr.Checkbox(), gr.Slider()):
        with pytest.raises(TypeError, match="may not write"):
            unasked(services, tab, tab.timer.tick, draw, [tab.said, settable])
    outputs = [tab.said, tab.kind, tab.first]
    wired = unasked(services, tab, tab.timer.tick, draw, outputs, updates=tab.count)
    opening = unasked(services, tab, page.load, draw, outputs, updates=tab.count)
    allowed = {tab.said: "said", tab.kind: Choices(["b"], label="Kind"), tab.first: Initial(["b"], value="b")}
    opened = gr.update(choices=["b"], value="b", interactive=True)
    assert opening.fn(None, allowed) == ["said", gr.update(choices=["b"], label="Kind"), opened]
    for value in ("b", gr.update(value="b"), gr.update(choices=["b"]), None, Initial(["b"], value="b")):
        with pytest.raises(TypeError, match="can be set by a person"):
            opening.fn(None, {tab.kind: value})
        with pytest.raises(TypeError, match="can be set by a person"):
            wired.fn(None, {tab.first: value})
