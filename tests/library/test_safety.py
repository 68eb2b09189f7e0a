"""What is taken and what is refused: names, settings, tensors, numbers; by hand and as PEFT writes them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from playground.errors import AdapterError
from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from playground.library.safety import check_config, check_folder, refuse_names

from .conftest import INNER, WIDTH, a_run, adapter, base_shapes, header, lora_config, lora_tensors, safetensors

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


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


PROMPT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}
P_TUNING = {**PROMPT, "peft_type": "P_TUNING", "encoder_num_layers": 2, "encoder_dropout": 0.0}
PREFIX = {**PROMPT, "peft_type": "PREFIX_TUNING", "prefix_projection": True, "encoder_hidden_size": 64}
IA3 = {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]}
NECK = {"peft_type": "BOTTLENECK", "r": 4, "target_modules": ["fc2"]}


@pytest.mark.parametrize(
    "config",
    [
        lora_config(),
        lora_config(init_lora_weights=True),
        lora_config(init_lora_weights="gaussian"),
        lora_config(use_dora=True, use_rslora=True, fan_in_fan_out=False),
        lora_config(rank_pattern={"q_proj": 8, r".*\.down_proj": 2}, alpha_pattern={"q_proj": 16.5}),
        lora_config(target_modules=r".*\.layers\.\d+\.self_attn\.(q_proj|v_proj)"),
        lora_config(target_modules="all-linear", layers_to_transform=[0, 1], layers_pattern="layers"),
        lora_config(revision="main", modules_to_save=[], auto_mapping=None),
        lora_config(a_later_setting=None, another={}, third=False, fourth={"inner": False}),
        lora_config(megatron_core="megatron.core", qalora_group_size=16, loftq_config={}),
        {**PROMPT, "prompt_tuning_init": "RANDOM", "tokenizer_name_or_path": None},
        {**P_TUNING, "encoder_reparameterization_type": "MLP"},
        {**PREFIX, "init_weights": None},
        {**IA3, "init_ia3_weights": True},
        {**NECK, "activation": "relu", "placement": "pfeiffer"},
    ],
)
def test_ordinary_settings_of_every_method_pass(config):
    assert check_config(config).peft_type == config["peft_type"]


REFUSED = {
    "auto_mapping": [{"base_model_class": "X", "parent_library": "os"}],
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "eva", "lora_ga", {"a": 1}, 1],
    "modules_to_save": [["lm_head"]],
    "bias": ["all", "lora_only", None],
    "r": [0, -1, 257, 8.0, "8", True],
    "rank_pattern": [{"q_proj": 512}, {"(a+)+b": 4}, [1]],
    "alpha_pattern": [{"q_proj": 1e300}],
    "lora_alpha": [0],
    "layer_replication": [[[0, 2]]],
    "trainable_token_indices": [[1]],
    "target_parameters": [["x"]],
    "revision": ["refs/pr/1"],
    "base_model_name_or_path": ["https://example.org/model", {"a": 1}],
    "task_type": ["SEQ_CLS"],
    "target_modules": ["(a|b)*", ".*.*.*.*x", "(unclosed", "(?=x)", ["q_proj", "../x"], None],
    "use_dora": ["yes"],
    "loftq_config": [{"loftq_bits": 4}],
    "eva_config": [{"rho": 2.0}],
    "lora_bias": [True],
    "use_qalora": [True],
    "megatron_core": ["somebody.module"],
    "corda_config": [{"cache_file": "/tmp/x"}],
    "a_later_setting": ["surprise"],
    "runtime_config": [{"ephemeral_gpu_offload": True}],
}
OTHERS_REFUSED = [
    ({**PROMPT, "prompt_tuning_init": "TEXT"}, "prompt_tuning_init"),
    ({**PROMPT, "tokenizer_name_or_path": "somebody/else"}, "tokenizer_name_or_path"),
    ({**PROMPT, "tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs"),
    ({**PROMPT, "num_virtual_tokens": 10**9}, "num_virtual_tokens"),
    ({"peft_type": "PROMPT_TUNING"}, "num_virtual_tokens"),
    ({**P_TUNING, "encoder_num_layers": 10**6}, "encoder_num_layers"),
    ({**IA3, "target_modules": None}, "target_modules"),
    ({**NECK, "file": "/etc/passwd"}, "file"),
    ({**NECK, "r": 10**9}, "r is 1000000000"),
    ({**NECK, "activation": "os.system"}, "activation"),
    ({**NECK, "placement": "anywhere"}, "placement"),
    ({**NECK, "r": None}, "r is missing"),
    *((lora_config(peft_type=other), "PREFIX_TUNING") for other in (None, "ADALORA", "lora", "XLORA", 3, ["LORA"])),
]


@pytest.mark.parametrize(
    ("config", "why"), [*((lora_config(**{k: v}), k) for k, values in REFUSED.items() for v in values), *OTHERS_REFUSED]
)
def test_any_other_setting_is_refused_by_name(config, why):
    with pytest.raises(AdapterError, match=why):
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


@pytest.mark.parametrize("dtype", ["F64", "U8", "I64"])
def test_weights_are_plain_floats(tmp_path, dtype):
    refused(adapter(tmp_path / "a", dtype=dtype), f"as {dtype}.*float32")


def test_an_adapter_of_a_wider_base_is_refused_by_width_and_told_what_it_needs(tmp_path):
    folder = adapter(tmp_path / "a", tensors=lora_tensors(width=16))
    said = refused(folder, "trained on another base", base_shapes())
    assert "layer model.layers.0.self_attn.q_proj is 16 wide, this base's is 8" in said
    assert "It needs somebody/small-base" in said
    check_folder(folder, None)
    check_folder(folder, base_shapes(width=16))


def test_an_adapter_of_a_shallower_or_deeper_base_is_refused(tmp_path):
    folder = adapter(tmp_path / "a")
    refused(folder, "covers 2 layers, this base has 3", base_shapes(layers=3))
    refused(folder, r"layer model\.layers\.1\.self_attn\.q_proj, which this base does not have", base_shapes(layers=1))
    check_folder(adapter(tmp_path / "c", lora_config(layers_to_transform=[0]), lora_tensors(layers=1)), base_shapes())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({f"{LAYER}.lora_A.weight": None}, "lacks lora_A"),
        ({f"{LAYER}.lora_B.weight": (WIDTH, 2)}, "no pair of a rank"),
        ({f"{LAYER}.lora_B.weight": (WIDTH,)}, "no pair of a rank"),
        ({f"{LAYER}.lora_magnitude_vector": (WIDTH,)}, "use_dora False"),
        ({"base_model.model.model.embed_tokens.base_layer.weight": (32, WIDTH)}, "weights of the base itself"),
        ({"base_model.model.lm_head.base_layer.weight": (32, WIDTH)}, "save_embedding_layers=False"),
        ({"base_model.model.model.embed_tokens.weight": (32, WIDTH)}, "no part of a LoRA"),
        ({"base_model.model.model.embed_tokens.lora_A.weight": (32, WIDTH)}, "lacks lora_B"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 32)}, "embedding layer"),
        ({"model.norm.weight": (WIDTH,)}, "no part of a LoRA"),
        ({"base_model.model.score.weight": (1, WIDTH)}, "no part of a LoRA"),
        (dict.fromkeys(lora_tensors()), "holds no tensor"),
    ],
)
def test_tensors_that_do_not_belong(tmp_path, changes, why):
    tensors = {k: v for k, v in {**lora_tensors(), **changes}.items() if v is not None}
    refused(adapter(tmp_path / "a", tensors=tensors), why, base_shapes())


def test_the_rank_must_be_the_one_the_config_says(tmp_path):
    refused(adapter(tmp_path / "a", tensors=lora_tensors(rank=2)), "rank 2 in layer")
    check_folder(adapter(tmp_path / "b", lora_config(rank_pattern={"proj": 2}), lora_tensors(rank=2)), None)


def test_dora_needs_its_magnitudes(tmp_path):
    sizes = {n.replace("lora_A.weight", "lora_magnitude_vector"): (WIDTH,) for n in lora_tensors() if "lora_A" in n}
    check_folder(adapter(tmp_path / "a", lora_config(use_dora=True), lora_tensors() | sizes), base_shapes())
    refused(adapter(tmp_path / "b", lora_config(use_dora=True)), "use_dora True", base_shapes())


def test_ia3_against_the_base(tmp_path):
    config = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    stem = "base_model.model.model.layers"
    for out, inner, why in (
        (WIDTH // 2, INNER, ""),
        (6, INNER, "k_proj is 6 wide, this base's is 4"),
        (4, 20, "20 wide"),
    ):
        vectors = {f"{stem}.{i}.self_attn.k_proj.ia3_l": (out, 1) for i in range(2)}
        vectors |= {f"{stem}.{i}.mlp.down_proj.ia3_l": (1, inner) for i in range(2)}
        folder = adapter(tmp_path / "a", config, vectors)
        refused(folder, why, base_shapes()) if why else check_folder(folder, base_shapes())


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "P_TUNING"])
def test_virtual_tokens_against_the_base(tmp_path, peft_type):
    config = {"peft_type": peft_type, "num_virtual_tokens": 5, "num_layers": 2, "token_dim": WIDTH}
    folder = adapter(tmp_path / "a", config, {"prompt_embeddings": (5, WIDTH)})
    check_folder(folder, base_shapes())
    refused(folder, "virtual token is 8 wide, this base's is 16", base_shapes(width=16))
    refused(folder, "it has 2 layers, this base has 3", base_shapes(layers=3))
    refused(adapter(folder, config, {"prompt_embeddings": (6, WIDTH)}), "5 virtual tokens")
    refused(adapter(folder, config, {"prompt_embeddings": (5, 9)}), "not what its config says")


def test_prefix_keys_and_values_against_the_base(tmp_path):
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "num_layers": 2, "token_dim": 4}
    folder = adapter(tmp_path / "a", config, {"prompt_embeddings": (5, 2 * 2 * 4)})
    check_folder(folder, base_shapes())
    refused(folder, "keys and values of all layers is 16 wide, this base's is 32", base_shapes(width=16))


def test_bottleneck_against_the_base(tmp_path):
    config = {"peft_type": "BOTTLENECK", "r": 3, "target_modules": ["mlp.down_proj"]}
    place = "base_model.model.model.layers.{}.mlp.down_proj.bottleneck_"
    shapes = {"down.weight": (3, WIDTH), "down.bias": (3,), "up.weight": (WIDTH, 3), "up.bias": (WIDTH,)}
    sound = {place.format(layer) + part: shape for layer in (0, 1) for part, shape in shapes.items()}
    folder = adapter(tmp_path / "a", config, sound)
    check_folder(folder, base_shapes())
    refused(folder, "8 wide, this base's is 16", base_shapes(width=16))
    refused(adapter(folder, config, {"base_model.model.lm_head.weight": (3, WIDTH)}), "no part of a bottleneck")
    for part, shape in {"up.bias": None, "down.weight": (4, WIDTH), "up.weight": (WIDTH, 2)}.items():
        torn = {name: (shape if name.endswith(part) else there) for name, there in sound.items()}
        refused(adapter(folder, config, {n: there for n, there in torn.items() if there}), "no bottleneck 3 wide")


def test_a_fingerprint_decides_where_both_are_known(tmp_path):
    folder = adapter(tmp_path / "a", run=a_run(base_fingerprint="aa" * 8))
    check_folder(folder, base_shapes(fingerprint="aa" * 8))
    check_folder(folder, base_shapes())
    refused(folder, r"fingerprint aaaaaaaaaaaaaaaa.*It needs smollm2-135m", base_shapes(fingerprint="bb" * 8))


def test_what_the_base_cannot_run(tmp_path):
    head = {"base_model.model.lm_head.lora_A.weight": (4, WIDTH), "base_model.model.lm_head.lora_B.weight": (32, 4)}
    lora = lora_config(target_modules=["q_proj", "down_proj", "lm_head"])
    folder, shapes = adapter(tmp_path / "a", lora, lora_tensors() | head), base_shapes().shapes
    why = r"adapts lm_head, which lies outside the decoder's layers.*all-linear"
    refused(folder, why, BaseShapes(shapes, {"model_type": "llama"}))
    check_folder(folder, BaseShapes(shapes, {"model_type": "gemma"}))
    virtual = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, "task_type": "CAUSAL_LM"}
    adapter(folder, virtual, {"prompt_embeddings": (5, WIDTH)})
    why = "puts 5 tokens before the text, and this base holds 4"
    refused(folder, why, BaseShapes(shapes, {"max_position_embeddings": 4}))
    adapter(folder, virtual | {"peft_type": "PREFIX_TUNING"}, {"prompt_embeddings": (5, 2 * WIDTH)})
    refused(folder, "layers that keep none", BaseShapes(shapes, {"layer_types": ["conv", "full_attention"]}))


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "instead"),
    [('"data_offsets": [0,', '"data_offsets": [-0,'), ("{", '{"__metadata__": {"a": "\\ud800"}, ')],
)
def test_a_header_that_only_the_reader_of_weights_refuses_is_told_in_words(tmp_path, there, instead):
    folder, fields = adapter(tmp_path / "a"), header(lora_tensors())
    raw = json.dumps(fields).replace(there, instead, 1).encode()
    safetensors(folder / "adapter_model.safetensors", raw, max(f["data_offsets"][1] for f in fields.values()))
    refused(folder, r"is damaged or is not safetensors: .*Copy or download it again")


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
