"""Small pieces of HTML, in which every text is escaped; errors in words; numbers as a person reads them (sizes
in bytes, times in seconds). What a caller forgets to escape is caught where the page sends it (``wiring.Page``)."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterable, Sequence
from html import escape as _escape
from typing import Literal

from playground.errors import PlaygroundError
from playground.ui import words

_ICONS = {
    "check": '<path d="M3 8.5l3.2 3.2L13 5"/>',
    "cross": '<path d="M4 4l8 8M12 4l-8 8"/>',
    "warn": '<path d="M8 2.5l6 11H2zM8 6.5v3.2M8 11.6v.2"/>',
    "wait": '<circle cx="8" cy="8" r="5.5"/><path d="M8 5v3.2l2 1.3"/>',
}

PILLS = {"ok": "check", "no": "cross", "warn": "warn", "wait": "", "live": ""}
"""Kinds of pill, and the icon that says the same as the colour."""


def esc(text: object) -> str:
    """Text as text, in content and in quoted attributes alike."""
    return _escape(str(text), quote=True)


def sentence(text: str) -> str:
    """A reason as it stands in a list of reasons, made a sentence of its own."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def icon(name: str) -> str:
    return (
        '<svg class="ico" viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="2"'
        f' stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{_ICONS[name]}</svg>'
    )


def pill(text: object, kind: str = "wait") -> str:
    mark = PILLS[kind]
    return f'<span class="pill {esc(kind)}">{icon(mark) if mark else ""}{esc(text)}</span>'


def badge(letter: str) -> str:
    """A side's letter in its colour."""
    return f'<span class="badge b{esc(letter)}" role="img" aria-label="Side {esc(letter)}">{esc(letter)}</span>'


def state_pill(state: str, more: str = "") -> str:
    """A run's, race's or verdict's state, and what follows it."""
    label, kind = words.STATES.get(state, (state.capitalize(), "wait"))
    return pill(f"{label}{more}", kind)


def titled(name: str, mark: str) -> str:
    """A card's name with a pill beside it."""
    return f'<div class="run-head"><h2>{esc(name)}</h2>{mark}</div>'


def between(left: str, right: str) -> str:
    """Two texts at the ends of one line; nothing where both are empty."""
    return f'<div class="between"><span>{esc(left)}</span><span>{esc(right)}</span></div>' if left or right else ""


def button(id: str, text: str, *, name: str = "", kind: str = "") -> str:
    """A button inside HTML, which ``runs.PICK_JS`` makes an event. name: what a screen reader says."""
    label = f' aria-label="{esc(name)}"' if name else ""
    return f'<button type="button" class="{esc(kind)}" data-id="{esc(id)}"{label}>{esc(text)}</button>'


def picks(title: str, items: Iterable[tuple[str, str, str, str]], chosen: str) -> str:
    """A list of buttons that bring something into the card above: (id, name, what else, its pill)."""
    rows = "".join(
        f'<li><button type="button" data-id="{esc(id)}" aria-pressed="{"true" if id == chosen else "false"}">'
        f'<span><b>{esc(name)}</b><span class="q">{esc(more)}</span></span>{mark}</button></li>'
        for id, name, more, mark in items
    )
    return f'<h2 class="small">{esc(title)}</h2><ul class="lib two-up">{rows}</ul>' if rows else ""


