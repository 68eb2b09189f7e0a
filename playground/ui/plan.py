"""The This run card: what a run would cost, said again whenever a setting moves, and its start."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError
from playground.services.training import TrainRequest
from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.figures import about, count, plural, rate, share, size
from playground.ui.readiness import ready
from playground.ui.source import Source
from playground.ui.wiring import Visitor, slot


def request_of(
    source: Source, owner: str, name: str, method: str, steps: float | None, lr: float | None, rank: float | None, batch_size: float,
    max_tokens: float, seed: float, validation: float | None = None, test: float | None = None,
) -> TrainRequest:  # fmt: skip
    """Empty fields, and zero, are the method's own defaults. validation, test: per cent held back."""
    assert source.path is not None
    return TrainRequest(
        file=source.path,
        name=name.strip() or source.slug or "adapter",
        method=method,
        steps=int(steps) if steps else None,
        lr=float(lr) if lr else None,
        rank=int(rank) if rank else None,
        batch_size=int(batch_size or 8),
        max_tokens=int(max_tokens or 2048),
        seed=int(seed or 0),
        mapping=source.mapping,
        owner=owner,
        validation=None if validation is None else validation / 100,
        test=None if test is None else test / 100,
        turns=source.turns,
        leave_out=source.leave_out,
    )


def refresh(services: Any, visitor: Visitor, source: Source, name: str, method: str, *settings: Any) -> list[Any]:
    """The plan, an error beside it, the Start button, and what the closed settings say. Settings: as request_of."""
    fold = settings_label(method, *settings)
    if source.path is None or not source.good:
        waiting = gr.update(value=words.FIRST_EXAMPLES, interactive=False)
        return [html.note(words.TRAIN_EMPTY), slot(""), waiting, gr.update(label=fold)]
    if not (base := ready(services)).yes:
        waiting = gr.update(value=words.START, interactive=False)
        return [html.note(f"{base.words}. The plan follows."), slot(""), waiting, gr.update(label=fold)]
    try:
        plan = services.training.plan(request_of(source, visitor.owner, name, method, *settings))
    except Exception as error:
        return ["", slot(card(error)), gr.update(value=words.START, interactive=False), gr.update(label=fold)]
    lr, rank = plan.lr, plan.rank
    fold = settings_label(method, plan.steps, lr, rank, *settings[3:])
    blocked = slot(html.error_card(plan.blocked) if plan.blocked else "")
    start = gr.update(value=words.START, interactive=not plan.blocked)
    return [plan_html(plan, services.bases.state().label), blocked, start, gr.update(label=fold)]


def plan_html(plan: Any, base: str) -> str:
    facts = [
        ("Base", base),
        (
            "Trains",
            f"{count(plan.trainable_params)} of {count(plan.total_params)} weights ({share(plan.trainable_params, plan.total_params)})",
        ),
        ("Learns from", f"{plural(plan.rows, 'row')}, {plural(plan.steps, 'step')}"),
        ("Held back", held_back(plan)),
        ("Time", about(plan.seconds) or "not known yet"),
        ("Memory", f"{size(plan.memory_bytes)}, {size(plan.free_bytes)} free"),
        ("On disk after", size(plan.disk_bytes)),
    ]
    return html.pairs(facts)


def held_back(plan: Any) -> str:
    """The parts that are not learned from, and what they are for."""
    parts = [f"{plan.validation_rows:,} to choose by"] if plan.validation_rows else []
    parts += [f"{plan.test_rows:,} for the verdict"] if plan.test_rows else []
    return ", ".join(parts) or "no row"


def settings_label(
    method: str,
    steps: Any = None,
    lr: Any = None,
    rank: Any = None,
    batch: Any = 8,
    tokens: Any = 2048,
    seed: Any = 7,
    *shares: Any,
) -> str:
    """The closed fold says what stands in it, so that closed means read, not hidden."""
    parts = [f"{int(steps)} steps"] if steps else []
    parts.append(f"learning rate {rate(lr)}")
    if rank and method != "full":
        parts.append(f"rank {int(rank)}")
    return "Everything else: " + ", ".join([*parts, f"batch {int(batch or 0)}", f"seed {int(seed or 0)}"])


def presets(services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float) -> list[Any]:
    """How much time to give a file of this length. Returns the radio, the steps, a name for the adapter, and the per cent for the verdict."""
    if not source.good or source.path is None:
        return [gr.skip()] * 4
    choices = _preset_choices(services, visitor, source, method, max_tokens)
    first = services.training.presets(source.good)[0]
    taken = {row.card.name for row in services.adapters.list(visitor.owner)}
    held = round(100 * services.data.test_share(source.path))
    return [gr.update(choices=choices, value=first.name), first.steps, free_name(source.slug, taken), held]


def preset_times(services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float) -> Any:
    """Another method takes another time: new labels, the choice stays."""
    return gr.update(choices=_preset_choices(services, visitor, source, method, max_tokens)) if source.good else gr.skip()


def _preset_choices(services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float) -> list[tuple[str, str]]:
    choices = []
    for preset in services.training.presets(source.good):
        said = plural(preset.steps, "step")
        if ready(services).yes:
            with suppress(PlaygroundError):  # the plan itself says what is wrong
                request = request_of(source, visitor.owner, "", method, preset.steps, None, None, 8, max_tokens, 7)
                said = about(services.training.plan(request).seconds) or said
        choices.append((f"{preset.label}, {said}", preset.name))
    return choices


def free_name(slug: str, taken: set[str]) -> str:
    """``hospital_reports``, or ``hospital_reports-2`` where that is taken."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", slug).strip("_")[:40] or "adapter"
    return next(name for number in range(1, 10_000) if (name := stem if number == 1 else f"{stem}-{number}") not in taken)


def steps_of(services: Any, visitor: Visitor, source: Source, preset: str) -> Any:
    offered = services.training.presets(source.good) if source.good else []
    return next((one.steps for one in offered if one.name == preset), gr.skip())


def explain_html(method: Any) -> str:
    """Two sentences on a method, and its paper."""
    return html.note(f"{method.explain} {html.sentence(method.paper)}".strip())


def method_chosen(services: Any, visitor: Visitor, name: str) -> list[Any]:
    """Returns the explanation, and the method's own learning rate and rank."""
    method = next(one for one in services.training.methods() if one.name == name)
    return [explain_html(method), method.learning_rate, gr.update(value=method.rank or 0, visible=method.rank is not None)]


def start(services: Any, visitor: Visitor, source: Source, name: str, method: str, *settings: Any) -> list[Any]:
    """Queue the run. Returns the run's id and an error."""
    if source.path is None:
        return [gr.skip(), slot(html.error_card(words.TRAIN_EMPTY))]
    try:
        run = services.training.start(request_of(source, visitor.owner, name, method, *settings))
    except Exception as error:
        return [gr.skip(), slot(card(error))]
    return [run, slot("")]
