"""A base loaded for training with the method's adapter over it, PEFT's models as training needs them, and the memory of
this process.

What PEFT leaves open for methods with virtual tokens (0.21):
1. A prompt before left-padded rows loses its positions; here every row is what it would be alone.
2. Logits of the virtual tokens come back with those of the text; here they are cut off, so that any labels fit.
3. A checkpoint holds what a network made of the virtual tokens, not the network, and cannot be gone on from (for
   P-tuning that goes unnoticed); here what is trained lies beside it, in ``trained.safetensors``.
4. A prefix's network runs once for every row of a batch; here once.
5. A score is read off the last token that is no padding, which cannot be told behind embeddings; here such rows are
   padded on the left.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import psutil
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import is_torch_tf32_available

from playground.data.render import load_tokenizer
from playground.engine.load import forbid_repacking, nf4
from playground.gpu.device import accelerator, computes_bf16, find_device
from playground.methods import register_with_peft
from playground.methods.full import moving
from playground.methods.method import NO_OPTIONS, Method, Options
from playground.settings import PRECISION, PRECISIONS
from playground.training.run_files import STATE

LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True, "use_safetensors": True}


class TrainableAdapter:
    """What both kinds of model share. Stands before PEFT's class, so ``super()`` is PEFT."""

    scores: bool
    active_peft_config: Any
    base_model: Any
    word_embeddings: Any
    named_parameters: Any

    @property
    def _virtual(self) -> int:
        config = self.active_peft_config
        return int(config.num_virtual_tokens) if config.is_prompt_learning else 0

    @property
    def in_cache(self) -> bool:
        """Whether they are keys and values in the cache, not embeddings."""
        return str(self.active_peft_config.peft_type.value) == "PREFIX_TUNING"

    def save_pretrained(self, save_directory: str, **options: Any) -> None:
        """The adapter as PEFT writes it (no trainer's reference beside it), and ``STATE`` where that is not all."""
        super().save_pretrained(str(save_directory), **{"selected_adapters": ["default"], **options})  # type: ignore[misc]
        if self._virtual:
            trained = {name: p.detach().cpu().contiguous() for name, p in self._learned().items()}
            save_file(trained, Path(save_directory) / STATE)

    def load_adapter(self, model_id: str, adapter_name: str, *others: Any, **options: Any) -> Any:
        """From a checkpoint of ours what is trained, exactly; anything else as PEFT does."""
        state = Path(model_id) / STATE
        if adapter_name != "default" or not state.is_file():
            return super().load_adapter(model_id, adapter_name, *others, **options)  # type: ignore[misc]
        saved, learned = load_file(state), self._learned()
        if saved.keys() != learned.keys():
            raise ValueError(f"{state} holds {sorted(saved)}; this model learns {sorted(learned)}.")
        with torch.no_grad():
            for name, value in saved.items():
                learned[name].copy_(value)
        return None

    def _learned(self) -> dict[str, torch.nn.Parameter]:
        marks = (".default.", ".modules_to_save.")
        return {name: p for name, p in self.named_parameters() if p.requires_grad and any(m in name for m in marks)}

    def get_prompt(self, batch_size: int, task_ids: Any = None, max_cache_len: int | None = None) -> Any:
        """A prefix's keys and values are made once and repeated for every row; gradients add up through that."""
        if not self.in_cache or batch_size == 1:
            return super().get_prompt(batch_size, task_ids, max_cache_len)  # type: ignore[misc]
        made = super().get_prompt(1, task_ids, max_cache_len)  # type: ignore[misc]
        made.batch_repeat_interleave(batch_size)
        return made

    def _adjust_prompt_learning_kwargs(self, peft_config: Any, *, kwargs: dict[str, Any], **others: Any) -> None:
        """PEFT would warn that it ignores positions; ours are put back afterwards."""
        if not self.in_cache:
            kwargs.pop("position_ids", None)
        super()._adjust_prompt_learning_kwargs(peft_config, kwargs=kwargs, **others)  # type: ignore[misc]

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        **others: Any,
    ) -> Any:
        """Logits are [rows, length of the text, vocabulary] with or without virtual tokens; of a scorer [rows, 1]."""
        if not self._virtual:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
            placed = {} if position_ids is None else {"position_ids": position_ids}
            return super().forward(**given, **placed, labels=labels, **others)  # type: ignore[misc]
        if self.scores and not self.in_cache and input_ids is not None and attention_mask is not None:
            order = attention_mask.argsort(dim=1, stable=True)  # padding to the left, the rest as it was
            input_ids, attention_mask, position_ids = input_ids.gather(1, order), attention_mask.gather(1, order), None
        inputs, length = self._widened(input_ids, attention_mask, inputs_embeds, position_ids)
        if labels is not None and not self.scores and not self.in_cache:
            labels = torch.cat((labels.new_full((labels.shape[0], self._virtual), -100), labels), dim=1)
        out = self.base_model(labels=labels, **inputs, **others)
        if not self.scores and getattr(out, "logits", None) is not None and out.logits.shape[1] > length:
            out.logits = out.logits[:, -length:]
        return out

    def _widened(
        self, input_ids: Any, attention_mask: Any, inputs_embeds: Any, position_ids: Any
    ) -> tuple[dict[str, Any], int]:
        """(the base's inputs after the virtual tokens, length of the text). Positions count what is attended to."""
        given = inputs_embeds if input_ids is None else input_ids
        rows, length = given.shape[:2]
        many = self._virtual
        if attention_mask is None:
            attention_mask = torch.ones((rows, length), dtype=torch.long, device=given.device)
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        mask = torch.cat((attention_mask.new_ones((rows, many)), attention_mask), dim=1)
        inputs: dict[str, Any] = {"attention_mask": mask, "position_ids": position_ids + many}
        if self.in_cache:
            inputs |= {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "past_key_values": self.get_prompt(rows)}
            return inputs, length
        text = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        first = torch.arange(many, device=given.device).expand(rows, many)
        inputs["inputs_embeds"] = torch.cat((self.get_prompt(rows).to(text.dtype), text), dim=1)
        inputs["position_ids"] = torch.cat((first, inputs["position_ids"].expand(rows, length)), dim=1)
        return inputs, length


