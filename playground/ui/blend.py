"""The Blend fold of the Adapters tab: some of this adapter and some of that one, heard in the next reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.ui import html, library
from playground.ui.failure import card
from playground.ui.readiness import require
from playground.ui.wiring import Visitor, slot

MOST = 4
WAYS = [
    ("Linear: the weighted sum", "linear"),
    ("TIES: settle signs first", "ties"),
    ("DARE: drop a part at random", "dare"),
]
IDEA = "A blend adds the weighted changes of several LoRA adapters. It can mix manners; whether it keeps both is for your examples to say."


def offered(services: Any, visitor: Visitor) -> Any:
    """The adapters that can be blended, whenever the fold is opened."""
    rows = services.adapters.list(visitor.owner)
    return gr.update(
        choices=[(row.card.name, row.card.id) for row in rows if row.usable and row.card.method in ("lora", "qlora")]
    )


def chosen(services: Any, visitor: Visitor, ids: list[str]) -> list[Any]:
    """One slider for each that is chosen; all weigh the same until they are moved. Returns the sliders and the button."""
    ids = list(ids or [])[:MOST]
    names = {row.card.id: row.card.name for row in services.adapters.list(visitor.owner)}
    sliders = [
        gr.update(visible=True, label=f"How much of {names.get(ids[place], ids[place])}", value=round(1 / len(ids), 2))
        if place < len(ids)
        else gr.update(visible=False)
        for place in range(MOST)
    ]
    return [*sliders, gr.update(interactive=len(ids) > 1)]


def make(
    services: Any, visitor: Visitor, ids: list[str], how: str, name: str, made: str, active: str, *weights: float
) -> Iterator[list[Any]]:
    """Blend, in the place of the last blend of this tab, and make it active. Yields made, chosen, active, list and message."""
    yield [*[gr.skip()] * 4, slot(html.note("Blending; the first one takes some seconds."))]
    try:
        require(services)
        ids = list(ids or [])
        if len(ids) < 2:
            raise InputError("Choose two adapters or more to blend.")
        parts = dict(zip(ids, (float(weight) for weight in weights), strict=False))
        blended = services.adapters.blend(parts, how, name or "blend", visitor.owner)
        if made and made not in ids and any(row.card.id == made for row in services.adapters.list(visitor.owner)):
            services.adapters.remove(made, visitor.owner)
        services.adapters.switch(blended.id, visitor.owner)
    except Exception as error:
        yield [made, gr.skip(), active, gr.skip(), slot(card(error))]
        return
    said = html.good(f"{blended.name} is blended and active: the next reply comes from it.")
    yield [blended.id, blended.id, blended.id, library.show(services, visitor, blended.id, blended.id), slot(said)]


def moved(
    services: Any, visitor: Visitor, ids: list[str], how: str, name: str, made: str, active: str, *weights: float
) -> Iterator[list[Any]]:
    """A slider was let go: blend again, once there is a blend to hear. Yields what ``make`` does."""
    if not made:
        yield [gr.skip()] * 5
        return
    yield from make(services, visitor, ids, how, name, made, active, *weights)
