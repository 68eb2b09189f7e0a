"""Pieces of HTML, made by the templates beside this file; errors in words; numbers as a person reads them (sizes in
bytes, times in seconds)."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from markupsafe import Markup

from playground.errors import PlaygroundError
from playground.plain import about as about
from playground.plain import duration as duration
from playground.plain import plural as plural
from playground.plain import size as size
from playground.report.report import environment
from playground.ui import words

_LOG = logging.getLogger(__name__)
FAILURES = (PlaygroundError, OSError, RuntimeError)
"""What a service that computes may raise: our own errors, the disk's, and torch's."""


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} …"


def sentence(text: str) -> str:
    """A reason as it stands in a list of reasons, made a sentence of its own."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def sentence_failure(error: BaseException) -> str:
    """What a person reads of an error: our own as they are; anything else is logged, and shown as one general line."""
    if isinstance(error, PlaygroundError):
        return str(error)
    _LOG.error("unexpected error behind the page", exc_info=error)
    return words.OUR_SIDE


def left(seconds: float | None) -> str:
    """Time left, in whole seconds: a tenth would pretend to know more than an estimate does. Empty when unknown."""
    if seconds is None:
        return ""
    return f"{duration(seconds) if seconds >= 10 else f'{max(0, round(seconds))} s'} left"


def count(number: float | None) -> str:
    """``1_221_120`` -> ``1.2 M``; thousands get a comma."""
    if number is None:
        return "unknown"
    if number >= 1e6:
        return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
    return f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """``0.9 %``; two decimals where one would read 0.0."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.2f} %" if 0 < percent < 0.1 else f"{percent:.1f} %" if percent < 100 else "100 %"


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
    time = datetime.datetime
    try:
        moment = time.fromisoformat(stamp) if isinstance(stamp, str) else time.fromtimestamp(stamp)
    except ValueError:
        return str(stamp)
    return f"{moment.day} {moment:%b %Y}"


_SHOWN = (about, count, day, duration, left, plural, sentence, share, size)
_TEMPLATES = environment(Path(__file__).parent / "templates")
_TEMPLATES.globals.update({one.__name__: one for one in _SHOWN}, words=words)


def piece(file: str, name: str) -> Callable[..., Markup]:
    """A macro of a template as a function. It escapes what it is given, unless a template or a chart made it."""
    return cast(Callable[..., Markup], getattr(_TEMPLATES.get_template(f"{file}.html").module, name))


_piece = partial(piece, "pieces")
badge, empty, error_card, good, heading = map(_piece, ("badge", "empty", "error_card", "good", "heading"))
note, progress, said, warned = map(_piece, ("note", "progress", "said", "warned"))


def card(error: BaseException) -> Markup:
    return error_card(sentence_failure(error))
