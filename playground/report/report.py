"""A verdict as HTML (one piece for a page, or one file that needs nothing else) and its rows as CSV.

The templates escape what they are given, and only what ``render`` or ``charts`` made goes in as HTML.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from playground.data.editing import csv_of
from playground.evaluation.comparison import link
from playground.report import sections
from playground.report.charts import tag
from playground.report.format import Record, Row, Rows, Seen, element_id, figure, kind_of, sides_of, title_of
from playground.report.safe_html import safe_html
from playground.report.sections import Context

_HERE = Path(__file__).parent
STYLE = (_HERE / "report.css").read_text(encoding="utf-8")
"""How the pieces look; the page that holds them gives the colours."""
MOST_TOKENS = 1500
"""Words and signs of a reply and its reference together past which there is no word diff: it would take seconds."""
CRUMB = 2
"""Words in common between two changes that are no common ground yet."""
READ = "Struck out: what the reference does not have. Underlined: what it has and the reply lacks."
_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_TEXTS = ("example", "side", "question", "reply", "reference")
_NUMBERS = ("prompt_tokens", "completion_tokens", "thought_tokens", "seconds", "loss")
Piece = tuple[Literal["same", "del", "ins"], str]


class _OneLine(Extension):
    """Line breaks and indentation of a template are for its reader, and not sent."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"\n[ \t]*", "", source)


def in_words(value: object) -> str:
    """A value of a stamp or a record as text; of an object what it says."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(inner)}" for key, inner in value.items() if inner not in (None, [], ""))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def environment(folder: Path) -> Environment:
    """Templates of a folder; every value is escaped unless a template or ``tag`` made it."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[_OneLine, "jinja2.ext.do"],
        auto_reload=False,
    )


_TEMPLATES = environment(_HERE / "templates")
_TEMPLATES.filters |= {"element_id": element_id, "plain": in_words}
_TEMPLATES.globals["link"] = link


def render(name: str, context: Context) -> Markup:
    """A section, or the page that holds them all, as HTML with every value escaped."""
    return Markup(_TEMPLATES.get_template("section.html").render(context, section=name))


def section(
    name: str, record: Record, rows: Rows = (), only: int | None = None, replay: bool = False, fault: str = ""
) -> Markup:
    """One of ``SECTIONS``; empty where there is nothing to show. rows, only, replay, fault: as in ``differences``."""
    shown = differences(record, rows, only, replay, fault) if name == "differences" else SECTIONS[name](record)
    return Markup() if shown is None else render(name, shown)


def body_html(record: Record, rows: Rows, only: int | None = None, replay: bool = False, fault: str = "") -> str:
    """The whole report as one piece of a page. only, replay, fault: as in ``differences``."""
    made = {name: section(name, record, rows, only, replay, fault) for name in SECTIONS}
    cards = (
        tag("section", html, class_="v-card v-answer" if name == "answer" else "v-card")
        for name, html in made.items()
        if html
    )
    return str(tag("div", *cards, class_="verdict"))


def page_html(record: Record, rows: Rows) -> str:
    """One HTML file that needs nothing else: no script, no font, no picture from elsewhere. Light and dark, phone and
    paper."""
    under = f"{record['examples']:,} examples, {len(record['sides'])} sides"
    under += f". Judged by: {title_of(record, metric)}" if (metric := record["main_metric"]) else ""
    context = {
        "headline": sections.headline(record),
        "name": str(record.get("name") or record.get("file") or "Verdict"),
        "under": under,
        "style": Markup(STYLE),
        "body": Markup(safe_html(body_html(record, rows))),
    }
    return f"{render('page', context)}\n"


def parted(record: Record, rows: Rows) -> tuple[list[list[Row]], list[list[Row]]]:
    """The examples whose sides have different figures on the main metric, and those whose sides have the same; each as
    its rows in the order of the sides, without examples that not every side has answered.

    Worst first, in both: 1. by the figure of the chosen side (of all sides' mean where none was chosen); 2. by how far
    the sides are apart; 3. by number."""
    metric, order = record["main_metric"], [side["side"] for side in record["sides"]]
    sign = 1 if metric is None or record["about"][metric]["higher_is_better"] else -1
    by_example: dict[int, dict[str, Row]] = {}
    for row in rows:
        by_example.setdefault(row["example"], {})[row["side"]] = row
    found = []
    for example, said in by_example.items():
        if set(order) <= said.keys():
            figures = {side: said[side]["metrics"].get(metric) for side in order}
            known = {side: sign * figure for side, figure in figures.items() if figure is not None}
            spread = max(known.values(), default=0.0) - min(known.values(), default=0.0)
            worst = known.get(record["chosen_side"], fmean(known.values()) if known else 0.0)
            found.append(((worst, -spread, example), [said[side] for side in order]))
    found.sort(key=lambda one: one[0])
    apart, alike = (
        [answers for (_, spread, _), answers in found if (spread < -1e-9) is differ] for differ in (True, False)
    )
    return apart, alike


FAULTS = {"wrong fact": ("content", 0.0), "wrong form": ("format", 0.0), "reply cut off": ("cut_off", 1.0)}
"""What can be wrong with a reply -> the metric that says so, and the value that does."""


def faults_of(row: Row) -> list[str]:
    return [name for name, (metric, value) in FAULTS.items() if row["metrics"].get(metric) == value]


