"""One side of a comparison: its column of widgets, what they are set to, what it was asked and what it answered.
Replies are kept as the service gave them; checks, copies and later turns read these, never what the page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr
from markupsafe import Markup

from playground.chat.compare import RECORDED, Reply, Side, Turn
from playground.errors import PlaygroundError
from playground.evaluation import checks
from playground.evaluation.comparison import money
from playground.evaluation.cost import Prices
from playground.library.adapters import AdapterCard
from playground.methods import all_methods
from playground.models.bases import PREFIX as BASE_PREFIX
from playground.models.endpoints import PREFIX
from playground.report.report import in_words
from playground.services import Services
from playground.ui import html, words
from playground.ui.html import FAILURES, card, duration
from playground.ui.sidebar import ready
from playground.ui.wiring import BARE, Dropdown, Initial, Updates, Visit, hidden_slot

_board, _divider, _reply = (html.piece("chat", name) for name in ("board", "divider", "reply"))
_stamp, greyed_html = html.piece("chat", "stamp"), html.piece("chat", "greyed")
UPLOAD = "upload"
MAX_SHOTS = 8
THINK = [("As the model does by itself", ""), ("On", "on"), ("Off", "off")]
FORMS = [("Free", ""), ("JSON", "json"), ("A JSON schema", "json-schema"), ("A pattern", "regex")]


@dataclass(frozen=True)
class Setup:
    """What makes a side: any change begins a new conversation and a new score. source: where the few-shot examples
    come from: a shipped set's id, or ``upload``. format, think: as in ``Side``."""

    model: str = "base"
    prompt: str = ""
    shots: int = 0
    source: str = ""
    format: str = ""
    think: bool | None = None

    @property
    def effective(self) -> Setup:
        """Only what reaches the model: the source does not matter while no shots are taken."""
        return replace(self, prompt=self.prompt.strip(), source=self.source if self.shots else "")


class SideValues(TypedDict):
    model: str
    prompt: str
    shots: float
    source: str
    form: str
    form_text: str
    think: str


def chat_pane(label: str, *, height: int, placeholder: str) -> gr.Chatbot:
    look: dict[str, Any] = {"layout": "panel", "elem_classes": "bot-box", "height": height, "show_label": False}
    look |= {"render_markdown": False, "buttons": [], "feedback_options": None, "group_consecutive_messages": True}
    return gr.Chatbot(label=label, placeholder=placeholder, **look)


class SideView:
    """The widgets of one column, closed until ``story.opening`` has given them their first values."""

    def __init__(self, letter: str) -> None:
        closed: dict[str, Any] = {"interactive": False}
        choice: dict[str, Any] = {"filterable": False, **closed}
        shown = letter in ("A", "B")
        with gr.Column(visible=shown, min_width=290, elem_classes=["side", f"s{letter}"]) as self.column:
            with gr.Row(elem_classes="side-head"):
                gr.HTML(html.badge(letter), elem_classes="tag", min_width=26)
                choice |= {"label": f"Model of side {letter}", "value": "base", "min_width": 100}
                self.model = Dropdown([(words.BASE_LABEL, "base")], **BARE, **choice)
                self.copy = gr.Button("Copy", size="sm", min_width=44, elem_classes="x", elem_id=f"copy-{letter}")
            self.line = gr.HTML(html.note("No system prompt"), elem_classes="line")
            self.chat = chat_pane(f"Side {letter}", height=330, placeholder=words.pane_empty(letter))
            with gr.Accordion("Prompt and examples", open=False, elem_classes="acc"):
                size: dict[str, Any] = {"lines": 4, "max_lines": 10, "max_length": 20_000}
                hint = "None: the base's own default stands."
                self.prompt = gr.Textbox(label="System prompt", placeholder=hint, **size, **closed)
                label = "Answered examples shown at every call"
                self.shots = gr.Slider(0, MAX_SHOTS, value=0, step=1, label=label, buttons=[], **closed)
                self.source = Dropdown([], label="Taken from", visible=False, filterable=False, **closed)
                hint = "Forces a form without any training; it brings no content."
                forms: dict[str, Any] = {"value": "", "label": "Form of the replies", "info": hint}
                self.form = Dropdown(FORMS, filterable=False, **forms, **closed)
                size = {"lines": 3, "max_lines": 10, "max_length": 20_000, "visible": False}
                self.form_text = gr.Textbox(label="Its JSON schema, or its pattern", **size, **closed)
                hint = "What is thought costs tokens and time; it is shown folded and never checked."
                thinks: dict[str, Any] = {"value": "", "label": "Thinking", "info": hint, "visible": False}
                self.think = Dropdown(THINK, filterable=False, **thinks, **closed)
                self.greyed = gr.HTML("", visible=False, elem_classes="greyed")
                self.remove = gr.Button("Remove this side", size="sm", elem_classes="plain", **closed)
        self.setup = {"model": self.model, "prompt": self.prompt, "shots": self.shots, "source": self.source}
        self.setup |= {"form": self.form, "form_text": self.form_text, "think": self.think}


