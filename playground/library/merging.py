"""An adapter and its base -> one model that needs no PEFT: a Transformers folder with safetensors."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

from playground.errors import InputError
from playground.library.card import AdapterCard

MERGEABLE = ("lora", "qlora", "dora", "ia3")
"""Methods that are a change of weights. The others add tokens or layers, which no plain model has a place for."""


def refuse_unmergeable(card: AdapterCard) -> None:
    """Raises InputError."""
    if card.kind != "full" and card.method not in MERGEABLE:
        raise InputError(
            f"{card.name} ({card.method}) adds something to the base that no weight can hold, so it cannot be merged. "
            f"Export it as a PEFT folder; {', '.join(MERGEABLE)} and full fine-tunes can be merged."
        )


def merge(card: AdapterCard, base: Path, target: Path) -> None:
    """Write the merged model, its tokenizer, model card and record into ``target`` (new). A full fine-tune is copied. The folder that
    ``target`` is to lie in is not made: where it is gone, its owner has removed it.

    Weights are merged in the base's own precision on disk; PEFT checks them for values that are no numbers. Raises InputError, OSError.
    """
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
    target.mkdir()  # it would be made with its parents
    merged.save_pretrained(target)
    for pattern in ("*token*", "chat_template*", "vocab*", "merges*", "special*"):
        for file in base.glob(pattern):
            shutil.copyfile(file, target / file.name)
    record = json.loads((card.path / "run.json").read_text()) if (card.path / "run.json").is_file() else {}
    (target / "run.json").write_text(json.dumps(record | {"kind": "full", "merged_from": card.sha256}, indent=1))
    if (card.path / "README.md").is_file():
        text = (card.path / "README.md").read_text(encoding="utf-8")
        (target / "README.md").write_text(text.replace("library_name: peft", "library_name: transformers"), encoding="utf-8")
