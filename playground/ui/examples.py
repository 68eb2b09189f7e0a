"""The Examples card of the Train tab: from a file to what can be learned from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError, PlaygroundError
from playground.ui import columns, edit, html, lengths, rows, seen, words
from playground.ui.failure import card
from playground.ui.figures import plural
from playground.ui.readiness import ready
from playground.ui.source import Source
from playground.ui.wiring import Visitor, slot

LOOK_S = 0.5
"""Between two looks at how far a long check has come; a shorter one shows nothing in between."""
_OUTPUTS = 29
"""What ``read`` returns."""


def open_upload(
    services: Any, visitor: Visitor, source: Source, uploaded: list[str] | None, max_tokens: float
) -> Iterator[list[Any]]:
    """Files were dropped: keep them under the app's own folder, then read them. Yields what ``read`` does, before it the last upload."""
    if not uploaded:
        yield [gr.skip()] * (1 + _OUTPUTS)
        return
    paths = [Path(file) for file in uploaded]
    try:
        kept = services.data.keep_uploads(paths, visitor.owner)
    except Exception as error:
        yield [gr.skip(), *_failed(error)]
        return
    title = paths[0].name if len(paths) == 1 else f"{paths[0].name} and {plural(len(paths) - 1, 'more file', 'more files')}"
    for shown in read(services, visitor, Source(kept, title, paths[0].name.partition(".")[0]), max_tokens):
        yield [kept, *shown]


def open_set(services: Any, visitor: Visitor, set_id: str, source: Source, max_tokens: float) -> Iterator[list[Any]]:
    """One of the shipped sets. Yields what ``read`` does."""
    try:
        shipped = next((one for one in services.data.sets() if one.id == set_id), None)
        if shipped is None:
            raise InputError(f"There is no example set {set_id}. Choose one of those shown, or drop a file.")
    except Exception as error:
        yield _failed(error)
        return
    yield from read(services, visitor, Source(Path(shipped.file), shipped.title, shipped.id), max_tokens)


def paste(services: Any, visitor: Visitor, text: str, source: Source, max_tokens: float) -> Iterator[list[Any]]:
    """Rows were pasted. Yields what ``open_upload`` does."""
    try:
        kept = services.data.keep_text(text, visitor.owner)
    except Exception as error:
        yield [gr.skip(), *_failed(error)]
        return
    for shown in read(services, visitor, Source(kept, "What you pasted", "pasted"), max_tokens):
        yield [kept, *shown]


def remap(services: Any, visitor: Visitor, source: Source, max_tokens: float, *chosen: str | None) -> Iterator[list[Any]]:
    """Another column was chosen for a role: read the file again that way. Yields what ``read`` does."""
    wanted = {role: str(column) for role, column in zip(source.roles, chosen, strict=False) if column}
    mapping = columns.swapped(source.mapping or {}, wanted)
    yield from read(services, visitor, replace(source, mapping=mapping, index=0), max_tokens)


def read_as(services: Any, visitor: Visitor, name: str | None, source: Source, max_tokens: float) -> Iterator[list[Any]]:
    """The file is something else than was guessed. Yields what ``read`` does."""
    if not name or source.path is None:
        yield [gr.skip()] * _OUTPUTS
        return
    try:
        there = services.data.columns(source.path, visitor.owner)
    except Exception as error:
        yield _failed(error)
        return
    mapping = columns.completed(name, source.mapping or {}, there)
    yield from read(services, visitor, replace(source, mapping=mapping, roles=columns.roles_of(name), index=0), max_tokens)


def leave_out(services: Any, visitor: Visitor, kinds: list[str], source: Source) -> Source:
    """Which rows with a warning are not trained on."""
    return replace(source, leave_out=tuple(kinds or ()))


def save_edit(services: Any, visitor: Visitor, source: Source, max_tokens: float, frame: Any) -> Iterator[list[Any]]:
    """The table was edited. Yields the error under the table, the last upload, then what ``read`` does."""
    edited, error = edit.save(services, visitor, source, frame)
    if edited is None:
        yield [error, gr.skip(), *[gr.skip()] * _OUTPUTS]
        return
    for shown in read(services, visitor, edited, max_tokens):
        yield [slot(html.good("Saved as a copy; your own file is as it was.")), edited.path, *shown]


def read(services: Any, visitor: Visitor, source: Source, max_tokens: float) -> Iterator[list[Any]]:
    """Check the file and say what was found; meanwhile, how far it has come.

    Yields source, error, heading, facts, advice; columns' fold, note, way to read and four columns; the rows' fold, list, kinds left
    out, downloads; lengths' fold and picture; preview's fold, choice of turns, text and place; the fold to edit in, its table,
    place and message.
    """
    if source.path is None:
        yield [source, slot(""), *[gr.skip()] * (_OUTPUTS - 2)]
        return
    work = _Work(lambda tell: _read(services, visitor, source, max_tokens, tell))
    while not work.finished(LOOK_S):
        yield _progress(source, work.share)
    yield work.result()


