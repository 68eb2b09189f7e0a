"""Adapters that PEFT itself wrote: they pass the checks, and PEFT loads what the library stored."""

from __future__ import annotations

import peft
import pytest
import torch

from playground.errors import AdapterError
from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from playground.library.safety import check_folder


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(folder)
    return folder


def made(config, folder):
    model = peft.get_peft_model(tiny_llama(), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    model.eval().save_pretrained(folder)
    return model


def test_a_real_lora_is_imported_and_loads_unchanged(base_folder, tmp_path):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    config.rank_pattern, config.init_lora_weights = {"layers.1.self_attn.q_proj": 8}, "gaussian"
    trained = made(config, tmp_path / "real")
    library = AdapterLibrary(tmp_path / "own", tmp_path / "shipped")
    card = library.import_path(tmp_path / "real", BaseShapes.from_folder(base_folder))
    assert (card.method, card.rank, card.kind) == ("lora", 4, "peft")
    loaded = peft.PeftModel.from_pretrained(tiny_llama(), str(card.path)).eval()
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        with_adapter = loaded(input_ids=tokens).logits
        assert torch.equal(with_adapter, trained(input_ids=tokens).logits)
        with loaded.disable_adapter():
            assert not torch.allclose(with_adapter, loaded(input_ids=tokens).logits, atol=1e-3)


def test_a_real_reward_model_passes_with_its_record_only(base_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base_folder, num_labels=1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "reward")
    with pytest.raises(AdapterError, match="task_type"):
        check_folder(tmp_path / "reward", BaseShapes.from_folder(base_folder))
    (tmp_path / "reward" / "run.json").write_text('{"schema": 1, "objective": "reward"}')
    check_folder(tmp_path / "reward", BaseShapes.from_folder(base_folder))
