"""The adapters a person may use, the newest checkpoints of runs that train among them, and the models in memory."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from playground.db import RunRow, RunStore
from playground.engine.request import AdapterFile, EngineLike
from playground.errors import AdapterError, BaseUnavailableError, BusyError, EndpointError, InputError, NotFoundError
from playground.gpu.manager import DeviceManager, retried
from playground.gpu.policy import Wanted
from playground.library.adapters import NAME_LIMIT, AdapterCard, AdapterLibrary, read_card
from playground.library.bases import HUB_ID, Progress, no_progress
from playground.library.card import CONFIG, OFF, WEIGHTS
from playground.library.exporting import blend
from playground.library.fetching import unusable
from playground.library.safety import unfit
from playground.methods import get_method
from playground.models.bases import BASE, BaseService, Load, load_engine, loaded_bytes
from playground.models.bases import PREFIX as BASE_PREFIX
from playground.models.catalogue import LOADED_FACTOR
from playground.models.vllm_engine import refused
from playground.settings import Settings
from playground.training.run_files import marked_step, newest_complete, step_of
from playground.training.spec import RunSpec
from playground.workspace.visitors import Quota, handed_over

PREFIX = "live-"
_KEPT = 2  # copies that stay: the newest, and the one that a reply may be written with just now
KNOWN_MOST = 1_000
HOLD_S = 60.0  # how long attaching waits for its turn


def live_id(row: RunRow, run_dir: Path) -> str:
    """What a run that trains is called as a side, "" with nothing to show: no checkpoint, a whole or a reward model."""
    if row.state not in ("RUNNING", "STOPPING") or get_method(row.method).whole or not marked_step(run_dir):
        return ""
    try:
        return "" if RunSpec.read(run_dir).objective == "reward" else f"{PREFIX}{row.run}"
    except InputError:
        return ""


def _copied(run_dir: Path, step: int) -> Path | None:
    """The copy of the newest checkpoint, which is the one at ``step`` or a later one; None when it cannot be made."""
    live = run_dir / "live"
    there = live / f"step-{step}"
    if there.is_dir():
        return there
    if (checkpoint := newest_complete(run_dir)) is None:
        return None
    staging, there = live / ".staging", live / f"step-{step_of(checkpoint)}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(checkpoint / name, staging / name)
        if not there.is_dir():
            staging.rename(there)
    except OSError:  # a newer checkpoint took its place meanwhile, or the disk is full: the next look tries again
        return None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for older in sorted(live.glob("step-*"), key=step_of)[:-_KEPT]:
        shutil.rmtree(older, ignore_errors=True)
    return there


class Residents:
    """Gives the engine with an adapter attached. Whoever decodes holds a lease on what ``wanted`` names."""

    def __init__(self, manager: DeviceManager, bases: BaseService, load: Load = load_engine) -> None:
        self._manager, self.bases, self._load_engine = manager, bases, load
        self._lock = threading.Lock()  # guards the table; never held while a model is loaded or unloaded
        self._loading = threading.Lock()
        self._whole: dict[str, EngineLike] = {}
        self._misfits: dict[tuple[object, ...], str] = {}

    def wanted(self, cards: Sequence[AdapterCard | None]) -> Wanted:
        """The models that rows with these cards (None = the base) need in memory, with their bytes."""
        whole = {_resident(card.id): self._size(card) for card in cards if card is not None and card.is_whole}
        base = (self.bases.resident(),) if any(card is None or not card.is_whole for card in cards) else ()
        return (*base, *whole.items())

    def ready(self, card: AdapterCard | None, base: str = "") -> tuple[EngineLike, str | None]:
        """(engine, adapter id in it) for a card, or for the base itself. base: as ``BaseService.engine`` expects it.
        Raises AdapterError, OutOfMemoryError or BaseUnavailableError."""
        if card is not None and card.is_whole:
            return self._whole_engine(card), None
        engine = self.bases.engine(expected=base)
        if card is None:
            return engine, None
        self._attach(engine, card)
        return engine, card.id

    def attach(self, card: AdapterCard) -> float:
        """Attach an adapter under a lease; milliseconds, 0 when it was there already. Raises BusyError after HOLD_S."""
        request = self._manager.request("chat", "", f"Attaching {card.name}", 0, self.wanted([None]))
        try:
            if request.wait(HOLD_S) is None:
                taken = "The device is taken: its memory is needed by what runs now."
                raise BusyError(f"{taken} Try again when that has ended.")
            return self._attach(self.bases.engine(), card)
        finally:
            request.cancel()

    def no_effect(self, card: AdapterCard | None) -> bool:
        """Whether an adapter in memory changes nothing at all; measured at the first call for each version of it."""
        engine = self.bases.loaded
        if card is None or card.is_whole or engine is None:
            return False
        try:
            return engine.has_no_effect(card.id)
        except (
            AdapterError,
            BaseUnavailableError,
            EndpointError,
        ):  # it has been removed meanwhile, or the base has left
            return False

    def detach(self, adapter_id: str) -> None:
        if (loaded := self.bases.loaded) is not None:
            loaded.detach(adapter_id)
            self.bases.account()
        self._drop_whole(adapter_id)

    def attached(self) -> set[str]:
        loaded = self.bases.loaded
        return {*(loaded.attached() if loaded is not None else ()), *self._whole}

    def account(self, cards: Sequence[AdapterCard | None]) -> None:
        """Report to the device what the models of these cards take now. Under the lease."""
        self.bases.account()
        for card in cards:
            if card is not None and card.is_whole:
                self._account(card)

    def forget(self) -> None:
        with self._lock:
            engines = [self.bases.loaded, *self._whole.values()]
        for engine in engines:
            if engine is not None:
                engine.clear_prefix_cache()

    def unfit(self, card: AdapterCard) -> str:
        """Why an adapter cannot answer on the base in use, or "", also while no base is known. Looked at once for each
        version of both, its numbers aside: attaching looks at them."""
        if card.objective == "reward":
            return "a reward model scores replies and writes none"
        if self.bases.elsewhere and (why := refused(card)):
            return why
        if card.kind != "peft" or not self.bases.state().fingerprint:
            return ""
        try:
            shapes = self.bases.shapes()
            key = (card.path, card.sha256, (card.path / CONFIG).stat().st_mtime_ns, shapes.folder, shapes.fingerprint)
        except (BaseUnavailableError, OSError):
            return ""
        known = self._misfits.get(key)
        if known is None:
            if len(self._misfits) >= KNOWN_MOST:
                self._misfits.clear()
            known = self._misfits[key] = unfit(card, shapes)
        return known

    def _attach(self, engine: EngineLike, card: AdapterCard) -> float:
        if reason := self.unfit(card):
            raise AdapterError(f"{card.name} cannot be used: {reason}.")
        took = engine.attach(AdapterFile(card.id, card.path, card.sha256))
        if took:
            self.bases.account()
        return took

    def _whole_engine(self, card: AdapterCard) -> EngineLike:
        with self._loading:
            engine = self._whole.get(card.id)
            if engine is None:
                if card.is_base and (why := unusable(card.path)):
                    raise AdapterError(f"{card.name} {why}")
                failed = f"{card.name} is a whole model and does not fit into memory ({self._size(card) / 1e9:.1f} GB)"
                instead = "Choose a smaller base" if card.is_base else "Compare a LoRA in its place"
                engine = retried(lambda: self._load_engine(card.path, None), self._manager, failed, instead)
                with self._lock:
                    self._whole[card.id] = engine
                self._account(card)
            return engine

    def _size(self, card: AdapterCard) -> int:
        """Bytes of a whole model in memory, before it is there."""
        return int(loaded_bytes(card.path, card.bytes, self.bases.precision) * LOADED_FACTOR)

    def _account(self, card: AdapterCard) -> None:
        if (engine := self._whole.get(card.id)) is not None:
            held = int(engine.weight_bytes * LOADED_FACTOR) + engine.cache_bytes
            self._manager.set_resident(_resident(card.id), held, lambda: self._drop_whole(card.id, by_device=True))

    def _drop_whole(self, adapter_id: str, *, by_device: bool = False) -> None:
        """by_device: the device asked for it, and does its own accounting."""
        with self._lock:
            engine = self._whole.pop(adapter_id, None)
        if engine is not None:
            engine.close()
            if not by_device:
                self._manager.set_resident(_resident(adapter_id), 0)


def _resident(model: str) -> str:
    return model if model.startswith(BASE_PREFIX) else f"full {model}"


@dataclass(frozen=True)
class AdapterRow:
    """A card, whether it is attached, and if it cannot be used on the base in use, why."""

    card: AdapterCard
    attached: bool
    usable: bool
    reason: str


@dataclass(frozen=True)
class Switch:
    """What it took to make an adapter active: ms for the switch itself; attach_ms if it had to be attached first.
    fingerprint, unchanged: the base's weights, hashed after the switch."""

    ms: float
    attach_ms: float
    fingerprint: str
    unchanged: bool


