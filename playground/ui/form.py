"""A run's settings as a form: one table of fields, from which it is built, read, and filled from a settings file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import gradio as gr

from playground.data.split import TEST, VALIDATION, SplitBy
from playground.errors import InputError
from playground.evaluation import checks
from playground.methods import all_methods
from playground.methods.method import INIT_TEXT_MAX, PLACEMENTS, Method, Options
from playground.runs.recipe import KINDS, with_settings
from playground.runs.request import SETTINGS, TrainRequest
from playground.training.spec import OBJECTIVES
from playground.ui import html, words
from playground.ui.html import rate
from playground.ui.rows import Source
from playground.ui.wiring import Dropdown, Updates, Value, Visit, slot

if TYPE_CHECKING:
    from playground.ui.train import RunForm as Form

Widget: TypeAlias = gr.Number | gr.Checkbox | gr.Textbox | gr.Radio | Dropdown
Settings: TypeAlias = Mapping[str, Any]
"""Name of a field -> its widget's value."""
AIMS = {
    "sft": "To answer as the examples do",
    "grpo": "To earn rewards (GRPO)",
    "pretrain": "To write as the texts do",
    "dpo": "To prefer the better answers (DPO)",
    "orpo": "To prefer them while learning them (ORPO)",
    "reward": "To score answers (a reward model)",
    "kto": "To tell good from bad answers (KTO)",
}


def aims_of(kind: str) -> list[tuple[str, str]]:
    """What rows of a kind can train, in words; the usual objective first."""
    able = [objective for objective, holds in OBJECTIVES.items() if kind in holds]
    able.sort(key=lambda objective: OBJECTIVES[objective].index(kind))
    return [(AIMS[objective], objective) for objective in able]


_DEFAULTS = TrainRequest(Path())


@dataclass(frozen=True)
class Field:
    """One setting of a run. name: of ``TrainRequest``, or (place ``option``) of ``Options``. place: the row it stands
    in. show: the request's value -> the widget's. parse: the other way round, where its type does not say it."""

    name: str
    place: str
    widget: Callable[..., Widget]
    show: Callable[[Any], Any] = lambda value: value
    parse: Callable[[Any], Any] | None = None

    def of(self, request: TrainRequest) -> Value:
        return getattr(request.options if self.place == "option" else request, self.name)

    def read(self, value: Value) -> Value:
        """The widget's value as the request takes it; an empty field (zero too, without a default) is the default."""
        default = self.of(_DEFAULTS)
        if self.parse is not None:
            return self.parse(value)
        if isinstance(default, str):
            return str(value or "").strip()
        if value is None or (default is None and not value):
            return default
        kind: Callable[[Value], Value] = SETTINGS[self.name].kind if self.name in SETTINGS else type(default)
        return kind(value)


def _number(label: str, info: str, **options: Any) -> Callable[..., Widget]:
    return partial(gr.Number, label=label, info=info, **{"precision": 0, "minimum": 0, "min_width": 130, **options})


def _share(name: str, whole: float, label: str, info: str) -> Field:
    """A share of the rows that is held back, in per cent."""
    return Field(
        *(name, "held", _number(label, info, maximum=90, min_width=200)),
        show=lambda share: round(100 * (whole if share is None else share)),
        parse=lambda percent: None if percent is None else percent / 100,
    )


def lines_of(text: str | None) -> tuple[str, ...]:
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


