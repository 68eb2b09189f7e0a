"""Adapters as weights: merged into their base, written as GGUF, or several LoRAs blended into one.

``python -m playground.library.exporting JOB`` merges or converts in a process of its own, so slows no reply. JOB is a
JSON file: adapter, base, work (folders), format (merged or gguf), target; stdout has one JSON object a line: {phase,
share}, at the end {done} with the path, or {error}."""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from playground.errors import InputError, PlaygroundError
from playground.library.adapters import AdapterCard, read_card
from playground.library.archive import pack
from playground.library.card import CARD, OFF, RECORD, SCHEMA, read_run, tidied, united
from playground.methods import all_methods

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


FORMATS = ("peft", "merged", "gguf")
Tell = Callable[[str, float], None]


def refuse_unmergeable(card: AdapterCard) -> None:
    """Raise InputError for an adapter that is no change of weights."""
    mergeable = [name for name, method in all_methods().items() if method.mergeable]
    if card.kind != "full" and card.method not in mergeable:
        said = f"{card.name} ({card.method}) adds something to the base that no weight can hold,"
        instead = f"Export it as a PEFT folder; {', '.join(mergeable)} and full fine-tunes can be merged."
        raise InputError(f"{said} so it cannot be merged. {instead}")


def merge(card: AdapterCard, base: Path, target: Path) -> None:
    """Write the merged model, its tokenizer, card and record into ``target`` (new; its parents are not made), in the
    base's own precision; a full fine-tune is copied. Raises InputError, OSError."""
    refuse_unmergeable(card)
    if card.kind == "full":
        target.mkdir()
        for file in card.path.iterdir():
            shutil.copyfile(file, target / file.name)
        return
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", trust_remote_code=False, local_files_only=True, use_safetensors=True
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(model, card.path).merge_and_unload(safe_merge=True)
    target.mkdir()  # save_pretrained would make its parents too
    merged.save_pretrained(target)
    for pattern in ("*token*", "chat_template*", "vocab*", "merges*", "special*"):
        for file in base.glob(pattern):
            shutil.copyfile(file, target / file.name)
    record = read_run(card.path) | {"kind": "full", "merged_from": card.sha256}
    (target / RECORD).write_text(json.dumps(record, indent=1))
    if (card.path / CARD).is_file():
        text = (card.path / CARD).read_text(encoding="utf-8")
        text = text.replace("library_name: peft", "library_name: transformers")
        (target / CARD).write_text(text, encoding="utf-8")


def run(adapter: Path, base: Path, work: Path, format: str, target: Path, tell: Tell) -> Path:
    """Write ``target``: a folder, a zip of one where it ends in .zip, or a GGUF file. work: an empty folder on the same
    disk. Raises InputError, and what a full disk or too little memory raises; ``target`` then does not exist."""
    card, merged = read_card(adapter), work / "merged"
    tell("Merging the adapter into the base", 0.0)
    merge(card, base, merged)
    if format == "gguf":
        tell("Writing the GGUF file", 0.5)
        file = work / "model.gguf"
        write_gguf(merged, file, card.name)
        tell("Checking the GGUF file: the same tokens, the same logits", 0.6)
        check_gguf(merged, file)
        shutil.move(file, target)
    elif target.suffix == ".zip":
        tell("Packing", 0.7)
        pack(merged, target)
    else:
        shutil.move(merged, target)
    return target


def main() -> int:
    def say(**values: object) -> None:
        print(json.dumps(values), flush=True)

    job = json.loads(Path(sys.argv[1]).read_text())
    folders = {name: Path(job[name]) for name in ("adapter", "base", "work", "target")}
    try:
        done = run(format=job["format"], tell=lambda phase, share: say(phase=phase, share=share), **folders)
    except (PlaygroundError, MemoryError, OSError) as error:
        words = str(error)
        if isinstance(error, MemoryError):
            words = "There is not enough memory to merge this base."
            words += " Free some (Device panel), or merge on a larger machine."
        elif isinstance(error, OSError):
            words = f"The model could not be written: {error.strerror or error}. Free some disk and try again."
        say(error=words)
        return 1
    say(done=str(done))
    return 0