class AdapterService:
    """Thin over the library; adds what is in memory, whose it is, and what runs have learned so far. The id of an
    adapter that still learns stands for its run, its hash for the checkpoint, copied before it is used, since training
    removes older ones. Not offered while they learn: full fine-tunes (whole models) and reward models."""

    def __init__(
        self, settings: Settings, residents: Residents, library: AdapterLibrary, quota: Quota, store: RunStore
    ) -> None:
        self._settings, self._residents, self._bases = settings, residents, residents.bases
        self.library, self._quota, self._store = library, quota, store
        self.unfit = residents.unfit
        self._copying = threading.Lock()

    def list(self, owner: str = "local") -> list[AdapterRow]:
        attached = self._residents.attached()
        cards = [(card, self.unfit(card)) for card in self.library.list(owner, self._settings.shared)]
        return [AdapterRow(card, card.id in attached, not reason, reason) for card, reason in cards]

    def learning(self, owner: str = "local") -> Sequence[AdapterCard]:
        """The newest checkpoint of each run that trains, as a card for ``get``; it can be asked, and nothing else."""
        cards = [self._live_card(row) for row in self._store.active() if self._is_of(row, owner)]
        return [card for card in cards if card is not None and not self.unfit(card)]

    def became(self, adapter_id: str, owner: str = "local") -> str:
        """The adapter that a run's own id stands for once it has ended; any other id as it is."""
        row = self._run_behind(adapter_id, owner)
        ended = row is not None and row.state not in ("RUNNING", "STOPPING")
        return (row.adapter if row is not None and ended else None) or adapter_id

    def model(self, name: str, owner: str = "local") -> AdapterCard | None:
        """Whose weights answer as a side's model on this machine: an adapter's, another base's (``base:ID``); None =
        those of the base in use. Raises NotFoundError."""
        if name.startswith(BASE_PREFIX):
            return self._bases.card(name.removeprefix(BASE_PREFIX))
        return None if name == BASE else self.get(name, owner)

    def get(self, adapter_id: str, owner: str = "local") -> AdapterCard:
        """Of the library, or of a run that still trains. Raises NotFoundError."""
        adapter_id = self.became(adapter_id, owner)
        if (row := self._run_behind(adapter_id, owner)) is None:
            return self.library.get(adapter_id, owner, self._settings.shared)
        if (card := self._live_card(row)) is None:
            raise NotFoundError(f"{row.name} has nothing to show yet: wait for its first checkpoint.")
        return card

    def _run_behind(self, adapter_id: str, owner: str) -> RunRow | None:
        if not adapter_id.startswith(PREFIX):
            return None
        run = adapter_id.removeprefix(PREFIX)
        return next((row for row in self._store.all() if row.run == run and self._is_of(row, owner)), None)

    def _is_of(self, row: RunRow, owner: str) -> bool:
        return not self._settings.shared or row.owner == owner

    def _live_card(self, row: RunRow) -> AdapterCard | None:
        run_dir = self._settings.runs_dir / row.run
        if not live_id(row, run_dir):
            return None
        with self._copying:
            folder = _copied(run_dir, marked_step(run_dir))
        if folder is None:
            return None
        try:
            spec, card = RunSpec.read(run_dir), read_card(folder)
        except (InputError, OSError):
            return None
        return replace(
            card,
            id=f"{PREFIX}{row.run}",
            name=f"{row.name}, step {step_of(folder)}",
            method=spec.method,
            base=spec.base,
            base_fingerprint=spec.base_fingerprint,
            owner=row.owner,
            created_s=row.created_s,
            trained_on=spec.data,
            objective=spec.objective,
            think=False if spec.think == OFF else None,
        )

    def attach(self, adapter_id: str, owner: str = "local") -> float:
        """Milliseconds it took; 0 when it was attached already."""
        return self._residents.attach(self.get(adapter_id, owner))

    def switch(self, adapter_id: str, owner: str = "local") -> Switch:
        """Make an adapter the active one, attached first if need be, or the base alone (``base``), and prove that the
        base's weights are as they were. A full fine-tune is a base of its own and cannot be switched to."""
        engine = self._bases.engine()
        attach_ms, active = 0.0, None
        if adapter_id != "base":
            card = self.get(adapter_id, owner)
            if card.kind == "full":
                why = f"{card.name} is a whole model, not an adapter on this base"
                raise InputError(f"{why}. Use it as a side of a comparison.")
            attach_ms, active = self._residents.attach(card), card.id
        ms = engine.select_ms(active)
        value, unchanged, _ = engine.check_fingerprint()
        return Switch(ms, attach_ms, value, unchanged)

    def import_file(self, path: Path, owner: str = "local") -> AdapterCard:
        """A PEFT folder, one among other files, or a zip of one; the card's ``notes`` say what was left. Raises
        AdapterError when it is unsafe, damaged, made for another base, or cannot run here."""
        path = Path(path)
        if path.is_file() and path.stat().st_size > self._settings.upload_limit_bytes:
            limit = self._settings.upload_limit_bytes // 1048576
            raise InputError(f"{path.name} is {path.stat().st_size / 1048576:.0f} MB; the limit is {limit} MB.")
        self._quota.check_adapter(owner, path.stat().st_size if path.is_file() else 0)
        return self.library.import_path(
            path, self._bases.shapes(), owner, admit=lambda size: self._quota.check_adapter(owner, size)
        )

    def import_hub(self, spec: str, owner: str = "local", progress: Progress = no_progress) -> AdapterCard:
        """``owner/name[@revision]`` of the hub, as ``import_file``; by whoever runs the app alone. Raises InputError,
        BaseUnavailableError (offline, gated, not there), BusyError."""
        if self._settings.is_visitor(owner):
            raise InputError("Adapters of the hub are not fetched here. Upload the folder's files, or a zip of them.")
        admit = partial(self._quota.check_adapter, owner)
        return self.library.import_hub(spec.strip(), self._bases.shapes(), owner, admit, progress)

    def import_named(self, name: str, progress: Progress = no_progress) -> AdapterCard:
        """What a command names: a folder or zip of this machine, else an adapter of the hub."""
        here = Path(name).expanduser().exists() or not HUB_ID.fullmatch(name) or Path(name).suffix.lower() == ".zip"
        return self.import_file(Path(name)) if here else self.import_hub(name, progress=progress)

    def import_uploads(self, paths: Sequence[Path], owner: str = "local") -> AdapterCard:
        """What a browser sent: a zip, or a PEFT folder's files. Raises NotFoundError for a path not uploaded."""
        paths = [handed_over(self._settings, Path(path), owner) for path in paths]
        if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
            return self.import_file(paths[0], owner)
        if not paths:
            raise AdapterError("Choose a zip of a PEFT folder, or its files.")
        with tempfile.TemporaryDirectory(prefix="import-") as folder:
            for path in paths:
                shutil.copyfile(path, Path(folder, path.name))
            return self.import_file(Path(folder), owner)

    def export_folder(self, adapter_id: str, target: Path, owner: str = "local") -> Path:
        return self.library.export(self.get(adapter_id, owner).id, target, owner, self._settings.shared)

    def export_zip(self, adapter_id: str, owner: str = "local") -> Path:
        """A zip in a folder of its own, ready to be downloaded."""
        card = self.get(adapter_id, owner)
        folder = self._quota.room(owner, card.bytes, "The export")
        folder.mkdir(parents=True)
        return self.library.export_zip(card.id, folder, owner, self._settings.shared)

    def blend(self, parts: Mapping[str, float], how: str, name: str, owner: str = "local") -> AdapterCard:
        """A new adapter out of several, each with its weight. Raises InputError, NotFoundError."""
        cards = [self.get(adapter_id, owner) for adapter_id in parts]
        for card in cards:
            if reason := self.unfit(card):
                raise InputError(f"{card.name} cannot be part of a blend: {reason}.")
        self._quota.check_adapter(owner, sum(card.bytes for card in cards))
        base, staging = self._bases.resolve(), self.library.staging()
        try:
            blend(cards, list(parts.values()), how, base.path, staging, name.strip()[:NAME_LIMIT] or "blend", owner)
            return self.library.publish(staging, self.library.reserve_id(name.strip() or "blend", owner))
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def rename(self, adapter_id: str, new_name: str, owner: str = "local") -> AdapterCard:
        return self.library.rename(adapter_id, new_name, owner, self._settings.shared)

    def remove(self, adapter_id: str, owner: str = "local") -> None:
        """Delete an adapter from disk and from memory. Shipped ones stay."""
        self.library.remove(adapter_id, owner, self._settings.shared)
        self._residents.detach(adapter_id)
