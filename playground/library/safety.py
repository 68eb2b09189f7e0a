"""May this adapter be used at all? Everything that comes from outside passes here before it reaches PEFT or torch.

``adapter_config.json`` is held to an allow-list, because PEFT acts on what it reads there. 1. A setting with a rule of
its own must satisfy
it. 2. Any other setting must say nothing: null, false, empty, 0, or PEFT's own default. Tensors are judged by names and
shapes alone, never
by what a base is called. An adapter that comes with a tokenizer must mean the same words by the same numbers as the
base.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from playground.errors import AdapterError
from playground.library.base_shapes import cannot_run
from playground.library.files import is_plain_file, read_json
from playground.library.safetensors_header import TensorEntry, check_file, read_header
from playground.methods import all_methods, method_for
from playground.methods.config_rules import Rule, nothing, one_of, says_nothing, switch
from playground.methods.method import Method
from playground.methods.shapes import BaseLayout, Shape
from playground.plain import plain_text

CONFIG, WEIGHTS, RECORD, CARD = "adapter_config.json", "adapter_model.safetensors", "run.json", "README.md"
FILES_LIMIT = 64
SIZE_LIMIT_BYTES = 2 * 1024**3

_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".mar"})
_CODE = frozenset(
    {
        *(
            ".py",
            ".pyc",
            ".pyo",
            ".pyd",
            ".pyw",
            ".pyi",
            ".ipynb",
            ".sh",
            ".bash",
            ".so",
            ".dll",
            ".dylib",
            ".exe",
            ".com",
        ),
        *(
            ".bat",
            ".cmd",
            ".ps1",
            ".jar",
            ".js",
            ".lnk",
            ".msi",
            ".scr",
            ".vbs",
            ".app",
            ".command",
            ".desktop",
            ".egg",
        ),
        ".whl",
    }
)
_AS_SAFETENSORS = "export the adapter as safetensors (PEFT: save_pretrained(folder, safe_serialization=True))"
_DATA = frozenset(
    {".json", ".safetensors", ".md", ".txt", ".jinja", ".jsonl", ".model", ".yaml", ".yml", ".png", ".svg"}
)


def refuse_names(names: Iterable[str]) -> None:
    """Raise AdapterError for files that can run code when loaded, by name alone."""
    names = sorted(names)
    safe = any(PurePosixPath(name).name == WEIGHTS for name in names)
    for name in names:
        # "model.bin " and "model.bin." are model.bin to some systems.
        last = PurePosixPath(name).name.lower().rstrip(" .")
        suffix = f".{last.rpartition('.')[2]}"
        if suffix in _PICKLES:
            mend = "delete that file: the adapter does not need it"
            if not safe:
                mend = f"{_AS_SAFETENSORS} and delete that file"
            raise AdapterError(f"The adapter contains {plain_text(name)}, a pickle that can run code; {mend}.")
        if suffix in _CODE:
            raise AdapterError(
                f"The adapter contains {plain_text(name)}, a program. An adapter is data: {CONFIG}, {WEIGHTS} and"
                f" perhaps {CARD} and {RECORD}; delete the rest."
            )


def check_names(folder: Path) -> None:
    """Raise AdapterError for links, programs, pickles and odd files in ``folder``, at any depth. Opens no file."""
    if folder.is_symlink() or not folder.is_dir():
        raise AdapterError(f"{folder} is not a folder. An adapter is a folder with {CONFIG} and {WEIGHTS}.")
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(place, name)
            shown = plain_text(path.relative_to(folder).as_posix())
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise AdapterError(f"The adapter contains {shown}, a link; put the file itself in its place.")
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise AdapterError(f"The adapter contains {shown}, which is neither a file nor a folder; delete it.")
            if stat.S_ISREG(mode):
                # Some file systems mark every file as executable: where the name says data, the mark means nothing.
                if mode & 0o111 and path.suffix.lower() not in _DATA:
                    raise AdapterError(
                        f"The adapter contains {shown}, an executable; delete it, an adapter is data only."
                    )
                found.append(path.relative_to(folder).as_posix())
        if len(found) > FILES_LIMIT or len(folders) > FILES_LIMIT:
            raise AdapterError(f"{folder.name} holds more than {FILES_LIMIT} files; name the adapter's own folder.")
    refuse_names(found)


def check_folder(folder: Path, base: BaseLayout | None, *, numbers: bool = True) -> None:
    """Raise AdapterError unless ``folder`` is an adapter that is safe to load and, where ``base`` is given, fits it.

    1. Names: no pickle, program, link. 2. The config is on the allow-list. 3. The weights are sound safetensors that
    belong to the method, and hold numbers such as training makes. 4. Their shapes fit the base; its fingerprint too,
    where both are known.
    numbers: False leaves the numbers unread, where whoever loads them looks at them.
    """
    folder = Path(folder)
    check_names(folder)
    if not all(is_plain_file(folder / name) for name in (CONFIG, WEIGHTS)):
        inner = next((p.name for p in sorted(folder.iterdir()) if p.is_dir() and is_plain_file(p / CONFIG)), "")
        raise AdapterError(what_lacks(folder.name, [p.name for p in folder.iterdir()], inner))
    if (size := (folder / WEIGHTS).stat().st_size) > SIZE_LIMIT_BYTES:
        raise AdapterError(
            f"{WEIGHTS} has {size} bytes; at most {SIZE_LIMIT_BYTES} are taken. Train with a smaller rank."
        )
    run = read_json(folder / RECORD) if is_plain_file(folder / RECORD) else {}
    reward = run.get("objective") == "reward"
    config = read_json(folder / CONFIG)
    method = check_config(config, reward=reward)
    tensors = read_header(folder / WEIGHTS)
    check_tensors(tensors, method, config, base, reward=reward)
    if numbers:
        check_file(folder / WEIGHTS, method.factors(config, {name: entry.shape for name, entry in tensors.items()}))
    made_on = run.get("base_fingerprint")
    if base is not None and base.fingerprint and isinstance(made_on, str) and made_on and made_on != base.fingerprint:
        needs = plain_text(run.get("base")) or "the base it was trained on"
        raise AdapterError(
            "This adapter was trained on another base: that one's weights have the fingerprint"
            f" {plain_text(made_on, 16)}, this one's {base.fingerprint[:16]}. It needs {needs}. If you know that it"
            f" fits all the same, take base_fingerprint out of its {RECORD}."
        )


_SCORE_HEADS = frozenset({"score", "classifier"})
_HEAD = re.compile(r"base_model\.model\.(?:\w+\.)*(\w+)\.(?:weight|bias)")
_DTYPES = ("F32", "F16", "BF16")
_PEFT_DEFAULTS: Mapping[str, Any] = {
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "init_weights": "zero",
}


def method_to_check(config: Mapping[str, Any]) -> Method:
    """The method whose rules a config must satisfy. Raises AdapterError where there is none."""
    if (method := method_for(config)) is not None:
        return method
    usable = dict.fromkeys(method.peft_type for method in all_methods().values() if method.peft_type)
    raise AdapterError(
        f"adapter_config.json says peft_type {_short(config.get('peft_type'))}; this playground can use"
        f" {', '.join(usable)}. Train the adapter with one of these."
    )


def check_config(config: Mapping[str, Any], *, reward: bool = False) -> Method:
    """Return the method of an allowed config, or raise AdapterError naming every fault in it.

    reward: allow the score head of our own reward models.
    """
    method = method_to_check(config)
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
        raise AdapterError(
            f"adapter_config.json is not safe to use: {'; '.join(faults[:8])}. Set these to null or their defaults if"
            " the adapter does without them; otherwise train it again without them."
        )
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


def _short(value: Any) -> str:
    text = plain_text(repr(value), 80)
    return text if len(text) < 80 else text + "..."


def check_tensors(
    tensors: Mapping[str, TensorEntry],
    method: Method,
    config: Mapping[str, Any],
    base: BaseLayout | None,
    *,
    reward: bool = False,
) -> None:
    """Raise AdapterError unless every tensor belongs to the method and its ``config``, and fits ``base`` (if given)."""
    if not tensors:
        raise AdapterError("adapter_model.safetensors is empty: it holds no tensor. Save the adapter again.")
    for name, entry in tensors.items():
        if entry.dtype not in _DTYPES:
            raise AdapterError(
                f"adapter_model.safetensors holds {plain_text(name)} as {entry.dtype}; an adapter's weights are "
                f"{', '.join(_DTYPES)}. Save it again in float32."
            )
    shapes = {name: entry.shape for name, entry in tensors.items()}
    if reward:
        shapes = {name: shape for name, shape in shapes.items() if not _is_head(name, shape, base)}
    faults = [why for why in method.faults(shapes, config, base) if why]
    if not faults and base is not None:
        lead = int(config["num_virtual_tokens"]) if method.virtual else 0
        if why := cannot_run(method.modules(shapes), lead, base.config, prefix=method.deep):
            raise AdapterError(f"This adapter {why}.")
    if faults:
        more = f" ({len(faults) - 1} more like it.)" if len(faults) > 1 else ""
        needs = plain_text(config.get("base_model_name_or_path")) or "the base it was trained on"
        hint = "Save it again."
        if "another base" in faults[0]:
            hint = f"It needs {needs}: choose that base, or train the adapter again on this one."
        raise AdapterError(f"This adapter {faults[0]}.{more} {hint}")


def _is_head(name: str, shape: Shape, base: BaseLayout | None) -> bool:
    match = _HEAD.fullmatch(name)
    if not match or match[1] not in _SCORE_HEADS or not shape or shape[0] > 64:
        return False
    return base is None or base.hidden is None or shape[-1] == base.hidden or len(shape) == 1


def what_lacks(name: str, there: Collection[str], inner: str = "") -> str:
    """Why there is no adapter among the files ``there`` of the folder or archive called ``name``. inner: a folder below
    that holds one."""
    listed = plain_text(", ".join(sorted(there)[:12])) or "nothing"
    if "config.json" in there and CONFIG not in there:
        return f"{name} is a whole model, not an adapter: use its folder as the base (PLAYGROUND_BASE, --base)."
    lacks, hint = (CONFIG if CONFIG not in there else WEIGHTS), "save it with PEFT's save_pretrained"
    if inner:
        hint = f"name the folder inside it ({plain_text(inner)})"
    elif lacks == WEIGHTS and "adapter_model.bin" in there:
        hint = f"adapter_model.bin is a pickle that can run code, so it is never opened; {_AS_SAFETENSORS}"
    return f"{lacks} is missing; there is: {listed}. An adapter is a folder with {CONFIG} and {WEIGHTS}: {hint}."


TOKENIZER, ADDED = "tokenizer.json", "added_tokens.json"
LIMIT_BYTES = 64 * 1024 * 1024


def vocabulary_of(folder: Path) -> dict[str, int] | None:
    """Token -> number, as the folder's ``tokenizer.json`` says; None when it has none. Raises AdapterError when it is
    damaged."""
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
    for entry in content.get("added_tokens") or []:
        if isinstance(entry, dict):
            found |= _numbers({entry.get("content"): entry.get("id")})
    return found


def check_vocabulary(folder: Path, base: Callable[[], Mapping[str, int] | None]) -> None:
    """Raise AdapterError when an adapter's folder holds a tokenizer that is not the base's. base: asked only where
    there is one."""
    if not any(is_plain_file(folder / name) for name in (TOKENIZER, ADDED)):
        return
    known = base()
    if known is None:
        return
    whole = vocabulary_of(folder) if is_plain_file(folder / TOKENIZER) else None
    added = _numbers(_read(folder / ADDED)) if is_plain_file(folder / ADDED) else {}
    here = (whole if whole is not None else dict(known)) | added
    other = next((token for token, number in here.items() if known.get(token) != number), None)
    if len(here) == len(known) and other is None:
        return
    example = f" ({plain_text(other, 40)!r} is number {here[other]} there)" if other is not None else ""
    raise AdapterError(
        f"This adapter comes with another tokenizer: it knows {len(here)} tokens, this base knows"
        f" {len(known)}{example}. Choose the base that it was trained on, or train it again on this one."
    )


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LIMIT_BYTES:
        raise AdapterError(
            f"{path.name} has more than {LIMIT_BYTES} bytes. Delete it if the adapter uses its base's tokenizer."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(
            f"{path.name} is not readable JSON. Save the adapter's tokenizer again, or delete it."
        ) from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path.name} must hold a JSON object. Save the adapter's tokenizer again, or delete it.")
    return content


def _numbers(words: Any) -> dict[str, int]:
    pairs = words.items() if isinstance(words, dict) else ()
    return {word: number for word, number in pairs if isinstance(word, str) and isinstance(number, int)}
