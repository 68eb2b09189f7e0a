"""A base or an adapter from the Hugging Face hub, and whether a folder can be a base. The small files come first and
are judged, then the weights; a download that was stopped goes on where it ended. Nothing of a model is run here."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from playground.errors import AdapterError, BaseUnavailableError, InputError
from playground.library.archive import KNOWN, check_size, left_of, listed, place_of
from playground.library.bases import BODY_ONLY, BaseShapes
from playground.library.card import CONFIG
from playground.library.files import read_json, refuse_pointer, sha256_of
from playground.library.safety import what_lacks
from playground.methods.shapes import EMBEDDINGS, layer_of
from playground.plain import plain_number, plain_text
from playground.settings import DEFAULT_BASE

if TYPE_CHECKING:
    import httpx

HUB = "https://huggingface.co"
REVISION = ".revision"
"""What a download in part is of: files of two revisions are never mixed."""
FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja", "LICENSE*", "README.md")
SECOND_COPY = "consolidated*"
"""The same weights for another program."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
CHUNK_BYTES, TIMEOUT_S = 1 << 20, 30.0
Progress = Callable[[str, int, int], None]
"""As in ``library.bases``."""
T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def unusable(folder: Path, *, whole: bool = True) -> str:
    """Why a folder cannot be a base, as the end of a sentence that begins with its name; "" = nothing speaks against
    it. Judged once for each version of its files, by 1. its config, 2. its tokenizer and template, which a question is
    rendered with, 3. its weights' names and shapes. whole: False while the weights are still to come."""
    there = (file for file in folder.iterdir() if whole or not file.name.endswith(".safetensors"))
    stats = [(file.name, file.stat()) for file in there if file.is_file()]
    return _unusable(folder, whole, tuple(sorted((name, s.st_size, s.st_mtime_ns) for name, s in stats)))


@lru_cache(maxsize=64)
def _unusable(folder: Path, whole: bool, version: tuple[tuple[str, int, int], ...]) -> str:
    for file in (folder / "config.json", folder / "tokenizer.json"):
        try:
            refuse_pointer(file)
        except AdapterError as error:
            return f"cannot be used: {error}"
        except OSError:  # whatever it is or is not is said below
            continue
    try:
        config = read_json((folder / "config.json").resolve())
    except (AdapterError, OSError):
        return "has a damaged config.json, or none. Fetch it again."
    if why := _no_writer(config):
        return f"{why}. Choose another base."
    sizes, why = _tried(lambda: _sizes(folder))
    if sizes is None:
        return f"has a config.json that cannot be used ({why}). Fetch it again."
    rows, layers = sizes
    return _tokenizer_fault(folder, rows) or (_weights_fault(folder, rows, layers) if whole else "")


def _sizes(folder: Path) -> tuple[int, int]:
    """(tokens that there are embeddings for, decoder layers); 0 where a config does not say."""
    from transformers import AutoConfig

    text: Any = AutoConfig.from_pretrained(folder, **_LOCAL).get_text_config()
    found = (plain_number(getattr(text, name, None)) for name in ("vocab_size", "num_hidden_layers"))
    rows, layers = (int(number or 0) for number in found)
    return rows, layers


_LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


def _tried(read: Callable[[], T]) -> tuple[T | None, str]:
    """What a library reads, or None and in a few words why it cannot."""
    try:
        return read(), ""
    except Exception as error:  # of whatever class reads what a stranger wrote
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return None, plain_text(f"{type(error).__name__}: {' '.join(lines[:2])}", 160)