def read_setups(visit: Visit, sides: Mapping[str, SideValues]) -> dict[str, Setup]:
    """The values of all sides as setups. A run that has ended stands for its adapter."""

    def read(one: SideValues) -> Setup:
        model = visit.services.adapters.became(str(one["model"] or "base"), visit.owner)
        form = check_of(kind, str(one["form_text"] or "")) if (kind := str(one["form"] or "")) else ""
        think = {"on": True, "off": False}.get(one["think"] or "") if may_think(visit.services, model) else None
        return Setup(model, str(one["prompt"] or ""), int(one["shots"] or 0), str(one["source"] or ""), form, think)

    return {letter: read(one) for letter, one in sides.items()}


def may_think(services: Services, model: str) -> bool:
    """Whether thinking can be turned on and off: of another model perhaps, else where the base's template has a
    switch."""
    return model.startswith((PREFIX, BASE_PREFIX)) or (ready(services).yes and services.compare.can_think)


def usable(visit: Visit) -> list[AdapterCard]:
    """The adapters that can answer now, those that are still training among them."""
    rows = visit.services.adapters.list(visit.owner)
    return [row.card for row in rows if row.usable] + list(visit.services.adapters.learning(visit.owner))


def labels(visit: Visit) -> dict[str, str]:
    """Model id -> what a person calls it, the usable ones only."""
    cards = [*usable(visit), *visit.services.bases.others()]
    names = {"base": words.BASE_LABEL} | {card.id: card.name for card in cards}
    return names | {PREFIX + one.name: one.name for one in visit.services.endpoints.usable()}


def adapter_choices(cards: Sequence[AdapterCard]) -> list[tuple[str, str]]:
    return [(f"{one.name} · {method_label(one)}", one.id) for one in cards]


def model_choices(services: Services, cards: Sequence[AdapterCard]) -> list[tuple[str, str]]:
    base = [(words.BASE_LABEL, "base")]
    others = [(f"{one.name} · {words.OTHER_BASE}", one.id) for one in services.bases.others()]
    servers = [(f"{one.name} · {one.label}", PREFIX + one.name) for one in services.endpoints.usable()]
    return base + adapter_choices(cards) + others + servers


def with_chosen(visit: Visit, choices: list[tuple[str, str]], chosen: str) -> list[tuple[str, str]]:
    """The choices, and the chosen model among them even when it is gone: named as the adapter that its run has become,
    or as gone. So the widget keeps its value and nothing has to write another one."""
    named = {value: name for name, value in choices}
    if chosen and chosen not in named:
        became = named.get(visit.services.adapters.became(chosen, visit.owner))
        choices = [*choices, (f"{became}, {words.TRAINED}" if became else f"{chosen}, {words.GONE}", chosen)]
    return choices


def method_label(card_: AdapterCard) -> str:
    """``LoRA r8``."""
    method = all_methods().get(card_.method)
    name = method.label if method else str(card_.method).capitalize()
    return f"{name} r{card_.rank}" if card_.rank and (method is None or method.rank_label == "Rank") else name


