"""What every method says of itself before a run: no torch needed."""

from typing import ClassVar

import pytest

from playground.errors import InputError
from playground.methods import all_methods, get_method, register_with_peft
from playground.methods.full import moving
from playground.methods.lora import Lora
from playground.methods.method import SIZES, Linear, Options, file_bytes, linears
from playground.methods.shapes import key_value_size, layer_count
from playground.training.spec import OBJECTIVES, needs

NAMES = ("lora", "qlora", "dora", "ia3", "bottleneck", "prefix", "p-tuning-v2", "prompt", "p-tuning", "full")


def base(stack, layers, layer, outside):
    """Names and shapes of a base's weights."""
    inside = {f"{stack}.{n}.{name}": shape for n in range(layers) for name, shape in layer.items()}
    return {f"{name}.weight": shape for name, shape in {**outside, **inside}.items()}


LLAMA_LAYER = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (64, 64)),
    **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (32, 64)),
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (128, 64)),
    **{"mlp.down_proj": (64, 128), "input_layernorm": (64,)},
}
PHI3_LAYER = {"self_attn.qkv_proj": (128, 64), "mlp.gate_up_proj": (256, 64), "mlp.down_proj": (64, 128)}
GPT2_LAYER = {"attn.c_attn": (64, 192), "attn.c_proj": (64, 64), "mlp.c_fc": (64, 256), "mlp.c_proj": (256, 64)}
LLAMA = base("model.layers", 2, LLAMA_LAYER, {"model.embed_tokens": (1000, 64), "model.norm": (64,)})
PHI3 = base("model.layers", 1, {**PHI3_LAYER, "self_attn.o_proj": (64, 64)}, {"model.embed_tokens": (1000, 64)})
GPT2 = base("h", 1, GPT2_LAYER, {"wte": (1000, 64), "wpe": (128, 64), "ln_f": (64,)})


def test_the_ten_of_the_contract_are_there():
    assert [method.order for method in all_methods().values()] == list(range(1, 11))
    assert set(all_methods()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_explains_itself(name):
    method = get_method(name)
    assert method.explain.count(". ") == 1, "two sentences"
    assert method.explain.endswith(".")
    assert "arXiv:" in method.paper
    assert all((method.label, method.cost))
    assert list(method.rates) == sorted(method.rates, reverse=True)


def test_a_larger_base_takes_smaller_steps():
    lora, sizes = get_method("lora"), (SIZES[0] // 2, *(size * 2 for size in SIZES))
    bases = ({"layers.0.q_proj.weight": (weights // 1000, 1000)} for weights in sizes)
    assert tuple(lora.sized(base).learning_rate for base in bases) == lora.rates
    assert lora.default_rate(Options(pissa=True)) < lora.learning_rate


def test_widths_are_read_off_the_shapes():
    assert [(layer_count(base), key_value_size(base)) for base in (LLAMA, GPT2, PHI3)] == [(2, 32), (1, 64), (1, 32)]
    assert Linear("h.0.mlp.c_fc", 256, 64) in linears(GPT2), "GPT-2 keeps weights as inputs x outputs"


@pytest.mark.parametrize("base", [LLAMA, GPT2, PHI3], ids=["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("name", NAMES)
def test_each_finds_its_place_in_every_family(name, base):
    method = get_method(name)
    trained = method.trains(base, method.rank or 0, Options())
    sizes = {"steps": 10, "batch_size": 2, "tokens_p95": 64, "tokens_mean": 50, "answer_max": 20}
    found = needs("sft", base, method, rank=method.rank or 0, **sizes)
    assert found.trainable_params == trained > 0
    assert found.disk_bytes == file_bytes(method.saves(base, method.rank or 0, Options()))
    assert found.memory_bytes > 0
    assert found.seconds > 12


def test_an_unknown_family_is_told_in_words():
    odd = {"embed_tokens.weight": (10, 8), "layers.0.mixer.weight": (8, 8)}
    for name in ("ia3", "bottleneck", "prefix", "p-tuning-v2"):
        with pytest.raises(InputError, match="Choose LoRA"):
            get_method(name).trains(odd, 4, Options())


def test_the_last_layers_are_those_behind_the_others():
    assert moving(LLAMA, Options()) == set(LLAMA)
    last = moving(LLAMA, Options(layers=1))
    assert "model.norm.weight" in last
    assert {name for name in last if "layers" in name} == {name for name in LLAMA if "layers.1." in name}
    with pytest.raises(InputError, match="The base has 2 layers; 3 cannot be trained"):
        get_method("full").trains(LLAMA, 0, Options(layers=3))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layers": "two"}, "Layers is 'two'"),
        ({"init_text": "x" * 3000}, "at most 2000 characters"),
        ({"layers": -1, "placement": "middle"}, "Layers is -1.* placement is 'middle'; there is houlsby and pfeiffer"),
    ],
)
def test_options_are_checked_in_words(wrong, words):
    with pytest.raises(InputError, match=words):
        Options.of(wrong)


def test_an_option_that_a_method_has_not_is_refused():
    with pytest.raises(InputError, match=r"IA³ does not take --pissa, --init-text\. Its own options: none\."):
        get_method("ia3").check(Options(pissa=True, init_text="Hello"))
    get_method("lora").check(Options(pissa=True, rslora=True))


def test_a_pair_that_does_not_go_together_says_why():
    class OnlyText(Lora):
        name = "only-text"
        exceptions: ClassVar = {"sft": "it is only a test. Choose LoRA."}

    for method in all_methods().values():
        assert set(method.exceptions) <= set(OBJECTIVES)
    with pytest.raises(InputError, match="only-text cannot train sft: it is only a test"):
        OnlyText().check_objective("sft")
    OnlyText().check_objective("dpo")


def test_a_method_of_our_own_is_a_full_member_of_pefts_enumeration(tmp_path):
    """PEFT has no public way to add one: a release that changes how its members are kept is noticed here."""
    import peft

    from playground.methods import bottleneck

    register_with_peft()
    kind = peft.PeftType("BOTTLENECK")
    assert kind is peft.PeftType.BOTTLENECK is peft.PeftType["BOTTLENECK"]
    assert (kind, kind.name, list(peft.PeftType).count(kind)) == ("BOTTLENECK", "BOTTLENECK", 1)
    bottleneck.register()
    assert list(peft.PeftType).count(kind) == 1
    bottleneck.BottleneckConfig(r=3, target_modules=["fc2"]).save_pretrained(tmp_path)
    assert isinstance(peft.PeftConfig.from_pretrained(tmp_path), bottleneck.BottleneckConfig)
