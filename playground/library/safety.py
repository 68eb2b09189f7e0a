"""May this adapter be used at all? Everything that comes from outside passes here before it reaches PEFT or torch."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from playground.errors import AdapterError
from playground.library.base_shapes import BaseShapes
from playground.library.config_rules import check_config
from playground.library.files import is_plain_file, plain_text, read_json
from playground.library.fit import check_tensors
from playground.library.magnitudes import check_file
from playground.library.safetensors_header import read_header

CONFIG, WEIGHTS, RECORD, CARD = "adapter_config.json", "adapter_model.safetensors", "run.json", "README.md"
FILES_LIMIT = 64
SIZE_LIMIT_BYTES = 2 * 1024**3

_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".mar"})
_CODE = frozenset({
    ".py", ".pyc", ".pyo", ".pyd", ".pyw", ".pyi", ".ipynb", ".sh", ".bash", ".so", ".dll", ".dylib", ".exe", ".com",
    ".bat", ".cmd", ".ps1", ".jar", ".js", ".lnk", ".msi", ".scr", ".vbs", ".app", ".command", ".desktop", ".egg", ".whl",
})  # fmt: skip
_DATA = frozenset({".json", ".safetensors", ".md", ".txt", ".jinja", ".jsonl", ".model", ".yaml", ".yml", ".png", ".svg"})


def refuse_names(names: Iterable[str]) -> None:
    """Raise AdapterError for files that can run code when loaded, by name alone."""
    names = sorted(names)
    safe = any(PurePosixPath(name).name == WEIGHTS for name in names)
    for name in names:
        # "model.bin " and "model.bin." are model.bin to some systems.
        last = PurePosixPath(name).name.lower().rstrip(" .")
        suffix = f".{last.rpartition('.')[2]}"
        if suffix in _PICKLES:
            mend = "delete that file: the adapter does not need it" if safe else (
                "export the adapter as safetensors (PEFT: save_pretrained(folder, safe_serialization=True)) and delete that file"
            )  # fmt: skip
            raise AdapterError(f"The adapter contains {plain_text(name)}, a pickle that can run code; {mend}.")
        if suffix in _CODE:
            raise AdapterError(
                f"The adapter contains {plain_text(name)}, a program. An adapter is data: {CONFIG}, {WEIGHTS} and perhaps "
                f"{CARD} and {RECORD}; delete the rest."
            )


def check_names(folder: Path) -> None:
    """Raise AdapterError for links, programs, pickles and odd files in ``folder``, at any depth. Opens no file."""
    if folder.is_symlink() or not folder.is_dir():
        raise AdapterError(f"{folder} is not a folder. An adapter is a folder with {CONFIG} and {WEIGHTS}.")
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(place, name)
            told = plain_text(path.relative_to(folder).as_posix())
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise AdapterError(f"The adapter contains {told}, a link; put the file itself in its place.")
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise AdapterError(f"The adapter contains {told}, which is neither a file nor a folder; delete it.")
            if stat.S_ISREG(mode):
                # Some file systems mark every file as executable: where the name says data, the mark means nothing.
                if mode & 0o111 and path.suffix.lower() not in _DATA:
                    raise AdapterError(f"The adapter contains {told}, an executable; delete it, an adapter is data only.")
                found.append(path.relative_to(folder).as_posix())
        if len(found) > FILES_LIMIT or len(folders) > FILES_LIMIT:
            raise AdapterError(f"{folder.name} holds more than {FILES_LIMIT} files; name the adapter's own folder.")
    refuse_names(found)


def check_folder(folder: Path, base: BaseShapes | None, *, numbers: bool = True) -> None:
    """Raise AdapterError unless ``folder`` is an adapter that is safe to load and, where ``base`` is given, fits it.

    1. Names: no pickle, program, link. 2. The config is on the allow-list. 3. The weights are sound safetensors that
    belong to the method, and hold numbers such as training makes. 4. Their shapes fit the base; its fingerprint too, where both are known.
    numbers: False leaves the numbers unread, where whoever loads them looks at them.
    """
    folder = Path(folder)
    check_names(folder)
    if not all(is_plain_file(folder / name) for name in (CONFIG, WEIGHTS)):
        inner = next((p.name for p in sorted(folder.iterdir()) if p.is_dir() and is_plain_file(p / CONFIG)), "")
        raise AdapterError(what_lacks(folder.name, [p.name for p in folder.iterdir()], inner))
    if (size := (folder / WEIGHTS).stat().st_size) > SIZE_LIMIT_BYTES:
        raise AdapterError(f"{WEIGHTS} has {size} bytes; at most {SIZE_LIMIT_BYTES} are taken. Train with a smaller rank.")
    run = read_json(folder / RECORD) if is_plain_file(folder / RECORD) else {}
    reward = run.get("objective") == "reward"
    config = read_json(folder / CONFIG)
    check_config(config, reward=reward)
    tensors = read_header(folder / WEIGHTS)
    check_tensors(tensors, config, base, reward=reward)
    if numbers:
        check_file(folder / WEIGHTS, config)
    made_on = run.get("base_fingerprint")
    if base is not None and base.fingerprint and isinstance(made_on, str) and made_on and made_on != base.fingerprint:
        needs = plain_text(run.get("base")) or "the base it was trained on"
        raise AdapterError(
            f"This adapter was trained on another base: that one's weights have the fingerprint {plain_text(made_on, 16)}, "
            f"this one's {base.fingerprint[:16]}. It needs {needs}. If you know that it fits all the same, take "
            f"base_fingerprint out of its {RECORD}."
        )


def what_lacks(name: str, there: Collection[str], inner: str = "") -> str:
    """Why there is no adapter among the files ``there`` of the folder or archive called ``name``. inner: a folder below that holds one."""
    listed = plain_text(", ".join(sorted(there)[:12])) or "nothing"
    if "config.json" in there and CONFIG not in there:
        return f"{name} is a whole model, not an adapter: use its folder as the base (PLAYGROUND_BASE, --base)."
    lacks, hint = (CONFIG if CONFIG not in there else WEIGHTS), "save it with PEFT's save_pretrained"
    if inner:
        hint = f"name the folder inside it ({plain_text(inner)})"
    elif lacks == WEIGHTS and "adapter_model.bin" in there:
        hint = (
            "adapter_model.bin is a pickle that can run code, so it is never opened; export the adapter as safetensors "
            "(PEFT: save_pretrained(folder, safe_serialization=True))"
        )
    return f"{lacks} is missing; there is: {listed}. An adapter is a folder with {CONFIG} and {WEIGHTS}: {hint}."
