"""In what precision weights train, what a plan counts for them, and the private parts that training relies on."""

import inspect
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer
from trl import DPOTrainer

from playground.data.render import Rendered
from playground.methods import all_methods, get_method
from playground.methods.method import weights_in
from playground.training.model import Precision, load_for_training, optimiser_name, precision, trainable
from playground.training.objectives import PackedSequenceCollator, answer_loss
from playground.training.processes import CARD, card_of, worker_environment
from playground.training.spec import HALF_KEPT_PACKED, PROCESS_BYTES, needs
from playground.training.trainer import arguments_of
from tests.refused import refused
from tests.training.conftest import PLAIN

SHAPES = {"model.embed_tokens.weight": (1000, 64), "model.layers.0.mlp.up_proj.weight": (256, 64)}


@pytest.fixture
def card(monkeypatch, tiny_base):
    """torch says that there is one, which computes in bf16 or not. What is imported before has seen that there is
    none."""
    load_for_training(tiny_base, get_method("lora"), 4, 1)

    def there(bf16):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        return torch.bfloat16 if bf16 else torch.float16

    return there


@pytest.mark.parametrize("bf16", [True, False])
def test_on_a_card_what_stays_is_half_as_wide_and_what_moves_is_fp32_with_a_scaler_for_fp16(card, tiny_base, bf16):
    half = card(bf16)
    assert precision() == Precision("cuda", half)
    arguments = arguments_of(PLAIN, 24, Path())
    assert (arguments["bf16"], arguments["fp16"], arguments["use_cpu"]) == (bf16, not bf16, False)
    assert arguments["dataloader_pin_memory"]
    whole = load_for_training(tiny_base, get_method("full"), 0, 1)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    for scorer in (False, True):
        lora = load_for_training(tiny_base, get_method("lora"), 4, 1, scorer=scorer)
        assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {half}
    assert {optimiser_name(method) for method in all_methods().values() if method.quantised} == {"paged_adamw_8bit"}
    assert ("PLAYGROUND_PRECISION=fp32" in precision().diverged) is not bf16


@pytest.mark.parametrize(
    ("said", "bf16", "expected"), [("fp32", True, "float32"), ("bf16", False, "bfloat16"), ("auto", False, "float16")]
)
def test_a_person_s_precision_counts_for_runs_too(card, monkeypatch, said, bf16, expected):
    card(bf16)
    monkeypatch.setenv("PLAYGROUND_PRECISION", said)
    assert precision().compute == getattr(torch, expected)
    assert worker_environment(os.environ)["PLAYGROUND_PRECISION"] == said


@pytest.mark.parametrize(
    ("visible", "card", "seen"),
    [(None, 1, "1"), ("2,3", 0, "2"), ("2,3", 1, "3"), ("GPU-a, GPU-b", 1, "GPU-b"), ("", 0, "")],
)
def test_a_worker_sees_the_card_that_the_session_manager_chose_and_no_other(tmp_path, visible, card, seen):
    (tmp_path / CARD).write_text(str(card))
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert card_of(tmp_path) == card
    assert worker_environment(env, card=card_of(tmp_path))["CUDA_VISIBLE_DEVICES"] == seen
    assert card_of(tmp_path / "gone") == 0


def test_on_a_processor_runs_are_in_fp32_and_fp16_is_not_tried(monkeypatch):
    assert precision() == Precision("cpu", torch.float32)
    monkeypatch.setenv("PLAYGROUND_PRECISION", "fp16")
    assert precision().compute == torch.float32


@pytest.mark.parametrize("method", ["lora", "full", "prefix"])
def test_a_run_in_bf16_learns_and_goes_on_from_its_checkpoint(monkeypatch, spec, run_worker, tmp_path, method):
    monkeypatch.setenv("PLAYGROUND_PRECISION", "bf16")
    rank = {"lora": 4, "full": 0, "prefix": 4}[method]
    events = run_worker(replace(spec, method=method, rank=rank, lr=3e-3), tmp_path / "run")
    assert events[-1]["event"] == "done", events[-1]
    weights = load_file(next(iter((tmp_path / "adapters").glob("*/*.safetensors"))))
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    held_out = [event["loss"] for event in events if event["event"] == "eval"]
    assert held_out[-1] < held_out[0]
    longer = run_worker(replace(spec, method=method, rank=rank, lr=3e-3, steps=6), tmp_path / "run")
    assert longer[-1]["event"] == "done"
    assert [event["step"] for event in longer[len(events) :] if event["event"] == "step"] == [5, 6]


