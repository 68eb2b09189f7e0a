"""What lies on disk, whose it is, and how to be rid of it: by hand, or in the background what nobody will come back
for."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from playground.chat.demo import DemoService
from playground.db import ENDED, DatabaseError, RaceTable, RunRow, wipe
from playground.errors import BusyError, InputError, NotFoundError, PlaygroundError
from playground.library import bases as library_bases
from playground.models.adapters import AdapterService
from playground.models.bases import BaseService
from playground.runs.service import TrainingService
from playground.settings import Settings
from playground.training.spec import RunSpec
from playground.verdict.bench import PromptBook
from playground.verdict.service import VerdictService
from playground.workspace.visitors import LOCAL, Quota, Sessions, bytes_in, disk_free, remove_incoming

KINDS = ("base", "adapter", "run", "checkpoints", "verdict", "prompts", "upload", "passing")
BASE, ADAPTER, RUN, CHECKPOINTS, VERDICT, PROMPTS, UPLOAD, PASSING = KINDS
"""Checkpoints are those of runs that have ended; passing are files on their way in or out of the page."""
_LOG = logging.getLogger(__name__)
STOP_WAIT_S = 12.0
"""A run that is asked to stop is killed after 10 s."""


@dataclass(frozen=True)
class Item:
    """One thing on disk. id: within its kind. made_s: seconds since 1970. stays: why it cannot go now, or ""."""

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


@dataclass(frozen=True)
class StorageService:
    """One person sees all there is, a visitor of a shared app their own. wait: sleeps so many seconds."""

    settings: Settings
    bases: BaseService
    adapters: AdapterService
    runs: TrainingService
    demo: DemoService
    sessions: Sessions
    verdicts: VerdictService
    prompts: PromptBook
    quota: Quota
    wait: Callable[[float], None] = time.sleep

    def items(self, owner: str = LOCAL) -> list[Item]:
        """Everything this owner may see, kind by kind."""
        everything = not self.settings.is_visitor(owner)
        return [
            *(self._base_items() if everything else ()),
            *self._adapter_items(owner),
            *self._run_items(owner),
            *self._verdict_items(owner),
            *self._prompt_items(self.prompts.owners() if everything else {owner}),
            *self._upload_items(self._uploaders() if everything else [owner]),
            *(self._passing_items() if everything else ()),
            *(() if everything else (_by_its_file(PASSING, "exports/", room) for room in self.quota.rooms(owner))),
        ]

    def folders(self) -> dict[str, int]:
        """Bytes below each of the home's folders, whoever they belong to."""
        home = self.settings.home
        names = ("bases", "adapters", "runs", "verdicts", "prompts", "uploads", "exports")
        return {name: held for name in names if (held := bytes_in(home / name))}

    def free_bytes(self) -> int:
        return disk_free(self.settings.home)

    def find(self, kind: str, id: str, owner: str = LOCAL) -> Item:
        """Raises NotFoundError, also for what is somebody else's."""
        found = next((item for item in self.items(owner) if (item.kind, item.id) == (kind, id)), None)
        if found is None:
            raise NotFoundError(f"There is no {kind[:20]} {id[:80]!r} of yours. It may be gone already.")
        return found

    def remove(self, kind: str, id: str, owner: str = LOCAL) -> Freed:
        """Remove one item. Raises NotFoundError, or BusyError with what keeps it."""
        item = self.find(kind, id, owner)
        if item.stays:
            raise BusyError(f"{item.name} stays: {item.stays}.")
        self._remove(item, owner)
        return Freed((item,))

    def remove_kind(self, kind: str, owner: str = LOCAL) -> Freed:
        """Remove all of a kind that can go; the rest is listed with its reason."""
        if kind not in KINDS:
            raise InputError(f"There is no kind {kind[:20]!r}. There are: {', '.join(KINDS)}.")
        return self._remove_all([item for item in self.items(owner) if item.kind == kind], owner)

    def remove_everything(self, owner: str) -> Freed:
        """All that a visitor has, runs cancelled first; what does not stop in time goes by ``sweep``. Raises InputError
        where the app is not shared: there everything is one person's, who removes it by kind."""
        if not self.settings.is_visitor(owner):
            what = "This app is not shared, so nothing here is a visitor's"
            raise InputError(f"{what}. Remove what you do not need, kind by kind.")
        self.sessions.leave(owner)
        self.demo.reset(owner)
        waited = 0.0
        while living := self._living(owner):
            for run in living:
                self.runs.cancel(run, owner)
            if waited >= STOP_WAIT_S:
                break
            self.wait(0.25)
            waited += 0.25
        done = self._remove_all(self.items(owner), owner)
        self._remove_traces(owner)
        return replace(done, stopping=len(self._living(owner)))

    def sweep(self, owner: str, before_s: float) -> bool:
        """Remove what an owner made before a moment and nothing uses. Returns whether anything of theirs is left."""
        made = {row.run: row.adapter for row in self._rows(owner) if row.created_s < before_s}
        of_old_runs = {*((ADAPTER, adapter) for adapter in made.values()), *((CHECKPOINTS, run) for run in made)}
        old = [item for item in self.items(owner) if item.made_s < before_s or (item.kind, item.id) in of_old_runs]
        self._remove_all(old, owner)
        left = bool(self.items(owner))
        if old or not left:
            self._remove_traces(owner, before_s)
        return left

    def owners(self) -> set[str]:
        """Every visitor who has something here."""
        runs = {row.owner for row in self.runs.store.all()}
        judged = {verdict.owner for verdict in self.verdicts.files.all()}
        files = {*self.prompts.owners(), *self._uploaders(), *self.adapters.library.owners()}
        return (runs | judged | files) - {LOCAL}

    def _remove_traces(self, owner: str, before_s: float = float("inf")) -> None:
        """What is no item: uploads on their way in, their empty folder, races, and names in the database file."""
        remove_incoming(self.settings, owner)
        with contextlib.suppress(OSError):  # uploads are left, or there never were any
            (self.settings.uploads_dir / owner).rmdir()
        races = RaceTable(self.settings.database)
        for race in races.records():
            if race["owner"] == owner and race["created_s"] < before_s:
                races.remove(race["race"])
        try:
            wipe(self.settings.database)
        except DatabaseError:
            why = "what was deleted could not be wiped from the database; the next deletion tries again"
            _LOG.warning(why, exc_info=True)

    def _mine(self, made_by: str, owner: str) -> bool:
        return not self.settings.shared or made_by == owner

    def _rows(self, owner: str) -> list[RunRow]:
        self.runs.tick()
        return [row for row in self.runs.store.all() if self._mine(row.owner, owner)]

    def _living(self, owner: str) -> list[str]:
        return [row.run for row in self._rows(owner) if row.state not in ENDED]

    def _remove_all(self, items: Iterable[Item], owner: str) -> Freed:
        gone: list[Item] = []
        stayed: list[Item] = []
        for item in items:
            try:
                if not item.stays:
                    with contextlib.suppress(NotFoundError):  # gone with its run, or by somebody else meanwhile
                        self._remove(item, owner)
                (stayed if item.stays else gone).append(item)
            except PlaygroundError as error:
                stayed.append(replace(item, stays=str(error)))
        return Freed(tuple(gone), tuple(stayed))

    def _remove(self, item: Item, owner: str) -> None:
        """``item`` comes from ``items``, so its id is a name that lies there."""
        removers = {ADAPTER: self.adapters.remove, RUN: self.runs.remove, VERDICT: self.verdicts.remove}
        folders = {BASE: self.settings.bases_dir, UPLOAD: self.settings.uploads_dir, PASSING: self.settings.home}
        if item.kind == PROMPTS:
            self.prompts.forget(item.id)
        elif item.kind in removers:
            removers[item.kind](item.id, owner)
        elif item.kind == CHECKPOINTS:
            shutil.rmtree(self.settings.runs_dir / item.id / "checkpoints", ignore_errors=True)
        else:
            shutil.rmtree(folders[item.kind] / item.id, ignore_errors=True)

    def _base_items(self) -> Iterator[Item]:
        used = {self.bases.folder()}
        for row in self.runs.store.active():
            with contextlib.suppress(InputError):  # no settings are left of it
                used.add(Path(RunSpec.read(self.settings.runs_dir / row.run).base_path))
        for folder, spec in library_bases.folders(self.settings):
            stays = "it is in use" if folder in used else ""
            yield _item(BASE, folder.name, library_bases.label_of(spec), folder, stays)
        fetching = "it is being fetched" if self.bases.fetching else ""
        for folder, name in library_bases.unfinished(self.settings):
            yield _item(BASE, folder.name, f"{name}, fetched in part", folder, fetching)

    def _adapter_items(self, owner: str) -> Iterator[Item]:
        library = self.adapters.library
        for card in library.list(owner, self.settings.shared):
            if not card.shipped:
                yield _item(ADAPTER, card.id, card.name, card.path)
        for name, _ in () if self.settings.is_visitor(owner) else library.damaged():
            folder = self.settings.adapters_dir / name
            if folder.is_dir() and not folder.is_symlink():
                yield _item(ADAPTER, name, f"{name}, damaged", folder)

    def _run_items(self, owner: str) -> Iterator[Item]:
        for row in self._rows(owner):
            folder = self.settings.runs_dir / row.run
            checkpoints = bytes_in(folder / "checkpoints")
            stays = "" if row.state in ENDED else "it has not ended"
            yield Item(RUN, row.run, row.name, bytes_in(folder) - checkpoints, row.created_s, stays)
            if checkpoints:
                yield Item(CHECKPOINTS, row.run, f"Checkpoints of {row.name}", checkpoints, row.created_s, stays)

    def _verdict_items(self, owner: str) -> Iterator[Item]:
        files = self.verdicts.files
        for kept in files.all():
            if self._mine(kept.owner, owner):
                yield Item(VERDICT, kept.id, kept.name, bytes_in(files.folder(kept.id)), kept.created_s)

    def _prompt_items(self, owners: set[str]) -> list[Item]:
        there = sorted(owners & self.prompts.owners())
        return [_item(PROMPTS, owner, "Versions of prompts", self.prompts.file(owner)) for owner in there]

    def _upload_items(self, owners: Iterable[str]) -> list[Item]:
        folders = {f"{owner}/": _within(self.settings.uploads_dir / owner) for owner in owners}
        return [_by_its_file(UPLOAD, start, folder) for start, found in folders.items() for folder in found]

    def _passing_items(self) -> list[Item]:
        folders = [
            ("uploads/gradio", "What the page was sent", self.settings.incoming_dir),
            ("exports", "Packed for download", self.settings.exports_dir),
        ]
        return [Item(PASSING, id, name, held) for id, name, folder in folders if (held := bytes_in(folder))]

    def _uploaders(self) -> list[str]:
        there = _within(self.settings.uploads_dir)
        return [folder.name for folder in there if folder.is_dir() and folder != self.settings.incoming_dir]


