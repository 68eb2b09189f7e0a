"""Chat leaves a run its cores, and a run chat: the app's own services with the other side played by whoever holds its
lane."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from playground.chat.compare import Side
from playground.engine.request import Sampling
from playground.gpu import device
from playground.gpu.device import CpuDevice, Lanes, usable_cores
from playground.gpu.policy import threads_of
from playground.services import Services, build_services
from playground.settings import Settings


@dataclass
class OtherDevice:
    name: str = "CUDA"
    total_bytes: int = 16 * 10**9
    free_bytes: int = 16 * 10**9


ALL = usable_cores()
CHAT, RUN = threads_of("chat", ALL, {"train"}), threads_of("train", ALL, {"chat"})


@pytest.fixture(autouse=True)
def one_thread_a_core(settings: Settings) -> Iterator[None]:
    """As if torch by itself used all of them; elsewhere the tests may be told to use one."""
    settings.home.mkdir()
    own = torch.get_num_threads()
    torch.set_num_threads(ALL)
    device.own_threads.cache_clear()
    yield
    torch.set_num_threads(own)
    device.own_threads.cache_clear()


def threads_while_answering(services: Services) -> tuple[int, int]:
    """(threads of the engine's computing thread, what a run may use) while a reply is written."""
    compute, run = services.bases.engine().worker, Lanes(services.settings.home)
    found = []
    for _ in services.compare.ask([Side("base")], [[]], "Hello", Sampling(max_tokens=6)):
        if services.manager.leases():
            found.append((compute.run(torch.get_num_threads), run.threads("train")))
    return found[-1]


def test_both_have_their_part_of_the_cores_while_both_compute(settings: Settings) -> None:
    run = Lanes(settings.home)
    run.enter("train")
    assert threads_while_answering(build_services(settings, device=CpuDevice())) == (CHAT, RUN)


def test_chat_alone_has_all_cores_and_a_run_that_comes_is_told(settings: Settings) -> None:
    assert threads_while_answering(build_services(settings, device=CpuDevice())) == (ALL, RUN)


def test_on_another_device_nothing_is_shared_out(settings: Settings) -> None:
    run = Lanes(settings.home)
    run.enter("train")
    assert threads_while_answering(build_services(settings, device=OtherDevice())) == (ALL, ALL)
