"""Which models are in memory: the base with its attached adapters, and at most one full fine-tune beside it."""

from __future__ import annotations

import threading
from typing import Any

from playground.engine.request import AdapterFile
from playground.errors import AdapterError, OutOfMemoryError
from playground.gpu.manager import DeviceManager
from playground.library.card import AdapterCard
from playground.services.bases import ADAPTERS, LOADED_FACTOR, BaseService


class Residents:
    """Gives the engine that can run an adapter, with the adapter attached."""

    def __init__(self, manager: DeviceManager, bases: BaseService) -> None:
        self._manager, self._bases = manager, bases
        self._lock = threading.RLock()
        self._full: tuple[str, Any] | None = None

    def ready(self, card: AdapterCard | None) -> tuple[Any, str | None]:
        """(engine, adapter id in it) for a card, or for the base itself. Raises AdapterError or OutOfMemoryError."""
        if card is not None and card.kind == "full":
            return self._full_engine(card), None
        engine = self._bases.engine()
        if card is None:
            return engine, None
        self.attach(card)
        return engine, card.id

    def attach(self, card: AdapterCard) -> float:
        """Attach an adapter to the base; milliseconds, 0 when it was attached already."""
        engine = self._bases.engine()
        if reason := self.unfit(card):
            raise AdapterError(f"{card.name} cannot be used: {reason}.")
        took: float = engine.attach(AdapterFile(card.id, card.path, card.sha256))
        self._manager.set_resident(ADAPTERS, engine.adapter_bytes)
        return took

    def detach(self, adapter_id: str) -> None:
        with self._lock:
            if self._bases.loaded is not None:
                self._bases.loaded.detach(adapter_id)
            if self._full is not None and self._full[0] == adapter_id:
                self._drop_full()

    def attached(self) -> set[str]:
        loaded = self._bases.loaded
        there = set(loaded.attached()) if loaded is not None else set()
        return there | ({self._full[0]} if self._full else set())

    def unfit(self, card: AdapterCard) -> str:
        """Why an adapter cannot run on the base in use, or "". Judged by fingerprint where known, else when it is attached."""
        state = self._bases.state()
        if card.kind == "peft" and card.base_fingerprint and state.fingerprint and card.base_fingerprint != state.fingerprint:
            return f"trained on another base ({card.base})"
        if card.objective == "reward":
            return "a reward model scores replies and writes none"
        return ""

    def _full_engine(self, card: AdapterCard) -> Any:
        from playground.engine.engine import Engine

        with self._lock:
            if self._full is not None and self._full[0] == card.id:
                return self._full[1]
            needs = int(card.bytes * LOADED_FACTOR)
            free = self._manager.free_bytes + (self._manager.residents().get(f"full {self._full[0]}", 0) if self._full else 0)
            if needs > free:
                raise OutOfMemoryError(
                    f"{card.name} is a whole model and needs {needs / 1e9:.1f} GB; {free / 1e9:.1f} GB are free. Compare a LoRA in its place."
                )
            self._drop_full()
            self._full = (card.id, Engine(card.path))
            self._manager.set_resident(f"full {card.id}", needs)
            return self._full[1]

    def _drop_full(self) -> None:
        if self._full is not None:
            self._manager.set_resident(f"full {self._full[0]}", 0)
            self._full = None