def _item(kind: str, id: str, name: str, place: Path, stays: str = "") -> Item:
    try:
        made_s = place.stat().st_mtime
    except OSError:  # gone meanwhile
        made_s = 0.0
    return Item(kind, id, name, bytes_in(place), made_s, stays)


def _by_its_file(kind: str, start: str, folder: Path) -> Item:
    """A folder that is called like the one file in it; start: of its id."""
    file = next((file for file in _within(folder) if file.is_file()), folder)
    return _item(kind, start + folder.name, file.name, folder)


def _within(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


TICK_S = 120.0
INCOMING_S = 15 * 60.0
"""A file that a browser sent is copied at once; what is left of it is of no use to anybody."""
EXPORTED_S = 3600.0
STAGED_S = 24 * 3600.0
"""An adapter that has been put together for so long never will be."""


VISITOR_UPLOADS = 5  # uploads of the largest size that one visitor may have waiting, where the app is shared
ALL_UPLOADS = 50
FILES_MAX = 5_000  # files that may lie in the folder, however small
WAITS_S = INCOMING_S + TICK_S  # after so long a file has been removed


class Incoming:
    """Counts uploaded bytes until their file is sure to be gone. Visitors without a cookie share one quota. folder:
    where the files lie. largest_bytes: of one upload. clock: seconds, monotonic."""

    def __init__(self, folder: Path, largest_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._largest, self._clock = folder, largest_bytes, clock
        self._lock = threading.Lock()
        self._arrived: deque[tuple[float, str, int]] = deque()
        self._bytes: Counter[str] = Counter()

    def refusal(self, visitor: str, count: int) -> str:
        """Why ``count`` more bytes of a visitor are not taken, or "" and they are counted."""
        with self._lock:
            while self._arrived and self._arrived[0][0] <= self._clock():
                _, gone, size = self._arrived.popleft()
                self._bytes -= Counter({gone: size})  # keeps counts above 0 only
            sent = self._bytes[visitor]
            if sent + count > VISITOR_UPLOADS * self._largest:
                minutes = f"{WAITS_S / 60:.0f} minutes"
                return f"You have sent {sent >> 20} MB in the last {minutes}. Wait a little, then send more."
            if self._bytes.total() + count > ALL_UPLOADS * self._largest:
                crowd = "Too many files have been sent to this app in the last minutes."
                return f"{crowd} Try again in a quarter of an hour."
            self._bytes[visitor] += count
            self._arrived.append((self._clock() + WAITS_S, visitor, count))
            return ""

    def is_crowded(self) -> bool:
        """Whether too many files lie there already."""
        return self._folder.is_dir() and len(os.listdir(self._folder)) >= FILES_MAX


@dataclass(frozen=True)
class Cleaner:
    """Only the home's owner starts it. clock: seconds since 1970."""

    settings: Settings
    storage: StorageService
    sessions: Sessions
    clock: Callable[[], float] = time.time
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._clean, name="cleaning", daemon=True).start()

    def close(self) -> None:
        self._stop.set()

    def _clean(self) -> None:
        while not self._stop.is_set():
            try:
                self.tick()
            except Exception:  # a background thread: a full disk must not end it; the next tick tries again
                _LOG.exception("cleaning did not finish")
            self._stop.wait(TICK_S)

    def tick(self) -> None:
        """One round. Never touches what is in use, what ships with the app, or what its own person made."""
        now = self.clock()
        _sweep(self.settings.incoming_dir, now - INCOMING_S)
        _sweep(self.settings.exports_dir, now - EXPORTED_S)
        _sweep(self.settings.adapters_dir / ".staging", now - STAGED_S)
        if self.settings.shared:
            self._visitors(now)

    def _visitors(self, now: float) -> None:
        visits = self.sessions.visits()
        owners = self.storage.owners()
        for owner in owners - set(visits):
            self.sessions.seen(owner)  # from before visits were written down: their time begins now
        for owner, visit in visits.items():
            gone = now - visit.seen_s >= self.settings.keep_s
            before = now if gone else visit.left_s  # what was made earlier is to go
            left = owner in owners and bool(before) and self.storage.sweep(owner, before)
            if gone and not left:
                self.sessions.forget(owner)


def _sweep(folder: Path, before_s: float) -> None:
    """Remove what lies in ``folder`` and was last changed before a moment."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(OSError):
            if entry.lstat().st_mtime >= before_s:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
