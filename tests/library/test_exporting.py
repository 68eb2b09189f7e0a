"""Merged models, GGUF files and blends say what the adapters on their base say."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.errors import InputError
from playground.library.card import AdapterCard, read_card
from playground.library.exporting import blend, merge, run
from playground.library.gguf_file import check_gguf, write_gguf

IDS = [[40, 300, 1200, 7, 90, 15]]


def logits(folder: Path, adapter: Path | None = None) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits


def test_a_merged_model_answers_as_the_adapter_on_its_base(
    tiny_base: Path, make_lora: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = make_lora(3)
    merge(read_card(adapter), tiny_base, tmp_path / "merged")
    assert float((logits(tmp_path / "merged") - logits(tiny_base, adapter)).abs().max()) < 1e-4
    assert float((logits(tmp_path / "merged") - logits(tiny_base)).abs().max()) > 1e-3


def test_a_gguf_file_reads_the_same_tokens_and_gives_the_same_logits(
    tiny_base: Path, make_lora: Callable[..., Path], tmp_path: Path
) -> None:
    phases = []

    def tell(phase: str, share: float) -> None:
        phases.append((share, phase))

    (tmp_path / "work").mkdir()
    file = run(make_lora(3), tiny_base, tmp_path / "work", "gguf", tmp_path / "m.gguf", tell)
    assert file.stat().st_size > 1_000_000
    assert phases == sorted(phases)
    assert check_gguf(tmp_path / "work" / "merged", file) < 0.05


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Mistral"])
def test_other_families_as_gguf(tiny_base: Path, tmp_path: Path, family: str) -> None:
    import torch
    import transformers
    from transformers import AutoTokenizer

    torch.manual_seed(5)
    sizes = {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128 if family == "Qwen3" else 16}
    rest = {"tie_word_embeddings": True, "max_position_embeddings": 256, "sliding_window": None}
    config = getattr(transformers, f"{family}Config")(**sizes, **heads, **rest)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "m.gguf", "m")
    assert check_gguf(tmp_path / "model", tmp_path / "m.gguf") < 0.05


def test_a_family_that_cannot_be_written_is_refused_in_words(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "GPT2LMHeadModel"))
    with pytest.raises(InputError, match="GPT2LMHeadModel cannot be written as GGUF"):
        write_gguf(tmp_path / "model", tmp_path / "m.gguf", "m")


def test_what_no_weight_can_hold_is_not_merged(tiny_base: Path, make_lora: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(prefix\).*cannot be merged"):
        merge(replace(read_card(make_lora(3)), method="prefix"), tiny_base, tmp_path / "merged")


@pytest.fixture
def pair(make_lora: Callable[..., Path]) -> list[AdapterCard]:
    return [read_card(make_lora(11, rank=4)), read_card(make_lora(12, rank=8))]


def changes(folder: Path) -> dict[str, Any]:
    """What an adapter adds to each weight, as PEFT defines it: scale * B A, the scale of rsLoRA being alpha /
    sqrt(rank)."""
    from safetensors.torch import load_file

    there = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
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
    parts = [(part["sha256"], part["weight"]) for part in record["blended_from"]]
    assert parts == [(pair[0].sha256, 0.7), (pair[1].sha256, -0.4)]
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


def test_a_blend_remembers_the_rows_of_all_its_parts(
    tiny_base: Path, make_lora: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [make_lora(15), make_lora(16), make_lora(17)]
    for folder, known in zip(
        folders, (["c" * 16, "a" * 16], ["a" * 16, "b" * 16]), strict=False
    ):  # the third has no record
        (folder / "run.json").write_text(json.dumps({"schema": 1, "name": folder.name, "row_hashes": known}))
    blend([read_card(folder) for folder in folders], [0.3, 0.3, 0.3], "linear", tiny_base, tmp_path, "All", "local")
    assert json.loads((tmp_path / "run.json").read_text())["row_hashes"] == ["a" * 16, "b" * 16, "c" * 16]


@pytest.mark.parametrize("how", ["ties", "dare"])
def test_other_ways_make_an_adapter_that_peft_loads_and_the_same_again(
    tiny_base: Path, pair: list[AdapterCard], tmp_path: Path, how: str
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        blend(pair, [0.5, 0.5], how, tiny_base, tmp_path / name, "Both", "local")
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second
    assert float((logits(tiny_base, tmp_path / "a") - logits(tiny_base)).abs().max()) > 1e-4


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
