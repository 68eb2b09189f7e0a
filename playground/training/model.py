"""Load a base for training, with the method's adapter over it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from playground.data.render import load_tokenizer
from playground.engine.load import forbid_repacking, nf4
from playground.gpu.device import computes_bf16
from playground.methods import register_with_peft
from playground.methods.full import moving
from playground.methods.method import NO_OPTIONS, Method, Options


def training_dtype(*, moves: bool = False) -> torch.dtype:
    """bf16 where CUDA computes in it; fp32 on a CPU, where bf16 can be a hundred times slower, and for weights that
    move: most of an optimiser's steps are smaller than the distance between two numbers of bf16, and would leave a
    weight where it was."""
    half = not moves and torch.cuda.is_available() and computes_bf16()
    return torch.bfloat16 if half else torch.float32


def optimiser_name(method: Method) -> str:
    """transformers' name of the optimiser; on CUDA QLoRA's moments are in 8 bits and in pages."""
    return "paged_adamw_8bit" if method.quantised and torch.cuda.is_available() else "adamw_torch"


def load_for_training(
    folder: Path,
    method: Method,
    rank: int,
    seed: int,
    options: Options = NO_OPTIONS,
    *,
    scorer: bool = False,
    start: Path | None = None,
) -> Any:
    """The base, in NF4 where the method asks for it, with the method's trainable part on top. Seeded.

    scorer: a reward model, which gives one score a row. start: the adapter (or whole model) whose weights it begins
    with. Raises InputError for an option that this base has no place for, and for a start that cannot be trained
    further."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

    method.check(options)
    set_seed(seed)
    settings: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": True,
        "use_safetensors": True,
        "dtype": training_dtype(moves=method.whole),
    }
    if method.quantised:
        settings["quantization_config"] = nf4(training_dtype(), ["score"] if scorer else None)
        settings["device_map"] = {"": 0 if torch.cuda.is_available() else "cpu"}
    place = start if start is not None and method.whole else folder
    if scorer:
        # the score is read off the last token that is no padding
        settings |= {"num_labels": 1, "pad_token_id": int(load_tokenizer(folder).pad_token_id)}
        model = AutoModelForSequenceClassification.from_pretrained(place, **settings)
    else:
        model = AutoModelForCausalLM.from_pretrained(place, **settings)
    model.config.use_cache = False
    shapes = {name: _shape(p) for name, p in model.named_parameters()}
    if method.whole:
        if options.layers:
            chosen = moving(shapes, options) | {name for name in shapes if scorer and name.startswith("score.")}
            for name, p in model.named_parameters():
                p.requires_grad_(name in chosen)
        return model
    from peft import prepare_model_for_kbit_training

    if method.quantised:
        forbid_repacking(model)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if start is not None:
        return _started_from(model, start, method)
    return _new_adapter(model, folder, method, method.peft_config(shapes, rank, options), options, scorer)


def _new_adapter(model: Any, folder: Path, method: Method, config: Any, options: Options, scorer: bool) -> Any:
    """A new adapter over the base."""
    from peft import get_peft_model

    from playground.training.peft_models import trainable

    if scorer:
        config.task_type = "SEQ_CLS"  # PEFT then trains and saves the head too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of settings that are ours on purpose
        model = trainable(get_peft_model(model, config))
    if options.pissa:
        _start_as_principal(model)
    elif method.starts_as_tokens:
        _start_as_tokens(model, folder, options.init_text)
    return model


def _started_from(model: Any, start: Path, method: Method) -> Any:
    """The adapter in ``start`` over the base, to be trained on. Raises InputError where the method's files cannot
    be."""
    from peft import PeftConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file

    from playground.training.peft_models import trainable

    register_with_peft()
    config: Any = method.resumed(PeftConfig.from_pretrained(str(start)))
    config.inference_mode = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not config.is_prompt_learning:
            return trainable(PeftModel.from_pretrained(model, str(start), is_trainable=True, config=config))
        model = trainable(get_peft_model(model, config))  # PEFT does not train virtual tokens that it loads
    model.prompt_encoder["default"].load_state_dict(
        {"embedding.weight": load_file(start / "adapter_model.safetensors")["prompt_embeddings"]}
    )
    return model


def _shape(p: Any) -> tuple[int, ...]:
    state = getattr(p, "quant_state", None)
    return tuple(p.shape if state is None else state.shape)


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
    device = base.get_input_embeddings().weight.device
    if text.strip():
        ids = list(load_tokenizer(folder)(text, add_special_tokens=False)["input_ids"])
        chosen = torch.tensor((ids * (many // len(ids) + 1))[:many], device=device)
    else:
        chosen = torch.randint(base.get_input_embeddings().num_embeddings, (many,)).to(device)
    was_training = base.training
    base.eval()
    with torch.no_grad():
        if encoder.shape[1] == base.get_input_embeddings().weight.shape[1] and not model.in_cache:
            start = base.get_input_embeddings()(chosen)
        else:
            cache = base(input_ids=chosen[None], use_cache=True).past_key_values
            sides = [
                side[0].transpose(0, 1).flatten(1) for layer in cache.layers for side in (layer.keys, layer.values)
            ]
            start = torch.cat(sides, dim=1)
        encoder.copy_(start)
    base.train(was_training)


def weights_of(model: Any) -> tuple[int, int]:
    """(trained, all) weights; a 4-bit weight counts as one, and of PiSSA's pairs the half that stays is not trained."""
    trained = sum(
        p.numel() // (2 if getattr(p, "half_fixed", False) else 1) for p in model.parameters() if p.requires_grad
    )
    total = 0
    for p in model.parameters():
        total += p.quant_state.shape.numel() if getattr(p, "quant_state", None) is not None else p.numel()
    return trained, total
