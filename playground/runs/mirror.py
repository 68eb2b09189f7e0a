"""Runs on nodes that do not see this machine's home: their files go through storage that fsspec knows (``s3://``,
``gs://``, a folder). There ``runs/RUN`` is a run's folder, and ``bases/KEY`` what every run on that base reads.

The app sends a run's folder; the node takes it into one of its own and gives back what changes: a checkpoint's marker
after its files, events last, so that what they tell of is there. The app fetches that, and with the last event the
adapter. Once the run has ended it is cleared away.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from playground.errors import AdapterError, InputError
from playground.library.card import RECORD
from playground.library.files import private_folder, read_json, replacing
from playground.training import processes
from playground.training.run_files import EVENTS, MARKER, find_published, staged
from playground.training.spec import RunSpec

STORAGE = "PLAYGROUND_RAY_STORAGE"
PLACE = "cluster.json"
"""A file in a run's folder: where it waits or trains."""
GIVEN, MADE = "given", "made"
"""Folders of a run in the storage: what its run.json names beside its base; what its worker publishes."""
GIVE_S = 3.0
LAST_S = 600.0
"""So long a node tries to give back how a run ended."""
_STAY = {"run.json", PLACE, processes.LOCK, processes.HEARTBEAT}
_COMPLETE = "complete"
_RAISED = {
    "aiohttp": "ClientError",
    "botocore.exceptions": "BotoCoreError",
    "gcsfs.retry": "HttpError",
    "google.auth.exceptions": "GoogleAuthError",
}
_LOG = logging.getLogger(__name__)


