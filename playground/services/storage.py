"""What lies on disk, whose it is, and how to be rid of it: item by item, by kind, or all of a visitor's."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from playground.errors import BusyError, InputError, NotFoundError, PlaygroundError
from playground.library import bases as library_bases
from playground.library.database import wipe
from playground.services.adapters import AdapterService
from playground.services.bases import BaseService, label_of
from playground.services.demo import DemoService
from playground.services.incoming import remove_incoming
from playground.services.prompts import PromptBook
from playground.services.quota import Quota, disk_free
from playground.services.race_store import RaceStore
from playground.services.sessions import LOCAL, Sessions
from playground.services.sizes import bytes_in
from playground.services.store import ENDED
from playground.services.training import TrainingService
from playground.services.verdicts import VerdictService
from playground.settings import Settings
from playground.training.spec import RunSpec

BASE, ADAPTER, RUN, CHECKPOINTS, VERDICT, PROMPTS, UPLOAD, PASSING = (
    "base",
    "adapter",
    "run",
    "checkpoints",
    "verdict",
    "prompts",
    "upload",
    "passing",
)
KINDS = (BASE, ADAPTER, RUN, CHECKPOINTS, VERDICT, PROMPTS, UPLOAD, PASSING)
"""Checkpoints are those of runs that have ended: a failed or cancelled one can go on from them. Passing: files on their way in or
out of the page, which go by themselves."""
_LOG = logging.getLogger(__name__)
STOP_WAIT_S = 12.0
"""A run that is told to stop is killed after 10 s."""


@dataclass(frozen=True)
class Item:
    """One thing on disk. id: within its kind. made_s: seconds since 1970. stays: why it cannot be removed now, "" if it can."""

    kind: str
    id: str
    name: str
    bytes: int
    made_s: float = 0.0
    stays: str = ""


@dataclass(frozen=True)
class Freed:
    """What a removal did. stayed: what it left, each with its reason."""

    items: tuple[Item, ...] = ()
    stayed: tuple[Item, ...] = ()
    stopping: int = 0

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)

    def count(self, kind: str) -> int:
        return sum(item.kind == kind for item in self.items)


class StorageService:
    """Where the app belongs to one person they see all there is; where it is shared, a visitor sees their own."""

    def __init__(
        self, settings: Settings, bases: BaseService, adapters: AdapterService, training: TrainingService, demo: DemoService,
        sessions: Sessions, verdicts: VerdictService, prompts: PromptBook, quota: Quota, wait: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._settings, self._bases, self._adapters, self._training = settings, bases, adapters, training
        self._demo, self._sessions, self._verdicts, self._prompts = demo, sessions, verdicts, prompts
        self._quota, self._races, self._wait = quota, RaceStore(settings.database), wait

    # -- looking -------------------------------------------------------------------------------------------------

    def items(self, owner: str = LOCAL) -> list[Item]:
        """Everything this owner may see, kind by kind."""
        everything = self._sees_all(owner)
        return [
            *(self._base_items() if everything else ()),
            *self._adapter_items(owner),
            *self._run_items(owner),
            *self._verdict_items(owner),
            *self._prompt_items(self._prompts.owners() if everything else {owner}),
            *self._upload_items(self._uploaders() if everything else [owner]),
            *(self._passing_items() if everything else self._export_items(owner)),
        ]

    def totals(self, owner: str = LOCAL) -> dict[str, int]:
        """Bytes of each kind that there is."""
        found: dict[str, int] = {}
        for item in self.items(owner):
            found[item.kind] = found.get(item.kind, 0) + item.bytes
        return found

    def folders(self) -> dict[str, int]:
        """Bytes below each of the home's folders, whoever they belong to."""
        home = self._settings.home
        there = {
            name: bytes_in(home / name) for name in ("bases", "adapters", "runs", "verdicts", "prompts", "uploads", "exports")
        }
        return {name: held for name, held in there.items() if held}

    def free_bytes(self) -> int:
        return disk_free(self._settings.home)

    def find(self, kind: str, id: str, owner: str = LOCAL) -> Item:
        """Raises NotFoundError, also for what is somebody else's."""
        for item in self.items(owner):
            if (item.kind, item.id) == (kind, id):
                return item
        raise NotFoundError(f"There is no {kind[:20]} {id[:80]!r} of yours. It may be gone already.")

    # -- removing ------------------------------------------------------------------------------------------------

    def remove(self, kind: str, id: str, owner: str = LOCAL) -> Freed:
        """Remove one item. Raises NotFoundError, or BusyError with what keeps it."""
        item = self.find(kind, id, owner)
        if item.stays:
            raise BusyError(f"{item.name} stays: {item.stays}.")
        self._remove(item, owner)
        return Freed((item,))

    def remove_kind(self, kind: str, owner: str = LOCAL) -> Freed:
        """Remove all of a kind that can go; the rest is told."""
        if kind not in KINDS:
            raise InputError(f"There is no kind {kind[:20]!r}. There are: {', '.join(KINDS)}.")
        return self._remove_all([item for item in self.items(owner) if item.kind == kind], owner)

    def remove_everything(self, owner: str) -> Freed:
        """All that a visitor has here: runs are cancelled first. What does not stop in time goes as soon as it has; see
        ``sweep``. Raises InputError where the app is not shared: there, everything is one person's, who removes it by kind."""
        if self._sees_all(owner):
            raise InputError("This app is not shared, so nothing here is a visitor's. Remove what you do not need, kind by kind.")
        self._sessions.leave(owner)
        self._demo.reset(owner)
        waited = 0.0
        while living := [view.run for view in self._training.runs(owner) if view.state not in ENDED]:
            for run in living:
                self._training.cancel(run, owner)
            if waited >= STOP_WAIT_S:
                break
            self._wait(0.25)
            waited += 0.25
        done = self._remove_all(self.items(owner), owner)
        self._remove_traces(owner)
        return replace(done, stopping=sum(view.state not in ENDED for view in self._training.runs(owner)))

    def sweep(self, owner: str, before_s: float) -> bool:
        """Remove what an owner made before a moment and nothing uses. Returns whether anything of theirs is left."""
        made = {view.run: view.adapter for view in self._training.runs(owner) if view.created_s < before_s}
        adapters = set(made.values())
        old = [
            item
            for item in self.items(owner)
            if item.made_s < before_s
            or (item.kind == ADAPTER and item.id in adapters)
            or (item.kind == CHECKPOINTS and item.id in made)
        ]
        self._remove_all(old, owner)
        left = bool(self.items(owner))
        if old or not left:
            self._remove_traces(owner, before_s)
        return left

    def owners(self) -> set[str]:
        """Every visitor who has something here."""
        runs = {row.owner for row in self._training.store.all()}
        judged = {state.owner for state in self._verdicts.files.all()}
        return (runs | judged | self._prompts.owners() | set(self._uploaders()) | self._adapters.library.owners()) - {LOCAL}

    # -- inside --------------------------------------------------------------------------------------------------

    def _remove_traces(self, owner: str, before_s: float = float("inf")) -> None:
        """What lies on disk and is no item: uploads on their way in, the empty folder of those that were kept, races, and names that the database file still holds."""
        remove_incoming(self._settings, owner)
        with contextlib.suppress(OSError):  # uploads are left, or there never were any
            (self._settings.uploads_dir / owner).rmdir()
        for race in self._races.all():
            if race.owner == owner and race.created_s < before_s:
                self._races.remove(race.race)
        try:
            wipe(self._settings.database)
        except sqlite3.Error:
            _LOG.warning("what was deleted could not be wiped from the database; the next deletion tries again", exc_info=True)

    def _sees_all(self, owner: str) -> bool:
        return not self._settings.shared or owner == LOCAL

    def _remove_all(self, items: Iterable[Item], owner: str) -> Freed:
        gone: list[Item] = []
        stayed: list[Item] = []
        for item in items:
            if item.stays:
                stayed.append(item)
                continue
            try:
                self._remove(item, owner)
                gone.append(item)
            except NotFoundError:  # with its run, or by somebody else meanwhile
                gone.append(item)
            except PlaygroundError as error:
                stayed.append(replace(item, stays=str(error)))
        return Freed(tuple(gone), tuple(stayed))

    def _remove(self, item: Item, owner: str) -> None:
        """``item`` comes from ``items``, so its id is a name that lies there."""
        settings = self._settings
        if item.kind == ADAPTER:
            self._adapters.remove(item.id, owner)
        elif item.kind == RUN:
            self._training.remove(item.id, owner)
        elif item.kind == CHECKPOINTS:
            shutil.rmtree(settings.runs_dir / item.id / "checkpoints", ignore_errors=True)
        elif item.kind == VERDICT:
            self._verdicts.remove(item.id, owner)
        elif item.kind == PROMPTS:
            self._prompts.forget(item.id)
        elif item.kind == BASE:
            shutil.rmtree(settings.bases_dir / item.id, ignore_errors=True)
        elif item.kind == UPLOAD:
            shutil.rmtree(settings.uploads_dir / item.id, ignore_errors=True)
        else:
            shutil.rmtree(settings.home / item.id, ignore_errors=True)

    def _base_items(self) -> list[Item]:
        used = {self._bases.folder()} | {
            Path(run.base_path) for row in self._training.store.active() if (run := self._spec(row.run)) is not None
        }
        found = []
        for folder, spec in library_bases.folders(self._settings):
            stays = "it is in use" if folder in used else ""
            found.append(Item(BASE, folder.name, label_of(spec), bytes_in(folder), _made_s(folder), stays))
        return found

    def _adapter_items(self, owner: str) -> list[Item]:
        cards = [row.card for row in self._adapters.list(owner) if not row.card.shipped]
        found = [Item(ADAPTER, card.id, card.name, bytes_in(card.path), _made_s(card.path)) for card in cards]
        if self._sees_all(owner):
            for name, reason in self._adapters.library.damaged():
                folder = self._settings.adapters_dir / name
                if folder.is_dir() and not folder.is_symlink():
                    found.append(Item(ADAPTER, name, f"{name}, damaged", bytes_in(folder), _made_s(folder)))
        return found

    def _run_items(self, owner: str) -> list[Item]:
        found = []
        for view in self._training.runs(owner):
            folder = self._settings.runs_dir / view.run
            checkpoints = bytes_in(folder / "checkpoints")
            stays = "" if view.state in ENDED else "it has not ended"
            found.append(Item(RUN, view.run, view.name, bytes_in(folder) - checkpoints, view.created_s, stays))
            if checkpoints:
                found.append(Item(CHECKPOINTS, view.run, f"Checkpoints of {view.name}", checkpoints, view.created_s, stays))
        return found

    def _verdict_items(self, owner: str) -> list[Item]:
        return [
            Item(VERDICT, view.id, view.name, bytes_in(self._verdicts.files.folder(view.id)), view.created_s)
            for view in self._verdicts.views(owner, None)
        ]

    def _prompt_items(self, owners: set[str]) -> list[Item]:
        files = [(owner, self._prompts.file(owner)) for owner in sorted(owners & self._prompts.owners())]
        return [Item(PROMPTS, owner, "Versions of prompts", bytes_in(file), _made_s(file)) for owner, file in files]

    def _upload_items(self, owners: Iterable[str]) -> list[Item]:
        found = []
        for owner in owners:
            for folder in _within(self._settings.uploads_dir / owner):
                file = next((file for file in _within(folder) if file.is_file()), None) if folder.is_dir() else folder
                name = file.name if file is not None else folder.name
                found.append(Item(UPLOAD, f"{owner}/{folder.name}", name, bytes_in(folder), _made_s(folder)))
        return found

    def _passing_items(self) -> list[Item]:
        folders = [
            ("uploads/gradio", "What the page was sent", self._settings.incoming_dir),
            ("exports", "Packed for download", self._settings.exports_dir),
        ]
        return [Item(PASSING, id, name, held) for id, name, folder in folders if (held := bytes_in(folder))]

    def _export_items(self, owner: str) -> list[Item]:
        found = []
        for room in self._quota.rooms(owner):
            file = next((file for file in _within(room) if file.is_file()), room)
            found.append(Item(PASSING, f"exports/{room.name}", file.name, bytes_in(room), _made_s(room)))
        return found

    def _uploaders(self) -> list[str]:
        there = _within(self._settings.uploads_dir)
        return [folder.name for folder in there if folder.is_dir() and folder != self._settings.incoming_dir]

    def _spec(self, run: str) -> RunSpec | None:
        try:
            return RunSpec.read(self._settings.runs_dir / run)
        except InputError:
            return None


def _within(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it has gone meanwhile."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _made_s(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
