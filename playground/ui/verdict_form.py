"""What a person asks to be judged: the examples, the sides, the checks, the situation. From widgets to a request."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import gradio as gr

from playground.chat.compare import RECORDED, Side
from playground.data.example import Checked
from playground.data.records import Records
from playground.errors import InputError, PlaygroundError
from playground.evaluation.comparison import Changes, Questions
from playground.evaluation.cost import Prices, prices_from_json
from playground.evaluation.criterion import judges_in, parse_criteria, samples, suggested
from playground.evaluation.decision import Terms, power_words
from playground.evaluation.form import MOST_READ, inferred, shared_form
from playground.models.adapters import AdapterRow
from playground.models.bases import PREFIX as BASE_PREFIX
from playground.models.endpoints import PREFIX
from playground.services import Services
from playground.ui import html, rows, side, words
from playground.ui.form import lines_of
from playground.ui.html import card, plural
from playground.ui.judged import FILE, UPLOAD, ExampleValues, Judged, Kept, examples, shipped_set, sources
from playground.ui.side import RecordedValues
from playground.ui.sidebar import ready, require
from playground.ui.wiring import AWAY, Drawn, Initial, Updates, Visit, slot
from playground.verdict.request import Size, VerdictRequest

if TYPE_CHECKING:
    from playground.ui.verdict import VerdictTab

FEWEST_INFERRED = 5
stated_html = html.piece("verdict", "terms")


class LineUpValues(TypedDict):
    """What the sides are made of, which are chosen, and which were offered last (key -> name). recorded: of the side
    whose replies are in a file."""

    adapter: str
    prompt: str
    chosen: Sequence[str]
    offered: Mapping[str, str]
    recorded: RecordedValues


class SettingValues(TypedDict):
    limit: float | None
    repeats: float | None
    draws: float | None
    max_tokens: float | None
    temperature: float | None
    seed: float | None
    unseen: bool
    losses: bool
    forgetting: bool
    spend_cap: float | None


class TermValues(TypedDict):
    """right: criteria, one a line. bar, margin: in points of 100."""

    right: str
    bar: float | None
    margin: float | None
    maximum: float | None
    form_only: bool


class SituationValues(TypedDict):
    volume: float | None
    changes: Changes
    latency: float | None
    budget: float | None
    forgets: float | None
    prices: str


CARRIED, SHOTS = "carried:", "shots"
_ANYWHERE = Path("examples")
"""Where shots come from while sides are only shown."""


def adapters(rows: Sequence[AdapterRow]) -> list[tuple[str, str]]:
    none = [("No adapter", "")]
    return none + side.adapter_choices([row.card for row in rows if row.usable])


def _key_of(one: Side) -> str:
    """Which of the ready-made sides this is."""
    if one.is_remote or one.is_other_base or one.replies is not None:
        return one.model
    if one.adapter:
        return "tuned+documents" if one.docs else "tuned"
    if one.docs or one.shots:
        return "documents" if one.docs else SHOTS
    return "form" if one.format else "prompt" if one.system_prompt else "base"


def _share_form(visit: Visit, where: ExampleValues) -> bool:
    """Whether the answers of these examples have a form that a side can be held to."""
    with contextlib.suppress(PlaygroundError):  # shown where the examples are chosen
        return bool(shared_form(examples(visit, where).answers[:MOST_READ]))
    return False


def line_up(visit: Visit, line: LineUpValues, where: ExampleValues, shots: Path = _ANYWHERE) -> dict[str, Side]:
    """Every side that can be chosen, by its key: those that came from Compare first. A shipped set brings its
    documents, unless the person has dropped their own."""
    kept, source = where["kept"], where["source"]
    known = {row.card.id for row in visit.services.adapters.list(visit.owner) if row.usable}
    shipped = shipped_set(visit.services, source)
    docs = kept.docs or (shipped.documents if shipped is not None else None)
    adapter = line["adapter"] if line["adapter"] in known else ""
    own = {UPLOAD: where["uploaded"], FILE: kept.dropped}.get(source or "")
    file = shipped.heldout if shipped is not None else own
    form = _share_form(visit, where)
    made = visit.services.verdicts.line_up(shots, adapter, line["prompt"] or "", docs, visit.owner, form)
    today = side.recorded_side(kept.replies, file, line["recorded"])
    made = (*made, *([today] if today is not None else []))
    carried = {f"{CARRIED}{place}": one for place, one in enumerate(kept.carried)}
    taken = {one.label for one in carried.values()}
    named = [replace(one, name=f"{one.label}, ready-made") if one.label in taken else one for one in made]
    return carried | {_key_of(one): one for one in named}


def offer(tab: VerdictTab, sides: dict[str, Side], value: Sequence[str]) -> Updates:
    choices = [(one.label, key) for key, one in sides.items()]
    return {tab.sides: Initial(choices, value=list(value)), tab.offered: {key: label for label, key in choices}}


def first(visit: Visit, tab: VerdictTab, *, where: ExampleValues, line: LineUpValues) -> Updates:
    """The page was opened, or a file was uploaded on the Train tab: examples, adapter, and what fits them, in one
    answer, so that a person can change nothing in between."""
    choices, uploaded = sources(visit.services, where["uploaded"], where["kept"]), where["uploaded"] is not None
    there = [value for _, value in choices]
    source = where["source"] if where["source"] in there else next(iter(there), None)
    source = UPLOAD if uploaded else source
    shipped, models = shipped_set(visit.services, source), adapters(visit.services.adapters.list(visit.owner))
    known = [value for _, value in models]
    adapter = known[-1] if uploaded else ""
    if shipped is not None and shipped.adapter in known:
        adapter = shipped.adapter
    before = line["prompt"]
    line = {**line, "adapter": adapter, "prompt": shipped.system_prompt if shipped else _own(visit, before) or ""}
    updates: Updates = {
        tab.source: Initial(choices, value=source),
        tab.adapter: Initial(models, value=adapter),
        **lined_up(visit, tab, where={**where, "source": source}, line=line),
    }
    return updates | source_chosen(visit, tab, where={**where, "source": source}, prompt=before)


def _own(visit: Visit, prompt: str | None) -> str | None:
    """ "" for a shipped set's prompt, which other examples are not asked with."""
    return "" if prompt in {one.system_prompt for one in visit.services.data.sets()} else prompt


