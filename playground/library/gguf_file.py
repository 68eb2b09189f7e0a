"""A Transformers folder -> one GGUF file for llama.cpp, matrices in half precision or 8 bits and vectors in single,
checked by reading it back; a LoRA -> a GGUF file to lay over it. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from playground.errors import InputError

_FAMILIES = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3"}
ARCHITECTURES = {f"{family}ForCausalLM": name for family, name in _FAMILIES.items()}
"""transformers' class -> GGUF's name."""
_INSTEAD = "Export it as merged safetensors."
F16, Q8_0, Q4_K_M = "f16", "q8_0", "q4_K_M"
"""Precisions of the matrices. llama.cpp's own quantiser alone writes the last."""
_BLOCK = 32  # numbers that share a scale in Q8_0
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5  # GGUF's kinds of tokens


def write_gguf(model: Path, file: Path, name: str, kind: str = F16) -> None:
    """kind: F16 or Q8_0. Raises InputError for a family or a tokenizer that cannot be written."""
    import gguf

    config, architecture = _config(model)
    writer = gguf.GGUFWriter(file, architecture)
    try:
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
        _add_shape(writer, config)
        _add_tokenizer(writer, model, int(config["vocab_size"]))
        known = _names(config, architecture)
        for hf, tensor in _tensors(model):
            tensor = _arranged(tensor, hf, config, architecture)
            if kind == Q8_0 and tensor.ndim > 1 and tensor.shape[-1] % _BLOCK == 0:
                as_q8 = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(known(hf), gguf.quantize(tensor, as_q8), raw_dtype=as_q8)
            else:
                writer.add_tensor(known(hf), tensor.astype("float16" if tensor.ndim > 1 else "float32"))
        _write(writer)
    finally:
        writer.close()


