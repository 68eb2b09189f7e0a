"""Replies of the model that a person uses today, as a side of a verdict: in a file, or in a column of the examples."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr

from playground.chat.compare import RECORDED, Side
from playground.errors import PlaygroundError
from playground.ui import html
from playground.ui.wiring import Dropdown, Initial, Updates, Visit, hidden_slot

IDEA = (
    "Its replies to these rows, from a log or an export: rows with prompt and reply, or with messages (OpenAI's form),"
    " joined by the prompt. Nobody is asked; the verdict says whether the tuned side is not worse."
)


class RecordedValues(TypedDict):
    """name: of the side, "" = the file's or the column's. column: of the examples, where no file was dropped. read,
    written: a million tokens, empty or 0 = not known."""

    name: str
    column: str | None
    read: float | None
    written: float | None


class RecordedView:
    """said: what the file holds for the rows that are judged by. values: what ``RecordedValues`` hold."""

    def __init__(self) -> None:
        number = partial(gr.Number, None, min_width=110)
        with gr.Accordion("Replies of the model you use today", open=False, elem_classes="recorded") as self.fold:
            gr.HTML(html.note(IDEA))
            look: dict[str, Any] = {"show_label": False, "height": 96, "elem_classes": "drop"}
            types = [".jsonl", ".csv", ".json", ".tsv", ".xlsx", ".parquet", ".ndjson", ".gz"]
            self.file = gr.File(label="Replies of the model you use today", file_types=types, **look)
            self.said = hidden_slot()
            hint = "Where they stand beside the answers."
            closed: dict[str, Any] = {"filterable": False, "interactive": False, "visible": False}
            self.column = Dropdown([], label="Or a column of the examples", info=hint, **closed)
            with gr.Row():
                look = {"info": "Empty: the file's.", "max_length": 60, "min_width": 110}
                self.name = gr.Textbox(label="Its name", **look)
                read = number(label="Price in", info="A million tokens.")
                written = number(label="Price out", info="Empty or 0: not known.")
        self.values = {"name": self.name, "column": self.column, "read": read, "written": written}


def side_of(file: Path | None, examples: Path | None, recorded: RecordedValues) -> Side | None:
    """The side of these values; None where nothing is recorded. examples: the file that a column is of."""
    column = (recorded["column"] or "") if file is None else ""
    file = file or (examples if column else None)
    if file is None:
        return None
    read, written = recorded["read"] or 0.0, recorded["written"] or 0.0
    prices, name = (read, written) if read or written else None, (recorded["name"] or "").strip()
    return Side(RECORDED, name=name, replies=file, column=column, prices=prices)


def columns(visit: Visit, view: RecordedView, file: Path, used: set[str]) -> Updates:
    """The columns of the examples that may hold replies: those that are no part of an example."""
    try:
        there = [name for name in visit.services.data.columns(file, visit.owner) if name not in used]
    except PlaygroundError:  # shown where the examples are chosen
        there = []
    choices = [("None", ""), *((name, name) for name in there)]
    return {view.column: Initial(choices, visible=bool(there), value="")}
