"""One person sees what the disk holds and frees it, item by item or by kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from playground.errors import BusyError, InputError, NotFoundError
from playground.services import Services, build_services
from playground.workspace.quota import bytes_in
from tests.shared.conftest import Belongings, ended_run, hers, incoming, lora, prepared, services, shared_settings

__all__ = ["hers", "lora", "prepared", "services", "shared_settings"]


@pytest.fixture
def alone(services: Services, hers: Belongings) -> Services:
    """The same home, as one person's."""
    return build_services(replace(services.settings, shared=False))


def test_every_kind_is_listed_with_its_size(alone: Services, hers: Belongings) -> None:
    incoming(alone.settings, "left.csv", b"x" * 700)
    items = alone.storage.items()
    assert [item.kind for item in items] == ["base", "adapter", "run", "checkpoints", "upload", "passing"]
    assert {item.kind: item.bytes for item in items}["checkpoints"] == 5000
    assert alone.storage.totals()["base"] == bytes_in(alone.settings.bases_dir / "smollm2-135m") > 1_000_000
    assert alone.storage.totals()["upload"] == hers.upload.stat().st_size
    assert alone.storage.free_bytes() > 0


def test_item_by_item(alone: Services, hers: Belongings) -> None:
    freed = alone.storage.remove("checkpoints", hers.run)
    assert (freed.bytes, freed.count("checkpoints")) == (5000, 1)
    assert alone.training.show(hers.run).state == "FAILED"
    for item in alone.storage.items():
        assert alone.storage.remove(item.kind, item.id).items == (item,)
        with pytest.raises(NotFoundError, match="There is no"):
            alone.storage.remove(item.kind, item.id)
    assert alone.storage.items() == []
    assert len(alone.adapters.list()) == 3, "what ships stays"
    assert alone.training.runs() == []


def test_by_kind_and_what_is_in_use_stays(alone: Services, hers: Belongings) -> None:
    waiting = ended_run(alone, "local", "waiting", "QUEUED")
    freed = alone.storage.remove_kind("checkpoints")
    assert ([item.id for item in freed.items], [item.id for item in freed.stayed]) == ([hers.run], [waiting])
    assert [item.stays for item in alone.storage.remove_kind("base").stayed] == ["it is in use"]
    with pytest.raises(BusyError, match="smollm2-135m stays: it is in use"):
        alone.storage.remove("base", "smollm2-135m")
    alone.training.cancel(waiting)
    assert alone.storage.remove_kind("run").count("run") == 2
    assert alone.storage.remove_kind("base").count("base") == 1
    assert alone.storage.remove_kind("upload").count("upload") == 1
    with pytest.raises(InputError, match="There is no kind"):
        alone.storage.remove_kind("everything")


def test_the_base_that_answers_stays(alone: Services) -> None:
    alone.bases.resolve()
    assert [item.stays for item in alone.storage.items() if item.kind == "base"] == ["it is in use"]


def test_a_damaged_adapter_can_be_seen_and_removed(alone: Services) -> None:
    broken = alone.settings.adapters_dir / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    assert ("broken", "broken, damaged") in [(item.id, item.name) for item in alone.storage.items()]
    alone.storage.remove("adapter", "broken")
    assert not broken.exists()


def test_sizes_follow_no_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"12345")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    assert bytes_in(tmp_path / "a") == 5
    assert bytes_in(tmp_path / "b") < 5 + len(str(tmp_path / "a"))
    assert bytes_in(tmp_path / "nothing") == 0