_HINT = "Tokens drawn by chance, or a text such as your best prompt"
_INIT_TEXT = partial(gr.Textbox, label="Virtual tokens begin as", max_length=INIT_TEXT_MAX, placeholder=_HINT)
_PLACES = [("After attention and MLP (Houlsby)", "houlsby"), ("After the MLP (Pfeiffer)", "pfeiffer")]
_PLACEMENT = partial(gr.Radio, _PLACES, label="Where bottlenecks stand")
_REWARDS = partial(gr.Textbox, label="What earns a reward, one a line", lines=2, visible=False)
_KINDS = f"{checks.kinds()}, or model=ID of a reward model"
_LR = _number("Learning rate", "0 or empty: by method, base and aim.", precision=None, minimum=None, step=0.0001)
_PARTS = "Gradient accumulation: less memory, the same learning."
_CUT = "Tokens; a longer prompt is cut at its start."
_CHOOSE = "For samples and the best checkpoint, from 10 rows on."
_EARLY = "After so many checkpoints without a better held-out loss; 0: never."
NEW = [("A new adapter", "")]
_START = partial(Dropdown, NEW, label="Begin with", info="Or go on from one that was trained or imported.")
_FIELDS = (
    Field("rslora", "option", partial(gr.Checkbox, label="rsLoRA: high ranks learn as fast as low ones")),
    Field("pissa", "option", partial(gr.Checkbox, label="PiSSA: begin with the base's strongest directions")),
    Field("layers", "option", _number("Layers", "Train the last so many; 0: all weights.")),
    Field("init_text", "option", _INIT_TEXT),
    Field("placement", "option", _PLACEMENT, lambda placement: placement or PLACEMENTS[0]),
    Field("objective", "aim", partial(Dropdown, aims_of("sft"), label="What it learns", visible=False)),
    Field("rewards", "aim", partial(_REWARDS, placeholder=_KINDS), "\n".join, lines_of),
    Field("start", "size", _START),
    Field("steps", "size", _number("Steps", "One step reads one batch.", minimum=1)),
    Field("lr", "size", _LR),
    Field("rank", "size", _number("Rank", "", maximum=256), lambda rank: rank or 0),
    Field("batch_size", "batch", _number("Batch", "Examples per step.", minimum=1, maximum=256)),
    Field("accumulate", "batch", _number("Parts a step", _PARTS, minimum=1, maximum=64)),
    Field("max_tokens", "batch", _number("Longest example", _CUT, minimum=16, maximum=32768)),
    Field("seed", "batch", _number("Seed", "The same seed, the same run.")),
    _share("validation", VALIDATION, "Held back to choose by, %", _CHOOSE),
    _share("test", TEST, "Held back for the verdict, %", "Seen by nothing else, from 20 rows on."),
    Field("early_stop", "held", _number("Stop early", _EARLY, min_width=200)),
)
FIELDS = {field.name: field for field in _FIELDS}
"""Every setting that the form has, in its order."""
ELSEWHERE = ("method", "turns", "leave_out", "group_column", "time_column")
"""Settings that other widgets of the tab hold."""
OPTIONS = [name for name, field in FIELDS.items() if field.place == "option"]


def build(places: tuple[str, ...], method: Method, steps: int) -> dict[str, Widget]:
    """The widgets of some places, for the method and steps that are chosen first."""
    first: dict[str, dict[str, Any]] = {name: {"visible": name in method.options} for name in OPTIONS}
    first |= {"steps": {"value": steps}, "rank": rank_of(method)}
    first |= {"objective": {"value": "sft"}}
    wanted = [field for field in FIELDS.values() if field.place in places]
    return {one.name: one.widget(**{"value": one.show(one.of(_DEFAULTS)), **first.get(one.name, {})}) for one in wanted}


def rank_of(method: Method) -> dict[str, Any]:
    info = f"{method.rank_info} 0: the method's own."
    return {"value": method.rank or 0, "visible": method.rank is not None, "label": method.rank_label, "info": info}


def read(settings: Settings) -> dict[str, Any]:
    """The values of a request's fields; what is not given is as the form shows it at first."""
    return {name: field.read(settings.get(name, field.show(field.of(_DEFAULTS)))) for name, field in FIELDS.items()}


def request_of(source: Source, owner: str, name: str, method: str, settings: Settings) -> TrainRequest:
    """The run that the form describes, without options of other methods or unused rewards, and without those and the
    rank that the adapter has which it begins with. Raises InputError."""
    assert source.path is not None
    values = read(settings)
    known = all_methods().get(method)
    chosen = {option: values.pop(option) for option in OPTIONS}
    options = Options.of({name: one for name, one in chosen.items() if known is not None and name in known.options})
    if values["objective"] != "grpo":
        values["rewards"] = ()
    if values["start"]:
        values["rank"], options = None, Options()
    values |= {"mapping": source.asked, "turns": source.turns, "leave_out": source.leave_out, "options": options}
    values |= {"group_column": source.by.group, "time_column": source.by.time}
    name = name.strip() or source.slug or "adapter"
    return TrainRequest(source.path, name=name, method=method, owner=owner, **values)


