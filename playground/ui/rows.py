"""How the rows that are open on the Train tab are shown: columns, bad rows, lengths, a preview, a table to edit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import pandas as pd
from markupsafe import Markup

from playground.data.advice import bad_rows, kept_warnings, repair_words
from playground.data.example import Checked, Unused
from playground.data.records import Records, of_copy
from playground.data.split import BY_CHANCE, SplitBy
from playground.data.token_counts import TokenPreview, TokenReport
from playground.errors import PlaygroundError
from playground.report import charts
from playground.ui import html, words
from playground.ui.html import plural
from playground.ui.sidebar import ready
from playground.ui.wiring import AWAY, Choices, Drawn, Dropdown, Updates, Visit, slot

if TYPE_CHECKING:
    from playground.ui.examples import ExamplesCard as Card
    from playground.ui.verdict import VerdictTab


@dataclass(frozen=True)
class Source:
    """The file (or folder of files) that is open, and how its rows are read. mapping: role -> column, where given or
    corrected. reading: encoding, sheet, split and repair, where chosen. roles: those that can be mapped by hand. good:
    rows that can be used. index: of the previewed row, from 0. leave_out: kinds of warnings whose rows are not trained
    on. turns: which answers of a chat are learned. chats: some row has several answers. page: of the rows to edit, from
    0. kind: ``sft``, ``text``, ``preference``, ... by: columns that its parts follow. offers: (role, column) of what a
    click takes into the examples."""

    path: Path | None = None
    title: str = ""
    slug: str = ""
    mapping: dict[str, str] | None = None
    reading: dict[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    good: int = 0
    index: int = 0
    leave_out: tuple[str, ...] = ()
    turns: str = "all"
    chats: bool = False
    page: int = 0
    kind: str = "sft"
    by: SplitBy = BY_CHANCE
    offers: tuple[tuple[str, str], ...] = ()

    @property
    def asked(self) -> dict[str, str] | None:
        """How its rows are read, in one mapping."""
        return {**(self.mapping or {}), **self.reading} or None

    def read_as_well(self, **reading: str | None) -> Source:
        """The same, read in another way, too. reading: as in ``Reading``; nothing takes one back."""
        both = {**self.reading, **reading}
        return replace(self, reading={name: value for name, value in both.items() if value})

    @property
    def repaired(self) -> bool:
        """Whether its rows are mended."""
        return bool(self.reading.get("repair"))


def check(
    visit: Visit, source: Source, max_tokens: float, tell: Callable[[float], None] | None = None
) -> tuple[Checked, TokenReport | None]:
    """The file's rows, and their tokens once the base is ready. Raises InputError where no row can be used. tell: takes
    the share that is done."""
    assert source.path is not None
    done = tell or (lambda share: None)
    checked = visit.services.data.check(source.path, source.asked, visit.owner, lambda share: done(share / 3))
    if not ready(visit.services).yes:
        return checked, None
    return checked, visit.services.data.tokens(checked, int(max_tokens), lambda share: done((1 + 2 * share) / 3))


def unusable(visit: Visit, source: Source) -> tuple[tuple[Records, ...], Checked | None]:
    """What stands in files whose rows cannot be used as they are read, and the rows where repair makes some usable."""
    assert source.path is not None
    data, found, able = visit.services.data, tuple[Records, ...](), None
    for reading in (source.reading, {}):
        with suppress(PlaygroundError):
            found = found or data.records(source.path, visit.owner, reading)
    if not source.repaired:
        with suppress(PlaygroundError):
            able = data.check(source.path, source.read_as_well(repair="rows").asked, visit.owner)
    return found, able


# Columns

ROLES = 5
"""Columns that can be mapped by hand; no format needs more, and what else a guess found stays."""
SURE = 0.8
"""Confidence of a guess from which on the person is not asked to check it."""
READ_AS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Prompt and answer": (("prompt", "completion"), ("system", "input", "thought", "history", "options", "tools")),
    "Conversation": (("messages",), ("system", "tools")),
    "A better and a worse answer": (
        ("chosen", "rejected"),
        ("prompt", "system", "input", "history", "options", "tools"),
    ),
    "An answer and whether it is good": (
        ("prompt", "completion", "label"),
        ("system", "thought", "input", "history", "options", "tools"),
    ),
    "A conversation and whether it is good": (("messages", "label"), ("system", "tools")),
    "Raw text": (("text",), ()),
}
"""Name of a format -> the roles it needs, the roles it may have."""
ROLE_WORDS = {"completion": "Answer", "system": "System prompt", "messages": "Conversation", "label": "Good or bad"}
ROLE_WORDS |= {"chosen": "Better answer", "rejected": "Worse answer"}
"""Roles that are named otherwise than by their own name."""


_WAYS = {"group": "One {} never in two parts", "time": "The newest by {}"}
"""How a column may choose the rows of the verdict, by the names in ``SplitBy``."""


def role_word(role: str) -> str:
    return ROLE_WORDS.get(role, role.capitalize())


def reading(mapping: Mapping[str, str]) -> str:
    able = [name for name, (needs, extra) in READ_AS.items() if {*needs} <= {*mapping} <= {*needs, *extra}]
    return max(able, key=lambda name: len(READ_AS[name][0]), default=next(iter(READ_AS)))


def roles_of(name: str) -> tuple[str, ...]:
    needs, extra = READ_AS.get(name, ((), ()))
    return (*needs, *extra)[:ROLES]


def completed(name: str, mapping: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """A mapping for another format: what is known stays, a needed role takes the next free column."""
    needs, extra = READ_AS[name]
    kept = {role: column for role, column in mapping.items() if role in (*needs, *extra)}
    free = [column for column in columns if column not in kept.values()]
    return kept | dict(zip((role for role in needs if role not in kept), free, strict=False))


def swapped(before: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """A column has one role: the role that had the column just chosen takes the one that became free."""
    chosen = {column: role for role, column in wanted.items() if before.get(role) != column}
    lost = [role for role, column in wanted.items() if column in chosen and before.get(role) == column]
    moved = {role: before.get(chosen[wanted[role]]) for role in lost}
    return {role: column for role, old in wanted.items() if (column := moved.get(role, old)) is not None}


def hold_by(visit: Visit, tab: Card, *, held_by: str | None, source: Source) -> Drawn:
    """Another way to choose the rows of the verdict: ``group:COLUMN``, ``time:COLUMN`` or by chance."""
    kind, _, column = (held_by or "").partition(":")
    return {tab.source: replace(source, by=SplitBy(**{kind: column}) if kind in SplitBy._fields else BY_CHANCE)}


def show_unused(tab: Card, unused: Sequence[Unused], source: Source) -> Drawn:
    """What of the file no example holds, and a button for each part that a free role can take in."""
    drawn: Drawn = {tab.unused: _unused(unused), **dict.fromkeys(tab.take_in, AWAY)}
    for (role, column), button in zip(source.offers, tab.take_in, strict=False):
        drawn[button] = gr.update(value=f"Take in {column[:40]} {_TAKEN[role]}", visible=True)
    return drawn


_TAKEN = {"system": "as the system prompt", "input": "into the prompt", "thought": "as the thought"}
_TAKEN |= {"history": "as earlier turns", "options": "as options"}


def offers(unused: Sequence[Unused]) -> tuple[tuple[str, str], ...]:
    """For each role that is free the first column that seems to be meant for it."""
    return tuple({one.role: (one.role, one.column) for one in reversed(unused) if one.role}.values())


def show_columns(
    tab: Card,
    columns: Sequence[str],
    source: Source,
    confidence: float,
    why: str,
    *,
    warned: bool = False,
    holds_test: bool = False,
) -> tuple[Drawn, Updates]:
    """The Columns fold, and what is chosen in it; away without columns, open where the guess should be checked.

    warned: something that seems to belong to the examples is in none. holds_test: the file has its own test rows."""
    if not columns:
        return {tab.columns: AWAY}, {}
    mapping = source.mapping or {}
    chosen = ", ".join(f"{column} → {role_word(role).lower()}" for role, column in mapping.items())
    unsure = not mapping or confidence < SURE
    note = f"{html.sentence(why)} {'Please check: this is a guess.' * unsure}" if mapping else ""
    head = "Columns, please check" if (unsure or warned) and mapping else "Columns"
    label = f"{head}: {chosen or 'choose which is which'}"
    drawn: Drawn = {
        tab.columns: gr.update(label=label, visible=True, open=unsure or warned or bool(source.reading)),
        tab.columns_note: html.note(f"{note.strip()} The file is read again at every change.".strip()),
    }
    filled: Updates = {tab.read_as: gr.update(value=reading(mapping) if mapping else None)}
    needs, _ = READ_AS[reading(mapping)]
    filled |= dict.fromkeys(tab.roles, AWAY)
    ways = [(said.format(column), f"{kind}:{column}") for column in columns for kind, said in _WAYS.items()]
    chosen_way = next((f"{kind}:{column}" for kind, column in source.by._asdict().items() if column), "")
    filled[tab.held_by] = gr.update(
        choices=[("The file's own test rows" if holds_test else "Drawn by chance", ""), *ways], value=chosen_way
    )
    for role, dropdown in zip(source.roles, tab.roles, strict=False):
        none = [] if role in needs else [("none", "")]
        choices = [*none, *((column, column) for column in columns)]
        value = mapping.get(role) or ("" if none else None)
        filled[dropdown] = gr.update(label=role_word(role), choices=choices, value=value, visible=True)
    return drawn, filled


ENCODINGS = {
    **{"utf-8": "Unicode", "utf-16": "Unicode, two bytes", "cp1252": "Western European", "cp1250": "Central European"},
    **{"cp1251": "Cyrillic", "cp1253": "Greek", "cp1254": "Turkish", "cp1255": "Hebrew", "cp1256": "Arabic"},
    **{"cp1257": "Baltic", "cp1258": "Vietnamese", "cp874": "Thai", "cp932": "Japanese", "euc_jp": "Japanese"},
    **{"gb18030": "Chinese, simplified", "cp950": "Chinese, traditional", "cp949": "Korean", "koi8_r": "Cyrillic"},
    **{"cp866": "Cyrillic, DOS", "cp850": "Western European, DOS", "mac_roman": "Western European, Macintosh"},
    **{"latin-1": "Western European", "iso8859-2": "Central European", "iso8859-15": "Western European"},
}
"""Codecs that a text may be read with -> whose letters they hold."""


READINGS = {"encoding": "Encoding", "sheet": "Sheet", "split": "Split to read"}
"""What a person can choose of how a file is read -> its label."""


def choose_reading() -> dict[str, Dropdown]:
    """A closed dropdown of each."""
    return {name: Dropdown([], label=label, visible=False, min_width=140) for name, label in READINGS.items()}


def show_reading(tab: Card | VerdictTab, source: Source, there: Checked | Records | None) -> Updates:
    """The encoding, the sheet and the split that are read, each to choose where there are several."""
    if there is None:
        return dict.fromkeys(tab.reading.values(), AWAY)
    said = {name: source.reading.get(name, "") for name in tab.reading}
    looks = f"Found: {there.encoding}" if there.encoding and not said["encoding"] else "As found"
    codecs = [(f"{codec} ({letters})", codec) for codec, letters in ENCODINGS.items()]
    splits = [*there.splits]
    choices = {"encoding": [(looks, ""), *codecs], "sheet": [(sheet, sheet) for sheet in there.sheets]}
    choices["split"] = [("All of them", "") if isinstance(there, Checked) else ("Choose one", "")]
    choices["split"] += [(name, name) for name in splits]
    shown = {"encoding": bool(there.encoding), "sheet": len(there.sheets) > 1, "split": bool(splits)}
    values = said | {"sheet": there.sheet}
    return {
        dropdown: gr.update(choices=choices[name], value=values[name] if shown[name] else None, visible=shown[name])
        for name, dropdown in tab.reading.items()
    }


_unused = html.piece("train", "unused")

# Rows that cannot be used, or should be looked at

_report = html.piece("train", "report")
LISTED = 500
"""Rows listed at most; the counts are always whole, and the download holds them all."""
KINDS = {
    "duplicate": ("repeats an earlier one", "repeat an earlier one"),
    "conflict": ("has another answer to the same prompt", "have another answer to the same prompt"),
    "long": ("is cut to fit", "are cut to fit"),
    "damaged": ("lost a character", "lost a character"),
    "label": ("has a label seen once", "have a label seen once"),
}


def show_repairs(tab: Card | VerdictTab, checked: Checked | None, source: Source) -> Drawn:
    """What was mended, or could be, and the button that does it or undoes it. checked: None = nothing could be read."""
    lines = repair_words(checked) if checked else []
    label = "Back to the rows as they are in the file" if source.repaired else "Repair these rows"
    return {
        tab.repairs: slot(_repairs(lines, source.repaired)),
        tab.repair: gr.update(value=label, visible=bool(lines) or source.repaired),
    }


_repairs = html.piece("train", "repairs")


def show_report(
    tab: Card, checked: Checked, tokens: TokenReport | None, left_out: Sequence[str]
) -> tuple[Drawn, Updates]:
    """The fold of rows, and which kinds are left out; the downloads are emptied, they belong to another file."""
    bad, warnings = bad_rows(checked, tokens), kept_warnings(checked, tokens)
    counts = Counter(row.kind for row in warnings if row.kind in KINDS)
    kinds = [(f"{plural(count, 'row')} that {KINDS[kind][count > 1]}", kind) for kind, count in counts.items()]
    label = f"The {plural(len(bad), 'row')} that cannot be used" if bad else words.BAD_NONE
    label += f" · {plural(len(warnings), 'row')} to look at" if warnings else ""
    drawn: Drawn = {
        tab.bad: gr.update(label=label, visible=True, open=bool(bad)),
        tab.bad_rows: _report(bad, warnings, checked.place, LISTED),
        tab.kinds: Choices(choices=kinds, visible=bool(kinds)),
        tab.take_bad: gr.update(interactive=bool(bad)),
    }
    emptied = gr.update(value=None, visible=False)
    chosen = gr.update(choices=kinds, value=[kind for kind in left_out if kind in counts], visible=bool(kinds))
    return drawn, {tab.kinds: chosen, tab.bad_file: emptied, tab.good_file: emptied}


def download(visit: Visit, tab: Card, *, which: str, source: Source, max_tokens: float) -> Updates:
    """Write the ``bad`` or the ``good`` rows into a file and offer it."""
    if source.path is None:
        return {}
    button = tab.bad_file if which == "bad" else tab.good_file
    checked, tokens = check(visit, source, max_tokens)
    if which == "bad":
        file = visit.services.data.bad_rows_file(source.path, checked, tokens, visit.owner)
    else:
        file = visit.services.data.good_rows_file(source.path, checked, visit.owner)
    return {button: gr.update(value=str(file), label=f"Download {file.name}", visible=True)}


# Lengths

_lengths = html.piece("train", "lengths")
BINS = 24
BATCH = 8
"""Rows of a batch for which the share of padding is shown."""


def show_lengths(tab: Card, tokens: TokenReport | None) -> Drawn:
    """The fold of lengths; away while no tokens are counted."""
    if tokens is None:
        return {tab.lengths: AWAY}
    picture = charts.histogram(tokens.histogram(BINS), None if tokens.packed else tokens.limit)
    label = f"Lengths: median {tokens.median:,.0f} tokens, longest {tokens.max:,.0f}"
    shown = _lengths(picture, tokens, tokens.padding(BATCH))
    return {tab.lengths: gr.update(label=label, visible=True), tab.lengths_shown: shown}


# Preview: one row as the base is given it

_preview = html.piece("train", "preview")
SHOWN = 3000
"""Tokens shown of one text at most."""


def preview(visit: Visit, tab: Card, *, source: Source, max_tokens: float, by: int = 0, turns: str = "") -> Drawn:
    """The row that is ``by`` further on, the tokens that count for the loss coloured. turns: where it has changed."""
    source = replace(source, turns=turns or source.turns)
    if source.path is None or not source.good:
        return {tab.source: source, tab.seen: "", tab.place: ""}
    if not (base := ready(visit.services)).yes:
        waiting = html.note(f"{base.words}. Then the example shows as the base reads it.")
        return {tab.source: source, tab.seen: waiting, tab.place: ""}
    place = ""
    try:
        checked = visit.services.data.check(source.path, source.asked, visit.owner)
        source = replace(source, index=(source.index + by) % max(1, checked.good))
        place = f"Row {checked.place(checked.usable[source.index].row)}, "
        seen = visit.services.data.preview(checked, source.index, int(max_tokens), source.turns)
        text, end = Markup().join(map(_preview_html, seen)), f"{checked.good:,} that can be used"
    except PlaygroundError as error:  # the next row can still be looked at
        text, end = html.card(error), f"{source.good:,}"
    return {tab.source: source, tab.seen: text, tab.place: html.note(f"{place}{source.index + 1:,} of {end}")}


def _preview_html(seen: TokenPreview) -> Markup:
    runs = groupby(seen.tokens[-SHOWN:], key=lambda token: token.kind)
    return _preview(seen, [(kind, [token.text for token in tokens]) for kind, tokens in runs], SHOWN)


# A table to edit

PAGE = 20
BAD, ALL = "Rows that cannot be used", "All rows"


def edit_page(visit: Visit, tab: Card, *, which: str, source: Source, max_tokens: float, by: int) -> Updates:
    """Another page of the rows to edit; ``by`` 0 is the first."""
    if source.path is None:
        return {}
    rows = _rows_to_edit(visit, which, source, max_tokens)
    pages = max(1, -(-len(rows) // PAGE))
    page = (source.page + by) % pages if by else 0
    table = visit.services.data.table(source.path, rows[page * PAGE : (page + 1) * PAGE], visit.owner, source.reading)
    mapped = [table.columns.index(name) for name in (source.mapping or {}).values() if name in table.columns]
    order = [*mapped, *(column for column in range(len(table.columns)) if column not in mapped)]
    place = f"Page {page + 1} of {pages}. Rows keep their numbers; saving makes a copy of the file."
    return {
        tab.source: replace(source, page=page),
        tab.table: gr.update(
            value=[[number, *(cells[column] for column in order)] for number, cells in table.rows.items()],
            headers=["row", *(table.columns[column] for column in order)],
            column_widths=["60px", *[f"{max(28, 88 // max(1, len(order)))}%"] * len(order)],
        ),
        tab.edit_place: html.note(place if rows else "There is no such row."),
    }


def _rows_to_edit(visit: Visit, which: str, source: Source, max_tokens: float) -> list[int]:
    try:
        checked, tokens = check(visit, source, max_tokens)
    except PlaygroundError:
        return list(range(1, PAGE + 1))  # nothing can be used yet: the file's first rows are what there is to mend
    if which == ALL:
        return list(checked.numbers)
    return [row.row for row in bad_rows(checked, tokens)]


def edited(visit: Visit, source: Source, frame: pd.DataFrame) -> Source | None:
    """A copy of the file with what was typed into the table (a DataFrame); None where nothing was changed."""
    if source.path is None:
        return None
    columns = [str(name) for name in frame.columns][1:]
    lines = {int(number): cells for number, *cells in frame.values.tolist()}
    before = visit.services.data.table(source.path, list(lines), visit.owner, source.reading)
    changes = {}
    for row, cells in lines.items():
        old = dict(zip(before.columns, before.rows.get(row, []), strict=False))
        typed = {name: cell for name, cell in zip(columns, cells, strict=False) if name in old}
        if changed := {name: cell for name, cell in typed.items() if ("" if cell is None else str(cell)) != old[name]}:
            changes[row] = changed
    if not changes:
        return None
    kept = visit.services.data.edited(source.path, changes, visit.owner, source.reading)
    title = source.title if source.title.endswith(", edited") else f"{source.title}, edited"
    return replace(source, path=kept, title=title, page=0, reading=of_copy(source.reading))
