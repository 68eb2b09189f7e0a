"""README.md of an adapter: a Hugging Face model card that says in plain words what it is and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from playground.library.card import method_of
from playground.library.files import is_plain_file, plain_number, plain_text, read_json, write_text
from playground.library.run_record import plain_curve
from playground.methods import all_methods
from playground.methods.options import Options
from playground.settings import DEFAULT_BASE

_DEFAULT_BASE_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]+)?")
_METHODS = {
    "full": "full fine-tuning: every weight of the base was trained",
    "lora": "LoRA: two small matrices beside each adapted layer",
    "qlora": "QLoRA: LoRA, trained on a base held in 4 bits",
    "dora": "DoRA: LoRA that learns a layer's direction and size apart",
    "ia3": "IA3: one learned scale for each channel of some layers",
    "prefix": "prefix tuning: learned keys and values before the text, in every layer, trained through a small network",
    "prompt": "prompt tuning: learned token embeddings before the text",
    "p-tuning": "P-tuning: learned token embeddings before the text, trained through a small network",
    "p-tuning-v2": "P-tuning v2: learned keys and values before the text, in every layer, trained directly",
    "bottleneck": "bottleneck adapter: a narrow two-layer network after attention and MLP, or after the MLP alone",
}
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
    """Write ``README.md`` into ``folder`` from the record of the run, as in run.json; whatever is missing there is left out."""
    config = read_json(folder / "adapter_config.json") if is_plain_file(folder / "adapter_config.json") else {}
    method = plain_text(run.get("method"), 40) or (method_of(config) if config else "full")
    said = plain_text(run.get("base")) or plain_text(config.get("base_model_name_or_path"))
    hub = _DEFAULT_BASE_HUB_ID if said == DEFAULT_BASE else said.partition("@")[0] if _HUB_ID.fullmatch(said) else ""
    # A folder on somebody's disk is nobody else's business: only its last part is told.
    base = hub or said.replace("\\", "/").rstrip("/").rpartition("/")[2] or "a base that was not recorded"
    name = plain_text(run.get("name"), 100) or folder.name
    text = "\n".join([
        *_front_matter(method, hub, plain_text(run.get("objective"), 40)),
        f"# {_markdown(name)}",
        "",
        f"Trained with Prompt or Tune on {_markdown(base)}. Method: {_METHODS.get(method, _markdown(method))}.",
        "",
        "## What it was trained on",
        "",
        *_facts(run),
        "",
        *_course(run),
        "## How to load it",
        "",
        *_loading(method, hub or "THE-BASE-NAMED-ABOVE", run.get("objective") == "reward"),
        "",
        "## Good to know",
        "",
        *_limits(method),
        "",
    ])  # fmt: skip
    write_text(folder / "README.md", text)


def _front_matter(method: str, hub: str, objective: str) -> list[str]:
    lines = ["---"]
    if hub:
        lines.append(f"base_model: {json.dumps(hub)}")
    lines.append(f"library_name: {'transformers' if method == 'full' else 'peft'}")
    # The default base is Apache-2.0; any other base's licence is for the person who shares the result to look up.
    lines.append(f"license: {'apache-2.0' if hub == _DEFAULT_BASE_HUB_ID else 'other'}")
    lines.append(f"pipeline_tag: {'text-classification' if objective == 'reward' else 'text-generation'}")
    return [*lines, "tags:", "- prompt-or-tune", f"- {json.dumps(method)}", "---", ""]


def _facts(run: Mapping[str, Any]) -> list[str]:
    objective = plain_text(run.get("objective"), 40)
    loss = run.get("loss")
    first, last = (plain_number(loss.get(k)) for k in ("first", "last")) if isinstance(loss, Mapping) else (None, None)
    facts = {
        "Data file": _markdown(plain_text(run.get("data"))),
        "Rows used": _number(run.get("rows_used")),
        "Learned from": _OBJECTIVES.get(objective, _markdown(objective)),
        "Steps": _number(run.get("steps")),
        _rank_label(run): _number(run.get("rank")) if run.get("rank") else "",
        "Options": _markdown(_options(run)),
        "Learning rate": f"{rate:g}" if (rate := plain_number(run.get("lr"))) is not None else "",
        "Rows a step": _number(run.get("batch_size")),
        "Seed": _number(run.get("seed")),
        "Loss, first and last": f"{first:.3f}, {last:.3f}" if first is not None and last is not None else "",
        "Held-out loss, nats a token": f"{held:.3f}" if (held := plain_number(run.get("eval_loss"))) is not None else "",
        "Weights trained": _share(run),
        "Peak memory": f"{peak / 1e9:.2f} GB" if (peak := plain_number(run.get("peak_memory_bytes"))) else "",
        "Seconds of training": _number(run.get("seconds")),
        "Fingerprint of the base": _markdown(plain_text(run.get("base_fingerprint"), 64)),
    }
    return [f"- {key}: {value}" for key, value in facts.items() if value] or ["- Not recorded: it was made elsewhere."]


def _course(run: Mapping[str, Any]) -> list[str]:
    """Both losses by step, where they were measured: the steps at which held-out rows were scored, else some of training's."""
    curve = plain_curve(run.get("curve"))
    held, training = ({point[0]: point[1] for point in curve.get(name, [])} for name in ("held_out", "training"))
    steps = sorted(held) or sorted(training)[:: max(1, len(training) // 8)]
    if not steps:
        return []
    best = min(held, key=lambda step: (held[step], step)) if len(held) > 1 else None
    rows = []
    for step in steps:
        mark = " (best)" if step == best else ""
        rows.append(f"| {step:,.0f} | {_loss(_near(training, step))} | {_loss(held.get(step))}{mark} |")
    return ["## How it went", "", "| Step | Training loss | Held-out loss |", "|---:|---:|---:|", *rows, ""]


def _near(points: Mapping[float, float], step: float) -> float | None:
    """The loss at the last step up to this one that is in the record."""
    before = [at for at in points if at <= step]
    return points[max(before)] if before else None


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(run: Mapping[str, Any]) -> str:
    trained, total = (plain_number(run.get(name)) for name in ("trainable_params", "total_params"))
    return f"{trained:,.0f} of {total:,.0f} ({100 * trained / total:.2g} %)" if trained and total else ""


def _rank_label(run: Mapping[str, Any]) -> str:
    method = all_methods().get(plain_text(run.get("method"), 40))
    return method.rank_label if method is not None else "Rank"


def _options(run: Mapping[str, Any]) -> str:
    """What the method was told, such as ``rslora, placement pfeiffer``."""
    said = run.get("options")
    known = {item.name for item in fields(Options)}
    if not isinstance(said, Mapping):
        return ""
    return ", ".join(
        name if value is True else f"{name.replace('_', ' ')} {plain_text(str(value), 80)}"
        for name, value in said.items()
        if name in known and value
    )


def _loading(method: str, base: str, reward: bool) -> list[str]:
    auto, extra = ("AutoModelForSequenceClassification", ", num_labels=1") if reward else ("AutoModelForCausalLM", "")
    if method == "full":
        code = [f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("THIS-FOLDER")']
    else:
        own = ["import playground.methods.bottleneck  # registers the method with PEFT"] if method == "bottleneck" else []
        code = [
            "from peft import PeftModel",
            f"from transformers import {auto}",
            *own,
            "",
            f'base = {auto}.from_pretrained("{base}"{extra})',
            'model = PeftModel.from_pretrained(base, "THIS-FOLDER")',
        ]
    return ["```python", *code, "```"]


def _limits(method: str) -> list[str]:
    part = "It holds the trained part only, which works on the base named above."
    return [
        f"- {'It is a whole model and needs no base.' if method == 'full' else part}",
        "- It learned from the rows above and nothing else: measure it on examples of your own before you rely on it.",
        "- It may repeat what stood in those rows. Share it only if you may share them.",
        "- The licence of the base applies to it too.",
    ]


def _number(value: object) -> str:
    number = plain_number(value)
    return "" if number is None else f"{number:,.1f}".removesuffix(".0")


def _markdown(text: str) -> str:
    """Text as text: nothing in it becomes a link, markup or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|!])", r"\\\1", text)
