"""Adapters as weights: merged into their base, written as GGUF, or several LoRAs blended into one.

``python -m playground.library.exporting JOB`` merges or converts in a process of its own, so slows no reply. JOB is a
JSON file: adapter, base, work (folders), format (merged, gguf, or a target of ``serving``), target; stdout has one JSON
object a line: {phase, share}, at the end {done} with the path, or {error}."""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from playground.errors import InputError, PlaygroundError
from playground.library.adapters import AdapterCard, read_card
from playground.library.archive import pack
from playground.library.card import CARD, OFF, RECORD, SCHEMA, read_run, tidied, united
from playground.library.gguf_file import check_gguf, write_gguf
from playground.library.serving import TARGETS, hand_over
from playground.methods import all_methods

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
    if format in TARGETS:
        return hand_over(card, base, work, format, target, tell, merge)
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
