"""What one side of a comparison was asked and answered. Plain values: no Gradio, no services.

Replies are kept as the service gave them; checks, copies and later turns read these, never what the page shows.

The table over the panes: who kept to the check, at what price.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from playground.ui import html, words
from playground.ui.html import duration


@dataclass(frozen=True)
class Setup:
    """What makes a side: any change begins a new conversation and a new score.

    source: where the few-shot examples come from: a shipped set's id, or ``upload``.
    """

    model: str = "base"
    prompt: str = ""
    shots: int = 0
    source: str = ""

    @property
    def effective(self) -> tuple[str, str, int, str]:
        """Only what reaches the model: the source does not matter while no shots are taken."""
        return (self.model, self.prompt.strip(), self.shots, self.source if self.shots else "")


@dataclass(frozen=True)
class Divider:
    text: str


@dataclass(frozen=True)
class Said:
    """One question and its answer. ``stopped``: the person stopped it before it was done."""

    question: str
    reply: Any = None
    stopped: bool = False


@dataclass(frozen=True)
class Log:
    """One side's transcript, oldest first, and the setup that its newest part was made with."""

    setup: Setup = field(default_factory=Setup)
    items: tuple[Divider | Said, ...] = ()

    @property
    def current(self) -> tuple[Said, ...]:
        """What was said since the last divider: the conversation that still counts."""
        newest: list[Said] = []
        for item in reversed(self.items):
            if isinstance(item, Divider):
                break
            newest.append(item)
        return tuple(reversed(newest))


def settle(log: Log, setup: Setup, name: str) -> Log:
    """Take on ``setup``. Where something was said before, a divider keeps old replies from passing as the new
    model's."""
    if setup.effective == log.setup.effective:
        return replace(log, setup=setup)
    items = log.items
    if items and isinstance(items[-1], Divider):
        items = items[:-1]
    if items:
        items = (*items, Divider(f"Now {name}. It starts afresh: earlier turns are not sent."))
    return Log(setup, items)


def asked(log: Log, question: str) -> Log:
    return replace(log, items=(*log.items, Said(question)))


def answered(log: Log, reply: Any) -> Log:
    """Put the newest snapshot of the reply in place of the one before."""
    last = log.items[-1]
    assert isinstance(last, Said)
    return replace(log, items=(*log.items[:-1], replace(last, reply=reply)))


def without_last(log: Log) -> Log:
    """Take the newest turn back, to ask it again."""
    return replace(log, items=log.items[:-1]) if log.current else log


def stopped(log: Log) -> Log:
    last = log.current[-1:] if log.current else ()
    if not last or (last[0].reply is not None and last[0].reply.done):
        return log
    return replace(log, items=(*log.items[:-1], replace(last[0], stopped=True)))


def history(log: Log) -> list[tuple[str, str]]:
    """Earlier turns of this conversation, as ``(question, reply)``; turns that failed are left out."""
    return [
        (said.question, said.reply.text)
        for said in log.current
        if said.reply and said.reply.text and not said.reply.error
    ]


def passed(log: Log, passes: Callable[[str], bool]) -> tuple[int, int]:
    """How many finished replies of this conversation pass the check, of how many."""
    texts = [
        said.reply.text
        for said in log.current
        if said.reply and said.reply.done and not said.reply.error and not said.stopped
    ]
    return sum(passes(text) for text in texts), len(texts)


def newest_text(log: Log) -> str:
    """The raw text of the newest reply, for the clipboard."""
    texts = [item.reply.text for item in log.items if isinstance(item, Said) and item.reply and item.reply.text]
    return texts[-1] if texts else ""


def messages(log: Log) -> list[dict[str, Any]]:
    """For a Chatbot that interprets HTML: every text escaped, line breaks and indents kept."""
    shown: list[dict[str, Any]] = []
    for item in log.items:
        if isinstance(item, Divider):
            shown.append({"role": "assistant", "content": f'<div class="divider">{html.esc(item.text)}</div>'})
            continue
        shown.append({"role": "user", "content": _text(item.question)})
        shown.extend(_answer(item))
    return shown


def _answer(said: Said) -> list[dict[str, Any]]:
    reply = said.reply
    if reply is None:
        return [
            {"role": "assistant", "content": _quiet(words.STOPPED_EMPTY if said.stopped else "Reading the question")}
        ]
    if reply.error:
        return [{"role": "assistant", "content": html.error_card(reply.error)}]
    parts = [_text(reply.text)] if reply.text else []
    if said.stopped:
        parts.append(_quiet(words.STOPPED if reply.text else words.STOPPED_EMPTY))
    elif not reply.done and not reply.text:
        parts.append(_quiet(reply.waiting or "Reading the question"))
    elif reply.done and not reply.text:
        parts.append(_quiet("The model answered with nothing at all."))
    shown: list[dict[str, Any]] = [{"role": "assistant", "content": "".join(parts)}]
    if reply.done and not said.stopped:
        shown.append(
            {
                "role": "assistant",
                "content": stamp_html(reply),
                "metadata": {"title": stamp_line(reply), "status": "done"},
            }
        )
    return shown


def stamp_line(reply: Any) -> str:
    """``167 in · 66 out · 3.5 s · 5e0c``."""
    mark = reply.stamp_id[:4]
    line = [f"{reply.prompt_tokens} in", f"{reply.completion_tokens} out", duration(reply.seconds)]
    return " · ".join([*line, mark] if mark else line)


def stamp_html(reply: Any) -> str:
    """Everything that is needed to get the same reply again."""
    stamp = reply.stamp or {}
    prompt = stamp.get("prompt") or {}
    adapter = stamp.get("adapter") or "none"
    sha = str(stamp.get("adapter_sha256") or "")[:12]
    facts = [
        ("Stamp", reply.stamp_id[:16]),
        ("Base", _short(stamp.get("base", ""))),
        ("Adapter", f"{adapter} {sha}".strip()),
        ("Sampling", _short(stamp.get("sampling", ""))),
        ("Seed", stamp.get("seed", "")),
        ("Precision, device", f"{stamp.get('dtype', '')} on {stamp.get('device', '')}"),
        ("First token", duration(reply.first_token_s)),
    ]
    text = f"<p>The prompt, exactly as it was sent:</p>{_text(prompt.get('text', ''))}" if prompt.get("text") else ""
    return html.pairs(facts) + text


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items() if inner is not None)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _text(text: str) -> str:
    # One source line: the Chatbot dedents what it is given, and an entity survives where a newline's indent would not.
    return f'<div class="said">{html.esc(text)}</div>'.replace("\n", "&#10;")


def _quiet(text: str) -> str:
    return f'<div class="quiet">{html.esc(text)}</div>'


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
        good, of = passed(log, lambda reply: passes(check, reply)) if check else (0, 0)
        newest = next(
            (said.reply for said in reversed(log.current) if said.reply and said.reply.done and not said.reply.error),
            None,
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
        '<table class="board"><caption class="sr">Scores of every side</caption><thead><tr><th'
        f' scope="col">{html.esc(title(kind, text))}</th>'
        '<th scope="col">Passed</th><th scope="col">Tokens in</th><th scope="col" class="opt">Seconds</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
