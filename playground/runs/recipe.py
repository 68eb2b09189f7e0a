"""A run's settings to take away and bring back: as JSON, as the command line, as an Axolotl file, as a TRL script; and
what launches that script elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, StrictUndefined

from playground.data.example import Row
from playground.data.records import reading_of
from playground.data.split import MOST_HASHED, hashes_of
from playground.errors import InputError
from playground.evaluation.checks import SCHEMA, schema_file
from playground.library import card
from playground.library.files import file_sha256
from playground.methods import all_methods, get_method
from playground.methods.method import Options
from playground.runs.planner import Plan
from playground.runs.request import SETTINGS, TrainRequest
from playground.training.spec import RunSpec, Setting

HUB = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where the default base is found elsewhere."""
ROWS, CHOOSING = "train-rows.jsonl", "validation-rows.jsonl"
"""What goes with an Axolotl file or a script: the rows that a run here would learn from, and those it would choose by.
The verdict's rows stay here."""
KINDS = {
    **{"command": "command.txt", "settings": "settings.json", "axolotl": "axolotl.yaml", "trl": "train.py"},
    **{"skypilot": "sky.yaml", "slurm": "job.sbatch", "hf-jobs": "job.sh"},
}
"""The forms, and what a file of each is called."""
_CARRIED = [name for name, one in SETTINGS.items() if one.carried]
_ELSEWHERE = ("early_stop", "start", "docs", "limit_memory_bytes", "layers", "init_text")
"""What other trainers' forms mostly have no place for."""
_BLANK = TrainRequest(Path())
LARGE = 4e9
"""Weights from which on a card of 24 GB is small for a run."""
LAUNCHED = ("skypilot", "slurm", "hf-jobs")
"""Forms that run the TRL script."""
MANIFEST = (
    *("name", "base", "base_fingerprint", "objective", "data", "method", "rank", "lr", "steps", "seed", "batch_size"),
    *("max_tokens", "think", "split", "mapping", "options", "left_out"),
)
"""What the record of an adapter trained elsewhere says of the run that was planned here."""
_TRL = {"sft": "SFT", "pretrain": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward"}


class PeftConfig(Protocol):
    """PEFT's own, whose import takes seconds."""

    def to_dict(self) -> dict[str, Any]: ...


def written(
    kind: str, request: TrainRequest, plan: Plan, objective: str, base: str, config: Callable[[], PeftConfig | None]
) -> str:
    """One form of a run's settings. config: makes the method's PEFT config. Raises InputError."""
    if kind == "command":
        return command(request, plan, objective, Path(request.file).name) + "\n"
    if kind == "settings":
        return json.dumps(settings(request, plan, objective), indent=1) + "\n"
    if kind == "axolotl":
        return axolotl(request, plan, objective, base)
    if kind == "trl":
        return trl(request, plan, objective, base, config())
    if kind in KINDS:
        trl(request, plan, objective, base, config())  # where there is no script, there is nothing to launch
        return launch(kind, request, plan, objective, base)
    raise InputError(f"There is no form {kind!r}. There are: {', '.join(KINDS)}.")


def manifest(spec: RunSpec, rows: Sequence[Row], template: str, held_out: Path | None, held: int) -> dict[str, Any]:
    """The record (run.json) of an adapter that is to be trained elsewhere on these rows: an import reads it, tells
    which rows the adapter knows, and finds those that it must not know. template: the base's chat template. held_out:
    so many rows, in the folder that is called by their sha256. No path of this machine is in it."""
    about = {name: getattr(spec, name) for name in MANIFEST} | {"data_sha256": file_sha256(Path(spec.file))}
    known: dict[str, Any] = hashes_of(rows) | {"rows_known": len(rows) <= MOST_HASHED, "rows_used": len(rows)}
    about |= {"template_sha256": hashlib.sha256(template.encode()).hexdigest(), "sampling": {"temperature": 0.0}}
    kept = {"held_out": {"rows": held, "sha256": held_out.parent.name}} if held_out is not None else {}
    return {"schema": card.SCHEMA} | about | kept | known


def settings(request: TrainRequest, plan: Plan, objective: str) -> dict[str, object]:
    """Every setting of a run but its file and name, the defaults filled in. Other files go by their names."""
    filled = _filled(request, plan, objective)
    found: dict[str, object] = {name: getattr(filled, name) for name in _CARRIED}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return found | {"options": request.options.chosen(), "docs": filled.docs.name if filled.docs else None}


def with_settings(request: TrainRequest, record: Mapping[str, Any]) -> TrainRequest:
    """A request with the settings of a file. Raises InputError, also for one of the wrong kind."""
    wrong = sorted(set(record) - {"options", *_CARRIED})
    if wrong or not record:
        said = ", ".join(map(str, wrong[:5])) or "it is empty"
        raise InputError(f"This is no file of settings: {said}. Download one here to see its form.")
    left_out, options, rewards = record.get("leave_out", []), record.get("options", {}), record.get("rewards", [])
    if not isinstance(left_out, list) or not isinstance(rewards, list) or not isinstance(options, dict):
        raise InputError("leave_out and rewards are lists and options an object of names and values.")
    docs = record.get("docs")
    if docs is not None and not isinstance(docs, str):
        raise InputError(f"docs is {docs!r}; it takes the name of a file.")
    values: dict[str, Any] = {name: _checked(name, value) for name, value in record.items() if name in SETTINGS}
    values |= {
        "leave_out": tuple(map(str, left_out)),
        "options": Options.of(options),
        "rewards": tuple(_named(str(one)) for one in rewards),
        "docs": Path(Path(docs).name) if docs else None,
    }
    if values.get("method") is not None:
        get_method(values["method"]).check(values["options"])
    return replace(request, **values)


def _checked(name: str, value: object) -> object:
    """A value of a file of settings. Raises InputError where it is of another kind than the setting."""
    kinds: dict[type, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float)}
    kind = kinds.get(SETTINGS[name].kind)
    optional = value is None and getattr(_BLANK, name) is None
    if kind is not None and not optional and (not isinstance(value, kind) or isinstance(value, bool)):
        raise InputError(f"{name} is {value!r}; it takes {'a text' if kind == (str,) else 'a number'}.")
    return value


