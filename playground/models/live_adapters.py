"""Adapters that still learn: the newest checkpoint of a run that trains, as a side of a comparison."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

from playground.db import RunRow, RunStore
from playground.errors import AdapterError, InputError, NotFoundError
from playground.library.card import AdapterCard, read_card
from playground.methods import get_method
from playground.settings import Settings
from playground.training.checkpoint import marked_step, newest_complete, step_of
from playground.training.spec import RunSpec

PREFIX = "live-"
_FILES = ("adapter_config.json", "adapter_model.safetensors")
_KEPT = 2
"""Copies that stay: the newest, and the one that a reply may be written with just now."""


def live_id(row: RunRow, run_dir: Path) -> str:
    """What a run that trains is called as a side, "" while it has nothing to show: no checkpoint yet, a whole model,
    a reward model."""
    if row.state not in ("RUNNING", "STOPPING") or get_method(row.method).whole or not marked_step(run_dir):
        return ""
    try:
        return "" if RunSpec.read(run_dir).objective == "reward" else f"{PREFIX}{row.run}"
    except InputError:
        return ""


class Learning:
    """Cards of what runs have learned so far. Their id stands for the run, their hash for the checkpoint.

    A checkpoint is copied before it is used: training removes older ones as it goes. A full fine-tune is not offered
    (each of its checkpoints is a whole model), nor is a reward model (it writes nothing).
    """

    def __init__(self, settings: Settings, store: RunStore) -> None:
        self._settings, self._store = settings, store
        self._lock = threading.Lock()

    def cards(self, owner: str) -> list[AdapterCard]:
        """Of every run of ``owner`` that trains and has a checkpoint."""
        mine = (row for row in self._store.active() if self._mine(row, owner))
        return [card for row in mine if (card := self._card(row)) is not None]

    def get(self, adapter_id: str, owner: str) -> AdapterCard | None:
        """The newest checkpoint of the run that an id stands for; None when it stands for none. Raises NotFoundError
        when there is no checkpoint of it."""
        row = self._row(adapter_id, owner)
        if row is None:
            return None
        card = self._card(row)
        if card is None:
            raise NotFoundError(f"{row.name} has nothing to show yet: wait for its first checkpoint.")
        return card

    def made(self, adapter_id: str, owner: str) -> str | None:
        """The adapter that the run behind an id has made by now, or None."""
        row = self._row(adapter_id, owner)
        return row.adapter if row is not None and row.state not in ("RUNNING", "STOPPING") else None

    def _row(self, adapter_id: str, owner: str) -> RunRow | None:
        if not adapter_id.startswith(PREFIX):
            return None
        run = adapter_id.removeprefix(PREFIX)
        return next((row for row in self._store.all() if row.run == run and self._mine(row, owner)), None)

    def _mine(self, row: RunRow, owner: str) -> bool:
        return not self._settings.shared or row.owner == owner

    def _card(self, row: RunRow) -> AdapterCard | None:
        run_dir = self._settings.runs_dir / row.run
        if not live_id(row, run_dir):
            return None
        with self._lock:
            folder = _copied(run_dir, marked_step(run_dir))
        if folder is None:
            return None
        try:
            spec, card = RunSpec.read(run_dir), read_card(folder)
        except (AdapterError, InputError, OSError):
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
        )


def _copied(run_dir: Path, step: int) -> Path | None:
    """The copy of the newest checkpoint, which is the one at ``step`` or a later one; None when it cannot be made."""
    live = run_dir / "live"
    there = live / f"step-{step}"
    if there.is_dir():
        return there
    checkpoint = newest_complete(run_dir)
    if checkpoint is None:
        return None
    staging, there = live / ".staging", live / f"step-{step_of(checkpoint)}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        for name in _FILES:
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
