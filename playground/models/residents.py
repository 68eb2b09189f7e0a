"""Which models are in memory: the base with its attached adapters, and full fine-tunes beside it as long as there is
room."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from playground.engine.request import AdapterFile
from playground.errors import AdapterError, BaseUnavailableError, BusyError
from playground.gpu.manager import DeviceManager
from playground.gpu.policy import Wanted
from playground.library.card import CONFIG, AdapterCard
from playground.library.safety import unfit
from playground.models.bases import LOADED_FACTOR, BaseService, Load, load_engine, loaded_bytes, retried

if TYPE_CHECKING:
    from playground.engine.engine import Engine

KNOWN_MOST = 1_000
HOLD_S = 60.0
"""How long attaching waits for its turn."""


class Residents:
    """Gives the engine that can run an adapter, with the adapter attached. Whoever decodes holds a lease on what
    ``wanted`` names."""

    def __init__(self, manager: DeviceManager, bases: BaseService, load: Load = load_engine) -> None:
        self._manager, self._bases, self._load_engine = manager, bases, load
        self._lock = threading.Lock()  # guards the table; never held while a model is loaded or unloaded
        self._loading = threading.Lock()
        self._full: dict[str, Engine] = {}
        self._misfits: dict[tuple[object, ...], str] = {}

    def wanted(self, cards: Sequence[AdapterCard | None]) -> Wanted:
        """The models that rows with these cards (None = the base) need in memory, with their bytes."""
        full = {_name(card): self._size(card) for card in cards if card is not None and card.kind == "full"}
        base = (self._bases.resident(),) if any(card is None or card.kind != "full" for card in cards) else ()
        return (*base, *full.items())

    def ready(self, card: AdapterCard | None, base: str = "") -> tuple[Engine, str | None]:
        """(engine, adapter id in it) for a card, or for the base itself. base: as ``BaseService.engine`` expects it.
        Raises AdapterError, OutOfMemoryError or BaseUnavailableError."""
        if card is not None and card.kind == "full":
            return self._full_engine(card), None
        engine = self._bases.engine(expected=base)
        if card is None:
            return engine, None
        self._attach(engine, card)
        return engine, card.id

    def attach(self, card: AdapterCard) -> float:
        """Attach an adapter to the base, under a lease; milliseconds, 0 when it was attached already. Raises BusyError
        when the device is taken for longer than a moment."""
        request = self._manager.request("chat", "", f"Attaching {card.name}", 0, self.wanted([None]))
        try:
            if request.wait(HOLD_S) is None:
                taken = "The device is taken: its memory is needed by what runs now."
                raise BusyError(f"{taken} Try again when that has ended.")
            return self._attach(self._bases.engine(), card)
        finally:
            request.cancel()

    def no_effect(self, card: AdapterCard | None) -> bool:
        """Whether an adapter in memory changes nothing at all; measured at the first call for each version of it."""
        engine = self._bases.loaded
        if card is None or card.kind == "full" or engine is None:
            return False
        try:
            return engine.has_no_effect(card.id)
        except (AdapterError, BaseUnavailableError):  # it has been removed meanwhile, or the base has left
            return False

    def detach(self, adapter_id: str) -> None:
        if (loaded := self._bases.loaded) is not None:
            loaded.detach(adapter_id)
            self._bases.account()
        self._drop_full(adapter_id)

    def attached(self) -> set[str]:
        loaded = self._bases.loaded
        return {*(loaded.attached() if loaded is not None else ()), *self._full}

    def account(self, cards: Sequence[AdapterCard | None]) -> None:
        """Report to the device what the models of these cards take now. Under the lease."""
        self._bases.account()
        for card in cards:
            if card is not None and card.kind == "full":
                self._account(card)

    def forget(self) -> None:
        """Clear the prefix cache of every model in memory."""
        with self._lock:
            engines = [self._bases.loaded, *self._full.values()]
        for engine in engines:
            if engine is not None:
                engine.clear_prefix_cache()

    def unfit(self, card: AdapterCard) -> str:
        """Why an adapter cannot answer on the base in use, or "", also while no base is known. Looked at once for each
        version of both, its numbers aside: attaching looks at them."""
        if card.objective == "reward":
            return "a reward model scores replies and writes none"
        if card.kind != "peft" or not self._bases.state().fingerprint:
            return ""
        try:
            shapes = self._bases.shapes()
            key = (card.path, card.sha256, (card.path / CONFIG).stat().st_mtime_ns, shapes.folder, shapes.fingerprint)
        except (BaseUnavailableError, OSError):
            return ""
        known = self._misfits.get(key)
        if known is None:
            if len(self._misfits) >= KNOWN_MOST:
                self._misfits.clear()
            known = self._misfits[key] = unfit(card, shapes)
        return known

    def _attach(self, engine: Engine, card: AdapterCard) -> float:
        if reason := self.unfit(card):
            raise AdapterError(f"{card.name} cannot be used: {reason}.")
        took = engine.attach(AdapterFile(card.id, card.path, card.sha256))
        if took:
            self._bases.account()
        return took

    def _full_engine(self, card: AdapterCard) -> Engine:
        with self._loading:
            engine = self._full.get(card.id)
            if engine is None:
                failed = f"{card.name} is a whole model and does not fit into memory ({self._size(card) / 1e9:.1f} GB)"
                engine = retried(
                    lambda: self._load_engine(card.path, None), self._manager, failed, "Compare a LoRA in its place"
                )
                with self._lock:
                    self._full[card.id] = engine
                self._account(card)
            return engine

    def _size(self, card: AdapterCard) -> int:
        """Bytes of a whole model in memory, before it is there."""
        return int(loaded_bytes(card.path, card.bytes, self._manager.device) * LOADED_FACTOR)

    def _account(self, card: AdapterCard) -> None:
        if (engine := self._full.get(card.id)) is not None:
            held = int(engine.loaded.bytes * LOADED_FACTOR) + engine.cache_bytes
            self._manager.set_resident(_name(card), held, lambda: self._drop_full(card.id, by_device=True))

    def _drop_full(self, adapter_id: str, *, by_device: bool = False) -> None:
        """by_device: the device asked for it, and does its own accounting."""
        with self._lock:
            engine = self._full.pop(adapter_id, None)
        if engine is not None:
            engine.close()
            if not by_device:
                self._manager.set_resident(f"full {adapter_id}", 0)


def _name(card: AdapterCard) -> str:
    return f"full {card.id}"