class TrainableLM(TrainableAdapter, peft.PeftModelForCausalLM):  # type: ignore[misc]  # PEFT declares some of it otherwise
    """Writes text."""

    scores = False

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As PEFT, with positions that count what is attended to: rows of different length may be written together.
        (transformers looks for the very name ``kwargs``.)"""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        mask = inputs.get("attention_mask")
        if self._virtual and isinstance(mask, torch.Tensor) and mask.dim() == 2:
            given = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
        return inputs


class TrainableScorer(TrainableAdapter, peft.PeftModelForSequenceClassification):  # type: ignore[misc]
    """Scores text, at each row's last token."""

    scores = True


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off, no gradients, the run's precision; the model's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision().autocast():
            yield
    finally:
        model.train(was_training)


def trainable(model: Any) -> Any:
    """A PEFT model as one of ours: PEFT's loaders choose the class by the task."""
    scores = isinstance(model, peft.PeftModelForSequenceClassification)
    subclass: type = TrainableScorer if scores else TrainableLM
    if not issubclass(subclass, type(model)):
        raise TypeError(f"{subclass.__name__} is no {type(model).__name__}")
    model.__class__ = subclass
    return model


@dataclass(frozen=True)
class Precision:
    """What a run computes in. device: torch's kind of it. compute: of products, and of weights that stay. Weights that
    move are fp32: most of an optimiser's steps are smaller than the distance between two numbers of bf16."""

    device: str
    compute: torch.dtype

    def weights(self, *, move: bool) -> torch.dtype:
        return torch.float32 if move else self.compute

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """For a forward pass: its products in ``compute``, sums that need it in fp32."""
        mixed = self.compute != torch.float32
        return torch.autocast(self.device, self.compute) if mixed else contextlib.nullcontext()

    @property
    def diverged(self) -> str:
        """What to say where the loss is no number any more."""
        sooner = f", or set {PRECISION}=fp32, for fp16 overflows sooner" if self.compute == torch.float16 else ""
        return f"The loss is no longer a number (it diverged). Choose a smaller learning rate{sooner}, and start again."

    def arguments(self) -> dict[str, Any]:
        """For TrainingArguments: fp16 brings a GradScaler, without which small gradients vanish; what is left in fp32
        multiplies as TF32."""
        kinds = {"bf16": self.compute == torch.bfloat16, "fp16": self.compute == torch.float16}
        return kinds | {"tf32": True if self.device == "cuda" and is_torch_tf32_available() else None}


