"""What the soak measured: benchmarks/results/session_manager.json or another file; each part has a key, and the command
that made it."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playground.settings import PROJECT_ROOT

RESULTS = PROJECT_ROOT / "benchmarks" / "results" / "session_manager.json"
COMMAND = " ".join(
    [
        *(["OMP_NUM_THREADS=1"] if os.environ.get("OMP_NUM_THREADS") == "1" else []),
        "python -m pytest -m soak tests/soak",
    ]
)


def record(key: str, results: Path = RESULTS, **values: Any) -> None:
    """Write under ``key``; what other parts measured stays."""
    known = json.loads(results.read_text()) if results.is_file() else {}
    known[key] = {
        "command": COMMAND,
        "cores": os.cpu_count(),
        "finished": time.strftime("%Y-%m-%d", time.gmtime()),
    } | values
    results.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and worst, rounded."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {
        name: round(value, 3)
        for name, value in {"median": statistics.median(ordered), "p95": p95, "worst": ordered[-1]}.items()
    }