def differences(
    record: Record, rows: Rows = (), only: int | None = None, replay: bool = False, fault: str = ""
) -> Context:
    """Where the sides differ, worst first, at most ``only`` examples; then, folded, those where they do not, as many
    again. replay: each reply that its stamp can repeat gets a button whose ``data-id`` is ``example|place of its
    side``. fault: one of ``FAULTS``: only examples on which some side has it."""
    if fault:
        having = {row["example"] for row in rows if fault in faults_of(row)}
        rows = [row for row in rows if row["example"] in having]
    found, same = parted(record, rows)
    sides = {side.name: (place, side) for place, side in enumerate(sides_of(record))}
    among = f" among those with a {fault}" if fault else ""
    title, text = "Where the sides differ", f"They do not: every example{among} has the same figure on every side."
    if record["main_metric"] is None:
        found = []

    def left_out(examples: int) -> str:
        return f" The first {only} are shown; all are in the files." if only is not None and only < examples else ""

    def shown(examples: Sequence[list[Row]]) -> list[Context]:
        return [_example(record, answers, sides, replay) for answers in examples[:only]]

    if found:
        worst = f"worst first for {record['chosen_side']}" if record["chosen_side"] else "worst first"
        text = f"Told apart by: {title_of(record, record['main_metric'])}. "
        text += f"They differ on {len(found)} of {record['examples']} examples{among}, {worst}."
        text += f"{left_out(len(found))} {READ}"
        title = f"Where the sides differ, worst first ({len(found)})"
    return {
        "title": title,
        "text": text,
        "apart": shown(found),
        "alike": shown(same),
        "alike_title": f"Where they have the same figure ({len(same)})",
        "alike_left": left_out(len(same)).strip(),
    }


def _example(record: Record, answers: Sequence[Row], sides: Mapping[str, tuple[int, Seen]], replay: bool) -> Context:
    question = str(answers[0]["question"])
    brief = question if len(question) <= 110 else question[:110].rsplit(" ", 1)[0] + " …"
    rows = [_reply(record, row, *sides[row["side"]], replay) for row in answers]
    return {"first": answers[0], "question": question, "brief": brief, "rows": rows}


def _reply(record: Record, row: Row, place: int, side: Seen, replay: bool) -> Context:
    metric, stamp = record["main_metric"], row.get("stamp") or {}
    value, yes_no = row["metrics"].get(metric), kind_of(record, metric) == "yes-no"
    words = "not measured" if value is None else figure(record, metric, value)
    if value is not None and yes_no:
        words = "✓ holds" if value else f"✗ {', '.join(faults_of(row)) or 'fails'}"
    return {
        "side": side,
        "said": {"prompt_tokens": 0, "completion_tokens": 0, "prompt": "", "passages": (), "repeats": (), **row},
        "figure": words,
        "passes": bool(value) if value is not None and yes_no else None,
        "diff": word_diff(str(row["reply"]), str(row["reference"])),
        "replay": f"{row['example']}|{place}" if replay and stamp and "replay" not in stamp else "",
        "stamp": stamp,
    }


def word_diff(reply: str, reference: str) -> list[Piece]:
    """The reply in pieces: ``del`` is what the reference does not have, ``ins`` what the reply lacks.

    A word or two in common between two changes belongs to the change: texts that say different things share an "a" and
    a comma here and there."""
    if not reply.strip():
        return [("ins", reference)] if reference else []
    said, wanted = _TOKEN.findall(reply.strip()), _TOKEN.findall(reference.strip())
    if len(said) + len(wanted) > MOST_TOKENS:
        return [("same", reply)]
    steps = difflib.SequenceMatcher(None, said, wanted, autojunk=False).get_opcodes()
    runs: list[tuple[bool, str, str]] = []  # whether both are the same, text of the reply, of the reference
    for place, (how, a, b, c, d) in enumerate(steps):
        words = sum(token[0].isalnum() for token in said[a:b])
        same = how == "equal" and (words > CRUMB or place in (0, len(steps) - 1))
        mine, theirs = "".join(said[a:b]), "".join(wanted[c:d])
        if runs and not same and not runs[-1][0]:
            _, before, wanted_before = runs.pop()
            mine, theirs = before + mine, wanted_before + theirs
        runs.append((same, mine, theirs))
    parts: list[Piece] = []
    for same, mine, theirs in runs:
        parts += [("same", mine)] if same else [("del", mine), ("ins", theirs)]
    return [(how, text) for how, text in parts if text]


def rows_csv(rows: Rows) -> str:
    """One line an example and side, to be saved as UTF-8: texts, tokens, seconds, then every metric."""
    metrics = dict.fromkeys(name for row in rows for name in row["metrics"] if name not in _NUMBERS)
    columns = [*_TEXTS, *_NUMBERS, *metrics]
    return csv_of([columns, *([{**row["metrics"], **row}.get(name) for name in columns] for row in rows)])


SECTIONS: dict[str, Callable[[Record], Context | None]] = {
    "answer": sections.answer,
    "table": sections.table,
    "fields": sections.fields,
    "radar": sections.overview,
    "metrics": sections.metrics,
    "differences": differences,
    "cost": sections.cost,
    "forgetting": sections.forgetting,
    "refusals": sections.refusals,
    "measured": sections.measured,
}
"""Name -> what it shows, in the order of the report."""