def write_adapter(base: Path, modules: Mapping[str, tuple[Any, Any]], file: Path, name: str) -> None:
    """A LoRA to lay over the base's GGUF file. modules: linear layer -> (A [rank, in], B [out, rank] with its scale
    multiplied in). llama.cpp multiplies by alpha / rank, whatever scaled the LoRA: alpha is the largest rank, and a B
    of a smaller one is made smaller. Raises InputError for a layer that GGUF has no name for."""
    import gguf

    config, architecture = _config(base)
    known, alpha = _names(config, architecture), max(a.shape[0] for a, _ in modules.values())
    writer = gguf.GGUFWriter(file, architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
        for module, (a, b) in modules.items():
            weight = known(f"{module}.weight")
            b = _arranged(b * (a.shape[0] / alpha), f"{module}.weight", config, architecture)
            writer.add_tensor(f"{weight}.lora_a", a.astype("float32"))
            writer.add_tensor(f"{weight}.lora_b", b.astype("float32"))
        _write(writer)
    finally:
        writer.close()


def quantise(file: Path, target: Path) -> bool:
    """An f16 file in 4 bits (Q4_K_M) by llama.cpp's own quantiser, where there is one: ``llama-quantize`` on the path,
    or the package llama-cpp-python; False where there is none, or it fails."""
    if (program := shutil.which("llama-quantize")) is not None:
        done = subprocess.run([program, str(file), str(target), "Q4_K_M"], capture_output=True)
        return done.returncode == 0 and target.is_file()
    if importlib.util.find_spec("llama_cpp") is None:
        return False
    import llama_cpp

    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    return bool(llama_cpp.llama_model_quantize(str(file).encode(), str(target).encode(), how) == 0)


def check_gguf(model: Path, file: Path) -> float:
    """Read one prompt with the file as transformers loads it; returns the largest difference of a logit from the
    model's own. Raises InputError where tokens differ, or logits by more than half precision explains."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, utils

    quiet: Any = utils.logging
    quiet.disable_progress_bar()
    text = "The report was signed at 10:45 by Dr. Sharma: all well."
    found = []
    ways: tuple[tuple[Path, dict[str, Any]], ...] = ((model, {}), (file.parent, {"gguf_file": file.name}))
    for folder, options in ways:
        options |= {"trust_remote_code": False, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        try:
            loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
        except RuntimeError as error:  # e.g. Qwen3 with heads of another width than its default
            said = f"The GGUF file could not be checked: transformers does not read it back ({error})."
            raise InputError(f"{said} Export merged safetensors.") from error
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found.append((ids, loaded(torch.tensor([ids])).logits[0]))
        del loaded
    (ids, ours), (other_ids, theirs) = found
    if ids != other_ids:
        raise InputError(f"The GGUF file reads text into other tokens than the model does. {_INSTEAD}")
    apart = float((ours - theirs).abs().max())
    if not apart <= 0.05 * float(ours.abs().max()):
        raise InputError(f"The GGUF file answers otherwise than the model (a logit is {apart:.2f} off). {_INSTEAD}")
    return apart


def _config(model: Path) -> tuple[dict[str, Any], str]:
    """(the model's config, GGUF's name of its family). Raises InputError for another one."""
    config = json.loads((model / "config.json").read_text())
    config["num_key_value_heads"] = config.get("num_key_value_heads") or config.get("num_attention_heads")
    kind, *_ = config.get("architectures") or [""]
    if (architecture := ARCHITECTURES.get(kind)) is None:
        said = f"{kind or 'This model'} cannot be written as GGUF here; {', '.join(ARCHITECTURES)} can."
        raise InputError(f"{said} Export merged safetensors.")
    return config, architecture


def _names(config: Mapping[str, Any], architecture: str) -> Callable[[str], str]:
    """transformers' name of a weight -> GGUF's. It raises InputError where there is none."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], int(config["num_hidden_layers"]))

    def known(hf: str) -> str:
        if (found := names.get_name(hf, try_suffixes=(".weight", ".bias"))) is None:
            raise InputError(f"The model has a weight that GGUF has no name for: {hf}. {_INSTEAD}")
        return str(found)

    return known


def _arranged(tensor: Any, hf: str, config: Mapping[str, Any], architecture: str) -> Any:
    """A weight [out, ...] with its rows in the order that GGUF keeps them in."""
    if architecture == "llama" and hf.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config["num_attention_heads" if ".q_proj." in hf else "num_key_value_heads"]
        return _interleaved(tensor, int(heads))
    return tensor


def _write(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head = int(config.get("head_dim") or width // heads)
    rope = config.get("rope_parameters") or {}
    scaling = rope if rope.get("rope_type", "default") != "default" else config.get("rope_scaling")
    if scaling:
        said = "The model stretches its positions (RoPE scaling), which is not written as GGUF here."
        raise InputError(f"{said} Export merged safetensors.")
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(width)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config["num_key_value_heads"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(int(config["vocab_size"]))


def _add_tokenizer(writer: Any, model: Path, size: int) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE" or state["model"].get("byte_fallback"):
        said = "The base's tokenizer is no byte-level BPE, which is all that is written as GGUF here."
        raise InputError(f"{said} Export merged safetensors.")
    by_id = {index: text for text, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    kinds = [
        _UNUSED if index not in by_id else (_CONTROL if added[index].special else _USER) if index in added else _NORMAL
        for index in range(size)
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splits(json.dumps(state.get("pre_tokenizer"))))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for kind in ("bos", "eos", "pad", "unk"):
        if (token := getattr(tokenizer, f"{kind}_token_id")) is not None:
            getattr(writer, f"add_{kind}_token_id")(int(token))
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(str(tokenizer.chat_template))


def _splits(rules: str) -> str:
    """llama.cpp's name for how a text is split before the merges."""
    if r"\\p{N}{1,3}" in rules:
        return "llama-bpe"
    if r"\\p{N}" in rules:
        return "qwen2"
    return "smollm" if '"Digits"' in rules else "gpt-2"


def _tensors(model: Path) -> Iterator[tuple[str, Any]]:
    """(name, float32 array) of every weight, one after another; a head tied to the embeddings is not stored."""
    import torch
    from safetensors import safe_open

    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - the handle has no iterator
                yield name, weights.get_tensor(name).to(torch.float32).numpy()


def _interleaved(tensor: Any, heads: int) -> Any:
    """Rotary pairs side by side, as GGUF's llama keeps them, from halves, as transformers does. [heads * d, in]"""
    rows = tensor.shape[0] // heads // 2
    return tensor.reshape(heads, 2, rows, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
