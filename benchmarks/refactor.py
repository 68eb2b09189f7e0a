"""Whether a change of structure costs speed: ``refactor.py BEFORE_CHECKOUT BASE [ROUNDS]`` times the decode step (1 and
4 rows) and the LoRA training step (8 rows) of another checkout and of this one, in fresh processes in turn, on a tiny
base and on BASE.

Written to results/refactor.json: processor seconds a step on one thread (other work on the machine moves them less than
time on the wall), median and fastest tenth over all rounds, and before / after of each (1 = as fast)."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
STEPS = {"tiny": (150, 16), "default": (30, 5)}
"""Decode steps and training steps of one process."""


def measure(base: str, decode_steps: int, train_steps: int) -> dict[str, list[float]]:
    """In the child: seconds of every step by name, the first few left out."""
    from playground.engine.engine import Engine
    from playground.engine.request import Row, Sampling

    engine, found = Engine(Path(base)), {}
    for rows in (1, 4):
        sampling = Sampling(max_tokens=decode_steps, min_tokens=decode_steps, ignore_eos=True)
        stamps = []
        for _ in engine.stream([Row(f"Report number {n}: the patient", None, sampling) for n in range(rows)]):
            stamps.append(time.process_time())
        found[f"decode_{rows}_rows"] = differences(stamps)
    engine.close()
    return found | {"lora_8_rows": train(base, train_steps)}


def train(base: str, steps: int) -> list[float]:
    from playground.training import worker
    from playground.training.spec import RunSpec

    places = ("run_files", "processes", "events")  # now, and where it stood before
    place = next(name for name in places if find_spec(f"playground.training.{name}"))
    reader = import_module(f"playground.training.{place}").EventReader

    with tempfile.TemporaryDirectory() as folder:
        run_dir, file = Path(folder, "run"), Path(folder, "rows.jsonl")
        run_dir.mkdir()
        rows = [
            {"prompt": f"Write number {n} in words, with a reason.", "completion": f"{n}: " + "well, " * 12}
            for n in range(64)
        ]
        file.write_text("\n".join(map(json.dumps, rows)))
        RunSpec(
            run="b",
            name="Benchmark",
            method="lora",
            base="b",
            base_path=base,
            base_fingerprint="f",
            file=str(file),
            data="rows",
            adapters_dir=f"{folder}/adapters",
            shipped_dir=f"{folder}/shipped",
            steps=steps,
            lr=1e-3,
            rank=16,
            batch_size=8,
            max_tokens=256,
            save_steps=steps,
            split={"validation": [], "test": []},
        ).write(run_dir)
        stamps: list[float] = []
        worker.run(run_dir, stop=lambda: stamps.append(time.process_time()) is not None)
        last = reader(run_dir).read()[-1]
        if last["event"] != "done":
            raise RuntimeError(str(last))
    return differences(stamps)


def differences(stamps: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(stamps[2:])]


def tiny_base(tokenizer_from: str, folder: str) -> str:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    torch.manual_seed(0)
    sides: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sides, **heads, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def child(checkout: Path, base: str, steps: tuple[int, int]) -> dict[str, list[float]]:
    command = [sys.executable, __file__, "--measure", base, *map(str, steps)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[float]] = json.loads(out.splitlines()[-1])
    return found


def figures(seconds: list[float]) -> dict[str, float]:
    fast = sorted(seconds)[: max(1, len(seconds) // 10)]
    return {"median_s": round(statistics.median(seconds), 6), "fastest_tenth_s": round(statistics.mean(fast), 6)}


def main() -> None:
    before, base = Path(sys.argv[1]).resolve(), str(Path(sys.argv[2]).resolve())
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    result: dict[str, Any] = {"rounds": rounds, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (("tiny", tiny_base(base, folder)), ("default", base)):
            both: dict[str, dict[str, list[float]]] = {"before": {}, "after": {}}
            for turn in range(rounds):
                arms = [("before", before), ("after", HERE)]
                for arm, checkout in arms if turn % 2 == 0 else reversed(arms):
                    for step, seconds in child(checkout, path, STEPS[name]).items():
                        both[arm].setdefault(step, []).extend(seconds)
            result[name] = {}
            for step in both["after"]:
                here = {arm: figures(both[arm][step]) for arm in both}
                ratios = {key[:-2]: round(here["before"][key] / here["after"][key], 3) for key in here["after"]}
                result[name][step] = here | {"before_over_after": ratios}
                print(name, step, ratios, flush=True)
            result["load_after"] = os.getloadavg()[0]
            (HERE / "benchmarks" / "results" / "refactor.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
