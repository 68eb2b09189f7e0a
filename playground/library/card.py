"""What lies in an adapter's folder: the record of the run that made it (run.json), its README, a Hugging Face model
card, and the names it may hold. Of a record only known keys and plain values are read."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from playground.data.split import MOST_HASHED, OVERLAPS
from playground.errors import AdapterError
from playground.library.files import is_plain_file, read_json, shards, write_text
from playground.methods import all_methods, method_of
from playground.methods.method import Options
from playground.plain import plain_number, plain_text
from playground.settings import DEFAULT_BASE

SCHEMA = 1  # version of run.json that this code writes
NOTES = "import_notes"  # key of run.json for what an import changed and left out
PRIVATE = ("owner", NOTES)  # keys that never leave this machine with an export
OFF = "off"  # value of ``think`` in run.json where every answer was learned without a thought
CONFIG, WEIGHTS, RECORD, CARD = "adapter_config.json", "adapter_model.safetensors", "run.json", "README.md"
OF_MLX = "adapters.safetensors"  # what MLX calls the weights
FILES_LIMIT = 64
RECORD_LIMIT_BYTES = 16 * 1024 * 1024  # 100,000 trained rows take 12 MB

_PICKLE = re.compile(r"\.(bin|pt|pth|pkl|pickle|ckpt|joblib|dill|mar)")
_PROGRAM = re.compile(
    r"\.(py[codwi]?|ipynb|sh|bash|so|dll|dylib|exe|com|bat|cmd|ps1|jar|js|lnk|msi|scr|vbs|app|command|desktop|egg|whl)"
)
_DATA = re.compile(r"\.(json|safetensors|md|txt|jinja|jsonl|model|ya?ml|png|svg)")
AS_SAFETENSORS = "export the adapter as safetensors (PEFT: save_pretrained(folder, safe_serialization=True))"


def read_run(folder: Path) -> dict[str, Any]:
    """The record of the run that made it, {} where there is none. Raises AdapterError for a damaged one."""
    path = folder / RECORD
    if not path.exists() and not path.is_symlink():
        return {}
    run = read_json(path, RECORD_LIMIT_BYTES)
    if (schema := run.get("schema", SCHEMA)) != SCHEMA:
        said = f"run.json in {folder.name} has schema {plain_text(repr(schema), 20)}; this version reads {SCHEMA}."
        raise AdapterError(f"{said} It was written by a newer version: update the playground.")
    return run


def tidied(folder: Path, **changes: Any) -> dict[str, Any]:
    """Change the config that PEFT wrote into ``folder``, always in the same order, and take away its empty model card.
    Returns the config."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text()) | changes
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    (folder / CARD).unlink(missing_ok=True)
    return config


