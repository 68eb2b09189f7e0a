"""A training step against TRL's SFTTrainer and transformers' Trainer: LoRA (r = 8, all linear layers) on
hospital_reports, the default base, fp32, the same rows in the same batches of 8, the same seed, the loss on the
answers only.

    python benchmarks/training.py [--rounds 3] [--warm 3] [--steps 12] [--threads 1] [--out
    benchmarks/results/training.json]

Each arm is a process of its own; they take turns. The loss of the first step must be the same in all (to 1e-3) before
any speed counts. tokens/s counts the rows' own tokens, the same in every arm, padding never. First table: ours as the
app starts it, peers with their defaults (TRL's recompute activations; an arm without that stands beside it). Second
table: every arm with the allocator settings of our worker. limit: F / (4 body + 4 f head) tokens/s, where F is the
best large fp32 product in the arms of ours, and f the share of tokens that are learned. --threads 1: one thread in
every arm, timed in processor seconds, which a busy machine does not change.
--precisions: LoRA alone, every arm in fp32 and in bf16 (the base's weights; the adapters stay in fp32). The first
losses agree to 1e-3 within fp32, and to 0.02 across precisions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playground.library.bases import resolve
from playground.settings import Settings
from playground.training.processes import ALLOCATOR

ARMS = Path(__file__).with_name("training_arms.py")
FILE = Path(__file__).resolve().parent.parent / "examples" / "hospital_reports.jsonl"
PEERS = ("plain_trainer", "trl_sft", "trl_sft_no_checkpointing")
OURS = ("ours", "ours_qlora")
BODY, HEAD = 106_200_000, 28_300_000
"""Weights of the default base: the body's, and the tied head's."""


def run(arm: str, base: Path, steps: int, allocator: bool, threads: int) -> dict[str, Any]:
    """One arm in a fresh process."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    if threads:
        quiet["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(ARMS), arm, str(base), str(FILE), str(steps), folder],
            env=clean | quiet | (ALLOCATOR if allocator else {}),
            text=True,
            capture_output=True,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"losses"')]
    if not lines:
        raise RuntimeError(f"{arm} ended without an answer: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=0, help="0 = one a core")
    parser.add_argument("--precisions", action="store_true", help="every arm in fp32 and in bf16")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = resolve("smollm2-135m", Settings.from_env()).path
    if options.precisions:
        every = [(name + end, name == "ours") for name in ("ours", "plain_trainer", "trl_sft") for end in ("", "_bf16")]
    else:
        every = [(name, True) for name in OURS] + [(name, allocator) for allocator in (False, True) for name in PEERS]
    results: dict[tuple[str, bool], list[dict[str, Any]]] = {arm: [] for arm in every}
    for turn in range(options.rounds):
        for arm in every:
            results[arm].append(run(arm[0], base, options.warm + options.steps, arm[1], options.threads))
            print(turn + 1, *arm, [round(x, 2) for x in seconds(results[arm][-1], options.warm)], flush=True)
        told = json.dumps((by_precision if options.precisions else figures)(results, options), indent=1)
        if options.out:
            options.out.write_text(told + "\n")
    print(told)


def seconds(result: dict[str, Any], warm: int) -> list[float]:
    """What each step after the first ``warm`` took."""
    ended = result["ended"][warm - 1 :]
    return [after - before for before, after in pairwise(ended)]


def rates_of(runs: list[dict[str, Any]], tokens: list[int], warm: int) -> list[float]:
    """Tokens a second of each round: the median of its steps."""
    return [
        statistics.median(count / s for count, s in zip(tokens[warm:], seconds(one, warm), strict=True)) for one in runs
    ]


def by_precision(results: dict[tuple[str, bool], list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of every arm in fp32 and in bf16, and by how much ours is faster. Raises RuntimeError where the
    first losses part."""
    runs = {name: found for (name, _), found in results.items()}
    first = {name: found[0]["losses"][0] for name, found in runs.items()}
    for end, within in (("", 1e-3), ("_bf16", 0.02)):
        if any(abs(first[name + end] - first["ours"]) > within for name in ("ours", "plain_trainer", "trl_sft")):
            raise RuntimeError(f"The first step's losses differ: {first}")
    rounds = {name: rates_of(found, runs["plain_trainer"][0]["tokens"], options.warm) for name, found in runs.items()}
    speed = {name: statistics.median(rates) for name, rates in rounds.items()}
    peers = ("plain_trainer", "trl_sft")
    best = {name: max(speed[name], speed[f"{name}_bf16"]) for name in ("ours", *peers)}
    return stamp(options) | {
        "first_loss": first,
        "tokens_per_s": {name: round(rate, 1) for name, rate in speed.items()},
        "rounds": {name: [round(rate, 1) for rate in rates] for name, rates in rounds.items()},
        "peak_bytes": {name: max(one["peak_bytes"] for one in found) for name, found in runs.items()},
        "ours_is_faster_by": {
            "both_fp32": {name: round(speed["ours"] / speed[name], 2) for name in peers},
            "as_they_come (ours auto, peers fp32)": {name: round(best["ours"] / speed[name], 2) for name in peers},
            "each_in_its_best": {name: round(best["ours"] / best[name], 2) for name in peers},
        },
    }


def stamp(options: argparse.Namespace) -> dict[str, Any]:
    """The command, the machine and how busy it was."""
    import torch

    said = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return {
        "command": " ".join(["python", "benchmarks/training.py", *said]),
        "device": f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
        "clock": "processor seconds of one thread" if options.threads == 1 else "wall",
        "load_average_at_the_end": [round(value, 1) for value in os.getloadavg()],
    }


def figures(results: dict[tuple[str, bool], list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """Both tables and the ratios. Raises RuntimeError where the arms do not learn the same."""
    counted = results["plain_trainer", False][0]
    tokens, learned = counted["tokens"], counted["learned"]
    first = {
        name if not allocator else f"{name}+allocator": runs[0]["losses"][0]
        for (name, allocator), runs in results.items()
    }
    same = [value for name, value in first.items() if "qlora" not in name]  # NF4 is another base
    if max(same) - min(same) > 1e-3:
        raise RuntimeError(f"The first step's losses differ: {first}")
    speed, rounds, peak = {}, {}, {}
    for arm, runs in results.items():
        rates = rates_of(runs, tokens, options.warm)
        speed[arm], rounds[arm] = statistics.median(rates), [round(rate, 1) for rate in rates]
        peak[arm] = max(one["peak_bytes"] for one in runs)
    share = sum(learned) / sum(tokens)
    flops = statistics.median(one["flops"] for one in results["ours", True])
    limit = flops / (4 * BODY + 4 * share * HEAD)

    def table(allocator: bool) -> dict[str, Any]:
        arms = [(name, True) for name in OURS] + [(name, allocator) for name in PEERS]
        return {
            name: {
                "tokens_per_s": round(speed[name, own], 1),
                "rounds": rounds[name, own],
                "peak_bytes": peak[name, own],
                "ours_is_faster_by": round(speed["ours", True] / speed[name, own], 3),
            }
            for name, own in arms
        }

    paired = [
        round(
            statistics.median(a / b for a, b in zip(rounds["ours_qlora", True], rounds["ours", True], strict=True)), 3
        )
    ]
    return stamp(options) | {
        "first_loss": first,
        "last_losses": {
            f"{name}{'+allocator' if own else ''}": runs[0]["losses"][-1] for (name, own), runs in results.items()
        },
        "tokens_a_step": tokens[options.warm :],
        "learned_share": round(share, 3),
        "peers_with_their_defaults": table(False),
        "all_with_our_allocator": table(True),
        "arithmetic_limit": {
            "flops": round(flops),
            "tokens_per_s": round(limit, 1),
            "ours": round(speed["ours", True] / limit, 3),
        },
        "qlora_against_lora": paired[0],
        "goals": {
            "against_trl": [round(speed["ours", True] / speed["trl_sft", False], 3), 2.0],
            "against_plain_trainer": [round(speed["ours", True] / speed["plain_trainer", False], 3), 1.4],
            "share_of_the_limit": [round(speed["ours", True] / limit, 3), 0.7],
            "qlora_against_lora": [paired[0], 0.8],
        },
    }


if __name__ == "__main__":
    main()
