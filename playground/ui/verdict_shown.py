"""A verdict as the page shows it: its progress, the report, the earlier ones, and what can be done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr

from playground.chat.programs import Saved
from playground.errors import InputError
from playground.report.report import FAULTS, body_html
from playground.ui import html, verdict_form, words
from playground.ui.verdict_form import SituationValues
from playground.ui.wiring import AWAY, Choices, Drawn, Updates, Visit, slot
from playground.verdict.service import VerdictView

if TYPE_CHECKING:
    from playground.ui.verdict import VerdictTab

MOST_DIFFERENCES = 20
"""Examples that the page holds; all are in the files."""
FORMATS = {"html": "Report (HTML)", "jsonl": "Rows (JSONL)", "csv": "Rows (CSV)"}
MOST_LISTED = 20
live_html, replayed_html, _verdicts = (html.piece("verdict", name) for name in ("verdict", "replayed", "verdicts"))
ELSEWHERE = "There is no such verdict of yours. It may have been deleted, or was measured in another browser."


def pick(views: Sequence[VerdictView], followed: str) -> VerdictView | None:
    """The verdict to show: the followed one, else one that is measured now, else the newest."""
    return min(views, key=lambda view: (view.id != followed, not view.live), default=None)


def list_html(views: Sequence[VerdictView], shown: str) -> str:
    """Every verdict, newest first, each a button that brings it up."""
    return _verdicts(views[:MOST_LISTED], shown)


def body(visit: Visit, view: VerdictView, fault: str = "") -> str:
    """The report's pieces of an ended verdict; "" where nothing was measured. fault: only examples on which some side
    has it."""
    whole = visit.services.verdicts.show(view.id, visit.owner)
    if whole.record is None:
        return ""
    rows = visit.services.verdicts.rows(view.id, visit.owner)
    return body_html(whole.record, rows, MOST_DIFFERENCES, replay=True, fault=fault if fault in FAULTS else "")


def key_of(view: VerdictView | None) -> tuple[str, ...]:
    """What the body and the buttons depend on."""
    return (view.id, view.state, str(view.look)) if view is not None else ()


def controls(tab: VerdictTab, view: VerdictView | None, made: str) -> Drawn:
    """Each button only while it can do something. made: the report."""
    live = view is not None and view.live
    return {
        tab.stop: gr.update(visible=live),
        tab.files: gr.update(visible=bool(made)),
        tab.delete: gr.update(visible=view is not None and not live),
        tab.question: AWAY,
        tab.again: gr.update(visible=bool(made)),
        tab.fault: Choices(visible=bool(made)),
        tab.extend: gr.update(visible=bool(made) and view is not None and view.may_grow),
        tab.rejoin: gr.update(visible=bool(made) and view is not None and bool(view.failed)),
    }


def shown(visit: Visit, tab: VerdictTab, *, followed: str, fault: str) -> Drawn:
    """followed: also a text that the page made up; it is looked up among the visitor's own."""
    views = visit.services.verdicts.views(visit.owner)
    view = pick(views, followed)
    made = body(visit, view, fault) if view is not None and not view.live else ""
    return {
        tab.followed: view.id if view else "",
        tab.head: live_html(view),
        tab.body: slot(made),
        tab.listing: slot(list_html(views, view.id if view else "")),
        **controls(tab, view, made),
    }


def filtered(visit: Visit, tab: VerdictTab, *, followed: str, fault: str) -> Updates:
    return {tab.body: slot(body(visit, _followed(visit, followed), fault))}


def extend(visit: Visit, tab: VerdictTab, *, rows: int | None, followed: str) -> Updates:
    """rows: up to so many in all, None = the maximum that was stated; 0 = what sides that failed did not answer."""
    request = visit.services.verdicts.extension(_followed(visit, followed).id, rows, visit.owner)
    return {tab.followed: visit.services.verdicts.start(request)}


