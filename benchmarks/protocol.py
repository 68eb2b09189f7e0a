"""How often the decision protocol gives each answer when the truth is known: ``protocol.py [TIMES] [--old CHECKOUT]``.

Three rungs (prompt, few-shot, fine-tune) with true pass rates, drawn TIMES each for 20, 40, 100 and 300 rows, once with
independent sides and once with sides that fail on the same rows (Gaussian copula, correlation 0.6). Three errors, each
promised at most 5 %: *below*: the chosen side is truly below bar - margin; *none*: "nothing is good enough" while a
rung is truly at the bar; *equal*: the chosen side is called as good as the best while truly worse by more than the
margin. With --old, the twelve rules of an earlier checkout beside it, on the same draws (they call a side equal where
they keep it because no other is ahead by enough to matter, rules 5 and 6).

Writes results/protocol.json and ../docs/protocol.svg. What would count as failure is fixed here, before any figure: an
error above 5 % by more than chance (the lower end of its 99 % Wilson interval) in any scene. Not promised: rows that
are copies of each other ("rows in clusters"), which make 100 rows worth fewer; that scene shows what it costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # after an earlier checkout, where one is named
RUNGS = ("prompt", "few-shot", "fine-tune")
SCENES: dict[str, tuple[float, float, float]] = {
    "all well above the bar": (0.97, 0.97, 0.97),
    "all at the bar": (0.90, 0.90, 0.90),
    "all just below bar - margin": (0.849, 0.849, 0.849),
    "best is better by 5": (0.90, 0.90, 0.95),
    "best is better by 6": (0.90, 0.90, 0.961),
    "best is better by 10": (0.80, 0.80, 0.90),
    "best is better by 30": (0.65, 0.65, 0.95),
    "one is good, another 5.1 better": (0.945, 0.945, 0.9965),
    "all below the bar": (0.60, 0.70, 0.80),
    "nothing near it": (0.05, 0.10, 0.45),
}
SIZES, CORRELATIONS = (20, 40, 100, 300), (0.0, 0.6)
ERRORS = ("below", "none", "equal")
CLUSTERS = "rows in clusters of four (not promised)"


def drawn(rates: tuple[float, ...], n: int, times: int, correlation: float, cluster: int, seed: int) -> np.ndarray:
    """[times, sides, n] passes. cluster: so many neighbouring rows share four fifths of their luck."""
    from scipy import stats

    rng = np.random.default_rng(seed)
    row, own = rng.standard_normal((times, 1, n)), rng.standard_normal((times, len(rates), n))
    if cluster > 1:
        shared = rng.standard_normal((times, 1, -(-n // cluster))).repeat(cluster, axis=2)[:, :, :n]
        row = np.sqrt(0.8) * shared + np.sqrt(0.2) * row
    mixed = np.sqrt(correlation) * row + np.sqrt(1 - correlation) * own
    return np.asarray(stats.norm.cdf(mixed) < np.array(rates)[None, :, None])


def by_protocol(passes: np.ndarray) -> tuple[str, str, bool]:
    """(choice, chosen side, called as good as the best)."""
    from playground.evaluation.decision import Candidate, Terms, decide

    made = decide([Candidate(rung, rung, one) for rung, one in zip(RUNGS, passes, strict=True)], Terms())  # type: ignore[arg-type]
    return made.choice, made.side, bool(made.as_good_as_best)


def by_rules(passes: np.ndarray) -> tuple[str, str, bool]:
    """The twelve rules, where the earlier checkout is on the path."""
    from playground.evaluation.comparison import Questions, compare_sides
    from playground.evaluation.decision import choose  # type: ignore[attr-defined]
    from playground.evaluation.statistics import averaged

    measured = {
        rung: {"json": averaged("json", [float(value) for value in one], "Valid JSON", yes_no=True)}
        for rung, one in zip(RUNGS, passes, strict=True)
    }
    kinds = {"prompt": "prompt", "few-shot": "few-shot", "fine-tune": "tuned"}
    made = choose(compare_sides(measured), "json", kinds, {}, Questions())
    return made.choice, made.side or "", made.rule in (5, 6)


def scenes() -> Iterator[tuple[str, tuple[float, float, float], float, int]]:
    for name, rates in SCENES.items():
        for correlation in CORRELATIONS:
            yield name, rates, correlation, 1
    yield CLUSTERS, (0.849, 0.849, 0.849), 0.6, 4


def measure(times: int, judge: Any) -> list[dict[str, Any]]:
    rows = []
    for place, (name, rates, correlation, cluster) in enumerate(scenes()):
        for n in SIZES:
            said: Counter[str] = Counter()
            wrong: Counter[str] = Counter()
            for passes in drawn(rates, n, times, correlation, cluster, 1000 * place + n):
                choice, side, equal = judge(passes)
                said[choice] += 1
                truth = rates[RUNGS.index(side)] if side else 1.0
                wrong["below"] += truth < 0.85 - 1e-9
                wrong["none"] += choice == "none-good-enough" and max(rates) >= 0.90
                wrong["equal"] += bool(side) and equal and max(rates) - truth > 0.05 + 1e-9
            rows.append(
                {"scene": name, "rates": rates, "correlation": correlation, "rows": n, "times": times}
                | {"said": {one: round(count / times, 4) for one, count in said.most_common()}}
                | {"errors": {one: round(wrong[one] / times, 4) for one in ERRORS}}
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def worst(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {one: max(row["errors"][one] for row in rows if row["scene"] != CLUSTERS) for one in ERRORS}


def picture(rows: list[dict[str, Any]]) -> str:
    """Each scene and size as a bar of the answers' shares."""
    from playground.report.charts import tag

    colours = {"prompt": "#4269d0", "few-shot": "#97bbf5", "fine-tune": "#3ca951"}
    colours |= {"none-good-enough": "#ff725c", "not-enough-evidence": "#c9c9c9"}
    parts, at = [], 40
    for place, name in enumerate(colours):
        parts.append(tag("rect", x=20 + 150 * place, y=10, width=12, height=12, fill=colours[name]))
        parts.append(tag("text", name, x=38 + 150 * place, y=21))
    for row in rows:
        if row["rows"] == SIZES[0]:
            at += 10
            parts.append(tag("text", f"{row['scene']}, correlation {row['correlation']}", x=20, y=at + 12))
        left = 420.0
        for name, colour in colours.items():
            width = 400 * row["said"].get(name, 0.0)
            parts.append(tag("rect", x=left, y=at, width=width, height=14, fill=colour))
            left += width
        parts.append(tag("text", f"{row['rows']} rows", x=830, y=at + 12))
        at += 17
    style = "font: 12px sans-serif; fill: #555"
    return str(tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 910 {at + 10}", style=style))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times", nargs="?", type=int, default=1000)
    parser.add_argument("--old", help="a checkout with the twelve rules")
    parser.add_argument("--rules", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rules:
        print(json.dumps(measure(options.times, by_rules)))
        return
    rows = measure(options.times, by_protocol)
    result: dict[str, Any] = {
        "command": f"python benchmarks/protocol.py {options.times}",
        "worst": worst(rows),
        "protocol": rows,
    }
    if options.old:
        command = [sys.executable, __file__, str(min(options.times, 200)), "--rules"]
        out = subprocess.run(
            command,
            cwd=options.old,
            env=os.environ | {"PYTHONPATH": options.old},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        old = json.loads(out.stdout)
        result |= {"worst_of_the_twelve_rules": worst(old), "twelve_rules": old}
    (HERE / "results" / "protocol.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE.parent / "docs" / "protocol.svg").write_text(picture(rows) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key.startswith("worst")}))


if __name__ == "__main__":
    main()
