"""Prompt bench: a fold of the Verdict tab that keeps versions of a prompt, scores them on the validation part, and hands over the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.services.sides import Side
from playground.services.verdicts import SHOTS
from playground.ui import html, verdict_form, verdict_shown
from playground.ui.failure import card
from playground.ui.readiness import require
from playground.ui.runs import PICK_JS
from playground.ui.source import Source
from playground.ui.verdict_form import FILE, SET, UPLOAD, Kept
from playground.ui.wiring import QUIET, Visitor, bind, bind_pick, hidden_slot, slot

IDEA = (
    "A fair verdict asks the best prompt you have. Keep versions here and score them, with and without answered examples, on rows that the "
    "verdict does not ask; the report then says of how many the prompt was the best."
)
COUNTS = (0, 2, SHOTS, 8)
NONE = "No version yet. Write one above and keep it."
DROPPED = "Every row of this file is judged by, so none is left to choose a prompt by. Choose an example set, or a file of the Train tab."
TAKEN = "Base + best prompt"
PACE_S = 2.0
_SHOWN_LETTERS = 240


@dataclass(frozen=True)
class BenchView:
    """Every widget of the fold, named once. sent: what the page shows already."""

    sent: gr.State
    fold: gr.Accordion
    text: gr.Textbox
    keep: gr.Button
    listing: gr.HTML
    counts: gr.CheckboxGroup
    score: gr.Button
    stop: gr.Button
    use: gr.Button
    error: gr.HTML
    head: gr.HTML
    timer: gr.Timer

    @property
    def shown(self) -> list[Any]:
        return [self.sent, self.listing, self.head, self.score, self.stop, self.use, self.timer]


@dataclass(frozen=True)
class _Place:
    """Where a prompt is tried. rows: of the validation part, by the Train tab's seed and shares."""

    file: Path
    mapping: dict[str, str] | None
    seed: int
    test: float


def build() -> BenchView:
    parts: dict[str, Any] = {"sent": gr.State({})}
    with gr.Column(elem_classes="card folds"), gr.Accordion("Prompt bench", open=False) as fold:
        gr.HTML(html.note(IDEA))
        parts["text"] = gr.Textbox(label="A version of the prompt", lines=4, max_lines=12, max_length=20_000)
        parts["keep"] = gr.Button("Keep this version", size="sm", elem_classes="fit")
        parts["listing"] = gr.HTML(html.note(NONE), js_on_load=PICK_JS)
        parts["counts"] = gr.CheckboxGroup(
            [("none" if count == 0 else str(count), count) for count in COUNTS],
            value=[0, SHOTS],
            label="Answered examples before the question",
        )
        with gr.Row(elem_classes="acts"):
            parts["score"] = gr.Button("Score all on the validation part", variant="primary", size="sm")
            parts["stop"] = gr.Button("Stop and keep", variant="stop", size="sm", visible=False)
            parts["use"] = gr.Button("Use the best in the verdict", size="sm", visible=False)
        parts["error"] = hidden_slot()
        parts["head"] = hidden_slot()
        parts["timer"] = gr.Timer(PACE_S, active=False)
    return BenchView(**parts, fold=fold)


def wire(services: Any, view: BenchView, tab: Any, training: Any) -> None:
    """tab: the Verdict tab, for its examples, checks and prompt. training: the Train tab, for its upload, columns, seed and test share."""
    where = _where(tab, training)
    look = [view.sent, *where]
    opening = _opening(services, view, tab, training)
    gr.on([view.fold.expand, tab.source.input], *opening, **QUIET)
    tab.source.change(*opening, **QUIET)  # also when the page's opening chose, so the text stays as it is: see ``follow``
    view.timer.tick(bind(services, show), look, view.shown, **QUIET)

    def then_show(event: Any) -> None:
        event.then(bind(services, show), look, view.shown, **QUIET)

    then_show(view.keep.click(bind(services, keep), [view.text, *where], view.error, **QUIET))
    then_show(view.listing.pick(bind_pick(services, remove), None, view.error, **QUIET))
    then_show(
        view.score.click(
            bind(services, score),
            [view.counts, tab.checks, tab.max_tokens, tab.seed, *where],
            view.error,
            trigger_mode="once",
            **QUIET,
        )
    )
    then_show(view.stop.click(bind(services, stop), where, view.error, **QUIET))
    view.use.click(bind(services, use), where, [tab.prompt, tab.kept, view.error, tab.fold], **QUIET).then(
        bind(services, verdict_form.lined_up),
        [tab.adapter, tab.prompt, tab.kept, tab.sides, tab.offered, tab.source],
        [tab.sides, tab.offered],
        **QUIET,
    )


