"""Every family, on the path that it takes: rows of different length in one batch say what PEFT and generate say one by
one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from playground.engine.engine import Engine
from playground.engine.request import Row, Sampling
from playground.errors import AdapterError, BaseUnavailableError
from tests.engine.models import (
    FAMILIES,
    IA3_ON,
    World,
    at_once,
    attach,
    byte_tokenizer,
    furthest,
    ids_of,
    run,
    save_adapter,
    save_base,
)

LLAMA = {"llama", "llama-bias", "llama-rope", "qwen2", "qwen3", "mistral"}
WHY = {"qwen2-window": "sliding windows", "mistral-window": "sliding windows", "llama-yarn": "yarn position scaling"}
PROMPTS = ["One", "Hello there, my order has not arrived yet", "The report says", "1, 2, 3, 4, 5, "]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_in_one_batch_what_peft_says_one_by_one(family: str, tmp_path: Path) -> None:
    targets, inner = IA3_ON.get(family.partition("-")[0], (None, None))
    feeds = {"target_modules": targets, "feedforward_modules": inner} if targets else {}
    kinds: dict[str, dict[str, Any]] = {"lora": {}, "dora": {}, "ia3": feeds, "prompt": {}, "ptuning": {}}
    kinds |= {"bottleneck-houlsby": {}, "bottleneck": {"placement": "pfeiffer", "activation": "relu"}}
    if family != "lfm2":
        kinds |= {"prefix": {}, "deep": {}}
    world = World(tmp_path, family, kinds)
    engine = world.engine()
    assert engine.path == "llama" if family in LLAMA else engine.path.startswith("Hugging Face")
    assert WHY.get(family, family.partition("-")[0] if family not in LLAMA else "") in engine.path
    rows = [
        Row(prompt, name, Sampling(max_tokens=tokens), logprobs=0)
        for prompt, name, tokens in zip(
            PROMPTS * 3, (None, *world.adapters), (40, 24, 9, 32, *(8, 16, 9, 12) * 2), strict=False
        )
    ]
    for row, state in zip(rows, run(engine, rows), strict=True):
        expected = world.said(row.adapter, row.prompt, row.sampling.max_tokens)
        assert list(state.tokens) == expected.tokens
        assert furthest(state, expected.shares) < 1e-3
        if family != "phi3-longrope":  # there what was written before the turning point had other frequencies
            whole = at_once(world.truth(row.adapter), ids_of(engine, row.prompt), state.tokens)
            assert furthest(state, whole) < 1e-3
    assert engine.check_fingerprint()[1]


@pytest.mark.parametrize("family", ["mistral-window", "gemma3", "phi3-longrope", "lfm2"])
def test_a_row_does_not_notice_others_that_are_longer_or_done(family: str, tmp_path: Path) -> None:
    """Rows that end early leave the cache, padded rows pass the window, and long ones turn to other frequencies."""
    engine = Engine(save_base(family, tmp_path / "base"))
    lengths = (3, 60, 1, 28)
    rows = [Row(text * 2, None, Sampling(max_tokens=n), logprobs=0) for text, n in zip(PROMPTS, lengths, strict=True)]
    together = run(engine, rows)
    for row, state in zip(rows, together, strict=True):
        alone = run(engine, [row])[0]
        assert alone.tokens == state.tokens
        assert [there.logprob for there in alone.logprobs] == pytest.approx(
            [there.logprob for there in state.logprobs], abs=1e-3
        )


def test_a_family_without_keys_and_values_is_refused_in_words(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=1)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BaseUnavailableError, match="mamba models keep no keys and values"):
        Engine(tmp_path)


def test_a_base_whose_layers_keep_different_things_refuses_a_prefix_in_words(tmp_path: Path) -> None:
    base = save_base("lfm2", tmp_path / "base")
    engine = Engine(base)
    with pytest.raises(AdapterError, match="this base has layers that keep none"):
        attach(engine, save_adapter(base, tmp_path / "deep", "deep"), "deep")
    assert engine.attached() == {}
