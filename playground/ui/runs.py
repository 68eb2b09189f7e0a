"""The run card of the Train tab: how the run goes, how to stop it, and the runs before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from playground.services.words import ordinal
from playground.ui import chart, html, words
from playground.ui.failure import card
from playground.ui.figures import day, left
from playground.ui.wiring import Visitor, slot

BUTTONS = 6
PICK_JS = (
    "element.addEventListener('click', event => {"
    " const row = event.target.closest('button[data-id]');"
    " if (row) trigger('pick', {id: row.dataset.id}); })"
)
"""A click (or Enter, or Space) on a row's button becomes the event ``pick``."""


def pick(runs: Sequence[Any], followed: str) -> Any:
    """The run to show: the followed one, else one that lives, else the newest."""
    by_id = {run.run: run for run in runs}
    alive = next((run for run in runs if run.state in words.LIVE), None)
    return by_id.get(followed) or alive or (runs[0] if runs else None)


def card_html(run: Any) -> str:
    if run is None:
        return f'<div class="run">{html.heading("The run", words.RUN_NONE)}</div>'
    label, kind = words.STATES.get(run.state, (run.state.capitalize(), "wait"))
    live = run.state in words.LIVE
    parts = [f'<div class="run-head"><h2>{html.esc(run.name)}</h2>{html.pill(label, kind)}</div>']
    if live or run.state == "DONE":
        parts.append(html.progress(run.step / run.steps if run.steps else 0, f"Training of {run.name}"))
    parts.append(_between(f"Step {run.step} of {run.steps}", left(run.seconds_left) if live else ""))
    now = [f"loss {run.loss[-1][1]:.2f}"] if run.loss else []
    if run.eval_loss:
        step, best = min(run.eval_loss, key=lambda point: point[1])
        now.append(f"held-out {best:.2f} at step {step}")
    parts.append(_between(" · ".join(now), f"{run.tokens_per_s:.0f} tokens/s" if run.tokens_per_s else ""))
    own = [f"{name.removeprefix('rewards/').removesuffix('/mean')} {value:.2f}" for name, value in run.figures.items()]
    parts.append(_between(" · ".join(own[:4]), ""))
    if run.stopped:
        parts.append(f'<p class="note">{html.esc(run.stopped)}</p>')
    if run.message and live:
        parts.append(f'<p class="note" role="status">{html.esc(run.message)}</p>')
    if run.error:
        parts.append(html.note(run.error) if run.state == "CANCELLED" else html.error_card(run.error))
    parts.append(chart.loss(run.loss, run.eval_loss, run.steps))
    parts.append(samples_html(run.samples, run.replies))
    return f'<div class="run{" live" if live else ""}">{"".join(parts)}</div>'


def _between(first: str, second: str) -> str:
    return f'<div class="between"><span>{html.esc(first)}</span><span>{html.esc(second)}</span></div>' if first or second else ""


def samples_html(samples: Sequence[tuple[int, str]], replies: Sequence[tuple[str, Sequence[tuple[int, str]]]] = ()) -> str:
    """What the model wrote on the way to each held-out prompt: at first, and the newest two."""
    parts = []
    for prompt, said in replies or [("", samples)]:
        if not said:
            continue
        asked = f'<p class="q">{html.esc(prompt)}</p>' if prompt else ""
        items = "".join(
            f'<li><span class="mono">step {step:d}</span><div class="said">{html.esc(text)}</div></li>'
            for step, text in [said[0], *said[1:][-2:]]
        )
        parts.append(f'{asked}<ul class="samples">{items}</ul>')
    if not parts:
        return ""
    title = "The same question, as it learns" if len(parts) == 1 else "The same questions, as it learns"
    return f'<h3 class="small">{title}</h3>{"".join(parts)}'


def list_html(runs: Sequence[Any], shown: str) -> str:
    """Every run, newest first, each a button that brings it into the card above."""
    if not runs:
        return ""
    items = []
    for run in runs[:20]:
        label, kind = words.STATES.get(run.state, (run.state.capitalize(), "wait"))
        items.append(
            f'<li><button type="button" data-id="{html.esc(run.run)}" aria-pressed="{"true" if run.run == shown else "false"}">'
            f"<span><b>{html.esc(run.name)}</b><span class='q'>{html.esc(f'{run.method}, {run.steps} steps, {day(run.created_s)}')}</span></span>"
            f"{html.pill(f'{label}, {ordinal(run.place)}' if run.place else label, kind)}</button></li>"
        )
    return f'<h2 class="small">Runs so far</h2><ul class="lib two-up">{"".join(items)}</ul>'