def source_choices(services: Services, uploaded: Path | None) -> list[tuple[str, str]]:
    own = [(f"Your file {uploaded.name}", UPLOAD)] if uploaded else []
    return [(shipped.title, shipped.id) for shipped in services.data.sets()] + own


def shots_file(services: Services, source: str, uploaded: Path | None) -> Path | None:
    """The file behind a choice. The choice is an id; no path comes from the page."""
    if source == UPLOAD:
        return uploaded
    return next((shipped.file for shipped in services.data.sets() if shipped.id == source), None)


def name_of(setup: Setup, known: dict[str, str]) -> str:
    """``Base + prompt``, ``hospital_reports``, ``Base + 3 shots``."""
    name = "Base" if setup.model == "base" else known.get(setup.model, "an adapter that is gone")
    name += " + prompt" if setup.prompt.strip() else ""
    name += f" + {html.plural(setup.shots, 'shot')}" if setup.shots else ""
    name += " + form" if setup.format else ""
    return name if setup.think is None else f"{name} + {'thinking' if setup.think else 'no thinking'}"


def line_html(services: Services, setup: Setup) -> str:
    """The quiet line under the model: what else goes into every question."""
    prompt, line = setup.prompt.strip(), "No system prompt"
    if prompt:  # words until the base is there to count tokens
        tokens = f"{services.compare.prompt_tokens(prompt, setup.model)} tokens" if ready(services).yes else ""
        line = f"System prompt, {tokens or f'{len(prompt.split())} words'}"
    line += f", {html.plural(setup.shots, 'answered example')}" if setup.shots else ""
    line += f", held to {setup.format:.60}" if setup.format else ""
    server = next((one for one in services.endpoints.usable() if PREFIX + one.name == setup.model), None)
    return html.note(f"{line}; {server.label}, {server.price_words}" if server is not None else line)


def switch_html(visit: Visit, setup: Setup) -> str:
    if setup.model.startswith(BASE_PREFIX):
        return html.note(words.WHOLE_MODEL)
    if setup.model == "base" or setup.model.startswith(PREFIX) or not ready(visit.services).yes:
        return line_html(visit.services, setup)
    try:
        if setup.model in [one.card.id for one in visit.services.adapters.list(visit.owner) if one.card.kind == "full"]:
            return html.note(words.WHOLE_MODEL)
        switch = visit.services.adapters.switch(setup.model, visit.owner)
    except FAILURES as error:
        return card(error)
    if switch.unchanged:
        return html.good(f"Switched in {switch.ms:.1f} ms, base untouched")
    return html.error_card(f"base {switch.fingerprint[:8]} has CHANGED")


# The transcript of a side: plain values, no Gradio and no services.


@dataclass(frozen=True)
class Divider:
    text: str


@dataclass(frozen=True)
class Exchange:
    """One question and its reply. stopped: the person stopped it before it was done."""

    question: str
    reply: Reply | None = None
    stopped: bool = False


