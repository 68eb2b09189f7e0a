"""Blends are what PEFT's own weighted combination says, and name what they are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def changes(folder: Path) -> dict[str, Any]:
    """What an adapter adds to each weight, as PEFT defines it: scale * B A, the scale of rsLoRA being alpha / sqrt(rank)."""
    from safetensors.torch import load_file

    there, config = load_file(folder / "adapter_model.safetensors"), json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    modules = {name.rsplit(".", 2)[0] for name in there}
    return {module: scale * there[f"{module}.lora_B.weight"] @ there[f"{module}.lora_A.weight"] for module in modules}


def test_a_linear_blend_of_unlike_ranks_is_the_weighted_sum_of_the_changes(
    tiny_base: Path, pair: list[AdapterCard], tmp_path: Path
) -> None:
    blend(pair, [0.7, -0.4], "linear", tiny_base, tmp_path, "Both", "local")
    found, one, other = changes(tmp_path), changes(pair[0].path), changes(pair[1].path)
    for module, ours in found.items():
        assert float((ours - 0.7 * one[module] + 0.4 * other[module]).abs().max()) < 1e-5
    record = json.loads((tmp_path / "run.json").read_text())
    assert [(part["sha256"], part["weight"]) for part in record["blended_from"]] == [
        (pair[0].sha256, 0.7),
        (pair[1].sha256, -0.4),
    ]
    assert record["row_hashes"] == [], "nobody wrote down what these were trained on"


@pytest.mark.parametrize("first", [True, False])
def test_rslora_adapters_come_in_with_their_own_scale(
    tiny_base: Path, make_lora: Callable[..., Path], tmp_path: Path, first: bool
) -> None:
    folders = [make_lora(13, rank=4, use_rslora=True), make_lora(14, rank=8, use_rslora=first)]
    parts = [read_card(folder) for folder in (folders if first else folders[::-1])]
    blend(parts, [0.5, 0.25], "linear", tiny_base, tmp_path, "Both", "local")
    found, one, other = changes(tmp_path), changes(parts[0].path), changes(parts[1].path)
    for module, ours in found.items():
        assert float((ours - 0.5 * one[module] - 0.25 * other[module]).abs().max()) < 1e-5


def test_a_blend_remembers_the_rows_of_all_its_parts(tiny_base: Path, make_lora: Callable[..., Path], tmp_path: Path) -> None:
    folders = [make_lora(15), make_lora(16), make_lora(17)]
    for folder, known in zip(folders, (["c" * 16, "a" * 16], ["a" * 16, "b" * 16]), strict=False):  # the third has no record
        (folder / "run.json").write_text(json.dumps({"schema": 1, "name": folder.name, "row_hashes": known}))
    blend([read_card(folder) for folder in folders], [0.3, 0.3, 0.3], "linear", tiny_base, tmp_path, "All", "local")
    assert json.loads((tmp_path / "run.json").read_text())["row_hashes"] == ["a" * 16, "b" * 16, "c" * 16]


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