def chips(facts: Iterable[tuple[str, str]]) -> str:
    """``(text, kind)`` pairs as one wrapping row; kind is ``""``, ``ok`` or ``warn``."""
    marks = {"": "", "ok": icon("check"), "warn": icon("warn")}
    spans = "".join(f'<span class="{esc(kind)}">{marks[kind]}{esc(text)}</span>' for text, kind in facts)
    return f'<div class="chips">{spans}</div>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, figures: frozenset[int] = frozenset(), caption: str = ""
) -> str:
    """A plain table of text. ``figures`` are the columns set to the right."""

    def cells(values: Sequence[object], tag: Literal["td", "th"]) -> str:
        return "".join(
            f"<{tag}{' class=figure' if i in figures else ''}>{esc(value)}</{tag}>" for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    label = f' aria-label="{esc(caption)}"' if caption else ""
    return f'<table class="rows"{label}><thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table>'


def pairs(facts: Iterable[tuple[str, object]]) -> str:
    """A list of facts: what on the left, how much on the right."""
    items = "".join(f"<dt>{esc(what)}</dt><dd>{esc(value)}</dd>" for what, value in facts)
    return f'<dl class="pairs">{items}</dl>'


def progress(done: float, label: str) -> str:
    """A bar that a screen reader reads too. ``done`` runs from 0 to 1."""
    percent = round(100 * min(max(done, 0.0), 1.0))
    return (
        f'<div class="bar" role="progressbar" aria-label="{esc(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
    )


def stacked(parts: Sequence[tuple[str, float]], whole: float, label: str) -> str:
    """``(kind, bytes)`` side by side; the rest of ``whole`` stays empty."""
    cells = "".join(
        f'<i class="k-{esc(kind)}" style="width:{100 * value / whole:.2f}%"></i>' for kind, value in parts if whole > 0
    )
    return f'<div class="bar thick" role="img" aria-label="{esc(label)}">{cells}</div>'


def heading(title: str, text: str = "", number: int | None = None, *, done: bool = False, level: int = 2) -> str:
    """A card's title, its step number before it and one or two sentences under it."""
    mark = ""
    if number is not None:
        mark = f'<i class="{"done" if done else ""}">{icon("check") if done else number}</i>'
    under, kind = f"<p>{esc(text)}</p>" if text else "", "" if number is None else " numbered"
    return f'<div class="heading{kind}"><h{level}>{mark}{esc(title)}</h{level}>{under}</div>'


def note(text: str) -> str:
    return f'<p class="note">{esc(text)}</p>'


def good(text: str) -> str:
    """Something worked."""
    return f'<p class="note good" role="status">{icon("check")}{esc(text)}</p>'


def error_card(message: str, title: str = "") -> str:
    """What is wrong, what there is, what to do; read out at once."""
    head = f"<b>{esc(title)}</b> " if title else ""
    return f'<div class="err" role="alert">{icon("warn")}<span>{head}{esc(message)}</span></div>'


_LOG = logging.getLogger(__name__)
FAILURES = (PlaygroundError, OSError, RuntimeError)
"""What a service that computes may raise: our own errors, the disk's, and torch's."""


def sentence_failure(error: BaseException) -> str:
    """What a person reads of an error: our own as they are; anything else is logged, and shown as one general line."""
    if isinstance(error, PlaygroundError):
        return str(error)
    _LOG.error("unexpected error behind the page", exc_info=error)
    return words.OUR_SIDE


def card(error: BaseException) -> str:
    return error_card(sentence_failure(error))


_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size(count: float | None) -> str:
    """``98_000_000`` -> ``98 MB``; one decimal below ten and for gigabytes."""
    if count is None:
        return "unknown"
    for unit, name in _UNITS:
        if count >= unit:
            value = count / unit
            return f"{value:.1f} {name}" if value < 10 or name == "GB" else f"{value:.0f} {name}"
    return f"{int(count)} B"


def duration(seconds: float | None) -> str:
    """``130`` -> ``2 min 10 s``; a tenth of a second below ten."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def about(seconds: float | None) -> str:
    """An estimate, as rough as it is: ``about 3 min``. Empty when there is none."""
    if not seconds:
        return ""
    if seconds < 90:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def left(seconds: float | None) -> str:
    """Time left, in whole seconds: a tenth would pretend to know more than an estimate does. Empty when unknown."""
    if seconds is None:
        return ""
    return f"{duration(seconds) if seconds >= 10 else f'{max(0, round(seconds))} s'} left"


def count(number: float | None) -> str:
    """``1_221_120`` -> ``1.2 M``; thousands get a comma."""
    if number is None:
        return "unknown"
    if number >= 1e9:
        return f"{number / 1e9:.1f} B"
    if number >= 1e6:
        return f"{number / 1e6:.1f} M"
    return f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """``0.9 %``; two decimals where one would read 0.0."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.2f} %" if 0 < percent < 0.1 else f"{percent:.1f} %" if percent < 100 else "100 %"


def plural(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def rate(value: float | None) -> str:
    """A learning rate: ``0.001`` -> ``1e-3``."""
    if not value:
        return "the method's own"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def day(stamp: float | str | None) -> str:
    """Seconds since 1970, or an ISO time -> ``23 Nov 2026``."""
    if not stamp:
        return ""
    if isinstance(stamp, str):
        try:
            moment = datetime.datetime.fromisoformat(stamp)
        except ValueError:
            return stamp
    else:
        moment = datetime.datetime.fromtimestamp(stamp)
    return f"{moment.day} {moment:%b %Y}"
