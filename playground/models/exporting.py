"""An adapter for elsewhere: merged into its base, as one GGUF file, or pushed to a hub with the person's own token."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.errors import InputError, RunFailedError, hub_errors
from playground.gpu.device import Device
from playground.jobs import Jobs
from playground.library import exporting
from playground.library.adapters import AdapterCard
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.settings import PROJECT_ROOT, Settings
from playground.training.processes import worker_environment
from playground.workspace.visitors import Quota

MEMORY_FACTOR = 3.2  # the base, its merged copy and what is being written, in sizes of the base on disk
PROCESS_BYTES, DISK_FACTOR = 700_000_000, 2.2
GGUFS_FACTOR = 6.0
"""The same of a hand-over to Ollama or llama.cpp: merged, in three precisions, with its base, perhaps zipped."""


@dataclass(frozen=True)
class Exported:
    """How far it is. share: from 0 to 1. file: what was written, at the end."""

    phase: str
    share: float
    file: Path | None = None


class Exporter:
    """Merging needs the base in memory once more: it says beforehand whether that fits, and runs in its own process."""

    def __init__(
        self, settings: Settings, device: Device, bases: BaseService, adapters: AdapterService, quota: Quota, jobs: Jobs
    ) -> None:
        self._settings, self._device, self._bases = settings, device, bases
        self._adapters, self._quota, self._jobs = adapters, quota, jobs

    def export(
        self, adapter_id: str, format: str, owner: str = "local", target: Path | None = None
    ) -> Iterator[Exported]:
        """Merge or convert; whoever stops listening stops it; nothing is left. format: one of FORMATS, or of TARGETS
        for all that such a server needs. target: a new folder (merged, a server's) or file (gguf), None = a download, a
        folder as a zip. Raises InputError, NotFoundError, RunFailedError."""
        card = self._adapters.get(adapter_id, owner)
        if format not in (*exporting.FORMATS[1:], *exporting.TARGETS):
            raise InputError(
                f"There is no format {format!r} to convert to. There are: {', '.join(exporting.FORMATS[1:])}."
            )
        if format in exporting.TARGETS:
            exporting.refuse_unservable(card, format)
        else:
            exporting.refuse_unmergeable(card)
        if reason := self._adapters.unfit(card):
            raise InputError(f"{card.name} cannot be merged into the base in use: {reason}.")
        if target is not None and os.path.lexists(target):
            said = f"{target} exists."
            raise InputError(f"{said} Name a new {'file' if format == 'gguf' else 'folder'}; nothing is overwritten.")
        base = self._bases.resolve()
        ggufs = format in (exporting.OLLAMA, exporting.LLAMA_CPP)
        if format != exporting.ENDPOINT and (format in exporting.FORMATS or ggufs or exporting.laid_over(card)):
            self._refuse_too_large(base.bytes, GGUFS_FACTOR if ggufs else DISK_FACTOR)
        key = f"export {owner if self._settings.is_visitor(owner) else secrets.token_hex(8)}"
        busy = "An export of yours is being written already. Wait for its end, or stop it."
        with self._jobs.here(key, "The export", busy) as job:
            room = self._quota.room(owner, base.bytes, "The export")
            work = room / "work"
            suffix = ".gguf" if format == "gguf" else f"-{format}.zip"
            place = target or room / f"{card.id}{suffix}"
            try:
                work.mkdir(parents=True)
                with _merging(card, base.path, work, format, place) as process:
                    for step in _progress_of(process):
                        job.check()
                        yield step
            except BaseException:
                shutil.rmtree(room, ignore_errors=True)
                raise
            shutil.rmtree(work if target is None else room, ignore_errors=True)

    def _refuse_too_large(self, base_bytes: int, disk_factor: float) -> None:
        needs, free = int(MEMORY_FACTOR * base_bytes) + PROCESS_BYTES, self._device.free_bytes
        if needs > free:
            said = f"Merging needs about {needs / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free"
            raise InputError(f"{said}. Wait for the run to end.")
        self._settings.exports_dir.mkdir(parents=True, exist_ok=True)
        writes, disk = int(disk_factor * base_bytes), shutil.disk_usage(self._settings.exports_dir).free
        if writes > disk:
            why = f"The export writes about {writes / 1e9:.1f} GB; {disk / 1e9:.1f} GB of disk are free."
            raise InputError(f"{why} Free some space.")


@contextlib.contextmanager
def _merging(card: AdapterCard, base: Path, work: Path, format: str, place: Path) -> Iterator[subprocess.Popen[str]]:
    """The process that merges, killed at the end of the block."""
    job = work / "job.json"
    paths = {"adapter": card.path, "base": base, "work": work, "target": place}
    job.write_text(json.dumps({name: str(Path(path).resolve()) for name, path in paths.items()} | {"format": format}))
    with (work / "log").open("wb") as log:
        command = [sys.executable, "-m", "playground.library.exporting", str(job)]
        about: dict[str, Any] = {"cwd": PROJECT_ROOT, "env": worker_environment(os.environ), "start_new_session": True}
        about |= {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        with subprocess.Popen(command, **about) as process:
            try:
                yield process
            finally:
                process.kill()


def _progress_of(process: subprocess.Popen[str]) -> Iterator[Exported]:
    """The process's lines of JSON. Raises RunFailedError when it ends without a result."""
    yield Exported("Starting", 0.0)
    for line in process.stdout or ():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # a library's own words
        if "error" in said:
            raise RunFailedError(str(said["error"]))
        if "done" in said:
            yield Exported("Done", 1.0, Path(said["done"]))
            return
        yield Exported(str(said["phase"]), float(said["share"]))
    raise RunFailedError("The export ended without a result: its process was killed, perhaps for memory. Try again.")


REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
TOKEN = re.compile(r"[!-~]{8,400}")


def send_to_hub(folder: Path, repo: str, token: str, *, private: bool) -> str:
    """Put a folder's files into ``repo`` on the Hugging Face Hub, made if need be; its address. Raises InputError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Trained with Prompt or Tune")
    except OfflineModeIsEnabled as error:
        why = "HF_HUB_OFFLINE is set, so nothing is sent. Unset it, start again, and push once more."
        raise InputError(why) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise InputError(_refused(repo, status)) from None  # the library's own words may repeat the request
    except (hub_errors(), OSError, ValueError) as error:
        why = f"The hub cannot be reached, or answers as no hub does ({type(error).__name__})."
        raise InputError(f"{why} Check the network, or export the folder and push it from elsewhere.") from None
    return f"{api.endpoint}/{repo}"


def _refused(repo: str, status: int) -> str:
    if status in (401, 403):
        said = f"The hub does not let this token write to {repo} ({status})."
        return f"{said} Make one with write access, and check the owner's name."
    if status == 409:
        return f"The hub is writing to {repo} just now ({status}). Try again in a moment."
    said = f"The hub refused to take {repo} ({status or 'no answer'})."
    return f"{said} Try again later, or export the folder and push it yourself."


class Pusher:
    """Exports an adapter and hands it to a hub. The token is used for this and kept nowhere."""

    def __init__(self, adapters: AdapterService, send: Callable[..., str] = send_to_hub) -> None:
        self._adapters, self._send = adapters, send

    def push(self, adapter_id: str, repo: str, token: str, *, private: bool = True, owner: str = "local") -> str:
        """Returns the address it can be found at. Raises InputError, NotFoundError."""
        card = self._adapters.get(adapter_id, owner)
        repo, token = repo.strip(), token.strip()
        if not REPO.fullmatch(repo) or ".." in repo:
            where = "Write where it goes as OWNER/NAME, such as ada/hospital-reports:"
            raise InputError(f"{where} letters, digits, dots, dashes.")
        if not TOKEN.fullmatch(token):
            said = "Give a token of yours that may write: make one in the hub's settings."
            raise InputError(f"{said} It is used once and not kept.")
        with tempfile.TemporaryDirectory(prefix="push-", ignore_cleanup_errors=True) as room:
            folder = self._adapters.export_folder(card.id, Path(room, card.id), owner)
            return self._send(folder, repo, token, private=private)
