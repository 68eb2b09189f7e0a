"""Do an adapter's tensors fit its own config, and a base? Judged by names and shapes alone, never by what a base is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from playground.errors import AdapterError
from playground.library.base_shapes import BaseShapes, layer_of
from playground.library.carried import cannot_run
from playground.library.config_rules import RANK_LIMIT, SCORE_HEADS
from playground.library.files import plain_text
from playground.library.safetensors_header import TensorEntry

DTYPES = ("F32", "F16", "BF16")
Shape = tuple[int, ...]

_LORA = re.compile(r"base_model\.model\.([\w.]+)\.(?:(lora_A|lora_B)\.weight|(lora_magnitude_vector)(?:\.weight)?)")
_IA3 = re.compile(r"base_model\.model\.([\w.]+)\.ia3_l")
_BOTTLENECK = re.compile(r"base_model\.model\.([\w.]+)\.bottleneck_((?:down|up)\.(?:weight|bias))")
_HEAD = re.compile(r"base_model\.model\.(?:\w+\.)*(\w+)\.(?:weight|bias)")


def check_tensors(
    tensors: Mapping[str, TensorEntry], config: Mapping[str, Any], base: BaseShapes | None, *, reward: bool = False
) -> None:
    """Raise AdapterError unless every tensor belongs to the method that ``config`` names and fits ``base`` (if given)."""
    if not tensors:
        raise AdapterError("adapter_model.safetensors is empty: it holds no tensor. Save the adapter again.")
    for name, entry in tensors.items():
        if entry.dtype not in DTYPES:
            raise AdapterError(
                f"adapter_model.safetensors holds {plain_text(name)} as {entry.dtype}; an adapter's weights are "
                f"{', '.join(DTYPES)}. Save it again in float32."
            )
    shapes = {name: entry.shape for name, entry in tensors.items()}
    if reward:
        shapes = {name: shape for name, shape in shapes.items() if not _is_head(name, shape, base)}
    kind = str(config["peft_type"])
    check = {"LORA": _lora, "IA3": _ia3, "BOTTLENECK": _bottleneck}.get(kind, _virtual_tokens)
    faults = [why for why in check(shapes, config, base) if why]
    if not faults and base is not None:
        lead = 0 if kind in ("LORA", "IA3", "BOTTLENECK") else int(config["num_virtual_tokens"])
        if why := cannot_run(kind, modules_of(tensors), lead, base.config):
            raise AdapterError(f"This adapter {why}.")
    if faults:
        more = f" ({len(faults) - 1} more like it.)" if len(faults) > 1 else ""
        needs = plain_text(config.get("base_model_name_or_path")) or "the base it was trained on"
        other = "another base" in faults[0]
        hint = f" It needs {needs}: choose that base, or train the adapter again on this one." if other else " Save it again."
        raise AdapterError(f"This adapter {faults[0]}.{more}{hint}")


def modules_of(tensors: Mapping[str, TensorEntry]) -> dict[str, bool]:
    """Layer -> whether its input is what is scaled (an IA3 vector of [1, inputs]), for every layer that a file has weights for."""
    found = {}
    for name, entry in tensors.items():
        if match := _LORA.fullmatch(name) or _BOTTLENECK.fullmatch(name) or _IA3.fullmatch(name):
            found[match[1]] = match.re is _IA3 and entry.shape[:1] == (1,)
    return found


def _is_head(name: str, shape: Shape, base: BaseShapes | None) -> bool:
    match = _HEAD.fullmatch(name)
    if not match or match[1] not in SCORE_HEADS or not shape or shape[0] > 64:
        return False
    return base is None or base.hidden is None or shape[-1] == base.hidden or len(shape) == 1


def _other_base(what: str, wide: object, base_wide: object) -> str:
    return f"was trained on another base: {what} is {wide} wide, this base's is {base_wide}"


def _foreign(name: str, kind: str) -> str:
    name = plain_text(name)
    if "base_layer" in name:
        return f"carries weights of the base itself ({name}); save it again with save_embedding_layers=False"
    if "lora_embedding" in name:
        return f"adapts the embedding layer ({name}); only linear layers can carry an adapter here"
    return f"holds {name}, which is no part of a {kind} adapter"


def _lora(shapes: Mapping[str, Shape], config: Mapping[str, Any], base: BaseShapes | None) -> Iterator[str]:
    layers: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        if match := _LORA.fullmatch(name):
            layers.setdefault(match[1], {})[match[2] or match[3]] = shape
        else:
            yield _foreign(name, "LoRA")
    ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
    for module, parts in layers.items():
        down, up, magnitude = (parts.get(p) for p in ("lora_A", "lora_B", "lora_magnitude_vector"))
        if down is None or up is None:
            yield f"lacks lora_{'A' if down is None else 'B'} for layer {module}"
            continue
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or not 1 <= down[0] <= RANK_LIMIT or 0 in (down[1], up[0]):
            sizes = f"lora_A {list(down)} and lora_B {list(up)}"
            yield f"has layer {module} with {sizes}, which are no pair of a rank from 1 to {RANK_LIMIT}"
            continue
        if down[0] not in ranks:
            yield f"has rank {down[0]} in layer {module}, but its config says {', '.join(map(str, sorted(ranks)))}"
        dora = bool(config.get("use_dora"))
        if magnitude != ((up[0],) if dora else None):
            yield f"has a DoRA magnitude of shape {magnitude} in layer {module}, while its config says use_dora {dora}"
        yield _linear_fault(module, down[1], up[0], base)
    yield _depth_fault(set(layers), config, base)


def _linear_fault(module: str, inputs: int | None, outputs: int | None, base: BaseShapes | None) -> str:
    if base is None:
        return ""
    there = base.linear(module)
    if there is None:
        return f"was trained on another base: it adapts layer {module}, which this base does not have"
    if there == (-1, -1):
        return ""
    if inputs is not None and inputs != there[1]:
        return _other_base(f"layer {module}", inputs, there[1])
    return "" if outputs is None or outputs == there[0] else _other_base(f"the output of layer {module}", outputs, there[0])


def _depth_fault(modules: set[str], config: Mapping[str, Any], base: BaseShapes | None) -> str:
    """Same widths, other depth: where the config names layers by their ends only, all of the base's must be covered."""
    targets = config.get("target_modules")
    picks = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    if base is None or picks or not isinstance(targets, list):
        return ""
    ends = tuple(f".{t}" for t in targets if layer_of(t) is None)
    names = (name.removesuffix(".weight") for name in base.shapes if name.endswith(".weight"))
    here = base.layers_beside((m for m in modules if m.endswith(ends)), modules)
    there = base.layers_beside((name for name in names if name.endswith(ends)), modules)
    missing = len(there - here)
    return f"was trained on another base: it covers {len(here)} layers, this base has {len(there)}" if missing else ""


