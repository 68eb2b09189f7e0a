"""What the engine reads from disk. A base: the model in memory, ready to decode, and proof that its weights stay as
they are. An adapter's file, and what it does to one linear layer: one formula for LoRA, rsLoRA, QLoRA, DoRA and IA³.

    y = out_scale * (W (in_scale * x) + bias + x a b) + shift, and with a bottleneck y + up(act(down(y)))

LoRA: Hu et al. 2021, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732; DoRA: Liu et al. 2024,
arXiv:2402.09353; IA³: Liu et al. 2022, arXiv:2205.05638; bottlenecks: Houlsby et al. 2019, arXiv:1902.00751, and
Pfeiffer et al. 2020, arXiv:2005.00052.

Soft prompts put virtual tokens before the text. Prefix tuning (Li & Liang 2021, arXiv:2101.00190) and P-tuning v2 (Liu
et al. 2022, arXiv:2110.07602) learn keys and values for every layer, at the start of the KV cache: they are not turned
by positions, and the text's begin at their count. Prompt tuning (Lester et al. 2021, arXiv:2104.08691) and P-tuning
(Liu et al. 2021, arXiv:2103.10385) learn embeddings, which are read like a text's at positions 0 ..
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import Tensor, nn
from torch.nn import functional

from playground.engine.sequence import send
from playground.errors import AdapterError, BaseUnavailableError
from playground.gpu.device import accelerator, computes_bf16
from playground.library.files import check_magnitudes, digest
from playground.methods import method_for
from playground.methods.bottleneck_method import ACTIVATIONS as NAMES
from playground.methods.method import BottleneckWeights, FileAdapter, FileModule
from playground.settings import PRECISIONS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {name: getattr(functional, name) for name in NAMES}


def read_adapter(folder: Path) -> FileAdapter:
    """What a PEFT folder holds, in fp32. Raises AdapterError for an unknown method or a damaged file."""
    name = folder.name
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8-sig"))
        if not isinstance(config, dict):
            raise ValueError("adapter_config.json holds no JSON object")
        # read, not mapped: a mapped file that is cut short ends the process, and load_file leaks 56 bytes a tensor
        # (safetensors 0.8.0)
        held = (folder / "adapter_model.safetensors").read_bytes()
        tensors = {key: tensor.float() for key, tensor in sorted(read_tensors(held).items())}
    except (OSError, ValueError, RuntimeError, RecursionError, SafetensorError) as error:
        raise AdapterError(f"The adapter in {name} cannot be read: {error}. Import it again.") from error
    if not any(tensor.numel() for tensor in tensors.values()):
        raise AdapterError(f"The adapter in {name} holds no weights. Export it again.")
    check_magnitudes(name, tensors)
    method = method_for(config)
    if method is None:
        raise AdapterError(
            f"{name} is a {config.get('peft_type')} adapter; chatting runs LoRA, DoRA, IA3, bottleneck, prefix and"
            " prompt adapters. Import one of these, or train one here."
        )
    try:
        return method.read(name, config, tensors)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise AdapterError(f"{name}'s config is damaged: {error}. Export the adapter again.") from error


@dataclass(frozen=True)
class Neck(BottleneckWeights):
    """One layer's bottleneck, as a batch computes it."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.down, self.down_bias, self.up, self.up_bias

    def to(self, dtype: torch.dtype, device: torch.device) -> Neck:
        down, down_bias, up, up_bias = (tensor.to(device, dtype).contiguous() for tensor in self.tensors)
        return Neck(down, down_bias, up, up_bias, self.activation)

    def add(self, y: Tensor) -> None:
        """In place, for tokens that all carry it: y [tokens, out]."""
        inner = ACTIVATIONS[self.activation](torch.addmm(self.down_bias, y, self.down.t()))
        y.addmm_(inner, self.up.t()).add_(self.up_bias)


@dataclass(frozen=True)
class StackedNecks:
    """Several necks of one layer: every row multiplies all of them; a mask between the products selects its own.

    down [columns, out], bias [columns], up [columns, out]; each neck has a column for each of its inner numbers and one
    that is always act(1), over which its up_bias is divided. parts: (activation, first column, past the last) of each
    neck, None where there is none."""

    down: Tensor
    bias: Tensor
    up: Tensor
    parts: tuple[tuple[str, int, int] | None, ...]

    @cached_property
    def _there(self) -> list[tuple[str, int, int]]:
        return [part for part in self.parts if part is not None]

    @property
    def bytes(self) -> int:
        return self.down.nbytes + self.bias.nbytes + self.up.nbytes

    def mask(self, carried: Sequence[int | None]) -> Tensor:
        """[rows, columns]: True where the column is not of the neck that the row carries; carried: its number."""
        mask = torch.ones(len(carried), self.down.shape[0], dtype=torch.bool)
        for row, number in enumerate(carried):
            if number is not None and (part := self.parts[number]) is not None:
                mask[row, part[1] : part[2]] = False
        return send(mask, self.down.device)

    def add(self, y: Tensor, mask: Tensor) -> None:
        """In place: y [rows, out], each without what its mask covers."""
        inner = torch.addmm(self.bias, y, self.down.t())
        if len({activation for activation, _, _ in self._there}) == 1:
            inner = ACTIVATIONS[self._there[0][0]](inner)
        else:
            inner = torch.cat([ACTIVATIONS[name](inner[:, begin:end]) for name, begin, end in self._there], dim=1)
        y.addmm_(inner.masked_fill_(mask, 0.0), self.up)


