"""A verdict as HTML: the answer first, then what it rests on. Pieces for a page, and one file that needs nothing else."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playground.evaluation.cost import Prices
from playground.evaluation.differences import differences_html, rows_csv
from playground.evaluation.questions import TUNED, WORDS
from playground.evaluation.report_cost import cost_html, pays_after, prices_html, questions_html
from playground.evaluation.report_metrics import metrics_html, radar_svg, table_html
from playground.evaluation.safe_html import safe_html
from playground.evaluation.shown import (
    Record,
    Rows,
    amount,
    element_id,
    esc,
    figure,
    heading,
    note,
    pairs_html,
    seconds,
    sides_of,
    signed,
    title_of,
)
from playground.evaluation.wording import cost_link, fact_link, p_words, pair_link, side_link

__all__ = [
    "STYLE",
    "answer_html",
    "body_html",
    "cost_html",
    "differences_html",
    "forgetting_html",
    "measured_html",
    "metrics_html",
    "page_html",
    "prices_html",
    "questions_html",
    "radar_svg",
    "reasons_html",
    "refusals_html",
    "rows_csv",
    "table_html",
]  # fmt: skip

STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
"""How the pieces look; the page that holds them gives the colours."""
FRAME = (Path(__file__).parent / "report_frame.css").read_text(encoding="utf-8")
"""What a page of its own needs beside that: colours for light and dark, type, paper."""
METHODS = (
    "Shares have Wilson's interval (1927), their differences Newcombe's for pairs (1998, method 10) and the exact McNemar test (1947). All other "
    "figures have the bootstrap interval BCa (Efron 1987; the percentile one where that is not defined) and a sign-flip permutation test "
    "(Noreen 1989). p-values are adjusted over all pairs of a metric (Holm 1979); a difference counts from 0.05 down. BLEU: Papineni et al. 2002; chrF: "
    "Popović 2015; ROUGE-L: Lin 2004; F1 of words: Rajpurkar et al. 2016."
)
NO_BREAK = "\u00a0"
TIMINGS = {
    "answers_s": "answers", "repeats_s": "repeats", "timing_s": "answers one by one", "losses_s": "loss of the references",
    "forgetting_s": "what was forgotten", "refusals_s": "unanswerable questions",
}  # fmt: skip


def answer_html(record: Record) -> str:
    """The answer in a few words, and one sentence of what it rests on."""
    sentence = str(record["reason"]).removeprefix(f"{WORDS[record['choice']]}: ").strip()
    second = record["runner_up"]
    after = f'<p class="v-note">Next best: {esc(_lower(WORDS[second]))}.</p>' if second in WORDS else ""
    if (state := record.get("state", "DONE")) != "DONE":
        how = "was stopped early" if state == "STOPPED" else "failed before its end" if state == "FAILED" else "has not ended"
        after += note(
            f"This verdict is not complete: it {how}, and rests on the {record['examples']} examples that every side had answered."
        )
    return f'<h2 class="v-headline">{esc(headline(record))}</h2><p class="v-lead">{esc(sentence)}</p>{after}'


def headline(record: Record) -> str:
    """``Fine-tune.``, ``Keep the prompt.``, ``Too few examples to tell; about 60 would do.``"""
    rows = record["rows_needed"]
    if record["choice"] == "not-enough-evidence" and rows:
        return f"Too few examples to tell; {'at least' if record['rule'] == 1 else 'about'} {rows:,} would do."
    return f"{WORDS[record['choice']]}."


def reasons_html(record: Record) -> str:
    """Every reason as a link to the figure it comes from."""
    items = "".join(
        f'<li><a href="#{element_id(reason["link"])}"><b>{esc(_number(record, reason))}</b><span>{esc(reason["text"])}</span></a></li>'
        for reason in record["reasons"]
    )
    return f'<ul class="v-reasons" aria-label="Why">{items}</ul>' if items else ""


def _number(record: Record, reason: Mapping[str, Any]) -> str:
    """A reason's figure in a few words."""
    link, value = reason["link"], reason["number"]
    for pair in record["pairs"]:
        if link == pair_link(pair["a"], pair["b"], pair["metric"]):
            size = signed(record, pair["metric"], abs(pair["difference"])).lstrip("+")
            return f"{size} apart, {p_words(pair['p_adjusted'])}".replace(" ", NO_BREAK).replace(f",{NO_BREAK}", ", ")
    for side in record["sides"]:
        for metric, one in side["metrics"].items():
            if link == side_link(side["side"], metric):
                return figure(record, metric, one["value"]) + (" s" if metric == "seconds" else "")
        if link == cost_link(side["side"]):
            return _paid(record, side["side"], value)
    if link.startswith("fact|"):
        return (
            f"{100 * value:.0f} %"
            if isinstance(value, float) and value < 1
            else f"{value:,} examples"
            if value is not None
            else "The data"
        )
    return {"question|changes": "The task changes", "question|volume": "Your volume", "question|latency_s": "Your limit"}.get(
        link, "Your budget"
    )