def buttons(run: Any, runs: Sequence[Any] = ()) -> list[Any]:
    """Cancel, the question row, Compare in chat, Resume, Move up, Move down: each only while it can do something. runs: all that
    are listed, the waiting ones among them."""
    state = run.state if run else ""
    places = [other.place for other in runs if other.state == "QUEUED"]
    again = words.GO_ON if run is not None and run.resume_step else words.START_AGAIN
    return [
        gr.update(visible=state in ("QUEUED", "RUNNING")),
        gr.update(visible=False),
        gr.update(value=words.HEAR_IT if run and run.live else words.COMPARE_IT, visible=bool(run and (run.adapter or run.live))),
        gr.update(value=again, visible=state in ("FAILED", "CANCELLED")),
        gr.update(visible=state == "QUEUED" and run.place > min(places, default=run.place)),
        gr.update(visible=state == "QUEUED" and run.place < max(places, default=run.place)),
    ]


def buttons_key(run: Any, runs: Sequence[Any]) -> tuple[Any, ...]:
    """What the buttons depend on."""
    waiting = sorted(other.place for other in runs if other.state == "QUEUED")
    return (run.run, run.state, run.adapter, run.live, bool(run.resume_step), run.place, *waiting) if run else ()


def show(services: Any, visitor: Visitor, followed: str) -> list[Any]:
    """Followed run, error, card, list, then the buttons."""
    try:
        runs = services.training.runs(visitor.owner)
    except Exception as error:
        return _wrong(followed, error)
    run = pick(runs, followed)
    return [followed, slot(""), card_html(run), slot(list_html(runs, run.run if run else "")), *buttons(run, runs)]


def _wrong(followed: str, error: Exception) -> list[Any]:
    return [followed, slot(card(error)), *[gr.skip()] * (2 + BUTTONS)]


def follow(services: Any, visitor: Visitor, run_id: str) -> list[Any]:
    """A row of the list was clicked; the id is looked up among the visitor's own runs."""
    return show(services, visitor, run_id)


def _shown_run(services: Any, visitor: Visitor, followed: str) -> Any:
    return pick(services.training.runs(visitor.owner), followed)


def cancel(services: Any, visitor: Visitor, keep: bool, followed: str) -> list[Any]:
    """Stop the run that is shown, and keep its newest checkpoint as an adapter or not."""
    try:
        run = _shown_run(services, visitor, followed)
        if run is not None:
            services.training.cancel(run.run, visitor.owner, keep=keep)
    except Exception as error:
        return _wrong(followed, error)
    return show(services, visitor, followed)


def ask_to_cancel(services: Any, visitor: Visitor, memo: dict[str, Any], followed: str) -> list[Any]:
    """Bring the run that trains into the card, with the question what to do with it; another may be shown, or wait behind it.
    Returns the memo, then what ``show`` does: the next look at the page must not take the question away."""
    try:
        runs = services.training.runs(visitor.owner)
    except Exception as error:
        return [gr.skip(), *_wrong(followed, error)]
    training = next((run for run in runs if run.state in ("RUNNING", "STOPPING")), None)
    run = training or pick(runs, followed)
    shown = show(services, visitor, run.run if run is not None else followed)
    if run is not None and run.state in ("QUEUED", "RUNNING"):
        shown[4:6] = [gr.update(visible=False), gr.update(visible=True)]
    return [{**memo, "run-buttons": buttons_key(run, runs)}, *shown]


def resume(services: Any, visitor: Visitor, followed: str) -> list[Any]:
    try:
        run = _shown_run(services, visitor, followed)
        if run is not None:
            services.training.resume(run.run, visitor.owner)
    except Exception as error:
        return _wrong(followed, error)
    return show(services, visitor, followed)


def move(services: Any, visitor: Visitor, to: str, followed: str) -> list[Any]:
    """The shown run comes one place earlier (``up``) or later (``down``)."""
    try:
        run = _shown_run(services, visitor, followed)
        if run is not None:
            services.training.move(run.run, to, visitor.owner)
    except Exception as error:
        return _wrong(followed, error)
    return show(services, visitor, run.run if run is not None else followed)


def adapter_of(services: Any, visitor: Visitor, followed: str) -> str:
    """The adapter the shown run made, or while it trains what it has learned so far, for Compare."""
    run = _shown_run(services, visitor, followed)
    return (run.adapter or run.live) if run else ""
