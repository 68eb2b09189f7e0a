"""Small bases that are offered by name, and what each takes on this device: computed from its published config, by the
estimate that plans runs."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from playground.methods import get_method
from playground.methods.method import Shape, weights_in
from playground.training.spec import Estimate, can_pack_sequences, needs

LOADED_FACTOR = 1.15  # memory of a loaded model per byte of its weights: buffers and working space come on top
STEPS, ROWS, TOKENS, ANSWER = 20, 8, 256, 128
"""The run that is estimated: a quick look, its time with 8 rows a step; its memory with one row, the least there is."""
PATIENT_S = 900.0
"""A quick look on a processor that takes longer is not what fits best."""
_BIASED, _QK_NORM = ("qwen2",), ("qwen3", "gemma3_text")
_FEEDFORWARD_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Known:
    """A base that can be offered: the numbers of its config.json. id: on the hub, or the default base's. family: its
    ``model_type``. head_size: width of an attention head. tied, gated, tried: as in known_bases.toml."""

    id: str
    licence: str
    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    tied: bool = True
    gated: bool = False
    tried: bool = False

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every weight by its name; a head that is tied to the embeddings is no weight of its own."""
        queries, keys, wide = self.heads * self.head_size, self.kv_heads * self.head_size, self.intermediate
        if self.family == "phi3":
            products = {"self_attn.qkv": (queries + 2 * keys, self.hidden), "mlp.gate_up": (2 * wide, self.hidden)}
        else:
            into = {"self_attn.q": queries, "self_attn.k": keys, "self_attn.v": keys, "mlp.gate": wide, "mlp.up": wide}
            products = {name: (outputs, self.hidden) for name, outputs in into.items()}
        products |= {"self_attn.o": (self.hidden, queries), "mlp.down": (self.hidden, wide)}
        layer: dict[str, Shape] = {f"{name}_proj.weight": shape for name, shape in products.items()}
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += _FEEDFORWARD_NORMS if self.family == "gemma3_text" else ()
        layer |= {f"{norm}.weight": (self.hidden,) for norm in norms}
        if self.family in _QK_NORM:
            layer |= {f"self_attn.{one}_norm.weight": (self.head_size,) for one in "qk"}
        if self.family in _BIASED:
            layer |= {f"self_attn.{one}_proj.bias": products[f"self_attn.{one}"][:1] for one in "qkv"}
        embedded: Shape = (self.vocabulary, self.hidden)
        ends: dict[str, Shape] = {"model.embed_tokens.weight": embedded, "model.norm.weight": (self.hidden,)}
        ends |= {} if self.tied else {"lm_head.weight": embedded}
        return ends | {f"model.layers.{n}.{name}": shape for n in range(self.layers) for name, shape in layer.items()}

    @cached_property
    def parameters(self) -> int:
        return weights_in(self.shapes)

    @property
    def download_bytes(self) -> int:
        """Of its weights, which are published in 16 bits."""
        return 2 * self.parameters


@dataclass(frozen=True)
class Offer:
    """A known base on this device. *_bytes: memory to chat, and at least to train with LoRA or QLoRA. quick_s: seconds
    of a quick look with LoRA on a processor, None on a GPU. fits: to chat. reason: what does not fit, "" = all does.
    best: the largest that can be chatted with and trained here."""

    known: Known
    chat_bytes: int
    lora_bytes: int
    qlora_bytes: int
    quick_s: float | None
    fits: bool
    reason: str = ""
    best: bool = False


@dataclass(frozen=True)
class BaseChoice:
    """A base one may choose. bytes: in memory, 0 = unknown until fetched. fits: whether it does; reason: why not, a
    sentence that begins with its name. note: what else is to be known."""

    spec: str
    label: str
    licence: str
    bytes: int
    fits: bool
    reason: str = ""
    note: str = ""


@cache
def known_bases() -> tuple[Known, ...]:
    """The smallest first."""
    said = tomllib.loads(Path(__file__).with_name("known_bases.toml").read_text(encoding="utf-8"))
    return tuple(sorted((Known(**one) for one in said["bases"]), key=lambda one: one.parameters))


@cache
def offers(budget_bytes: int, *, cuda: bool) -> tuple[Offer, ...]:
    """Every known base with what it takes, the smallest first; what fits best is marked. cuda: the memory is a CUDA
    device's."""
    found = [_offer(known, budget_bytes, cuda) for known in known_bases()]
    able = [one for one in found if not one.reason and (one.quick_s or 0.0) <= PATIENT_S]
    return tuple(replace(one, best=bool(able) and one is able[-1]) for one in found)


def next_larger(offered: Sequence[Offer], parameters: int) -> Offer | None:
    """What to try where a base of so many parameters is too weak: what fits best here if it is larger, else the
    smallest larger one that can be asked here."""
    larger = [one for one in offered if one.known.parameters > 1.5 * parameters and one.fits]
    return next((one for one in larger if one.best), larger[0] if larger else None)


def _offer(known: Known, budget_bytes: int, cuda: bool) -> Offer:
    def estimate(name: str, rows: int) -> Estimate:
        method = get_method(name).sized(known.shapes)
        return needs(
            "sft",
            known.shapes,
            method,
            rank=method.rank or 0,
            steps=STEPS,
            batch_size=rows,
            tokens_p95=TOKENS,
            tokens_mean=TOKENS / 2,
            answer_max=ANSWER,
            packed=can_pack_sequences({"model_type": known.family}),
            cuda=cuda,
        )

    chat, reason = int(known.parameters * (2 if cuda else 4) * LOADED_FACTOR), ""
    lora, qlora = (estimate(name, 1).memory_bytes for name in ("lora", "qlora"))
    if chat > budget_bytes:
        reason = f"needs {chat / 1e9:.1f} GB to chat; the budget is {budget_bytes / 1e9:.1f} GB"
    elif min(lora, qlora) > budget_bytes:
        reason = f"can be asked, not trained: QLoRA needs {qlora / 1e9:.1f} GB of {budget_bytes / 1e9:.1f} GB"
    quick_s = None if cuda else estimate("lora", ROWS).seconds
    return Offer(known, chat, lora, qlora, quick_s, chat <= budget_bytes, reason)