def _paid(record: Record, tuned: str, value: float | None) -> str:
    if value is None:
        return "Never paid back"
    prices = Prices(**record["prices"])
    paid = [pays_after(record, tuned, side["side"]) for side in record["sides"] if side["kind"] not in TUNED]
    if value in paid:
        return f"Pays after {value:,.0f} requests" + " at example prices" * prices.made_up
    return f"{amount(value, prices.unit)} a year"


def forgetting_html(record: Record) -> str:
    """General text and questions before and after, and how far a tuned model's predictions moved; empty where it was not measured."""
    found = record.get("forgetting") or {}
    shown = {side.name: side for side in sides_of(record)}
    rows = ""
    for name, one in found.items():
        if name not in shown:
            continue
        moved = f"{one['divergence']:.2f}" if one.get("divergence") is not None else "–"
        rows += (
            f'<tr><th scope="row">{shown[name].who}</th><td class="n">{one["loss_before"]:.2f} → {one["loss_after"]:.2f}</td>'
            f'<td class="n">{one["right_before"]:d} → {one["right_after"]:d} of {one["questions"]:d}</td><td class="n opt">{esc(moved)}</td></tr>'
        )
    if not rows:
        return ""
    head = "".join(f'<th scope="col"{c}>{t}</th>' for t, c in (
        ("Side", ""), ("Loss on general text", ' class="n"'), ("General questions right", ' class="n"'), ("Divergence", ' class="n opt"'),
    ))  # fmt: skip
    words = "".join(note(f"{name}: {one['words']}") for name, one in found.items() if one.get("words") and name in shown)
    why = "".join(
        note(f"{name}: {one['no_divergence']}") for name, one in found.items() if one.get("no_divergence") and name in shown
    )
    text = "The base before, the tuned model after, on the general text and questions that ship with the app. Loss and divergence in nats a token; lower is better."
    return (
        heading("What was forgotten", text)
        + f'<table class="v-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{words}{why}'
    )


