"""Methods that put virtual tokens before the text. As keys and values of every layer: prefix tuning, learned through a
small network, and P-tuning v2, learned directly. As embeddings: prompt tuning, and P-tuning, through a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError
from playground.methods.config_rules import Rule, nothing, number, one_of, switch, whole
from playground.methods.method import NO_OPTIONS, FileAdapter, Method, Options, Shapes, VirtualTokens
from playground.methods.shapes import BaseLayout, hidden_size, key_value_size, layer_count, other_width

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

TOKENS = "prompt_embeddings"
"""The one tensor of the file: PEFT saves what an encoder or a projection makes of its parameters."""
ENCODER = 256  # width of the MLP that a prefix is learned through
_TEXTS = ("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
"""What PEFT reads only where virtual tokens begin as a text (PromptTuningInit.TEXT)."""
_FETCHES = (
    "the vectors are in the file already, and this would fetch a tokenizer; set it to null (prompt_tuning_init: RANDOM)"
)
ENCODER_MAX = 1024


class VirtualTokenMethod(Method):
    rank = 20
    rank_label = "Virtual tokens"
    rank_info = "Stand before every prompt."
    virtual = True
    kept = 1.8
    kind = "prompt or prefix"
    required = ("num_virtual_tokens",)
    settings: Mapping[str, Rule] = {
        "num_virtual_tokens": whole(1, 1024),
        "token_dim": whole(1, 65_536, optional=True),
        "num_transformer_submodules": whole(1, 1, optional=True),
        "num_attention_heads": whole(1, 1024, optional=True),
        "num_layers": whole(1, 1024, optional=True),
        "encoder_hidden_size": whole(1, 65_536, optional=True),
    }

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Shapes:
        """[tokens, hidden], or [tokens, layers x 2 x width of a layer's keys]."""
        return {TOKENS: (rank, layer_count(shapes) * 2 * key_value_size(shapes) if self.deep else hidden_size(shapes))}

    def faults(self, shapes: Shapes, config: Mapping[str, Any], base: BaseLayout | None) -> Iterator[str]:
        yield from (self.foreign(name) for name in shapes if name != TOKENS)
        shape = shapes.get(TOKENS)
        if shape is None or len(shape) != 2 or shape[0] != config["num_virtual_tokens"]:
            has = f"has {TOKENS} of shape {None if shape is None else list(shape)}"
            yield f"{has}; its config says {config['num_virtual_tokens']} virtual tokens"
            return
        depth, wide = config.get("num_layers"), config.get("token_dim")
        if wide is not None and shape[1] != wide * (2 * depth if self.deep and depth else 1):
            said = f"token_dim {wide}, num_layers {depth}"
            yield f"has virtual tokens {shape[1]} wide, which is not what its config says ({said})"
        if base is None:
            return
        if depth is not None and base.layers is not None and depth != base.layers:
            yield f"was trained on another base: it has {depth} layers, this base has {base.layers}"
        if not self.deep and base.hidden is not None and shape[1] != base.hidden:
            yield other_width("a virtual token", shape[1], base.hidden)
        if self.deep and base.layers and base.key_value_width and shape[1] != 2 * base.layers * base.key_value_width:
            yield other_width("the keys and values of all layers", shape[1], 2 * base.layers * base.key_value_width)

    def read(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FileAdapter:
        flat = tensors.get(TOKENS)
        if flat is None or len(tensors) > 1 or flat.dim() != 2 or flat.shape[0] != config.get("num_virtual_tokens"):
            words = f"{name} does not hold the virtual tokens that its config tells of. Export the adapter again."
            raise AdapterError(words)
        return FileAdapter({}, VirtualTokens(flat, prefix=self.deep))


class Prefix(VirtualTokenMethod):
    name = "prefix"
    label = "Prefix tuning"
    cost = "a learned beginning in every layer"
    explain = (
        "Prefix tuning learns keys and values that every layer reads before the text, through a small network that"
        " steadies the learning and is left behind afterwards. The base stays as it is, and the file is small."
    )
    summary = "prefix tuning: learned keys and values before the text, in every layer, trained through a small network"
    paper = "Li and Liang 2021, arXiv:2101.00190"
    order = 6
    # hospital_reports, 20 steps of 4 rows: 5e-3 loss 0.51, 2e-3 0.56; 1.5e-2 diverges. Both forget much.
    rates = (1e-2, 5e-3, 3e-3, 1e-3)
    rank_info = "Read by every layer before the text."
    pace = 0.95
    deep = True
    projected = True  # learned through the network; the file is the same either way
    peft_type = "PREFIX_TUNING"
    settings: Mapping[str, Rule] = {**VirtualTokenMethod.settings, "prefix_projection": switch}

    def trains(self, shapes: Shapes, rank: int, options: Options) -> int:
        """An embedding a virtual token, and the MLP that makes keys and values of it."""
        if not self.projected:
            return super().trains(shapes, rank, options)
        wide, out = key_value_size(shapes), layer_count(shapes) * 2 * key_value_size(shapes)
        return rank * wide + (wide + 1) * ENCODER + (ENCODER + 1) * out

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PrefixTuningConfig:
        from peft import PrefixTuningConfig

        sizes: Any = {"num_virtual_tokens": rank, "encoder_hidden_size": ENCODER if self.projected else None}
        return PrefixTuningConfig(**sizes, prefix_projection=self.projected, task_type="CAUSAL_LM")

    def accepts(self, config: Mapping[str, Any]) -> bool:
        return super().accepts(config) and bool(config.get("prefix_projection")) == self.projected

    def resumed(self, config: PeftConfig) -> PeftConfig:
        """A finished prefix goes on without the network."""
        config.prefix_projection = False  # type: ignore[attr-defined]
        return config


class PTuningV2(Prefix):
    name = "p-tuning-v2"
    label = "P-tuning v2"
    cost = "the same without the network"
    explain = (
        "P-tuning v2 learns the keys and values before the text directly, as deep prompts in every layer. "
        "They begin as those of real tokens, so that the base is not thrown off its way at the start."
    )
    summary = "P-tuning v2: learned keys and values before the text, in every layer, trained directly"
    paper = "Liu et al. 2021, arXiv:2110.07602"
    order = 7
    # hospital_reports, 20 steps of 4 rows: 1e-1 loss 0.56, 0 of 40 general questions; 4e-2 0.73, 4; 1e-2 is too slow.
    rates = (6e-2, 4e-2, 2e-2, 1e-2)
    options = ("init_text",)
    pace = 1.0
    projected = False
    starts_as_tokens = True


class Prompt(VirtualTokenMethod):
    name = "prompt"
    label = "Prompt tuning"
    cost = "fewest weights of all"
    explain = (
        "Prompt tuning learns a few token embeddings that stand before every prompt, and nothing else: a prompt that no"
        " one could type. It is the weakest on small bases and catches up with their size; it may begin as a text of"
        " yours."
    )
    summary = "prompt tuning: learned token embeddings before the text"
    paper = "Lester et al. 2021, arXiv:2104.08691"
    order = 8
    # hospital_reports, 24 steps of 2 rows: 3e-2 loss 1.52, 1e-1 1.59, 3e-1 2.17. More steps help, larger ones do not.
    rates = (5e-2, 3e-2, 2e-2, 1e-2)
    options = ("init_text",)
    peft_options = ("init_text",)
    pace = 1.3
    starts_as_tokens = True
    peft_type = "PROMPT_TUNING"
    settings: Mapping[str, Rule] = {
        **VirtualTokenMethod.settings,
        "prompt_tuning_init": lambda value: "" if value in (None, "RANDOM", "SAMPLE_VOCAB") else _FETCHES,
        **dict.fromkeys(_TEXTS, nothing(_FETCHES)),
    }

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PromptTuningConfig:
        """RANDOM also where the tokens begin as a text: whoever loads the file then needs no tokenizer."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(num_virtual_tokens=rank, prompt_tuning_init="RANDOM", task_type="CAUSAL_LM")

    def resumed(self, config: PeftConfig) -> PeftConfig:
        """Also of what P-tuning has made."""
        made: Any = config
        return self.peft_config({}, int(made.num_virtual_tokens), NO_OPTIONS)

    def without_training(self, config: dict[str, Any]) -> list[str]:
        held = [config.pop(key, None) for key in _TEXTS]
        if config.get("prompt_tuning_init") == "TEXT":
            config["prompt_tuning_init"] = "RANDOM"
        said = "the text and tokenizer that the virtual tokens began with are left out"
        return [f"{said}: the file holds what became of them"] if any(held) else []


class PTuning(VirtualTokenMethod):
    name = "p-tuning"
    label = "P-tuning"
    cost = "prompt tuning through a network"
    explain = (
        "P-tuning learns token embeddings before the prompt through a small network, the prompt encoder, which ties"
        " them together while they are learned. Only what it makes is kept, so the file is that of prompt tuning."
    )
    summary = "P-tuning: learned token embeddings before the text, trained through a small network"
    paper = "Liu et al. 2021, arXiv:2103.10385"
    order = 9
    # hospital_reports, 24 steps of 2 rows: 2e-3 loss 2.27, 6e-3 2.33, 2e-2 2.17. It needs more steps.
    rates = (3e-3, 2e-3, 1e-3, 5e-4)
    goes_on_as = "prompt"  # the file holds what the network made, which is a prompt, and not the network
    pace = 1.3
    peft_type = "P_TUNING"
    settings: Mapping[str, Rule] = {
        **VirtualTokenMethod.settings,
        "encoder_reparameterization_type": one_of("MLP", "LSTM", None),
        "encoder_num_layers": whole(1, 16, optional=True),
        "encoder_dropout": number(0, 1),
    }

    def trains(self, shapes: Shapes, rank: int, options: Options) -> int:
        """An embedding a virtual token, and the prompt encoder's three layers."""
        wide = hidden_size(shapes)
        inner = min(wide, ENCODER_MAX)
        return rank * wide + (wide + 1) * inner + (inner + 1) * inner + (inner + 1) * wide

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PromptEncoderConfig:
        from peft import PromptEncoderConfig

        inner = min(hidden_size(shapes), ENCODER_MAX)
        return PromptEncoderConfig(num_virtual_tokens=rank, encoder_hidden_size=inner, task_type="CAUSAL_LM")
