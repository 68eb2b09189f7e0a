"""What a person asks to be judged: the examples, the sides, the checks, the situation. From widgets to a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.evaluation.cost import Prices, prices_from_json
from playground.evaluation.questions import Questions
from playground.services.sides import Side
from playground.services.verdict_request import VerdictRequest
from playground.ui import html, scoreboard, side, words
from playground.ui.asking import Comparison
from playground.ui.failure import card
from playground.ui.readiness import ready, require
from playground.ui.source import Source
from playground.ui.verdict_examples import FILE, SET, UPLOAD, Drawn, Kept, checks_for, documents_for, drawn, prompt_for, sources
from playground.ui.wiring import Visitor, slot

KEYS = {
    "base": "The base as it is", "prompt": "The base with the prompt", "shots": "The base with answered examples", "documents": "The base with documents",
    "tuned": "The adapter", "tuned+documents": "The adapter with documents",
}  # fmt: skip
CARRIED = "carried:"
_ANYWHERE = Path("examples")
"""Where shots come from while sides are only shown."""


def adapters(services: Any, visitor: Visitor) -> list[tuple[str, str]]:
    """Usable ones, and none."""
    usable = [row.card for row in services.adapters.list(visitor.owner) if row.usable]
    return [("No adapter", ""), *((f"{one.name} · {side.method_label(one)}", one.id) for one in usable)]


def key_of(one: Side) -> str:
    """Which of the ready-made sides this is."""
    if one.model != "base":
        return "tuned+documents" if one.docs else "tuned"
    return "documents" if one.docs else "shots" if one.shots else "prompt" if one.system_prompt else "base"


def line_up(
    services: Any, visitor: Visitor, found: Drawn | None, adapter: str, prompt: str, kept: Kept, source: str
) -> dict[str, Side]:
    """Every side that can be chosen, by its key: those that came from Compare first. ``found`` None: only to show them. source: of the
    examples, for the documents of a shipped set."""
    known = {value for _, value in adapters(services, visitor)}
    shots = found.shots if found is not None else _ANYWHERE
    made = services.verdicts.line_up(
        shots, adapter if adapter in known else "", prompt or "", documents_for(services, source, kept), visitor.owner
    )
    carried = {f"{CARRIED}{place}": one for place, one in enumerate(kept.carried)}
    taken = {one.label for one in carried.values()}
    ready_made = {key_of(one): one if one.label not in taken else replace(one, name=f"{one.label}, ready-made") for one in made}
    return carried | ready_made


def side_choices(sides: dict[str, Side]) -> list[tuple[str, str]]:
    return [(one.label, key) for key, one in sides.items()]


# -- handlers ----------------------------------------------------------------------------------------------------------


def opening(services: Any, visitor: Visitor, uploaded: Path | None, kept: Kept, source: str | None) -> list[Any]:
    """The choices of examples and adapters. A new upload, or the page's opening. Returns source and adapter."""
    try:
        choices = sources(services, uploaded, kept)
        known = {value for _, value in choices}
        chosen = UPLOAD if uploaded is not None else source if source in known else choices[0][1] if choices else None
        shipped = next((one for one in services.data.sets() if SET + one.id == chosen), None)
        models = adapters(services, visitor)
    except Exception:
        return [gr.skip(), gr.skip()]
    there = [value for _, value in models]
    adapter = shipped.adapter if shipped is not None and shipped.adapter in there else there[-1] if uploaded is not None else ""
    return [gr.update(choices=choices, value=chosen), gr.update(choices=models, value=adapter)]


def first(
    services: Any, visitor: Visitor, source: str | None, kept: Kept, uploaded: Path | None, training: Source, seed: float, test: float,
    prompt: str, chosen: Sequence[str], offered: Mapping[str, str],
) -> list[Any]:  # fmt: skip
    """What ``opening``, ``source_chosen`` and ``lined_up`` say one after another, in one answer: nothing is between them that a person could
    change. Returns source, facts, error, prompt, checks, adapter, sides, what is offered."""
    examples, adapter = opening(services, visitor, uploaded, kept, source)
    picked = examples.get("value", source)
    facts, error, told, checks, fitting = source_chosen(services, visitor, picked, kept, uploaded, training, seed, test)
    adapter = {**adapter, **fitting}
    prompt = told if isinstance(told, str) else prompt
    sides = lined_up(services, visitor, adapter.get("value", ""), prompt, kept, chosen, offered, picked)
    return [examples, facts, error, told, checks, adapter, *sides]


