"""A verdict as the page shows it: how far it is, the answer with everything under it, the earlier ones, and what can be done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.evaluation.report import body_html
from playground.services.replay import Saved
from playground.ui import html, verdict_form, words
from playground.ui.failure import card
from playground.ui.figures import day, left, plural
from playground.ui.wiring import Visitor, slot

MOST_DIFFERENCES = 20
"""Examples that the page holds; all are in the files."""
FORMATS = {"html": "Report (HTML)", "jsonl": "Rows (JSONL)", "csv": "Rows (CSV)"}
MOST_LISTED = 20
_AWAY = gr.update(visible=False)


def pick(views: Sequence[Any], followed: str) -> Any:
    """The verdict to show: the followed one, else one that is measured now, else the newest."""
    by_id = {view.id: view for view in views}
    alive = next((view for view in views if view.state in words.VERDICT_LIVE), None)
    return by_id.get(followed) or alive or (views[0] if views else None)


def live_html(view: Any) -> str:
    """How far the shown verdict is, or why there is nothing to show of it."""
    if view is None:
        return f'<div class="empty">{html.esc(words.VERDICT_EMPTY)}</div>'
    label, kind = words.VERDICT_STATES.get(view.state, (view.state.capitalize(), "wait"))
    head = f'<div class="run-head"><h2>{html.esc(view.name)}</h2>{html.pill(label, kind)}</div>'
    if view.state not in words.VERDICT_LIVE:
        failed = html.error_card(view.error) if view.state == "FAILED" else html.note(view.error)
        link = f'<p class="note">{html.esc(day(view.created_s))} · <a href="?verdict={html.esc(view.id)}">A link that opens this verdict again</a></p>'
        return f'<div class="verdict-head">{head}{link}{failed if view.error else ""}</div>'
    done = f"{view.done:,} of {view.of:,}" if view.of else "not begun"
    return (
        f'<div class="verdict-head live">{head}{html.progress(view.done / view.of if view.of else 0, f"Measuring {view.name}")}'
        f'<div class="between"><span role="status">{html.esc(view.message)}</span><span>{done}'
        f"{html.esc(f', {left(view.seconds_left)}' if view.seconds_left is not None else '')}</span></div></div>"
    )


def list_html(views: Sequence[Any], shown: str) -> str:
    """Every verdict, newest first, each a button that brings it up."""
    if not views:
        return ""
    items = []
    for view in views[:MOST_LISTED]:
        label, kind = words.VERDICT_STATES.get(view.state, (view.state.capitalize(), "wait"))
        items.append(
            f'<li><button type="button" data-id="{html.esc(view.id)}" aria-pressed="{"true" if view.id == shown else "false"}">'
            f"<span><b>{html.esc(view.name)}</b><span class='q'>{html.esc(_when(view))}</span></span>{html.pill(label, kind)}</button></li>"
        )
    return f'<h2 class="small">Verdicts so far</h2><ul class="lib two-up">{"".join(items)}</ul>'


def _when(view: Any) -> str:
    """The moment is in the id: ``20261124-101500-v1a2b``."""
    parts = view.id.split("-")
    clock = f", {parts[1][:2]}:{parts[1][2:4]}" if len(parts) == 3 and parts[1].isdigit() else ""
    return f"{day(view.created_s)}{clock}"


def body(services: Any, visitor: Visitor, view: Any) -> str:
    """The report's pieces of an ended verdict; "" where nothing was measured."""
    whole = services.verdicts.show(view.id, visitor.owner)
    if whole.record is None:
        return ""
    return body_html(whole.record, services.verdicts.rows(view.id, visitor.owner), MOST_DIFFERENCES, replay=True)


def key_of(view: Any) -> tuple[str, ...]:
    """What the body and the buttons depend on."""
    return (view.id, view.state) if view is not None else ()


def controls(view: Any, made: str) -> list[Any]:
    """Stop, the row of files, Delete, its question, and Judge anew: each only while it can do something."""
    live = view is not None and view.state in words.VERDICT_LIVE
    ended = view is not None and not live
    return [
        gr.update(visible=live), gr.update(visible=bool(made)), gr.update(visible=ended), _AWAY, gr.update(visible=bool(made)),
    ]  # fmt: skip


CONTROLS = 5


def shown(services: Any, visitor: Visitor, followed: str) -> list[Any]:
    """Followed verdict, error, head, body, list, controls."""
    try:
        views = services.verdicts.views(visitor.owner)
        view = pick(views, followed)
        made = body(services, visitor, view) if view is not None and view.state not in words.VERDICT_LIVE else ""
    except Exception as error:
        return _wrong(followed, error)
    listed = slot(list_html(views, view.id if view else ""))
    return [view.id if view else "", slot(""), live_html(view), slot(made), listed, *controls(view, made)]


def _wrong(followed: str, error: Exception) -> list[Any]:
    return [followed, slot(card(error)), *[gr.skip()] * (3 + CONTROLS)]


