"""Runs as real processes or forks: to their end, killed, frozen, cancelled, starved. tests/soak has the long form."""

import contextlib
import json
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from playground.chat.compare import Side
from playground.data.split import row_hash
from playground.db import ENDED
from playground.engine.request import Sampling
from playground.errors import NotFoundError
from playground.runs.progress import Patience
from playground.services import build_services
from playground.settings import Settings
from playground.training import worker
from playground.training.processes import is_alive, worker_environment
from tests.refused import refused
from tests.services.conftest import last, put_checkpoint, put_rows, supervised
from tests.soak import torture
from tests.soak.torture import request, wait_state, workers
from tests.waiting import wait_for


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The tiny model gains nothing from more, and workers of several tests share the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def services(tiny_base, tmp_path_factory):
    with supervised(Settings(home=tmp_path_factory.mktemp("runs") / "home", base=str(tiny_base))) as built:
        yield built


def test_a_run_with_passages_from_start_to_adapter_killed_in_between_and_seen_by_others(services, rows_file, tmp_path):
    (tmp_path / "docs.md").write_text("Say is a verb.\n\nNumber 3 is odd.")
    asked = request(rows_file, name="My run", steps=40, docs=tmp_path / "docs.md", group_column="prompt")
    plain, plan = services.training.plan(replace(asked, docs=None)), services.training.plan(asked)
    assert plan.memory_bytes > plain.memory_bytes, "longer rows are counted"
    assert (plan.rows, plan.test_rows) == (plain.rows, plain.test_rows)
    assert plan.trainable_params < plan.total_params
    assert plan.blocked == ""
    run = services.training.start(asked)
    (tmp_path / "docs.md").unlink()
    wait_for(lambda: torture.checkpoints(services, run), "at its first checkpoint")
    wait_for(lambda: torture.is_saving(services, run), "saving", every_s=0.0005)
    view, onlooker = services.training.show(run), build_services(services.settings)
    assert onlooker.training.show(run).pid == view.pid
    assert onlooker.manager.leases()[0].lane == "train", "a worker that lives is accounted for"
    torture.kill_hard(view.pid or 0)
    view = wait_state(services, run, "FAILED", within_s=Patience().stall_floor_s)
    assert "killed or died (SIGKILL)" in view.error
    assert services.manager.leases() == []
    reached = services.training.show(run).step
    assert 0 <= reached - view.resume_step <= torture.SAVE_STEPS
    services.training.resume(run)
    view = wait_state(services, run, *ENDED)
    assert (view.state, view.adapter, view.step) == ("DONE", "my_run", 40), view.error
    assert [step for step, _ in view.loss] == list(range(1, 41))
    assert view.summary["trainable_params"] == plan.trainable_params
    assert view.summary["total_params"] == plan.total_params + plan.trainable_params
    assert [row.card.id for row in services.adapters.list() if not row.card.shipped] == ["my_run"]
    assert services.manager.leases() == []
    assert not (services.settings.runs_dir / run / "checkpoints").exists()
    again = build_services(services.settings).training.show(run)
    assert (again.state, again.step, again.loss) == ("DONE", 40, view.loss), "the record outlives its process"
    record = json.loads((services.settings.adapters_dir / "my_run" / "run.json").read_text())
    assert (record["docs"], record["split"]["group"]) == ("docs.md", "prompt")
    assert "docs_path" not in record
    known = {row_hash(row) for row in services.data.check(rows_file).examples}
    assert set(record["row_hashes"]) <= known, "known again without the passages"
    refused("There is no file", services.training.plan, asked)


def test_a_run_answers_as_it_learns_and_its_checkpoint_is_kept_when_it_is_cancelled(services, rows_file):
    asked = request(rows_file, name="told", steps=4000)
    run, second = services.training.start(asked), services.training.start(request(rows_file))
    assert services.training.show(second).message.endswith("in line")
    live = wait_for(lambda: services.training.show(run).live, "at its first checkpoint")
    first = services.adapters.get(live)
    assert first.name.startswith("told, step ")
    assert [card.id for card in services.adapters.learning()] == [first.id] == [live]
    (reply,) = last(services.compare.ask([Side(live)], [[]], "Say 3", Sampling(max_tokens=4)))
    assert reply.stamp is not None, reply.error
    wait_for(lambda: services.adapters.get(live).sha256 != reply.stamp["adapter_sha256"], "a newer one")
    assert all(row.card.id != live for row in services.adapters.list()), "it is not in the library"
    other = build_services(services.settings)
    other.training.cancel(second)
    other.training.cancel(run, keep=True)
    assert services.training.show(second).state == "CANCELLED"
    view = wait_state(services, run, *ENDED)
    assert (view.state, view.adapter) == ("CANCELLED", "told"), "the newest checkpoint was kept"
    assert not is_alive(view.pid, None)
    assert services.adapters.became(live) == services.adapters.get(live).id == "told"
    assert json.loads((services.settings.adapters_dir / "told" / "run.json").read_text())["row_hashes"]
    assert services.adapters.learning() == services.manager.leases() == services.manager.queue() == []
    assert not workers(services.settings.home)