def refusals_html(record: Record) -> str:
    """Whether sides with documents say so when these do not hold the answer; empty where there are none."""
    found, rows = record.get("refusals") or {}, ""
    for side in sides_of(record):
        if (one := found.get(side.name)) is not None:
            share = f"{100 * one['low']:.0f} to {100 * one['high']:.0f} %"
            rows += f'<tr><th scope="row">{side.who}</th><td class="n">{one["refused"]:d} of {one["asked"]:d}</td><td class="n">{esc(share)}</td></tr>'
    if not rows:
        return ""
    head = '<th scope="col">Side</th><th scope="col" class="n">Said that it does not know</th><th scope="col" class="n">Interval</th>'
    text = "Questions about made-up people and places, which ship with the app: no documents answer them, so a reply that does is made up too."
    return (
        heading("What the documents cannot answer", text)
        + f'<table class="v-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def measured_html(record: Record) -> str:
    """File, rows, sides, base, device, sampling, checks, and the statistics with their papers."""
    facts, device = record["facts"], record.get("device") or {}
    created = record.get("created_s")
    when = datetime.datetime.fromtimestamp(created).strftime("%d %b %Y, %H:%M").lstrip("0") if created else "not recorded"
    temperature = record.get("temperature", 0.0)
    sampling = "greedy" if not temperature else f"temperature {temperature:g}"
    rows = facts["rows_trained"]
    timings = ", ".join(f"{TIMINGS.get(name, name)} {seconds(value)}" for name, value in (record.get("timings") or {}).items())
    listed = [
        ("When", when, ""), ("File", record.get("file", "not recorded"), ""), ("Its SHA-256", str(record.get("data_sha256", ""))[:16] or "not recorded", ""),
        ("Examples that every side answered", f"{record['examples']:,}", fact_link("examples")),
        ("Of these, trained on", f"{record['overlap']:,}", fact_link("overlap")),
        ("Rows learned from", "not known" if rows is None else f"{rows:,}", fact_link("rows_trained")),
        ("Rows of the file that are bad or repeated", f"{100 * facts['poor_share']:.0f} %", fact_link("poor_share")),
        ("Base", f"{record.get('base', 'not recorded')} {str(record.get('base_fingerprint', ''))[:8]}".strip(), ""),
        ("Device, precision", ", ".join(str(part) for part in (device.get("device"), device.get("dtype")) if part) or "not recorded", ""),
        ("Replies", f"{sampling}, at most {record.get('max_tokens', '?')} tokens, seed {record.get('seed', '?')}", ""),
        ("Repeats", f"{record.get('repeats', 1)}", ""),
        ("Took", f"{seconds(record.get('seconds'))}{f' ({timings})' if timings else ''}", ""),
    ]  # fmt: skip
    checks = "".join(
        f"<li>{esc(record['about'][name]['words'])}</li>" for name in record.get("checks") or () if name in record["about"]
    )
    return (
        heading(
            "How it was measured",
            "Every side got the same examples and the same settings. Seconds are those of replies that were asked for one at a time.",
        )
        + pairs_html(listed)
        + (f'<h4>Checks</h4><ul class="v-list">{checks}</ul>' if checks else "")
        + f"<h4>The sides</h4>{_sides(record)}"
        + (f"<h4>How the prompt was found</h4>{note(str(record['tried']))}" if record.get("tried") else "")
        + f"<h4>Intervals and tests</h4>{note(METHODS)}"
    )


def _sides(record: Record) -> str:
    items = ""
    for side in sides_of(record):
        said = side.said
        parts = [f"model {said.get('model', 'not recorded')}"]
        if said.get("adapter_sha256"):
            parts.append(f"SHA-256 {str(said['adapter_sha256'])[:16]}")
        if said.get("shots"):
            parts.append(f"{said['shots']} answered examples in every prompt")
        if said.get("documents"):
            parts.append(f"passages of {said['documents']}")
        if said.get("training_s"):
            parts.append(f"trained in {seconds(said['training_s'])}")
        prompt = str(said.get("prompt") or "")
        fold = f"<details><summary>Its system prompt</summary><pre>{esc(prompt)}</pre></details>" if prompt else ""
        items += f"<li>{side.who} {esc(', '.join(parts))}.{fold}</li>"
    return f'<ul class="v-list v-sides">{items}</ul>'


def body_html(record: Record, rows: Rows, only: int | None = None, replay: bool = False) -> str:
    """The whole report as one piece of a page. only, replay: as in ``differences_html``."""
    sections = [
        table_html(record), radar_svg(record), metrics_html(record), differences_html(record, rows, only, replay), cost_html(record),
        forgetting_html(record), refusals_html(record), measured_html(record),
    ]  # fmt: skip
    cards = "".join(f'<section class="v-card">{section}</section>' for section in sections if section)
    return f'<div class="verdict"><section class="v-card v-answer">{answer_html(record)}{reasons_html(record)}</section>{cards}</div>'


def page_html(record: Record, rows: Rows) -> str:
    """One HTML file that needs nothing else: no script, no font, no picture from elsewhere. Light and dark, phone and paper."""
    name = str(record.get("name") or record.get("file") or "Verdict")
    metric = record["main_metric"]
    under = f"{record['examples']:,} examples, {len(record['sides'])} sides" + (
        f". Judged by: {title_of(record, metric)}" if metric else ""
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{esc(headline(record))} {esc(name)}</title><style>{FRAME}{STYLE}</style></head><body><main>"
        f'<header class="v-top"><p>Prompt or Tune, a measured verdict</p><h1>{esc(name)}</h1><p>{esc(under)}.</p></header>'
        f"{safe_html(body_html(record, rows))}</main></body></html>\n"
    )


def _lower(text: str) -> str:
    return re.sub(r"^\w", lambda first: first.group().lower(), text)