HOW = {"linear": "cat", "ties": "ties", "dare": "dare_linear"}
"""Our names -> PEFT's, for adapters of one rank; others are brought to one by a singular value decomposition. linear:
the weighted sum of the changes, exact, its rank the sum of theirs. ties: signs that disagree are settled (Yadav et
al. 2023, arXiv:2306.01708). dare: part of each change is dropped at random, the rest scaled up (Yu et al. 2023,
arXiv:2311.03099)."""
DENSITY = 0.5  # the share of each change that ties and dare keep
MOST, WIDEST, _SEED = 6, 256, 7


def blend(
    cards: Sequence[AdapterCard], weights: Sequence[float], how: str, base: Path, target: Path, name: str, owner: str
) -> None:
    """Write one LoRA that does some of what each does as a PEFT folder into ``target`` (empty), by PEFT's weighted
    combination. Of the base only the shapes are needed. Raises InputError."""
    _refuse(cards, weights, how)
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    models: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = models.from_config(config)
    model = model.to_empty(device="cpu")  # room that nobody writes to: PEFT puts adapters where the base is
    ranks = {card.rank for card in cards}
    kind = HOW[how] if how == "linear" or len(ranks) == 1 else f"{HOW[how]}_svd"
    options = {} if how == "linear" else {"density": DENSITY}
    names = [f"one{place}" for place in range(len(cards))]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(_SEED)  # dare draws
        laid = PeftModel.from_pretrained(model, cards[0].path, adapter_name=names[0], torch_device="cpu")
        for card, label in zip(cards[1:], names[1:], strict=True):
            laid.load_adapter(card.path, adapter_name=label, torch_device="cpu")
        laid.add_weighted_adapter(names, list(map(float, weights)), "blend", combination_type=kind, **options)
        laid.save_pretrained(str(target), selected_adapters=["blend"])
    for file in (target / "blend").iterdir():
        file.rename(target / file.name)
    (target / "blend").rmdir()
    # PEFT gives the sum a scale of alpha / rank = 1, whatever the first part's scale was made of
    kept = tidied(target, base_model_name_or_path=cards[0].base, inference_mode=True, use_rslora=False)
    parts = list(zip(cards, weights, strict=True))
    record = {"schema": SCHEMA, "name": name, "method": "lora", "kind": "peft", "objective": "sft", "how": how}
    record |= {"base": cards[0].base, "base_fingerprint": cards[0].base_fingerprint, "rank": int(kept["r"])}
    record |= {"owner": owner, "created_s": time.time()}
    record["blended_from"] = [{"id": card.id, "sha256": card.sha256, "weight": weight} for card, weight in parts]
    record |= {"think": OFF} if all(card.think is False for card in cards) else {}
    record["data"] = " + ".join(f"{weight:g} x {card.name}" for card, weight in parts)
    record |= united([read_run(card.path) for card in cards])  # so that a verdict knows their rows again
    (target / RECORD).write_text(json.dumps(record, indent=1))


def _refuse(cards: Sequence[AdapterCard], weights: Sequence[float], how: str) -> None:
    if how not in HOW:
        raise InputError(f"There is no way to blend called {how!r}. There are: {', '.join(HOW)}.")
    if not 2 <= len(cards) <= MOST:
        raise InputError(f"A blend takes 2 to {MOST} adapters; {len(cards)} were named.")
    blendable = {name for name, method in all_methods().items() if method.blendable}
    if other := next((card for card in cards if card.method not in blendable), None):
        raise InputError(f"{other.name} is {other.method}; only LoRA and QLoRA adapters can be blended.")
    if len({card.base_fingerprint for card in cards if card.base_fingerprint}) > 1:
        raise InputError("The adapters were made for different bases. Blend those of one.")
    if not all(-10 <= weight <= 10 for weight in weights):
        raise InputError("A weight is a number from -10 to 10, usually from 0 to 1.")
    wide = sum(card.rank or 0 for card in cards)
    if how == "linear" and wide > WIDEST:
        said = f"A linear blend of these has rank {wide}; at most {WIDEST} are taken."
        raise InputError(f"{said} Blend fewer, or use ties.")


if __name__ == "__main__":
    sys.exit(main())
