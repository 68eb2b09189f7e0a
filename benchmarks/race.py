"""The method race for real: every method on one shipped set, the same budget, one table and one picture.

    python benchmarks/race.py [--set hospital_reports] [--steps 20] [--methods lora,ia3] [--out
    benchmarks/results/race.json]
    python benchmarks/race.py --methods ia3,full --into benchmarks/results/race.json --out ...   # these again, at other
    rates
    python benchmarks/race.py --again benchmarks/results/race.json          # the docs' page and picture from a result

The race service does it all, as the page and the command line do. Each run is a process of its own and nothing else
computes beside it; what was learned is measured when all have ended. ``--page`` writes docs/race.md and
docs/race.svg.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playground.services import build_services
from playground.settings import PROJECT_ROOT, Settings
from playground.verdict.race import RaceRequest
from playground.verdict.race_store import HEAD, NOTES, Entry, Race, cells, label, picture, record, status, text

OTHERS = (
    "Larger steps learn the set sooner, and all but prefix tuning's forget more: the held-out rows alone do not show"
    " it, which is why a race measures both. The defaults are the rates of the table above; these were tried beside"
    " them."
)
STYLE = (
    "text{font:11px"
    " system-ui,sans-serif;fill:#555}.name{fill:#111}line{stroke:#ddd}.limit{stroke:#c2571a;stroke-dasharray:5"
    " 4;stroke-width:2}circle{fill:#2a5bd7}"
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    services = build_services(Settings.from_env())
    services.bases.resolve()
    shipped = services.data.shipped(options.set)
    started = time.monotonic()
    services.training.start_supervisor()
    services.race.start_measuring()
    methods = tuple(name for name in options.methods.split(",") if name)
    race = services.race.start(
        RaceRequest(
            shipped.file,
            methods=methods,
            steps=options.steps,
            name="race",
            batch_size=options.batch_size,
            seed=options.seed,
        )
    )
    said = ""
    for view in services.race.follow(race, poll_s=2.0):
        if view.race.message != said:
            said = view.race.message
            print(
                f"{time.strftime('%H:%M:%S')} {said} ({view.seconds_left or 0:.0f} s left)", file=sys.stderr, flush=True
            )
    rates = {entry.method: services.training.show(entry.run).summary for entry in view.race.entries}
    result = {
        "command": "python " + " ".join(["benchmarks/race.py", *sys.argv[1:]]),
        "device": services.manager.device.name,
        "base": services.bases.spec,
        "set": options.set,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
        "note": options.note,
        **{key: value for key, value in record(view).items() if key in ("check", "base", "rows")},
        "estimated_memory_bytes": {method: summary.get("estimated_memory_bytes") for method, summary in rates.items()},
        "race": asdict(view.race),
    }
    result["base_figures"] = result.pop("base")
    result["base"] = services.bases.spec
    print(text(view))
    services.close()
    return result


def merged(result: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """An earlier result with the methods of this one in place of its own, which stay beside it as ``other_rates``."""
    entries = {entry["method"]: entry for entry in result["race"]["entries"]}
    rows = {row["method"]: row for row in result["rows"]}
    before = [entry for entry in earlier["race"]["entries"] if entry["method"] in entries]
    race = earlier["race"] | {"entries": [entries.get(entry["method"], entry) for entry in earlier["race"]["entries"]]}
    return earlier | {
        "commands": [*earlier.get("commands", [earlier["command"]]), result["command"]],
        "rows": [rows.get(row["method"], row) for row in earlier["rows"]],
        "race": race,
        "other_rates": [*earlier.get("other_rates", []), *before],
        "note": result["note"] or earlier.get("note", ""),
    }


def write_page(result: dict[str, Any], folder: Path) -> None:
    """docs/race.md and docs/race.svg."""
    race = Race.of(result["race"])
    drawn = picture(race.entries, race.base, curves=False)
    svg = drawn[drawn.index("<svg") : drawn.index("</svg>")]
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, _, body = svg.partition(">")
    (folder / "race.svg").write_text(
        f'{head}><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n'
    )
    table = table_of([race.base, *race.entries])
    others = [Entry(**entry) for entry in result.get("other_rates", [])]
    also = f"\n## The same at other rates\n\n{OTHERS}\n\n{table_of(others)}\n" if others else ""
    wrong = "\n".join(f"- {label(entry.method)}: {status(entry)}" for entry in race.entries if status(entry))
    commands = " and ".join(f"`{command}`" for command in result.get("commands", [result["command"]]))
    page = f"""# All methods on one set

`python -m playground race examples/{race.file} --steps {result["steps"]} --batch-size {result["batch_size"]}`,
on {result["device"]} with {result["base"]}: the same {result["steps"]} steps of {result["batch_size"]} rows
for each method, each with its own default learning rate and size, one run after another, then measured alike.
The check is `{race.check}`; the base is given no prompt either. The Train tab does the same under "Race several
methods". {result.get("note", "")}
Figures: [results/race.json](../benchmarks/results/race.json), made by {commands}.

![Held-out loss against trained weights](race.svg)

{table}

{NOTES}
{wrong}{also}
"""
    (folder / "race.md").write_text(page.rstrip() + "\n")


def table_of(entries: Sequence[Entry]) -> str:
    lines = [HEAD, ["---"] + ["---:"] * (len(HEAD) - 1), *(cells(entry) for entry in entries)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", default="hospital_reports")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--methods", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="", help="a sentence on how it was run, for the page")
    parser.add_argument("--into", type=Path, help="an earlier result that these methods are put into")
    parser.add_argument("--again", type=Path, help="a result, for --page alone")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    result = json.loads(options.again.read_text()) if options.again else run(options)
    if options.into:
        result = merged(result, json.loads(options.into.read_text()))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.page or options.again:
        write_page(result, PROJECT_ROOT / "docs")


if __name__ == "__main__":
    main()
