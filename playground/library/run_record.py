"""run.json as it may come from elsewhere: only keys we know, only plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from playground.library.card import NOTES, SCHEMA, method_of
from playground.library.files import plain_number, plain_text

TEXTS = ("run", "name", "base", "base_fingerprint", "objective", "data", "data_sha256", "dtype", "device", "playground")
NUMBERS = (
    "rows_used", "rows_bad", "created_s", "seed", "steps", "step", "epochs", "seconds", "tokens_per_s", "eval_loss", "lr",
    "batch_size", "max_tokens", "alpha", "trainable_params", "total_params", "peak_memory_bytes", "estimated_memory_bytes",
)  # fmt: skip
PRIVATE = ("owner", NOTES)
"""Keys that never leave this machine with an export."""

_CONTEXT_SAYS = {"qlora": ("lora", "dora")}
_HASH = re.compile(r"[0-9a-f]{8,64}")
_HASHES_LIMIT = 100_000
_POINTS_LIMIT = 200


def sanitised(run: Mapping[str, Any], config: Mapping[str, Any], *, name: str, owner: str, now_s: float) -> dict[str, Any]:
    """A record for an adapter that comes from elsewhere. What it *is* (method, rank) is taken from its config.

    name: for when the record has none. now_s: the time; a record from the future counts as made now.
    """
    clean: dict[str, Any] = {key: text for key in TEXTS if (text := plain_text(run.get(key)))}
    clean.update({key: number for key in NUMBERS if (number := plain_number(run.get(key))) is not None})
    loss = run.get("loss")
    if isinstance(loss, Mapping):
        clean["loss"] = {key: number for key in ("first", "last") if (number := plain_number(loss.get(key))) is not None}
    if curve := plain_curve(run.get("curve")):
        clean["curve"] = curve
    hashes = run.get("row_hashes")
    if isinstance(hashes, list) and len(hashes) <= _HASHES_LIMIT:
        clean["row_hashes"] = [h for h in hashes if isinstance(h, str) and _HASH.fullmatch(h)]
    method, claimed = method_of(config), plain_text(run.get("method"), 40)
    created = clean.get("created_s", now_s)
    clean |= {
        "schema": SCHEMA,
        "name": plain_text(run.get("name"), 100) or plain_text(name, 100) or "imported adapter",
        "method": claimed if method in _CONTEXT_SAYS.get(claimed, ()) else method,
        "created_s": created if 0 < created <= now_s else now_s,
        "imported_s": now_s,
        "owner": owner,
    }
    if rank := plain_number(config.get("r")):
        clean["rank"] = rank
    if "base" not in clean and (base := plain_text(config.get("base_model_name_or_path"))):
        clean["base"] = base
    return clean


def plain_curve(curve: Any) -> dict[str, list[list[float]]]:
    """Losses by step as a record tells them: ``training`` and ``held_out``, each a list of [step, loss]. What is anything else is
    left out."""
    found: dict[str, list[list[float]]] = {}
    for name in ("training", "held_out"):
        points = curve.get(name) if isinstance(curve, Mapping) else None
        if not isinstance(points, list) or len(points) > _POINTS_LIMIT:
            continue
        pairs = [[plain_number(value) for value in point] for point in points if isinstance(point, list) and len(point) == 2]
        good = [[step, loss] for step, loss in pairs if step is not None and loss is not None]
        if good:
            found[name] = good
    return found