def drop(visit: Visit, tab: VerdictTab, *, file: str | None, kept: Kept, uploaded: Path | None) -> Updates:
    if not file:
        return {}
    kept = replace(kept, dropped=visit.services.data.keep_uploads([Path(file)], visit.owner), reading={})
    return {tab.kept: kept, tab.source: gr.update(choices=sources(visit.services, uploaded, kept), value=FILE)}


def read_otherwise(visit: Visit, tab: VerdictTab, *, kept: Kept, reading: Mapping[str, str | None]) -> Updates:
    """Another encoding, sheet or split of the dropped file."""
    return {tab.kept: replace(kept, reading=kept.opened.read_as_well(**reading).reading)}


def repair(visit: Visit, tab: VerdictTab, *, kept: Kept) -> Updates:
    """Have the dropped file's rows mended, or as they are in it again."""
    return read_otherwise(visit, tab, kept=kept, reading={"repair": "" if kept.opened.repaired else "rows"})


def readings(visit: Visit, tab: VerdictTab, *, kept: Kept, source: str | None) -> Updates:
    """What a dropped file leaves to choose, and what repair would mend, also where its rows cannot be used."""
    if source != FILE or kept.dropped is None:
        return dict.fromkeys([*tab.reading.values(), tab.repairs, tab.repair], AWAY)
    opened = kept.opened
    able: Checked | None
    there: Checked | Records | None
    try:
        there = able = visit.services.data.check(kept.dropped, opened.asked, visit.owner)
    except PlaygroundError:  # shown where the examples are chosen
        found, able = rows.unusable(visit, opened)
        there = next(iter(found), None)
    updates = rows.show_reading(tab, opened, there) | rows.show_repairs(tab, able, opened)
    if there is None or (there.encoding == "utf-8" and "encoding" not in opened.reading):
        updates[tab.reading["encoding"]] = AWAY
    return updates


