"""Three of each fault on the real default base, and what a person waits for while a run trains. By hand, about twenty
minutes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from playground.chat.compare import Side
from playground.engine.request import Sampling
from playground.library.bases import Base
from playground.services import Services
from playground.settings import PROJECT_ROOT, Settings
from tests.services.conftest import make_lora, services
from tests.soak import torture
from tests.soak.results import record, spread
from tests.soak.torture import gone_away

__all__ = ["make_lora", "services"]
pytestmark = [pytest.mark.soak, pytest.mark.real]
TIMES, QUESTIONS = 3, 20
ROWS = PROJECT_ROOT / "examples" / "hospital_reports.jsonl"


@pytest.fixture
def settings(real_base: Base, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", base=str(real_base.path))


def test_kill_the_worker(services: Services, tmp_path: Path) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(21)
    expected = torture.reference_loss(services, file)
    rounds = [torture.kill_worker(services, file, chance, in_save=number == 0) for number in range(TIMES)]
    apart = max(abs(one.loss - expected) for one in rounds)
    record(
        "default_base_kill_worker",
        rounds=TIMES,
        resumed=TIMES,
        lost_steps_worst=max(one.lost_steps for one in rounds),
        noticed_s=spread([one.noticed_s for one in rounds]),
        final_loss_apart_worst=apart,
    )
    assert apart <= 1e-6


def test_kill_the_app(settings: Settings, tmp_path: Path) -> None:
    chance, rounds = random.Random(22), []
    for number, moment in enumerate(("loading", "running", "saving")):
        here = replace(settings, home=tmp_path / f"home-{number}")
        rounds.append(torture.kill_app(here, torture.rows_file(tmp_path), chance, moment, worker_too=number == 2))
    record(
        "default_base_kill_app", rounds=TIMES, orphans=0, doubles=0, true_state_s=spread([one.true_s for one in rounds])
    )


def test_cancel_freeze_and_hang(services: Services, tmp_path: Path) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(23)
    cancelled = [
        torture.cancel(services, file, chance, during) for during in ("queued", "loading", "running", "saving")
    ]
    record(
        "default_base_cancel", rounds=len(cancelled), deadlocks=0, ended_s=spread([one.ended_s for one in cancelled])
    )
    record(
        "default_base_frozen_worker",
        rounds=TIMES,
        noticed_s=spread([torture.freeze(services, file, chance) for _ in range(TIMES)]),
    )
    record(
        "default_base_hung_worker",
        rounds=TIMES,
        noticed_s=spread([torture.hang(services, file, chance) for _ in range(TIMES)]),
    )


def test_out_of_memory(services: Services, tmp_path: Path) -> None:
    rounds = [torture.starve(services, tmp_path, batch_size, 60, int(2.6e9)) for batch_size in (32, 48, 64)]
    record(
        "default_base_out_of_memory",
        rounds=TIMES,
        named_setting_worked=TIMES,
        settings=[
            {"batch_size": one.batch_size, "words": one.words, "limit_bytes": one.limit_bytes, "named": one.named}
            for one in rounds
        ],
    )


def test_clients_that_leave(services: Services) -> None:
    record(
        "default_base_client_gone",
        rounds=TIMES,
        lease_free_s=spread(gone_away(services, TIMES)),
        leaked_threads=0,
        leaked_leases=0,
    )


def first_tokens(services: Services, running: Callable[[], bool]) -> Iterator[float]:
    """Seconds from asking until the first token is there, question after question."""
    for number in range(QUESTIONS):
        if not running():
            return
        asked = time.monotonic()
        took_s = None
        for replies in services.compare.ask(
            [Side("base")], [[]], f"What does ward {number} need?", Sampling(max_tokens=24)
        ):
            if took_s is None and replies[0].completion_tokens:
                took_s = time.monotonic() - asked
        assert took_s is not None, replies[0].error
        yield took_s


def test_chat_while_a_run_trains(services: Services) -> None:
    alone = list(first_tokens(services, lambda: True))
    run = services.training.start(torture.request(ROWS, steps=4000, save_steps=100))
    torture.wait_for(lambda: services.training.show(run).step >= 2, "training")
    steps, began = services.training.show(run).step, time.monotonic()
    beside = list(first_tokens(services, lambda: services.training.show(run).state == "RUNNING"))
    chatted_s, after = time.monotonic() - began, services.training.show(run).step
    quiet_at, quiet_from = time.monotonic(), after
    torture.wait_for(lambda: services.training.show(run).step >= quiet_from + 10, "training alone")
    alone_s = (time.monotonic() - quiet_at) / (services.training.show(run).step - quiet_from)
    services.training.cancel(run)
    torture.wait_state(services, run, "CANCELLED")
    assert len(beside) == QUESTIONS
    assert after > steps, "the run goes on meanwhile"
    record(
        "chat_while_a_run_trains",
        base="smollm2-135m",
        questions=QUESTIONS,
        first_token_alone_s=spread(alone),
        first_token_beside_a_run_s=spread(beside),
        step_beside_chat_s=round(chatted_s / (after - steps), 2),
        step_alone_s=round(alone_s, 2),
    )
