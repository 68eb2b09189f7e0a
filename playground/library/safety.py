"""May this adapter be used at all, and can it run on this base? All from outside passes here before PEFT and torch.

``adapter_config.json`` is held to an allow-list, since PEFT acts on what it reads: 1. a setting with a rule of its own
must satisfy it, 2. any other must say nothing (null, false, empty, 0, PEFT's own default). Tensors are judged by
names and shapes, never by what a base is called. A tokenizer that comes with an adapter must be the base's."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError
from playground.library.bases import cannot_run, is_own
from playground.library.card import AS_SAFETENSORS, CONFIG, OF_MLX, RECORD, WEIGHTS, check_names, read_run
from playground.library.files import (
    TensorEntry,
    check_file,
    is_plain_file,
    read_header,
    read_json,
    write_json,
    write_tensors,
)
from playground.methods import all_methods, method_for
from playground.methods.config_rules import PLAIN, Rule, matching, nothing, one_of, says_nothing, switch, value_by_name
from playground.methods.method import BEGIN, Method, Shape
from playground.methods.shapes import EMBEDDINGS, BaseLayout
from playground.plain import plain_number, plain_text

if TYPE_CHECKING:
    from playground.library.adapters import AdapterCard

SIZE_LIMIT_BYTES, TENSORS_LIMIT = 2 * 1024**3, 50_000
"""A LoRA on every expert of the largest mixtures has some 45,000 tensors."""


def check_folder(folder: Path, base: BaseLayout | None, *, numbers: bool = True) -> None:
    """Raise AdapterError unless ``folder`` is an adapter that is safe to load and, where ``base`` is given, runs on it.

    1. Names: no pickle, program, link. 2. The config is on the allow-list. 3. The weights are sound safetensors that
    belong to the method, with numbers such as training makes. 4. Their shapes fit the base, and its fingerprint where
    both are known. numbers: False leaves the numbers to whoever loads them."""
    folder = Path(folder)
    check_names(folder)
    if not all(is_plain_file(folder / name) for name in (CONFIG, WEIGHTS)):
        inner = next((p.name for p in sorted(folder.iterdir()) if p.is_dir() and is_plain_file(p / CONFIG)), "")
        raise AdapterError(what_lacks(folder.name, [p.name for p in folder.iterdir()], inner))
    if (size := (folder / WEIGHTS).stat().st_size) > SIZE_LIMIT_BYTES:
        said = f"{WEIGHTS} has {size} bytes; at most {SIZE_LIMIT_BYTES} are taken."
        raise AdapterError(f"{said} Train with a smaller rank.")
    run = read_run(folder)
    reward = run.get("objective") == "reward"
    config = read_json(folder / CONFIG)
    method = check_config(config, reward=reward)
    tensors = read_header(folder / WEIGHTS, TENSORS_LIMIT)
    _check_tensors(tensors, method, config, base, reward)
    if numbers:
        check_file(folder / WEIGHTS, method.factors(config, {name: entry.shape for name, entry in tensors.items()}))
    made_on = run.get("base_fingerprint")
    if base is not None and base.fingerprint and isinstance(made_on, str) and made_on and made_on != base.fingerprint:
        needs = plain_text(run.get("base")) or "the base it was trained on"
        prints = f"{plain_text(made_on, 16)}, this one's {base.fingerprint[:16]}. It needs {needs}."
        said = f"This adapter was trained on another base: that one's weights have the fingerprint {prints}"
        raise AdapterError(f"{said} If you know that it fits all the same, take base_fingerprint out of its {RECORD}.")


def unfit(card: AdapterCard, base: BaseLayout, *, numbers: bool = False) -> str:
    """Why an adapter of the library cannot run on ``base``, or "": by fingerprint, then by ``check_folder``."""
    if card.base_fingerprint and base.fingerprint and card.base_fingerprint != base.fingerprint:
        return f"trained on another base ({card.base})"
    try:
        if card.kind == "peft":
            check_folder(card.path, base, numbers=numbers)
    except AdapterError as error:
        return str(error).rstrip(".")
    return ""


_SCORE_HEADS = frozenset({"score", "classifier"})
_HEAD = re.compile(r"base_model\.model\.(?:\w+\.)*(\w+)\.(?:weight|bias)")
_DTYPES = ("F32", "F16", "BF16")
_PEFT_DEFAULTS = {"megatron_core": "megatron.core", "qalora_group_size": 16, "init_weights": "zero"}


def _method_of(config: Mapping[str, Any]) -> Method:
    """The method whose rules a config must satisfy. Raises AdapterError where there is none."""
    if (method := method_for(config)) is not None:
        return method
    usable = dict.fromkeys(method.peft_type for method in all_methods().values() if method.peft_type)
    said = f"adapter_config.json says peft_type {_short(config.get('peft_type'))};"
    raise AdapterError(f"{said} this playground can use {', '.join(usable)}. Train the adapter with one of these.")


def check_config(config: Mapping[str, Any], *, reward: bool = False) -> Method:
    """The method of an allowed config. Raises AdapterError naming every fault. reward: allow a score head."""
    method = _method_of(config)
    rules = {**_common(reward), **method.settings}
    faults = []
    for key, value in sorted(config.items()):
        if rule := rules.get(key):
            if why := rule(value):
                faults.append(f"{key} is {_short(value)}: {why}")
        elif not (says_nothing(value) or _PEFT_DEFAULTS.get(key) == value):
            faults.append(f"{plain_text(key, 60)} is {_short(value)}: this setting is not on the list of safe ones")
    faults += [f"{key} is missing" for key in method.required if config.get(key) is None]
    if faults:
        mend = "Set these to null or their defaults if the adapter does without them; otherwise train it again"
        raise AdapterError(f"{CONFIG} asks for more than is taken: {'; '.join(faults[:8])}. {mend} without them.")
    return method


def _common(reward: bool) -> dict[str, Rule]:
    """The settings that every PEFT type has."""
    modules = nothing("it replaces whole layers of the base; only the adapter's own weights are taken")
    return {
        "peft_type": lambda value: "",  # it chose the method
        "peft_version": _text,
        "task_type": one_of("CAUSAL_LM", None, "SEQ_CLS") if reward else one_of("CAUSAL_LM", None),
        "base_model_name_or_path": _base_name,
        "revision": one_of(None, "", "main"),
        "inference_mode": switch,
        "auto_mapping": nothing("it names code to import"),
        "modules_to_save": _score_heads if reward else modules,
    }


def _base_name(value: Any) -> str:
    if value is None or (isinstance(value, str) and len(value) <= 1000 and "://" not in value):
        return ""
    return "it must be the name of a base, never an address"


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, str) and len(value) <= 200) else "it must be a short text"


def _score_heads(value: Any) -> str:
    right = value is None or (isinstance(value, list) and all(isinstance(v, str) and v in _SCORE_HEADS for v in value))
    return "" if right else "a reward model may save its score head and nothing else"


def _short(value: object) -> str:
    text = plain_text(repr(value), 80)
    return text if len(text) < 80 else text + "..."


def _check_tensors(
    tensors: Mapping[str, TensorEntry], method: Method, config: Mapping[str, Any], base: BaseLayout | None, reward: bool
) -> None:
    """Raise AdapterError unless every tensor belongs to the method and its ``config``, and fits ``base`` (if given)."""
    if not tensors:
        raise AdapterError("adapter_model.safetensors is empty: it holds no tensor. Save the adapter again.")
    for name, entry in tensors.items():
        if entry.dtype not in _DTYPES:
            said = f"adapter_model.safetensors holds {plain_text(name)} as {entry.dtype};"
            raise AdapterError(f"{said} an adapter's weights are {', '.join(_DTYPES)}. Save it again in float32.")
    shapes = {name: entry.shape for name, entry in tensors.items()}
    if reward:
        shapes = {name: shape for name, shape in shapes.items() if not _is_head(name, shape, base)}
    if faults := [why for why in method.faults(shapes, config, base) if why]:
        more = f" ({len(faults) - 1} more like it.)" if len(faults) > 1 else ""
        hint = _needs(config) if "another base" in faults[0] else "Save it again."
        hint = "Train it without." if "embedding layer" in faults[0] else hint
        raise AdapterError(f"This adapter {faults[0]}.{more} {hint}")
    if base is not None:
        lead = int(config["num_virtual_tokens"]) if method.virtual else 0
        if why := cannot_run(method.modules(shapes), lead, base.config, prefix=method.deep):
            raise AdapterError(f"This adapter {why}.")


def _needs(config: Mapping[str, Any]) -> str:
    needs = plain_text(config.get("base_model_name_or_path")) or "the base it was trained on"
    return f"It needs {needs}: choose that base, or train the adapter again on this one."


def _is_head(name: str, shape: Shape, base: BaseLayout | None) -> bool:
    match = _HEAD.fullmatch(name)
    known = match is not None and match[1] in _SCORE_HEADS and len(shape) > 0 and shape[0] <= 64
    return known and (base is None or base.hidden is None or shape[-1] == base.hidden or len(shape) == 1)


def what_lacks(name: str, there: Collection[str], inner: str = "") -> str:
    """Why there is no adapter among the files ``there`` of a folder or archive. inner: a folder below with one."""
    listed = plain_text(", ".join(sorted(there)[:12])) or "nothing"
    if "config.json" in there and CONFIG not in there:
        return f"{name} is a whole model, not an adapter: use its folder as the base (PLAYGROUND_BASE, --base)."
    lacks, hint = (CONFIG if CONFIG not in there else WEIGHTS), "save it with PEFT's save_pretrained"
    if inner:
        hint = f"name the folder inside it ({plain_text(inner)})"
    elif lacks == WEIGHTS and "adapter_model.bin" in there:
        hint = f"adapter_model.bin is a pickle that can run code, so it is never opened; {AS_SAFETENSORS}"
    return f"{lacks} is missing; there is: {listed}. An adapter is a folder with {CONFIG} and {WEIGHTS}: {hint}."


def from_mlx(folder: Path) -> list[str]:
    """Turn an adapter as mlx-lm saves it into PEFT's layout, in ``folder``; returns in words what was done. There
    lora_a is [in, rank], lora_b [rank, out], and ``scale`` stands for alpha / rank. Raises AdapterError for what is no
    LoRA or DoRA of linear layers, and for a config of before mlx-lm 0.14, which scaled by an alpha too."""
    told, tensors = read_json(folder / CONFIG), read_header(folder / OF_MLX, TENSORS_LIMIT)
    kind, given = told.get("fine_tune_type", "lora"), told.get("lora_parameters")
    given = given if isinstance(given, Mapping) else {}
    if kind not in ("lora", "dora"):
        how = "Fuse it (mlx_lm.fuse) and use that folder as a base"
        raise AdapterError(f"This is MLX's {plain_text(str(kind), 20)} fine-tune, which holds whole layers. {how}.")
    scale, alpha = plain_number(given.get("scale")), "alpha" in given
    if scale is None or alpha:
        lacks = "name an alpha, by which mlx-lm scaled before 0.14 and not since" if alpha else "name no scale"
        mend = "Let them name the scale that it was trained with, and no alpha"
        raise AdapterError(f"{CONFIG} is MLX's, and its lora_parameters {lacks}. {mend}.")
    parts = {
        "lora_a": ("lora_A.weight", True),
        "lora_b": ("lora_B.weight", True),
        "m": ("lora_magnitude_vector", False),
    }
    kept, ranks = dict[str, tuple[str, bool]](), set[int]()
    for name, entry in tensors.items():
        module, _, part = name.rpartition(".")
        if part not in parts or len(entry.shape) != 1 + parts[part][1] or f"{module}.weight".endswith(EMBEDDINGS):
            what = f"This adapter of MLX holds {plain_text(name)} of shape {list(entry.shape)}"
            raise AdapterError(f"{what}; LoRA and DoRA on linear layers can be taken. Train it on these alone.")
        kept[name] = f"{BEGIN}{module}.{parts[part][0]}", parts[part][1]
        ranks |= {entry.shape[1]} if part == "lora_a" else set()
    if len(ranks) != 1:
        raise AdapterError(f"This adapter of MLX has {len(ranks)} ranks; it must have one. Save it again.")
    write_tensors(folder / OF_MLX, folder / WEIGHTS, kept)
    (folder / OF_MLX).unlink()
    (rank,), modules = ranks, sorted({name.rpartition(".")[0] for name in kept})
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": scale * rank}
    config |= {"bias": "none", "target_modules": modules, "use_dora": kind == "dora"}
    _write(folder / CONFIG, config | {"base_model_name_or_path": told.get("model")})
    many = f"{len(modules)} layer{'s' * (len(modules) > 1)}"
    return [f"MLX's layout is turned into PEFT's: {many} of rank {rank}, with the scale {scale:g}"]


_OUTER = rf"{re.escape(BEGIN)}(?P<module>(?:\w+\.)*(?:embed_tokens|wte|lm_head))"
_COPIED = re.compile(_OUTER + r"(?:\.base_layer)?\.(?P<part>weight|bias)")
"""Embeddings and head as PEFT saves them beside an adapter of the head, or where it does not know the base's config."""


