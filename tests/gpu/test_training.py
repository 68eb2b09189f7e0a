"""A run on a CUDA device: its precision, its checkpoints, its memory. Skipped where there is none."""

from dataclasses import replace

import pytest
import torch

from playground.methods import get_method
from playground.training.fused import Heads, Rows
from playground.training.model import load_for_training, precision
from playground.training.objectives import PackedSequenceCollator, answer_loss
from tests.training.conftest import moved, rows, run_worker, spec, spec_in  # noqa: F401  (fixtures)

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _card():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.mark.parametrize("name", ["lora", "qlora", "full", "dora", "prefix"])
@pytest.mark.parametrize("chosen", ["auto", "fp16"])
def test_a_run_learns_on_a_card_and_goes_on_with_its_scaler(
    monkeypatch,
    spec,  # noqa: F811
    run_worker,  # noqa: F811
    tmp_path,
    name,
    chosen,
):
    monkeypatch.setenv("PLAYGROUND_PRECISION", chosen)
    made = replace(spec, method=name, rank=0 if name == "full" else 4, lr=3e-3, accumulate=2)
    events = run_worker(made, tmp_path / "run")
    assert events[-1]["event"] == "done", events[-1]
    held_out = [event["loss"] for event in events if event["event"] == "eval"]
    assert held_out[-1] < held_out[0]
    assert events[-1]["peak_memory_bytes"] > 0
    scaler = list((tmp_path / "run" / "checkpoints").glob("*/scaler.pt"))
    assert bool(scaler) == (precision().compute == torch.float16)
    longer = run_worker(replace(made, steps=6), tmp_path / "run")
    assert [event["step"] for event in longer[len(events) :] if event["event"] == "step"] == [5, 6]


@pytest.mark.parametrize("name", ["lora", "qlora", "full"])
def test_what_a_card_learns_is_nearly_what_a_processor_does(tiny_base, monkeypatch, name):
    some, found = rows(40, (30, 90)), []
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda kind=kind: kind == "cuda")
        model = moved(load_for_training(tiny_base, get_method(name), 0 if name == "full" else 4, 1)).to(kind)
        batch = {key: value.to(kind) for key, value in PackedSequenceCollator()(some).items()}
        with precision().autocast():
            loss = answer_loss(model, batch)
        loss.backward()
        found.append(
            (float(loss.detach()), torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.requires_grad]))
        )
    (expected, gradient), (loss, other) = found
    assert loss == pytest.approx(expected, rel=0.02)
    assert torch.cosine_similarity(gradient, other, dim=0) > 0.9


@pytest.mark.parametrize("spans", [[0, 70, 1, 120], [50, 70, 1, 120]])
def test_attention_over_packed_rows_is_the_same_on_a_card(spans):
    torch.manual_seed(1)
    heads, qkv = Heads(4, 2, 16, 0.25), torch.randn(sum(spans), 8 * 16)
    here = Rows(spans, qkv).attend(qkv, heads)
    there = Rows(spans, qkv.cuda()).attend(qkv.cuda(), heads)
    assert torch.allclose(here, there.cpu(), atol=1e-4)
