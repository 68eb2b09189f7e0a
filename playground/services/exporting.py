"""An adapter in a form for elsewhere: merged into its base, or as one GGUF file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playground.errors import InputError, RunFailedError
from playground.gpu.manager import DeviceManager
from playground.library.card import AdapterCard
from playground.library.exporting import FORMATS
from playground.library.merging import refuse_unmergeable
from playground.services.adapters import AdapterService
from playground.services.bases import BaseService
from playground.services.processes import worker_environment
from playground.services.quota import Quota
from playground.settings import PROJECT_ROOT, Settings

MEMORY_FACTOR = 3.2
"""The base, its merged copy and what is being written, in sizes of the base on disk."""
PROCESS_BYTES = 700_000_000
DISK_FACTOR = 2.2


@dataclass(frozen=True)
class Exported:
    """How far it is. share: from 0 to 1. file: what was written, at the end."""

    phase: str
    share: float
    file: Path | None = None


class Exporter:
    """Merging needs the base in memory once more, so it says beforehand whether that fits, and runs in a process of its own."""

    def __init__(
        self, settings: Settings, manager: DeviceManager, bases: BaseService, adapters: AdapterService, quota: Quota
    ) -> None:  # fmt: skip
        self._settings, self._manager, self._bases, self._adapters, self._quota = settings, manager, bases, adapters, quota
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def export(self, adapter_id: str, format: str, owner: str = "local", target: Path | None = None) -> Iterator[Exported]:
        """Merge or convert; whoever stops listening stops it, and nothing is left behind.

        target: a new folder (merged) or file (gguf); None = a place to download from, a merged folder as a zip.
        Raises InputError, NotFoundError, RunFailedError.
        """
        card = self._adapters.get(adapter_id, owner)
        if format not in FORMATS[1:]:
            raise InputError(f"There is no format {format!r} to convert to. There are: {', '.join(FORMATS[1:])}.")
        refuse_unmergeable(card)
        if reason := self._adapters.unfit(card):
            raise InputError(f"{card.name} cannot be merged into the base in use: {reason}.")
        if target is not None and os.path.lexists(target):
            raise InputError(f"{target} exists. Name a new {'file' if format == 'gguf' else 'folder'}; nothing is overwritten.")
        base = self._bases.resolve()
        self._refuse_too_large(base.bytes)
        with self._lock:
            if owner in self._busy and self._quota.applies(owner):
                raise InputError("An export of yours is being written already. Wait for its end, or stop it.")
            self._busy.add(owner)
        try:
            room = self._quota.room(owner, base.bytes, "The export")
            yield from self._write(card, base.path, room, format, target)
        finally:
            self._busy.discard(owner)

    def _write(self, card: AdapterCard, base: Path, room: Path, format: str, target: Path | None) -> Iterator[Exported]:
        work = room / "work"
        place = target or room / (f"{card.id}.gguf" if format == "gguf" else f"{card.id}-merged.zip")
        try:
            work.mkdir(parents=True)
            yield from self._run(card, base, work, format, place)
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise
        shutil.rmtree(work if target is None else room, ignore_errors=True)

    def _refuse_too_large(self, base_bytes: int) -> None:
        needs, free = int(MEMORY_FACTOR * base_bytes) + PROCESS_BYTES, self._manager.device.free_bytes
        if needs > free:
            raise InputError(
                f"Merging needs about {needs / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free. Wait for the run to end."
            )
        self._settings.exports_dir.mkdir(parents=True, exist_ok=True)
        writes, disk = int(DISK_FACTOR * base_bytes), shutil.disk_usage(self._settings.exports_dir).free
        if writes > disk:
            raise InputError(
                f"The export writes about {writes / 1e9:.1f} GB; {disk / 1e9:.1f} GB of disk are free. Free some space."
            )

    def _run(self, card: AdapterCard, base: Path, work: Path, format: str, place: Path) -> Iterator[Exported]:
        job = work / "job.json"
        paths = {"adapter": card.path, "base": base, "work": work, "target": place}
        job.write_text(json.dumps({name: str(Path(path).resolve()) for name, path in paths.items()} | {"format": format}))
        yield Exported("Starting", 0.0)
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "playground.library.exporting", str(job)], cwd=PROJECT_ROOT, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, env=worker_environment(os.environ), start_new_session=True, text=True,
            )  # fmt: skip
            try:
                yield from _told(process)
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def _told(process: subprocess.Popen[str]) -> Iterator[Exported]:
    """What the process says, line by line. Raises RunFailedError when it ends without a result."""
    assert process.stdout is not None
    for line in process.stdout:
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
