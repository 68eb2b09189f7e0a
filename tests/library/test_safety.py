"""What is taken and what is refused: names, settings, tensors, numbers; by hand and as PEFT writes them."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from playground.errors import AdapterError
from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from playground.library.card import refuse_names
from playground.library.safety import check_config, check_folder

from .conftest import LAYERS, WIDTH, a_run, adapter, base_shapes, cases, lora_config, lora_tensors


def refused(folder: Path, why: str, base: Any = None) -> str:
    with pytest.raises(AdapterError, match=why) as caught:
        check_folder(folder, base)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_sound_adapter_passes_with_and_without_a_base_whatever_its_base_is_called(tmp_path, dtype):
    folder = adapter(tmp_path / "a", lora_config(base_model_name_or_path="another/name"), run=a_run(), dtype=dtype)
    (folder / "adapter_config.json").chmod(0o777)  # as some file systems mark every file
    check_folder(folder, None)
    check_folder(folder, base_shapes())


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "optimizer.pt", "x.pth", "x.PKL", "x.pickle", "last.ckpt", "x.bin ", "x.pt."]
)
def test_pickles_are_refused_by_name(tmp_path, name):
    folder = adapter(tmp_path / "a")
    (folder / "sub").mkdir()
    (folder / "sub" / name).touch()
    said = refused(folder, "a pickle that can run code")
    assert name.strip() in said
    assert "delete that file" in said


def test_a_pickle_alone_is_to_be_exported_as_safetensors():
    with pytest.raises(AdapterError, match=r"adapter_model\.bin.*export the adapter as safetensors"):
        refuse_names(["adapter_config.json", "adapter_model.bin"])


@pytest.mark.parametrize("name", ["modeling.py", "x.pyc", "run.sh", "lib.so", "setup.EXE", "book.ipynb", "a.whl"])
def test_programs_are_refused_by_name(name):
    with pytest.raises(AdapterError, match="a program"):
        refuse_names([name])


def test_links_executables_pipes_and_too_many_files_are_refused(tmp_path):
    folder = adapter(tmp_path / "a")
    link, tool, pipe = folder / "notes.txt", folder / "tool", folder / "pipe"
    link.symlink_to("/etc/passwd")
    refused(folder, r"notes\.txt, a link")
    link.unlink()
    tool.touch(mode=0o755)
    refused(folder, "tool, an executable")
    tool.unlink()
    os.mkfifo(pipe)
    refused(folder, "neither a file nor a folder")
    pipe.unlink()
    for i in range(70):
        (folder / f"{i}.txt").touch()
    refused(folder, "more than 64 files")


def test_says_what_is_missing_and_what_there_is(tmp_path):
    folder = adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, r"adapter_model\.safetensors is missing; there is: adapter_config\.json")
    adapter(tmp_path / "b" / "checkpoint-10")
    refused(tmp_path / "b", r"folder inside it .checkpoint-10")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{}")
    refused(tmp_path / "c", "whole model")


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[]", "{", '{"r": NaN}', '{"r": ' + "[" * 50_000 + "]" * 50_000 + "}"])
def test_a_config_that_is_no_json_object(tmp_path, text):
    folder = adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_text(text)
    refused(folder, r"adapter_config\.json")


@pytest.mark.parametrize("case", cases("configs"), ids=str)
def test_ordinary_settings_of_every_method_pass_and_any_other_is_refused_by_name(case):
    config = lora_config(**case["lora"]) if "lora" in case else case["config"]
    if not case["refused"]:
        assert check_config(config).peft_type == config["peft_type"]
    else:
        with pytest.raises(AdapterError, match=case["refused"]):
            check_config(config)


def test_all_faults_are_told_at_once():
    with pytest.raises(AdapterError) as caught:
        check_config(lora_config(bias="all", r=1000, init_lora_weights="pissa"))
    assert all(word in str(caught.value) for word in ("bias", "r is 1000", "pissa", "rewrites the weights of the base"))


def test_a_reward_model_may_save_its_score_head_and_nothing_else(tmp_path):
    config = lora_config(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    tensors = {**lora_tensors(), "base_model.model.score.weight": (1, WIDTH)}
    check_folder(adapter(tmp_path / "a", config, tensors, a_run(objective="reward")), base_shapes())
    refused(adapter(tmp_path / "b", config, tensors, a_run()), "modules_to_save", base_shapes())
    with pytest.raises(AdapterError, match="score head"):
        check_config({**config, "modules_to_save": ["score", "lm_head"]}, reward=True)
    tensors["base_model.model.lm_head.weight"] = (32, WIDTH)
    refused(adapter(tmp_path / "c", config, tensors, a_run(objective="reward")), "no part of a LoRA", base_shapes())


# -- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("fits"), ids=lambda case: case["about"])
def test_an_adapter_fits_a_base_by_names_and_shapes(tmp_path, case):
    """width, layers, rank: of a LoRA's tensors, before those that are named, each layer's where a name has {}."""
    config, tensors = case.get("config") or lora_config(**case["lora"]), {}
    if "lora" in case:
        tensors |= lora_tensors(case.get("rank", 4), case.get("width", WIDTH), case.get("layers", LAYERS))
    for name, shape in case.get("tensors", {}).items():
        tensors |= {name.format(layer): shape for layer in range(LAYERS)}
    tensors = {name: shape for name, shape in tensors.items() if shape is not None}
    folder = adapter(tmp_path / "a", config, tensors, case.get("run"), case.get("dtype", "F32"))
    for said, why in case["bases"]:
        base = said
        if said is not None:
            there = base_shapes(said.get("width", WIDTH), said.get("layers", LAYERS))
            base = BaseShapes(there.shapes, said.get("config", {}), said.get("fingerprint", ""))
        refused(folder, why, base) if why else check_folder(folder, base)


# -- numbers -----------------------------------------------------------------------------------------------------------


def with_last_number(folder, number):
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", number))
    return folder


def test_numbers_are_read_unless_whoever_loads_them_looks_at_them(tmp_path):
    folder = with_last_number(adapter(tmp_path / "a"), float("nan"))
    refused(folder, "holds nan")
    check_folder(folder, None, numbers=False)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"lora_alpha": 4}, True),
        ({"lora_alpha": 65536}, False),
        ({"lora_alpha": 10}, True),
        ({"lora_alpha": 10, "use_rslora": True}, False),
        ({"lora_alpha": 4, "alpha_pattern": {"down_proj": 65536}}, True),
        ({"lora_alpha": 4, "alpha_pattern": {"q_proj": 65536}}, False),
    ],
)
def test_numbers_that_are_too_large_once_scaled_are_refused(tmp_path, changes, fits):
    """The last tensor is a lora_B of rank 4."""
    tensors = dict(sorted(lora_tensors().items()))
    assert [*tensors][-1].endswith("q_proj.lora_B.weight")
    folder = with_last_number(adapter(tmp_path / "a", lora_config(**changes), tensors), 3000.0)
    check_folder(folder, None) if fits else refused(folder, r"q_proj\.lora_B\.weight \(times its scale\)")


# -- as PEFT writes them -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_base(tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_real_lora_is_imported_and_loads_unchanged(small_base, tmp_path):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    config.rank_pattern, config.init_lora_weights = {"layers.1.self_attn.q_proj": 8}, "gaussian"
    trained = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(small_base), config).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    trained.save_pretrained(tmp_path / "real")
    library = AdapterLibrary(tmp_path / "own", tmp_path / "shipped")
    card = library.import_path(tmp_path / "real", BaseShapes.from_folder(small_base))
    assert (card.method, card.rank, card.kind) == ("lora", 4, "peft")
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_base), str(card.path)).eval()
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        with_adapter = loaded(input_ids=tokens).logits
        assert torch.equal(with_adapter, trained(input_ids=tokens).logits)
        with loaded.disable_adapter():
            assert not torch.allclose(with_adapter, loaded(input_ids=tokens).logits, atol=1e-3)


def test_a_real_reward_model_passes_with_its_record_only(small_base, tmp_path):
    import peft
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(small_base, num_labels=1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "reward")
    refused(tmp_path / "reward", "task_type", BaseShapes.from_folder(small_base))
    (tmp_path / "reward" / "run.json").write_text('{"schema": 1, "objective": "reward"}')
    check_folder(tmp_path / "reward", BaseShapes.from_folder(small_base))
