"""Text from the clipboard: which kind of file it would be."""

from __future__ import annotations

import csv
import json


def pasted_kind(text: str) -> str:
    """The extension that its reader wants: 1. JSON or JSON lines; 2. what a sheet copies (tabs); 3. CSV; 4. plain text."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if lines[0].lstrip()[:1] in ("{", "["):  # 1
        return ".json" if _parses(text) else ".jsonl"
    if "\t" in lines[0]:  # 2
        return ".tsv"
    widths = {len(cells) for separator in ",;|" for cells in csv.reader(lines[:1], delimiter=separator)} - {1}
    if len(lines) > 1 and widths and len(lines[0]) <= 200 and not lines[0].rstrip().endswith((".", "?", "!")):  # 3
        return ".csv"
    return ".txt"  # 4


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
