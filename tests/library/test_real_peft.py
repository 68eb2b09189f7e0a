"""Adapters that PEFT itself wrote: they pass the checks, and PEFT loads what the library stored."""

from __future__ import annotations

import pytest

from playground.errors import AdapterError
from playground.library.adapters import AdapterLibrary
from playground.library.base_shapes import BaseShapes
from playground.library.safety import check_folder


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def peft(torch):
    return pytest.importorskip("peft")


def tiny_llama(torch, hidden=64, layers=2):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=hidden, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def base_folder(torch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_llama(torch).save_pretrained(folder)
    return folder


def made(torch, peft, config, folder):
    model = peft.get_peft_model(tiny_llama(torch), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    model.eval().save_pretrained(folder)
    return model


def test_a_real_lora_is_imported_and_loads_unchanged(torch, peft, base_folder, tmp_path):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    trained = made(torch, peft, config, tmp_path / "real")
    library = AdapterLibrary(tmp_path / "own", tmp_path / "shipped")
    card = library.import_path(tmp_path / "real", BaseShapes.from_folder(base_folder))
    assert (card.method, card.rank, card.kind) == ("lora", 4, "peft")
    loaded = peft.PeftModel.from_pretrained(tiny_llama(torch), str(card.path)).eval()
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        with_adapter = loaded(input_ids=tokens).logits
        assert torch.equal(with_adapter, trained(input_ids=tokens).logits)
        with loaded.disable_adapter():
            assert not torch.allclose(with_adapter, loaded(input_ids=tokens).logits, atol=1e-3)


def test_what_peft_writes_for_each_method_passes(torch, peft, base_folder, tmp_path):
    task = {"task_type": "CAUSAL_LM"}
    virtual = {**task, "num_virtual_tokens": 5}
    base = BaseShapes.from_folder(base_folder)
    for name, config in {
        "all-linear": peft.LoraConfig(r=4, target_modules="all-linear", use_rslora=True, init_lora_weights="gaussian", **task),
        "patterns": peft.LoraConfig(r=4, target_modules=["q_proj"], rank_pattern={"layers.1.self_attn.q_proj": 8}, **task),
        "dora": peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], use_dora=True, **task),
        "ia3": peft.IA3Config(**task),
        "p-tuning-v2": peft.PrefixTuningConfig(**virtual),
        "prefix": peft.PrefixTuningConfig(prefix_projection=True, encoder_hidden_size=16, **virtual),
        "prompt": peft.PromptTuningConfig(**virtual),
        "p-tuning": peft.PromptEncoderConfig(encoder_hidden_size=16, **virtual),
    }.items():
        made(torch, peft, config, tmp_path / name)
        check_folder(tmp_path / name, base)


def test_another_base_is_told_from_the_shapes(torch, peft, tmp_path):
    made(torch, peft, peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"), tmp_path / "real")
    tiny_llama(torch, hidden=32).save_pretrained(tmp_path / "narrow")
    tiny_llama(torch, layers=3).save_pretrained(tmp_path / "deep")
    with pytest.raises(AdapterError, match="is 64 wide, this base's is 32"):
        check_folder(tmp_path / "real", BaseShapes.from_folder(tmp_path / "narrow"))
    with pytest.raises(AdapterError, match="covers 2 layers, this base has 3"):
        check_folder(tmp_path / "real", BaseShapes.from_folder(tmp_path / "deep"))


def test_a_real_reward_model_passes_with_its_record_only(torch, peft, base_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base_folder, num_labels=1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "reward")
    with pytest.raises(AdapterError, match="task_type"):
        check_folder(tmp_path / "reward", BaseShapes.from_folder(base_folder))
    (tmp_path / "reward" / "run.json").write_text('{"schema": 1, "objective": "reward"}')
    check_folder(tmp_path / "reward", BaseShapes.from_folder(base_folder))
