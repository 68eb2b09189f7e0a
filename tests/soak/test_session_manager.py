"""The long form of tests/services/test_workers.py: each fault many times on the tiny model (about two hours), and a few
times on the default base (about twenty minutes). By hand:

    OMP_NUM_THREADS=1 nice python -m pytest -m soak tests/soak/test_session_manager.py

What was measured goes into benchmarks/results/session_manager.json, each part under its own key.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from playground.library.bases import Base
from playground.services import Services, build_services
from playground.settings import Settings
from tests.services.conftest import make_lora, services
from tests.soak import torture
from tests.soak.results import record, spread

__all__ = ["make_lora", "services"]
pytestmark = pytest.mark.soak
T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """How often each fault is made. prefix: of the keys of its results. words, limit_bytes: the range that a run
    without memory is drawn from."""

    prefix: str
    kills: int
    app_kills: int
    cancels: int
    starved: int
    stopped: int
    left: int
    words: tuple[int, int]
    limit_bytes: tuple[float, float]

    def rounds(
        self, key: str, count: int, one: Callable[[int], T], said: Callable[[list[T]], dict[str, Any]]
    ) -> list[T]:
        """``one`` so many times; what was measured so far is recorded after each."""
        made: list[T] = []
        for number in range(count):
            made.append(one(number))
            record(self.prefix + key, rounds=len(made), of=count, **said(made))
        return made


SCALES = {
    "tiny": Scale("", 50, 20, 300, 20, 10, 100, (30, 60), (1.4e9, 1.8e9)),
    "default": Scale("default_base_", 3, 4, 4, 3, 3, 3, (60, 60), (2.6e9, 2.6e9)),
}
tiny_alone = pytest.mark.parametrize("scale", ["tiny"], indirect=True)


@pytest.fixture(params=["tiny", pytest.param("default", marks=pytest.mark.real)])
def scale(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scale:
    if request.param == "tiny":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return SCALES[request.param]


@pytest.fixture
def settings(scale: Scale, tiny_base: Path, real_base: Base, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", base=str(real_base.path if scale.prefix else tiny_base))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return torture.rows_file(tmp_path)


@pytest.fixture
def chance() -> random.Random:
    return random.Random(11)


def test_kill_the_worker(scale: Scale, services: Services, file: Path, chance: random.Random) -> None:
    expected = torture.reference_loss(services, file)

    def apart(rounds: list[torture.Killed]) -> float:
        return max(abs(one.loss - expected) for one in rounds)

    rounds = scale.rounds(
        "kill_worker",
        scale.kills,
        lambda number: torture.kill_worker(services, file, chance, in_save=number % 3 == 0),
        lambda rounds: {
            "in_save": sum(one.during == "save" for one in rounds),
            "lost_steps_worst": max(one.lost_steps for one in rounds),
            "save_steps": torture.SAVE_STEPS,
            "noticed_s": spread([one.noticed_s for one in rounds]),
            "final_loss_apart_worst": apart(rounds),
        },
    )
    assert apart(rounds) <= 1e-6
    assert sum(one.during == "save" for one in rounds) >= len(rounds) // 5
    assert max(one.noticed_s for one in rounds) < 10


def test_kill_the_app(scale: Scale, settings: Settings, file: Path, tmp_path: Path, chance: random.Random) -> None:
    def kill(number: int) -> torture.AppKilled:
        moment = torture.MOMENTS[number % len(torture.MOMENTS)]
        here = replace(settings, home=tmp_path / f"home-{number}")
        return torture.kill_app(here, file, chance, moment, worker_too=number % 4 == 3)

    scale.rounds(
        "kill_app",
        scale.app_kills,
        kill,
        lambda rounds: {
            "moments": Counter(one.moment for one in rounds),
            "orphans": 0,
            "doubles": 0,
            "worker_killed_too": sum(one.worker_too for one in rounds),
            "true_state_s": spread([one.true_s for one in rounds]),
        },
    )


def test_cancel(scale: Scale, services: Services, file: Path, chance: random.Random) -> None:
    moments = ("queued", "loading", "running", "saving")
    scale.rounds(
        "cancel",
        scale.cancels,
        lambda number: torture.cancel(services, file, chance, moments[number % len(moments)]),
        lambda rounds: {
            "during": Counter(one.during for one in rounds),
            "deadlocks": 0,
            "leaked_leases": 0,
            "ended_as": Counter(one.state for one in rounds),
            "ended_s": spread([one.ended_s for one in rounds]),
        },
    )


def test_out_of_memory(scale: Scale, services: Services, tmp_path: Path, chance: random.Random) -> None:
    def starve(number: int) -> torture.Starved:
        words, limit_bytes = chance.randint(*scale.words), int(chance.uniform(*scale.limit_bytes))
        return torture.starve(services, tmp_path, (32, 48, 64)[number % 3], words, limit_bytes)

    def said(rounds: list[torture.Starved]) -> dict[str, Any]:
        names = ("batch_size", "words", "limit_bytes", "named")
        settings = [{name: getattr(one, name) for name in names} for one in rounds]
        return {"named_setting_worked": sum(one.state == "DONE" for one in rounds), "settings": settings}

    scale.rounds("out_of_memory", scale.starved, starve, said)


@pytest.mark.parametrize(("key", "fault"), [("frozen_worker", torture.freeze), ("hung_worker", torture.hang)])
def test_a_worker_that_does_nothing_is_noticed(
    scale: Scale, services: Services, file: Path, chance: random.Random, key: str, fault: Callable[..., float]
) -> None:
    took = scale.rounds(
        key, scale.stopped, lambda _: fault(services, file, chance), lambda rounds: {"noticed_s": spread(rounds)}
    )
    assert max(took) < 10


@tiny_alone
def test_disk_full(scale: Scale, settings: Settings, file: Path, tmp_path: Path, chance: random.Random) -> None:
    try:
        with torture.small_disk(tmp_path / "small") as folder:
            built = build_services(replace(settings, home=folder))
            built.training.start_supervisor()
            scale.rounds(
                "disk_full",
                scale.stopped,
                lambda _: torture.fill_disk(built, file, chance),
                lambda rounds: {"checkpoint_loads": len(rounds), "example": rounds[0][0]},
            )
            built.close()
    except PermissionError:
        pytest.skip("mounting a small disk needs root")


def test_clients_that_leave(scale: Scale, services: Services) -> None:
    freed_s = torture.gone_away(services, scale.left)
    record(
        scale.prefix + "client_gone",
        rounds=scale.left,
        lease_free_s=spread(freed_s),
        leaked_threads=0,
        leaked_leases=0,
    )


@tiny_alone
def test_swap_storm(services: Services, make_lora: Callable[..., Path]) -> None:
    grown = torture.swap_storm(services, make_lora, 500)
    record("swap_storm", threads=8, turns=500, wrong_replies=0, fingerprint_equal=True, memory_grown_bytes=grown)
