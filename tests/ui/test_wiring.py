"""What every answer passes on its way to the page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from playground.services.container import Services
from playground.settings import Settings
from playground.ui.page import build_page
from playground.ui.wiring import AS_HTML, SETTABLE, Page
from tests.payloads import PAYLOADS


@pytest.fixture(scope="module")
def page(tiny_base: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    services = Services(Settings(home=tmp_path_factory.mktemp("home"), base=str(tiny_base)))
    yield build_page(services)
    services.close()


def answer(page: Page, listener: Any, *, bare: bool = False) -> list[Any]:
    """What reaches the page where a listener's handler writes the value of every widget; bare: the value alone, and not as an update."""

    def written(block: Any) -> Any:
        if not isinstance(block, SETTABLE):
            return gr.skip()
        return block.value if bare else {"__type__": "update", "value": block.value}

    values = [written(block) for block in listener.outputs]
    return asyncio.run(page.postprocess_data(listener, values[0] if len(values) == 1 else values, None))


def listeners(page: Page, *events: str) -> list[Any]:
    return [one for one in page.fns.values() if any(event in events for _, event in one.targets)]


def settable(listener: Any) -> list[tuple[int, Any]]:
    return [(place, block) for place, block in enumerate(listener.outputs) if isinstance(block, SETTABLE)]


def test_no_timer_and_no_opening_writes_the_value_of_a_widget_that_a_person_can_set(page: Page) -> None:
    written = 0
    for listener in (page.fns[id] for id in page.unasked):
        widgets = settable(listener)
        for bare in (False, True):
            sent = answer(page, listener, bare=bare) if widgets else []
            for place, block in widgets:
                written += 1
                opens = page.unasked[listener._id] and block.interactive is False
                assert ("value" in sent[place]) == opens, (listener.name, block.label)
                assert (sent[place].get("interactive") is True) == opens
    assert written > 60


def test_what_follows_from_a_timer_or_the_opening_is_known(page: Page) -> None:
    names = {page.fns[id].name for id in page.unasked}
    assert {one.name for one in listeners(page, "tick", "load")} <= names
    assert {"preset_times", "refresh", "read", "relined"} <= names, "what the base's mark sets off, and what comes after"
    assert not {"ask", "open_upload", "use_as_side", "retell"} & names, "a person asked for these"


def test_every_widget_that_the_opening_gives_its_value_is_closed_until_then(page: Page) -> None:
    asked = {block._id for one in page.fns.values() if one._id not in page.unasked for block in one.inputs}
    for listener in listeners(page, "load"):
        for _, block in settable(listener):
            assert block.interactive is False or block.visible is not True, (listener.name, block.label)
            assert block._id in asked or block.interactive is False


def test_an_answer_that_was_asked_for_passes_as_it_is(page: Page) -> None:
    retell = next(one for one in page.fns.values() if one.name == "retell")
    sent = answer(page, retell)
    assert all("value" in sent[place] for place, _ in settable(retell))


def test_no_answer_of_any_listener_brings_a_tag_that_is_not_the_apps_own(page: Page) -> None:
    text, listeners_ = (
        "".join(PAYLOADS),
        [one for one in page.fns.values() if any(isinstance(block, AS_HTML) for block in one.outputs)],
    )
    assert len(listeners_) > 100
    for listener in listeners_:
        for written in (lambda value: value, lambda value: {"__type__": "update", "value": value}):
            values: list[Any] = [gr.skip()] * len(listener.outputs)
            for place, block in enumerate(listener.outputs):
                if isinstance(block, AS_HTML):
                    values[place] = written(text if isinstance(block, gr.HTML) else [{"role": "assistant", "content": text}])
            sent = asyncio.run(page.postprocess_data(listener, values[0] if len(values) == 1 else values, None))
            assert "<" not in str(sent), listener.name


def test_what_the_page_is_built_with_is_as_safe(page: Page) -> None:
    built = [str(block.value) for block in page.blocks.values() if isinstance(block, AS_HTML) and block.value]
    assert len(built) > 20
    assert not any("&lt;" in value for value in built)
