"""The Examples card of the Train tab: from a file to what can be learned from it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import gradio as gr
import pandas as pd
from gradio.blocks import Block
from gradio.events import Dependency

from playground.data.advice import bad_rows
from playground.data.files import TAKEN
from playground.data.hub import FIRST, MOST
from playground.errors import CancelledError, InputError, PlaygroundError
from playground.plain import and_left
from playground.services import Services
from playground.ui import html, rows, sidebar, wiring, words
from playground.ui.html import plural
from playground.ui.rows import Source
from playground.ui.wiring import AWAY, Choices, Drawn, Events, Stream, Updates, Visit, hidden_slot, listen, slot


class ExamplesCard:
    """Every widget of the card. source: the ``Source`` that is open. uploaded: path of the last upload. roles: one
    dropdown a column role. max_tokens: of the run's form. drawn: what reading a file shows. read: that, and what it
    puts into widgets that a person can set. openings: events after which other rows are open."""

    max_tokens: Block

    def build_examples(self, services: Services) -> None:
        self.source, self.uploaded = gr.State(Source()), gr.State(None)
        fold, acts = partial(gr.Accordion, open=False, visible=False), partial(gr.Row, elem_classes="acts")
        small = partial(gr.Button, size="sm")
        with gr.Column(elem_classes="card"):
            self.heading = gr.HTML(_heading(done=False))
            look: dict[str, Any] = {"show_label": False, "height": 104, "elem_classes": "drop"}
            types: dict[str, Any] = {"file_count": "multiple", "file_types": list(TAKEN)}
            self.file = gr.File(label="Files of examples", **look, **types)
            if said := sidebar.notice(services.settings):
                gr.HTML(html.note(said))
            gr.HTML(html.note(f"Takes {', '.join(TAKEN)}, one or several. Or start with one of ours:"))
            with acts():
                self.sets = {one.id: small(one.title) for one in services.data.sets()}
            with gr.Column(elem_classes="folds"), gr.Accordion("Or paste rows", open=False):
                hint = "Cells copied from a sheet, JSON lines, or plain text"
                self.text = gr.Textbox(label="Rows", lines=5, max_lines=12, placeholder=hint, show_label=False)
                self.paste = small("Read what I pasted")
            with (
                gr.Column(elem_classes="folds", visible=not services.settings.shared),
                gr.Accordion("Or name a data set of the hub", open=False),
            ):
                hint = "owner/name, owner/name:config@split, or the address of its page"
                self.dataset = gr.Textbox(label="Data set", max_lines=1, max_length=300, placeholder=hint)
                self.first = gr.Number(FIRST, label="First rows", precision=0, minimum=1, maximum=MOST)
                with acts():
                    self.fetch = small("Read its first rows")
                    self.stop_fetch = small("Stop", variant="stop", visible=False)
                self.fetched = hidden_slot()
            self.error, self.facts, self.repairs = (hidden_slot() for _ in range(3))
            with acts():
                self.repair = small("Repair", visible=False)
            self.advice = hidden_slot()
            with gr.Column(elem_classes="folds"):
                with fold("Columns") as self.columns:
                    self.columns_note, self.unused = gr.HTML(""), gr.HTML("")
                    with acts():
                        taken = ("system", "input", "thought", "history", "options")  # one button a role
                        self.take_in = [small("Take in", visible=False) for _ in taken]
                    with gr.Row():
                        self.reading = rows.choose_reading()
                    self.read_as = gr.Dropdown(list(rows.READ_AS), label="What each row is", min_width=140)
                    with gr.Row():
                        column = partial(wiring.Dropdown, [], label="Column", visible=False, min_width=140)
                        self.roles = [column() for _ in range(rows.ROLES)]
                    chance = [("Drawn by chance", "")]
                    self.held_by = wiring.Dropdown(chance, value="", label="Rows held back for the verdict")
                with fold(words.BAD_NONE) as self.bad:
                    self.bad_rows = gr.HTML("")
                    self.kinds = wiring.CheckboxGroup([], label="Leave out of training", visible=False)
                    with acts():
                        self.take_bad = small("Take the bad rows away as CSV")
                        self.take_good = small("Take the good rows away as JSONL")
                    with acts():
                        offer = partial(gr.DownloadButton, "Download", size="sm", visible=False)
                        self.bad_file, self.good_file = offer(), offer()
                with fold("Lengths") as self.lengths:
                    self.lengths_shown = gr.HTML("")
                with fold("What the model really sees") as self.preview:
                    ways = [("Learn every answer of a chat", "all"), ("Learn the last answer only", "last")]
                    label = "Which answers are learned"
                    self.turns = gr.Radio(ways, value="all", label=label, visible=False, **wiring.BARE)
                    self.seen = gr.HTML("")
                    with acts():
                        self.before, self.after = small("Previous"), small("Next")
                        self.place = gr.HTML("")
                with fold("Edit rows") as self.edit:
                    self.which = gr.Radio([rows.BAD, rows.ALL], value=rows.BAD, label="Which rows", **wiring.BARE)
                    look = {"wrap": True, "show_label": False, "max_height": 360, "elem_classes": "edit-table"}
                    self.table = gr.Dataframe(interactive=True, label="Rows", **look)
                    with acts():
                        self.edit_save = small("Save the changes", variant="primary")
                        self.edit_before, self.edit_after = small("Previous rows"), small("Next rows")
                        self.edit_place = gr.HTML("")
                    self.edit_error = hidden_slot()
        self.drawn = [self.source, self.error, self.heading, self.facts, self.advice, self.columns, self.columns_note]
        self.drawn += [self.repairs, self.repair]
        self.drawn += [self.bad, self.bad_rows, self.kinds, self.take_bad, self.lengths, self.lengths_shown]
        self.drawn += [self.unused, *self.take_in, self.preview, self.turns, self.seen, self.place]
        self.drawn += [self.edit, self.edit_place, self.edit_error]
        self.read: list[Block] = [*self.drawn, self.uploaded, self.file, self.read_as, *self.roles, self.held_by]
        self.read += [*self.reading.values(), self.bad_file, self.good_file, self.stop_fetch, self.fetched]
        clicked = [self.paste, self.fetch, self.edit_save, self.repair, *self.take_in, *self.sets.values()]
        chosen = [self.read_as, *self.roles, *self.reading.values()]
        self.openings = [self.file.upload, *(one.click for one in clicked), *(one.input for one in chosen)]


def wire(
    services: Services,
    tab: ExamplesCard,
    then_form: Callable[[Dependency], object],
    then_plan: Callable[[Dependency], object],
) -> None:
    """then_form, then_plan: add to an event what fills the form for other rows, or shows its plan anew."""
    on = partial(listen, services, tab, failure=tab.error)

    def opens(events: Events, handler: Callable[..., Stream], **given: Any) -> Dependency:
        then_form(opened := on(events, handler, tab.read, **given))
        return opened

    opens(tab.file.upload, open_upload, uploaded=tab.file)
    opens(tab.paste.click, paste)
    fetching = opens(tab.fetch.click, open_dataset, restored={tab.stop_fetch: AWAY, tab.facts: AWAY})
    on(tab.stop_fetch.click, stop_fetch, [tab.stop_fetch, tab.facts, tab.fetched], cancels=[fetching])
    for id, button in tab.sets.items():
        opens(button.click, partial(open_set, id=id))
    opens([role.input for role in tab.roles], remap)
    opens(tab.read_as.input, read_as)
    opens([one.input for one in tab.reading.values()], read_otherwise, reading=tab.reading)
    opens(tab.repair.click, repair)
    for place, button in enumerate(tab.take_in):
        opens(button.click, partial(take_in, place=place))
    opens(tab.edit_save.click, save_edit, failure=tab.edit_error)
    then_plan(listen(services, tab, tab.kinds.input, leave_out, tab.source))
    then_plan(listen(services, tab, tab.held_by.input, rows.hold_by, tab.source))
    for which, button, file in (("bad", tab.take_bad, tab.bad_file), ("good", tab.take_good, tab.good_file)):
        on(button.click, partial(rows.download, which=which), file, restored={file: AWAY})
    shown = [tab.source, tab.seen, tab.place]
    for by, button in ((-1, tab.before), (1, tab.after)):
        on(button.click, partial(rows.preview, by=by), shown)
    then_plan(on(tab.turns.input, rows.preview, shown, turns=tab.turns))
    page, first = [tab.source, tab.table, tab.edit_place], [tab.edit.expand, tab.which.input]
    for by, events in ((0, first), (-1, tab.edit_before.click), (1, tab.edit_after.click)):
        listen(services, tab, events, partial(rows.edit_page, by=by), page, failure=tab.edit_error)


def open_upload(visit: Visit, tab: ExamplesCard, *, uploaded: Sequence[str] | None, max_tokens: float) -> Stream:
    """Files were dropped: keep them under the app's own folder, then read them."""
    if not uploaded:
        return
    paths = [Path(file) for file in uploaded]
    kept = visit.services.data.keep_uploads(paths, visit.owner)
    more = f" and {plural(len(paths) - 1, 'more file', 'more files')}" if len(paths) > 1 else ""
    opened = Source(kept, f"{paths[0].name}{more}", paths[0].name.partition(".")[0])
    yield from read(visit, tab, source=opened, max_tokens=max_tokens, also={tab.uploaded: kept})


