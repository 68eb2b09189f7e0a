"""Every kind of adapter as rows of one batch, on both paths, against PEFT one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from playground.engine.engine import Engine
from playground.engine.request import Row, Sampling
from playground.methods import get_method
from playground.training.model import load_for_training
from tests.engine.models import World, byte_tokenizer, furthest, logits_of, run

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 8},
    "patterns": {
        "rank_pattern": {"q_proj": 8, r"model\.layers\.1\.mlp\.down_proj": 2},
        "alpha_pattern": {"q_proj": 3, "up_proj": 40},
    },
    "rslora-patterns": {
        **{"use_rslora": True, "rank_pattern": {"v_proj": 6}},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 1},
    },
    "some-modules": {"target_modules": ["q_proj", "v_proj"]},
    "one-layer": {"target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [1]},
    "dora": {},
    "dora-some": {"use_rslora": True, "target_modules": ["k_proj", "up_proj", "down_proj"]},
    "ia3": {},
    "ia3-up": {"target_modules": ["k_proj", "v_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
    "ia3-qkv-in": {"target_modules": ["q_proj", "k_proj", "gate_proj"], "feedforward_modules": ["q_proj", "gate_proj"]},
    "prefix": {},
    "prefix-long": {"num_virtual_tokens": 20},
    "deep": {},
    "prompt": {},
    "ptuning": {},
    "ptuning-lstm": {"encoder_reparameterization_type": "LSTM", "num_virtual_tokens": 2},
    "bottleneck": {"activation": "relu"},
    "bottleneck-pfeiffer": {"placement": "pfeiffer", "r": 7, "activation": "silu"},
    "bottleneck-gelu": {"r": 3},
    "bottleneck-odd": {"target_modules": ["k_proj", "gate_proj", "layers.1.mlp.down_proj"], "r": 5},
}
PROMPTS = [
    "One",
    "Hello there, my order has not arrived yet and I would like to know",
    "The report says",
    "1, 2, 3, 4, 5, ",
]
TOKENS = 12
ROWS = {name: PROMPTS[number % 4] for number, name in enumerate(("", *KINDS, "qlora"))}


def train_qlora(base: Path, folder: Path) -> Path:
    """A LoRA trained for a few steps on the base in NF4, by the project's own loader."""
    model = load_for_training(base, get_method("qlora"), rank=4, seed=1)
    ids = torch.tensor([byte_tokenizer()("The quick brown fox jumps over the lazy dog.")["input_ids"]])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(4):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama-bias", "qwen3"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A base with biases on all of attention, and one with norms on q and k; other families in test_families.py."""
    made = World(tmp_path_factory.mktemp(request.param), request.param, KINDS)
    made.adapters["qlora"] = train_qlora(made.base, made.base.with_name("qlora"))
    return made


@pytest.fixture(scope="module")
def engine(path: str, world: World) -> Engine:
    return world.engine(path)


def test_all_kinds_in_one_batch_say_what_peft_says(engine: Engine, world: World) -> None:
    rows = [Row(prompt, name or None, Sampling(max_tokens=TOKENS), logprobs=0) for name, prompt in ROWS.items()]
    for row, state in zip(rows, run(engine, rows), strict=True):
        expected, logits = world.said(row.adapter, row.prompt, TOKENS), world.logits(row.adapter, row.prompt)
        assert list(state.tokens) == expected.tokens, row.adapter
        assert furthest(state, expected.shares) < 1e-3, row.adapter
        assert (logits_of(engine, row.prompt, row.adapter) - logits).abs().max() < 1e-3, row.adapter
    assert engine.check_fingerprint()[1]


def test_each_differs_from_the_base_and_from_every_other(engine: Engine) -> None:
    said = {name: logits_of(engine, PROMPTS[1], name or None) for name in ROWS}
    names = list(said)
    for number, name in enumerate(names):
        for other in names[:number]:
            assert (said[name] - said[other]).abs().max() > 0.05, (name, other)


def test_alone_in_a_batch_or_beside_one_of_its_kind(engine: Engine, world: World) -> None:
    """Batches of one kind take other branches than mixed ones."""
    alone = ("", "lora", "dora", "ia3-qkv-in", "patterns", "prefix", "deep", "prompt", "ptuning", "bottleneck-odd")
    for name in alone:
        state = run(engine, [Row(ROWS[name], name or None, Sampling(max_tokens=TOKENS))])[0]
        assert list(state.tokens) == world.said(name, ROWS[name], TOKENS).tokens, name
    pairs = [("dora", "dora-some"), ("ia3", "ia3-up"), ("lora", "one-layer"), ("ia3", ""), ("dora", "ia3-qkv-in")]
    pairs += [("prefix", "prefix-long"), ("prompt", ""), ("ptuning", "deep")]
    pairs += [("bottleneck", "bottleneck-gelu"), ("bottleneck", ""), ("bottleneck-odd", "dora")]
    for pair in pairs:
        states = run(engine, [Row(ROWS[name], name or None, Sampling(max_tokens=TOKENS)) for name in pair])
        for name, state in zip(pair, states, strict=True):
            assert list(state.tokens) == world.said(name, ROWS[name], TOKENS).tokens, pair


def test_rows_of_other_kinds_join_and_leave(engine: Engine, world: World) -> None:
    """Fewer rows with every step: what is left keeps its own adapter."""
    names = ["ia3", "prefix", "dora", "bottleneck", "", "prompt", "lora", "bottleneck-gelu", "patterns", "ptuning"]
    names += ["qlora", "deep"]
    rows = [Row(ROWS[name], name or None, Sampling(max_tokens=1 + number)) for number, name in enumerate(names)]
    for row, state in zip(rows, run(engine, rows), strict=True):
        expected = world.said(row.adapter, row.prompt, TOKENS).tokens
        assert list(state.tokens) == expected[: len(state.tokens)]
        assert len(state.tokens) == min(row.sampling.max_tokens, len(expected))
