"""Where the sides differ: examples with the replies side by side, each against the reference word by word; and the rows
as CSV."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from playground.report.format import Record, Row, Rows, Seen, figure, kind_of, sides_of, title_of

MOST_TOKENS = 1500
"""Words and marks of a reply and its reference together past which they are shown without a word diff: it would take
seconds."""
CRUMB = 2
"""Words in common between two changes that are no common ground yet."""
READ = "Struck out: what the reference does not have. Underlined: what it has and the reply lacks."
_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet program would run (OWASP, CSV injection), full-width forms included."""
_TEXTS = ("example", "side", "question", "reply", "reference")
_NUMBERS = ("prompt_tokens", "completion_tokens", "seconds", "loss")


def parted(record: Record, rows: Rows) -> tuple[list[list[Row]], list[list[Row]]]:
    """The examples whose sides have different figures on the main metric, and those whose sides have the same; each as
    its rows in the order of the sides. An example that not every side has answered, in a verdict that ended early, is
    in neither.

    Worst first, in both: 1. by the figure of the chosen side (of all sides' mean where none was chosen), the worst
    first; 2. by how far the sides are apart; 3. by number."""
    metric, chosen = record["main_metric"], record["chosen_side"]
    order = {side["side"]: place for place, side in enumerate(record["sides"])}
    frame = pd.DataFrame(
        [(row["example"], order[row["side"]], row["metrics"].get(metric), row) for row in rows if row["side"] in order],
        columns=["example", "place", "value", "row"],
    ).sort_values(["example", "place"], kind="stable")
    frame["value"] = frame["value"].astype(float)
    if metric is not None and not record["about"][metric]["higher_is_better"]:
        frame["value"] *= -1
    examples = frame.groupby("example")
    figures = examples["value"]
    mine = frame[frame["place"] == order.get(chosen)].set_index("example")["value"]
    found = pd.DataFrame(
        {
            "answers": examples["row"].agg(list),
            "sides": examples["place"].nunique(),
            "figure": mine.combine_first(figures.mean()).fillna(0.0),
            "spread": (figures.max() - figures.min()).fillna(0.0),
        }
    ).sort_values(["figure", "spread", "example"], ascending=[True, False, True])
    found = found[found["sides"] == len(order)]
    apart = found["spread"] > 1e-9
    return list(found["answers"][apart]), list(found["answers"][~apart])


def differences(record: Record, rows: Rows, only: int | None = None, replay: bool = False) -> dict[str, Any]:
    """Where the sides differ, worst first, at most ``only`` examples; then, folded, those where they do not, as many
    again. replay: each reply with a stamp gets a button whose ``data-id`` is ``example|place of its side``."""
    found, same = parted(record, rows)
    title, text = "Where the sides differ", "They do not: every example has the same figure on every side."
    if record["main_metric"] is None:
        found = []
    if found:
        worst = f"worst first for {record['chosen_side']}" if record["chosen_side"] else "worst first"
        text = (
            f"Told apart by: {title_of(record, record['main_metric'])}. "
            f"They differ on {len(found)} of {record['examples']} examples, {worst}."
            f"{_left_out(only, len(found))} {READ}"
        )
        title = f"Where the sides differ, worst first ({len(found)})"
    sides = {side.name: (place, side) for place, side in enumerate(sides_of(record))}
    return {
        "title": title,
        "text": text,
        "apart": [_example(record, answers, sides, place < 3, replay) for place, answers in enumerate(found[:only])],
        "alike": [_example(record, answers, sides, False, replay) for answers in same[:only]],
        "alike_title": f"Where they have the same figure ({len(same)})",
        "alike_left": _left_out(only, len(same)).strip(),
    }


def _left_out(only: int | None, found: int) -> str:
    return f" The first {only} are shown; all are in the files." if only is not None and only < found else ""


def _example(
    record: Record, answers: Sequence[Row], sides: Mapping[str, tuple[int, Seen]], is_open: bool, replay: bool
) -> dict[str, Any]:
    first = answers[0]
    question = str(first["question"])
    return {
        "open": is_open,
        "number": first["example"],
        "question": question,
        "brief": question if len(question) <= 110 else question[:110].rsplit(" ", 1)[0] + " …",
        "reference": first["reference"],
        "rows": [_reply(record, row, *sides[row["side"]], replay) for row in answers],
    }


