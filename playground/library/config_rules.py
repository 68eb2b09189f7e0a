"""Which settings an ``adapter_config.json`` may hold: an allow-list, because PEFT acts on what it reads there.

1. A setting with a rule of its own must satisfy it.
2. Any other setting must say nothing: null, false, empty, 0, or PEFT's own default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from playground.errors import AdapterError
from playground.library.files import plain_number, plain_text
from playground.library.module_names import KEYS_LIMIT

RANK_LIMIT = 256
VIRTUAL_TOKENS_LIMIT = 1024
BOTTLENECK_LIMIT = 4096
SCORE_HEADS = frozenset({"score", "classifier"})
PEFT_TYPES = ("LORA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "BOTTLENECK")

Rule = Callable[[Any], str]
"""Takes a value; returns what is wrong with it, or ''."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_DEFAULTS: Mapping[str, Any] = {"megatron_core": "megatron.core", "qalora_group_size": 16, "init_weights": "zero"}


def check_config(config: Mapping[str, Any], *, reward: bool = False) -> str:
    """Return the PEFT type of an allowed config, or raise AdapterError naming every fault in it.

    reward: allow the score head of our own reward models.
    """
    peft_type = config.get("peft_type")
    if peft_type not in PEFT_TYPES:
        raise AdapterError(
            f"adapter_config.json says peft_type {_short(peft_type)}; this playground can use {', '.join(PEFT_TYPES)}. "
            "Train the adapter with one of these."
        )
    rules = {**_common(reward), **_OF_TYPE[peft_type]}
    faults = []
    for key, value in sorted(config.items()):
        if rule := rules.get(key):
            if why := rule(value):
                faults.append(f"{key} is {_short(value)}: {why}")
        elif not (_says_nothing(value) or _DEFAULTS.get(key) == value):
            faults.append(f"{plain_text(key, 60)} is {_short(value)}: this setting is not on the list of safe ones")
    required = {"LORA": ("r", "target_modules"), "IA3": ("target_modules",), "BOTTLENECK": ("r", "target_modules")}
    for key in required.get(peft_type, ("num_virtual_tokens",)):
        if config.get(key) is None:
            faults.append(f"{key} is missing")
    if faults:
        raise AdapterError(
            f"adapter_config.json is not safe to use: {'; '.join(faults[:8])}. Set these to null or their defaults if the "
            "adapter does without them; otherwise train it again without them."
        )
    return str(peft_type)


def _says_nothing(value: Any) -> bool:
    return all(_says_nothing(v) for v in value.values()) if isinstance(value, dict) else not value


def _short(value: Any) -> str:
    text = plain_text(repr(value), 80)
    return text if len(text) < 80 else text + "..."


def _nothing(why: str) -> Rule:
    return lambda value: "" if _says_nothing(value) else why


def _one_of(*allowed: Any) -> Rule:
    said = ", ".join("null" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in allowed)
    return lambda value: "" if any(value is v or (isinstance(v, str) and value == v) for v in allowed) else f"it may be {said}"


def _whole(low: int, high: int, optional: bool = False) -> Rule:
    def rule(value: Any) -> str:
        if value is None and optional:
            return ""
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if right else f"it must be a whole number from {low} to {high}"

    return rule


def _number(low: float, high: float) -> Rule:
    def rule(value: Any) -> str:
        number = plain_number(value)
        return "" if number is not None and low <= number <= high else f"it must be a number from {low:g} to {high:g}"

    return rule


def _pattern_fault(text: str) -> str:
    """PEFT matches these as regular expressions against every module: refuse those that could take for ever."""
    if len(text) > 500 or len(re.findall(r"[*+{]", text)) > 3 or re.search(r"[)*+}][*+{]|\\[0-9]|\(\?(?!:)", text):
        return "its pattern is too involved"
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return "it is not a pattern that can be read"
    return ""


