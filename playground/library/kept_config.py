"""An ``adapter_config.json`` from elsewhere -> the one that is kept: what only matters while training, or to PEFT's auto classes, is left
out, and patterns become the names of the layers that the file holds, so that nobody matches a stranger's pattern later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playground.errors import AdapterError
from playground.library.base_shapes import BaseShapes, layer_of
from playground.library.files import is_plain_file, plain_text, read_json, write_json
from playground.library.fit import modules_of
from playground.library.module_names import PLAIN, matching, value_by_name
from playground.library.safetensors_header import read_header
from playground.library.safety import CONFIG, RECORD, WEIGHTS

_UNTOUCHED = ("orthogonal", "eva")
"""Ways to begin a LoRA that leave the base's weights alone (PEFT, LoraConfig.init_lora_weights); the file holds what became of it."""
_ALL = "all-linear"
_CHOOSING = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""What chooses among target_modules: nothing where these are written out. IA3Config knows no layers."""
_TEXTS = ("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
"""What PEFT reads only where virtual tokens begin as a text (PromptTuningInit.TEXT)."""


def keep_config(folder: Path, base: BaseShapes | None) -> list[str]:
    """Rewrite the config of an adapter that is being imported into ``folder``; returns what was changed, in words. Raises AdapterError."""
    run = read_json(folder / RECORD) if is_plain_file(folder / RECORD) else {}
    modules = modules_of(read_header(folder / WEIGHTS))
    kept, said = kept_config(read_json(folder / CONFIG), modules, base, reward=run.get("objective") == "reward")
    write_json(folder / CONFIG, kept)
    return said


def kept_config(
    config: Mapping[str, Any], modules: Mapping[str, bool], base: BaseShapes | None, *, reward: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """(the config to keep, what was changed in words for a person). It is not checked: ``check_config`` does that.

    modules: the layers that the file has weights for -> whether their input is what is scaled (IA3). Raises AdapterError for patterns that
    cannot be matched, or do not name these layers.
    """
    kept, said = _without_training(dict(config), reward)
    names = sorted(modules)
    patterns = [key for key in ("target_modules", "exclude_modules", "feedforward_modules") if isinstance(kept.get(key), str)]
    if patterns:
        _refuse_other_layers(kept, names, base)
        kept = {key: value for key, value in kept.items() if key not in _CHOOSING} | {"target_modules": names}
        if kept.get("peft_type") == "IA3":  # PEFT wants them among the targets, name by name
            kept["feedforward_modules"] = [name for name in names if modules[name]]
        said.append(f"the pattern for {' and '.join(patterns)} is written out: {len(names)} layers")
    for key in ("rank_pattern", "alpha_pattern"):
        if isinstance(kept.get(key), dict) and kept[key]:
            by_name = value_by_name(key, kept[key], names)
            kept[key] = kept[key] if all(map(PLAIN.fullmatch, kept[key])) else by_name
    return kept, said


def _without_training(config: dict[str, Any], reward: bool) -> tuple[dict[str, Any], list[str]]:
    said = []
    if config.pop("auto_mapping", None):
        said.append("auto_mapping is left out: it names the model's class, which is the base's own matter")
    if isinstance(config.get("revision"), str) and config["revision"] not in ("", "main"):
        said.append(f"revision {plain_text(config['revision'], 40)} is left out: the base is the one that is in use")
        config["revision"] = None
    if config.get("task_type") is None and not reward:
        config["task_type"] = "CAUSAL_LM"
    if config.get("peft_type") == "LORA" and config.get("init_lora_weights") in _UNTOUCHED:
        said.append(f"init_lora_weights {config['init_lora_weights']} is left out: it is how training began")
        config["init_lora_weights"] = True
        config.pop("eva_config", None)
    if config.get("peft_type") == "PROMPT_TUNING":
        held = [config.pop(key, None) for key in _TEXTS]
        if any(held):
            said.append(
                "the text and tokenizer that the virtual tokens began with are left out: the file holds what became of them"
            )
        if config.get("prompt_tuning_init") == "TEXT":
            config["prompt_tuning_init"] = "RANDOM"
    return config, said


def _refuse_other_layers(config: Mapping[str, Any], names: list[str], base: BaseShapes | None) -> None:
    """The targets must match the layers that the file holds, and the file must reach as deep as what they match in the base."""
    targets, every = config.get("target_modules"), {*names, *(base.linears() if base is not None else [])}
    if targets == _ALL:
        named = every
    elif isinstance(targets, str):
        named = matching("target_modules", targets, every)
    elif isinstance(targets, list):
        ends = {target: True for target in targets if isinstance(target, str) and layer_of(target) is None}
        named = {*names, *value_by_name("target_modules", ends, every)}
    else:
        return
    if other := next((name for name in names if name not in named), None):
        raise AdapterError(
            f"This adapter holds weights for {plain_text(other)}, which its target_modules does not match. Save the adapter again."
        )
    if base is None or config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return
    here, there = base.layers_beside(names, names), base.layers_beside(named, names)
    if there - here:
        raise AdapterError(
            f"This adapter was trained on another base: it covers {len(here)} layers, this base has {len(there)}. "
            f"It needs {plain_text(config.get('base_model_name_or_path')) or 'the base it was trained on'}: choose that base, or train "
            "the adapter again on this one."
        )