def _no_writer(config: Mapping[str, Any]) -> str:
    """Why a config is of no causal language model that transformers has, or ""."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as WRITERS

    kind, named = plain_text(config.get("model_type"), 40), config.get("architectures")
    classes = [str(one) for one in named] if isinstance(named, list) else []
    if kind in WRITERS and not (classes and not {*WRITERS.values()} & {*classes}):
        return ""
    if config.get("auto_map"):
        return "needs program code of its own, which is never run here"
    said = plain_text(classes[0], 60) if classes else kind or "model without a model_type"
    return f"is a {said}, which is no causal language model known here"


def _tokenizer_fault(folder: Path, rows: int) -> str:
    """rows: tokens that the model has embeddings for. Added tokens past them are refused text by text (a few bases have
    such), unless every reply, padded row or prompt would hold them."""
    from playground.data.example import Message
    from playground.data.render import encode, load_tokenizer, render_prompt

    if not any((folder / name).is_file() for name in TOKENIZERS):
        return f"has no tokenizer ({', '.join(TOKENIZERS[:2])}). Save it there with save_pretrained."
    tokenizer, why = _tried(lambda: load_tokenizer(folder))
    if tokenizer is None:
        return f"has a damaged tokenizer.json, or a tokenizer that cannot be read ({why}). Fetch it again."
    added = tokenizer.get_added_vocab()
    words = max((number for word, number in tokenizer.get_vocab().items() if word not in added), default=-1)
    try:
        asked = render_prompt(tokenizer, [Message("user", "Hello")])
    except InputError as error:
        return f"cannot be asked anything: {error}"
    if "Hello" not in asked:
        return "cannot be asked anything: its chat template leaves the question out. Choose another base."
    used = [
        words,
        *encode(tokenizer, asked),
        *(number for number in (tokenizer.eos_token_id, tokenizer.pad_token_id) if number),
    ]
    if rows and max(used) >= rows:
        return f"has a tokenizer of {max(used) + 1} tokens, and a model that knows {rows}. They do not belong together."
    return "" if words >= 0 else "has a tokenizer without a word in it. Fetch it again."


def _weights_fault(folder: Path, rows: int, layers: int) -> str:
    try:
        base = BaseShapes.from_folder(folder)
    except BaseUnavailableError as error:
        return f"has weights that cannot be read: {error.__cause__ or error}"
    held = {shape[0] for name, shape in base.shapes.items() if name.endswith(EMBEDDINGS) and len(shape) == 2}
    if rows and held and rows not in held:
        return f"has weights for {max(held)} tokens, and a config.json of {rows}. They do not belong together."
    ends: dict[int, set[str]] = {}
    for name in base.shapes:
        if (index := layer_of(name)) is not None and index < layers:
            ends.setdefault(index, set()).add(name.partition(f".{index}.")[2])
    every = set[str]().union(*ends.values()) if base.config.get("model_type") in BODY_ONLY else set()
    lacking = [f"layer {index}" for index in range(layers) if index not in ends] if ends else []
    lacking += [f"{end} of layer {index}" for index, there in sorted(ends.items()) for end in sorted(every - there)]
    if lacking:
        return f"lacks weights ({', '.join(lacking[:3])}), which would be made up. Fetch it again."
    return ""


def has_template(folder: Path) -> bool:
    """Whether a base ships a chat template; without one its turns are written plainly."""
    if (folder / "chat_template.jinja").is_file():
        return True
    with contextlib.suppress(AdapterError, OSError):
        return bool(read_json((folder / "tokenizer_config.json").resolve()).get("chat_template"))
    return False


@dataclass(frozen=True)
class _File:
    """path: in the repository. Here it lies in the top folder, by its ``name``."""

    path: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_heavy(self) -> bool:
        return self.name.endswith(".safetensors")


def fetch(spec: str, staging: Path, progress: Progress, token: str = "") -> None:
    """Bring the base ``owner/name[@revision]`` into ``staging``, which keeps what has arrived when this fails or
    ``progress`` raises. token: as in ``resolve``. Raises BaseUnavailableError."""
    instead = f"or use {DEFAULT_BASE}, or name a local folder: one that was copied from a machine with a network."
    _fetch(spec, staging, progress, _of_base, instead, lambda: unusable(staging, whole=False), token)


def fetch_adapter(spec: str, staging: Path, progress: Progress) -> str:
    """The same for an adapter's known files, which lie in the repository's top folder or one below; what was fetched
    and what was left, in words. Raises AdapterError for a repository that holds no adapter, or several."""
    left: list[str] = []

    def of_adapter(there: Sequence[_File], spec: str) -> list[_File]:
        paths = {one.path: one for one in there}
        place = place_of(paths)
        found = [paths[place + name] for name in KNOWN if place + name in paths]
        if not {CONFIG} <= {one.name for one in found} or not any(one.is_heavy for one in found):
            raise AdapterError(what_lacks(spec, [path.removeprefix(place) for path in paths]))
        for one in found:
            check_size(one.name, one.bytes)
        left.extend(left_of(paths, place))
        return found

    commit = _fetch(spec, staging, progress, of_adapter, "or import a local folder, or a zip of one.")
    rest = f"; left there: {listed(left)}" if left else ""
    return f"fetched from the hub, {spec.partition('@')[0]} at {plain_text(commit, 12)}{rest}"


def _fetch(
    spec: str,
    staging: Path,
    progress: Progress,
    choose: Callable[[Sequence[_File], str], list[_File]],
    instead: str,
    judge: Callable[[], str] = lambda: "",
    token: str = "",
) -> str:
    """The commit that the chosen files of a repository came from. judge: what speaks against the small files, before
    the weights are fetched."""
    import httpx
    from huggingface_hub import get_token

    repo, _, revision = spec.partition("@")
    hub, token = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB, token or get_token() or ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    progress("fetching", 0, 0)
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
            raise httpx.ConnectError("HF_HUB_OFFLINE is set.")
        with httpx.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as client:
            answer = client.get(f"{hub}/api/models/{repo}/revision/{revision or 'main'}", params={"blobs": "true"})
            _refuse(answer, spec, bool(token))
            about = answer.json()
            files, commit = choose(_there(about), spec), str(about.get("sha") or revision or "main")
            _begin(staging, commit)
            there = sum(_arrived(staging, one) for one in files)
            if (missing := sum(one.bytes for one in files) - there) > (free := shutil.disk_usage(staging).free):
                said = f"{spec} takes {missing / 1e9:.1f} GB more of disk; {free / 1e9:.1f} GB are free."
                raise BaseUnavailableError(f"{said} Free some (Device panel, Storage).")
            of = sum(one.bytes for one in files)
            for one in sorted(files, key=lambda one: (one.is_heavy, one.name)):
                if one.is_heavy and (why := judge()):
                    shutil.rmtree(staging, ignore_errors=True)
                    raise BaseUnavailableError(f"{spec} {why}")
                before = sum(_arrived(staging, each) for each in files if each != one)
                url = f"{hub}/{repo}/resolve/{commit}/{quote(one.path)}"
                _download(client, url, staging, one, partial(_tell, progress, before, of))
    except (httpx.HTTPError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200].rstrip(".") if str(error).strip() else type(error).__name__
        kept = " What has arrived is kept: choose it again, and it goes on." if _has_begun(staging) else ""
        said = f"{spec} could not be fetched from the Hugging Face hub: {reason}.{kept} Check the name and the network,"
        raise BaseUnavailableError(f"{said} {instead}") from error
    progress("checking", 0, 0)
    for one in files:
        if one.sha256 and sha256_of([staging / one.name]) != one.sha256:
            (staging / one.name).unlink()
            raise BaseUnavailableError(f"{one.name} of {spec} arrived damaged. Choose it again: it is fetched anew.")
    (staging / REVISION).unlink(missing_ok=True)
    return commit


def _refuse(answer: httpx.Response, spec: str, token: bool) -> None:
    """Raises BaseUnavailableError for what the hub does not hand out, httpx.HTTPError for what else goes wrong."""
    code, repo = answer.headers.get("X-Error-Code", ""), spec.partition("@")[0]
    if code == "GatedRepo" or answer.status_code == 403:
        mine = "the account of your token" if token else "your account, then set HF_TOKEN to a token of it"
        said = f"{spec} is gated: its terms are accepted once, at {HUB}/{repo}, with {mine}"
        raise BaseUnavailableError(f"{said}{' and start again' * (not token)}. Then choose it again.")
    if answer.status_code in (401, 404):
        private = "" if token else " If it is private, set HF_TOKEN to a token that may read it."
        raise BaseUnavailableError(f"There is no model {spec} on the Hugging Face hub. Check its name.{private}")
    answer.raise_for_status()


def _there(about: Mapping[str, Any]) -> list[_File]:
    """The files of a repository whose paths are plain."""
    found = []
    for one in about.get("siblings") or []:
        path, lfs = str(one.get("rfilename")), one.get("lfs") or {}
        if all(map(_NAME.fullmatch, path.split("/"))):
            size = plain_number(one.get("size")) or plain_number(lfs.get("size")) or 0
            found.append(_File(path, int(size), plain_text(lfs.get("sha256"), 64)))
    return found


def _of_base(there: Sequence[_File], spec: str) -> list[_File]:
    """The files in the top folder that a base is made of."""
    found = [one for one in there if "/" not in one.path and not fnmatch(one.path, SECOND_COPY)]
    found = [one for one in found if any(fnmatch(one.path, pattern) for pattern in FILES)]
    if not any(one.is_heavy for one in found):
        said = f"{spec} has no .safetensors weights; other formats can run code and are not loaded."
        raise BaseUnavailableError(f"{said} Choose another base.")
    return found


def _tell(progress: Progress, before: int, of: int, done: int) -> None:
    progress("fetching", before + done, of)


def _begin(staging: Path, commit: str) -> None:
    """A folder for this revision; what is there of another one goes."""
    mark = staging / REVISION
    if not (mark.is_file() and mark.read_text() == commit):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        mark.write_text(commit)


def _has_begun(staging: Path) -> bool:
    return any(file.name != REVISION and file.stat().st_size for file in staging.glob("*"))


def _part(staging: Path, one: _File) -> Path:
    return staging / f".{one.name}.part"


def _arrived(staging: Path, one: _File) -> int:
    """Bytes of a file that are there."""
    places: Sequence[Path] = (staging / one.name, _part(staging, one))
    return next((place.stat().st_size for place in places if place.is_file()), 0)


def _download(client: httpx.Client, url: str, staging: Path, one: _File, tell: Callable[[int], None]) -> None:
    """One file, from where it ended. A connection that breaks is taken up again as long as something arrives."""
    import httpx

    part = _part(staging, one)
    while not (staging / one.name).is_file():
        before = _arrived(staging, one)
        try:
            _go_on(client, url, part, tell, one.bytes)
        except httpx.TransportError:
            if _arrived(staging, one) == before:
                raise
            continue
        if one.bytes and part.stat().st_size < one.bytes:
            if part.stat().st_size == before:
                raise httpx.ReadError(f"{one.name} ended early.")
            continue
        os.replace(part, staging / one.name)


def _go_on(client: httpx.Client, url: str, part: Path, tell: Callable[[int], None], size: int) -> None:
    """size: that the hub has told, 0 = it has not. Raises BaseUnavailableError for more."""
    there = part.stat().st_size if part.is_file() else 0
    # as it is: a range of what was compressed on the way would not fit what is there
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    with client.stream("GET", url, headers=headers) as answer:
        if there and answer.status_code == 416:  # it was whole already
            return
        answer.raise_for_status()
        with part.open("ab" if answer.status_code == 206 else "wb") as file:
            done = there if answer.status_code == 206 else 0
            tell(done)
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                done += len(chunk)
                if size and done > size:
                    part.unlink()
                    raise BaseUnavailableError(f"{part.name[1:-5]} is larger than the hub says ({size} bytes).")
                file.write(chunk)
                tell(done)