def open_set(visit: Visit, tab: ExamplesCard, *, id: str, max_tokens: float) -> Stream:
    """One of the shipped sets. A file that is not read any more is taken out of its box."""
    shipped = next((one for one in visit.services.data.sets() if one.id == id), None)
    if shipped is None:
        raise InputError(f"There is no example set {id}. Choose one of those shown, or drop a file.")
    opened = Source(Path(shipped.file), shipped.title, shipped.id)
    yield from read(visit, tab, source=opened, max_tokens=max_tokens, also={tab.file: None})


def paste(visit: Visit, tab: ExamplesCard, *, text: str, max_tokens: float) -> Stream:
    kept = visit.services.data.keep_text(text, visit.owner)
    opened = Source(kept, "What you pasted", "pasted")
    yield from read(visit, tab, source=opened, max_tokens=max_tokens, also={tab.uploaded: kept})


def open_dataset(visit: Visit, tab: ExamplesCard, *, dataset: str, first: float | None, max_tokens: float) -> Stream:
    """A data set of the hub is named: its first rows become a file among the person's uploads."""
    name, many = (dataset or "").strip(), int(first or FIRST)
    busy: Updates = {tab.stop_fetch: gr.update(visible=True), tab.fetched: slot("")}
    fetch = partial(visit.services.data.fetch, name, visit.owner, first=many)
    kept, said = yield from _followed(tab, lambda tell: fetch(on_progress=tell), f"Fetching {name}", busy)
    if not said:
        raise InputError("A data set has an id such as owner/name or owner/name:config@split. Files are dropped above.")
    opened = Source(kept, name, kept.stem)
    done: Updates = {tab.uploaded: kept, tab.file: None, tab.stop_fetch: AWAY, tab.fetched: slot(html.good(said))}
    yield from read(visit, tab, source=opened, max_tokens=max_tokens, also=done)