def _without_copies(folder: Path, base: BaseLayout | None) -> list[str]:
    """Leave out of the weights in ``folder`` what is the base's own, number for number; returns that in words. Raises
    AdapterError where such weights are others than the base's."""
    place, tensors = base.folder if base is not None else None, read_header(folder / WEIGHTS, TENSORS_LIMIT)
    copies = {name: (match["module"], match["part"]) for name in tensors if (match := _COPIED.fullmatch(name))}
    if base is None or place is None or not copies:
        return []
    for name, (module, part) in copies.items():
        rows, there = ((shape or (0,))[0] for shape in (tensors[name].shape, base.weight(module)))
        if rows < there or not is_own(place, module, part, folder / WEIGHTS, name):
            why = f"{rows} rows, this base has {there}" if rows < there else "they were trained with it"
            said = f"This adapter comes with embeddings or a head of its own ({plain_text(name)}: {why})"
            raise AdapterError(f"{said}, and the base's stay as they are here. Train it without them.")
    left = {name: (name, False) for name in tensors if name not in copies}
    write_tensors(folder / WEIGHTS, folder / WEIGHTS, left)
    modules = " and ".join(sorted({module for module, _ in copies.values()}))
    return [f"the copy of the base's own {modules} is left out of the weights"]


_CHOOSING = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""What chooses among target_modules: nothing where these are written out. IA3Config knows no layers."""


def keep_config(folder: Path, base: BaseLayout | None) -> list[str]:
    """Rewrite the config of an adapter that is being imported into ``folder``; returns what was changed, in words. What
    only matters while training, or to PEFT's auto classes, is left out. Patterns become the names of the layers that
    the file holds, so that nobody matches a stranger's pattern later. It is not checked: ``check_config`` does that.
    Raises AdapterError for patterns that cannot be matched, or do not name these layers."""
    run, changed = read_run(folder), from_mlx(folder) if not is_plain_file(folder / WEIGHTS) else []
    kept = read_json(folder / CONFIG)
    method = _method_of(kept)
    changed += _without_copies(folder, base)
    tensors = read_header(folder / WEIGHTS, TENSORS_LIMIT)
    modules = method.modules({name: entry.shape for name, entry in tensors.items()})
    if kept.pop("auto_mapping", None):
        changed.append("auto_mapping is left out: it names the model's class, which is the base's own matter")
    if isinstance(kept.get("revision"), str) and kept["revision"] not in ("", "main"):
        changed.append(f"revision {plain_text(kept['revision'], 40)} is left out: the base is the one that is in use")
        kept["revision"] = None
    if kept.get("task_type") is None and run.get("objective") != "reward":
        kept["task_type"] = "CAUSAL_LM"
    changed += method.without_training(kept)
    names = sorted(modules)
    choosing = ("target_modules", "exclude_modules", "feedforward_modules")
    _refuse_other_layers(kept, names, base)
    if patterns := [key for key in choosing if isinstance(kept.get(key), str)]:
        kept = {key: value for key, value in kept.items() if key not in _CHOOSING}
        method.written_out(kept, modules)
        changed.append(f"the pattern for {' and '.join(patterns)} is written out: {len(names)} layers")
    for key in ("rank_pattern", "alpha_pattern"):
        if isinstance(kept.get(key), dict) and kept[key]:
            by_name = value_by_name(key, kept[key], names)
            kept[key] = kept[key] if all(map(PLAIN.fullmatch, kept[key])) else by_name
    _write(folder / CONFIG, kept)
    return changed


def _write(file: Path, config: dict[str, Any]) -> None:
    try:
        write_json(file, config)
    except (ValueError, RecursionError) as error:  # an infinite number, half a character, tables in tables in tables
        why = plain_text(str(error), 80)
        raise AdapterError(f"{file.name} holds what no JSON may ({why}). Save the adapter again.") from error


def _refuse_other_layers(config: Mapping[str, Any], names: list[str], base: BaseLayout | None) -> None:
    """The targets must match the file's layers, and the file must reach as deep as what they match in the base."""
    targets, every = config.get("target_modules"), {*names, *(base.linears() if base is not None else [])}
    if targets == "all-linear":
        named = every
    elif isinstance(targets, str):
        named = matching("target_modules", targets, every)
    elif isinstance(targets, list):
        whole = {target for target in targets if isinstance(target, str)}
        named = {name for name in every if not whole.isdisjoint(_ends(name))}
    else:
        return
    if other := next((name for name in names if name not in named), None):
        said = f"This adapter holds weights for {plain_text(other)}, which its target_modules does not match."
        raise AdapterError(f"{said} Save the adapter again.")
    if base is None or config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return
    here, there = base.layers_beside(names, names), base.layers_beside(named, names)
    if there - here:
        said = f"This adapter was trained on another base: it covers {len(here)} layers, this base has {len(there)}."
        raise AdapterError(f"{said} {_needs(config)}")