def follow(services: Any, view: BenchView, tab: Any, training: Any, event: Any) -> None:
    """After an event in which a person has other examples chosen without ``tab.source.input``, the text follows."""
    event.then(*_opening(services, view, tab, training), **QUIET)


def _where(tab: Any, training: Any) -> list[Any]:
    return [tab.source, tab.kept, training.uploaded, training.source, training.settings[5], training.settings[7]]


def _opening(services: Any, view: BenchView, tab: Any, training: Any) -> tuple[Any, list[Any], list[Any]]:
    return bind(services, opened), [view.text, view.sent, *_where(tab, training)], [view.text, view.error, *view.shown]


# -- handlers ----------------------------------------------------------------------------------------------------------


def opened(services: Any, visitor: Visitor, text: str, sent: dict[str, Any], *where: Any) -> list[Any]:
    """The fold was opened, or other examples were chosen. Returns the text (a set's prompt, where nobody wrote another), an error, then
    what ``show`` does."""
    written = (text or "").strip()
    prompt: Any = gr.skip()
    try:
        if not written or written in {one.system_prompt for one in services.data.sets()}:
            prompt = verdict_form.prompt_for(services, where[0] or "")
        _place(services, visitor, *where)
        said = slot("")
    except Exception as error:
        said = slot(card(error))
    return [prompt, said, *show(services, visitor, {}, *where)]


def show(services: Any, visitor: Visitor, sent: dict[str, Any], *where: Any) -> list[Any]:
    """Versions, the newest bench on these examples, and what can be done, as ``BenchView.shown`` takes it; what reads the same as what was
    ``sent`` is left alone."""
    try:
        place = _place(services, visitor, *where)
        versions = services.bench.versions(place.file, visitor.owner)
        bench = services.bench.newest(place.file, visitor.owner)
        head, best = _head(services, visitor, bench)
    except InputError:  # said where it was asked
        versions, bench, head, best, place = [], None, "", False, None
    except Exception as error:
        return [gr.skip(), gr.skip(), slot(card(error)), *[gr.skip()] * 4]
    live = bench is not None and bench.live
    drawn: dict[str, Any] = {
        "listing": list_html(versions, place.file.name if place is not None else ""), "head": head,
        "score": (not live, bool(versions)), "live": live, "use": best,
    }  # fmt: skip
    known = dict(sent or {})

    def fresh(name: str, update: Any) -> Any:
        return gr.skip() if known.get(name) == drawn[name] else update

    return [
        drawn,
        fresh("listing", drawn["listing"]),
        fresh("head", slot(head)),
        fresh("score", gr.update(visible=not live, interactive=bool(versions))),
        fresh("live", gr.update(visible=live)),
        fresh("use", gr.update(visible=best)),
        fresh("live", gr.Timer(PACE_S, active=live)),
    ]


def keep(services: Any, visitor: Visitor, text: str, *where: Any) -> Any:
    """Keep what stands in the box as a version for these examples. Returns an error."""
    try:
        services.bench.keep(text or "", _place(services, visitor, *where).file, visitor.owner)
    except Exception as error:
        return slot(card(error))
    return slot("")


def remove(services: Any, visitor: Visitor, id: str) -> Any:
    """A version's button was pressed; the id is looked up among the visitor's own. Returns an error."""
    try:
        services.bench.forget(id, visitor.owner)
    except Exception as error:
        return slot(card(error))
    return slot("")


def score(
    services: Any, visitor: Visitor, counts: Sequence[int], checks: str, max_tokens: float | None, draw: float | None, *where: Any
) -> Any:
    """Begin to measure all versions. Returns an error."""
    try:
        require(services)
        place = _place(services, visitor, *where)
        versions = [one.id for one in services.bench.versions(place.file, visitor.owner)]
        rows = services.bench.rows(place.file, visitor.owner, place.mapping, place.seed, place.test)
        services.bench.score(
            place.file, versions, [int(count) for count in counts or ()], [line.strip() for line in (checks or "").splitlines() if line.strip()],
            visitor.owner, rows, mapping=place.mapping, max_tokens=int(max_tokens or 96), seed=int(draw or 0),
        )  # fmt: skip
    except Exception as error:
        return slot(card(error))
    return slot("")