class Mirror:
    """url: where the files lie. Whatever the storage raises passes through, but for ``give``."""

    def __init__(self, url: str) -> None:
        """Raises InputError where what such an address needs is not installed."""
        from fsspec.core import url_to_fs

        local = url.startswith(("/", "file:"))
        try:
            self._fs, root = url_to_fs(url, **({"auto_mkdir": True} if local else {"use_listings_cache": False}))
        except (ImportError, ValueError) as error:
            package = {"s3": "s3fs", "gs": "gcsfs"}.get(url.partition(":")[0], "")
            todo = f": pip install {package}, here and on every node" if package else ""
            raise InputError(f"{STORAGE} is {url}, which cannot be read here ({error}){todo}.") from error
        self._root = str(root).rstrip("/")
        self._given: dict[str, tuple[int, int]] = {}
        self._fetched: dict[str, object] = {}
        self._claim, self._next = b"", 0.0

    def _at(self, run: str) -> str:
        return f"{self._root}/runs/{run}"

    def fault(self) -> str:
        """Why it does not take and give files from here, "" = it does."""
        try:
            self._fs.pipe_file(f"{self._root}/asked", b"is it there")
            self._fs.rm_file(f"{self._root}/asked")
        except storage_errors() as error:
            return str(error) or type(error).__name__
        return ""

    # -- the app -------------------------------------------------------------------------------------------------------

    def send(self, run_dir: Path) -> None:
        """All that a run reads. Its base is sent once."""
        spec, at, count = RunSpec.read(run_dir), self._at(run_dir.name), itertools.count()
        self.clear(run_dir.name)

        def given(path: str) -> str:
            if not path or Path(path).is_relative_to(run_dir):
                return path and Path(path).relative_to(run_dir).as_posix()
            name = f"{GIVEN}/{next(count)}/{Path(path).name}"
            self._put(Path(path), f"{at}/{name}")
            return name

        base = Path(spec.base_path)
        key = hashlib.sha256(json.dumps([str(base), _files(base)], sort_keys=True).encode()).hexdigest()[:32]
        if not self._fs.exists(f"{self._root}/bases/{key}/{_COMPLETE}"):
            self._put(base, f"{self._root}/bases/{key}")
            self._fs.pipe_file(f"{self._root}/bases/{key}/{_COMPLETE}", b"all of it")
        self._put(run_dir, at)
        far = replace(
            spec,
            base_path=key,
            file=given(spec.file),
            start_path=given(spec.start_path),
            docs_path=given(spec.docs_path),
            reward_files={name: given(path) for name, path in spec.reward_files.items()},
            adapters_dir=MADE,
            shipped_dir="none",
        )
        self._fs.pipe_file(f"{at}/run.json", json.dumps(asdict(far)).encode())

    def fetch(self, run_dir: Path) -> None:
        """What has changed of a run; with its last event its adapter is published here."""
        at, cut = self._at(run_dir.name), len(self._at(run_dir.name)) + 1
        found = {path[cut:]: _state(info) for path, info in self._fs.find(at, detail=True).items()}
        for name in sorted(found, key=_order):
            first, key = name.partition("/")[0], f"{run_dir.name}/{name}"
            if first in (GIVEN, MADE) or name in _STAY - {PLACE} or self._fetched.get(key) == found[name]:
                continue
            with contextlib.suppress(FileNotFoundError), replacing(_inside(run_dir, name)) as out:  # gone just now
                if name == EVENTS:
                    out.write(self._told(run_dir, self._fs.cat_file(f"{at}/{name}")))
                else:
                    with self._fs.open(f"{at}/{name}", "rb") as reading:
                        shutil.copyfileobj(reading, out)
                self._fetched[key] = found[name]
        there = {"/".join(name.split("/")[:2]) for name in found}
        for folder in run_dir.glob("checkpoints/*") if found else ():
            if f"checkpoints/{folder.name}" not in there:
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self, run: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._at(run), recursive=True)
        self._fetched = {key: state for key, state in self._fetched.items() if not key.startswith(f"{run}/")}

    def _told(self, run_dir: Path, events: bytes) -> bytes:
        """The events, the last with the id that the adapter has here."""
        before, _, line = events.removesuffix(b"\n").rpartition(b"\n")
        with contextlib.suppress(ValueError):  # the end of a line is still to come
            last: dict[str, Any] = json.loads(line or b"{}")
            if last.get("event") == "done" and events.endswith(b"\n"):
                last["adapter"] = self._publish(run_dir, str(last["adapter"]))
                return before + b"\n" * bool(before) + json.dumps(last, ensure_ascii=False).encode() + b"\n"
        return events

    def _publish(self, run_dir: Path, far: str) -> str:
        """The adapter that is ``far`` on its node, under an id of this library, its weights as they were there."""
        if (made := find_published(run_dir)) is not None:
            return made[0]
        spec = RunSpec.read(run_dir)
        with staged(spec) as (library, staging):
            self._get(f"{self._at(run_dir.name)}/{MADE}/{far}", staging)
            sha256 = read_json(staging / RECORD).get("sha256")
            card = library.publish(staging, library.reserve_id(spec.name, spec.owner))
            if card.sha256 != sha256:
                library.remove(card.id)
                raise AdapterError(f"The weights of {spec.name} did not arrive as they were made. Resume the run.")
            return card.id

    # -- the node ------------------------------------------------------------------------------------------------------

    def spec(self, run: str) -> RunSpec:
        """Its paths are meant within the storage."""
        with tempfile.TemporaryDirectory() as folder:
            self._fs.get_file(f"{self._at(run)}/run.json", f"{folder}/run.json")
            return RunSpec.read(Path(folder))

    def take(self, run: str, home: Path, node: str) -> Path:
        """A run as the storage has it, in a folder of this node below ``home``. Bases stay there for the next run."""
        folder, spec = home / node / run, self.spec(run)
        base = home / "bases" / spec.base_path
        private_folder(home)
        base.parent.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if not base.is_dir():
            with tempfile.TemporaryDirectory(dir=home) as part:
                self._get(f"{self._root}/bases/{spec.base_path}", Path(part) / "base")
                with contextlib.suppress(OSError):  # another run was faster
                    os.replace(Path(part) / "base", base)
        self._get(self._at(run), folder)
        far: dict[str, Any] = {name: getattr(spec, name) for name in ("file", "start_path", "docs_path")}
        there: dict[str, Any] = {name: str(folder / path) for name, path in far.items() if path}
        there |= {"reward_files": {name: str(folder / path) for name, path in spec.reward_files.items()}}
        there |= {"base_path": str(base), "adapters_dir": str(folder / MADE), "shipped_dir": str(folder / "none")}
        replace(spec, **there).write(folder)
        self._given = _files(folder)
        return folder

    def tell(self, run: str, place: dict[str, Any]) -> None:
        """Where a run waits or trains; from now on no other node may give anything back."""
        self._claim = json.dumps(place).encode()
        self._fs.pipe_file(f"{self._at(run)}/{PLACE}", self._claim)

    def give(self, folder: Path, *, last: bool = False) -> bool:
        """Give back what has changed, every few seconds. False: the run is another node's now, or has ended. last: now,
        and until it is done; raises what stood in the way for minutes."""
        until = time.monotonic() + LAST_S
        while last or time.monotonic() >= self._next:
            self._next = time.monotonic() + GIVE_S
            try:
                return self._give(folder, self._at(folder.name))
            except storage_errors():
                _LOG.warning("the storage took nothing", exc_info=True)
                if last and time.monotonic() > until:
                    raise
            if last:
                time.sleep(GIVE_S)
        return True

    def _give(self, folder: Path, at: str) -> bool:
        try:
            if self._fs.cat_file(f"{at}/{PLACE}") != self._claim:
                return False
        except FileNotFoundError:
            return False
        now = _files(folder)
        for name, state in now.items():
            if name not in _STAY and self._given.get(name) != state and (folder / name).is_file():
                self._fs.put_file(str(folder / name), f"{at}/{name}")
                self._given[name] = state
        for name in [name for name in self._given if name.startswith("checkpoints/") and name not in now]:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{at}/{name}")
            del self._given[name]
        return True

    # -- both ----------------------------------------------------------------------------------------------------------

    def _put(self, source: Path, at: str) -> None:
        if source.is_file():
            self._fs.put_file(str(source), at)
            return
        for name in _files(source):
            if name not in _STAY:
                self._fs.put_file(str(source / name), f"{at}/{name}")

    def _get(self, at: str, folder: Path) -> None:
        for path in self._fs.find(at):
            self._fs.get_file(path, str(_inside(folder, path[len(at) + 1 :])))


def storage_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What tells that a storage is not reached, or refuses: of no common class."""
    return *more, OSError, *(getattr(sys.modules.get(module), name, OSError) for module, name in _RAISED.items())


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> (bytes, when it was changed) of every file, in the order in which they may be read."""
    found = {}
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        with contextlib.suppress(FileNotFoundError):
            if not f"/{name}".count("/.") and file.is_file():
                found[name] = (file.stat().st_size, file.stat().st_mtime_ns)
    return {name: found[name] for name in sorted(found, key=_order)}


def _order(name: str) -> tuple[bool, bool, str]:
    return name == EVENTS, name.endswith(f"/{MARKER}"), name


def _state(info: dict[str, Any]) -> tuple[object, ...]:
    """What differs once a file has changed, in any of these storages."""
    return tuple(str(info.get(name, "")) for name in ("size", "ETag", "etag", "mtime", "created"))


def _inside(folder: Path, name: str) -> Path:
    """Where a file of the storage goes. Raises InputError for a name that leads out of the folder."""
    if not name or ".." in name.split("/") or name.startswith("/"):
        raise InputError(f"The storage holds a file {name[:80]!r}, which leads out of {folder.name}.")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder / name