def documents(visit: Visit, tab: VerdictTab, *, file: str | None, kept: Kept) -> Updates:
    try:
        path = visit.services.data.keep_uploads([Path(file)], visit.owner) if file else None
        if path is not None:
            visit.services.data.documents(path, visit.owner)
    except PlaygroundError as error:
        return {tab.kept: replace(kept, docs=None), tab.error: slot(card(error))}
    return {tab.kept: replace(kept, docs=path)}


def replies(visit: Visit, tab: VerdictTab, *, file: str | None, kept: Kept) -> Updates:
    path = visit.services.data.keep_uploads([Path(file)], visit.owner) if file else None
    return {tab.kept: replace(kept, replies=path)}


def joined(visit: Visit, tab: VerdictTab, *, where: ExampleValues, line: LineUpValues) -> Updates:
    """What the recorded replies hold for the rows that are judged by, or what is wrong with them."""
    try:
        found, kept = examples(visit, where), where["kept"]
        one = side.recorded_side(kept.replies, found.file, line["recorded"])
        if one is None:
            return {tab.recorded.said: slot("")}
        asked = VerdictRequest(found.file, (one,), rows=found.rows, mapping=found.mapping, owner=visit.owner)
        return {tab.recorded.said: slot(html.note(" ".join(visit.services.verdicts.recorded(asked))))}
    except PlaygroundError as error:
        return {tab.recorded.said: slot(card(error))}


def source_chosen(visit: Visit, tab: VerdictTab, *, where: ExampleValues, prompt: str | None) -> Updates:
    """Other examples: their facts, and what fits them. A shipped set brings its prompt, check, criterion and adapter;
    elsewhere checks are what the references have in common, and a shipped set's prompt is taken away."""
    try:
        found = examples(visit, where)
    except PlaygroundError as error:
        return {tab.facts: slot(""), tab.error: slot(card(error))}
    updates: Updates = {tab.facts: slot(html.note(found.about))}
    used = set(visit.services.data.check(found.file, found.mapping, visit.owner).mapping.values())
    updates |= side.recorded_columns(visit, tab.recorded, found.file, found.mapping, used)
    shipped = shipped_set(visit.services, where["source"])
    right = visit.services.data.right_of(found.file) or (suggested(found.answers).spec,)
    updates[tab.right] = Initial(value="\n".join(right))
    if shipped is None:
        known = inferred(found.references) if len(found.references) >= FEWEST_INFERRED else ()
        updates |= {tab.checks: Initial(value="\n".join(known))}
        return updates if (own := _own(visit, prompt)) == prompt else updates | {tab.prompt: Initial(value=own)}
    updates |= {tab.prompt: Initial(value=shipped.system_prompt), tab.checks: Initial(value=shipped.check)}
    models = adapters(visit.services.adapters.list(visit.owner))
    if shipped.adapter in [value for _, value in models]:
        # with its choices: while the base is loading, what is usable changes between one event and the next
        updates[tab.adapter] = Initial(models, value=shipped.adapter)
    return updates


def lined_up(visit: Visit, tab: VerdictTab, *, where: ExampleValues, line: LineUpValues) -> Updates:
    """The sides that can be chosen now: what is new is chosen (the adapter with documents only where these are the
    person's own; another server never, which may cost money), what was taken away stays so. Where they are the same as
    before, nothing is drawn, since a person may be choosing just now."""
    try:
        sides = line_up(visit, line, where)
    except PlaygroundError:  # shown when they are measured
        return {}
    offered, chosen = line["offered"] or {}, line["chosen"] or ()
    if {key: one.label for key, one in sides.items()} == offered:
        return {}
    fresh = [key for key in sides if key not in offered and (key != "tuned+documents" or where["kept"].docs)]
    fresh = [key for key in fresh if not key.startswith((PREFIX, BASE_PREFIX))]
    return offer(tab, sides, [key for key in sides if key in chosen or key in fresh])


