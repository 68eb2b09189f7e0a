"""An ``adapter_config.json`` from elsewhere -> the one that is kept: what only matters while training, or to PEFT's
auto classes, is left
out, and patterns become the names of the layers that the file holds, so that nobody matches a stranger's pattern
later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playground.errors import AdapterError
from playground.library.files import is_plain_file, read_json, write_json
from playground.library.safetensors_header import read_header
from playground.library.safety import CONFIG, RECORD, WEIGHTS, method_to_check
from playground.methods.config_rules import PLAIN, matching, value_by_name
from playground.methods.shapes import BaseLayout, layer_of
from playground.plain import plain_text

_CHOOSING = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""What chooses among target_modules: nothing where these are written out. IA3Config knows no layers."""


def keep_config(folder: Path, base: BaseLayout | None) -> list[str]:
    """Rewrite the config of an adapter that is being imported into ``folder``; returns what was changed, in words.
    Raises AdapterError."""
    run = read_json(folder / RECORD) if is_plain_file(folder / RECORD) else {}
    config, tensors = read_json(folder / CONFIG), read_header(folder / WEIGHTS)
    modules = method_to_check(config).modules({name: entry.shape for name, entry in tensors.items()})
    kept, changed = kept_config(config, modules, base, reward=run.get("objective") == "reward")
    write_json(folder / CONFIG, kept)
    return changed


def kept_config(
    config: Mapping[str, Any], modules: Mapping[str, bool], base: BaseLayout | None, *, reward: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """(the config to keep, what was changed in words for a person). It is not checked: ``check_config`` does that.

    modules: the layers that the file has weights for -> whether their input is what is scaled (IA3). Raises
    AdapterError for patterns that
    cannot be matched, or do not name these layers.
    """
    kept, changed = dict(config), []
    method = method_to_check(config)
    if kept.pop("auto_mapping", None):
        changed.append("auto_mapping is left out: it names the model's class, which is the base's own matter")
    if isinstance(kept.get("revision"), str) and kept["revision"] not in ("", "main"):
        changed.append(f"revision {plain_text(kept['revision'], 40)} is left out: the base is the one that is in use")
        kept["revision"] = None
    if kept.get("task_type") is None and not reward:
        kept["task_type"] = "CAUSAL_LM"
    changed += method.without_training(kept)
    names = sorted(modules)
    patterns = [
        key for key in ("target_modules", "exclude_modules", "feedforward_modules") if isinstance(kept.get(key), str)
    ]
    if patterns:
        _refuse_other_layers(kept, names, base)
        kept = {key: value for key, value in kept.items() if key not in _CHOOSING}
        method.written_out(kept, modules)
        changed.append(f"the pattern for {' and '.join(patterns)} is written out: {len(names)} layers")
    for key in ("rank_pattern", "alpha_pattern"):
        if isinstance(kept.get(key), dict) and kept[key]:
            by_name = value_by_name(key, kept[key], names)
            kept[key] = kept[key] if all(map(PLAIN.fullmatch, kept[key])) else by_name
    return kept, changed


def _refuse_other_layers(config: Mapping[str, Any], names: list[str], base: BaseLayout | None) -> None:
    """The targets must match the layers that the file holds, and the file must reach as deep as what they match in the
    base."""
    targets, every = config.get("target_modules"), {*names, *(base.linears() if base is not None else [])}
    if targets == "all-linear":
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
            f"This adapter holds weights for {plain_text(other)}, which its target_modules does not match. Save the"
            " adapter again."
        )
    if base is None or config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return
    here, there = base.layers_beside(names, names), base.layers_beside(named, names)
    if there - here:
        raise AdapterError(
            f"This adapter was trained on another base: it covers {len(here)} layers, this base has {len(there)}. It"
            f" needs {plain_text(config.get('base_model_name_or_path')) or 'the base it was trained on'}: choose that"
            " base, or train the adapter again on this one."
        )
