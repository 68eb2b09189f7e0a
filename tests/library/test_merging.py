"""Merged models and GGUF files say what the adapter on its base says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.errors import InputError
from playground.library.card import read_card
from playground.library.exporting import run
from playground.library.gguf_file import check_gguf, write_gguf
from playground.library.merging import merge
from tests.engine.conftest import make_lora

__all__ = ["make_lora"]
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
    (tmp_path / "work").mkdir()
    file = run(
        make_lora(3),
        tiny_base,
        tmp_path / "work",
        "gguf",
        tmp_path / "m.gguf",
        lambda phase, share: phases.append((share, phase)),
    )
    assert file.stat().st_size > 1_000_000
    assert phases == sorted(phases)
    assert check_gguf(tmp_path / "work" / "merged", file) < 0.05


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Mistral"])
def test_other_families_as_gguf(tiny_base: Path, tmp_path: Path, family: str) -> None:
    import torch
    import transformers
    from transformers import AutoTokenizer

    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=128 if family == "Qwen3" else 16, tie_word_embeddings=True, max_position_embeddings=256, sliding_window=None,
    )  # fmt: skip
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