def stacked(necks: Sequence[Neck | None]) -> StackedNecks:
    """At least one of them is there."""
    down, bias, up, end = [], [], [], 0
    parts: list[tuple[str, int, int] | None] = [None] * len(necks)
    for number, neck in enumerate(necks):
        if neck is not None:
            one = torch.ones_like(neck.down_bias[:1])
            down += [neck.down, torch.zeros_like(neck.down[:1])]
            bias += [neck.down_bias, one]
            up += [neck.up.t(), (neck.up_bias / ACTIVATIONS[neck.activation](one))[None]]
            begin, end = end, end + neck.down.shape[0] + 1
            parts[number] = (neck.activation, begin, end)
    return StackedNecks(torch.cat(down), torch.cat(bias), torch.cat(up), tuple(parts))


class MaskedNecks(NamedTuple):
    """What the rows of a batch carry on one layer: several necks, and whose is whose."""

    necks: StackedNecks
    mask: Tensor

    def add(self, y: Tensor) -> None:
        self.necks.add(y, self.mask)


@dataclass(frozen=True)
class ModuleWeights:
    """a [rank, in], b [out, rank] with the scale folded in; in_scale [in]; out_scale, shift [out]; None = no effect."""

    a: Tensor | None = None
    b: Tensor | None = None
    in_scale: Tensor | None = None
    out_scale: Tensor | None = None
    shift: Tensor | None = None
    neck: Neck | None = None

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[0]


AdapterWeights = Mapping[str, ModuleWeights]
"""By the path of the linear layer inside the base."""