def stop_fetch(visit: Visit, tab: ExamplesCard) -> Updates:
    return {tab.stop_fetch: AWAY, tab.facts: AWAY, tab.fetched: slot(html.note("Stopped; nothing was kept."))}


def remap(visit: Visit, tab: ExamplesCard, *, roles: Sequence[object], source: Source, max_tokens: float) -> Stream:
    """Another column was chosen for a role: read the file again that way."""
    wanted = {role: str(column) for role, column in zip(source.roles, roles, strict=False) if column}
    known = source.mapping or {}
    kept = {
        role: column for role, column in known.items() if {role, column}.isdisjoint({*source.roles, *wanted.values()})
    }
    opened = replace(source, mapping=kept | rows.swapped(known, wanted), index=0)
    yield from read(visit, tab, source=opened, max_tokens=max_tokens)


def take_in(visit: Visit, tab: ExamplesCard, *, place: int, source: Source, max_tokens: float) -> Stream:
    if place < len(source.offers):
        opened = replace(source, mapping=(source.mapping or {}) | dict([source.offers[place]]), index=0)
        yield from read(visit, tab, source=opened, max_tokens=max_tokens)


def repair(visit: Visit, tab: ExamplesCard, *, source: Source, max_tokens: float) -> Stream:
    """Have the rows mended, or as they are in the file again."""
    opened = replace(source.read_as_well(repair="" if source.repaired else "rows"), index=0)
    yield from read(visit, tab, source=opened, max_tokens=max_tokens)


