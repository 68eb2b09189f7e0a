"""Tiny random bases of every family, adapters of every kind by PEFT, and what PEFT and generate say to a prompt."""

import json
import shutil
import warnings
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from playground.engine.engine import Engine
from playground.engine.llama_backend import LlamaBackend
from playground.engine.load import fitted, forbid_repacking, read_adapter
from playground.engine.request import AdapterFile

WINDOW = 12
"""Sliding windows here are so many tokens wide: prompts and replies pass them."""

_SIDES = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2},
}
_GEMMA = {"head_dim": 32, "sliding_window": WINDOW, "query_pre_attn_scalar": 32}
_ROPE = {"rope_theta": 10000.0, "original_max_position_embeddings": 64}
_YARN = _ROPE | {"rope_type": "yarn", "factor": 4.0}
_LLAMA3 = _ROPE | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LONG = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32},
    **{"short_factor": [1.0] * 8, "long_factor": [float(n) for n in range(1, 9)]},
}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
_OPT = {key: value for key, value in _SIDES.items() if key.startswith(("hidden", "num_hidden", "num_attention", "max"))}
_WINDOWED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
FAMILIES = {
    "llama": ("LlamaConfig", _SIDES),
    "llama-bias": ("LlamaConfig", _SIDES | {"attention_bias": True, "tie_word_embeddings": True}),
    "llama-rope": ("LlamaConfig", _SIDES | {"rope_parameters": _LLAMA3}),
    "llama-yarn": ("LlamaConfig", _SIDES | {"rope_parameters": _YARN}),
    "qwen2": ("Qwen2Config", _SIDES),
    "qwen2-window": ("Qwen2Config", _SIDES | _WINDOWED),
    "qwen3": ("Qwen3Config", _SIDES | {"head_dim": 32}),
    "mistral": ("MistralConfig", _SIDES | {"sliding_window": None, "head_dim": 32}),
    "mistral-window": ("MistralConfig", _SIDES | {"sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", _SIDES | {"head_dim": 32}),
    "gemma2": ("Gemma2Config", _SIDES | _GEMMA),
    "gemma3": ("Gemma3TextConfig", _SIDES | _GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}),
    "phi": ("PhiConfig", _SIDES),
    "phi3": ("Phi3Config", _SIDES),
    "phi3-window": ("Phi3Config", _SIDES | {"sliding_window": WINDOW}),
    "phi3-longrope": ("Phi3Config", _SIDES | {"rope_parameters": _LONG, "original_max_position_embeddings": 32}),
    "gpt2": ("GPT2Config", _GPT2),
    "opt": ("OPTConfig", _OPT | {"ffn_dim": 96, "init_std": 0.2, "word_embed_proj_dim": 64}),
    "lfm2": ("Lfm2Config", _SIDES | {"layer_types": ["conv", "full_attention"]}),
}

IA3_ON = {
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "phi": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "phi3": (["qkv_proj", "down_proj"], ["down_proj"]),
    "opt": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "lfm2": (["k_proj", "v_proj", "w2"], ["w2"]),
}
"""Where PEFT has no default of its own, or none that fits: the modules, and those of them whose input is scaled."""


class Again:
    """A graph that runs its work anew."""

    def __init__(self, work, beside=None):
        self.replay = work