def _ends(name: str) -> list[str]:
    """``a.b.c``, ``b.c`` and ``c``: by these PEFT finds a layer in a list of targets."""
    parts = name.split(".")
    return [".".join(parts[place:]) for place in range(len(parts))]


TOKENIZER, ADDED = "tokenizer.json", "added_tokens.json"
TOKENIZER_LIMIT_BYTES = 64 * 1024 * 1024


def vocabulary_of(folder: Path) -> dict[str, int] | None:
    """Token -> number, of the folder's ``tokenizer.json``, None without one. Raises AdapterError when it is damaged."""
    path = folder / TOKENIZER
    if not path.exists():
        return None
    content = _read(path.resolve())
    model = content.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(words, list):  # Unigram: pairs of token and score
        found = {str(pair[0]): number for number, pair in enumerate(words) if isinstance(pair, list) and pair}
    else:
        found = _numbers(words)
    added = content.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found |= _numbers({entry["content"]: entry.get("id")})
    return found


def check_vocabulary(folder: Path, base: Callable[[], Mapping[str, int] | None]) -> list[str]:
    """Raise AdapterError when a folder holds a tokenizer that is not the base's. One that has a padding token more is
    taken, and said: no text holds it, and trainers add one. base: asked only where there is a tokenizer."""
    whole, added = (is_plain_file(folder / name) for name in (TOKENIZER, ADDED))
    if not (whole or added) or (known := base()) is None:
        return []
    here = (vocabulary_of(folder) or {}) if whole else dict(known)
    here |= _numbers(_read(folder / ADDED)) if added else {}
    pads = [token for token in here if token not in known and "pad" in token.lower()]
    other = next((token for token, number in here.items() if known.get(token) != number and token not in pads), None)
    if len(here) - len(pads) == len(known) and other is None:
        said = "its tokenizer has a padding token of its own, which no text holds"
        return [f"{said}: {plain_text(pads[0], 40)}"] if pads else []
    example = f" ({plain_text(other, 40)!r} is number {here[other]} there)" if other is not None else ""
    knows = f"it knows {len(here)} tokens, this base knows {len(known)}{example}."
    mend = "Choose the base that it was trained on, or train it again on this one."
    raise AdapterError(f"This adapter comes with another tokenizer: {knows} {mend}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, TOKENIZER_LIMIT_BYTES)
    except AdapterError as error:
        mend = "Save the adapter's tokenizer again, or delete it if the adapter uses its base's."
        raise AdapterError(f"{error} {mend}") from error


def _numbers(words: object) -> dict[str, int]:
    pairs = words.items() if isinstance(words, dict) else ()
    return {word: number for word, number in pairs if isinstance(word, str) and isinstance(number, int)}
