"""Does GRPO teach a format that a few steps of fine-tuning have only begun?

    python benchmarks/grpo.py [--sft-steps 6] [--steps 40] [--rows 40] [--batch-size 8] [--lr 0.0001] [--seed 7]
        [--out benchmarks/results/grpo.json]

On hospital_reports and the default base: LoRA on a few steps of sft, then GRPO from that adapter, rewarded by the
share of a report's required parts (the four lines it begins with, and its last line at the end), as grades. Held-out
rows are answered by the base, by the adapter GRPO began with, and by the one it made; greedy, 128 tokens at most, no
system prompt. Adherence = all parts in their order; parts = the share of them. Wilson intervals at 95 %; the
difference is tested by an exact McNemar test on the same rows. The result is written whether or not it helps.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playground.chat.compare import Side
from playground.data.check import check_file
from playground.engine.request import Sampling
from playground.evaluation.checks import parse_check
from playground.runs.service import TrainRequest
from playground.services import Services, build_services
from playground.settings import Settings

SET = "hospital_reports"
PARTS = (
    "contains:Vitals: BP",
    "contains:Diagnosis: ",
    "contains:Suggested tests: ",
    "ends-with:Reviewed by Dr. Sharma",
)
WHOLE = re.compile(r"Vitals: .+\nDiagnosis: .+\nSuggested tests: .+\n\nReviewed by Dr\. Sharma")
BATCH = 8


@dataclass(frozen=True)
class Answered:
    """passed: of each row, whether the whole format is kept. parts: the mean share of its parts."""

    passed: list[bool]
    parts: float
    last_line: int
    first_reply: str

    def figures(self) -> dict[str, Any]:
        n, passed = len(self.passed), sum(self.passed)
        low, high = wilson(passed, n)
        last_low, last_high = wilson(self.last_line, n)
        return {
            "n": n,
            "passed": passed,
            "share": round(passed / n, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "parts_mean": round(self.parts, 4),
            "last_line": self.last_line,
            "last_line_low": round(last_low, 4),
            "last_line_high": round(last_high, 4),
            "first_reply": self.first_reply,
        }


def wilson(passed: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = passed / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(before: list[bool], after: list[bool]) -> float:
    """Exact two-sided p-value for a yes/no figure of the same rows before and after (McNemar 1947)."""
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return min(1.0, 2 * tail)


def trained(services: Services, request: TrainRequest) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """(adapter's id, summary, figures of every step) of a run that is followed to its end."""
    run = services.training.start(request)
    services.training.start_supervisor()
    view = services.training.show(run)
    seen: dict[int, dict[str, Any]] = {}
    for view in services.training.follow(run, poll_s=0.5):
        if view.step and view.step not in seen:
            seen[view.step] = {"step": view.step, **view.figures}
            print(f"{request.name}: step {view.step} of {view.steps} {view.figures}", file=sys.stderr, flush=True)
    if view.state != "DONE" or view.adapter is None:
        raise SystemExit(f"{request.name} ended as {view.state}: {view.error}")
    return view.adapter, view.summary, [seen[step] for step in sorted(seen)]


def answered(services: Services, model: str, rows: int) -> Answered:
    """The held-out rows as ``model`` answers them."""
    checks = [parse_check(part) for part in PARTS]
    examples = check_file(services.data.shipped(SET).heldout).examples[:rows]
    replies: list[str] = []
    for start in range(0, len(examples), BATCH):
        asked = [example.messages[-2].content for example in examples[start : start + BATCH]]
        batch: Any = []
        for batch in services.compare.ask_each(Side(model, name=model), asked, Sampling(max_tokens=128)):
            pass
        replies += [reply.text.strip() for reply in batch]
        print(f"{model}: {len(replies)} of {len(examples)} answered", file=sys.stderr, flush=True)
    kept = [sum(check.passes(reply) for check in checks) / len(checks) for reply in replies]
    last = sum(checks[-1].passes(reply) for reply in replies)
    return Answered([bool(WHOLE.fullmatch(reply)) for reply in replies], sum(kept) / len(kept), last, replies[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sft-steps", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    services = build_services(Settings.from_env())
    services.bases.resolve()
    file = services.data.shipped(SET).file
    started = time.monotonic()
    begun, first, _ = trained(
        services,
        TrainRequest(
            file,
            "grpo start",
            objective="sft",
            steps=options.sft_steps,
            seed=options.seed,
            save_steps=options.sft_steps,
        ),
    )
    made, second, steps = trained(
        services,
        TrainRequest(
            file,
            "grpo end",
            objective="grpo",
            steps=options.steps,
            lr=options.lr,
            seed=options.seed,
            batch_size=options.batch_size,
            save_steps=max(1, options.steps // 2),
            rewards=PARTS,
            start=begun,
        ),
    )
    services.bases.engine()
    sides = {
        name: answered(services, model, options.rows)
        for name, model in (("base", "base"), ("before", begun), ("after", made))
    }
    before, after = sides["before"], sides["after"]
    result = {
        "command": "python " + " ".join(["benchmarks/grpo.py", *sys.argv[1:]]),
        "device": services.manager.device.name,
        "base": services.bases.spec,
        "set": SET,
        "rewards": PARTS,
        "sft_steps": options.sft_steps,
        "grpo_steps": options.steps,
        "sides": {name: side.figures() for name, side in sides.items()},
        "p_value": round(mcnemar(before.passed, after.passed), 5),
        "reward_by_step": steps,
        "seconds": {
            "sft": first.get("seconds"),
            "grpo": second.get("seconds"),
            "all": round(time.monotonic() - started, 1),
        },
        "peak_memory_bytes": second.get("peak_memory_bytes"),
        "estimated_memory_bytes": second.get("estimated_memory_bytes"),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    services.close()


if __name__ == "__main__":
    main()