def blocked(services: Services, source: str | None, size: Size, sides: Sequence[str]) -> str:
    """What stands in the way of measuring, in a few words; "" where nothing does."""
    now = ready(services)
    if not now.yes:
        return now.words if len(now.words) <= words.SHORT else words.BASE_MISSING
    if not source or not size.rows:
        return words.VERDICT_SEEN if size.seen else words.VERDICT_EXAMPLES
    return "" if sides else words.VERDICT_SIDES


def refresh(
    visit: Visit,
    tab: VerdictTab,
    *,
    where: ExampleValues,
    line: LineUpValues,
    settings: SettingValues,
    terms: TermValues,
) -> Drawn:
    """The main button says what it does or what is missing; the fold's label, what is set in it; and below what is
    right, which rows pass by it and what so many rows can show."""
    found, size, chosen, said = None, Size(0, 0, 0), line["chosen"] or (), words.MEASURE
    limit, again = int(settings["limit"] or 0), int(settings["repeats"] or 1)
    draws, unseen = int(settings["draws"] or 1), bool(settings.get("unseen"))
    with contextlib.suppress(PlaygroundError):  # shown where the examples are chosen, or when they are measured
        found = examples(visit, where)
        size = Size(min(found.count, limit or found.count), 0, 0)
        if picked := _picked(visit, where, line, draws, found):
            asked = VerdictRequest(
                found.file, picked, rows=found.rows, limit=limit or None, repeats=again, unseen=unseen
            )
            size = visit.services.verdicts.size(replace(asked, mapping=found.mapping, owner=visit.owner))
            said += f" ({size.replies:,} replies)"
    why = blocked(visit.services, where["source"], size, chosen)
    how = f"temperature {settings['temperature']:g}" if settings["temperature"] else "greedy"
    parts = [
        f"Everything else: {how}",
        f"at most {int(settings['max_tokens'])} tokens" if settings["max_tokens"] else "as long as the answers are",
        f"seed {int(settings['seed'] or 0)}",
        "" if settings["losses"] else "no loss",
        "" if settings["forgetting"] else "forgetting not measured",
        f"{again} repeats" if again > 1 else "",
        f"{draws} draws of the shots" if draws > 1 else "",
        f"{limit} rows" if limit else "",
        f"{plural(size.seen, 'row')} left out that a tuned side may know" if size.seen else "",
    ]
    return {
        tab.measure: gr.update(value=why or said, interactive=not why),
        tab.more: gr.update(label=", ".join(part for part in parts if part)),
        tab.stated: slot(_stated(visit, found, size.rows, len(set(chosen)), terms) if found else ""),
    }


def _stated(visit: Visit, found: Judged, rows: int, rungs: int, said: TermValues) -> str:
    """What is right by these terms, what so many rows can show, and ten rows as they are marked (by a judge none is
    before it is asked; how far it goes with the person instead); or what is wrong."""
    try:
        power = power_words(rows, terms_of(said), max(1, rungs))
        if said["form_only"]:
            return stated_html("Only the form is looked at", power, ())
        lines = lines_of(said["right"]) or visit.services.data.right_of(found.file)
        criterion = parse_criteria(lines, found.answers) if lines else suggested(found.answers)
        if names := judges_in(lines):
            trust = [visit.services.verdicts.trusted(name, found.file.name, visit.owner).words for name in names]
            return stated_html(criterion.label, " ".join([*trust, power]), ())
        marked = samples(criterion, [text for _, text in found.judged])
    except PlaygroundError as error:
        return html.error_card(str(error))
    return stated_html(criterion.label, power, [(found.judged[one.place][0], *one[1:]) for one in marked])