def command(request: TrainRequest, plan: Plan, objective: str, file: str) -> str:
    """The same run on the command line. file: as the person calls it."""
    words, filled = ["python", "-m", "playground", "train", file], _filled(request, plan, objective)
    for name, one in SETTINGS.items():
        value = getattr(filled, name)
        if one.stated or value != getattr(_BLANK, name):
            words += _flag(name, one, value)
    for name, value in request.options.chosen().items():
        words += [_long(name), *([] if value is True else [str(value)])]
    reading, roles = reading_of(request.mapping)
    words += reading.flags()
    words += ["--map", *(f"{role}={column}" for role, column in roles.items())] if roles else []
    return shlex.join(words)


def _flag(name: str, one: Setting, value: Any) -> list[str]:
    if name == "rewards":
        return [word for reward in value for word in (one.flag, reward)]
    if one.kind is tuple:
        return [one.flag, *value]
    if one.kind is bool:
        return [one.flag]
    if one.scale != 1:
        return [one.flag, repr(value / one.scale)]
    return [one.flag, f"{value:g}" if isinstance(value, float) else value.name if one.kind is Path else str(value)]


def _long(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _filled(request: TrainRequest, plan: Plan, objective: str) -> TrainRequest:
    rewards = tuple(_named(one) for one in request.rewards)
    filled = replace(request, steps=plan.steps, lr=plan.lr, rank=plan.rank or None, epochs=None)
    return replace(filled, objective=objective, rewards=rewards)


def _named(reward: str) -> str:
    """A reward as it is handed on: the file that it names by its name alone."""
    file = schema_file(reward)
    return f"{SCHEMA}{file.name}" if file else reward


def axolotl(request: TrainRequest, plan: Plan, objective: str, base: str) -> str:
    """A configuration for Axolotl, to run over the good rows. Raises InputError for what it does not have."""
    method = get_method(request.method)
    if method.axolotl is None:
        there = ", ".join(name for name, one in all_methods().items() if one.axolotl is not None)
        raise InputError(f"Axolotl has no {request.method}; it has {there}. Take the TRL script.")
    if objective not in ("sft", "pretrain", "dpo", "kto", "orpo"):
        raise InputError(f"{objective} is not written for Axolotl. Take the command line.")
    _refuse("An Axolotl file", request, objective, ("early_stop",))
    return _rendered("axolotl.yaml.j2", request, plan, objective, base, alpha=_alpha(request, plan))


def trl(request: TrainRequest, plan: Plan, objective: str, base: str, config: PeftConfig | None) -> str:
    """A script for TRL and PEFT, to run over the good rows. config: the method's PEFT config, None for full
    fine-tuning. Raises InputError for an objective that has no short script, or a method of our own."""
    if objective not in _TRL:
        raise InputError(f"{objective} needs more than a short script. Take the command line.")
    method = get_method(request.method)
    if method.imports:
        raise InputError(f"{method.label} adapters are a PEFT method of this project's own. Take the command line.")
    _refuse("A TRL script", request, objective, ("early_stop", *method.peft_options))
    other = _initial(request, plan, base) | ({"task_type": "SEQ_CLS"} if objective == "reward" else {})
    peft = {"peft": type(config).__name__, "call": _call(config, other)} if config is not None else {"peft": ""}
    return _rendered("train.py.j2", request, plan, objective, base, trainer=_TRL[objective], **peft)


def launch(kind: str, request: TrainRequest, plan: Plan, objective: str, base: str) -> str:
    """What runs the TRL script on a cloud (SkyPilot), a cluster (Slurm) or the hub (Jobs), and fetches the adapter."""
    name = re.sub(r"[^a-z0-9]+", "-", (request.name or Path(request.file).stem).lower()).strip("-")[:40] or "run"
    large = plan.total_params > LARGE
    place = {"card": "A100" if large else "L4", "flavor": "a100-large" if large else "l4x1"}
    packages = "torch trl~=1.16.0 peft~=0.21.0" + " bitsandbytes" * get_method(request.method).quantised
    hours = min(9, 1 + math.ceil(plan.seconds / 3600))
    more = {"kind": kind, "name": name, "packages": packages, "hours": hours}
    return _rendered("launch.j2", request, plan, objective, base, **place, **more).lstrip("\n")


def _rendered(template: str, request: TrainRequest, plan: Plan, objective: str, base: str, **more: object) -> str:
    """Every value from a person goes through ``repr`` or ``json``, whose numbers, texts and lists are YAML's too."""
    python = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    python.filters |= {"repr": repr, "json": json.dumps}
    return python.from_string(Path(__file__).with_name(template).read_text(encoding="utf-8")).render(
        {"request": request, "plan": plan, "objective": objective, "method": get_method(request.method), "rows": ROWS},
        base=HUB.get(base, base),
        choosing=CHOOSING if plan.validation_rows else "",
        warmup=min(3, plan.steps // 5),
        **more,
    )


def _refuse(form: str, request: TrainRequest, objective: str, held: Sequence[str]) -> None:
    """Raises InputError with every setting that this form has no place for. held: those that it has."""
    chosen = [name for name in _ELSEWHERE if getattr(request, name, None) or getattr(request.options, name, None)]
    lost = [SETTINGS[name].flag if name in SETTINGS else _long(name) for name in chosen if name not in held]
    why = f"{', '.join(lost)}." if lost else ""
    bits = get_method(request.method).quantised
    if not lost and request.options.pissa and (bits or objective in ("dpo", "kto")):
        own = "cannot begin so over a base in 4 bits" if bits else f"changes the base that {objective} compares with"
        why = f"--pissa here: PEFT's own {own}."
    if why:
        raise InputError(f"{form} has no place for {why} Take the command line, or leave that out.")


def _alpha(request: TrainRequest, plan: Plan) -> int:
    """The correction is scaled by alpha / rank: by 2, and by 1 where it begins as a part of the base."""
    return plan.rank if request.options.pissa else 2 * plan.rank


def _initial(request: TrainRequest, plan: Plan, base: str) -> dict[str, object]:
    """PEFT's own settings for the initial weights that our training puts in place later."""
    if request.options.pissa:
        return {"init_lora_weights": "pissa", "r": plan.rank, "lora_alpha": _alpha(request, plan)}
    if text := request.options.init_text:
        place = {"tokenizer_name_or_path": HUB.get(base, base)}
        return {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": text, **place}
    return {}


def _call(config: PeftConfig, other: Mapping[str, object]) -> str:
    """A PEFT config as the call that makes it, without what is at its default. other: said in place of the config's."""
    plain, skipped = type(config)().to_dict(), ("peft_type", "base_model_name_or_path")
    own = {
        key: getattr(value, "value", value)
        for key, value in sorted({**config.to_dict(), **other}.items())
        if value != plain.get(key) and key not in skipped
    }
    said = (f"{key}={sorted(value) if isinstance(value, set) else value!r}" for key, value in own.items())
    return f"{type(config).__name__}({', '.join(said)})"
