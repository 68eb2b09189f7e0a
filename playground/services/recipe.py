"""A run's settings to take away and bring back: as JSON, as the command line, as an Axolotl file, as a TRL script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from playground.errors import InputError
from playground.evaluation.checks import SCHEMA, schema_file
from playground.methods import get_method
from playground.methods.options import Options
from playground.services.planning import Plan
from playground.services.train_request import TrainRequest

HUB = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where the default base is found elsewhere."""
ROWS = "good-rows.jsonl"
"""The file that goes with an Axolotl file or a script: the good rows, as the Examples card hands them out."""
_PLAIN = (
    "method",
    "objective",
    "steps",
    "lr",
    "rank",
    "batch_size",
    "max_tokens",
    "seed",
    "save_steps",
    "turns",
    "validation",
    "test",
    "early_stop",
    "start",
    "limit_memory_bytes",
)
_OPEN = ("steps", "lr", "rank", "validation", "test")
"""Those that may be left to the program: null."""
_FLAGS = {
    "early_stop": "--early-stop",
    "start": "--from",
    "docs": "--docs",
    "limit_memory_bytes": "--memory-limit",
    "layers": "--layers",
    "init_text": "--init-text",
}
"""What the forms of others mostly have no place for."""
_AXOLOTL = ("full", "lora", "qlora", "dora")
_TRL = {"sft": "SFT", "pretrain": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward"}


KINDS = {"command": "command.txt", "settings": "settings.json", "axolotl": "axolotl.yaml", "trl": "train.py"}
"""The forms, and what a file of each is called."""


def written(kind: str, request: TrainRequest, plan: Plan, objective: str, base: str, config: Callable[[], Any]) -> str:
    """One form of a run's settings. config: makes the method's PEFT config. Raises InputError for a form that does not have it."""
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
    """Every setting of a run but its file and name, with what stood for the defaults filled in. Other files go by their names."""
    filled = replace(request, steps=plan.steps, lr=plan.lr, rank=plan.rank or None, objective=objective)
    found = {name: getattr(filled, name) for name in _PLAIN}
    return found | {
        "leave_out": list(request.leave_out), "options": request.options.chosen(), "rewards": [_named(one) for one in request.rewards],
        "docs": request.docs.name if request.docs else None,
    }  # fmt: skip


def with_settings(request: TrainRequest, record: Mapping[str, Any]) -> TrainRequest:
    """A request with the settings of a file. Raises InputError for what is no such file, and for a setting of the wrong kind."""
    wrong = sorted(set(record) - {*_PLAIN, "leave_out", "options", "rewards", "docs"})
    if wrong or not record:
        raise InputError(
            f"This is no file of settings: {', '.join(map(str, wrong[:5])) or 'it is empty'}. Download one here to see its form."
        )
    values: dict[str, Any] = {}
    for name in _PLAIN:
        if name not in record:
            continue
        value, kind = record[name], _kind(name)
        if (value is not None or name not in _OPEN) and (not isinstance(value, kind) or isinstance(value, bool)):
            raise InputError(f"{name} is {value!r}; it takes {'a text' if kind is str else 'a number'}.")
        values[name] = value
    left_out, options, rewards = record.get("leave_out", []), record.get("options", {}), record.get("rewards", [])
    if not isinstance(left_out, list) or not isinstance(rewards, list) or not isinstance(options, dict):
        raise InputError("leave_out and rewards are lists and options an object of names and values.")
    docs = record.get("docs")
    if docs is not None and not isinstance(docs, str):
        raise InputError(f"docs is {docs!r}; it takes the name of a file.")
    if values.get("method") is not None:
        get_method(values["method"]).check(Options.of(options))
    return replace(
        request, **values, leave_out=tuple(map(str, left_out)), options=Options.of(options), rewards=tuple(_named(str(one)) for one in rewards),
        docs=Path(Path(docs).name) if docs else None,
    )  # fmt: skip


def command(request: TrainRequest, plan: Plan, objective: str, file: str) -> str:
    """The same run on the command line. file: as the person calls it."""
    words = ["python", "-m", "playground", "train", file, "--method", request.method, "--objective", objective]
    words += ["--steps", str(plan.steps), "--lr", f"{plan.lr:g}", "--batch-size", str(request.batch_size)]
    words += ["--rank", str(plan.rank)] if plan.rank else []
    words += ["--max-tokens", str(request.max_tokens), "--seed", str(request.seed), "--save-steps", str(request.save_steps)]
    words += ["--turns", request.turns] if request.turns != "all" else []
    for name in ("validation", "test"):
        value = getattr(request, name)
        words += [f"--{name}", f"{value:g}"] if value is not None else []
    words += ["--leave-out", *request.leave_out] if request.leave_out else []
    for reward in request.rewards:
        words += ["--reward", _named(reward)]
    words += ["--docs", request.docs.name] if request.docs else []
    words += ["--from", request.start] if request.start else []
    words += ["--early-stop", str(request.early_stop)] if request.early_stop else []
    words += ["--memory-limit", repr(request.limit_memory_bytes / 1e9)] if request.limit_memory_bytes else []
    for name, value in request.options.chosen().items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    words += ["--name", request.name] if request.name else []
    words += ["--map", *(f"{role}={column}" for role, column in request.mapping.items())] if request.mapping else []
    return shlex.join(words)


def axolotl(request: TrainRequest, plan: Plan, objective: str, base: str) -> str:
    """A configuration for Axolotl, to run over the good rows. Raises InputError for a method or an objective that it does not have."""
    if request.method not in _AXOLOTL:
        raise InputError(f"Axolotl has no {request.method}; it has {', '.join(_AXOLOTL)}. Take the TRL script.")
    if objective not in ("sft", "pretrain", "dpo", "kto", "orpo"):
        raise InputError(f"{objective} is not written for Axolotl. Take the command line.")
    _refuse("An Axolotl file", request, objective, ("early_stop",))
    method, options = request.method, request.options
    lines = {"base_model": HUB.get(base, base), "load_in_4bit": method == "qlora"}
    rows: dict[str, Any] = {"path": ROWS, "ds_type": "json"}
    if objective == "pretrain":
        rows["type"] = "completion"
    elif objective == "sft":
        rows |= {"type": "chat_template", "field_messages": "messages", "roles_to_train": ["assistant"], "train_on_eos": "turn"}
    else:
        lines["rl"] = objective
        rows["type"] = "chat_template.default"
    lines["datasets"] = [rows]
    if method != "full":
        lines |= {
            "adapter": "qlora" if method == "qlora" else "lora", "lora_r": plan.rank, "lora_alpha": _alpha(request, plan), "lora_dropout": 0.0,
            "lora_target_linear": True,
        }  # fmt: skip
        lines |= {"peft_use_dora": True} if method == "dora" else {}
        lines |= {"peft_use_rslora": True} if options.rslora else {}
        lines |= {"peft_init_lora_weights": "pissa"} if options.pissa else {}
    lines |= {
        "sequence_len": request.max_tokens, "sample_packing": objective == "pretrain", "val_set_size": request.validation or 0.1,
        "micro_batch_size": request.batch_size, "gradient_accumulation_steps": 1, "max_steps": plan.steps, "num_epochs": 1000,
        "optimizer": "adamw_torch", "lr_scheduler": "linear", "learning_rate": plan.lr, "warmup_steps": min(3, plan.steps // 5),
        "weight_decay": 0.0, "max_grad_norm": 1.0, "save_steps": request.save_steps, "logging_steps": 1, "seed": request.seed,
        "bf16": "auto", "output_dir": "./out",
    }  # fmt: skip
    lines |= {"eval_steps": request.save_steps, "early_stopping_patience": request.early_stop} if request.early_stop else {}
    head = f"# From Prompt or Tune. Put {ROWS} (the good rows, from the Examples card) beside this file, then: axolotl train this.yaml\n"
    return head + "".join(_yaml(name, value) for name, value in lines.items())


def trl(request: TrainRequest, plan: Plan, objective: str, base: str, config: Any) -> str:
    """A script for TRL and PEFT, to run over the good rows. config: the method's PEFT config, None for full fine-tuning.

    Raises InputError for an objective that has no short script, or a method of our own."""
    if objective not in _TRL:
        raise InputError(f"{objective} needs more than a short script. Take the command line.")
    if request.method == "bottleneck":
        raise InputError("Bottleneck adapters are a PEFT method of this project's own. Take the command line.")
    held = ("early_stop", "init_text") if request.method == "prompt" else ("early_stop",)
    _refuse("A TRL script", request, objective, held)
    trainer = _TRL[objective]
    quantised, virtual = get_method(request.method).quantised, get_method(request.method).virtual
    loading = "dict(quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True))"
    if config is not None and objective == "reward":
        config = replace(config, task_type="SEQ_CLS")
    peft_kind = type(config).__name__ if config is not None else ""
    lines = [
        f'"""From Prompt or Tune. Put {ROWS} (the good rows, from the Examples card) beside this file. Needs trl and peft."""',
        "",
        "import torch",
        "from datasets import load_dataset",
        *([f"from peft import {peft_kind}"] if config is not None else []),
        *(["from transformers import BitsAndBytesConfig"] if quantised else []),
        *(["from transformers import EarlyStoppingCallback"] if request.early_stop else []),
        f"from trl import {trainer}Config, {trainer}Trainer",
        "",
        f'rows = load_dataset("json", data_files={ROWS!r}, split="train")',
        *(_ANSWERS if objective == "sft" else []),
        f"parts = rows.train_test_split(test_size={request.validation or 0.1!r}, seed={request.seed})",
        f"settings = {trainer}Config(",
        f"    output_dir='out', max_steps={plan.steps}, learning_rate={plan.lr!r}, per_device_train_batch_size={request.batch_size},",
        f"    lr_scheduler_type='linear', warmup_steps={min(3, plan.steps // 5)}, weight_decay=0.0, seed={request.seed},",
        "    bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),",  # TRL's default is bf16 everywhere, which a CPU refuses
        f"    save_steps={request.save_steps}, logging_steps=1, max_length={request.max_tokens},{' packing=True,' if objective == 'pretrain' else ''}",
        *(
            ["    gradient_checkpointing=False,  # what is computed again would begin with virtual tokens twice"]
            if virtual
            else []
        ),
        *([f"    model_init_kwargs={loading},"] if quantised else []),
        *([f"    eval_strategy='steps', eval_steps={request.save_steps}, {_BEST},"] if request.early_stop else []),
        ")",
        f"trainer = {trainer}Trainer(",
        f"    model={HUB.get(base, base)!r}, args=settings, train_dataset=parts['train'], eval_dataset=parts['test'],",
        *([f"    peft_config={_call(peft_kind, config, **_begins(request, plan, base))},"] if config is not None else []),
        *([f"    callbacks=[EarlyStoppingCallback({request.early_stop})],"] if request.early_stop else []),
        ")",
        "trainer.train()",
        "trainer.save_model('out/final')",
    ]
    return "\n".join(lines) + "\n"


_ANSWERS = [
    "# the last answer of each row counts for the loss, what comes before it is only read",
    'rows = rows.map(lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns=["messages"])',
]
_BEST = "load_best_model_at_end=True, metric_for_best_model='eval_loss'"


def _refuse(form: str, request: TrainRequest, objective: str, held: Sequence[str] = ()) -> None:
    """Raise InputError that names every setting which a form of somebody else's has no place for. held: those that this one has."""
    chosen = {name: getattr(request, name, None) or getattr(request.options, name, None) for name in _FLAGS}
    lost = [flag for name, flag in _FLAGS.items() if chosen[name] and name not in held]
    if lost:
        raise InputError(f"{form} has no place for {', '.join(lost)}. Take the command line, or leave that out.")
    if request.options.pissa and (request.method == "qlora" or objective in ("dpo", "kto")):
        why = f"changes the base that {objective} compares with"
        if request.method == "qlora":
            why = "cannot begin so over a base in 4 bits"
        raise InputError(f"{form} has no place for --pissa here: PEFT's own {why}. Take the command line, or leave that out.")


def _alpha(request: TrainRequest, plan: Plan) -> int:
    """The correction is scaled by alpha / rank: by 2, and by 1 where it begins as a part of the base."""
    return plan.rank if request.options.pissa else 2 * plan.rank


def _begins(request: TrainRequest, plan: Plan, base: str) -> dict[str, Any]:
    """How PEFT itself makes the beginning that our own training puts in place later."""
    if request.options.pissa:
        return {"init_lora_weights": "pissa", "r": plan.rank, "lora_alpha": _alpha(request, plan)}
    if request.options.init_text:
        return {
            "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": request.options.init_text,
            "tokenizer_name_or_path": HUB.get(base, base),
        }  # fmt: skip
    return {}


def _named(reward: str) -> str:
    """A reward as it is handed on: the file that it names by its name alone."""
    file = schema_file(reward)
    return f"{SCHEMA}{file.name}" if file else reward


def _call(name: str, config: Any, **other: Any) -> str:
    """A PEFT config as the call that makes it, what is at its default left out. other: what is said in place of the config."""
    plain = type(config)().to_dict()
    own = {
        key: value
        for key, value in (config.to_dict() | other).items()
        if value != plain.get(key) and key not in ("peft_type", "base_model_name_or_path")
    }
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in sorted(own.items()))})"


def _value(value: Any) -> str:
    value = getattr(value, "value", value)
    return repr(sorted(value) if isinstance(value, set) else value)


def _kind(name: str) -> Any:
    if name in ("method", "objective", "turns", "start"):
        return str
    return (int, float) if name in ("lr", "validation", "test") else int


def _yaml(name: str, value: Any) -> str:
    """A line of YAML; JSON's spelling of numbers, texts and lists is YAML's too."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        first, *rest = value[0].items()
        inner = [f"  - {first[0]}: {json.dumps(first[1])}\n", *(f"    {key}: {json.dumps(item)}\n" for key, item in rest)]
        return f"{name}:\n{''.join(inner)}"
    return f"{name}: {json.dumps(value)}\n"