def byte_tokenizer():
    """One token a byte, and three more."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def save_base(family, folder, **changed):
    """A random two-layer model, biases and norms drawn too: the zeros and ones that the library makes prove nothing."""
    import transformers

    tokenizer = byte_tokenizer()
    name, options = FAMILIES[family]
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    config = getattr(transformers, name)(**{"vocab_size": len(tokenizer)} | options | ends | changed)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_base(base, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, **options).eval()


def four_bits(base, dtype=torch.float32):
    """The base in NF4, kept from being rounded anew by bitsandbytes at its first forward pass."""
    from transformers import BitsAndBytesConfig

    kind = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(**kind, bnb_4bit_compute_dtype=dtype)
    model = load_base(base, quantization_config=config, device_map={"": "cpu"}, dtype=dtype)
    forbid_repacking(model)
    return model


def draw(peft, seed):
    """Give an adapter that has just been made weights large enough to change what is said."""
    torch.manual_seed(seed)
    by = {
        "lora_B": lambda t: t.normal_(std=0.1),
        "lora_magnitude_vector": lambda t: t.mul_(1 + 0.4 * torch.rand_like(t)),
        "ia3_l": lambda t: t.uniform_(0.3, 1.7),
        "bottleneck_": lambda t: t.normal_(std=0.15),
        "prompt_encoder": lambda t: t.add_(0.3 * torch.randn_like(t)),
    }
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            next((change for part, change in by.items() if part in name), lambda t: t)(parameter)


VIRTUAL = {
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 24}),
    "deep": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "ptuning": ("PromptEncoderConfig", {"num_virtual_tokens": 6, "encoder_hidden_size": 24}),
}
"""Kinds that put tokens before the text: prefix tuning, P-tuning v2, prompt tuning and P-tuning."""


def save_adapter(base, folder, kind, seed=0, **options):
    """kind: ia3, bottleneck, dora, one of VIRTUAL, or anything else for LoRA; options: of PEFT's config."""
    import peft

    from playground.methods.bottleneck import BottleneckConfig

    name, own = VIRTUAL.get(kind, ("LoraConfig", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}))
    if kind == "dora":
        own = own | {"use_dora": True}
    elif kind in ("ia3", "bottleneck"):
        name, own = "IA3Config", {} if kind == "ia3" else {"r": 4}
    made = BottleneckConfig if kind == "bottleneck" else getattr(peft, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load_base(base), made(**(own | {"task_type": "CAUSAL_LM"} | options)))
        draw(model, seed)
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def edited(folder, target, by=lambda name, t: t, **config):
    """A copy of an adapter with other tensors (None = left out) and settings."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    weights, settings = target / "adapter_model.safetensors", target / "adapter_config.json"
    tensors = {name: by(name, tensor) for name, tensor in load_file(weights).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, weights)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | config))
    return target


def save_adapters(base, folder, kinds):
    """Adapters by name: the kind, then perhaps ``-`` and more; with options of PEFT's config."""
    return {
        name: save_adapter(base, folder / name, name.partition("-")[0], seed, **options)
        for seed, (name, options) in enumerate(kinds.items())
    }


def engine_with(base, adapters, path="", **options):
    """path: ``llama`` or ``hf``, "" = the one that the base takes by itself."""
    engine = Engine(base, hf=path == "hf", **options)
    assert not path or (engine.path == "llama") is (path == "llama")
    for name, folder in adapters.items():
        attach(engine, folder, name)
    return engine


def with_adapter(model, folder):
    """A loaded base with an adapter laid over it by PEFT."""
    from peft import PeftModel

    if folder is None:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, folder).eval()


@dataclass(frozen=True)
class Said:
    """A greedy reply's tokens, without the end, and the log-probabilities at each place [places, vocabulary]."""

    tokens: list[int]
    shares: torch.Tensor


def said_by(model, ids, tokens):
    """What ``generate`` makes of a prompt alone."""
    prompt = torch.tensor([list(ids)])
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "max_new_tokens": tokens}
    with torch.no_grad():
        out = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
    reply = out.sequences[0, len(ids) :].tolist()
    ends = model.generation_config.eos_token_id
    return Said([token for token in reply if token != ends], torch.cat(out.logits).float().log_softmax(-1))


