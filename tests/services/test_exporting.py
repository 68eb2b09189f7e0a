"""Exports that take a while: told, stopped, refused."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from playground.errors import InputError, NotFoundError, RunFailedError
from playground.models.exporting import Exporter
from playground.services import Services
from playground.settings import Settings
from playground.workspace.quota import Quota


@pytest.fixture
def adapter(services: Services, make_lora: Callable[..., Path]) -> str:
    return services.adapters.import_file(make_lora(4)).id


def exporting() -> int:
    """Processes that write an export for this one."""
    found = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # another test's, ending
            found += "playground.library.exporting" in child.cmdline()
    return found


def test_a_merged_model_is_handed_over_as_a_zip(services: Services, adapter: str) -> None:
    steps = list(services.exporter.export(adapter, "merged"))
    file = steps[-1].file
    assert file is not None
    assert file.name == f"{adapter}-merged.zip"
    assert [one.name for one in file.parent.iterdir()] == [file.name], "nothing else is left there"
    assert [step.share for step in steps] == sorted(step.share for step in steps)


def test_who_stops_listening_stops_it(services: Services, settings: Settings, adapter: str) -> None:
    job = services.exporter.export(adapter, "gguf")
    next(job)
    next(job)
    assert exporting() == 1
    job.close()  # type: ignore[attr-defined]
    assert exporting() == 0
    assert list(settings.exports_dir.iterdir()) == []


def test_an_export_whose_room_is_removed_meanwhile_makes_no_new_one(
    services: Services, settings: Settings, adapter: str
) -> None:
    job = services.exporter.export(adapter, "merged")
    next(job)
    assert next(job).phase.startswith("Merging")
    (room,) = settings.exports_dir.iterdir()
    shutil.rmtree(room)
    with pytest.raises(RunFailedError, match="could not be written"):
        list(job)
    assert list(settings.exports_dir.iterdir()) == []


def test_of_two_merges_that_begin_at_once_one_is_refused(services: Services, settings: Settings, adapter: str) -> None:
    said: list[str] = []

    class Meanwhile(Quota):
        """A second merge of the same visitor begins while room is looked for; the first time there is none."""

        def applies(self, owner: str) -> bool:
            return True

        def room(self, owner: str, more_bytes: int, what: str) -> Path:
            if not said:
                said.append("")
                with pytest.raises(InputError) as refused:
                    next(exporter.export(adapter, "merged"))
                said.append(str(refused.value))
                raise InputError("There is no room.")
            return settings.exports_dir / "room"

    library = services.adapters.library
    quota = Meanwhile(settings, services.training.store, library)
    exporter = Exporter(settings, services.manager, services.bases, services.adapters, quota, services.jobs)
    with pytest.raises(InputError, match="There is no room"):
        next(exporter.export(adapter, "merged"))
    assert said[1].startswith("An export of yours is being written already")
    again = exporter.export(adapter, "merged")
    assert next(again).phase == "Starting", "the one that was refused its room holds nothing"
    again.close()  # type: ignore[attr-defined]


def test_what_cannot_be_written_is_said_before_it_begins(services: Services, adapter: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no format 'onnx'.*merged, gguf"):
        next(services.exporter.export(adapter, "onnx"))
    with pytest.raises(InputError, match="nothing is overwritten"):
        next(services.exporter.export(adapter, "merged", target=tmp_path))
    with pytest.raises(NotFoundError):
        next(services.exporter.export("nobody", "merged"))
