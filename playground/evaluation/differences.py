"""Where the sides differ: examples with the replies side by side, each against the reference word by word; and the rows as CSV."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from playground.evaluation.shown import Record, Rows, Seen, esc, figure, heading, kind_of, note, pairs_html, sides_of, title_of

MOST_TOKENS = 1500
"""Words and marks of a reply and its reference together past which they are shown without a word diff: it would take seconds."""
CRUMB = 2
"""Words in common between two changes that are no common ground yet."""
READ = "Struck out: what the reference does not have. Underlined: what it has and the reply lacks."
_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet program would run (OWASP, CSV injection), full-width forms included."""
_TEXTS = ("example", "side", "question", "reply", "reference")
_NUMBERS = ("prompt_tokens", "completion_tokens", "seconds", "loss")


def differing(record: Record, rows: Rows) -> list[list[Mapping[str, Any]]]:
    """The examples whose sides have different figures on the main metric, as in ``parted``."""
    return parted(record, rows)[0]


def parted(record: Record, rows: Rows) -> tuple[list[list[Mapping[str, Any]]], list[list[Mapping[str, Any]]]]:
    """The examples whose sides have different figures on the main metric, and those whose sides have the same; each as its rows in the
    order of the sides. An example that not every side has answered, in a verdict that ended early, is in neither.

    Worst first, in both: 1. by the figure of the chosen side (of all sides' mean where none was chosen), the worst first; 2. by how far
    the sides are apart; 3. by number.
    """
    metric = record["main_metric"]
    order = {side["side"]: place for place, side in enumerate(record["sides"])}
    grouped: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["side"] in order:
            grouped.setdefault(row["example"], []).append(row)
    sign = 1 if metric is None or record["about"][metric]["higher_is_better"] else -1
    apart: list[tuple[Any, list[Mapping[str, Any]]]] = []
    alike: list[tuple[Any, list[Mapping[str, Any]]]] = []
    for number, answers in grouped.items():
        if len({row["side"] for row in answers}) < len(order):
            continue
        values = {row["side"]: sign * row["metrics"][metric] for row in answers if metric in row["metrics"]}
        mean = sum(values.values()) / len(values) if values else 0.0
        spread = max(values.values()) - min(values.values()) if values else 0.0
        rank = (values.get(record["chosen_side"], mean), -spread, number)
        (apart if spread > 1e-9 else alike).append((rank, sorted(answers, key=lambda row: order[row["side"]])))
    first, then = ([answers for _, answers in sorted(some, key=lambda one: one[0])] for some in (apart, alike))
    return first, then


def differences_html(record: Record, rows: Rows, only: int | None = None, replay: bool = False) -> str:
    """Where the sides differ, worst first, at most ``only`` examples; then, folded, those where they do not, as many again. replay: each
    reply with a stamp gets a button whose ``data-id`` is ``example|place of its side``."""
    found, alike = parted(record, rows)
    metric = record["main_metric"]
    same = _alike(record, alike, only, replay)
    if metric is None or not found:
        return heading("Where the sides differ", "They do not: every example has the same figure on every side.") + same
    shown = found[:only]
    left = _left_out(len(shown), len(found))
    of = f"on {len(found)} of {record['examples']} examples"
    worst = f"worst first for {record['chosen_side']}" if record["chosen_side"] else "worst first"
    text = f"Told apart by: {title_of(record, metric)}. They differ {of}, {worst}.{left} {READ}"
    items = "".join(_example(record, answers, place < 3, replay) for place, answers in enumerate(shown))
    return heading(f"Where the sides differ, worst first ({len(found)})", text) + f'<div class="v-diffs">{items}</div>{same}'


def _alike(record: Record, found: Sequence[Sequence[Mapping[str, Any]]], only: int | None, replay: bool) -> str:
    """The examples on which all sides have the same figure: their replies can be read and replayed too."""
    if not found:
        return ""
    shown = found[:only]
    title = f"Where they have the same figure ({len(found)})"
    items = "".join(_example(record, answers, False, replay) for answers in shown)
    left = note(_left_out(len(shown), len(found)).strip()) if len(shown) < len(found) else ""
    return f'<details class="v-alike"><summary>{esc(title)}</summary>{left}<div class="v-diffs">{items}</div></details>'


def _left_out(shown: int, found: int) -> str:
    return f" The first {shown} are shown; all are in the files." if shown < found else ""


def _example(record: Record, answers: Sequence[Mapping[str, Any]], is_open: bool, replay: bool) -> str:
    first = answers[0]
    shown = {side.name: (place, side) for place, side in enumerate(sides_of(record))}
    replies = "".join(_reply(record, row, *shown[row["side"]], replay) for row in answers)
    marks = "".join(_mark(record, row, shown[row["side"]][1]) for row in answers)
    question = str(first["question"])
    brief = question if len(question) <= 110 else question[:110].rsplit(" ", 1)[0] + " …"
    return (
        f'<details class="v-example"{" open" if is_open else ""}><summary><span class="v-q">{esc(first["example"])}. {esc(brief)}</span>'
        f'<span class="v-marks">{marks}</span></summary>'
        + (f'<p class="v-text">{esc(question)}</p>' if brief != question else "")
        + f'<details class="v-ref"><summary>The reference</summary><div class="v-text">{esc(first["reference"])}</div></details>'
        f'<div class="v-replies">{replies}</div></details>'
    )