def drop(services: Any, visitor: Visitor, file: str | None, kept: Kept, uploaded: Path | None) -> list[Any]:
    """A file to judge by was dropped. Returns kept, source, error."""
    if not file:
        return [gr.skip(), gr.skip(), gr.skip()]
    try:
        kept = replace(kept, dropped=services.data.keep_uploads([Path(file)], visitor.owner))
    except Exception as error:
        return [gr.skip(), gr.skip(), slot(card(error))]
    return [kept, gr.update(choices=sources(services, uploaded, kept), value=FILE), slot("")]


def documents(services: Any, visitor: Visitor, file: str | None, kept: Kept) -> list[Any]:
    """A text to look things up in was dropped, or taken away. Returns kept, error."""
    try:
        path = services.data.keep_uploads([Path(file)], visitor.owner) if file else None
        if path is not None:
            services.data.documents(path, visitor.owner)
    except Exception as error:
        return [replace(kept, docs=None), slot(card(error))]
    return [replace(kept, docs=path), slot("")]


def source_chosen(
    services: Any, visitor: Visitor, source: str, kept: Kept, uploaded: Path | None, training: Source, seed: float, test: float
) -> list[Any]:
    """Other examples: their facts, and what fits them. Returns facts, error, prompt, checks, adapter."""
    try:
        found = drawn(services, visitor, source, kept, uploaded, training, seed, test)
        shipped = next((one for one in services.data.sets() if SET + one.id == source), None)
        models = adapters(services, visitor)
        prompt, checks = prompt_for(services, source), checks_for(services, source, found)
    except Exception as error:
        return [slot(""), slot(card(error)), *[gr.skip()] * 3]
    fits = shipped is not None and shipped.adapter in [value for _, value in models]
    # with its choices: while the base is loading, what is usable changes between one event and the next
    adapter = gr.update(choices=models, value=shipped.adapter) if fits and shipped is not None else gr.skip()
    return [slot(html.note(found.words)), slot(""), prompt if shipped is not None else gr.skip(), checks, adapter]


def lined_up(
    services: Any, visitor: Visitor, adapter: str, prompt: str, kept: Kept, chosen: Sequence[str], offered: Mapping[str, str], source: str
) -> list[Any]:  # fmt: skip
    """The sides that can be chosen now: what is new is chosen (the adapter with documents only where these are the person's own: five sides
    are a line-up), what was taken away stays so. Where they are the same as before, nothing is drawn, since a person may be choosing just
    now. Returns sides, and what is offered: key -> name."""
    try:
        sides = line_up(services, visitor, None, adapter, prompt, kept, source)
    except Exception:
        return [gr.skip(), gr.skip()]
    names = {key: one.label for key, one in sides.items()}
    if names == offered:
        return [gr.skip(), gr.skip()]
    fresh = [key for key in sides if key not in (offered or {}) and (key != "tuned+documents" or kept.docs)]
    value = [key for key in sides if key in (chosen or ()) or key in fresh]
    return [gr.update(choices=side_choices(sides), value=value), names]


def blocked(services: Any, source: str, count: int, sides: Sequence[str]) -> str:
    """What stands in the way of measuring, in a few words; "" where nothing does."""
    now = ready(services)
    if not now.yes:
        return now.words if len(now.words) <= words.SHORT else words.BASE_MISSING
    if not source or not count:
        return words.VERDICT_EXAMPLES
    return "" if sides else words.VERDICT_SIDES


def refresh(
    services: Any, visitor: Visitor, source: str, kept: Kept, uploaded: Path | None, training: Source, seed: float, test: float,
    sides: Sequence[str], limit: float | None, repeats: float | None, max_tokens: float | None, temperature: float | None, draw: float | None,
    losses: bool = True, forgetting: bool = True,
) -> list[Any]:  # fmt: skip
    """The main button says what it does or what is missing. Returns the button and the fold's label."""
    try:
        count = drawn(services, visitor, source, kept, uploaded, training, seed, test).count
    except Exception:
        count = 0
    count = min(count, int(limit)) if limit else count
    why = blocked(services, source, count, sides)
    again = int(repeats or 1)
    replies = count * len(sides or ()) * (1 + again if again > 1 else 1)
    label = why or f"{words.MEASURE} ({replies:,} replies)"
    how = "greedy" if not temperature else f"temperature {temperature:g}"
    said = f"Everything else: {how}, at most {int(max_tokens or 0)} tokens, seed {int(draw or 0)}"
    said += "" if losses else ", no loss"
    said += "" if forgetting else ", forgetting not measured"
    said += f", {again} repeats" if again > 1 else ""
    return [gr.update(value=label, interactive=not why), gr.update(label=said + (f", {int(limit)} rows" if limit else ""))]


