"""Which method does not take which objective, and why: the one table. Everything that is not in it works."""

from __future__ import annotations

from collections.abc import Mapping

from playground.errors import InputError

EXCEPTIONS: Mapping[tuple[str, str], str] = {}
"""(method, objective) -> a sentence that ends in what to choose in its place."""


def refused(method: str, objective: str) -> str:
    """Why these two do not go together, '' where they do."""
    why = EXCEPTIONS.get((method, objective), "")
    return f"{method} cannot train {objective}: {why}" if why else ""


def check_pair(method: str, objective: str) -> None:
    """Raise InputError where ``method`` does not take ``objective``."""
    if why := refused(method, objective):
        raise InputError(why)