def precision() -> Precision:
    """bf16 where a GPU computes in it, fp16 on a CUDA device that does not; fp32 on a processor, where a run's own
    ``precision`` tells what a base that stays is in, for its products alone; or what ``PLAYGROUND_PRECISION`` says, but
    for fp16 on a CPU, which has no GradScaler here."""
    kind, chosen = accelerator(), os.environ.get(PRECISION, "auto")
    half = torch.bfloat16 if kind == "xpu" or (kind == "cuda" and computes_bf16()) else torch.float16
    suited = half if kind in ("cuda", "xpu") else torch.float32
    compute: torch.dtype = getattr(torch, PRECISIONS[chosen]) if chosen in PRECISIONS else suited
    return Precision(kind, torch.float32 if kind in ("cpu", "mps") and compute == torch.float16 else compute)


def optimiser_name(method: Method) -> str:
    """transformers' name of the optimiser; on CUDA QLoRA's moments are in 8 bits and in pages."""
    return "paged_adamw_8bit" if method.quantised and accelerator() == "cuda" else "adamw_torch"


def load_for_training(
    folder: Path,
    method: Method,
    rank: int,
    seed: int,
    options: Options = NO_OPTIONS,
    *,
    scorer: bool = False,
    start: Path | None = None,
    rounded: bool = False,
) -> Any:
    """The base, in NF4 where the method asks for it, with the method's trainable part on top. Seeded.
    scorer: a reward model, which gives one score a row. start: the adapter (or whole model) whose weights it begins
    with. rounded: a processor multiplies by the base in bf16, as ``fused.py`` does. Raises InputError for an option
    that this base has no place for."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

    method.check(options)
    set_seed(seed)
    used = precision()
    half = rounded and used.device == "cpu" and not (method.whole or method.quantised)
    settings = LOCAL | {"dtype": torch.bfloat16 if half else used.weights(move=method.whole)}
    if method.quantised:
        settings["quantization_config"] = nf4(used.compute, ["score"] if scorer else None)
        settings["device_map"] = {"": used.device}
    if scorer:  # the score is read off the last token that is no padding
        settings |= {"num_labels": 1, "pad_token_id": int(load_tokenizer(folder).pad_token_id)}
    kind = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    model = kind.from_pretrained(start if start is not None and method.whole else folder, **settings)
    model.config.use_cache = False
    # a weight packed into 4 bits knows the shape it had
    shapes = {name: tuple((getattr(p, "quant_state", None) or p).shape) for name, p in model.named_parameters()}
    if method.whole:
        if options.layers:
            chosen = moving(shapes, options) | {name for name in shapes if scorer and name.startswith("score.")}
            for name, p in model.named_parameters():
                p.requires_grad_(name in chosen)
        return model
    if method.quantised:
        forbid_repacking(model)  # PEFT's own preparation would turn norms, embeddings and head into fp32
    if start is not None:
        return _moving_in_fp32(_started_from(model, start, method))
    config: Any = method.peft_config(shapes, rank, options)
    if scorer:
        config.task_type = "SEQ_CLS"  # PEFT then trains and saves the head too
    model = _with_adapter(model, config)
    if options.pissa:
        _start_as_principal(model)
    elif method.starts_as_tokens:
        _start_as_tokens(model, folder, options.init_text)
    return _moving_in_fp32(model)


def _moving_in_fp32(model: Any) -> Any:
    for p in model.parameters():
        if p.requires_grad:  # PEFT leaves a reward model's head as the base is
            p.data = p.data.float()
    return model


def _with_adapter(model: Any, config: Any) -> Any:
    with warnings.catch_warnings(action="ignore"):  # PEFT warns of settings that are ours on purpose
        return trainable(peft.get_peft_model(model, config))


def _started_from(model: Any, start: Path, method: Method) -> Any:
    """The adapter in ``start`` over the base, to be trained on."""
    register_with_peft()
    config: Any = method.resumed(peft.PeftConfig.from_pretrained(str(start)))
    config.inference_mode = False
    if not config.is_prompt_learning:
        with warnings.catch_warnings(action="ignore"):
            return trainable(peft.PeftModel.from_pretrained(model, str(start), is_trainable=True, config=config))
    model = _with_adapter(model, config)  # PEFT does not train virtual tokens that it loads
    saved = load_file(start / "adapter_model.safetensors")["prompt_embeddings"]
    model.prompt_encoder["default"].load_state_dict({"embedding.weight": saved})
    return model


def _start_as_principal(model: Any) -> None:
    """PiSSA over a base that stays as it is: the first half of each pair begins as the weight's strongest directions
    and is trained, the second half takes them off again and stays. W + s (B A - B0 A0); A is [2 r, in], B [out, 2 r]
    (Meng et al. 2024, arXiv:2404.02948)."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        a: Any = module.lora_A["default"].weight
        b: Any = module.lora_B["default"].weight
        rank, scale = a.shape[0] // 2, module.scaling["default"]
        weight = dequantize_module_weight(module.get_base_layer()).detach().float()
        weight = weight.t() if getattr(module, "fan_in_fan_out", False) else weight
        u, s, v = torch.svd_lowrank(weight, min(2 * rank + 8, *weight.shape), niter=4)
        root = (s[:rank] / scale).sqrt()
        first, second = root[:, None] * v[:, :rank].t(), u[:, :rank] * root
        with torch.no_grad():
            a.copy_(torch.cat((first, first)))
            b.copy_(torch.cat((second, -second), dim=1))
        half = torch.arange(2 * rank) < rank
        for p, moves in ((a, half[:, None]), (b, half[None, :])):
            p.register_hook(lambda gradient, moves=moves: gradient * moves.to(gradient))
            p.half_fixed = True


