"""The This run card: what a run would cost, said again whenever a setting moves, and its start."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError, PlaygroundError
from playground.methods import all_methods
from playground.methods.options import PLACEMENTS, Options
from playground.services.presets import Preset, within_reach
from playground.services.training import TrainRequest
from playground.training.spec import OBJECTIVES
from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.figures import about, count, plural, rate, share, size
from playground.ui.readiness import ready
from playground.ui.source import Source
from playground.ui.wiring import Visitor, slot

OPTIONS = tuple(item.name for item in fields(Options))
"""In the order of the form."""
BLANK = (None, None, None, 8, 2048, 7, 10, 15, False, False, 0, "", "", "", "", 0)
"""The form's settings, options and aims when nothing is chosen."""
FIELDS = len(BLANK)
AT_REST = {"placement": PLACEMENTS[0]}
"""What a widget shows for an option that is not set, where it has no empty choice."""
PLAIN = TrainRequest(Path())
AWAY = {
    "save_steps": "the steps between checkpoints (save_steps)",
    "start": "an adapter to begin with (start)",
    "docs": "documents (docs)",
    "limit_memory_bytes": "a limit on memory (limit_memory_bytes)",
}
"""Settings of a run that only the command line has, in words."""
AIMS = {
    "sft": "To answer as the examples do",
    "grpo": "To earn rewards (GRPO)",
    "pretrain": "To write as the texts do",
    "dpo": "To prefer the better answers (DPO)",
    "orpo": "To prefer them while learning them (ORPO)",
    "reward": "To score answers (a reward model)",
    "kto": "To tell good from bad answers (KTO)",
}


def request_of(
    source: Source, owner: str, name: str, method: str, steps: float | None, lr: float | None, rank: float | None, batch_size: float,
    max_tokens: float, seed: float, validation: float | None = None, test: float | None = None, *more: Any,
) -> TrainRequest:  # fmt: skip
    """Empty fields, and zero, are the method's own defaults. validation, test: per cent held back. more: the options
    as ``method_options`` takes them, then the objective, rewards (one a line) and how many checkpoints without gain end the run."""
    options, (objective, rewards, early_stop, *_) = more[: len(OPTIONS)], (*more[len(OPTIONS) :], "", "", 0)
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
        options=method_options(method, *options),
        objective=str(objective or ""),
        rewards=tuple(line.strip() for line in str(rewards or "").splitlines() if line.strip()) if objective == "grpo" else (),
        early_stop=int(early_stop or 0),
    )


def method_options(
    method: str, rslora: Any = False, pissa: Any = False, layers: Any = 0, init_text: Any = "", placement: Any = ""
) -> Options:
    """What the form says of the options that this method has; the others may hold what was set for another. Raises InputError."""
    said = {
        "rslora": bool(rslora), "pissa": bool(pissa), "layers": int(layers or 0), "init_text": str(init_text or "").strip(),
        "placement": str(placement or ""),
    }  # fmt: skip
    known = all_methods().get(method)
    return Options.of({name: value for name, value in said.items() if known is not None and name in known.options})


def values_of(request: TrainRequest) -> list[Any]:
    """The form's settings, options and aims for a request. Raises InputError for what the form has no place for."""
    away = [words for name, words in AWAY.items() if getattr(request, name) != getattr(PLAIN, name)]
    if away:
        raise InputError(f"The form has no place for {', '.join(away)}. Start this run from the command line, or leave that out.")
    shares = [None if share is None else round(100 * share) for share in (request.validation, request.test)]
    return [
        request.steps, request.lr, request.rank or 0, request.batch_size, request.max_tokens, request.seed,
        *(BLANK[6 + place] if share is None else share for place, share in enumerate(shares)),
        *(getattr(request.options, name) or AT_REST.get(name, rest) for name, rest in zip(OPTIONS, BLANK[8:], strict=False)), request.objective, "\n".join(request.rewards), request.early_stop,
    ]  # fmt: skip


def with_request(source: Source, request: TrainRequest) -> Source:
    """What a request says of the rows themselves."""
    return replace(source, turns=request.turns, leave_out=request.leave_out)


def aims_of(kind: str) -> list[tuple[str, str]]:
    """What rows of a kind can train, in words; the usual aim first."""
    able = [objective for objective, holds in OBJECTIVES.items() if kind in holds]
    able.sort(key=lambda objective: OBJECTIVES[objective].index(kind))
    return [(AIMS[objective], objective) for objective in able]


def aim_chosen(services: Any, visitor: Visitor, objective: str) -> Any:
    """Rewards are asked for where they are what is learned from."""
    return gr.update(visible=objective == "grpo")


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
    known = all_methods().get(method)
    if rank and known is not None and known.rank is not None:
        parts.append(f"{int(rank)} virtual tokens" if known.virtual else f"{known.rank_label.lower()} {int(rank)}")
    parts += _options_said(method, *shares[2 : 2 + len(OPTIONS)])
    return "Everything else: " + ", ".join([*parts, f"batch {int(batch or 0)}", f"seed {int(seed or 0)}"])


