"""The whole page: layout first, then what happens when something is pressed, and what its one timer draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.themes.utils import colors, fonts, sizes

from playground.library.adapters import AdapterCard
from playground.models.adapters import AdapterRow
from playground.report import report
from playground.runs.progress import RunView
from playground.services import Services
from playground.ui import adapters, compare, race, runs, servers, side, sidebar, train, verdict, verdict_shown, words
from playground.ui.asking import relined
from playground.ui.html import sentence_failure
from playground.ui.sidebar import Ready, ready
from playground.ui.verdict_form import adapters as verdict_adapters
from playground.ui.wiring import QUIET, Choices, Drawn, Memo, Page, Updates, Visit, listen, slot, unasked

WIDE = 1200
"""Window width in pixels from which the Device panel opens by itself."""
PACE_S = 2.0
HURRIED_S = 0.5
"""Between two ticks, and while the base is loading: nobody should wait for a button that could be pressed."""
_AT_ONCE = 16
"""Handlers of one kind that may run beside each other; the services queue what needs the device."""


class WholePage:
    """The page's parts. memo: what was sent last. mark: changes when another base is ready."""

    def __init__(self, services: Services) -> None:
        self.pill = sidebar.build_header()
        with gr.Tabs(selected="compare", elem_id="tabs") as self.tabs:
            with gr.Tab("Train", id="train"):
                self.training = train.TrainTab(services)
            with gr.Tab("Adapters", id="adapters"):
                self.library = adapters.AdaptersTab(shared=services.settings.shared)
            with gr.Tab("Compare", id="compare"):
                self.compare = compare.CompareTab()
            with gr.Tab("Verdict", id="verdict"):
                self.verdict = verdict.VerdictTab()
        self.device = sidebar.SidebarView(services)
        with self.device.panel:
            self.storage = sidebar.StorageView(services)
            self.servers = servers.ServersView(services)
        self.memo, self.mark, self.timer = gr.State(Memo()), gr.State(""), gr.Timer(HURRIED_S, active=False)
        device, shown = self.device, self.verdict.shown
        self.outputs: list[Block] = [self.memo, self.mark, self.timer, self.pill]
        self.outputs += [device.device, device.now, device.cancel, device.waiting, device.proved, device.stop]
        self.outputs += [self.compare.ask, self.compare.hospital, self.library.send, self.library.listing]
        self.outputs += [*self.training.run_outputs, *self.training.curves.outputs, *self.compare.demo.outputs]
        self.outputs += self.compare.of_sides("model", "greyed")
        kept = (self.verdict.followed, self.verdict.shown_error)
        self.outputs += [*(one for one in shown if one not in kept), self.verdict.adapter]
        self.inputs: dict[str, Any] = {
            "followed": self.training.followed,
            "laid": self.training.curves.others,
            "chosen": self.library.chosen,
            "active": self.library.active,
            "judged": self.verdict.followed,
            "fault": self.verdict.fault,
            "tuned": self.verdict.adapter,
            "models": {letter: view.model for letter, view in self.compare.sides.items()},
        }


def build_page(services: Services) -> Page:
    """The playground. Start it with ``page.launch(**launch_options(), ...)``."""
    with Page(title=words.NAME, fill_width=True, analytics_enabled=False) as page:
        _wire(services, page, WholePage(services))
    assert isinstance(page, Page)
    page.seal()
    gr.set_static_paths([services.settings.exports_dir])  # what Export hands out, each in a folder with a random name
    page.queue(default_concurrency_limit=_AT_ONCE)
    return page


