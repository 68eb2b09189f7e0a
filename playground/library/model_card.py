"""README.md of an adapter, a Hugging Face model card, and the record of a run from elsewhere: only keys we know, only
plain values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from playground.library.card import NOTES, SCHEMA
from playground.library.files import is_plain_file, read_json, write_text
from playground.methods import all_methods, method_of
from playground.methods.method import Method, Options
from playground.plain import plain_number, plain_text
from playground.settings import DEFAULT_BASE

TEXTS = ("run", "name", "base", "base_fingerprint", "objective", "data", "data_sha256", "dtype", "device", "playground")
NUMBERS = (
    *(
        "rows_used",
        "rows_bad",
        "created_s",
        "seed",
        "steps",
        "step",
        "epochs",
        "seconds",
        "tokens_per_s",
        "eval_loss",
        "lr",
    ),
    *("batch_size", "max_tokens", "alpha", "trainable_params", "total_params"),
    *("peak_memory_bytes", "estimated_memory_bytes"),
)
PRIVATE = ("owner", NOTES)
"""Keys that never leave this machine with an export."""

_HASH = re.compile(r"[0-9a-f]{8,64}")
_HASHES_LIMIT = 100_000
_POINTS_LIMIT = 200


def sanitised(
    run: Mapping[str, Any], config: Mapping[str, Any], *, name: str, owner: str, now_s: float
) -> dict[str, Any]:
    """A record for an adapter that comes from elsewhere. What it *is* (method, rank) is taken from its config.

    name: for when the record has none. now_s: the time; a record from the future counts as made now.
    """
    clean: dict[str, Any] = {key: text for key in TEXTS if (text := plain_text(run.get(key)))}
    clean.update({key: number for key in NUMBERS if (number := plain_number(run.get(key))) is not None})
    loss = run.get("loss")
    if isinstance(loss, Mapping):
        clean["loss"] = {
            key: number for key in ("first", "last") if (number := plain_number(loss.get(key))) is not None
        }
    if curve := plain_curve(run.get("curve")):
        clean["curve"] = curve
    hashes = run.get("row_hashes")
    if isinstance(hashes, list) and len(hashes) <= _HASHES_LIMIT:
        clean["row_hashes"] = [h for h in hashes if isinstance(h, str) and _HASH.fullmatch(h)]
    claimed = all_methods().get(plain_text(run.get("method"), 40))  # believed where the file can be one of its
    created = clean.get("created_s", now_s)
    clean |= {
        "schema": SCHEMA,
        "name": plain_text(run.get("name"), 100) or plain_text(name, 100) or "imported adapter",
        "method": claimed.name if claimed is not None and claimed.accepts(config) else method_of(config),
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
    """Losses by step as a record tells them: ``training`` and ``held_out``, each a list of [step, loss]. What is
    anything else is
    left out."""
    found: dict[str, list[list[float]]] = {}
    for name in ("training", "held_out"):
        points = curve.get(name) if isinstance(curve, Mapping) else None
        if not isinstance(points, list) or len(points) > _POINTS_LIMIT:
            continue
        pairs = [
            [plain_number(value) for value in point] for point in points if isinstance(point, list) and len(point) == 2
        ]
        good = [[step, loss] for step, loss in pairs if step is not None and loss is not None]
        if good:
            found[name] = good
    return found


_DEFAULT_BASE_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]+)?")
_PART = "It holds the trained part only, which works on the base named above."
_OBJECTIVES = {
    "sft": "requests with the answers that were wanted",
    "pretrain": "raw text of a domain",
    "dpo": "pairs of a preferred and a rejected answer (DPO)",
    "orpo": "pairs of a preferred and a rejected answer (ORPO)",
    "kto": "answers marked good or bad (KTO)",
    "reward": "pairs of answers, as a reward model: it scores answers and writes none",
    "grpo": "its own answers, graded by a check (GRPO)",
}


def write_model_card(folder: Path, run: Mapping[str, Any]) -> None:
    """Write ``README.md`` into ``folder`` from the record of the run, as in run.json; whatever is missing there is left
    out."""
    config = read_json(folder / "adapter_config.json") if is_plain_file(folder / "adapter_config.json") else {}
    name_of_method = plain_text(run.get("method"), 40) or (method_of(config) if config else "full")
    method = all_methods().get(name_of_method)
    whole = not config if method is None else method.whole
    said = plain_text(run.get("base")) or plain_text(config.get("base_model_name_or_path"))
    hub = _DEFAULT_BASE_HUB_ID if said == DEFAULT_BASE else said.partition("@")[0] if _HUB_ID.fullmatch(said) else ""
    # A folder on somebody's disk is nobody else's business: only its last part is told.
    base = hub or said.replace("\\", "/").rstrip("/").rpartition("/")[2] or "a base that was not recorded"
    name = plain_text(run.get("name"), 100) or folder.name
    summary = method.summary if method is not None else _markdown(name_of_method)
    parts = [
        *_front_matter(name_of_method, whole, hub, plain_text(run.get("objective"), 40)),
        f"# {_markdown(name)}",
        "",
        f"Trained with Prompt or Tune on {_markdown(base)}. Method: {summary}.",
        "",
        "## What it was trained on",
        "",
        *_facts(run, method),
        "",
        *_loss_table(run),
        "## How to load it",
        "",
        *_loading(whole, method, hub or "THE-BASE-NAMED-ABOVE", run.get("objective") == "reward"),
        "",
        "## Good to know",
        "",
        f"- {'It is a whole model and needs no base.' if whole else _PART}",
        "- It learned from the rows above and nothing else: measure it on examples of your own before you rely on it.",
        "- It may repeat what stood in those rows. Share it only if you may share them.",
        "- The licence of the base applies to it too.",
        "",
    ]
    write_text(folder / "README.md", "\n".join(parts))


def _front_matter(method: str, whole: bool, hub: str, objective: str) -> list[str]:
    lines = ["---"]
    if hub:
        lines.append(f"base_model: {json.dumps(hub)}")
    lines.append(f"library_name: {'transformers' if whole else 'peft'}")
    # The default base is Apache-2.0; any other base's licence is for the person who shares the result to look up.
    lines.append(f"license: {'apache-2.0' if hub == _DEFAULT_BASE_HUB_ID else 'other'}")
    lines.append(f"pipeline_tag: {'text-classification' if objective == 'reward' else 'text-generation'}")
    return [*lines, "tags:", "- prompt-or-tune", f"- {json.dumps(method)}", "---", ""]


def _facts(run: Mapping[str, Any], method: Method | None) -> list[str]:
    objective = plain_text(run.get("objective"), 40)
    loss = run.get("loss")
    first, last = (plain_number(loss.get(k)) for k in ("first", "last")) if isinstance(loss, Mapping) else (None, None)
    facts = {
        "Data file": _markdown(plain_text(run.get("data"))),
        "Rows used": _number(run.get("rows_used")),
        "Learned from": _OBJECTIVES.get(objective, _markdown(objective)),
        "Steps": _number(run.get("steps")),
        method.rank_label if method is not None else "Rank": _number(run.get("rank")) if run.get("rank") else "",
        "Options": _markdown(_options(run)),
        "Learning rate": _number(run.get("lr"), "g"),
        "Rows a step": _number(run.get("batch_size")),
        "Seed": _number(run.get("seed")),
        "Loss, first and last": f"{first:.3f}, {last:.3f}" if first is not None and last is not None else "",
        "Held-out loss, nats a token": _number(run.get("eval_loss"), ".3f"),
        "Weights trained": _share(run),
        "Peak memory": f"{peak / 1e9:.2f} GB" if (peak := plain_number(run.get("peak_memory_bytes"))) else "",
        "Seconds of training": _number(run.get("seconds")),
        "Fingerprint of the base": _markdown(plain_text(run.get("base_fingerprint"), 64)),
    }
    return [f"- {key}: {value}" for key, value in facts.items() if value] or ["- Not recorded: it was made elsewhere."]


def _loss_table(run: Mapping[str, Any]) -> list[str]:
    """Both losses by step, where they were measured: the steps at which held-out rows were scored, else some of
    training's."""
    curve = plain_curve(run.get("curve"))
    held, training = ({point[0]: point[1] for point in curve.get(name, [])} for name in ("held_out", "training"))
    steps = sorted(held) or sorted(training)[:: max(1, len(training) // 8)]
    if not steps:
        return []
    best = min(held, key=lambda step: (held[step], step)) if len(held) > 1 else None
    rows = []
    for step in steps:
        mark = " (best)" if step == best else ""
        before = training.get(max((at for at in training if at <= step), default=step))
        rows.append(f"| {step:,.0f} | {_number(before, '.3f')} | {_number(held.get(step), '.3f')}{mark} |")
    return ["## How it went", "", "| Step | Training loss | Held-out loss |", "|---:|---:|---:|", *rows, ""]


def _share(run: Mapping[str, Any]) -> str:
    trained, total = (plain_number(run.get(name)) for name in ("trainable_params", "total_params"))
    return f"{trained:,.0f} of {total:,.0f} ({100 * trained / total:.2g} %)" if trained and total else ""


def _options(run: Mapping[str, Any]) -> str:
    """The method's options that were set, such as ``rslora, placement pfeiffer``."""
    said = run.get("options")
    known = {item.name for item in fields(Options)}
    if not isinstance(said, Mapping):
        return ""
    return ", ".join(
        name if value is True else f"{name.replace('_', ' ')} {plain_text(str(value), 80)}"
        for name, value in said.items()
        if name in known and value
    )


def _loading(whole: bool, method: Method | None, base: str, reward: bool) -> list[str]:
    auto, extra = ("AutoModelForSequenceClassification", ", num_labels=1") if reward else ("AutoModelForCausalLM", "")
    if whole:
        code = [f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("THIS-FOLDER")']
    else:
        own = [f"import {method.imports}  # registers the method with PEFT"] if method and method.imports else []
        code = [
            "from peft import PeftModel",
            f"from transformers import {auto}",
            *own,
            "",
            f'base = {auto}.from_pretrained("{base}"{extra})',
            'model = PeftModel.from_pretrained(base, "THIS-FOLDER")',
        ]
    return ["```python", *code, "```"]


def _number(value: object, form: str = "") -> str:
    number = plain_number(value)
    return "" if number is None else format(number, form) if form else f"{number:,.1f}".removesuffix(".0")


def _markdown(text: str) -> str:
    """Text as text: nothing in it becomes a link, markup or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|!])", r"\\\1", text)