def _modules(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _pattern_fault(value)
    right = isinstance(value, list) and len(value) <= 20_000 and all(isinstance(v, str) and _NAME.fullmatch(v) for v in value)
    return "" if right else "it must be a list of module names, or one pattern"


def _patterns(of: Rule) -> Rule:
    def rule(value: Any) -> str:
        if not isinstance(value, dict) or len(value) > KEYS_LIMIT:
            limit = f"of at most {KEYS_LIMIT:,} module names and numbers"
            return "" if value is None else f"it must be a table {limit}"
        return next((why for key, number in value.items() if (why := _pattern_fault(key) or of(number))), "")

    return rule


def _layer_list(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    return "" if value is None or all(not _whole(0, 10_000)(v) for v in items) else "it must be layer numbers"


def _layers_pattern(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    right = value is None or all(isinstance(v, str) and (not v or _NAME.fullmatch(v)) for v in items)
    return "" if right else "it must be a name"


def _base_name(value: Any) -> str:
    if value is None or (isinstance(value, str) and len(value) <= 1000 and "://" not in value):
        return ""
    return "it must be the name of a base, never an address"


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, str) and len(value) <= 200) else "it must be a short text"


def _common(reward: bool) -> dict[str, Rule]:
    modules = _nothing("it replaces whole layers of the base; only the adapter's own weights are taken")
    return {
        "peft_type": _one_of(*PEFT_TYPES),
        "peft_version": _text,
        "task_type": _one_of("CAUSAL_LM", None, "SEQ_CLS") if reward else _one_of("CAUSAL_LM", None),
        "base_model_name_or_path": _base_name,
        "revision": _one_of(None, "", "main"),
        "inference_mode": _one_of(True, False),
        "auto_mapping": _nothing("it names code to import"),
        "modules_to_save": _score_heads if reward else modules,
    }


def _score_heads(value: Any) -> str:
    right = value is None or (isinstance(value, list) and all(isinstance(v, str) and v in SCORE_HEADS for v in value))
    return "" if right else "a reward model may save its score head and nothing else"


_SWITCH = _one_of(True, False)
_WEIGHTS = "it rewrites the weights of the base"
_FETCHES = "the vectors are in the file already, and this would fetch a tokenizer; set it to null (prompt_tuning_init: RANDOM)"
_VIRTUAL: dict[str, Rule] = {
    "num_virtual_tokens": _whole(1, VIRTUAL_TOKENS_LIMIT),
    "token_dim": _whole(1, 65_536, optional=True),
    "num_transformer_submodules": _whole(1, 1, optional=True),
    "num_attention_heads": _whole(1, 1024, optional=True),
    "num_layers": _whole(1, 1024, optional=True),
    "encoder_hidden_size": _whole(1, 65_536, optional=True),
}
_OF_TYPE: dict[str, dict[str, Rule]] = {
    "LORA": {
        "r": _whole(1, RANK_LIMIT),
        "lora_alpha": _number(1e-6, 65_536),
        "lora_dropout": _number(0, 1),
        "target_modules": _modules,
        "exclude_modules": _modules,
        "layers_to_transform": _layer_list,
        "layers_pattern": _layers_pattern,
        "rank_pattern": _patterns(_whole(1, RANK_LIMIT)),
        "alpha_pattern": _patterns(_number(1e-6, 65_536)),
        "bias": lambda value: "" if value == "none" else "it trains biases of the base; only 'none' leaves the base alone",
        "use_rslora": _SWITCH,
        "use_dora": _SWITCH,
        "fan_in_fan_out": _SWITCH,
        "init_lora_weights": lambda value: (
            "" if value is None or isinstance(value, bool) or value in ("gaussian", "default")
            else f"{_WEIGHTS}; convert the adapter to a plain LoRA (PEFT: path_initial_model_for_weight_conversion)"
        ),
        "layer_replication": _nothing("it changes how many layers the base has"),
        "trainable_token_indices": _nothing("it changes the embeddings of the base"),
    },
    "IA3": {
        "target_modules": _modules,
        "exclude_modules": _modules,
        "feedforward_modules": _modules,
        "fan_in_fan_out": _SWITCH,
        "init_ia3_weights": _SWITCH,
    },
    "PREFIX_TUNING": {**_VIRTUAL, "prefix_projection": _SWITCH},
    "PROMPT_TUNING": {
        **_VIRTUAL,
        "prompt_tuning_init": lambda value: "" if value in (None, "RANDOM", "SAMPLE_VOCAB") else _FETCHES,
        "prompt_tuning_init_text": _nothing(_FETCHES),
        "tokenizer_name_or_path": _nothing(_FETCHES),
        "tokenizer_kwargs": _nothing(_FETCHES),
    },
    "P_TUNING": {
        **_VIRTUAL,
        "encoder_reparameterization_type": _one_of("MLP", "LSTM", None),
        "encoder_num_layers": _whole(1, 16, optional=True),
        "encoder_dropout": _number(0, 1),
    },
    "BOTTLENECK": {
        "r": _whole(1, BOTTLENECK_LIMIT),
        "placement": _one_of("houlsby", "pfeiffer"),
        "activation": _one_of("relu", "gelu", "silu"),
        "target_modules": _modules,
        "exclude_modules": _modules,
    },
}  # fmt: skip
