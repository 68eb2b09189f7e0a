"""The table over the panes: who kept to the check, at what price."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from playground.ui import html, transcript
from playground.ui.transcript import Log

KINDS = {
    "ends-with": "Ends with",
    "contains": "Contains",
    "regex": "Matches the pattern",
    "json": "Is valid JSON",
    "max-words": "Has at most so many words",
}
"""Kinds of check a person can pick, as they are written before the colon."""


def check_of(kind: str, text: str) -> str:
    """``ends-with:Reviewed by Dr. Sharma``; empty where there is nothing to check."""
    if kind == "json":
        return "json"
    return f"{kind}:{text}" if text.strip() else ""


def parts_of(check: str) -> tuple[str, str]:
    """The other way round, for a check that came with a shipped set."""
    kind, _, text = check.partition(":")
    return (kind, text) if kind in KINDS else ("ends-with", "")


def title(kind: str, text: str) -> str:
    if kind == "json":
        return KINDS[kind]
    return f"{KINDS[kind]} “{text}”" if text.strip() else "No check set"


def board(sides: Sequence[tuple[str, str, Log]], kind: str, text: str, passes: Callable[[str, str], bool]) -> str:
    """``sides`` are ``(letter, name, log)``. Tokens and seconds are the newest reply's."""
    check = check_of(kind, text)
    rows = []
    for letter, name, log in sides:
        good, of = transcript.passed(log, lambda reply: passes(check, reply)) if check else (0, 0)
        newest = next(
            (said.reply for said in reversed(log.current) if said.reply and said.reply.done and not said.reply.error), None
        )
        if not of:
            mark = html.pill("not yet" if check else "no check")
        else:
            mark = html.pill(f"{good} of {of}", "ok" if good == of else "no")
        tokens = str(newest.prompt_tokens) if newest else "–"
        seconds = f"{newest.seconds:.1f}" if newest and newest.seconds is not None else "–"
        rows.append(
            f'<tr><th scope="row"><span class="who">{html.badge(letter)}<span>{html.esc(name)}</span></span></th>'
            f'<td>{mark}</td><td>{html.esc(tokens)}</td><td class="opt">{html.esc(seconds)}</td></tr>'
        )
    return (
        f'<table class="board"><caption class="sr">Scores of every side</caption><thead><tr><th scope="col">{html.esc(title(kind, text))}</th>'
        '<th scope="col">Passed</th><th scope="col">Tokens in</th><th scope="col" class="opt">Seconds</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