def _wire(services: Services, page: gr.Blocks, tab: WholePage) -> None:
    training, uploaded = tab.training, tab.training.uploaded
    train.wire(services, training)
    adapters.wire(services, tab.library)
    compare.wire(services, tab.compare, uploaded)
    sidebar.wire(services, tab.device, page)
    sidebar.wire_storage(services, tab.storage)
    servers.wire(services, tab.servers, page)
    _cross(services, tab)
    verdict.wire(services, page, tab.tabs, tab.verdict, training, tab.mark)
    verdict.wire_carry(services, tab.tabs, tab.verdict, tab.compare, training)
    train.reread_on(tab.mark.change, services, training)
    unasked(services, tab.compare, tab.mark.change, relined, tab.compare.of_sides("line", "think"))
    ticks = partial(unasked, services, tab)
    ticks(tab.timer.tick, tick, tab.outputs, **tab.inputs)
    # What can be pressed is opened, and the timer started, by what follows the opening: nobody asks sides that have not
    # got their models yet.
    opened = compare.wire_opening(services, tab.compare, page.load, uploaded)
    ticks(opened.then, tick, tab.outputs, **tab.inputs)
    unasked(services, training.race, opened.then, race.opened, training.race.shown)
    width = gr.Number(visible="hidden", label="Window width")
    page.load(open_panel, width, tab.device.panel, js="() => [window.innerWidth]", **QUIET)


def _cross(services: Services, tab: WholePage) -> None:
    training, raced = tab.training, tab.training.race
    jumped = [tab.tabs, tab.memo, *training.run_outputs]
    listen(services, tab, tab.device.cancel.click, jump_to_cancel, jumped, followed=training.followed)
    made = listen(services, training, training.compare.click, runs.adapter_of, training.made)
    chosen = listen(services, raced, raced.table.pick, race.side_of, raced.chosen, failure=raced.error)
    used = tab.library.use.click
    for event, adapter in (made.then, training.made), (chosen.then, raced.chosen), (used, tab.library.chosen):
        compare.wire_use(services, event, tab.tabs, tab.compare, adapter)


def open_panel(width: float | None) -> dict[str, Any]:
    return gr.update(open=True) if width and width >= WIDE else gr.skip()


def jump_to_cancel(visit: Visit, tab: WholePage, *, memo: Memo, followed: str) -> Updates:
    """From the Device panel to the one place that asks what to do with the run."""
    memory, drawn = runs.ask_to_cancel(visit, tab.training, memo=memo, followed=followed)
    return {tab.tabs: gr.update(selected="train"), tab.memo: memory, **dict(drawn.items())}


@dataclass(frozen=True)
class _Reading(Visit):
    """What one tick reads; each service is asked once."""

    @cached_property
    def runs(self) -> Sequence[RunView]:
        return self.services.training.runs(self.owner)

    @cached_property
    def adapters(self) -> Sequence[AdapterRow]:
        return self.services.adapters.list(self.owner)

    @cached_property
    def usable(self) -> Sequence[AdapterCard]:
        learning = self.services.adapters.learning(self.owner)
        return [row.card for row in self.adapters if row.usable] + list(learning)


def tick(
    visit: Visit,
    tab: WholePage,
    *,
    memo: Memo,
    followed: str,
    laid: list[str] | None,
    chosen: str,
    active: str,
    judged: str,
    fault: str,
    tuned: str,
    models: dict[str, str],
) -> Drawn:
    """Whatever has changed. followed, laid: the run that is shown and those beside it. chosen, active: adapters of the
    library. judged, fault: the verdict that is shown, and which of its
    examples. tuned: the adapter in its form. models: of the sides, by letter."""
    memo, reading, now = Memo(memo), _Reading(**vars(visit)), ready(visit.services)
    pace = PACE_S if now.yes else HURRIED_S
    drawn = memo.fresh("base", {tab.mark: now.mark, tab.timer: gr.update(value=pace, active=True)})
    parts: dict[str, Callable[[], Drawn]] = {
        "device": lambda: memo.fresh("device", _device(reading, tab)),
        "ready": lambda: memo.fresh("ready", _readiness(now, tab)),
        "run": lambda: _run(reading, tab.training, memo, followed),
        "curves": lambda: memo.fresh("curves", _curves(reading, tab.training, followed, laid or [])),
        "demo": lambda: memo.fresh("demo", compare.show(visit, tab.compare.demo)),
        "adapters": lambda: memo.fresh("adapters", _adapters(reading, tab, chosen, active, models)),
        "verdict": lambda: _verdict(reading, tab.verdict, memo, judged, fault, tuned),
    }
    for name, part in parts.items():
        try:
            drawn |= part()
        except Exception as error:  # a part that fails leaves the others alone; it is logged once
            if f"{name}-error" not in memo:
                memo[f"{name}-error"] = sentence_failure(error)
    return {**drawn, tab.memo: memo}