def terms_of(said: TermValues) -> Terms:
    """Raises InputError for what cannot be tested."""
    bar = 90 if said["bar"] is None else said["bar"]
    margin = 5 if said["margin"] is None else said["margin"]
    try:
        return Terms(bar / 100, margin / 100, int(said["maximum"]) if said["maximum"] else None)
    except ValueError as error:
        raise InputError(str(error)) from error


def questions(situation: SituationValues) -> tuple[Questions, Prices]:
    """The answers and the price table. An empty number field reaches us as 0, which is no limit. Raises InputError."""
    volume = int(situation["volume"]) if situation["volume"] else None
    limits = situation["latency"] or None, situation["budget"] or None, situation["forgets"] or None
    asked = Questions(volume, situation["changes"] or "never", *limits)
    return asked, prices_from_json(situation["prices"]) if (situation["prices"] or "").strip() else Prices()


def _picked(
    visit: Visit, where: ExampleValues, line: LineUpValues, draws: float | None, found: Judged
) -> tuple[Side, ...]:
    """The sides that are chosen. Raises InputError for one that is gone."""
    sides = line_up(visit, line, where, found.shots)
    chosen = [str(key) for key in line["chosen"] or ()]
    if any(key.startswith(("tuned", CARRIED, PREFIX, BASE_PREFIX, RECORDED)) and key not in sides for key in chosen):
        raise InputError(words.VERDICT_GONE)
    if SHOTS in sides:
        sides[SHOTS] = replace(sides[SHOTS], draws=1 if draws is None else int(draws))
    return tuple(sides[key] for key in chosen if key in sides)


def start(
    visit: Visit,
    tab: VerdictTab,
    *,
    where: ExampleValues,
    line: LineUpValues,
    checks: str,
    settings: SettingValues,
    situation: SituationValues,
    terms: TermValues,
    leaving: str = "",
    send: bool = False,
) -> Updates:
    """Begin to measure, or first ask whether rows may go to the other machines among the sides. send: they may, as it
    was said in ``leaving``; what has changed since is asked anew."""
    require(visit.services)
    asked, prices = questions(situation)
    stated = terms_of(terms)
    found = examples(visit, where)
    picked = _picked(visit, where, line, settings["draws"], found)
    if not picked:
        raise InputError(words.VERDICT_SIDES)
    request = VerdictRequest(
        found.file,
        picked,
        lines_of(checks),
        found.rows,
        found.shots,
        repeats=1 if settings["repeats"] is None else int(settings["repeats"]),
        limit=int(settings["limit"]) if settings["limit"] else None,
        max_tokens=int(settings["max_tokens"] or 0),
        temperature=float(settings["temperature"] or 0),
        seed=int(settings["seed"] or 0),
        mapping=found.mapping,
        split_by=found.by,
        name=found.file.stem.removesuffix("_heldout"),
        owner=visit.owner,
        questions=asked,
        prices=prices,
        unseen=bool(settings.get("unseen")),
        losses=bool(settings["losses"]),
        forgetting=bool(settings["forgetting"]),
        right=() if terms["form_only"] else lines_of(terms["right"]),
        form_only=bool(terms["form_only"]),
        bar=stated.bar,
        margin=stated.margin,
        maximum=stated.maximum,
        send=send,
        spend_cap=settings.get("spend_cap") or None,
    )
    leaves = visit.services.verdicts.leaving(request) if any(one.is_remote for one in picked) else ""
    if leaves and not (send and leaves == leaving):
        return {tab.sending: gr.update(visible=True), tab.leaves: html.note(leaves), tab.leaving: leaves}
    return {tab.followed: visit.services.verdicts.start(request), tab.fold: gr.update(open=False), tab.sending: AWAY}


def not_sent(visit: Visit, tab: VerdictTab) -> Updates:
    return {tab.sending: AWAY}