def follow(services: Any, visitor: Visitor, picked: str) -> list[Any]:
    """A row of the list was pressed; the id is looked up among the visitor's own."""
    return shown(services, visitor, picked)


def opened(services: Any, visitor: Visitor, asked: str) -> list[Any]:
    """The page was opened, perhaps by a link to a verdict. Returns tabs, what ``shown`` does, and the form's fold."""
    found = shown(services, visitor, asked or "")
    asked_for = bool(asked) and found[0] == asked
    fold = gr.update(open=False) if found[0] else gr.skip()
    if asked and not asked_for:
        found[1] = slot(
            html.error_card("There is no such verdict of yours. It may have been deleted, or was measured in another browser.")
        )
    return [gr.update(selected="verdict") if asked else gr.skip(), *found, fold]


def stop(services: Any, visitor: Visitor, followed: str) -> Any:
    """Stop what is measured, and keep what there is. Returns an error."""
    try:
        view = pick(services.verdicts.views(visitor.owner), followed)
        if view is not None:
            services.verdicts.stop(view.id, visitor.owner)
    except Exception as error:
        return slot(card(error))
    return slot("")


def ask_remove(services: Any, visitor: Visitor, followed: str) -> list[Any]:
    """Returns the question's row, its words, and Delete."""
    try:
        view = pick(services.verdicts.views(visitor.owner), followed)
    except Exception:
        view = None
    if view is None:
        return [_AWAY, "", gr.skip()]
    text = f"Delete the verdict “{view.name}”? Its answers and figures go with it."
    return [gr.update(visible=True), html.note(text), _AWAY]


def remove(services: Any, visitor: Visitor, followed: str) -> list[Any]:
    """What ``shown`` returns, for what is left."""
    try:
        view = pick(services.verdicts.views(visitor.owner), followed)
        if view is not None:
            services.verdicts.remove(view.id, visitor.owner)
    except Exception as error:
        return _wrong(followed, error)
    return shown(services, visitor, "")


def export(services: Any, visitor: Visitor, how: str, followed: str) -> list[Any]:
    """The shown verdict as a file. Returns the hidden button that the page takes it from, and an error."""
    try:
        view = pick(services.verdicts.views(visitor.owner), followed)
        if view is None:
            raise InputError(words.VERDICT_EMPTY)
        file = services.verdicts.export(view.id, how, visitor.owner)
    except Exception as error:
        return [gr.update(value=None), slot(card(error))]
    return [gr.update(value=str(file)), slot("")]


def again(
    services: Any, visitor: Visitor, followed: str, volume: Any, changes: str, latency: Any, budget: Any, prices: str
) -> list[Any]:
    """The choice and the costs anew, from what was measured. Returns the body and an error."""
    try:
        questions, table = verdict_form.situation(volume, changes, latency, budget, prices)
        view = pick(services.verdicts.views(visitor.owner), followed)
        if view is None:
            raise InputError(words.VERDICT_EMPTY)
        services.verdicts.again(view.id, questions, table, visitor.owner)
        made = body(services, visitor, view)
    except Exception as error:
        return [gr.skip(), slot(card(error))]
    return [slot(made), slot(html.good("Judged anew by these answers and prices; nothing was asked again."))]


def replay(services: Any, visitor: Visitor, picked: str, followed: str) -> Any:
    """One reply once more, from its stamp. picked: ``example|place of its side``, from the page; looked up in the visitor's own rows."""
    try:
        view = pick(services.verdicts.views(visitor.owner), followed)
        whole = services.verdicts.show(view.id, visitor.owner) if view is not None else None
        number, _, place = picked.partition("|")
        if whole is None or whole.record is None or not (number.isdigit() and place.isdigit()):
            raise InputError("There is no such reply. Open the verdict again.")
        names = [one["side"] for one in whole.record["sides"]]
        rows = services.verdicts.rows(whole.id, visitor.owner)
        row = next(
            (one for one in rows if one["example"] == int(number) and names[int(place) : int(place) + 1] == [one["side"]]), None
        )
        if row is None or not row.get("stamp"):
            raise InputError("No stamp was kept for this reply, so it cannot be replayed.")
        what = f"Example {number}, {row['side']}"
        found = services.replay.again(Saved(row["stamp"], row["reply"], what), owner=visitor.owner, session=visitor.session)
    except Exception as error:
        return slot(card(error))
    return slot(replayed_html(what, found))


def replayed_html(what: str, found: dict[str, Any]) -> str:
    notes = "".join(html.note(text) for text in found["notes"])
    if found["same"]:
        return html.good(f"{what}: replayed, and the same text again, letter for letter.") + notes
    at = plural((found["first_difference"] or 0) + 1, "letter")
    said = f"{what}: replayed, and another text from {at} on."
    return html.error_card(said) + notes + f'<pre class="seen">{html.esc(found["text"])}</pre>'
