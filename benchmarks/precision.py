"""Replies in bf16 against fp32 on this processor: how many greedy replies are the same, whether the others part at a
near-tie, and what it does to held-out losses and to what the shipped sets call right.

    python benchmarks/precision.py [--rows 16] [--out benchmarks/results/precision.json]

ROWS held-out rows of each shipped set, with its adapter and by the base alone, four a batch, 64 tokens, ends suppressed
(fp32 against bf16), then whole replies of the adapters for the pass rates.

Fixed before any figure. Failure would be: a set's mean loss that differs by more than 0.01 nats and 2 %; a pass rate or
share of right rows that differs by more than 2 rows in 16 on a set; a reply that parts where fp32 finds the other token
less likely by more than 0.5 nats, in more than one in ten of those that part; or replies of the same batch that are not
the same twice in bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from playground.data.check import check_file
from playground.data.render import render_example, render_prompt
from playground.engine.engine import Engine
from playground.engine.request import AdapterFile, Row, RowState, Sampling, ScoreRow
from playground.evaluation.checks import parse_check
from playground.evaluation.criterion import parse_criterion
from playground.library.bases import resolve
from playground.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SETS = {one["id"]: one for one in json.loads((ROOT / "examples" / "sets.json").read_text("utf-8"))}
BATCH, TOKENS, LONGEST = 4, 64, 1024
KINDS = (torch.float32, torch.bfloat16)


def told(engine: Engine, rows: list[Row]) -> list[RowState]:
    found: list[RowState] = []
    for start in range(0, len(rows), BATCH):
        states: list[RowState] = []
        for states in engine.stream(rows[start : start + BATCH]):
            pass
        found += states
    return found


def replies(base: Path, dtype: torch.dtype, count: int) -> dict[str, Any]:
    """By set: tokens and logprobs with the adapter and without, losses, and how many whole replies are right."""
    engine, found = Engine(base, dtype=dtype), {}
    tokenizer = engine.loaded.tokenizer
    for name, about in SETS.items():
        engine.attach(AdapterFile(name, ROOT / "adapters" / about["adapter"], name))
        examples = check_file(ROOT / "examples" / about["heldout"]).examples[:count]
        prompts = [render_prompt(tokenizer, example.messages[:-1]) for example in examples]
        fixed = Sampling(max_tokens=TOKENS, min_tokens=TOKENS)
        asked = [[Row(prompt, adapter, fixed, logprobs=5) for prompt in prompts] for adapter in (name, None)]
        texts = [render_example(tokenizer, example, LONGEST) for example in examples]
        losses = [
            [one.loss for one in engine.score([ScoreRow(t.prompt_text, t.completion_text, side) for t in texts])]
            for side in (name, None)
        ]
        whole = told(engine, [Row(prompt, name, Sampling(max_tokens=160)) for prompt in prompts])
        answers = [example.messages[-1].content for example in examples]
        check, right = parse_check(about["check"]), parse_criterion(about["right"][0], answers)
        engine.clear_prefix_cache()
        first = [state for rows in asked for state in told(engine, rows)]
        engine.clear_prefix_cache()
        again = told(engine, asked[0][:BATCH])
        found[name] = {
            "states": first,
            "again": [one.tokens for one in again] == [one.tokens for one in first[:BATCH]],
            "losses": [statistics.mean(side) for side in losses],
            "passed": sum(check.passes(state.text.strip()) for state in whole),
            "right": sum(
                right.mark(state.text.strip(), answer).right for state, answer in zip(whole, answers, strict=True)
            ),
        }
    engine.close()
    return found


def parting(whole: RowState, half: RowState) -> float | None:
    """How much less likely fp32 finds the token that bf16 takes where they part, in nats; None = they are the same."""
    place = next((at for at, (a, b) in enumerate(zip(whole.tokens, half.tokens, strict=True)) if a != b), None)
    if place is None:
        return None
    top = dict(whole.logprobs[place].top)
    return whole.logprobs[place].logprob - top.get(half.logprobs[place].text, min(top.values()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = resolve("smollm2-135m", Settings.from_env()).path
    whole, half = (replies(base, dtype, options.rows) for dtype in KINDS)
    sets, gaps, count = {}, [], 0
    for name in SETS:
        pairs = list(zip(whole[name]["states"], half[name]["states"], strict=True))
        parts = [parting(*pair) for pair in pairs]
        gaps += [gap for gap in parts if gap is not None]
        count += len(parts)
        sets[name] = {
            "same": sum(gap is None for gap in parts),
            "of": len(parts),
            **{key: [whole[name][key], half[name][key]] for key in ("losses", "passed", "right")},
            "same_twice_in_bf16": half[name]["again"],
        }
    device = f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    found = {
        "command": " ".join(["python", "benchmarks/precision.py", *sys.argv[1:]]),
        "device": device,
        "same_replies": count - len(gaps),
        "replies": count,
        "nats_where_they_part": {"median": statistics.median(gaps or [0]), "largest": max(gaps, default=0)},
        "part_at_more_than_half_a_nat": sum(gap > 0.5 for gap in gaps),
        "sets": sets,
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
