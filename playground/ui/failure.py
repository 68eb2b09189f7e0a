"""From an exception to words on the page. The only place that decides what a person reads of an error."""

from __future__ import annotations

import logging

from playground.errors import PlaygroundError
from playground.ui import html, words

_LOG = logging.getLogger(__name__)


def sentence(error: BaseException) -> str:
    """Our own errors speak for themselves; anything else is our bug: logged whole, told calmly."""
    if isinstance(error, PlaygroundError):
        return str(error)
    _LOG.error("unexpected error behind the page", exc_info=error)
    return words.OUR_SIDE


def card(error: BaseException) -> str:
    return html.error_card(sentence(error))