def _ia3(shapes: Mapping[str, Shape], config: Mapping[str, Any], base: BaseShapes | None) -> Iterator[str]:
    modules = set()
    for name, shape in shapes.items():
        match = _IA3.fullmatch(name)
        if not match:
            yield _foreign(name, "IA3")
        elif len(shape) != 2 or 1 not in shape:
            yield f"has {name} of shape {list(shape)}; an IA3 vector is [outputs, 1] or [1, inputs]"
        else:
            modules.add(match[1])
            feeds = config.get("feedforward_modules") or []
            inner = shape[0] == 1 if isinstance(feeds, str) else match[1].endswith(tuple(feeds))
            if inner != (shape[0] == 1) and shape != (1, 1):
                yield f"has {name} of shape {list(shape)}, which is not what its feedforward_modules say"
            yield _linear_fault(match[1], shape[1] if inner else None, None if inner else shape[0], base)
    yield _depth_fault(modules, config, base)


def _virtual_tokens(shapes: Mapping[str, Shape], config: Mapping[str, Any], base: BaseShapes | None) -> Iterator[str]:
    for name in shapes:
        if name != "prompt_embeddings":
            yield _foreign(name, "prompt or prefix")
    shape = shapes.get("prompt_embeddings")
    if shape is None or len(shape) != 2 or shape[0] != config["num_virtual_tokens"]:
        said = None if shape is None else list(shape)
        yield f"has prompt_embeddings of shape {said}; its config says {config['num_virtual_tokens']} virtual tokens"
        return
    prefix = config["peft_type"] == "PREFIX_TUNING"
    depth, wide = config.get("num_layers"), config.get("token_dim")
    if wide is not None and shape[1] != wide * (2 * depth if prefix and depth else 1):
        yield f"has virtual tokens {shape[1]} wide, which is not what its config says (token_dim {wide}, num_layers {depth})"
    if base is None:
        return
    if depth is not None and base.layers is not None and depth != base.layers:
        yield f"was trained on another base: it has {depth} layers, this base has {base.layers}"
    if not prefix and base.hidden is not None and shape[1] != base.hidden:
        yield _other_base("a virtual token", shape[1], base.hidden)
    if prefix and base.layers and base.key_value_width and shape[1] != 2 * base.layers * base.key_value_width:
        yield _other_base("the keys and values of all layers", shape[1], 2 * base.layers * base.key_value_width)


def _bottleneck(shapes: Mapping[str, Shape], config: Mapping[str, Any], base: BaseShapes | None) -> Iterator[str]:
    layers: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        if match := _BOTTLENECK.fullmatch(name):
            layers.setdefault(match[1], {})[match[2]] = shape
        else:
            yield _foreign(name, "bottleneck")
    width = config["r"]
    for module, parts in layers.items():
        outputs = (parts.get("up.bias") or (0,))[0]
        right = {"down.weight": (width, outputs), "down.bias": (width,), "up.weight": (outputs, width), "up.bias": (outputs,)}
        if not outputs or parts != right:
            yield f"has layer {module} with {_said(parts)}, which are no bottleneck {width} wide (r in its config)"
            continue
        yield _linear_fault(module, None, outputs, base)
    yield _depth_fault(set(layers), config, base)


def _said(parts: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(parts.items()))