def _reply(record: Record, row: Row, place: int, side: Seen, replay: bool) -> dict[str, Any]:
    metric = record["main_metric"]
    value, yes_no = row["metrics"].get(metric), kind_of(record, metric) == "yes-no"
    words = "not measured" if value is None else figure(record, metric, value)
    if value is not None and yes_no:
        words = "✓ holds" if value else "✗ fails"
    return {
        "side": side,
        "figure": words,
        "passes": bool(value) if value is not None and yes_no else None,
        "is_empty": not str(row["reply"]).strip(),
        "diff": word_diff(str(row["reply"]), str(row["reference"])),
        "cost": f"{row.get('prompt_tokens', 0):,} in · {row.get('completion_tokens', 0):,} out",
        "replay": f"{row['example']}|{place}" if replay and row.get("stamp") else "",
        "facts": _stamp(row.get("stamp") or {}),
        "prompt": row.get("prompt", ""),
        "passages": row.get("passages") or (),
        "repeats": row.get("repeats") or (),
    }


def word_diff(reply: str, reference: str) -> list[tuple[Literal["same", "del", "ins"], str]]:
    """The reply in pieces: ``del`` is what the reference does not have, ``ins`` what the reply lacks."""
    if not reply.strip():
        return [("ins", reference)] if reference else []
    said, wanted = _TOKEN.findall(reply.strip()), _TOKEN.findall(reference.strip())
    if len(said) + len(wanted) > MOST_TOKENS:
        return [("same", reply)]
    parts: list[tuple[Literal["same", "del", "ins"], str]] = []
    for same, a, b, c, d in _runs(said, wanted):
        mine, theirs = "".join(said[a:b]), "".join(wanted[c:d])
        parts += [("same", mine)] if same else [("del", mine), ("ins", theirs)]
    return [(how, text) for how, text in parts if text]


def _runs(said: Sequence[str], wanted: Sequence[str]) -> list[tuple[bool, int, int, int, int]]:
    """(same, from and to in ``said``, from and to in ``wanted``). A word or two in common between two changes belongs
    to the change: texts that say different things share an "a" and a comma here and there, and would be shown as
    crumbs."""
    steps = difflib.SequenceMatcher(None, said, wanted, autojunk=False).get_opcodes()
    found: list[tuple[bool, int, int, int, int]] = []
    for place, (how, a, b, c, d) in enumerate(steps):
        words = sum(token[0].isalnum() for token in said[a:b])
        same = how == "equal" and (words > CRUMB or place in (0, len(steps) - 1))
        if found and not same and not found[-1][0]:
            found[-1] = (False, found[-1][1], b, found[-1][3], d)
        else:
            found.append((same, a, b, c, d))
    return found


def _stamp(stamp: Mapping[str, Any]) -> list[tuple[str, object, str]]:
    """Everything that is needed to get the same reply again; empty where no stamp was kept."""
    if not stamp:
        return []
    return [
        ("Adapter", stamp.get("adapter") or "none", ""),
        ("Its SHA-256", str(stamp.get("adapter_sha256") or "none")[:16], ""),
        ("Base", str(stamp.get("base") or "unknown")[:16], ""),
        ("Sampling", _plain(stamp.get("sampling")), ""),
        ("Seed", stamp.get("seed", ""), ""),
        ("Precision, device", f"{stamp.get('dtype', '')} on {stamp.get('device', '')}", ""),
        ("Rows of its batch", stamp.get("rows", ""), ""),
    ]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner not in (None, [], ""))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def rows_csv(rows: Rows) -> str:
    """One line an example and side, to be saved as UTF-8: texts, tokens, seconds, then every metric. Cells that a
    spreadsheet program would run as a formula begin with an apostrophe."""
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"] if name not in _NUMBERS))
    columns = [*_TEXTS, *_NUMBERS, *metrics]
    frame = pd.DataFrame([{**row["metrics"], **row} for row in rows], columns=columns, dtype=object)
    frame = frame.where(frame.notna(), "").map(_cell).rename(columns=_cell)
    # the first sign tells Excel that the file is UTF-8
    return "\ufeff" + frame.to_csv(index=False, quoting=csv.QUOTE_ALL, lineterminator="\r\n")


def _cell(value: object) -> str:
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
