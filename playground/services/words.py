"""Small words that several services say."""

from __future__ import annotations


def ordinal(place: int) -> str:
    """1 -> 1st, 2 -> 2nd, 11 -> 11th."""
    if place % 100 in (11, 12, 13):
        return f"{place}th"
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place % 10, 'th') }"