def _read(services: Any, visitor: Visitor, source: Source, max_tokens: float, tell: Callable[[float], None]) -> list[Any]:
    assert source.path is not None
    try:
        checked = services.data.check(source.path, source.mapping, visitor.owner, lambda share: tell(share / 3))
        counts = ready(services).yes
        tokens = services.data.tokens(checked, int(max_tokens), lambda share: tell((1 + 2 * share) / 3)) if counts else None
        advice = services.data.advice(checked, tokens)
    except Exception as error:
        return _unreadable(services, visitor, source, error)
    bad, warnings = rows.split_report(checked, tokens)
    roles = columns.roles_of(columns.reading(checked.mapping))
    source = replace(
        source,
        mapping=dict(checked.mapping) or None,
        roles=roles,
        good=checked.rows - len(bad),
        index=0,
        kind=checked.objective,
        chats=any(sum(turn.role == "assistant" for turn in one.messages) > 1 for one in checked.examples[:1000]),
    )
    text, place = seen.show(services, visitor, source, max_tokens, 0, checked)[1:]
    return [
        source, slot(""), heading(done=source.good > 0), slot(facts_html(checked, tokens, source, int(max_tokens), len(bad))),
        slot(advice_html(advice)),
        *columns.show(checked.columns, checked.mapping, roles, checked.confidence, checked.why),
        *rows.show(checked, bad, warnings, source.leave_out),
        *lengths.show(tokens),
        gr.update(visible=True), gr.update(visible=source.chats), text, place,
        gr.update(visible=True, open=False), gr.skip(), "", slot(""),
    ]  # fmt: skip


def _progress(source: Source, share: float) -> list[Any]:
    """How far reading has come, in the place of the facts."""
    shown: list[Any] = [gr.skip()] * _OUTPUTS
    label = f"Reading {source.title}"
    shown[1], shown[3] = slot(""), slot(html.progress(share, label) + html.note(f"{label}, {share:.0%}"))
    return shown


def _failed(error: Exception) -> list[Any]:
    """Nothing new is open; what was stays."""
    return [gr.skip(), slot(card(error)), *[gr.skip()] * (_OUTPUTS - 2)]


def _unreadable(services: Any, visitor: Visitor, source: Source, error: Exception) -> list[Any]:
    """What is wrong; and where only the columns' meaning is, the columns to choose from and the rows to mend."""
    there: tuple[str, ...] = ()
    if isinstance(error, InputError):
        with suppress(PlaygroundError):
            there = services.data.columns(source.path, visitor.owner)
    roles = source.roles or columns.roles_of(columns.READ_AS[0][0])
    source = replace(source, good=0, roles=roles)
    away = gr.update(visible=False)
    offered = columns.show(there, source.mapping or {}, roles, 0.0, "") if len(there) > 1 else columns.hidden()
    return [
        source, slot(card(error)), heading(done=False), slot(""), slot(""), *offered, *rows.hidden(), *lengths.hidden(),
        away, away, "", "", gr.update(visible=bool(there)), gr.skip(), "", slot(""),
    ]  # fmt: skip


class _Work:
    """One long job in a thread of its own, and how far it has come."""

    def __init__(self, job: Callable[[Callable[[float], None]], list[Any]]) -> None:
        self.share = 0.0
        self._result: list[Any] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[Callable[[float], None]], list[Any]]) -> None:
        try:
            self._result = job(self._tell)
        except BaseException as error:
            self._error = error

    def _tell(self, share: float) -> None:
        self.share = share

    def finished(self, wait_s: float) -> bool:
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def result(self) -> list[Any]:
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


def heading(*, done: bool) -> str:
    return html.heading("Examples", words.EXAMPLES_TEXT, 1, done=done)


def facts_html(checked: Any, tokens: Any, source: Source, max_tokens: int, bad: int) -> str:
    """What is in the file, in a row of chips."""
    kind = columns.reading(checked.mapping).lower() if checked.mapping else checked.format
    guessed = checked.confidence < columns.SURE
    facts = [
        (f"{source.title}: {plural(checked.rows, 'row')}", "ok"),
        (f"read as {kind}{', a guess' if guessed else ''}", "warn" if guessed else ""),
        (f"{source.good:,} can be used", ""),
    ]
    if bad:
        facts.append((f"{plural(bad, 'row')} cannot be used", "warn"))
    if checked.duplicates:
        facts.append((f"{plural(checked.duplicates, 'row repeats', 'rows repeat')} an earlier one", "warn"))
    if tokens is None:
        facts.append(("Tokens are counted once the base is ready", ""))
    else:
        facts.append((f"median {tokens.median:.0f} tokens, longest {tokens.max:,.0f}", ""))
        if tokens.truncated:
            facts.append((f"{tokens.truncated:,} cut at {max_tokens:,} tokens", "warn"))
    return html.chips(facts)


def advice_html(advice: Any) -> str:
    """What to think about before a run, with the rows it speaks of."""
    if not advice:
        return ""
    items = "".join(
        f'<li class="{html.esc(one.level)}">{html.icon("warn") if one.level == "warn" else ""}<span>{html.esc(one.text)}</span></li>'
        for one in advice
    )
    return f'<ul class="advice" aria-label="Advice on these rows">{items}</ul>'
