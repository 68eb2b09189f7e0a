"""The newest checkpoint of a run that trains is a side: asked while it learns, replaced by a newer one, and by the
adapter at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from playground.chat.compare import Side
from playground.engine.request import Sampling
from playground.errors import NotFoundError
from playground.runs.progress import RunView
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from tests.services.conftest import last

Until = Callable[[Callable[[], RunView], Callable[[RunView], bool]], RunView]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_a_run_answers_as_it_learns(services: Services, rows_file: Path, until: Until, method: str) -> None:
    request = TrainRequest(rows_file, "slow one", method=method, steps=4000, batch_size=4, save_steps=5, lr=0.01)
    run = services.training.start(request)
    assert services.adapters.learning() == []

    def look() -> RunView:
        return services.training.show(run)

    live = until(look, lambda view: bool(view.live)).live
    first = services.adapters.get(live)
    assert first.id == live
    assert [card.id for card in services.adapters.learning()] == [live]
    assert first.name.startswith("slow one, step ")
    (reply,) = last(services.compare.ask([Side(live)], [[]], "Say 3", Sampling(max_tokens=4)))
    assert not reply.error
    assert reply.stamp is not None
    step = look().step
    until(look, lambda view: view.step > step + 10)
    assert services.adapters.get(live).sha256 not in (first.sha256, reply.stamp["adapter_sha256"]), (
        "it has learned since"
    )
    assert all(row.card.id != live for row in services.adapters.list()), "it is not in the library"
    services.training.cancel(run, keep=True)
    done = until(look, lambda view: view.state == "CANCELLED")
    assert done.adapter
    assert services.adapters.became(live) == done.adapter
    assert services.adapters.get(live).id == done.adapter
    assert services.adapters.learning() == []


def test_a_full_fine_tune_is_not_heard_and_another_owners_run_is_not_found(
    services: Services, rows_file: Path, until: Until
) -> None:
    run = services.training.start(
        TrainRequest(rows_file, "whole", method="full", steps=4000, batch_size=4, save_steps=2)
    )
    view = until(lambda: services.training.show(run), lambda view: len(view.eval_loss) > 2)
    assert view.live == ""
    with pytest.raises(NotFoundError, match="nothing to show"):
        services.adapters.get(f"live-{run}")
    services.training.cancel(run)
    settings = replace(services.settings, shared=True)
    shared = build_services(settings)
    with pytest.raises(NotFoundError, match="no adapter"):
        shared.adapters.get(f"live-{run}", "somebody")