def _device(reading: _Reading, tab: WholePage) -> Drawn:
    device, status = reading.services.device, reading.services.device.status()
    live = [run for run in reading.runs if run.state in words.LIVE]
    answering = any(lease["lane"] != "train" for lease in status["leases"])
    return {
        tab.pill: device.line(reading.owner),
        tab.device.device: sidebar.device_html(status),
        tab.device.now: sidebar.now_html(live, answering),
        tab.device.cancel: gr.update(visible=bool(live)),
        tab.device.waiting: sidebar.waiting_html(status["queue"]),
        tab.device.proved: sidebar.base_html(status["base"]),
        tab.device.stop: gr.update(visible=reading.services.bases.fetching),
    }


def _readiness(now: Ready, tab: WholePage) -> Drawn:
    """Ask and the hospital example say why while they cannot be pressed; Play and Send are only greyed."""
    why = now.words if len(now.words) <= words.SHORT else words.BASE_MISSING
    labels = {
        tab.compare.ask: words.ASK if now.yes else why,
        tab.compare.hospital: words.HERO_ASK if now.yes else why,
        tab.compare.demo.play: words.STORY_PLAY,
        tab.library.send: "Send",
    }
    return {button: gr.update(value=text, interactive=now.yes) for button, text in labels.items()}


def _run(reading: _Reading, tab: train.TrainTab, memo: Memo, followed: str) -> Drawn:
    """The card, the list, and the buttons: those only when the run or its state is another."""
    run = runs.pick(reading.runs, followed)
    rows = runs.list_html(reading.runs, run.run if run else "")
    drawn = memo.fresh("run", {tab.run: runs.card_html(run), tab.listing: slot(rows)})
    if memo.changed("run-buttons", runs.buttons_key(run, reading.runs)):
        drawn |= runs.buttons(tab, run, reading.runs)
    return drawn


def _curves(reading: _Reading, tab: train.TrainTab, followed: str, laid: list[str]) -> Drawn:
    run = runs.pick(reading.runs, followed)
    return {
        tab.curves.shown: runs.small_html(run),
        tab.curves.others: Choices(runs.choices(reading.runs, run, laid)),
        tab.curves.laid: runs.laid_html(reading.runs, run, laid),
    }


def _adapters(reading: _Reading, tab: WholePage, chosen: str, active: str, models: dict[str, str]) -> Drawn:
    """The library, and every side's choice of models with what cannot be chosen."""
    choices, greyed = side.model_choices(reading.services, reading.usable), slot(side.greyed_html(reading.adapters))
    drawn: Drawn = {tab.library.listing: adapters.list_html(reading.adapters, chosen, active)}
    for letter, view in tab.compare.sides.items():
        drawn[view.model] = Choices(side.with_chosen(reading, choices, models[letter]))
        drawn[view.greyed] = greyed
    return drawn


def _verdict(reading: _Reading, tab: verdict.VerdictTab, memo: Memo, followed: str, fault: str, tuned: str) -> Drawn:
    """The shown verdict's head, the list and the adapters to choose from; the body and buttons only when the verdict or
    its state is another, since the body holds every reply."""
    views = reading.services.verdicts.views(reading.owner)
    view = verdict_shown.pick(views, followed)
    drawn: Drawn = {}
    if memo.get("verdict-key", ()) != (key := verdict_shown.key_of(view)):
        made = verdict_shown.body(reading, view, fault) if view and not view.live else ""
        memo["verdict-key"] = key
        drawn = {tab.body: slot(made), **verdict_shown.controls(tab, view, made)}
    rows = verdict_shown.list_html(views, view.id if view else "")
    choices = side.with_chosen(reading, verdict_adapters(reading.adapters), tuned)
    shown: Drawn = {tab.head: verdict_shown.live_html(view), tab.listing: slot(rows), tab.adapter: Choices(choices)}
    return drawn | memo.fresh("verdict", shown)


# How it looks


def launch_options() -> dict[str, Any]:
    """What ``launch`` takes of the page's look."""
    here = Path(__file__).parent
    return {
        "theme": look(),
        "css": (here / "theme.css").read_text(encoding="utf-8") + report.STYLE,
        "js": (here / "page.js").read_text(encoding="utf-8"),
        "head": '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">',
        "footer_links": [],
    }