def read_as(visit: Visit, tab: ExamplesCard, *, read_as: str | None, source: Source, max_tokens: float) -> Stream:
    if not read_as or source.path is None:
        return
    mapping = rows.completed(
        read_as, source.mapping or {}, visit.services.data.columns(source.path, visit.owner, source.reading)
    )
    opened = replace(source, mapping=mapping, roles=rows.roles_of(read_as), index=0)
    yield from read(visit, tab, source=opened, max_tokens=max_tokens)


def read_otherwise(
    visit: Visit, tab: ExamplesCard, *, reading: Mapping[str, str | None], source: Source, max_tokens: float
) -> Stream:
    """Another encoding, sheet or split: the file is read again, and its columns are guessed anew."""
    opened = replace(source.read_as_well(**reading), mapping=None, index=0)
    yield from read(visit, tab, source=opened, max_tokens=max_tokens)


def save_edit(visit: Visit, tab: ExamplesCard, *, table: pd.DataFrame, source: Source, max_tokens: float) -> Stream:
    opened = rows.edited(visit, source, table)
    if opened is None:
        yield {tab.edit_error: slot(html.note("Nothing was changed in the table."))}
        return
    saved = slot(html.good("Saved as a copy; your own file is as it was."))
    also: Updates = {tab.edit_error: saved, tab.uploaded: opened.path}
    yield from read(visit, tab, source=opened, max_tokens=max_tokens, also=also)


def leave_out(visit: Visit, tab: ExamplesCard, *, kinds: Sequence[str] | None, source: Source) -> Drawn:
    return {tab.source: replace(source, leave_out=tuple(kinds or ()))}


_advice, _facts = html.piece("train", "advice"), html.piece("train", "facts")
LOOK_S = 0.5
"""Seconds between two updates of the progress bar; a shorter check shows none."""
LEFT_AFTER_S = 2.0
"""Seconds after which the time left is told: sooner there is no pace to tell it by."""
T = TypeVar("T")


def read(visit: Visit, tab: ExamplesCard, *, source: Source, max_tokens: float, also: Updates | None = None) -> Stream:
    """Check the file and show what was found; meanwhile, how far it has come. also: what every answer brings."""
    if source.path is None:
        return
    label, work = f"Reading {source.title}", partial(_found, visit, tab, source, max_tokens)
    drawn, filled = yield from _followed(tab, work, label, also or {})
    yield cast(Updates, drawn) | filled | (also or {})


def _followed(
    tab: ExamplesCard, work: Callable[[Callable[[float], None]], T], label: str, also: Updates
) -> Generator[Updates, None, T]:
    """What ``work`` makes in a thread; meanwhile, how far it has come. Closing it ends the work at its next step."""
    share, found, left, began = deque([0.0], maxlen=1), Future[T](), threading.Event(), time.monotonic()

    def tell(done: float) -> None:
        if left.is_set():
            raise CancelledError(f"{label} was stopped.")
        share.append(done)

    def run() -> None:
        try:
            found.set_result(work(tell))
        except BaseException as error:  # raised again where the result is taken
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while not wait([found], LOOK_S).done:
            done, seconds = share[-1], time.monotonic() - began
            rest = seconds * (1 - done) / done if done > 0 and seconds > LEFT_AFTER_S else None
            said = f"{label}, {done:.0%}{and_left(rest)}"
            yield {tab.error: slot(""), tab.facts: slot(html.progress(done, label) + html.note(said)), **also}
    finally:
        left.set()
    return found.result()