def _options_said(method: str, *options: Any) -> list[str]:
    names = {"rslora": "rsLoRA", "pissa": "PiSSA", "init_text": "begins as a text"}
    with suppress(PlaygroundError):
        chosen = method_options(method, *options).chosen()
        return [
            names.get(name) or (f"the last {value} layers" if name == "layers" else str(value)) for name, value in chosen.items()
        ]
    return []


def presets(services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float) -> list[Any]:
    """How much time to give a file of this length. Returns the radio, the steps, a name for the adapter, and the per cent for the verdict."""
    if not source.good or source.path is None:
        return [gr.skip()] * 6
    offered = _offered(services, visitor, source, method, max_tokens)
    choices, first = _preset_choices(services, visitor, source, method, max_tokens, offered), offered[0]
    taken = {row.card.name for row in services.adapters.list(visitor.owner)}
    held = round(100 * services.data.test_share(source.path))
    return [gr.update(choices=choices, value=first.name), first.steps, free_name(source.slug, taken), held, *_aims(source)]


def _aims(source: Source) -> list[Any]:
    """The choice of objective, shown where there is one, and the rewards, away until they are asked for."""
    aims = aims_of(source.kind)
    return [gr.update(choices=aims, value=aims[0][1], visible=len(aims) > 1), gr.update(visible=False)]


def preset_times(services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float) -> Any:
    """Another method takes another time: new labels, the choice stays."""
    if not source.good:
        return gr.skip()
    offered = _offered(services, visitor, source, method, max_tokens)
    return gr.update(choices=_preset_choices(services, visitor, source, method, max_tokens, offered))


def _preset_choices(
    services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float, offered: list[Preset]
) -> list[tuple[str, str]]:
    choices = []
    for preset in offered:
        said = plural(preset.steps, "step")
        if ready(services).yes:
            with suppress(PlaygroundError):  # the plan itself says what is wrong
                said = about(_seconds(services, visitor, source, method, max_tokens, preset.steps)) or said
        choices.append((f"{preset.label}, {said}", preset.name))
    return choices


def _offered(services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float) -> list[Preset]:
    """The presets for this file, the first of them short enough by the plan's own estimate, where there is one."""
    offered: list[Preset] = services.training.presets(source.good)
    if ready(services).yes:
        with suppress(PlaygroundError):
            return within_reach(offered, lambda steps: _seconds(services, visitor, source, method, max_tokens, steps))
    return offered


def _seconds(services: Any, visitor: Visitor, source: Source, method: str, max_tokens: float, steps: int) -> float:
    request = request_of(source, visitor.owner, "", method, steps, None, None, 8, max_tokens, 7)
    return float(services.training.plan(request).seconds)


def free_name(slug: str, taken: set[str]) -> str:
    """``hospital_reports``, or ``hospital_reports-2`` where that is taken."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", slug).strip("_")[:40] or "adapter"
    return next(name for number in range(1, 10_000) if (name := stem if number == 1 else f"{stem}-{number}") not in taken)


def steps_of(services: Any, visitor: Visitor, source: Source, preset: str, method: str = "lora", max_tokens: float = 2048) -> Any:
    """What a preset's click puts into the steps."""
    offered = _offered(services, visitor, source, method, max_tokens) if source.good and source.path is not None else []
    return next((one.steps for one in offered if one.name == preset), gr.skip())


def explain_html(method: Any) -> str:
    """Two sentences on a method, and its paper."""
    return html.note(f"{method.explain} {html.sentence(method.paper)}".strip())


def method_chosen(services: Any, visitor: Visitor, name: str) -> list[Any]:
    """Returns the explanation, the method's own learning rate and rank, and which options are shown."""
    method = next(one for one in services.training.methods() if one.name == name)
    rank = gr.update(
        value=method.rank or 0,
        visible=method.rank is not None,
        label=method.rank_label,
        info=f"{method.rank_info} 0: the method's own.",
    )
    return [
        explain_html(method),
        method.learning_rate,
        rank,
        *(gr.update(visible=option in method.options) for option in OPTIONS),
    ]


def rate_of(services: Any, visitor: Visitor, name: str, pissa: bool) -> float:
    """The method's own learning rate, which PiSSA changes."""
    method = next(one for one in services.training.methods() if one.name == name)
    return float(method.default_rate(Options(pissa=bool(pissa) and "pissa" in method.options)))


def start(services: Any, visitor: Visitor, source: Source, name: str, method: str, *settings: Any) -> list[Any]:
    """Queue the run. Returns the run's id and an error."""
    if source.path is None:
        return [gr.skip(), slot(html.error_card(words.TRAIN_EMPTY))]
    try:
        run = services.training.start(request_of(source, visitor.owner, name, method, *settings))
    except Exception as error:
        return [gr.skip(), slot(card(error))]
    return [run, slot("")]
