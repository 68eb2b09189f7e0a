"""The long form of tests/services/test_workers.py, with the counts of the session manager's issue. By hand, about two
hours:

    OMP_NUM_THREADS=1 nice python -m pytest -m soak tests/soak/test_session_manager.py

What was measured goes into benchmarks/results/session_manager.json, each part under its own key.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from playground.services import Services, build_services
from playground.settings import Settings
from tests.services.conftest import make_lora, services
from tests.soak import torture
from tests.soak.results import record, spread

__all__ = ["make_lora", "services"]
pytestmark = pytest.mark.soak
KILLS, APP_KILLS, CANCELS, STARVED, FROZEN, HUNG, FILLED, LEFT, SWAPS = 50, 20, 300, 20, 10, 10, 10, 100, 500


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_kill_the_worker(services: Services, tmp_path: Path) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(11)
    expected = torture.reference_loss(services, file)
    rounds = []
    for number in range(KILLS):
        rounds.append(torture.kill_worker(services, file, chance, in_save=number % 3 == 0))
        apart = max(abs(one.loss - expected) for one in rounds)
        record(
            "kill_worker",
            rounds=len(rounds),
            of=KILLS,
            resumed=len(rounds),
            in_save=sum(one.during == "save" for one in rounds),
            lost_steps_worst=max(one.lost_steps for one in rounds),
            save_steps=torture.SAVE_STEPS,
            noticed_s=spread([one.noticed_s for one in rounds]),
            final_loss_apart_worst=apart,
        )
        assert apart <= 1e-6
    assert sum(one.during == "save" for one in rounds) >= KILLS / 5
    assert max(one.noticed_s for one in rounds) < 10


def test_kill_the_app(settings: Settings, tmp_path: Path) -> None:
    chance, rounds = random.Random(12), []
    for number in range(APP_KILLS):
        moment = torture.MOMENTS[number % len(torture.MOMENTS)]
        here = replace(settings, home=tmp_path / f"home-{number}")
        rounds.append(torture.kill_app(here, torture.rows_file(tmp_path), chance, moment, worker_too=number % 4 == 3))
        record(
            "kill_app",
            rounds=len(rounds),
            of=APP_KILLS,
            moments=Counter(one.moment for one in rounds),
            orphans=0,
            doubles=0,
            worker_killed_too=sum(one.worker_too for one in rounds),
            true_state_s=spread([one.true_s for one in rounds]),
        )


def test_cancel(services: Services, tmp_path: Path) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(13)
    rounds = []
    for _ in range(CANCELS):
        rounds.append(torture.cancel(services, file, chance, chance.choice(["queued", "loading", "running", "saving"])))
        record(
            "cancel",
            rounds=len(rounds),
            of=CANCELS,
            during=Counter(one.during for one in rounds),
            deadlocks=0,
            leaked_leases=0,
            ended_as=Counter(one.state for one in rounds),
            ended_s=spread([one.ended_s for one in rounds]),
        )


def test_out_of_memory(services: Services, tmp_path: Path) -> None:
    chance, rounds = random.Random(14), []
    for _ in range(STARVED):
        words, batch_size = chance.randint(30, 60), chance.choice([32, 48, 64])
        rounds.append(torture.starve(services, tmp_path, batch_size, words, int(chance.uniform(1.4e9, 1.8e9))))
        record(
            "out_of_memory",
            rounds=len(rounds),
            of=STARVED,
            named_setting_worked=sum(one.state == "DONE" for one in rounds),
            settings=[
                {"batch_size": one.batch_size, "words": one.words, "limit_bytes": one.limit_bytes, "named": one.named}
                for one in rounds
            ],
        )


def test_frozen(services: Services, tmp_path: Path) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(15)
    took = [torture.freeze(services, file, chance) for _ in range(FROZEN)]
    record("frozen_worker", rounds=len(took), noticed_s=spread(took))
    assert max(took) < 10


def test_hung(services: Services, tmp_path: Path) -> None:
    file, chance = torture.rows_file(tmp_path), random.Random(17)
    took = [torture.hang(services, file, chance) for _ in range(HUNG)]
    record("hung_worker", rounds=len(took), noticed_s=spread(took))
    assert max(took) < 10


def test_disk_full(settings: Settings, tmp_path: Path) -> None:
    chance, rounds = random.Random(16), []
    try:
        with torture.small_disk(tmp_path / "small") as folder:
            built = build_services(replace(settings, home=folder))
            built.training.start_supervisor()
            for _ in range(FILLED):
                rounds.append(torture.fill_disk(built, torture.rows_file(tmp_path), chance))
            built.close()
    except PermissionError:
        pytest.skip("mounting a small disk needs root")
    record(
        "disk_full",
        rounds=len(rounds),
        failed_with_the_reason=len(rounds),
        checkpoint_loads=len(rounds),
        example=rounds[0][0],
    )


def test_clients_that_leave(services: Services) -> None:
    freed_s = torture.gone_away(services, LEFT)
    record("client_gone", rounds=LEFT, lease_free_s=spread(freed_s), leaked_threads=0, leaked_leases=0)


def test_swap_storm(services: Services, make_lora: Callable[..., Path]) -> None:
    grown = torture.swap_storm(services, make_lora, SWAPS)
    record("swap_storm", threads=8, turns=SWAPS, wrong_replies=0, fingerprint_equal=True, memory_grown_bytes=grown)
