"""The whole page: layout first, then what happens when something is pressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from playground.evaluation import report
from playground.ui import (
    adapters,
    asking,
    compare,
    demo,
    header,
    race,
    runs,
    sidebar,
    storage,
    story,
    theme,
    train,
    verdict,
    watch,
    words,
)
from playground.ui.watch import Memo
from playground.ui.wiring import QUIET, Page, Visitor, bind

WIDE = 1200
"""Window width in pixels from which the Device panel opens by itself."""
_AT_ONCE = 16
"""Handlers of one kind that may run beside each other; the services queue what needs the device."""


def build_page(services: Any) -> gr.Blocks:
    """The playground. Start it with ``page.launch(**launch_options(), ...)``."""
    with Page(title=words.NAME, fill_width=True, analytics_enabled=False) as page:
        pill = header.build()
        with gr.Tabs(selected="compare", elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train"):
                training = train.build(services)
            with gr.Tab("Adapters", id="adapters"):
                library = adapters.build()
            with gr.Tab("Compare", id="compare"):
                sides = compare.build(services)
            with gr.Tab("Verdict", id="verdict"):
                judged = verdict.build(services)
        device = sidebar.build(services)
        with device.panel:
            disk = storage.build(services)
        storage.wire(services, disk)
        _wire(services, page, pill, tabs, training, library, sides, judged, device)
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


def jump_to_cancel(services: Any, visitor: Visitor, memo: Memo, followed: str) -> list[Any]:
    """From the Device panel to the one place that asks what to do with the run."""
    return [gr.update(selected="train"), *runs.ask_to_cancel(services, visitor, memo, followed)]


def _wire(
    services: Any, page: gr.Blocks, pill: gr.Button, tabs: gr.Tabs, training: train.TrainTab, library: adapters.AdaptersTab,
    sides: compare.CompareTab, judged: verdict.VerdictTab, device: sidebar.SidebarView,
) -> None:  # fmt: skip
    train.wire(services, training)
    adapters.wire(services, library)
    compare.wire(services, sides, training.uploaded)
    demo.wire(services, sides.demo)
    sidebar.wire(services, device)
    _cross(services, tabs, training, library, sides, device)

    memo, mark = gr.State(Memo()), gr.State("")
    verdict.wire(services, page, tabs, judged, training, mark)
    verdict.wire_carry(services, tabs, judged, sides, training)
    models = [view.model for view in sides.sides.values()]
    watched = [
        memo,
        training.followed,
        training.curves.others,
        library.chosen,
        library.active,
        judged.followed,
        judged.adapter,
        *models,
    ]
    timer = gr.Timer(watch.HURRIED_S, active=False)
    drawn = [
        memo, mark, pill, device.device, device.now, device.cancel, device.waiting, device.proved, sides.ask, sides.hospital, sides.demo.play,
        library.send, *training.run_outputs, *training.curves.outputs, *sides.demo.outputs, library.listing, *models, *[view.greyed for view in sides.sides.values()],
        judged.head, judged.body, judged.listing, *judged.controls, judged.adapter, timer,
    ]  # fmt: skip
    device.cancel.click(bind(services, jump_to_cancel), [memo, training.followed], [tabs, memo, *training.run_outputs], **QUIET)
    train.reread_on(mark.change, services, training)
    mark.change(
        bind(services, asking.relined),
        [sides.comparison, *sides.side_inputs],
        [view.line for view in sides.sides.values()],
        **QUIET,
    )
    timer.tick(bind(services, watch.tick), watched, drawn, **QUIET)
    width = gr.Number(visible="hidden", label="Window width")
    # What can be pressed is opened, and the timer started, by what follows the opening: nobody asks sides that have not got their models yet.
    raced, opened = training.race, page.load(bind(services, story.opening), training.uploaded, sides.opened, **QUIET)
    opened.then(bind(services, watch.tick), watched, drawn, **QUIET)
    opened.then(bind(services, race.opened), [raced.race, raced.sent, raced.which], [raced.fold, *raced.shown], **QUIET)
    page.load(bind(services, sidebar.choices), None, device.choices, **QUIET)
    page.load(open_panel, width, device.panel, js="() => [window.innerWidth]", **QUIET)


def _cross(
    services: Any, tabs: gr.Tabs, training: train.TrainTab, library: adapters.AdaptersTab, sides: compare.CompareTab,
    device: sidebar.SidebarView,
) -> None:  # fmt: skip
    """What reaches from one tab into another."""
    second = sides.sides["B"]
    models = [view.model for view in sides.sides.values()]
    used_with = [sides.comparison, sides.kind, sides.text, *sides.side_inputs]
    used = [tabs, sides.comparison, sides.board, second.column, second.chat, second.line, second.prompt, second.shots, *models]
    made = gr.State("")
    training.compare.click(bind(services, runs.adapter_of), training.followed, made, **QUIET).then(
        bind(services, story.use_as_side), [made, *used_with], used, **QUIET
    )
    race.wire_side(services, training.race, used_with, used)
    library.use.click(bind(services, story.use_as_side), [library.chosen, *used_with], used, **QUIET)
    training.uploaded.change(
        bind(services, story.sources), training.uploaded, [view.source for view in sides.sides.values()], **QUIET
    )
