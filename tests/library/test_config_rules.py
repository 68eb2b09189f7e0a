from __future__ import annotations

import pytest

from playground.errors import AdapterError
from playground.library.safety import check_config

from .conftest import lora_config

PROMPT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"init_lora_weights": True},
        {"init_lora_weights": "gaussian"},
        {"use_dora": True, "use_rslora": True, "fan_in_fan_out": False},
        {"rank_pattern": {"q_proj": 8, r".*\.down_proj": 2}, "alpha_pattern": {"q_proj": 16.5}},
        {"target_modules": r".*\.layers\.\d+\.self_attn\.(q_proj|v_proj)"},
        {"target_modules": "all-linear", "layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"revision": "main", "modules_to_save": [], "auto_mapping": None},
        {"a_later_setting": None, "another": {}, "third": False, "fourth": {"inner": False}},
        {"megatron_core": "megatron.core", "qalora_group_size": 16, "loftq_config": {}},
    ],
)
def test_ordinary_lora_settings_pass(changes):
    assert check_config(lora_config(**changes)).peft_type == "LORA"


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


@pytest.mark.parametrize("key", REFUSED)
def test_anything_else_is_refused_by_name(key):
    for value in REFUSED[key]:
        with pytest.raises(AdapterError, match=key):
            check_config(lora_config(**{key: value}))


def test_all_faults_are_told_at_once():
    with pytest.raises(AdapterError) as caught:
        check_config(lora_config(bias="all", r=1000, init_lora_weights="pissa"))
    assert all(word in str(caught.value) for word in ("bias", "r is 1000", "pissa", "rewrites the weights of the base"))


@pytest.mark.parametrize("peft_type", [None, "ADALORA", "lora", "XLORA", 3, ["LORA"]])
def test_only_methods_that_can_be_used(peft_type):
    with pytest.raises(AdapterError, match="PREFIX_TUNING"):
        check_config(lora_config(peft_type=peft_type))


P_TUNING = {**PROMPT, "peft_type": "P_TUNING", "encoder_num_layers": 2, "encoder_dropout": 0.0}
PREFIX = {**PROMPT, "peft_type": "PREFIX_TUNING", "prefix_projection": True, "encoder_hidden_size": 64}
IA3 = {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]}
NECK = {"peft_type": "BOTTLENECK", "r": 4, "target_modules": ["fc2"]}


@pytest.mark.parametrize(
    "config",
    [
        {**PROMPT, "prompt_tuning_init": "RANDOM", "tokenizer_name_or_path": None},
        {**P_TUNING, "encoder_reparameterization_type": "MLP"},
        {**PREFIX, "init_weights": None},
        {**IA3, "init_ia3_weights": True},
        {**NECK, "activation": "relu", "placement": "pfeiffer"},
    ],
)
def test_the_other_methods_pass(config):
    assert check_config(config).peft_type == config["peft_type"]


@pytest.mark.parametrize(
    ("config", "key"),
    [
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
    ],
)
def test_the_other_methods_have_limits_too(config, key):
    with pytest.raises(AdapterError, match=key):
        check_config(config)


def test_a_reward_model_may_save_its_score_head_and_nothing_else():
    config = lora_config(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    assert check_config(config, reward=True).peft_type == "LORA"
    with pytest.raises(AdapterError, match="modules_to_save"):
        check_config(config)
    with pytest.raises(AdapterError, match="score head"):
        check_config({**config, "modules_to_save": ["score", "lm_head"]}, reward=True)