def planned(method, *, cuda, objective="sft", reward_models=0):
    sizes = {"rank": 4, "steps": 10, "batch_size": 2, "tokens_p95": 64, "tokens_mean": 50, "answer_max": 20}
    return needs(objective, SHAPES, get_method(method), **sizes, reward_models=reward_models, cuda=cuda)


def test_on_a_card_a_base_that_stays_counts_half_and_the_process_not_at_all():
    """A reward model stays too; a reference is as wide as what it is compared with; weights that move have a copy in
    half precision; beside 4-bit weights the rest is as wide as a LoRA run's, and an adapter's moments are small."""
    embedded = 1000 * 64
    cases = (("lora", "sft", 2 * weights_in(SHAPES)), ("full", "sft", -2 * weights_in(SHAPES)))
    cases += (("qlora", "sft", 2 * embedded + 6 * planned("qlora", cuda=False).trainable_params),)
    for method, objective, less in (*cases, ("full", "dpo", -2 * weights_in(SHAPES))):
        here, there = (planned(method, cuda=cuda, objective=objective) for cuda in (False, True))
        stays = [one.memory_bytes - one.batch_bytes for one in (here, there)]
        assert stays[0] - stays[1] == PROCESS_BYTES + less, method
        assert there.batch_bytes < here.batch_bytes
        assert here.disk_bytes == there.disk_bytes
    for cuda, each in ((False, 4), (True, 2)):
        without, with_two = (planned("lora", cuda=cuda, objective="grpo", reward_models=count) for count in (0, 2))
        assert with_two.memory_bytes - without.memory_bytes == 2 * each * weights_in(SHAPES)


def test_what_a_run_in_half_precision_keeps_for_the_gradient_is_what_the_plan_counts(monkeypatch, tiny_base):
    """Saved tensors beside those of fp32, packed LoRA and QLoRA: half, as ``needs`` has it."""
    some = [Rendered("", "", [*range(5, 90)], [*range(90, 120)]) for _ in range(4)]
    for method in ("lora", "qlora"):
        kept = []
        for chosen in ("fp32", "bf16"):
            monkeypatch.setenv("PLAYGROUND_PRECISION", chosen)
            model, sizes = load_for_training(tiny_base, get_method(method), 4, 1), {}
            own = {p.untyped_storage().data_ptr() for p in model.parameters()}

            def keep(tensor, sizes=sizes):
                sizes[tensor.untyped_storage().data_ptr()] = tensor, tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision().autocast():
                answer_loss(model, PackedSequenceCollator()(some))
            kept.append(sum(size for place, (_, size) in sizes.items() if place not in own))
        assert kept[1] / kept[0] < 1.1 * HALF_KEPT_PACKED


def test_the_private_parts_that_are_overridden_are_there():
    """In the installed transformers and TRL: of another name, ours would never be called, and no run would tell."""
    assert callable(Trainer._get_train_sampler)
    assert callable(DPOTrainer.create_model_card)
    assert {"batch_samples", "device"} <= set(inspect.signature(Trainer._get_num_items_in_batch).parameters)
    refused("TrainableLM is no int", trainable, 1, error=TypeError)


def test_on_a_processor_a_base_in_bf16_rounds_its_products_alone_and_a_run_keeps_it(spec, run_worker, tmp_path):
    """Losses within a share of those of fp32, a checkpoint that is gone on from in bf16 whatever is measured then."""
    found = {}
    for said in ("", "bf16"):
        run = replace(spec, method="lora", rank=4, lr=3e-3, precision=said, adapters_dir=str(tmp_path / f"to {said}"))
        events = run_worker(run, tmp_path / f"run {said}")
        assert events[-1]["event"] == "done", events[-1]
        longer = run_worker(replace(run, steps=6), tmp_path / f"run {said}")
        found[said] = [event["loss"] for event in longer if event["event"] == "step"]
        weights = load_file(next((tmp_path / f"to {said}").glob("*/*.safetensors")))
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
    whole, half = found[""], found["bf16"]
    assert whole != half
    assert half == pytest.approx(whole, rel=0.02)
    assert half[-1] < half[0]


def test_what_a_processor_rounds_counts_half_and_only_where_the_forward_pass_is_written_for_it():
    sizes = {"rank": 4, "steps": 10, "batch_size": 2, "tokens_p95": 64, "tokens_mean": 50, "answer_max": 20}
    for method, objective, less in (("lora", "sft", 2), ("full", "sft", 0), ("prompt", "sft", 0), ("lora", "dpo", 0)):
        whole, half = (
            needs(objective, SHAPES, get_method(method), **sizes, packed=True, half=half) for half in (False, True)
        )
        assert whole.memory_bytes - half.memory_bytes == less * weights_in(SHAPES)
