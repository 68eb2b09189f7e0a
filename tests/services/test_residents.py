"""Whole models beside the base: read in once, let go when memory is needed, and counted by what they take."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.gpu.device import CpuDevice
from playground.gpu.manager import DeviceManager
from playground.library.card import AdapterCard
from playground.models.bases import LOADED_FACTOR, BaseService, loaded_bytes
from playground.models.residents import Residents
from playground.settings import Settings
from tests.library.conftest import adapter, base_shapes


@dataclass
class FakeEngine:
    """A whole model that takes 1000 bytes. cache_bytes: what it keeps between questions."""

    folder: Path
    cache_bytes: int = 0
    closed: bool = False
    forgotten: int = 0

    @property
    def loaded(self) -> Any:
        return SimpleNamespace(bytes=1000)

    def clear_prefix_cache(self) -> None:
        self.cache_bytes, self.forgotten = 0, self.forgotten + 1

    def close(self) -> None:
        self.closed = True


def card(name: str, folder: Path) -> AdapterCard:
    made = {"name": name, "rank": None, "bytes": 7, "sha256": "0" * 64, "rows": 1, "created_s": 1.0, "shipped": False}
    base = {"method": "full", "base": "tiny", "base_fingerprint": "", "trained_on": "rows.jsonl"}
    return AdapterCard(id=name, kind="full", path=folder, owner="local", **made, **base)  # type: ignore[arg-type]


@pytest.fixture
def manager() -> DeviceManager:
    return DeviceManager(CpuDevice(), 10**12)


def test_memory_that_runs_out_makes_another_whole_model_leave(
    settings: Settings, manager: DeviceManager, tmp_path: Path
) -> None:
    """The model that leaves is let go by a thread of its own, while this one is being read in."""
    made: list[FakeEngine] = []

    def load(folder: Path, limit: int | None) -> Any:
        if made and not made[0].closed:
            raise MemoryError
        made.append(FakeEngine(folder))
        return made[-1]

    residents = Residents(manager, BaseService(settings, manager), load)
    first, second = card("first", tmp_path), card("second", tmp_path)
    assert residents.ready(first)[0] is made[0]
    with ThreadPoolExecutor(1) as pool:  # less than the device would wait for an unload that cannot end
        assert pool.submit(residents.ready, second).result(20)[0] is made[1]
    assert [one.name for one in manager.residents()] == ["full second"]
    assert residents.attached() == {"second"}


def test_a_whole_model_counts_by_what_it_takes_in_memory(
    settings: Settings, manager: DeviceManager, tiny_base: Path
) -> None:
    residents = Residents(manager, BaseService(settings, manager), lambda folder, limit: FakeEngine(folder))
    whole = card("whole", tiny_base)
    assert residents.wanted([whole]) == (("full whole", int(loaded_bytes(tiny_base, 7, CpuDevice()) * LOADED_FACTOR)),)
    engine = residents.ready(whole)[0]
    assert [one.bytes for one in manager.residents()] == [1150]
    engine.cache_bytes = 50
    residents.account([None, whole])
    assert [one.bytes for one in manager.residents()] == [1200]
    residents.forget()
    assert engine.forgotten == 1
    residents.detach("whole")
    assert engine.closed
    assert manager.residents() == []
    residents.account([whole])
    residents.forget()
    assert manager.residents() == [], "what has gone is not counted"


def test_whether_an_adapter_fits_is_judged_without_reading_its_numbers(manager: DeviceManager, tmp_path: Path) -> None:
    """Import has read them, and attaching reads them; a question asks this of every adapter in sight."""
    folder = adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    shapes = base_shapes(fingerprint="ab" * 8)
    bases: Any = SimpleNamespace(state=lambda: shapes, shapes=lambda: shapes)
    peft = replace(card("a", folder), kind="peft", method="lora")
    assert Residents(manager, bases).unfit(peft) == ""
    shapes = base_shapes(layers=3, fingerprint="cd" * 8)
    assert "trained on another base" in Residents(manager, bases).unfit(peft)