def out_in(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a layer that can carry an adapter, else None. GPT-2's Conv1D keeps its weight transposed."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and weight is not None:
        return weight.shape[1], weight.shape[0]
    return None


def plain_weight(module: Any) -> Tensor:
    """A linear layer's weight [out, in] in fp32; an NF4 one is unpacked."""
    data: Tensor = module.weight.data
    if (state := getattr(module.weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        data = dequantize_4bit(data, state)
    return (data.t() if type(module).__name__ == "Conv1D" else data).float()


def fitted(name: str, found: Mapping[str, FileModule], modules: Mapping[str, nn.Module]) -> dict[str, ModuleWeights]:
    """An adapter's file laid over a base's linear layers, by path. Raises AdapterError when it was made for another
    base, or where a number is too large once it is scaled. name: the adapter's, for the error."""
    weights = {}
    for path, part in found.items():
        module = modules.get(path)
        there = out_in(module) if module is not None else None
        neck = Neck(**vars(part.neck)) if part.neck is not None else None
        ends = (part.b, part.out_scale, part.magnitude, neck.up_bias if neck is not None else None)
        outputs = {t.shape[0] for t in ends if t is not None}
        inputs = {t.shape[-1] for t in (part.a, part.in_scale) if t is not None}
        if there is None or not (outputs <= {there[0]} and inputs <= {there[1]}):
            said = f"{there[1]} -> {there[0]}" if there else "no such layer"
            wide = " -> ".join(" and ".join(map(str, sorted(side))) or "any" for side in (inputs, outputs))
            raise AdapterError(
                f"{name} was trained on another base: {path} is {wide} in the adapter, here it is {said}. "
                "Choose the base it was trained on."
            )
        assert module is not None
        out_scale, shift = part.out_scale, None
        if part.magnitude is not None and part.a is not None and part.b is not None:
            norm = torch.linalg.vector_norm(plain_weight(module).cpu() + part.b @ part.a, dim=1)
            out_scale = part.magnitude / norm
            bias = getattr(module, "bias", None)
            if bias is not None:  # DoRA leaves the base's bias alone
                shift = (1 - out_scale) * bias.data.float().cpu()
        weights[path] = ModuleWeights(part.a, part.b, part.in_scale, out_scale, shift, neck)
    made = {"lora_B times its scale": "b", "the scale of its output": "out_scale", "the shift of its output": "shift"}
    tensors = {f"{path} ({said})": getattr(w, field) for path, w in weights.items() for said, field in made.items()}
    check_magnitudes(name, {key: tensor for key, tensor in tensors.items() if tensor is not None})
    return weights


# -- a base ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A model in memory. weights: its parameters by name, as they were before anything was hooked onto it.
    packed_bytes: of what stands beside them in another layout."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    weights: dict[str, torch.nn.Parameter]
    packed_bytes: int = 0

    @cached_property
    def bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights.values()) + self.packed_bytes


def pick_device(precision: str = "auto") -> tuple[torch.device, torch.dtype]:
    """A GPU in bf16 where it computes in it, else in fp16; the CPU in fp32, unless ``gpu.precision`` has measured that
    bf16 is faster. precision: a key of PRECISIONS where one is chosen."""
    kind = accelerator()
    half = torch.bfloat16 if kind == "xpu" or (kind == "cuda" and computes_bf16()) else torch.float16
    suited = torch.float32 if kind == "cpu" else half
    return torch.device(kind), suited if precision == "auto" else getattr(torch, PRECISIONS[precision])


def load(folder: Path, *, dtype: torch.dtype | None = None, quantised: bool = False) -> Loaded:
    """Load ``folder`` for decoding. Raises BaseUnavailableError when it cannot be loaded.

    dtype: None = what suits the device. quantised: squeeze the weights to 4 bits as they are read (NF4 with double
    quantisation, Dettmers et al. 2023, arXiv:2305.14314); a folder that holds such weights already needs no asking."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device, suited = pick_device()
    dtype = dtype or suited
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    options = safe | {"use_safetensors": True, "dtype": dtype}
    try:
        tokenizer, config = (kind.from_pretrained(folder, **safe) for kind in (AutoTokenizer, AutoConfig))
        packed = getattr(config, "quantization_config", None) is not None
        if quantised and not packed:
            options["quantization_config"] = nf4(dtype)
        if quantised or packed:
            options["device_map"] = {"": device}
        kind: Any = AutoModelForCausalLM
        model, about = kind.from_pretrained(folder, **options, output_loading_info=True)
        if lacking := sorted(about["missing_keys"]):
            raise ValueError(f"it lacks the weights {', '.join(lacking[:3])}, which would be made up.")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, ArithmeticError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        reason = "its weights have other sizes than its config.json says." if "ignore_mismatched" in reason else reason
        raise BaseUnavailableError(
            f"The model in {folder.name} cannot be loaded: {reason} Choose another base."
        ) from error
    if "device_map" not in options:
        model = model.to(device)
    model = model.eval().requires_grad_(False)
    forbid_repacking(model)
    weights = dict(model.named_parameters())
    numbers = {name: weight for name, weight in weights.items() if weight.is_floating_point() and weight.numel()}
    sums = torch.stack([weight.sum(dtype=torch.float32) for weight in numbers.values()]).isfinite().tolist()
    suspects = [weight for weight, sound in zip(numbers.items(), sums, strict=True) if not sound]  # or a sum too large
    if odd := next((name for name, weight in suspects if not weight.isfinite().all()), ""):
        why = f"The model in {folder.name} holds numbers in {odd} that are none (NaN or infinite)"
        raise BaseUnavailableError(f"{why}: its training diverged, or {dtype} does not hold them. Choose another base.")
    return Loaded(model, tokenizer, device, dtype, weights)


def nf4(dtype: torch.dtype, skip: list[str] | None = None) -> Any:
    """4-bit quantisation that computes in ``dtype``; skip: modules that stay as they are."""
    from transformers import BitsAndBytesConfig

    kind: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return BitsAndBytesConfig(**kind, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=skip)


def forbid_repacking(model: Any) -> None:
    """bitsandbytes rewrites 4-bit weights for AVX512-BF16 processors at the first forward pass without gradients, with
    scales rounded to bf16: they would no longer be the weights that were loaded, and their product has no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def live_fingerprint(loaded: Loaded) -> str:
    """Fingerprint of the weights as they are in memory now; equals the file's where the precision is the same."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int8: "I8"}
    weights: dict[str, torch.Tensor] = dict(loaded.weights)
    for name, weight in loaded.weights.items():  # what unpacks those in 4 bits, by the names that a file gives it
        if (state := getattr(weight, "quant_state", None)) is not None:
            weights |= {f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}

    def parts() -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
        for name in sorted(weights):
            tensor = weights[name].detach().cpu().contiguous()
            content = tensor.view(torch.uint8).numpy().data.cast("B")
            yield name, names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), content

    return digest(parts())
