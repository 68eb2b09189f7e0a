"""A run beside chat: its forward passes use the threads that are its share, no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from playground.gpu import device
from playground.gpu.device import LINGER_S, Lanes
from playground.training import worker
from playground.training.processes import EventReader
from playground.training.spec import RunSpec
from playground.training.worker import share_cores


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(4, 2)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def forward(self) -> int:
        self.embedding(torch.tensor([1]))
        return torch.get_num_threads()


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    """As if torch used four by itself."""
    own = torch.get_num_threads()
    torch.set_num_threads(4)
    device.own_threads.cache_clear()
    yield
    torch.set_num_threads(own)
    device.own_threads.cache_clear()


def test_every_forward_pass_takes_up_what_the_share_is_then(tmp_path: Path) -> None:
    now, model, chat = [100.0], Small(), Lanes(tmp_path)

    def clock() -> float:
        return now[0]

    share_cores(model, Lanes(tmp_path, 4, clock))
    assert model() == 4
    chat.enter("chat")
    now[0] += LINGER_S
    assert model() == 2
    chat.leave("chat")
    now[0] += LINGER_S
    assert model() == 4
    assert Lanes(tmp_path, 4, clock).threads("chat") == 2, "chat sees the run"
    wide = Small()
    share_cores(wide, Lanes(tmp_path / "wide", 16))
    assert wide() == 4, "never more than torch would by itself"


def test_a_worker_beside_chat_trains_with_half_the_cores(spec: RunSpec, tmp_path: Path) -> None:
    chat, run_dir = Lanes(tmp_path), tmp_path / "run"
    chat.enter("chat")
    run_dir.mkdir()
    replace(spec, steps=1, split={"validation": []}).write(run_dir)
    worker.run(run_dir, lanes=Lanes(tmp_path, 4))
    assert EventReader(run_dir).read()[-1]["event"] == "done"
    assert torch.get_num_threads() == 2