@dataclass(frozen=True)
class Log:
    """One side's transcript, oldest first, and the setup that its newest part was made with."""

    setup: Setup = field(default_factory=Setup)
    items: tuple[Divider | Exchange, ...] = ()

    @property
    def current(self) -> list[Exchange]:
        """The exchanges since the last divider: the conversation that still counts."""
        newest: list[Exchange] = []
        for item in self.items:
            newest = [] if isinstance(item, Divider) else [*newest, item]
        return newest

    @property
    def done(self) -> list[Exchange]:
        """Of these: those whose reply is whole and did not fail."""
        return [one for one in self.current if one.reply and one.reply.done and not one.reply.error]

    def settled(self, setup: Setup, name: str) -> Log:
        """Takes on ``setup``. A divider keeps earlier replies from passing as the new model's."""
        if setup.effective == self.setup.effective:
            return replace(self, setup=setup)
        items = self.items[:-1] if self.items and isinstance(self.items[-1], Divider) else self.items
        if items:
            items = (*items, Divider(f"Now {name}. It starts afresh: earlier turns are not sent."))
        return Log(setup, items)

    def asked(self, question: str) -> Log:
        return replace(self, items=(*self.items, Exchange(question)))

    def _with_last(self, **changes: Any) -> Log:
        last = self.items[-1]
        assert isinstance(last, Exchange)
        return replace(self, items=(*self.items[:-1], replace(last, **changes)))

    def answered(self, reply: Reply | None) -> Log:
        """With the newest snapshot of the reply in place of the one before."""
        return self._with_last(reply=reply)

    def without_last(self) -> Log:
        return replace(self, items=self.items[:-1]) if self.current else self

    def stopped(self) -> Log:
        last = self.current[-1] if self.current else None
        return self if last is None or (last.reply and last.reply.done) else self._with_last(stopped=True)

    def history(self) -> list[Turn]:
        """Earlier turns of this conversation, without those that failed."""
        there = ((one.question, one.reply) for one in self.current)
        return [Turn(question, reply.text) for question, reply in there if reply and reply.text and not reply.error]

    def newest_text(self) -> str:
        replies = [item.reply for item in self.items if isinstance(item, Exchange) and item.reply]
        return next((reply.text for reply in reversed(replies) if reply.text), "")

    def messages(self) -> list[dict[str, Any]]:
        """For a Chatbot that interprets HTML: every text escaped, line breaks and indents kept."""
        shown: list[dict[str, Any]] = []
        for item in self.items:
            if isinstance(item, Divider):
                shown.append({"role": "assistant", "content": _divider(item.text)})
            else:
                shown += [{"role": "user", "content": html.said(item.question)}, *_answer(item)]
        return shown


def streamed(replies: Iterator[list[Reply]], failed: Callable[[str], object]) -> Iterator[list[Reply]]:
    """The replies as they come; where that fails, ``failed`` takes the error card and they end."""
    try:
        yield from replies
    except Exception as error:  # whatever fails, what had arrived is kept and the buttons come back
        failed(card(error))


def _answer(one: Exchange) -> list[dict[str, Any]]:
    """The reply; in a fold before it what was thought, and in one behind it the stamp, under a line such as
    ``167 in · 66 out · 3.5 s · 5e0c``."""
    reply, shown = one.reply or Reply(), list[dict[str, Any]]()
    thoughts = reply.thought_tokens
    is_thinking = bool(thoughts) and not (reply.text or reply.done or one.stopped)
    if thoughts:
        fold = {"title": f"{'Thinking' if is_thinking else 'Thought'}, {html.plural(thoughts, 'token')}"}
        fold["status"] = "pending" if is_thinking else "done"
        shown.append({"role": "assistant", "content": html.said(reply.thought), "metadata": fold})
    if not is_thinking:
        shown.append({"role": "assistant", "content": _reply(reply, one.stopped)})
    if reply.done and not one.stopped and not reply.error:
        out = f"{thoughts} thought · " if thoughts else ""
        out += f"{reply.completion_tokens - thoughts} out"
        line = f"{reply.prompt_tokens} in · {out} · {duration(reply.seconds)}"
        if price := (reply.stamp or {}).get("price"):
            line += f" · {money(price, Prices.currency)}"
        stamp = {"title": f"{line} · {reply.stamp_id[:4]}" if reply.stamp_id else line, "status": "done"}
        shown.append({"role": "assistant", "content": _stamp(reply, reply.stamp or {}, in_words), "metadata": stamp})
    return shown


# The table over the panes: how many replies of each side pass the check, and what they cost.

_PHRASES = {"json": "Is valid JSON", "json-schema": "Fits the JSON schema", "regex": "Matches the pattern"}
_PHRASES |= {"max-words": "Has at most so many words"}
_TAKES = dict(one.partition(":")[::2] for one in checks.kinds().split(", "))
"""Kind of check -> what is written behind its colon, "" for one without a value."""
KINDS = {kind: _PHRASES.get(kind, kind.replace("-", " ").capitalize()) for kind in _TAKES}
"""Kinds of check that a person can pick, as they are written before the colon."""
DEFAULT_KIND = "ends-with"


def check_of(kind: str, text: str) -> str:
    """``ends-with:Reviewed by Dr. Sharma``; empty where there is nothing to check."""
    if not needs_text(kind):
        return kind
    return f"{kind}:{text}" if text.strip() else ""


