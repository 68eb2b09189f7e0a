"""The widgets of the Examples card of the Train tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.data.read import EXTENSIONS
from playground.ui import columns, edit, examples, html, storage, words
from playground.ui.wiring import CheckboxGroup, Dropdown, hidden_slot


def build(services: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="card"):
        parts["heading"] = gr.HTML(examples.heading(done=False))
        parts["file"] = gr.File(
            label="Files of examples", show_label=False, height=104, elem_classes="drop", file_count="multiple",
            file_types=list(EXTENSIONS),
        )  # fmt: skip
        if services.settings.shared:
            gr.HTML(html.note(storage.notice(services.settings)))
        gr.HTML(html.note(f"Takes {', '.join(EXTENSIONS)}, one or several. Or start with one of ours:"))
        with gr.Row(elem_classes="acts"):
            parts["sets"] = {one.id: gr.Button(one.title, size="sm") for one in services.data.sets()}
        with gr.Column(elem_classes="folds"), gr.Accordion("Or paste rows", open=False):
            parts["pasted"] = gr.Textbox(
                label="Rows",
                lines=5,
                max_lines=12,
                placeholder="Cells copied from a sheet, JSON lines, or plain text",
                show_label=False,
            )
            parts["paste"] = gr.Button("Read what I pasted", size="sm")
        parts["error"] = hidden_slot()
        parts["facts"] = hidden_slot()
        parts["advice"] = hidden_slot()
        with gr.Column(elem_classes="folds"):
            parts |= _columns_fold() | _rows_fold() | _lengths_fold() | _preview_fold() | _edit_fold()
    return parts


def _columns_fold() -> dict[str, Any]:
    with gr.Accordion("Columns", open=False, visible=False) as fold:
        note = gr.HTML("")
        read_as = gr.Dropdown([name for name, _, _ in columns.READ_AS], label="What each row is", min_width=140)
        with gr.Row():
            roles = [Dropdown([], label="Column", visible=False, min_width=140) for _ in range(columns.ROLES)]
    return {"columns": fold, "columns_note": note, "read_as": read_as, "roles": roles}


def _rows_fold() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Accordion(words.BAD_NONE, open=False, visible=False) as fold:
        parts["bad_rows"] = gr.HTML("")
        parts["kinds"] = CheckboxGroup([], label="Leave out of training", visible=False)
        with gr.Row(elem_classes="acts") as takes:
            parts["take_bad"] = gr.Button("Take the bad rows away as CSV", size="sm")
            parts["take_good"] = gr.Button("Take the good rows away as JSONL", size="sm")
        with gr.Row(elem_classes="acts"):
            parts["bad_file"] = gr.DownloadButton("Download", size="sm", visible=False)
            parts["good_file"] = gr.DownloadButton("Download", size="sm", visible=False)
    return parts | {"bad": fold, "takes": takes}


def _lengths_fold() -> dict[str, Any]:
    with gr.Accordion("Lengths", open=False, visible=False) as fold:
        shown = gr.HTML("")
    return {"lengths": fold, "lengths_shown": shown}


def _preview_fold() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Accordion("What the model really sees", open=False, visible=False) as fold:
        parts["turns"] = gr.Radio(
            [("Learn every answer of a chat", "all"), ("Learn the last answer only", "last")], value="all", visible=False,
            label="Which answers are learned", container=False, show_label=False,
        )  # fmt: skip
        parts["seen"] = gr.HTML("")
        with gr.Row(elem_classes="acts"):
            parts["before"] = gr.Button("Previous", size="sm")
            parts["after"] = gr.Button("Next", size="sm")
            parts["place"] = gr.HTML("")
    return parts | {"preview": fold}


def _edit_fold() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Accordion("Edit rows", open=False, visible=False) as fold:
        parts["edit_which"] = gr.Radio(
            [edit.BAD, edit.ALL], value=edit.BAD, label="Which rows", container=False, show_label=False
        )
        parts["table"] = gr.Dataframe(
            interactive=True, wrap=True, show_label=False, label="Rows", max_height=360, elem_classes="edit-table"
        )
        with gr.Row(elem_classes="acts"):
            parts["edit_save"] = gr.Button("Save the changes", size="sm", variant="primary")
            parts["edit_before"] = gr.Button("Previous rows", size="sm")
            parts["edit_after"] = gr.Button("Next rows", size="sm")
            parts["edit_place"] = gr.HTML("")
        parts["edit_error"] = hidden_slot()
    return parts | {"edit": fold}