def reread(visit: Visit, tab: ExamplesCard, *, source: Source, max_tokens: float) -> Drawn:
    """Another base is ready: tokens are counted anew. What a person has set stays."""
    return _found(visit, tab, source, max_tokens)[0] if source.path else {}


def _found(
    visit: Visit, tab: ExamplesCard, source: Source, max_tokens: float, progress: Callable[[float], None] | None = None
) -> tuple[Drawn, Updates]:
    """What to show of the file, and what goes into widgets that a person can set. progress: takes the share done."""
    assert source.path is not None
    try:
        checked, tokens = rows.check(visit, source, max_tokens, progress)
        advice = visit.services.data.advice(checked, tokens)
    except PlaygroundError as error:
        return _unreadable(visit, tab, source, error)
    bad = bad_rows(checked, tokens)
    source = replace(
        source,
        mapping=dict(checked.mapping) or None,
        roles=rows.roles_of(rows.reading(checked.mapping)),
        good=checked.rows - len(bad),
        index=0,
        kind=checked.objective,
        offers=rows.offers(checked.unused),
        chats=any(sum(turn.role == "assistant" for turn in one.messages) > 1 for one in checked.examples[:1000]),
    )
    known = checked.mapping and checked.objective != "prompts"
    kind = rows.reading(checked.mapping).lower() if known else checked.format
    guessed = checked.confidence < rows.SURE
    unread = len(checked.sheets) > 1 and "sheet" not in source.reading
    look = {
        "warned": unread or any(one.warning for one in checked.unused),
        "holds_test": "test" in checked.held.values(),
    }
    columns, mapped = rows.show_columns(tab, checked.columns, source, checked.confidence, checked.why, **look)
    mapped |= rows.show_reading(tab, source, checked)
    report, emptied = rows.show_report(tab, checked, tokens, source.leave_out)
    drawn: Drawn = {
        tab.error: slot(""),
        tab.heading: _heading(done=source.good > 0),
        tab.facts: slot(_facts(checked, tokens, source, kind, guessed, int(max_tokens), len(bad))),
        tab.advice: slot(_advice(advice)),
        tab.preview: gr.update(visible=True),
        tab.turns: Choices(visible=source.chats),
        tab.edit: gr.update(visible=True, open=False),
        tab.edit_place: "",
        tab.edit_error: slot(""),
    }
    drawn |= rows.show_repairs(tab, checked, source)
    drawn |= columns | report | rows.show_lengths(tab, tokens) | rows.show_unused(tab, checked.unused, source)
    drawn |= rows.preview(visit, tab, source=source, max_tokens=max_tokens)
    return drawn, {**mapped, **emptied}


def _unreadable(visit: Visit, tab: ExamplesCard, source: Source, error: PlaygroundError) -> tuple[Drawn, Updates]:
    """What is wrong; and where only the columns' meaning is, the columns to choose from and the rows to mend."""
    found, able = rows.unusable(visit, source) if isinstance(error, InputError) else ((), None)
    there = tuple(dict.fromkeys(name for one in found for name in one.columns))
    source = replace(source, good=0, roles=source.roles or rows.roles_of(rows.reading({})), offers=())
    first = found[0] if found else None
    shown = there if len(there) > 1 or (first and len(first.sheets) > 1) else ()
    columns, mapped = rows.show_columns(tab, shown, source, 0.0, "")
    mapped |= rows.show_reading(tab, source, first)
    drawn: Drawn = {
        tab.source: source,
        tab.error: slot(html.card(error)),
        tab.heading: _heading(done=False),
        tab.edit: gr.update(visible=bool(there)),
        tab.edit_place: "",
        tab.edit_error: slot(""),
    }
    drawn |= rows.show_repairs(tab, able, source)
    drawn |= dict.fromkeys((tab.facts, tab.advice, tab.bad, tab.lengths, tab.preview), AWAY)
    return drawn | columns | rows.show_unused(tab, (), source), mapped


def _heading(*, done: bool) -> str:
    return html.heading("Examples", words.EXAMPLES_TEXT, 1, done=done)