def _hue(name: str, shades: str) -> colors.Color:
    """shades: eleven, from the lightest to the darkest."""
    steps = ("50", "100", "200", "300", "400", "500", "600", "700", "800", "900", "950")
    return colors.Color(name=name, **{f"c{step}": f"#{one}" for step, one in zip(steps, shades.split(), strict=True)})


_PINE = _hue("pine", "E8F3F1 D3E9E5 A9D5CD 7CBFB4 46A297 1C8379 0B6B63 09564F 08443F 063430 03211E")
_INK = _hue("ink", "F4F7F6 E9EEED DAE2E0 BFCBC8 8B9A96 66756F 51605B 37443F 1E2926 151E1B 0D1412")

_SANS = (fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
_MONO = (fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace")

_PAIRS = {
    ("#F4F7F6", "#0D1412"): "body_background_fill",
    ("#FFFFFF", "#151E1B"): "background_fill_primary block_background_fill"
    " button_secondary_background_fill button_cancel_background_fill",
    ("#F4F7F6", "#111917"): "background_fill_secondary",
    ("#DAE2E0", "#2A3733"): "border_color_primary block_border_color",
    ("none", "none"): "block_shadow",
    ("transparent", "transparent"): "block_label_background_fill",
    ("0px", "0px"): "block_label_border_width",
    ("#E8F3F1", "#12322E"): "color_accent_soft checkbox_label_background_fill_selected",
    ("#14201D", "#E6EEEB"): "body_text_color block_title_text_color"
    " checkbox_label_text_color_selected button_secondary_text_color",
    ("#51605B", "#A3B3AE"): "body_text_color_subdued block_label_text_color block_info_text_color",
    ("#0B6B63", "#5CC4B7"): "link_text_color checkbox_background_color_selected checkbox_label_border_color_selected"
    " slider_color loader_color button_primary_background_fill button_primary_border_color",
    ("#FFFFFF", "#0D1412"): "input_background_fill",
    ("#7C8B87", "#6E7F79"): "input_border_color checkbox_border_color button_secondary_border_color",
    ("1px", "1px"): "input_border_width button_border_width",
    ("*primary_600", "*primary_400"): "input_border_color_focus",
    ("0 0 0 3px rgba(11, 107, 99, .18)", "0 0 0 3px rgba(70, 162, 151, .3)"): "input_shadow_focus",
    ("#66756F", "#8B9A96"): "input_placeholder_color",
    ("#09564F", "#7AD2C7"): "button_primary_background_fill_hover",
    ("#FFFFFF", "#03211E"): "button_primary_text_color button_primary_text_color_hover",
    ("#E8F3F1", "#1E2926"): "button_secondary_background_fill_hover",
    ("#FBEBE9", "#2B1917"): "button_cancel_background_fill_hover",
    ("#A3281F", "#FF9C91"): "button_cancel_border_color button_cancel_text_color",
}
"""A value in light and in dark -> the theme's variables that have it. Contrasts are AA or better."""


def look() -> gr.themes.Base:
    """Colours, type and spacing: cool paper and pine. What Gradio's theme cannot say is in theme.css."""
    theme = gr.themes.Base(
        primary_hue=_PINE,
        secondary_hue=_PINE,
        neutral_hue=_INK,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=_SANS,
        font_mono=_MONO,
    )
    pairs = [(name, *shades) for shades, names in _PAIRS.items() for name in names.split()]
    return theme.set(
        **{name: light for name, light, _ in pairs},
        **{f"{name}_dark": dark for name, _, dark in pairs},
        color_accent="#0B6B63",  # it has no dark value: theme.css sets that one
        layout_gap="12px",
        block_padding="12px",
        block_border_width="1px",
        block_title_text_weight="700",
        block_title_text_size="*text_sm",
        section_header_text_weight="700",
        chatbot_text_size="15px",
        input_shadow="none",
        button_large_text_size="15px",
        button_large_padding="9px 18px",
        # IBM Plex comes in the wheel whole in 400 and 700 only
        button_large_text_weight="700",
        button_medium_text_weight="700",
        button_small_text_weight="700",
    )
