"""What the three scripts share: deal rows out without repeats, and write a set beside the scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

HERE = Path(__file__).resolve().parent
TRIES = 1000

Row = dict[str, str]
T = TypeVar("T")


def deal(topics: Sequence[T], rows: int, make: Callable[[T, int], Row], taken: Iterable[Row] = ()) -> list[Row]:
    """`rows` rows with prompts of their own: topic after topic, `make(topic, round)` tried again while its prompt is
    taken; a topic that has no new prompt left is passed over from then on."""
    prompts = {row["prompt"] for row in taken}
    out: list[Row] = []
    left, number = list(topics), 0
    while len(out) < rows:
        if not left:
            raise RuntimeError(
                f"no topic has a new prompt after {len(out)} rows: give more wordings or ask for fewer rows"
            )
        turn, place = divmod(number, len(topics))
        number += 1
        if topics[place] not in left:
            continue
        row = next((row for _ in range(TRIES) if (row := make(topics[place], turn))["prompt"] not in prompts), None)
        if row is None:
            left.remove(topics[place])
            continue
        prompts.add(row["prompt"])
        out.append(row)
    return out


def write_set(stem: str, prompt_file: str, train: list[Row], heldout: list[Row], prompt: str, rng: Random) -> None:
    """Shuffle both parts and write `stem.jsonl`, `stem_heldout.jsonl` and the system prompt."""
    for name, rows in ((f"{stem}.jsonl", train), (f"{stem}_heldout.jsonl", heldout)):
        rng.shuffle(rows)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (HERE / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {len(rows)} rows")
    (HERE / prompt_file).write_text(prompt.strip() + "\n", encoding="utf-8", newline="\n")


def capital(text: str) -> str:
    """The first letter upper case, the rest as it is."""
    return text[:1].upper() + text[1:]
