"""Values from outside as plain ones: short printable texts and finite numbers."""

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
