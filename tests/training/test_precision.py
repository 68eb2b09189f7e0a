"""In what precision weights stand while they train, what a plan counts for them, and the private parts of libraries
that training relies on."""

import inspect

import torch
from transformers import Trainer
from trl import DPOTrainer

from playground.engine.load import pick_device
from playground.methods import all_methods, get_method
from playground.methods.method import weights_in
from playground.training.model import load_for_training, optimiser_name, trainable, training_dtype
from playground.training.spec import PROCESS_BYTES, needs
from tests.refused import refused

SHAPES = {"model.embed_tokens.weight": (1000, 64), "model.layers.0.mlp.up_proj.weight": (256, 64)}


def test_weights_that_move_are_never_bf16(monkeypatch, tiny_base):
    """torch says that there is a card which computes in bf16. What is imported before has seen that there is none."""
    load_for_training(tiny_base, get_method("lora"), 4, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert training_dtype() == torch.bfloat16
    whole = load_for_training(tiny_base, get_method("full"), 0, 1)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    lora = load_for_training(tiny_base, get_method("lora"), 4, 1)
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {optimiser_name(method) for method in all_methods().values() if method.quantised} == {"paged_adamw_8bit"}


def test_a_card_that_only_emulates_bf16_neither_trains_nor_decodes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert training_dtype() == torch.float32
    assert pick_device() == (torch.device("cuda"), torch.float16)


def planned(method, *, cuda, objective="sft", reward_models=0):
    sizes = {"rank": 4, "steps": 10, "batch_size": 2, "tokens_p95": 64, "tokens_mean": 50, "answer_max": 20}
    return needs(objective, SHAPES, get_method(method), **sizes, reward_models=reward_models, cuda=cuda)


def test_on_a_card_a_base_that_stays_counts_half_and_the_process_not_at_all():
    """A reward model stays too; a reference is as wide as what it is compared with."""
    for method, objective, less in (("lora", "sft", 2), ("full", "sft", 0), ("qlora", "sft", 0), ("full", "dpo", 0)):
        here, there = (planned(method, cuda=cuda, objective=objective) for cuda in (False, True))
        assert here.memory_bytes - there.memory_bytes == PROCESS_BYTES + less * weights_in(SHAPES)
        assert (here.disk_bytes, here.seconds) == (there.disk_bytes, there.seconds)
    for cuda, each in ((False, 4), (True, 2)):
        without, with_two = (planned("lora", cuda=cuda, objective="grpo", reward_models=count) for count in (0, 2))
        assert with_two.memory_bytes - without.memory_bytes == 2 * each * weights_in(SHAPES)


def test_the_private_parts_that_are_overridden_are_there():
    """In the installed transformers and TRL: of another name, ours would never be called, and no run would tell."""
    assert callable(Trainer._get_train_sampler)
    assert callable(DPOTrainer.create_model_card)
    assert {"batch_samples", "device"} <= set(inspect.signature(Trainer._get_num_items_in_batch).parameters)
    refused("TrainableLM is no int", trainable, 1, error=TypeError)
