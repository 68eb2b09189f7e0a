"""More of a run than its loss: learning rate, gradient, speed and memory over its steps, and its loss beside that of other runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.ui import chart, html, runs, words
from playground.ui.failure import card
from playground.ui.figures import size
from playground.ui.wiring import QUIET, Dropdown, Visitor, bind, hidden_slot, slot

NONE = "Curves come with the first steps of a run."
_SMALL = (
    ("lr", "Learning rate", lambda value: f"{value:.1e}"),
    ("grad_norm", "Gradient norm", lambda value: f"{value:.2f}"),
    ("tokens_per_s", "Tokens a second", lambda value: f"{value:.0f}"),
    ("memory_bytes", "Memory, peak", size),
)


@dataclass(frozen=True)
class CurvesView:
    """shown: the small pictures. others: runs to lay over this one. laid: the picture of that."""

    shown: gr.HTML
    others: gr.Dropdown
    laid: gr.HTML
    take: dict[str, gr.Button]
    file: gr.DownloadButton
    error: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.shown, self.others, self.laid]


def build() -> CurvesView:
    with gr.Accordion("More curves, and other runs beside it", open=False, elem_classes="acc"):
        shown = gr.HTML(html.note(NONE))
        others = Dropdown([], value=[], multiselect=True, label="Lay over this run", max_choices=chart.COLOURS - 1)
        laid = gr.HTML("")
        with gr.Row(elem_classes="acts"):
            take = {
                how: gr.Button(label, size="sm")
                for how, label in (("csv", "Take them as CSV"), ("tensorboard", "As TensorBoard events"))
            }
            file = gr.DownloadButton("Download", size="sm", visible=False)
        error = hidden_slot()
    return CurvesView(shown, others, laid, take, file, error)


def wire(services: Any, view: CurvesView, followed: gr.State) -> None:
    view.others.change(bind(services, lay), [followed, view.others], view.laid, **QUIET)
    for how, button in view.take.items():
        button.click(bind(services, write, how), followed, [view.file, view.error], **QUIET)


def small_html(run: Any) -> str:
    """Four small pictures of one run."""
    drawn = [chart.small(label, run.curves.get(name, []), run.steps, show) for name, label, show in _SMALL] if run else []
    return f'<div class="small-charts">{"".join(drawn)}</div>' if any(drawn) else html.note(NONE)


def choices(listed: Sequence[Any], shown: Any, chosen: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Runs that have a curve, but for the one that is shown; and what is chosen, though it is gone, or shown."""
    others = [run for run in listed if run.loss and (shown is None or run.run != shown.run)]
    offered = [(f"{run.name}, {run.method}", run.run) for run in others]
    named, known = {run.run: run.name for run in listed}, {value for _, value in offered}
    return [*offered, *((named.get(run, f"{run}, {words.GONE}"), run) for run in chosen if run not in known)]


def laid_html(listed: Sequence[Any], shown: Any, others: Sequence[str]) -> str:
    """The shown run's loss and that of the chosen ones; "" while none is chosen."""
    chosen = [run for run in listed if run.run in others and (shown is None or run.run != shown.run)]
    if shown is None or not chosen:
        return ""
    return chart.overlay([(f"{run.name}, {run.method}", run.eval_loss or run.loss) for run in [shown, *chosen]])


def lay(services: Any, visitor: Visitor, followed: str, others: list[str]) -> str:
    """Other runs were chosen; ids are looked up among the visitor's own."""
    listed = services.training.runs(visitor.owner)
    return laid_html(listed, runs.pick(listed, followed), others or [])


def write(services: Any, visitor: Visitor, how: str, followed: str) -> list[Any]:
    """The shown run's curves as a file. Returns the button that hands it over, and an error."""
    try:
        run = runs.pick(services.training.runs(visitor.owner), followed)
        if run is None:
            raise InputError(NONE)
        file = services.training.curves(run.run, how, visitor.owner)
    except Exception as error:
        return [gr.update(visible=False), slot(card(error))]
    return [gr.update(value=str(file), label=f"Download {file.name[:40]}", visible=True), slot("")]