def stop(services: Any, visitor: Visitor, *where: Any) -> Any:
    """End it and keep what is measured. Returns an error."""
    try:
        bench = services.bench.newest(_place(services, visitor, *where).file, visitor.owner)
        if bench is not None:
            services.bench.stop(bench.id, visitor.owner)
    except Exception as error:
        return slot(card(error))
    return slot("")


def use(services: Any, visitor: Visitor, *where: Any) -> list[Any]:
    """The best prompt goes to the form; with a number of shots that the form does not offer, as a side of its own. Returns the form's
    prompt, what the tab keeps, what was done, and the form's fold."""
    try:
        place = _place(services, visitor, *where)
        bench = services.bench.newest(place.file, visitor.owner)
        if bench is None:
            raise InputError("Nothing has been scored yet. Score the versions first.")
        best = services.bench.best(bench.id, visitor.owner)
    except Exception as error:
        return [gr.skip(), gr.skip(), slot(card(error)), gr.skip()]
    kept: Kept = where[1]
    carried = tuple(one for one in kept.carried if not one.name.startswith(TAKEN))
    if best.shots not in (0, SHOTS):
        carried = (*carried, Side("base", best.text, best.shots, place.file, f"{TAKEN} + {best.shots} shots"))
    said = html.good(f"{best.side} is in the verdict's form; the report will say how it was found.")
    return [best.text, replace(kept, carried=carried), slot(said), gr.update(open=True)]


# -- what the page shows -------------------------------------------------------------------------------------------------


def list_html(versions: Sequence[Any], file: str) -> str:
    """Every version, the newest first, with its last scores on this file. Every text is escaped."""
    if not versions:
        return html.note(NONE)
    lines = []
    for one in reversed(versions):
        text = one.text if len(one.text) <= _SHOWN_LETTERS else f"{one.text[:_SHOWN_LETTERS].rstrip()} …"
        scores = sorted((score for score in one.scores if score.file == file), key=lambda score: score.shots)
        said = "<br>".join(html.esc(score_words(score)) for score in scores) or "not scored yet"
        lines.append(
            f"<tr><td>{html.esc(one.id)}</td><td>{html.esc(text)}</td><td>{said}</td>"
            f'<td><button type="button" data-id="{html.esc(one.id)}" aria-label="Remove {html.esc(one.id)}">Remove</button></td></tr>'
        )
    head = "<th>Version</th><th>Prompt</th><th>Last score</th><th></th>"
    return f'<div class="bench"><table class="rows" aria-label="Versions of the prompt"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def score_words(score: Any) -> str:
    """``21 of 24 with 4 shots, 310 tokens``."""
    figure = f"{score.passed} of {score.n}" if score.passed is not None else f"{score.metric} {score.value:.3f}"
    shots = "without shots" if not score.shots else f"with {score.shots} {'shot' if score.shots == 1 else 'shots'}"
    return f"{figure} {shots}, {score.tokens:.0f} tokens"


def _head(services: Any, visitor: Visitor, bench: Any) -> tuple[str, bool]:
    """(how far the newest bench is or what it found, whether there is a best)."""
    if bench is None:
        return "", False
    if bench.live:
        return verdict_shown.live_html(bench), False
    early = html.note(bench.error) if bench.error else ""
    if bench.record is None:
        return html.error_card(bench.error or "Nothing was measured."), False
    try:
        best = services.bench.best(bench.id, visitor.owner)
    except InputError as error:
        return early + card(error), False
    return early + html.good(f"{best.side}. {best.sentence}"), True


def _place(
    services: Any,
    visitor: Visitor,
    source: str | None,
    kept: Kept,
    uploaded: Path | None,
    training: Source,
    seed: float,
    test: float,
) -> _Place:
    """The examples behind the form's choice. Raises InputError where none of them may be used to choose a prompt."""
    if (source or "").startswith(SET):
        shipped = next((one for one in services.data.sets() if SET + one.id == source), None)
        if shipped is not None:
            return _Place(shipped.file, None, int(seed), 0.0)
    if source == UPLOAD and uploaded is not None:
        share = services.data.test_share(uploaded) and float(test) / 100
        return _Place(uploaded, training.mapping if training.path == uploaded else None, int(seed), share)
    if source == FILE:
        raise InputError(DROPPED)
    raise InputError("Choose the examples of the verdict first: a prompt is tried on other rows of the same.")
