"""Is the memory that a run is said to need what it takes?

    python benchmarks/memory_estimate.py [--out benchmarks/results/memory_estimate.json]

Each method trains four steps on the shipped sets in a worker process of its own; the estimate made before the run is
compared with the worker's peak (resident set on a CPU, reserved memory on CUDA). Take PLAYGROUND_HOME of a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playground.runs.service import TrainRequest
from playground.services import build_services
from playground.settings import Settings
from playground.workspace.visitors import Home

BATCHES = (8,)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = Settings.from_env()
    home = Home.take(settings)
    services = build_services(settings)
    services.training.start_supervisor()
    results: list[dict[str, object]] = []
    for method in ("lora", "qlora", "full"):
        for shipped in services.data.sets()[:2]:
            for batch_size in BATCHES:
                request = TrainRequest(
                    shipped.file, "memory", method=method, steps=4, batch_size=batch_size, save_steps=4
                )
                run = services.training.start(request)
                for view in services.training.follow(run):
                    pass
                summary = view.summary
                ratio = summary["estimated_memory_bytes"] / summary["peak_memory_bytes"]
                results.append(
                    {
                        "method": method,
                        "set": shipped.id,
                        "batch_size": batch_size,
                        "estimated_bytes": summary["estimated_memory_bytes"],
                        "peak_bytes": summary["peak_memory_bytes"],
                        "ratio": round(ratio, 3),
                    }
                )
                print(results[-1], flush=True)
                services.adapters.remove(view.adapter)
                if options.out:
                    write(options.out, services.manager.device.name, results)
    home.release()


def write(out: Path, device: str, results: list[dict[str, object]]) -> None:
    """After every run, so that what was measured stays when it is stopped."""
    command = " ".join(["python", "benchmarks/memory_estimate.py", *sys.argv[1:]])
    out.write_text(json.dumps({"command": command, "device": device, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
