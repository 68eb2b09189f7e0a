"""Does the tuned model keep the format on held-out rows, and does the base with its careful prompt?

    python benchmarks/format_adherence.py hospital_reports [--adapter ID] [--out
    benchmarks/results/format_adherence.json]

Every held-out row of the set is asked, greedy, 128 tokens at most, eight rows a batch; the check is the set's own.
Wilson intervals at 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playground.chat.compare import Side
from playground.data.check import check_file
from playground.engine.request import Sampling
from playground.evaluation.checks import parse_check
from playground.services import build_services
from playground.settings import Settings

BATCH = 8


def wilson(passed: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = passed / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--adapter")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    services = build_services(Settings.from_env())
    services.bases.engine()
    results = []
    for name in options.sets:
        shipped = services.data.shipped(name)
        check = parse_check(shipped.check)
        rows = check_file(shipped.heldout).examples
        questions = [row.messages[-2].content for row in rows]
        for side in (
            Side("base", shipped.system_prompt, name="base + prompt"),
            Side(options.adapter or shipped.adapter, name="tuned, no prompt"),
        ):
            replies = []
            started = time.monotonic()
            for start in range(0, len(questions), BATCH):
                batch = []
                for batch in services.compare.ask_each(
                    side, questions[start : start + BATCH], Sampling(max_tokens=128)
                ):
                    pass
                replies += batch
            passed = sum(check.passes(reply.text) for reply in replies)
            low, high = wilson(passed, len(replies))
            results.append(
                {
                    "set": name,
                    "side": side.name,
                    "model": side.model,
                    "check": shipped.check,
                    "passed": passed,
                    "n": len(replies),
                    "share": passed / len(replies),
                    "low": round(low, 3),
                    "high": round(high, 3),
                    "prompt_tokens_mean": sum(reply.prompt_tokens for reply in replies) / len(replies),
                    "completion_tokens_mean": sum(reply.completion_tokens for reply in replies) / len(replies),
                    "seconds_a_reply": round((time.monotonic() - started) / len(replies), 2),
                    "exact": sum(
                        reply.text.strip() == row.completion.strip() for reply, row in zip(replies, rows, strict=True)
                    ),
                }
            )
            print(results[-1], "\n   ", replies[0].text.replace("\n", "\n    "), flush=True)
    if options.out:
        command = "python " + " ".join(["benchmarks/format_adherence.py", *sys.argv[1:]])
        options.out.write_text(
            json.dumps({"command": command, "device": services.manager.device.name, "results": results}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
