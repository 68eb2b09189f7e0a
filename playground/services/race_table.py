"""A race as a table, the same for the page, the command line and the docs. Pure."""

from __future__ import annotations

from typing import Any

from playground.methods import all_methods
from playground.services.race import RaceView
from playground.services.race_store import Entry

HEAD = (
    "Method", "Rate", "Held-out loss", "Keeps the format", "Trained", "On disk", "Peak memory", "Seconds", "Tokens/s", "General text",
    "Questions", "Divergence",
)  # fmt: skip
NOTES = (
    "Held-out loss: nats a token on the validation rows, lower is better. Keeps the format: greedy replies to validation rows that pass "
    "the check. What it forgot, against the base: loss on a general text (nats a token, above 0 is worse), general questions answered "
    "rightly, and how far its distribution has moved from the base's on that text (KL, nats a token)."
)
NONE = "–"


def label(method: str) -> str:
    """A method's name for a person; the base's own line has none."""
    known = all_methods().get(method)
    return known.label if known else "Base, untrained"


def cells(entry: Entry) -> list[str]:
    """One line under ``HEAD``. What is not known yet, or cannot be, is a dash."""
    figures, forgot = entry.figures, entry.forgot or {}
    right = f"{forgot['right_after']} of {forgot['questions']}, was {forgot['right_before']}" if forgot else NONE
    return [
        label(entry.method),
        _number(entry.lr or None, "{:g}"),
        _number(eval_loss(entry), "{:.3f}"),
        f"{entry.passed} of {entry.asked}" if entry.passed is not None else NONE,
        _number(figures.get("trainable_params"), "{:,.0f}"),
        _size(figures.get("bytes")),
        _size(figures.get("peak_memory_bytes")),
        _number(figures.get("seconds"), "{:.0f}"),
        _number(figures.get("tokens_per_s"), "{:.0f}"),
        f"{round(forgot['loss_after'] - forgot['loss_before'], 2) + 0.0:+.2f}" if forgot else NONE,  # no minus nought
        right,
        _number(forgot.get("divergence"), "{:.2f}"),
    ]


def status(entry: Entry) -> str:
    """What stands under a method's name while its line is not whole: its state, or why it never will be."""
    if entry.reason or not entry.method:
        return entry.reason
    if entry.state in ("", "QUEUED"):
        return "waits"
    if entry.state in ("RUNNING", "STOPPING"):
        return f"step {int(entry.loss[-1][0]) if entry.loss else 0} of {entry.steps}"
    return "" if entry.measured_s is not None else "trained, not measured yet"


def eval_loss(entry: Entry) -> float | None:
    """Of what the run kept; of a run without it, or the base, the newest measured."""
    known = entry.figures.get("eval_loss")
    if known is not None:
        return float(known)
    return float(entry.eval_loss[-1][1]) if entry.eval_loss and not entry.method else None


def text(view: RaceView) -> str:
    """The table in plain text, columns aligned, with what went wrong under it."""
    lines = [list(HEAD), *([cells(view.race.base)] if view.race.base.eval_loss else []), *(cells(e) for e in view.race.entries)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    shown = ["  ".join(cell.ljust(w) if place == 0 else cell.rjust(w) for place, (cell, w) in enumerate(zip(line, widths, strict=True)))
             for line in lines]  # fmt: skip
    notes = [f"{label(entry.method)}: {status(entry)}" for entry in view.race.entries if status(entry)]
    return "\n".join([*(line.rstrip() for line in shown), *notes])


def record(view: RaceView) -> dict[str, Any]:
    """The race as JSON: what a script reads."""
    race = view.race
    return {
        "race": race.race, "name": race.name, "state": race.state, "file": race.file, "check": race.check, "steps": race.steps,
        "minutes": race.minutes, "base": _record(race.base), "rows": [_record(entry) for entry in race.entries],
    }  # fmt: skip


def _record(entry: Entry) -> dict[str, Any]:
    names = ("run", "state", "adapter", "steps", "lr", "reason") if entry.method else ("reason",)
    figures = {name: value for name, value in entry.figures.items() if name != "eval_loss"}
    return {
        "method": entry.method or "base", **{name: getattr(entry, name) for name in names}, "eval_loss": eval_loss(entry),
        "passed": entry.passed, "asked": entry.asked, **figures, "forgot": entry.forgot,
    }  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def _size(count: float | None) -> str:
    if count is None:
        return NONE
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")) if count >= u or u == 1.0)
    return f"{count / unit:.{2 if name == 'GB' else 1 if count / unit < 10 else 0}f} {name}"
