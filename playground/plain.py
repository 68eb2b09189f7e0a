"""Values from outside as plain ones: short printable texts and finite numbers; and numbers as a person reads them."""

from __future__ import annotations

import math


def plain_text(value: object, limit: int = 200) -> str:
    """A text without control characters and line breaks, cut at ``limit`` characters; '' for anything but a string."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * limit]).split())[:limit]


def plain_number(value: object) -> float | int | None:
    """A finite int or float, or None. True and False are no numbers here."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return value if math.isfinite(value) else None


def size(count: float | None) -> str:
    """``98_000_000`` -> ``98 MB``; one decimal below ten and for gigabytes."""
    if count is None:
        return "unknown"
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if (value := count / unit) >= 1:
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


def plural(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def about(seconds: float | None) -> str:
    """An estimate, as rough as it is: ``about 3 min``. Empty when there is none."""
    if not seconds:
        return ""
    if seconds < 90:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def and_left(seconds: float | None) -> str:
    """``, about 3 min left``, to follow how far something is. Empty when there is no estimate."""
    return f", {about(seconds)} left" if seconds else ""