def united(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The hashes of the rows that several adapters were trained on, as one record has them: those that are known.
    ``rows_known`` is False where these are not all; a list that one of the records lacks is left out."""
    made: dict[str, Any] = {}
    known = all(record.get("row_hashes") and record.get("rows_known", True) for record in records)
    for listed, _ in OVERLAPS.values():
        lists = [there for record in records if isinstance(there := record.get(listed), list)]
        if listed == "row_hashes" or len(lists) == len(records):
            every = sorted({one for there in lists for one in there if isinstance(one, str)})
            known, made[listed] = known and len(every) <= MOST_HASHED, every[:MOST_HASHED]
    return made | {"rows_known": bool(known)}


def weight_files(folder: Path, kind: str) -> list[Path]:
    """The files that hold the weights, in the order in which they are hashed. Raises AdapterError where one lacks."""
    files = [folder / (WEIGHTS if kind == "peft" else "model.safetensors")]
    index = folder / f"{files[0].name}.index.json"
    if kind == "full" and is_plain_file(index) and not files[0].exists():
        files = shards(index)
    for file in files:
        if not is_plain_file(file):
            raise AdapterError(f"{folder.name} lacks {file.name}. Remove this adapter, or put the file back.")
    return files


def refuse_names(names: Iterable[str]) -> None:
    """Raise AdapterError for files that can run code when loaded, by name alone."""
    names = sorted(names)
    safe = any(PurePosixPath(name).name == WEIGHTS for name in names)
    for name in names:
        # "model.bin " and "model.bin." are model.bin to some systems.
        suffix = f".{PurePosixPath(name).name.lower().rstrip(' .').rpartition('.')[2]}"
        if _PICKLE.fullmatch(suffix):
            mend = "delete that file: the adapter does not need it"
            if not safe:
                mend = f"{AS_SAFETENSORS} and delete that file"
            raise AdapterError(f"The adapter contains {plain_text(name)}, a pickle that can run code; {mend}.")
        if _PROGRAM.fullmatch(suffix):
            said = f"The adapter contains {plain_text(name)}, a program. An adapter is data:"
            raise AdapterError(f"{said} {CONFIG}, {WEIGHTS} and perhaps {CARD} and {RECORD}; delete the rest.")


def check_names(folder: Path) -> None:
    """Raise AdapterError for links, programs, pickles and odd files in ``folder``, at any depth. Opens no file."""
    if folder.is_symlink() or not folder.is_dir():
        raise AdapterError(f"{folder} is not a folder. An adapter is a folder with {CONFIG} and {WEIGHTS}.")
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in folders + files):
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            said = f"The adapter contains {plain_text(name)}"
            if stat.S_ISLNK(mode):
                raise AdapterError(f"{said}, a link; put the file itself in its place.")
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise AdapterError(f"{said}, which is neither a file nor a folder; delete it.")
            if stat.S_ISREG(mode):
                # Some file systems mark every file as executable: where the name says data, the mark means nothing.
                if mode & 0o111 and not _DATA.fullmatch(path.suffix.lower()):
                    raise AdapterError(f"{said}, an executable; delete it, an adapter is data only.")
                found.append(name)
        if len(found) > FILES_LIMIT or len(folders) > FILES_LIMIT:
            raise AdapterError(f"{folder.name} holds more than {FILES_LIMIT} files; name the adapter's own folder.")
    refuse_names(found)


_TEXTS = ("run", "name", "base", "base_fingerprint", "objective", "data")
_ORIGINS = ("data_sha256", "template_sha256", "dtype", "device", "playground")
_COUNTS = ("rows_used", "rows_bad", "steps", "step", "batch_size", "max_tokens", "trainable_params", "total_params")
_MEASURES = ("created_s", "seconds", "tokens_per_s", "eval_loss", "peak_memory_bytes", "estimated_memory_bytes")
_SET = ("seed", "epochs", "lr", "alpha")
_HASH, _SHA256 = re.compile(r"[0-9a-f]{8,64}"), re.compile(r"[0-9a-f]{64}")
_POINTS_LIMIT = 200


def sanitised(
    run: Mapping[str, Any], config: Mapping[str, Any], *, name: str, owner: str, now_s: float
) -> dict[str, Any]:
    """A record for an adapter that comes from elsewhere. What it *is* (method, rank) is taken from its config. name:
    for when the record has none. now_s: the time; a record from the future counts as made now."""
    clean: dict[str, Any] = {key: text for key in _TEXTS + _ORIGINS if (text := plain_text(run.get(key)))}
    clean |= _numbers(run, *_COUNTS, *_MEASURES, *_SET)
    if isinstance(loss := run.get("loss"), Mapping):
        clean["loss"] = _numbers(loss, "first", "last")
    if curve := _plain_curve(run.get("curve")):
        clean["curve"] = curve
    for listed, _ in OVERLAPS.values():
        hashes = run.get(listed)
        if isinstance(hashes, list) and len(hashes) <= MOST_HASHED:
            clean[listed] = [h for h in hashes if isinstance(h, str) and _HASH.fullmatch(h)]
    held_out = run.get("held_out")
    if isinstance(held_out, Mapping) and _SHA256.fullmatch(plain_text(held_out.get("sha256"))):
        clean["held_out"] = {"sha256": held_out["sha256"]} | _numbers(held_out, "rows")
    if run.get("rows_known") is False:
        clean["rows_known"] = False
    if run.get("think") == OFF:
        clean["think"] = OFF
    claimed = all_methods().get(plain_text(run.get("method"), 40))  # believed where the file can be one of its
    created = clean.get("created_s", now_s)
    clean |= {
        "schema": SCHEMA,
        "name": plain_text(run.get("name"), 100) or plain_text(name, 100) or "imported adapter",
        "method": claimed.name if claimed is not None and claimed.accepts(config) else method_of(config),
        "created_s": created if 0 < created <= now_s else now_s,
        "imported_s": now_s,
        "owner": owner,
    }
    if rank := plain_number(config.get("r")):
        clean["rank"] = rank
    if "base" not in clean and (base := plain_text(config.get("base_model_name_or_path"))):
        clean["base"] = base
    return clean


def _numbers(record: Mapping[str, Any], *keys: str) -> dict[str, float]:
    return {key: number for key in keys if (number := plain_number(record.get(key))) is not None}


def _plain_curve(curve: object) -> dict[str, list[list[float]]]:
    """Losses by step: ``training`` and ``held_out``, each a list of [step, loss]. Anything else is left out."""
    found: dict[str, list[list[float]]] = {}
    for name in ("training", "held_out"):
        points = curve.get(name) if isinstance(curve, Mapping) else None
        if not isinstance(points, list) or len(points) > _POINTS_LIMIT:
            continue
        pairs = [list(map(plain_number, point)) for point in points if isinstance(point, list) and len(point) == 2]
        if good := [[step, loss] for step, loss in pairs if step is not None and loss is not None]:
            found[name] = good
    return found


_DEFAULT_BASE_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]+)?")


def write_model_card(folder: Path, run: Mapping[str, Any]) -> None:
    """Write ``README.md`` into ``folder`` from the record of the run; what is missing there is left out."""
    from jinja2 import ChainableUndefined, Environment  # here, since most who look at adapters write none

    config = read_json(folder / CONFIG) if is_plain_file(folder / CONFIG) else {}
    method_name = plain_text(run.get("method"), 40) or (method_of(config) if config else "full")
    method = all_methods().get(method_name)
    said = plain_text(run.get("base")) or plain_text(config.get("base_model_name_or_path"))
    hub = _DEFAULT_BASE_HUB_ID if said == DEFAULT_BASE else said.partition("@")[0] if _HUB_ID.fullmatch(said) else ""
    page = Environment(undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    page.filters |= {"text": _markdown, "plain": plain_number, "number": _number}
    # A folder on somebody's disk is nobody else's business: only its last part is told.
    base = hub or said.replace("\\", "/").rstrip("/").rpartition("/")[2] or "a base that was not recorded"
    about: dict[str, Any] = {"run": run, "folder": folder.name, "base": base, "hub": hub}
    about |= {"default_hub": _DEFAULT_BASE_HUB_ID, "options": _options(run.get("options")), "losses": _losses(run)}
    about |= {"method": method, "method_name": method_name, "whole": not config if method is None else method.whole}
    text = page.from_string(Path(__file__).with_name("model_card.txt").read_text(encoding="utf-8")).render(about)
    write_text(folder / CARD, text)


def _options(said: object) -> str:
    """The method's options that were set, such as ``rslora, placement pfeiffer``."""
    known = {item.name for item in fields(Options)}
    chosen = {n: v for n, v in said.items() if n in known and v} if isinstance(said, Mapping) else {}
    return ", ".join(n if v is True else f"{n.replace('_', ' ')} {plain_text(str(v), 80)}" for n, v in chosen.items())


def _losses(run: Mapping[str, Any]) -> list[tuple[float, float | None, float | None, bool]]:
    """(step, training loss, held-out loss, is it the lowest) where held-out rows were scored, else at some steps."""
    curve = _plain_curve(run.get("curve"))
    held, training = ({point[0]: point[1] for point in curve.get(name, [])} for name in ("held_out", "training"))
    best = min(held, key=lambda step: (held[step], step)) if len(held) > 1 else None
    return [
        (step, training.get(max((at for at in training if at <= step), default=step)), held.get(step), step == best)
        for step in sorted(held) or sorted(training)[:: max(1, len(training) // 8)]
    ]


def _number(value: object, form: str = "") -> str:
    number = plain_number(value)
    return "" if number is None else format(number, form) if form else f"{number:,.1f}".removesuffix(".0")


def _markdown(value: object, limit: int = 200) -> str:
    """Text as text: nothing in it becomes a link, markup or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|!])", r"\\\1", plain_text(value, limit))
