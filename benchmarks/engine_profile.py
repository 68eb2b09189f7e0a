"""Where a decode step's time goes, on the default base in fp32 and in bf16: the floor set by reading the weights, the
products alone, the adapters' products alone, the whole step; and Hugging Face's step beside it. Medians; everything on
one computing thread, as in the app.

    python benchmarks/engine_profile.py [--out benchmarks/results/engine_profile.json]
    python benchmarks/engine_profile.py --form [--out benchmarks/results/form.json]

--form: what holding rows to a form costs a step of four rows, in the engine as the app has it; free rows and held ones
in turn, on the same prompts. Asked for: at most 5 % more, of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from playground.engine.llama_model import LlamaModel
from playground.engine.load import ModuleWeights, load
from playground.engine.request import Row, Sampling
from playground.evaluation.form import shared_form
from playground.library.bases import resolve
from playground.models.bases import load_engine
from playground.settings import Settings

TRIES = 15
SET, ROUNDS, FORM_TOKENS = Path(__file__).resolve().parent.parent / "examples" / "support_json.jsonl", 8, 100
RANK = 8
KINDS = (torch.float32, torch.bfloat16)


def median_ms(work: Callable[[], Any]) -> float:
    work()
    taken = []
    for _ in range(TRIES):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(taken), 2)


def step_split(
    plain: Any, model: LlamaModel, packed: list[Any], weights: list[torch.Tensor], rows: int
) -> dict[str, Any]:
    """Milliseconds of a step at ``rows`` rows and of its parts."""
    from transformers import DynamicCache

    cache, adapters = model.new_cache(), model.new_adapter_slots()
    slots = [None, *(adapters.acquire(adapter) for adapter in packed)]
    inputs = {weight.shape[0]: torch.randn(rows, weight.shape[0]) for weight in weights}
    adapters.select([slots[row % 4] for row in range(rows)] if rows > 1 else [slots[1]])
    outputs = [torch.zeros(rows, sum(group.outputs)) for group in model.groups]
    lengths = [60 + row for row in range(rows)]
    past = DynamicCache()
    plain(input_ids=torch.ones(rows, 60, dtype=torch.long), past_key_values=past, use_cache=True)
    tuned_step = median_ms(lambda: model.decode([5] * rows, lengths, cache, adapters))
    lora = median_ms(
        lambda: [adapters.selected.add(i, inputs[group.inputs], outputs[i]) for i, group in enumerate(model.groups)]
    )
    adapters.select([None] * rows)
    return {
        "products_alone_ms": median_ms(lambda: [model.matmul(inputs[w.shape[0]], w) for w in weights]),
        "adapters_alone_ms": lora,
        "whole_step_base_ms": median_ms(lambda: model.decode([5] * rows, lengths, cache, adapters)),
        "whole_step_with_3_adapters_ms": tuned_step,
        "hugging_face_step_base_ms": median_ms(
            lambda: plain(input_ids=torch.ones(rows, 1, dtype=torch.long), past_key_values=past, use_cache=True)
        ),
    }


def measure(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    from playground.engine.llama_layout import pack

    plain = load(folder, dtype=dtype).model
    model = LlamaModel(load(folder, dtype=dtype).model)
    weights = model.weights()
    size = sum(weight.nbytes for weight in weights)
    read = median_ms(lambda: [weight.sum() for weight in weights])
    found: dict[str, Any] = {
        "weights_mb": round(size / 1e6),
        "reading_them_ms": read,
        "by_columns": model.head.stride(1) == 1,
    }
    adapters = []
    for seed in range(3):
        torch.manual_seed(seed)
        made = {
            name: ModuleWeights(torch.randn(RANK, group.inputs) * 0.01, torch.randn(width, RANK) * 0.01)
            for group in model.groups
            for name, width in zip(group.names, group.outputs, strict=True)
        }
        adapters.append(pack(f"a{seed}", made, model.groups, model.norm))
    for rows in (1, 4, 8):
        found[f"{rows}_rows"] = step_split(plain, model, adapters, weights, rows)
    return found


def form(folder: Path) -> dict[str, Any]:
    """Milliseconds of a step in which all four rows write, free and held to the schema that support_json's answers
    share."""
    pairs = [json.loads(line) for line in SET.read_text("utf-8").splitlines()]
    shared, engine = shared_form([pair["completion"] for pair in pairs]), load_engine(folder)
    asked = [f"<|im_start|>user\n{pair['prompt']}<|im_end|>\n<|im_start|>assistant\n" for pair in pairs]
    steps: dict[str, list[float]] = {"free": [], "held": []}
    for first in range(0, 4 * ROUNDS, 4):
        for name, sampling in (("free", Sampling(ignore_eos=True)), ("held", Sampling(format=shared))):
            rows = [Row(prompt, sampling=replace(sampling, max_tokens=FORM_TOKENS)) for prompt in asked[first:][:4]]
            before = None
            for states in engine.stream(rows):
                now = time.perf_counter()
                if any(state.finish for state in states):
                    break
                if before is not None and all(len(state.tokens) > 2 for state in states):
                    steps[name].append((now - before) * 1000)
                before = now
    engine.close()
    found: dict[str, Any] = {"form": shared, "rows": 4, "steps": {name: len(some) for name, some in steps.items()}}
    found |= {f"{name}_ms": round(statistics.median(some), 2) for name, some in steps.items()}
    found |= {f"{name}_p95_ms": round(statistics.quantiles(some, n=20)[-1], 2) for name, some in steps.items()}
    return found | {"held_against_free": round(found["held_ms"] / found["free_ms"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--form", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = resolve("smollm2-135m", Settings.from_env()).path
    found: dict[str, Any] = {}

    def work() -> None:
        with torch.inference_mode():
            if options.form:
                found.update(form(folder))
            else:
                found.update({str(kind).removeprefix("torch."): measure(folder, kind) for kind in KINDS})

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    device = f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    found = {"command": " ".join(["python", "benchmarks/engine_profile.py", *sys.argv[1:]]), "device": device} | found
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
