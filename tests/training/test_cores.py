"""A run beside chat: its forward passes use the threads that are its share, no more."""

from dataclasses import replace

import pytest
import torch

from playground.gpu import manager
from playground.gpu.manager import LINGER_S, Lanes
from playground.training import worker
from playground.training.run_files import EventReader


class Small(torch.nn.Embedding):
    """A model that is nothing but its input embeddings; a forward pass returns the threads it may use."""

    def get_input_embeddings(self):
        return self

    def forward(self, input):
        return torch.get_num_threads()


@pytest.fixture(autouse=True)
def four_threads():
    """As if torch used four by itself."""
    own = torch.get_num_threads()
    torch.set_num_threads(4)
    manager.own_threads.cache_clear()
    yield
    torch.set_num_threads(own)
    manager.own_threads.cache_clear()


def test_every_forward_pass_takes_up_what_the_share_is_then(tmp_path):
    now, chat, ids = [100.0], Lanes(tmp_path), torch.tensor([1])
    model, wide = Small(4, 2), Small(4, 2)
    worker.share_cores(model, Lanes(tmp_path, 4, lambda: now[0]))
    assert model(ids) == 4
    chat.enter("chat")
    now[0] += LINGER_S
    assert model(ids) == 2
    chat.leave("chat")
    now[0] += LINGER_S
    assert model(ids) == 4
    assert Lanes(tmp_path, 4, lambda: now[0]).threads("chat") == 2, "chat sees the run"
    worker.share_cores(wide, Lanes(tmp_path / "wide", 16))
    assert wide(ids) == 4, "never more than torch would by itself"


def test_a_worker_beside_chat_trains_with_half_the_cores(spec, tmp_path):
    chat, run_dir = Lanes(tmp_path), tmp_path / "run"
    chat.enter("chat")
    run_dir.mkdir()
    replace(spec, steps=1, split={"validation": []}).write(run_dir)
    worker.run(run_dir, lanes=Lanes(tmp_path, 4))
    assert (EventReader(run_dir).read()[-1]["event"], torch.get_num_threads()) == ("done", 2)