def _mark(record: Record, row: Mapping[str, Any], side: Seen) -> str:
    """A side's letter with its figure: a tick or a cross for yes or no."""
    return f'<span class="v-mark">{side.badge}{_said(record, row)}<span class="v-sr">by {esc(side.name)}</span></span>'


def _said(record: Record, row: Mapping[str, Any]) -> str:
    metric = record["main_metric"]
    value = row["metrics"].get(metric)
    if value is None:
        return '<span class="v-value">not measured</span>'
    if kind_of(record, metric) == "yes-no":
        return f'<span class="v-value {"yes" if value else "no"}">{"✓ holds" if value else "✗ fails"}</span>'
    return f'<span class="v-value">{esc(figure(record, metric, value))}</span>'


def _reply(record: Record, row: Mapping[str, Any], place: int, side: Seen, replay: bool) -> str:
    button = ""
    if replay and row.get("stamp"):
        button = f'<button type="button" data-id="{esc(row["example"])}|{place}" aria-label="Replay the reply of {esc(side.name)}">Replay</button>'
    cost = f"{row.get('prompt_tokens', 0):,} in · {row.get('completion_tokens', 0):,} out"
    return (
        f'<div class="v-reply {esc(side.colour)}"><div class="v-head">{side.who}{_said(record, row)}</div>'
        f'<div class="v-text">{word_diff(str(row["reply"]), str(row["reference"]))}</div>'
        f'<div class="v-foot"><details><summary>{esc(cost)}, stamp</summary>{stamp_html(row)}</details>{button}</div></div>'
    )


def word_diff(reply: str, reference: str) -> str:
    """The reply with ``<del>`` around what the reference does not have and ``<ins>`` around what the reply lacks. Escaped."""
    if not reply.strip():
        return f"<i>Nothing at all.</i> <ins>{esc(reference)}</ins>" if reference else "<i>Nothing at all.</i>"
    said, wanted = _TOKEN.findall(reply.strip()), _TOKEN.findall(reference.strip())
    if len(said) + len(wanted) > MOST_TOKENS:
        return esc(reply)
    parts = []
    for same, a, b, c, d in _runs(said, wanted):
        mine, theirs = esc("".join(said[a:b])), esc("".join(wanted[c:d]))
        if same:
            parts.append(mine)
        else:
            parts.append((f"<del>{mine}</del>" if mine else "") + (f"<ins>{theirs}</ins>" if theirs else ""))
    return "".join(parts)


def _runs(said: Sequence[str], wanted: Sequence[str]) -> list[tuple[bool, int, int, int, int]]:
    """(same, from and to in ``said``, from and to in ``wanted``). A word or two in common between two changes belongs to the change:
    texts that say different things share an "a" and a comma here and there, and would be shown as crumbs."""
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


def stamp_html(row: Mapping[str, Any]) -> str:
    """Everything that is needed to get the same reply again, its prompt as it was sent, and the passages it was given."""
    stamp = row.get("stamp") or {}
    if not stamp:
        return note("No stamp was kept for this reply.")
    facts = [
        ("Adapter", stamp.get("adapter") or "none", ""), ("Its SHA-256", str(stamp.get("adapter_sha256") or "none")[:16], ""),
        ("Base", str(stamp.get("base") or "unknown")[:16], ""), ("Sampling", _plain(stamp.get("sampling")), ""),
        ("Seed", stamp.get("seed", ""), ""), ("Precision, device", f"{stamp.get('dtype', '')} on {stamp.get('device', '')}", ""),
        ("Rows of its batch", stamp.get("rows", ""), ""),
    ]  # fmt: skip
    passages = "".join(f"<li>{esc(passage)}</li>" for passage in row.get("passages") or ())
    repeats = "".join(f"<li>{esc(reply)}</li>" for reply in row.get("repeats") or ())
    return (
        pairs_html(facts)
        + f'<p class="v-note">The prompt, exactly as it was sent:</p><pre>{esc(row.get("prompt", ""))}</pre>'
        + (f'<p class="v-note">The passages it was given:</p><ol class="v-list">{passages}</ol>' if passages else "")
        + (f'<p class="v-note">Its sampled repeats:</p><ol class="v-list">{repeats}</ol>' if repeats else "")
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner not in (None, [], ""))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def rows_csv(rows: Rows) -> str:
    """One line an example and side, to be saved as UTF-8: texts, tokens, seconds, then every metric. Cells that a spreadsheet program
    would run as a formula begin with an apostrophe."""
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"] if name not in _NUMBERS))
    out = io.StringIO()
    out.write("\ufeff")  # tells Excel that the file is UTF-8
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(map(_cell, [*_TEXTS, *_NUMBERS, *metrics]))
    for row in rows:
        values = [*(row.get(name, "") for name in (*_TEXTS, *_NUMBERS)), *(row["metrics"].get(name, "") for name in metrics)]
        writer.writerow(map(_cell, values))
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None or isinstance(value, (int, float)):
        return "" if value is None else str(value)
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