def test_memory_that_runs_out_is_tried_again_with_less_and_then_told_with_a_smaller_setting(forking, tmp_path):
    rows = put_rows(tmp_path / "long.jsonl", 40, words=400)
    asked = request(rows, method="prompt", steps=3, batch_size=33, limit_memory_bytes=1_000_000_000)
    run = forking.training.start(asked)
    view = wait_state(forking, run, *ENDED)
    assert view.state == "FAILED", view
    assert "ran out of memory" in view.error
    assert "Start it with" in view.error
    assert forking.training.store.get(run).attempt == 2, "tried once more by itself"
    named = view.summary["smaller"]
    smaller = replace(asked, **{name: named[name] for name in ("method", "batch_size", "accumulate", "max_tokens")})
    assert forking.training.plan(smaller).memory_bytes < forking.training.plan(asked).memory_bytes
    assert forking.manager.leases() == []


def test_files_that_may_not_grow(forking, forks, rows_file):
    """A limit on the size of files, in the worker alone: no right of root is needed."""
    forks.before = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    run = forking.training.start(request(rows_file, method="full", steps=2, save_steps=1))
    view = wait_state(forking, run, *ENDED)
    assert view.state == "FAILED"
    assert "The disk is full" in view.error
    assert "resume" in view.error
    assert forking.manager.leases() == []
    forks.before = lambda: None
    forking.training.resume(run)
    assert wait_state(forking, run, *ENDED).state == "DONE"


def test_an_app_killed_leaves_its_worker_to_the_next_one_which_notices_that_it_is_frozen(settings, rows_file):
    """Within ten seconds, as the soak measures; longer on a busy machine, but never as for one that computes."""
    onlooker = build_services(settings)
    with torture.owner(settings):
        run = onlooker.training.start(request(rows_file, steps=4000))
        pid = wait_for(lambda: (view := onlooker.training.show(run)).step >= 1 and view.pid, "training")
    with contextlib.closing(build_services(settings)) as again:
        again.training.start_supervisor()
        assert again.training.show(run).pid == pid
        assert [lease.lane for lease in again.manager.leases()] == ["train"]
        os.kill(pid, signal.SIGSTOP)
        view = wait_state(again, run, *ENDED, within_s=Patience().stall_floor_s)
        assert (view.state, "no sign of life" in view.error, again.manager.leases()) == ("FAILED", True, [])
        assert not workers(settings.home)


@pytest.mark.parametrize(("attempt", "held_by"), [(1, 1), (7, None), (0, None)])
def test_a_worker_that_is_not_wanted_does_not_begin(settings, rows_file, monkeypatch, attempt, held_by):
    """Another one has the run, it is on another attempt, or was cancelled: the run is not touched."""
    waiting = build_services(settings)
    run = waiting.training.start(request(rows_file))
    if attempt:
        waiting.training.store.begin(run, 1.0)
        waiting.training.store.update(run, pid=held_by)
    else:
        waiting.training.cancel(run)
    run_dir = settings.runs_dir / run
    monkeypatch.setattr(sys, "argv", ["worker", str(run_dir), str(settings.database), str(attempt)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert worker.main() == worker.NOT_MINE
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert not (run_dir / "events.jsonl").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"base": "owner/other"}, "base in use"),
        ({"steps": 0}, "Steps is 0"),
        ({"file": Path("nowhere.csv")}, "nowhere.csv"),
    ],
)
def test_what_cannot_start_is_told_at_once(settings, rows_file, wrong, words):
    waiting = build_services(settings)
    refused(words, lambda: waiting.training.start(replace(request(rows_file), **wrong)))
    assert waiting.training.runs() == []


def test_a_full_fine_tune_is_not_heard_and_another_owners_run_is_not_found(settings, shared, rows_file):
    waiting = build_services(settings)
    run = waiting.training.start(request(rows_file, method="full"))
    waiting.training.store.begin(run, time.time())
    put_checkpoint(settings.runs_dir / run, 2)
    assert (waiting.training.show(run).state, waiting.training.show(run).live) == ("RUNNING", "")
    refused("nothing to show", waiting.adapters.get, f"live-{run}", error=NotFoundError)
    refused("no adapter", shared.adapters.get, f"live-{run}", "somebody", error=NotFoundError)


@pytest.mark.parametrize(("seen", "first"), [(None, "0"), ("2,3", "2"), ("GPU-5f1a,GPU-9c", "GPU-5f1a"), ("", "")])
def test_a_worker_inherits_no_secret_and_sees_the_one_device_that_is_budgeted(seen, first):
    waits = {"GOMP_SPINCOUNT": "2000", "OMP_WAIT_POLICY": "passive"}
    env = {"PATH": "/bin", "HF_TOKEN": "x", "PLAYGROUND_API_TOKEN": "y", "AWS_SECRET_ACCESS_KEY": "z"} | waits
    passed = worker_environment(env if seen is None else env | {"CUDA_VISIBLE_DEVICES": seen})
    assert not {"x", "y", "z"} & set(passed.values())
    assert passed["CUDA_VISIBLE_DEVICES"] == first
    assert passed.items() >= waits.items(), "it waits for cores as its app does"
