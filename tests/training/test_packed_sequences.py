"""Packed sequences learn what rows learn alone: same loss, same gradients, with and without a shared prefix."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from playground.data.render import Rendered
from playground.methods import get_method
from playground.training.fused.llama import PackedSequenceCollator, fits, shared_tokens
from playground.training.fused.ops import SHORT
from playground.training.model import load_for_training
from playground.training.objectives.sft import AnswerCollator, TextBlockCollator, answer_loss, collator

PACKED = ("lora", "dora", "ia3", "full", "bottleneck", "qlora")
PADDED = ("prefix", "prompt", "p-tuning", "p-tuning-v2")


def rows(shared: int, rest: tuple[int, int], *, seed: int = 1) -> list[Rendered]:
    """Four rows that begin with the same tokens; the second has a later turn that is not learned."""
    dice = random.Random(seed)

    def some(low: int, high: int) -> list[int]:
        return [dice.randrange(5, 400) for _ in range(dice.randint(low, high))]

    same = some(shared, shared)
    return [
        Rendered("", "", same + some(*rest), some(4, 9), read=((1, 3),) if place == 1 else ()) for place in range(4)
    ]


def moved(base: Path, name: str, **options: Any) -> Any:
    """A method over the base, away from its start, where half of the gradients are zero."""
    method = get_method(name)
    model = load_for_training(base, method, 4 if method.rank is not None else 0, 1)
    torch.manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.dtype.is_floating_point:
                p.add_(0.05 * torch.randn_like(p))
    return model


def learned(model: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = answer_loss(model, batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(model: Any, some: list[Rendered]) -> None:
    """The loss to 1e-6 of itself, gradients to 1e-5, against padded rows through Hugging Face's own modules."""
    expected, gradients = learned(model, AnswerCollator(0)(some))
    loss, found = learned(model, PackedSequenceCollator()(some))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), name


def test_the_line_holds_what_is_shared_and_then_each_row() -> None:
    batch = PackedSequenceCollator()(
        [Rendered("", "", [5, 6, 7, 8], [9, 10]), Rendered("", "", [5, 6, 11], [12, 13, 14], read=((1, 2),))]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 11, 12, 13]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    assert batch["spans"].tolist() == [2, 3, 3]
    assert batch["learned"].tolist() == [3, 4, 5, 7]
    assert batch["labels"].tolist() == [9, 10, 12, 14]


def test_only_what_spares_enough_is_shared_and_never_a_prompt_s_last_token() -> None:
    long = [Rendered("", "", [1, *range(10, 200), place], [5, 6]) for place in range(4)]
    assert shared_tokens(long) == 191
    assert shared_tokens([Rendered("", "", [1, 100 + place, *range(150)], [5]) for place in range(4)]) == 0
    assert shared_tokens([Rendered("", "", [1, 2, 3], [4, place]) for place in range(3)]) == 2
    assert shared_tokens(long[:1]) == 0
    assert shared_tokens([Rendered("", "", [1], [2]), Rendered("", "", [1], [3])]) == 0


@pytest.mark.parametrize(("shared", "recompute"), [(0, False), (9, False), (9, True)])
@pytest.mark.parametrize("name", PACKED)
def test_what_is_learned_is_the_same(tiny_base: Path, name: str, shared: int, recompute: bool) -> None:
    some = rows(shared, (2, 7))
    assert (shared_tokens(some) >= 9) == bool(shared)
    model = moved(tiny_base, name)
    model.recompute = recompute
    assert fits(model)
    same(model, some)


@pytest.mark.parametrize("shared", [0, 150])
def test_long_rows_too(tiny_base: Path, shared: int) -> None:
    same(moved(tiny_base, "lora"), rows(shared, (SHORT - 40, SHORT + 20)))


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", ["lora", "full"])
def test_other_families(tmp_path: Path, family: str, name: str) -> None:
    """Biases (Qwen 2), norms of queries and keys and heads of another width (Qwen 3), a head of its own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    own: dict[str, Any] = {"qwen3": {"head_dim": 32}, "mistral": {"sliding_window": None}}.get(family, {})
    sides = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2} | own
    config = AutoConfig.for_model(
        family, **sides, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = moved(tmp_path, name)
    assert fits(model)
    same(model, rows(9, (2, 7)))


def test_other_models_train_on_padded_rows(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

    for name in PADDED:
        model = load_for_training(tiny_base, get_method(name), 4, 1)
        assert isinstance(collator("sft", 0, model), AnswerCollator)
    small: dict[str, Any] = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert not fits(GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=64, n_layer=1, n_head=2)))
    assert not fits(
        MistralForCausalLM(MistralConfig(**small, num_key_value_heads=2, intermediate_size=64, sliding_window=8))
    )
    model = load_for_training(tiny_base, get_method("lora"), 4, 1)
    assert isinstance(collator("sft", 0, model), PackedSequenceCollator)
    assert isinstance(collator("pretrain", 0, model), TextBlockCollator)