def situation(volume: Any, changes: str, latency: Any, budget: Any, prices: str) -> tuple[Questions, Prices]:
    """The four answers and the price table. Raises InputError."""
    number = int(volume) if volume is not None else None
    questions = Questions(number, changes or "never", latency, budget)  # type: ignore[arg-type]
    return questions, prices_from_json(prices) if (prices or "").strip() else Prices()


def start(
    services: Any, visitor: Visitor, source: str, kept: Kept, uploaded: Path | None, training: Source, seed: float, test: float,
    chosen: Sequence[str], limit: float | None, repeats: float | None, max_tokens: float | None, temperature: float | None, draw: float | None,
    losses: bool, forgetting: bool, adapter: str, prompt: str, checks: str, volume: Any, changes: str, latency: Any, budget: Any, prices: str,
) -> list[Any]:  # fmt: skip
    """Begin to measure. Returns the verdict's id, an error, and the fold of the form."""
    try:
        require(services)
        questions, table = situation(volume, changes, latency, budget, prices)
        found = drawn(services, visitor, source, kept, uploaded, training, seed, test)
        sides = line_up(services, visitor, found, adapter, prompt, kept, source)
        if any(str(key).startswith(("tuned", CARRIED)) and key not in sides for key in chosen or ()):
            raise InputError(words.VERDICT_GONE)
        picked = tuple(sides[key] for key in chosen or () if key in sides)
        if not picked:
            raise InputError(words.VERDICT_SIDES)
        request = VerdictRequest(
            found.file, picked, tuple(line.strip() for line in (checks or "").splitlines() if line.strip()), found.rows, found.shots,
            repeats=1 if repeats is None else int(repeats), limit=int(limit) if limit else None, max_tokens=96 if max_tokens is None else int(max_tokens), temperature=float(temperature or 0),
            seed=int(draw or 0), mapping=found.mapping, name=found.file.stem.removesuffix("_heldout"), owner=visitor.owner,
            questions=questions, prices=table, losses=bool(losses), forgetting=bool(forgetting),
        )  # fmt: skip
        made = services.verdicts.start(request)
    except Exception as error:
        return [gr.skip(), slot(card(error)), gr.skip()]
    return [made, slot(""), gr.update(open=False)]


def carry(
    services: Any, visitor: Visitor, kept: Kept, uploaded: Path | None, source: str, adapter: str, prompt: str, comparison: Comparison, kind: str,
    text: str, *values: Any,
) -> list[Any]:  # fmt: skip
    """The Compare tab's sides become this verdict's. Returns tabs, kept, source, checks, sides, what is offered, the form's fold."""
    known, setups = side.labels(services, visitor), side.read_setups(services, visitor, values)
    made: list[Side] = []
    for letter in comparison.shown:
        setup = setups[letter]
        file = side.shots_file(services, setup.source, uploaded) if setup.shots else None
        setup = setup if file else replace(setup, shots=0)  # so the side's name does not speak of shots
        name = side.name_of(setup, known)
        name = f"{name} ({letter})" if name in [one.label for one in made] else name
        # a model that is gone stays, so that the request refuses it: the base is not measured under its name
        made.append(Side(setup.model, setup.prompt.strip(), setup.shots, file, name))
    kept = replace(kept, carried=tuple(made))
    first = setups[comparison.shown[0]].source if comparison.shown else ""
    from_there = UPLOAD if first == side.UPLOAD else SET + first
    choices = sources(services, uploaded, kept)
    chosen = from_there if from_there in [value for _, value in choices] else source
    try:
        sides = line_up(services, visitor, None, adapter, prompt, kept, chosen)
    except Exception:
        return [gr.update(selected="verdict"), *[gr.skip()] * 6]
    return [
        gr.update(selected="verdict"), kept, gr.update(choices=choices, value=chosen), scoreboard.check_of(kind, text),
        gr.update(choices=side_choices(sides), value=[key for key in sides if key.startswith(CARRIED)]), {key: one.label for key, one in sides.items()}, gr.update(open=True),
    ]  # fmt: skip