def settings_of(request: TrainRequest) -> dict[str, Any]:
    """What the form's widgets show for a request. Raises InputError for what the form has no place for."""
    carried = [name for name, one in SETTINGS.items() if one.carried and name not in (*FIELDS, *ELSEWHERE)]
    away = [f"{SETTINGS[name].flag} ({name})" for name in carried if getattr(request, name) != getattr(_DEFAULTS, name)]
    if names := ", ".join(away):
        raise InputError(f"The form has no place for {names}. Start this run from the command line, or leave that out.")
    return {name: field.show(field.of(request)) for name, field in FIELDS.items()}


def settings_label(method: str, settings: Settings) -> str:
    values = read(settings)
    parts = [f"from {values['start']}"] if values["start"] else []
    parts += [f"{values['steps']} steps"] if values["steps"] else []
    parts += [f"learning rate {rate(values['lr'])}"] if values["lr"] else []
    known, rank = all_methods().get(method), values["rank"]
    if rank and known is not None and known.rank is not None:
        parts.append(f"{rank} virtual tokens" if known.virtual else f"{known.rank_label.lower()} {rank}")
    names = {"rslora": "rsLoRA", "pissa": "PiSSA", "init_text": "begins as a text"}
    names |= {"layers": f"the last {values['layers']} layers"}
    options = known.options if known is not None else ()
    parts += [names.get(option, str(values[option])) for option in options if values[option]]
    return "Everything else: " + ", ".join([*parts, f"batch {values['batch_size']}", f"seed {values['seed']}"])


# Settings to take away and to bring back

FORMS = {
    **{"command": "Command line", "settings": "Settings file", "axolotl": "Axolotl file", "trl": "TRL script"},
    **{"skypilot": "SkyPilot", "slurm": "Slurm", "hf-jobs": "Hugging Face Jobs"},
}
LANGUAGES = {"settings": "json", "axolotl": "yaml", "trl": "python", "skypilot": "yaml"}
"""Of the code that is shown; else shell."""
LIMIT_BYTES = 100_000


def show_recipe(
    visit: Visit, tab: Form, *, kind: str, source: Source, name: str, method: str, **settings: Any
) -> Updates:
    if source.path is None or not source.good:
        return {**tab.no_recipe, tab.code_error: slot(html.note(words.TRAIN_EMPTY))}
    files = visit.services.training.bundle(request_of(source, visit.owner, name, method, settings), kind)
    file = visit.services.data.packed(files, f"{source.path.stem}-{kind}", visit.owner)
    return {
        tab.code: gr.update(value=files[KINDS[kind]], language=LANGUAGES.get(kind, "shell"), visible=True),
        tab.code_file: gr.update(value=str(file), label=f"Download {file.name}", visible=True),
    }


def bring(visit: Visit, tab: Form, *, uploaded: str | None, source: Source) -> Updates:
    if not uploaded:
        return {}
    if source.path is None:
        return {tab.code_error: slot(html.note(words.TRAIN_EMPTY))}
    record = _read(visit, Path(uploaded))
    request = with_settings(request_of(source, visit.owner, "", "lora", {}), record)
    shown, by = settings_of(request), SplitBy(request.group_column, request.time_column)
    if request.test is None:
        shown["test"] = round(100 * visit.services.data.test_share(source.path, source.good))
    shown["start"] = gr.update(choices=[*NEW, *([request.start] if request.start else [])], value=request.start)
    return {
        tab.source: replace(source, turns=request.turns, leave_out=request.leave_out, by=by),
        tab.method: request.method,
        **{tab.fields[name]: value for name, value in shown.items()},
        tab.code_error: slot(html.good(f"The settings of {Path(uploaded).name} are in the form.")),
    }


def _read(visit: Visit, path: Path) -> dict[str, Any]:
    path = visit.services.data.handed_over(path, visit.owner)
    if path.stat().st_size > LIMIT_BYTES:
        raise InputError(f"{path.name} is too large for a settings file. Download one here to see its form.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path.name} is no JSON ({error}). Download a settings file here to see its form.") from None
    if not isinstance(record, dict):
        raise InputError(f"{path.name} is no file of settings. Download one here to see its form.")
    return record
