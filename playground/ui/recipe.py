"""The fold with a run's settings to take away, and to bring back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.services.recipe import KINDS, with_settings
from playground.ui import html, plan, words
from playground.ui.failure import card
from playground.ui.source import Source
from playground.ui.wiring import Visitor, slot

FORMS = [
    ("Command line", "command"),
    ("Settings file", "settings"),
    ("Axolotl file", "axolotl"),
    ("TRL script", "trl"),
]
LANGUAGES = {"command": "shell", "settings": "json", "axolotl": "yaml", "trl": "python"}
LIMIT_BYTES = 100_000


def show(services: Any, visitor: Visitor, kind: str, source: Source, name: str, method: str, *settings: Any) -> list[Any]:
    """Returns the text, the button to download it, and what is wrong."""
    away = gr.update(visible=False)
    if source.path is None or not source.good:
        return [away, away, slot(html.note(words.TRAIN_EMPTY))]
    try:
        text = services.training.recipe(plan.request_of(source, visitor.owner, name, method, *settings), kind)
        file = services.data.download(KINDS[kind], text, visitor.owner)
    except Exception as error:
        return [away, away, slot(card(error))]
    code = gr.update(value=text, language=LANGUAGES[kind], visible=True)
    return [code, gr.update(value=str(file), label=f"Download {file.name}", visible=True), slot("")]


def bring(services: Any, visitor: Visitor, uploaded: str | None, source: Source) -> list[Any]:
    """A settings file was given. Returns source, method, every setting and option of the form, and a message."""
    skip = [gr.skip()] * (2 + plan.FIELDS)
    if not uploaded:
        return [*skip, gr.skip()]
    if source.path is None:
        return [*skip, slot(html.note(words.TRAIN_EMPTY))]
    try:
        record = _read(services, visitor, Path(uploaded))
        request = with_settings(plan.request_of(source, visitor.owner, "", "lora", *plan.BLANK), record)
        values = plan.values_of(request)
    except Exception as error:
        return [*skip, slot(card(error))]
    source = plan.with_request(source, request)
    said = html.good(f"The settings of {Path(uploaded).name} are in the form.")
    return [source, request.method, *values, slot(said)]


def _read(services: Any, visitor: Visitor, path: Path) -> dict[str, Any]:
    path = services.data.handed_over(path, visitor.owner)
    if path.stat().st_size > LIMIT_BYTES:
        raise InputError(f"{path.name} is too large for a settings file. Download one here to see its form.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path.name} is no JSON ({error}). Download a settings file here to see its form.") from None
    if not isinstance(record, dict):
        raise InputError(f"{path.name} is no file of settings. Download one here to see its form.")
    return record
