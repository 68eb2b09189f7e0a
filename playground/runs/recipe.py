"""A run's settings to take away and bring back: as JSON, as the command line, as an Axolotl file, as a TRL script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from playground.errors import InputError
from playground.evaluation.checks import SCHEMA, schema_file
from playground.methods import all_methods, get_method
from playground.methods.method import Options
from playground.runs.planner import Plan
from playground.runs.request import SETTINGS, TrainRequest
from playground.training.spec import Setting

HUB = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where the default base is found elsewhere."""
ROWS = "good-rows.jsonl"
"""The file that goes with an Axolotl file or a script: the good rows, as the Examples card hands them out."""
_ELSEWHERE = ("early_stop", "start", "docs", "limit_memory_bytes", "layers", "init_text")
"""What other trainers' forms mostly have no place for."""
_BLANK = TrainRequest(Path())
_TRL = {"sft": "SFT", "pretrain": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward"}


KINDS = {"command": "command.txt", "settings": "settings.json", "axolotl": "axolotl.yaml", "trl": "train.py"}
"""The forms, and what a file of each is called."""


def written(kind: str, request: TrainRequest, plan: Plan, objective: str, base: str, config: Callable[[], Any]) -> str:
    """One form of a run's settings. config: makes the method's PEFT config. Raises InputError for a form that does not
    have it."""
    if kind == "command":
        return command(request, plan, objective, Path(request.file).name) + "\n"
    if kind == "settings":
        return json.dumps(settings(request, plan, objective), indent=1) + "\n"
    if kind == "axolotl":
        return axolotl(request, plan, objective, base)
    if kind == "trl":
        return trl(request, plan, objective, base, config())
    raise InputError(f"There is no form {kind!r}. There are: {', '.join(KINDS)}.")


def settings(request: TrainRequest, plan: Plan, objective: str) -> dict[str, Any]:
    """Every setting of a run but its file and name, with what stood for the defaults filled in. Other files go by their
    names."""
    filled = _filled(request, plan, objective)
    found = {name: getattr(filled, name) for name, one in SETTINGS.items() if one.carried}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return found | {"options": request.options.chosen(), "docs": filled.docs.name if filled.docs else None}


def with_settings(request: TrainRequest, record: Mapping[str, Any]) -> TrainRequest:
    """A request with the settings of a file. Raises InputError for what is no such file, and for a setting of the wrong
    kind."""
    wrong = sorted(set(record) - {"options", *(name for name, one in SETTINGS.items() if one.carried)})
    if wrong or not record:
        raise InputError(
            f"This is no file of settings: {', '.join(map(str, wrong[:5])) or 'it is empty'}. Download one here to see"
            " its form."
        )
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
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    words += ["--map", *(f"{role}={column}" for role, column in request.mapping.items())] if request.mapping else []
    return shlex.join(words)


def _flag(name: str, one: Setting, value: Any) -> list[str]:
    """A setting as words of the command line."""
    if name == "rewards":
        return [word for reward in value for word in (one.flag, reward)]
    if one.kind is tuple:
        return [one.flag, *value]
    if one.kind is bool:
        return [one.flag]
    if one.scale != 1:
        return [one.flag, repr(value / one.scale)]
    return [one.flag, f"{value:g}" if isinstance(value, float) else value.name if one.kind is Path else str(value)]


def _filled(request: TrainRequest, plan: Plan, objective: str) -> TrainRequest:
    """With the plan's values in place of the defaults."""
    rewards = tuple(_named(one) for one in request.rewards)
    filled = replace(request, steps=plan.steps, lr=plan.lr, rank=plan.rank or None, objective=objective)
    return replace(filled, epochs=None, rewards=rewards)


def axolotl(request: TrainRequest, plan: Plan, objective: str, base: str) -> str:
    """A configuration for Axolotl, to run over the good rows. Raises InputError for a method or an objective that it
    does not have."""
    method = get_method(request.method)
    if method.axolotl is None:
        there = ", ".join(name for name, one in all_methods().items() if one.axolotl is not None)
        raise InputError(f"Axolotl has no {request.method}; it has {there}. Take the TRL script.")
    if objective not in ("sft", "pretrain", "dpo", "kto", "orpo"):
        raise InputError(f"{objective} is not written for Axolotl. Take the command line.")
    _refuse("An Axolotl file", request, objective, ("early_stop",))
    options = request.options
    lora = {
        **method.axolotl,
        "lora_r": plan.rank,
        "lora_alpha": _alpha(request, plan),
        "lora_dropout": 0.0,
        "peft_use_rslora": options.rslora or None,
        "peft_init_lora_weights": "pissa" if options.pissa else None,
    }
    lines: dict[str, Any] = {
        "base_model": HUB.get(base, base),
        "load_in_4bit": method.quantised,
        "rl": objective if objective in ("dpo", "kto", "orpo") else None,
        "datasets": [
            {"path": ROWS, "ds_type": "json"} | _AXOLOTL_ROWS.get(objective, {"type": "chat_template.default"})
        ],
        **(lora if not method.whole else {}),
        "sequence_len": request.max_tokens,
        "sample_packing": objective == "pretrain",
        "val_set_size": request.validation or 0.1,
        "micro_batch_size": request.batch_size,
        "gradient_accumulation_steps": 1,
        "max_steps": plan.steps,
        "num_epochs": 1000,
        "optimizer": "adamw_torch",
        "lr_scheduler": "linear",
        "learning_rate": plan.lr,
        "warmup_steps": min(3, plan.steps // 5),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "save_steps": request.save_steps,
        "logging_steps": 1,
        "seed": request.seed,
        "bf16": "auto",
        "output_dir": "./out",
        "eval_steps": request.save_steps if request.early_stop else None,
        "early_stopping_patience": request.early_stop or None,
    }
    head = (
        f"# From Prompt or Tune. Put {ROWS} (the good rows, from the Examples card) beside this file, then: axolotl"
        " train this.yaml\n"
    )
    return head + "".join(_yaml(name, value) for name, value in lines.items() if value is not None)


_AXOLOTL_ROWS: dict[str, dict[str, Any]] = {
    "pretrain": {"type": "completion"},
    "sft": {
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    },
}


def trl(request: TrainRequest, plan: Plan, objective: str, base: str, config: Any) -> str:
    """A script for TRL and PEFT, to run over the good rows. config: the method's PEFT config, None for full
    fine-tuning.

    Raises InputError for an objective that has no short script, or a method of our own."""
    if objective not in _TRL:
        raise InputError(f"{objective} needs more than a short script. Take the command line.")
    method = get_method(request.method)
    if method.imports:
        raise InputError(f"{method.label} adapters are a PEFT method of this project's own. Take the command line.")
    _refuse("A TRL script", request, objective, ("early_stop", *method.peft_options))
    if config is not None and objective == "reward":
        config = replace(config, task_type="SEQ_CLS")
    return _script(
        request=request,
        plan=plan,
        objective=objective,
        trainer=_TRL[objective],
        rows=ROWS,
        base=HUB.get(base, base),
        held_out=request.validation or 0.1,
        warmup=min(3, plan.steps // 5),
        quantised=method.quantised,
        virtual=method.virtual,
        peft=type(config).__name__ if config is not None else "",
        peft_config="" if config is None else _call(config, **_begins(request, plan, base)),
    )


def _script(**values: Any) -> str:
    """The TRL script; every value from a person goes through ``repr``."""
    python = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    python.filters["repr"] = repr
    return python.from_string(Path(__file__).with_name("train.py.j2").read_text(encoding="utf-8")).render(values)


def _refuse(form: str, request: TrainRequest, objective: str, held: Sequence[str] = ()) -> None:
    """Raise InputError that names every setting which a form of somebody else's has no place for. held: those that this
    one has."""
    chosen = {name: getattr(request, name, None) or getattr(request.options, name, None) for name in _ELSEWHERE}
    flags = {name: SETTINGS[name].flag if name in SETTINGS else f"--{name.replace('_', '-')}" for name in _ELSEWHERE}
    lost = [flags[name] for name in _ELSEWHERE if chosen[name] and name not in held]
    if lost:
        raise InputError(f"{form} has no place for {', '.join(lost)}. Take the command line, or leave that out.")
    quantised = get_method(request.method).quantised
    if request.options.pissa and (quantised or objective in ("dpo", "kto")):
        why = f"changes the base that {objective} compares with"
        if quantised:
            why = "cannot begin so over a base in 4 bits"
        raise InputError(
            f"{form} has no place for --pissa here: PEFT's own {why}. Take the command line, or leave that out."
        )


def _alpha(request: TrainRequest, plan: Plan) -> int:
    """The correction is scaled by alpha / rank: by 2, and by 1 where it begins as a part of the base."""
    return plan.rank if request.options.pissa else 2 * plan.rank


def _begins(request: TrainRequest, plan: Plan, base: str) -> dict[str, Any]:
    """How PEFT itself makes the beginning that our own training puts in place later."""
    if request.options.pissa:
        return {"init_lora_weights": "pissa", "r": plan.rank, "lora_alpha": _alpha(request, plan)}
    if request.options.init_text:
        return {
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": request.options.init_text,
            "tokenizer_name_or_path": HUB.get(base, base),
        }
    return {}


def _named(reward: str) -> str:
    """A reward as it is handed on: the file that it names by its name alone."""
    file = schema_file(reward)
    return f"{SCHEMA}{file.name}" if file else reward


def _call(config: Any, **other: Any) -> str:
    """A PEFT config as the call that makes it, what is at its default left out. other: what is said in place of the
    config."""
    plain = type(config)().to_dict()
    own = {
        key: value
        for key, value in (config.to_dict() | other).items()
        if value != plain.get(key) and key not in ("peft_type", "base_model_name_or_path")
    }
    return f"{type(config).__name__}({', '.join(f'{key}={_value(value)}' for key, value in sorted(own.items()))})"


def _value(value: Any) -> str:
    value = getattr(value, "value", value)
    return repr(sorted(value) if isinstance(value, set) else value)


def _yaml(name: str, value: Any) -> str:
    """A line of YAML; JSON's spelling of numbers, texts and lists is YAML's too."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        first, *rest = value[0].items()
        inner = [
            f"  - {first[0]}: {json.dumps(first[1])}\n",
            *(f"    {key}: {json.dumps(item)}\n" for key, item in rest),
        ]
        return f"{name}:\n{''.join(inner)}"
    return f"{name}: {json.dumps(value)}\n"