def _start_as_tokens(model: Any, folder: Path, text: str) -> None:
    """Virtual tokens begin as ``text``, repeated or cut to their number, or as tokens drawn from the vocabulary; those
    of every layer as the keys and values that the base makes of them. Random numbers would be far from anything the
    base has read."""
    encoder = model.prompt_encoder["default"].embedding.weight
    base, many = model.get_base_model(), encoder.shape[0]
    embeddings = base.get_input_embeddings()
    if text.strip():
        ids = list(load_tokenizer(folder)(text, add_special_tokens=False)["input_ids"])
        chosen = torch.tensor((ids * (many // len(ids) + 1))[:many], device=embeddings.weight.device)
    else:
        chosen = torch.randint(embeddings.num_embeddings, (many,)).to(embeddings.weight.device)
    with evaluating(base):
        if model.in_cache:
            layers = base(input_ids=chosen[None], use_cache=True).past_key_values.layers
            sides = [side[0].transpose(0, 1).flatten(1) for layer in layers for side in (layer.keys, layer.values)]
            encoder.copy_(torch.cat(sides, dim=1))
        else:
            encoder.copy_(embeddings(chosen))


def weights_of(model: Any) -> tuple[int, int]:
    """(trained, all) weights; a 4-bit weight counts as one, and of PiSSA's pairs the half that stays is not trained."""
    weights = list(model.parameters())
    trained = sum(p.numel() // (2 if getattr(p, "half_fixed", False) else 1) for p in weights if p.requires_grad)
    return trained, sum((getattr(p, "quant_state", None) or p).shape.numel() for p in weights)


def limit_memory(limit_bytes: int) -> None:
    """Let the system, or the GPU's allocator, refuse what goes past a run's own limit: that one run fails and nothing
    else does; Windows has no such limit. Call it when the libraries are loaded: they reserve a lot that they never
    use, and that must not count. Raises MemoryError when they alone are past the limit."""
    if not limit_bytes:
        return
    if (kind := accelerator()) != "cpu":
        share = min(1.0, limit_bytes / find_device().total_bytes)
        torch.get_device_module(kind).set_per_process_memory_fraction(share)
        return
    there, reserved = held_bytes(), own_bytes("VmData") or 0
    if there >= limit_bytes:
        raise MemoryError(f"{there} bytes are in use before training begins; the limit is {limit_bytes}")
    room = reserved + limit_bytes - there
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (room, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def peak_memory_bytes() -> int:
    """This process's peak so far: on CUDA and XPU what the allocator held, elsewhere the resident set."""
    if accelerator() in ("cuda", "xpu"):
        return int(torch.accelerator.max_memory_reserved())
    if (held := own_bytes("VmHWM")) is not None:  # ru_maxrss would begin at what the process that started this one held
        return held
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes() -> int:
    """What this process holds now: of a GPU with a memory of its own, else of the machine's."""
    if accelerator() in ("cuda", "xpu"):
        return int(torch.accelerator.memory_reserved())
    return int(psutil.Process().memory_info().rss)


def own_bytes(name: str) -> int | None:
    """A figure of Linux about this process, such as VmRSS; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError):
        return None