def at_once(model, ids, reply):
    """The same probabilities by one forward pass over everything, without a cache of what was read before."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*ids, *reply]])).logits[0]
    places = logits[-len(reply) - 1 :].float().log_softmax(-1)
    return places


class World:
    """A base with adapters on it, and what PEFT and ``generate`` say with each; ``""`` is the base alone."""

    def __init__(self, folder, family, kinds, **changed):
        self.base = save_base(family, folder / "base", **changed)
        self.adapters = save_adapters(self.base, folder, kinds)
        self.truth = cache(self._truth)
        self.said, self.logits = cache(self._said), cache(self._logits)

    def engine(self, path="", **options):
        return engine_with(self.base, self.adapters, path, **options)

    def _truth(self, name, **options):
        return with_adapter(load_base(self.base, **options), self.adapters.get(name or ""))

    def _logits(self, name, prompt, **options):
        """Of the prompt's last token [vocabulary]."""
        ids = torch.tensor([byte_tokenizer()(prompt)["input_ids"]])
        with torch.no_grad():
            last = self.truth(name, **options)(input_ids=ids).logits[0, -1].float()
        return last

    def _said(self, name, prompt, tokens):
        return said_by(self.truth(name), byte_tokenizer()(prompt)["input_ids"], tokens)


def ids_of(engine, prompt):
    found = engine.loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return found


def attach(engine, folder, name, sha256=""):
    engine.attach(AdapterFile(name, folder, sha256 or name))
    return name


def poison(engine, folder, value, name="bad"):
    """Put an adapter that is attached into the engine once more, past all checks, with every number of it ``value``."""
    found = read_adapter(folder)

    def full(part):
        tensors = {name: t for name, t in vars(part).items() if isinstance(t, torch.Tensor)} if part else {}
        return replace(part, **{name: torch.full_like(t, value) for name, t in tensors.items()}) if part else None

    weights = {
        path: replace(full(part), neck=full(part.neck))
        for path, part in fitted(name, found.modules, engine.linears).items()
    }
    virtual = full(found.virtual)
    engine.worker.run(lambda: engine.backend.put(name, f"poison {value}", weights, virtual))


def run(engine, rows):
    states = []
    for states in engine.stream(rows):
        pass
    return states


def text(engine, row):
    return run(engine, [row])[0].text


def llama(engine):
    assert isinstance(engine.backend, LlamaBackend)
    return engine.backend


def settled(engine):
    """The scheduler, when the round that told of the last reply has ended."""
    engine.worker.run(lambda: None)
    return llama(engine).scheduler


def logits_of(engine, prompt, adapter):
    """Of the prompt's last token [vocabulary]."""
    return engine.backend.logits([ids_of(engine, prompt)], adapter)[0]


def furthest(state, shares):
    """How far a row's own probabilities (Row(logprobs=0)) lie from these, at worst."""
    assert len(state.logprobs) == len(state.tokens)
    places = zip(state.tokens, state.logprobs, shares, strict=False)
    return max((abs(float(place[token]) - there.logprob) for token, there, place in places), default=0.0)


RAIN = "It rained for the whole of the second week, and nobody in the house minded. " * 4
"""Past one chunk of the llama path."""
TEXTS = [
    ("Say it: ", "One and two<eos>"),
    ("", "The report says that nothing happened."),
    ("Hello there, ", "my order!"),
]
TEXTS += [("Q", RAIN[:220])]


def shares(world, name, prompt, completion):
    """PEFT's log-probabilities [scored places, vocabulary], and the tokens there."""
    before, after = (byte_tokenizer()(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
    ids = torch.tensor([[*before, *after]])
    with torch.no_grad():
        logits = world.truth(name)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
    first = max(1, len(before))
    return logits[first - 1 : -1].float().log_softmax(-1), ids[0, first:]


def held_to_peft(engine, world, rows):
    for row, score in zip(rows, engine.score(rows), strict=True):
        here, tokens = shares(world, row.adapter or "", row.prompt, row.completion)
        base, _ = shares(world, "", row.prompt, row.completion)
        loss, base_loss = (-float(found.gather(1, tokens[:, None]).mean()) for found in (here, base))
        apart = float((here.exp() * (here - base)).sum(-1).mean())
        assert score.tokens == len(tokens)
        assert score.loss == pytest.approx(loss, abs=1e-3), row
        if row.divergence and row.adapter:
            assert score.divergence == pytest.approx(apart, abs=1e-3), row
            assert score.base_loss == pytest.approx(base_loss, abs=1e-3), row
            assert apart > 0.01, "an adapter that changes nothing proves nothing"
        else:
            assert score.divergence is None
            assert score.base_loss is None