def opened(visit: Visit, tab: VerdictTab, *, tabs: gr.Tabs, asked: str) -> Drawn:
    """The page was opened, perhaps by a link to a verdict."""
    found = shown(visit, tab, followed=asked or "", fault="")
    if found[tab.followed]:
        found[tab.fold] = gr.update(open=False)
    if asked:
        found[tabs] = gr.update(selected="verdict")
        if found[tab.followed] != asked:
            found[tab.shown_error] = slot(html.error_card(ELSEWHERE))
    return found


def _followed(visit: Visit, followed: str) -> VerdictView:
    """The visitor's verdict that is shown. Raises InputError where there is none."""
    view = pick(visit.services.verdicts.views(visit.owner), followed)
    if view is None:
        raise InputError(words.VERDICT_EMPTY)
    return view


def stop(visit: Visit, tab: VerdictTab, *, followed: str) -> Updates:
    visit.services.verdicts.stop(_followed(visit, followed).id, visit.owner)
    return {}


def ask_remove(visit: Visit, tab: VerdictTab, *, followed: str) -> Updates:
    view = pick(visit.services.verdicts.views(visit.owner), followed)
    if view is None:
        return {tab.question: AWAY}
    text = f"Delete the verdict “{view.name}”? Its answers and figures go with it."
    return {tab.question: gr.update(visible=True), tab.ask: html.note(text), tab.delete: AWAY}


def keep(visit: Visit, tab: VerdictTab) -> Updates:
    return {tab.question: AWAY, tab.delete: gr.update(visible=True)}


def remove(visit: Visit, tab: VerdictTab, *, followed: str, fault: str) -> Drawn:
    view = pick(visit.services.verdicts.views(visit.owner), followed)
    if view is not None:
        visit.services.verdicts.remove(view.id, visit.owner)
    return shown(visit, tab, followed="", fault=fault)


def export(visit: Visit, tab: VerdictTab, *, how: str, followed: str) -> Updates:
    """The shown verdict as a file, in the hidden button that the page takes it from."""
    file = visit.services.verdicts.export(_followed(visit, followed).id, how, visit.owner)
    return {tab.file: gr.update(value=str(file))}


def again(visit: Visit, tab: VerdictTab, *, followed: str, situation: SituationValues, fault: str) -> Updates:
    """The choice and the costs anew, from what was measured."""
    asked, prices = verdict_form.questions(situation)
    view = _followed(visit, followed)
    visit.services.verdicts.again(view.id, asked, prices, visit.owner)
    judged = html.good("Judged anew by these answers and prices; nothing was asked again.")
    return {tab.body: slot(body(visit, view, fault)), tab.judged: slot(judged)}


def replay(visit: Visit, tab: VerdictTab, *, picked: str, followed: str) -> Updates:
    """One reply once more, from its stamp. picked: ``example|place of its side``, looked up in the visitor's rows."""
    view = pick(visit.services.verdicts.views(visit.owner), followed)
    whole = visit.services.verdicts.show(view.id, visit.owner) if view is not None else None
    number, _, place = picked.partition("|")
    if whole is None or whole.record is None or not (number.isdigit() and place.isdigit()):
        raise InputError("There is no such reply. Open the verdict again.")
    names = {str(at): one["side"] for at, one in enumerate(whole.record["sides"])}
    rows = visit.services.verdicts.rows(whole.id, visit.owner)
    wanted = (int(number), names.get(str(int(place))))
    row = next((one for one in rows if (one["example"], one["side"]) == wanted), None)
    if row is None or not row.get("stamp"):
        raise InputError("No stamp was kept for this reply, so it cannot be replayed.")
    what = f"Example {number}, {row['side']}"
    saved = Saved(row["stamp"], row["reply"], what)
    found = visit.services.replay.again(saved, owner=visit.owner, session=visit.session)
    return {tab.replayed: slot(replayed_html(what, found))}
