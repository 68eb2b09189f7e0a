"""Several LoRA adapters -> one that does some of what each does, by PEFT's weighted combination.

linear: the weighted sum of the changes, exact, its rank the sum of theirs. ties: signs that disagree are settled first
(Yadav et al. 2023,
arXiv:2306.01708). dare: part of each change is dropped at random and the rest scaled up (Yu et al. 2023,
arXiv:2311.03099).
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from playground.errors import InputError
from playground.library.card import SCHEMA, AdapterCard, read_run
from playground.library.model_card import write_model_card
from playground.methods import all_methods

HOW = {"linear": "cat", "ties": "ties", "dare": "dare_linear"}
"""Our names -> PEFT's, for adapters of one rank; others are brought to one by a singular value decomposition."""
DENSITY = 0.5
"""The share of each change that ties and dare keep."""
MOST = 6
WIDEST = 256
_SEED = 7


def blend(
    cards: Sequence[AdapterCard], weights: Sequence[float], how: str, base: Path, target: Path, name: str, owner: str
) -> None:
    """Write the blend as a PEFT folder into ``target`` (empty). The base's weights are not read: only its shapes are
    needed.

    Raises InputError when it cannot be done: fewer than two, not LoRA, another base, weights that are no numbers.
    """
    _refuse(cards, weights, how)
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
        )
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
        laid.add_weighted_adapter(
            names, [float(weight) for weight in weights], "blend", combination_type=kind, **options
        )
        laid.save_pretrained(str(target), selected_adapters=["blend"])
    for file in (target / "blend").iterdir():
        file.rename(target / file.name)
    (target / "blend").rmdir()
    _describe(cards, weights, how, target, name, owner)


def _refuse(cards: Sequence[AdapterCard], weights: Sequence[float], how: str) -> None:
    if how not in HOW:
        raise InputError(f"There is no way to blend called {how!r}. There are: {', '.join(HOW)}.")
    if not 2 <= len(cards) <= MOST:
        raise InputError(f"A blend takes 2 to {MOST} adapters; {len(cards)} were named.")
    methods = all_methods()
    other = next((card for card in cards if not (card.method in methods and methods[card.method].blendable)), None)
    if other is not None:
        raise InputError(f"{other.name} is {other.method}; only LoRA and QLoRA adapters can be blended.")
    if len({card.base_fingerprint for card in cards if card.base_fingerprint}) > 1:
        raise InputError("The adapters were made for different bases. Blend those of one.")
    if not all(-10 <= weight <= 10 for weight in weights):
        raise InputError("A weight is a number from -10 to 10, usually from 0 to 1.")
    wide = sum(card.rank or 0 for card in cards)
    if how == "linear" and wide > WIDEST:
        raise InputError(
            f"A linear blend of these has rank {wide}; at most {WIDEST} are taken. Blend fewer, or use ties."
        )


def _describe(
    cards: Sequence[AdapterCard], weights: Sequence[float], how: str, target: Path, name: str, owner: str
) -> None:
    config_file = target / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = cards[0].base
    config["inference_mode"] = True
    # PEFT gives the sum a scale of alpha / rank = 1, whatever the first part's scale was made of
    config["use_rslora"] = False
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    config_file.write_text(json.dumps(config, indent=2))
    (target / "README.md").unlink(missing_ok=True)
    parts = list(zip(cards, weights, strict=True))
    record = {
        "schema": SCHEMA,
        "name": name,
        "method": "lora",
        "base": cards[0].base,
        "base_fingerprint": cards[0].base_fingerprint,
        "kind": "peft",
        "rank": int(config["r"]),
        "owner": owner,
        "created_s": time.time(),
        "objective": "sft",
        "how": how,
        "blended_from": [{"id": card.id, "sha256": card.sha256, "weight": weight} for card, weight in parts],
        "data": " + ".join(f"{weight:g} x {card.name}" for card, weight in parts),
        "row_hashes": sorted({known for card in cards for known in _trained_rows(card)}),
    }
    (target / "run.json").write_text(json.dumps(record, indent=1))
    write_model_card(target, record)


def _trained_rows(card: AdapterCard) -> list[str]:
    """Hashes of the rows that a part was trained on, so that a verdict knows them again; none where nobody wrote them
    down."""
    known = read_run(card.path).get("row_hashes")
    return [one for one in known if isinstance(one, str)] if isinstance(known, list) else []
