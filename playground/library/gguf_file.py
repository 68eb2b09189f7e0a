"""A Transformers folder -> one GGUF file for llama.cpp, matrices in half precision and vectors in single, checked by
reading it back. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playground.errors import InputError

_FAMILIES = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3"}
ARCHITECTURES = {f"{family}ForCausalLM": name for family, name in _FAMILIES.items()}
"""transformers' class -> GGUF's name."""
_INSTEAD = "Export it as merged safetensors."
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5  # GGUF's kinds of tokens


def write_gguf(model: Path, file: Path, name: str) -> None:
    """Raises InputError for a family or a tokenizer that cannot be written."""
    import gguf

    config = json.loads((model / "config.json").read_text())
    config["num_key_value_heads"] = config.get("num_key_value_heads") or config.get("num_attention_heads")
    kind, *_ = config.get("architectures") or [""]
    if (architecture := ARCHITECTURES.get(kind)) is None:
        said = f"{kind or 'This model'} cannot be written as GGUF here; {', '.join(ARCHITECTURES)} can."
        raise InputError(f"{said} Export merged safetensors.")
    writer = gguf.GGUFWriter(file, architecture)
    try:
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        _add_shape(writer, config)
        _add_tokenizer(writer, model, int(config["vocab_size"]))
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], int(config["num_hidden_layers"]))
        for hf, tensor in _tensors(model):
            known = names.get_name(hf, try_suffixes=(".weight", ".bias"))
            if known is None:
                raise InputError(f"The model has a weight that GGUF has no name for: {hf}. {_INSTEAD}")
            if architecture == "llama" and hf.endswith(("q_proj.weight", "k_proj.weight")):
                heads = config["num_attention_heads" if ".q_proj." in hf else "num_key_value_heads"]
                tensor = _interleaved(tensor, int(heads))
            writer.add_tensor(known, tensor.astype("float16" if tensor.ndim > 1 else "float32"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


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
