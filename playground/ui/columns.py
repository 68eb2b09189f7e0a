"""The Columns fold of the Examples card: how the file is read, and which column is which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from playground.ui import html

ROLES = 4
"""Columns that can be mapped by hand; no format needs more."""
SURE = 0.8
"""From here on a guess is not asked about."""

READ_AS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Prompt and answer", ("prompt", "completion"), ("system", "input")),
    ("Conversation", ("messages",), ("system",)),
    ("A better and a worse answer", ("chosen", "rejected"), ("prompt", "system")),
    ("An answer and whether it is good", ("prompt", "completion", "label"), ("system",)),
    ("A conversation and whether it is good", ("messages", "label"), ("system",)),
    ("Raw text", ("text",), ()),
)
"""(what it is called, the roles it needs, the roles it may have)."""
_WORDS = {
    "prompt": "Prompt", "completion": "Answer", "system": "System prompt", "input": "Input", "messages": "Conversation",
    "chosen": "Better answer", "rejected": "Worse answer", "text": "Text", "label": "Good or bad",
}  # fmt: skip


def role_word(role: str) -> str:
    return _WORDS.get(role, role.capitalize())


def reading(mapping: Mapping[str, str]) -> str:
    """What a mapping reads the file as."""
    able = [(len(needs), name) for name, needs, extra in READ_AS if set(needs) <= set(mapping) <= {*needs, *extra}]
    return max(able)[1] if able else READ_AS[0][0]


def roles_of(name: str) -> tuple[str, ...]:
    """The roles of one way to read a file, those it needs first."""
    return next((*needs, *extra)[:ROLES] for called, needs, extra in READ_AS if called == name)


def completed(name: str, mapping: Mapping[str, str], columns: tuple[str, ...]) -> dict[str, str]:
    """A mapping for another way to read the file: what is known stays, what is needed takes the next free column."""
    needs, extra = next((needs, extra) for called, needs, extra in READ_AS if called == name)
    kept = {role: column for role, column in mapping.items() if role in (*needs, *extra)}
    free = [column for column in columns if column not in kept.values()]
    for role in needs:
        if role not in kept and free:
            kept[role] = free.pop(0)
    return kept


def swapped(before: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """A column has one role: whoever had the one that was chosen takes the one that became free."""
    mapping = dict(wanted)
    for role, column in wanted.items():
        if before.get(role) == column:
            continue
        for other in wanted:
            if other != role and mapping.get(other) == column and before.get(other) == column:
                if role in before:
                    mapping[other] = before[role]
                else:
                    del mapping[other]
    return mapping


def show(columns: tuple[str, ...], mapping: Mapping[str, str], roles: tuple[str, ...], sure: float, why: str) -> list[Any]:
    """Fold, the note in it, how it is read, and the columns of each role. A guess that is not sure opens the fold."""
    chosen = ", ".join(f"{column} → {role_word(role).lower()}" for role, column in mapping.items())
    unsure = not mapping or sure < SURE
    said = html.sentence(why) if why and mapping else ""
    note = f"{said} Please check: this is a guess." if unsure and mapping else said
    head = "Columns, please check" if unsure and mapping else "Columns"
    return [
        gr.update(label=f"{head}: {chosen or 'choose which is which'}", visible=bool(columns), open=unsure),
        html.note(f"{note} The file is read again at every change.".strip()),
        gr.update(value=reading(mapping) if mapping else None),
        *_dropdowns(columns, mapping, roles),
    ]


def hidden() -> list[Any]:
    return [gr.update(visible=False), "", gr.skip(), *[gr.update(visible=False)] * ROLES]


def _dropdowns(columns: tuple[str, ...], mapping: Mapping[str, str], roles: tuple[str, ...]) -> list[Any]:
    updates: list[Any] = []
    needs = next(needs for name, needs, _ in READ_AS if name == reading(mapping))
    for place in range(ROLES):
        if place < len(roles):
            role = roles[place]
            optional = role not in needs
            choices = [*(("none", ""),) * optional, *((column, column) for column in columns)]
            updates.append(
                gr.update(
                    label=role_word(role), choices=choices, value=mapping.get(role) or ("" if optional else None), visible=True
                )
            )
        else:
            updates.append(gr.update(visible=False))
    return updates