def parts_of(check: str) -> tuple[str, str]:
    """The other way round, for a check that came with a shipped set."""
    kind, _, text = check.partition(":")
    return (kind, text) if kind in KINDS else (DEFAULT_KIND, "")


def needs_text(kind: str) -> bool:
    return bool(_TAKES.get(kind, "TEXT"))


def title(kind: str, text: str) -> str:
    if not needs_text(kind):
        return KINDS[kind]
    return f"{KINDS[kind]} “{text}”" if text.strip() else "No check set"


def board(sides: Sequence[tuple[str, str, Log]], kind: str, text: str, passes: Callable[[str, str], bool]) -> Markup:
    """``sides`` are ``(letter, name, log)``. Tokens and seconds are the newest reply's."""
    check, rows = check_of(kind, text), []
    for letter, name, log in sides:
        kept = [one.reply.text for one in log.done if one.reply and not one.stopped] if check else []
        good = sum(passes(check, reply) for reply in kept)
        rows.append((letter, name, good, len(kept), log.done[-1].reply if log.done else None))
    return _board(title(kind, text), "not yet" if check else "no check", rows)


# Replies of the model that a person uses today, as a side of a verdict: in a file, or in a column of the examples.

RECORDED_IDEA = (
    "Its replies to these rows, from a log or an export: rows with prompt and reply, or with messages (OpenAI's form),"
    " joined by the prompt. Nobody is asked; the verdict says whether the tuned side is not worse."
)


class RecordedValues(TypedDict):
    """name: of the side, "" = the file's or the column's. column: of the examples, where no file was dropped. read,
    written: a million tokens, empty or 0 = not known."""

    name: str
    column: str | None
    read: float | None
    written: float | None


class RecordedView:
    """said: what the file holds for the rows that are judged by. values: what ``RecordedValues`` hold."""

    def __init__(self) -> None:
        number = partial(gr.Number, None, min_width=110)
        with gr.Accordion("Replies of the model you use today", open=False, elem_classes="recorded") as self.fold:
            gr.HTML(html.note(RECORDED_IDEA))
            look: dict[str, Any] = {"show_label": False, "height": 96, "elem_classes": "drop"}
            types = [".jsonl", ".csv", ".json", ".tsv", ".xlsx", ".parquet", ".ndjson", ".gz"]
            self.file = gr.File(label="Replies of the model you use today", file_types=types, **look)
            self.said = hidden_slot()
            hint = "Where they stand beside the answers."
            closed: dict[str, Any] = {"filterable": False, "interactive": False, "visible": False}
            self.column = Dropdown([], label="Or a column of the examples", info=hint, **closed)
            with gr.Row():
                look = {"info": "Empty: the file's.", "max_length": 60, "min_width": 110}
                self.name = gr.Textbox(label="Its name", **look)
                read = number(label="Price in", info="A million tokens.")
                written = number(label="Price out", info="Empty or 0: not known.")
        self.values = {"name": self.name, "column": self.column, "read": read, "written": written}


def recorded_side(file: Path | None, examples: Path | None, recorded: RecordedValues) -> Side | None:
    """The side of these values; None where nothing is recorded. examples: the file that a column is of."""
    column = (recorded["column"] or "") if file is None else ""
    file = file or (examples if column else None)
    if file is None:
        return None
    read, written = recorded["read"] or 0.0, recorded["written"] or 0.0
    prices, name = (read, written) if read or written else None, (recorded["name"] or "").strip()
    return Side(RECORDED, name=name, replies=file, column=column, prices=prices)


def recorded_columns(
    visit: Visit, view: RecordedView, file: Path, mapping: Mapping[str, str] | None, used: set[str]
) -> Updates:
    """The columns of the examples that may hold replies: those that are no part of an example."""
    try:
        there = [name for name in visit.services.data.columns(file, visit.owner, mapping) if name not in used]
    except PlaygroundError:  # shown where the examples are chosen
        there = []
    choices = [("None", ""), *((name, name) for name in there)]
    return {view.column: Initial(choices, visible=bool(there), value="")}
