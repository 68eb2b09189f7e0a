"""The whole page: layout first, then what happens when something is pressed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from playground.report import report
from playground.services import Services
from playground.ui import adapters, compare, race, runs, sidebar, storage, story, theme, train, verdict, watch, words
from playground.ui.watch import Memo, Watched
from playground.ui.wiring import QUIET, Page, Updates, Visitor, listen, unasked

WIDE = 1200
"""Window width in pixels from which the Device panel opens by itself."""
_AT_ONCE = 16
"""Handlers of one kind that may run beside each other; the services queue what needs the device."""


def build_page(services: Services) -> gr.Blocks:
    """The playground. Start it with ``page.launch(**launch_options(), ...)``."""
    with Page(title=words.NAME, fill_width=True, analytics_enabled=False) as page:
        pill = sidebar.build_header()
        with gr.Tabs(selected="compare", elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train"):
                training = train.build(services)
            with gr.Tab("Adapters", id="adapters"):
                library = adapters.build()
            with gr.Tab("Compare", id="compare"):
                sides = compare.build(services)
            with gr.Tab("Verdict", id="verdict"):
                judged = verdict.build()
        device = sidebar.build(services)
        with device.panel:
            disk = storage.build(services)
        storage.wire(services, disk)
        memo, mark, timer = gr.State(Memo()), gr.State(""), gr.Timer(watch.HURRIED_S, active=False)
        _wire(services, page, tabs, Watched(memo, mark, timer, pill, device, training, library, sides, judged))
    page.seal()
    gr.set_static_paths([services.settings.exports_dir])  # what Export hands out, each in a folder with a random name
    page.queue(default_concurrency_limit=_AT_ONCE)
    return page


def launch_options() -> dict[str, Any]:
    """What ``launch`` takes of the page's look."""
    here = Path(__file__).parent
    return {
        "theme": theme.build(),
        "css": (here / "theme.css").read_text(encoding="utf-8") + report.STYLE,
        "js": (here / "page.js").read_text(encoding="utf-8"),
        "head": '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">',
        "footer_links": [],
    }


def open_panel(width: float | None) -> Any:
    return gr.update(open=True) if width and width >= WIDE else gr.skip()


def jump_to_cancel(
    services: Services, visitor: Visitor, tab: Watched, *, tabs: gr.Tabs, memo: Memo, followed: str
) -> Updates:
    """From the Device panel to the one place that asks what to do with the run."""
    memory, drawn = runs.ask_to_cancel(services, visitor, tab.training, memo=memo, followed=followed)
    return {tabs: gr.update(selected="train"), tab.memo: memory, **dict(drawn.items())}


def hear(services: Services, visitor: Visitor, made: gr.State, *, followed: str) -> Updates:
    return {made: runs.adapter_of(services, visitor, followed)}


def _wire(services: Services, page: gr.Blocks, tabs: gr.Tabs, tab: Watched) -> None:
    train.wire(services, tab.training)
    adapters.wire(services, tab.library)
    compare.wire(services, tab.compare, tab.training.uploaded)
    story.wire(services, tab.compare.demo)
    sidebar.wire(services, tab.device, page)
    _cross(services, tabs, tab)
    verdict.wire(services, page, tabs, tab.verdict, tab.training, tab.mark)
    verdict.wire_carry(services, tabs, tab.verdict, tab.compare, tab.training)
    train.reread_on(tab.mark.change, services, tab.training)
    compare.wire_relined(services, tab.compare, tab.mark.change)
    unasked(services, tab.timer.tick, watch.tick, tab, tab.outputs, **tab.inputs)
    # What can be pressed is opened, and the timer started, by what follows the opening: nobody asks sides that have not
    # got their models yet.
    opened = compare.wire_opening(services, tab.compare, page.load, tab.training.uploaded)
    unasked(services, opened.then, watch.tick, tab, tab.outputs, **tab.inputs)
    raced = tab.training.race
    unasked(services, opened.then, race.opened, raced, raced.shown, race=raced.race, which=raced.which)
    width = gr.Number(visible="hidden", label="Window width")
    page.load(open_panel, width, tab.device.panel, js="() => [window.innerWidth]", **QUIET)


def _cross(services: Services, tabs: gr.Tabs, tab: Watched) -> None:
    """What reaches from one tab into another."""
    training, raced, made = tab.training, tab.training.race, gr.State("")
    jump = partial(jump_to_cancel, tabs=tabs)
    outputs = [tabs, tab.memo, *training.run_outputs]
    listen(services, tab.device.cancel.click, jump, tab, outputs, memo=tab.memo, followed=training.followed)
    heard = listen(services, training.compare.click, hear, made, made, followed=training.followed)
    for event, adapter in (
        (heard.then, made),
        (race.wire_side(services, raced).then, raced.chosen),
        (tab.library.use.click, tab.library.chosen),
    ):
        compare.wire_use(services, event, tabs, tab.compare, adapter)
    sources = tab.compare.of_sides("source")
    listen(services, training.uploaded.change, story.sources, tab.compare, sources, uploaded=training.uploaded)
