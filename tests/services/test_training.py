"""Runs as real processes on the tiny model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.data.split import row_hash
from playground.errors import InputError, NotFoundError
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.training.processes import is_alive, worker_environment

Until = Callable[..., Any]


def test_a_run_from_start_to_an_adapter_in_the_library(services: Services, rows_file: Path, until: Until) -> None:
    request = TrainRequest(rows_file, "My run", steps=4, batch_size=4)
    plan = services.training.plan(request)
    assert plan.trainable_params < plan.total_params
    assert plan.blocked == ""
    run = services.training.start(request)
    view = until(lambda: services.training.show(run), lambda view: view.state == "DONE")
    assert view.adapter == "my_run"
    assert [step for step, _ in view.loss] == [1, 2, 3, 4]
    assert view.summary["trainable_params"] == plan.trainable_params
    assert view.summary["total_params"] == plan.total_params + plan.trainable_params
    assert [row.card.id for row in services.adapters.list() if not row.card.shipped] == ["my_run"]
    assert services.manager.leases() == []
    assert not (services.settings.runs_dir / run / "checkpoints").exists()
    again = build_services(services.settings).training.show(run)
    assert (again.state, again.step, again.loss) == ("DONE", 4, view.loss), "the record outlives its process"


def test_cancel_in_the_queue_while_loading_and_while_running(services: Services, rows_file: Path, until: Until) -> None:
    request = TrainRequest(rows_file, "c", steps=2000, batch_size=4, save_steps=5)
    first, second = services.training.start(request), services.training.start(request)
    assert services.training.show(second).state == "QUEUED"
    assert "in line" in services.training.show(second).message
    services.training.cancel(second)
    assert services.training.show(second).state == "CANCELLED"
    until(lambda: services.training.show(first), lambda view: view.step >= 6)
    services.training.cancel(first, keep=True)
    view = until(lambda: services.training.show(first), lambda view: view.state == "CANCELLED")
    assert view.adapter == "c", "the newest checkpoint was kept"
    third = services.training.start(request)
    until(lambda: services.training.show(third), lambda view: view.state == "RUNNING")
    services.training.cancel(third)
    assert until(lambda: services.training.show(third), lambda view: view.state == "CANCELLED").adapter is None
    assert services.manager.leases() == []


def test_a_killed_worker_is_failed_and_resumes(services: Services, rows_file: Path, until: Until) -> None:
    run = services.training.start(TrainRequest(rows_file, "k", steps=40, batch_size=4, save_steps=5))
    view = until(lambda: services.training.show(run), lambda view: view.step >= 6)
    os.killpg(view.pid, signal.SIGKILL)
    view = until(lambda: services.training.show(run), lambda view: view.state == "FAILED")
    assert "killed or died" in view.error
    assert services.manager.leases() == []
    services.training.resume(run)
    view = until(lambda: services.training.show(run), lambda view: view.state == "DONE")
    assert len(view.loss) == 40


def test_another_process_looks_without_starting_anything(services: Services, rows_file: Path, until: Until) -> None:
    run = services.training.start(TrainRequest(rows_file, "l", steps=2000, batch_size=4))
    view = until(lambda: services.training.show(run), lambda view: view.step >= 1)
    onlooker = build_services(services.settings)
    assert onlooker.training.show(run).pid == view.pid
    assert onlooker.manager.leases()[0].lane == "train", "a worker that lives is accounted for"
    onlooker.training.cancel(run)
    until(lambda: services.training.show(run), lambda view: view.state == "CANCELLED")
    assert not is_alive(view.pid, None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "magic"}, "There is no method 'magic'"),
        ({"objective": "dpo"}, "dpo needs a better and a worse answer"),
        ({"base": "owner/other"}, "base in use"),
        ({"steps": 0}, "Steps is 0"),
        ({"file": Path("nowhere.csv")}, "nowhere.csv"),
    ],
)
def test_what_cannot_start_is_told_at_once(
    services: Services, rows_file: Path, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        services.training.start(replace(TrainRequest(rows_file), **wrong))
    assert services.training.runs() == []


def test_strict_refuses_a_bad_row(services: Services, rows_file: Path) -> None:
    rows_file.write_text(rows_file.read_text() + '\n{"prompt": "x", "completion": ""}')
    with pytest.raises(InputError, match="row 25"):
        services.training.start(TrainRequest(rows_file, strict=True))


def test_where_the_app_is_shared_a_run_is_its_owners(services: Services, rows_file: Path, settings: Any) -> None:
    run = services.training.start(TrainRequest(rows_file, "o", steps=2000, owner="ann"))
    shared = build_services(replace(settings, shared=True))
    assert shared.training.runs("bob") == []
    for action in (shared.training.show, shared.training.cancel, shared.training.resume):
        with pytest.raises(NotFoundError):
            action(run, "bob")
    assert shared.training.show(run, "ann").run == run


def test_a_worker_inherits_no_secret() -> None:
    env = worker_environment(
        {"PATH": "/bin", "HF_TOKEN": "x", "PLAYGROUND_API_TOKEN": "y", "AWS_SECRET_ACCESS_KEY": "z"}
    )
    assert "x" not in env.values()
    assert not {"HF_TOKEN", "PLAYGROUND_API_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(env)


@pytest.mark.parametrize(("seen", "first"), [(None, "0"), ("2,3", "2"), ("GPU-5f1a,GPU-9c", "GPU-5f1a"), ("", "")])
def test_a_worker_sees_one_device_the_one_that_is_budgeted(seen: str | None, first: str) -> None:
    assert worker_environment({} if seen is None else {"CUDA_VISIBLE_DEVICES": seen})["CUDA_VISIBLE_DEVICES"] == first


def test_a_worker_waits_for_cores_as_its_app_does() -> None:
    env = {"GOMP_SPINCOUNT": "2000", "OMP_WAIT_POLICY": "passive"}
    assert worker_environment(env).items() >= env.items()


def test_a_run_learns_with_passages_in_its_questions(
    services: Services, rows_file: Path, tmp_path: Path, until: Until
) -> None:
    (tmp_path / "docs.md").write_text("Say is a verb.\n\nNumber 3 is odd.")
    request = TrainRequest(rows_file, "told", steps=2, batch_size=4, docs=tmp_path / "docs.md")
    plain, plan = services.training.plan(replace(request, docs=None)), services.training.plan(request)
    assert plan.memory_bytes > plain.memory_bytes, "longer rows are counted"
    assert (plan.rows, plan.test_rows) == (plain.rows, plain.test_rows)
    run = services.training.start(request)
    (tmp_path / "docs.md").unlink()
    view = until(lambda: services.training.show(run), lambda view: view.state in ("DONE", "FAILED"))
    assert view.state == "DONE", view.error
    record = json.loads((services.settings.adapters_dir / str(view.adapter) / "run.json").read_text())
    assert record["docs"] == "docs.md"
    assert "docs_path" not in record
    checked = services.data.check(rows_file)
    assert set(record["row_hashes"]) <= {row_hash(row) for row in checked.examples}, "known again without the passages"
    with pytest.raises(InputError, match="There is no file"):
        services.training.plan(replace(request, docs=tmp_path / "docs.md"))
