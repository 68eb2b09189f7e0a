"""Blends are what PEFT's own weighted combination says, and name what they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from playground.errors import InputError
from playground.library.blending import blend
from playground.library.card import AdapterCard, read_card
from tests.engine.conftest import make_lora
from tests.library.test_merging import logits

__all__ = ["make_lora"]


@pytest.fixture
def pair(make_lora: Callable[..., Path]) -> list[AdapterCard]:
    return [read_card(make_lora(11, rank=4)), read_card(make_lora(12, rank=8))]


def test_a_linear_blend_of_unlike_ranks_is_the_weighted_sum_of_the_changes(
    tiny_base: Path, pair: list[AdapterCard], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    blend(pair, [0.7, -0.4], "linear", tiny_base, tmp_path, "Both", "local")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    found = load_file(tmp_path / "adapter_model.safetensors")

    def change(card: AdapterCard, module: str) -> torch.Tensor:
        theirs, settings = (
            load_file(card.path / "adapter_model.safetensors"),
            json.loads((card.path / "adapter_config.json").read_text()),
        )
        return theirs[f"{module}.lora_B.weight"] @ theirs[f"{module}.lora_A.weight"] * settings["lora_alpha"] / settings["r"]

    for module in {name.rsplit(".", 2)[0] for name in found}:
        ours = found[f"{module}.lora_B.weight"] @ found[f"{module}.lora_A.weight"] * config["lora_alpha"] / config["r"]
        assert float((ours - 0.7 * change(pair[0], module) + 0.4 * change(pair[1], module)).abs().max()) < 1e-5
    record = json.loads((tmp_path / "run.json").read_text())
    assert [(part["sha256"], part["weight"]) for part in record["blended_from"]] == [
        (pair[0].sha256, 0.7),
        (pair[1].sha256, -0.4),
    ]


@pytest.mark.parametrize("how", ["ties", "dare"])
def test_other_ways_make_an_adapter_that_peft_loads(tiny_base: Path, pair: list[AdapterCard], tmp_path: Path, how: str) -> None:
    blend(pair, [0.5, 0.5], how, tiny_base, tmp_path, "Both", "local")
    one, other = logits(tiny_base, tmp_path), logits(tiny_base)
    assert float((one - other).abs().max()) > 1e-4


def test_dare_is_the_same_again(tiny_base: Path, pair: list[AdapterCard], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        blend(pair, [0.5, 0.5], "dare", tiny_base, tmp_path / name, "Both", "local")
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(
    ("count", "weights", "how", "says"),
    [
        (1, [1.0], "linear", "takes 2 to 6 adapters; 1 were named"),
        (2, [1.0, 1.0], "slerp", "linear, ties, dare"),
        (2, [1.0, float("nan")], "linear", "from -10 to 10"),
    ],
)
def test_what_cannot_be_blended(
    tiny_base: Path, pair: list[AdapterCard], tmp_path: Path, count: int, weights: list[float], how: str, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        blend(pair[:count], weights, how, tiny_base, tmp_path, "Both", "local")
    assert list(tmp_path.iterdir()) == []
