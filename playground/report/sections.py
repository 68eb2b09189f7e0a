"""What each section of a report shows: a record -> the values that its template takes. No HTML is made here."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from playground.evaluation.comparison import (
    TUNED,
    WORDS,
    cost_link,
    fact_link,
    p_words,
    pair_link,
    side_link,
)
from playground.evaluation.cost import Prices
from playground.report.charts import line_and_dot, radar
from playground.report.cost import pays_after
from playground.report.format import (
    HUNDREDS,
    UNBOUNDED,
    Record,
    Seen,
    a_thousand,
    amount,
    figure,
    interval,
    kind_of,
    metrics_of,
    scale_of,
    seconds,
    sides_of,
    signed,
    title_of,
)

Context = dict[str, Any]
TIMINGS = {
    "answers_s": "answers",
    "repeats_s": "repeats",
    "timing_s": "answers one by one",
    "losses_s": "loss of the references",
    "forgetting_s": "what was forgotten",
    "refusals_s": "unanswerable questions",
}
METHODS = (
    "Shares have Wilson's interval (1927), their differences Newcombe's for pairs (1998, method 10) and the exact "
    "McNemar test (1947). All other figures have the bootstrap interval BCa (Efron 1987; the percentile one where that "
    "is not defined) and a sign-flip permutation test (Noreen 1989). p-values are adjusted over all pairs of a metric "
    "(Holm 1979); a difference counts from 0.05 down. BLEU: Papineni et al. 2002; chrF: "
    "Popović 2015; ROUGE-L: Lin 2004; F1 of words: Rajpurkar et al. 2016."
)
IN_TABLE = ("prompt_tokens", "seconds")
"""Beside the main metric, what the first table holds; the ids of these figures are there."""
MOST_AXES = 10
NO_BREAK = "\u00a0"
_ENDED = {"STOPPED": "was stopped early", "FAILED": "failed before its end"}


def answer(record: Record) -> Context:
    """The answer in a few words, one sentence of what it rests on, and every reason with the link to its figure."""
    state, second = record.get("state", "DONE"), record["runner_up"]
    incomplete = f"This verdict is not complete: it {_ENDED.get(state, 'has not ended')}, and rests on the "
    incomplete += f"{record['examples']} examples that every side had answered."
    return {
        "headline": headline(record),
        "sentence": str(record["reason"]).removeprefix(f"{WORDS[record['choice']]}: ").strip(),
        "after": f"Next best: {_lower(WORDS[second])}." if second in WORDS else "",
        "state": "" if state == "DONE" else incomplete,
        "reasons": [(reason["link"], _number(record, reason), reason["text"]) for reason in record["reasons"]],
    }


def headline(record: Record) -> str:
    """``Fine-tune.``, ``Keep the prompt.``, ``Too few examples to tell; about 60 would do.``"""
    rows = record["rows_needed"]
    if record["choice"] == "not-enough-evidence" and rows:
        return f"Too few examples to tell; {'at least' if record['rule'] == 1 else 'about'} {rows:,} would do."
    return f"{WORDS[record['choice']]}."


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
        if isinstance(value, float) and value < 1:
            return f"{100 * value:.0f} %"
        return f"{value:,} examples" if value is not None else "The data"
    words = {"changes": "The task changes", "volume": "Your volume", "latency_s": "Your limit"}
    return words.get(link.removeprefix("question|"), "Your budget")


def _paid(record: Record, tuned: str, value: float | None) -> str:
    if value is None:
        return "Never paid back"
    prices = Prices(**record["prices"])
    if value in [pays_after(record, tuned, side["side"]) for side in record["sides"] if side["kind"] not in TUNED]:
        return f"Pays after {value:,.0f} requests" + " at example prices" * prices.made_up
    return f"{amount(value, prices.unit)} a year"


def table(record: Record) -> Context:
    """Every side's main metric as line and dot, its tokens, seconds and cost a thousand requests."""
    metric, sides = record["main_metric"], sides_of(record)
    if metric is None:
        return {"columns": []}
    scale = scale_of(record, metric)
    columns = [
        (f"{title_of(record, metric)}, {record['examples']} examples", ""),
        (f"{figure(record, metric, scale[0])} to {figure(record, metric, scale[1])}, with 95 % interval", "pic"),
        ("Share" if kind_of(record, metric) == "yes-no" else "Figure", "n"),
        *((name, "n opt") for name in ("Interval", "Tokens in", "Seconds", "1,000 requests")),
    ]
    rows = []
    for side in sides:
        one = side.said["metrics"].get(metric, {"value": None, "low": None, "high": None})
        words, span, picture = _measured_words(record, metric, one, side)
        rows.append(
            {
                "side": side,
                "chosen": side.name == record.get("chosen_side"),
                "picture": picture,
                "words": words,
                "span": span,
                "tokens": f"{side.said['prompt_tokens_mean']:,.0f}",
                "seconds": figure(record, "seconds", side.said["seconds_mean"]),
                "cost": a_thousand(side, str(record["prices"]["currency"])),
                "link": side_link(side.name, metric),
                "tokens_link": side_link(side.name, "prompt_tokens") if metric != "prompt_tokens" else "",
                "seconds_link": side_link(side.name, "seconds") if metric != "seconds" else "",
            }
        )
    timed = any(side.said["seconds_mean"] is not None for side in sides)
    return {"columns": columns, "rows": rows, "untimed": "" if timed else " Replies were not timed."}


def _measured_words(
    record: Record, metric: str, one: Mapping[str, Any], side: Seen, who: str = ""
) -> tuple[str, str, str]:
    """A side's figure, its interval, and both as a picture."""
    words, span = figure(record, metric, one["value"]), interval(record, metric, one["low"], one["high"])
    scale, label = scale_of(record, metric), f"{who}{words}, 95 % interval {span}"
    return words, span, line_and_dot(one["value"], one["low"], one["high"], scale, side.colour, label)


def metrics(record: Record) -> Context:
    """Every metric: a picture of all sides, their figures with intervals, and folded the pairs."""
    return {"sides": sides_of(record), "metrics": [_metric(record, name) for name in metrics_of(record)]}


def _metric(record: Record, metric: str) -> Context:
    about, title, rows = record["about"][metric], title_of(record, metric), []
    linked = metric != record["main_metric"] and metric not in IN_TABLE
    for side in sides_of(record):
        if (one := side.said["metrics"].get(metric)) is not None:
            words, span, picture = _measured_words(record, metric, one, side, f"{side.name}: ")
            link = side_link(side.name, metric) if linked else ""
            rows.append({"side": side, "words": words, "span": span, "picture": picture, "link": link})
    words = str(about["words"])
    said = [words.split(": ", 1)[-1] if words.startswith(title) else words] if words != title else []
    text = "; ".join(part for part in (*said, "" if about["higher_is_better"] else "lower is better") if part)
    pairs = [pair for pair in record["pairs"] if pair["metric"] == metric]
    shown = sum(bool(pair["enough"]) for pair in pairs)
    return {
        "title": title,
        "decides": metric == record["main_metric"],
        "words": f"{text[:1].upper()}{text[1:]}." if text else "",
        "rows": rows,
        "pairs": [_pair(record, metric, pair) for pair in pairs],
        "pairs_title": f"{len(pairs)} pair{'s' * (len(pairs) != 1)}, {shown or 'none'} with more than chance",
    }


def _pair(record: Record, metric: str, pair: Mapping[str, Any]) -> Context:
    sides = {side.name: side for side in sides_of(record)}
    enough = "Yes" if pair["enough"] else "No" if pair["difference"] else "No difference"
    if enough == "No" and pair["rows_needed"]:
        enough = f"No; about {pair['rows_needed']:,} examples would do"
    return {
        "a": sides[pair["a"]],
        "b": sides[pair["b"]],
        "link": pair_link(pair["a"], pair["b"], metric),
        "difference": signed(record, metric, pair["difference"]),
        "interval": " to ".join(signed(record, metric, pair[end]).removesuffix(" points") for end in ("low", "high")),
        "p": p_words(pair["p_adjusted"]),
        "enough": enough,
    }


def radar_axes(record: Record) -> list[str]:
    """The metrics that fit on one scale: more is better, 0 to 1, and every side has a figure."""

    def fits(metric: str) -> bool:
        found = [side["metrics"].get(metric, {}).get("value") for side in record["sides"]]
        return metric not in (*HUNDREDS, *UNBOUNDED) and all(value is not None and 0 <= value <= 1 for value in found)

    return [name for name in metrics_of(record) if record["about"][name]["higher_is_better"] and fits(name)][:MOST_AXES]


def overview(record: Record) -> Context:
    """The whole as a radar; no picture with fewer than three metrics that fit on one scale."""
    axes = radar_axes(record)
    sides = [
        (f"{side.letter} {side.name}", side.colour, [float(side.said["metrics"][axis]["value"]) for axis in axes])
        for side in sides_of(record)
    ]
    return {"picture": radar([title_of(record, axis) for axis in axes], sides)}


def forgetting(record: Record) -> Context:
    """General text and questions before and after, and how far a tuned model's predictions moved; no rows where it was
    not measured."""
    sides = {side.name: side for side in sides_of(record)}
    found = {name: one for name, one in (record.get("forgetting") or {}).items() if name in sides}
    rows = [
        {
            "side": sides[name],
            "loss": f"{one['loss_before']:.2f} → {one['loss_after']:.2f}",
            "right": f"{one['right_before']} → {one['right_after']} of {one['questions']}",
            "moved": f"{one['divergence']:.2f}" if one.get("divergence") is not None else "–",
        }
        for name, one in found.items()
    ]
    notes = [f"{name}: {one[key]}" for key in ("words", "no_divergence") for name, one in found.items() if one.get(key)]
    return {"rows": rows, "notes": notes}


def refusals(record: Record) -> Context:
    """Whether sides with documents say so when these do not hold the answer; no rows where there are none."""
    found = record.get("refusals") or {}
    rows = [
        (side, f"{one['refused']} of {one['asked']}", f"{100 * one['low']:.0f} to {100 * one['high']:.0f} %")
        for side in sides_of(record)
        if (one := found.get(side.name)) is not None
    ]
    return {"rows": rows}


def measured(record: Record) -> Context:
    """File, rows, sides, base, device, sampling, checks, and the statistics with their papers."""
    facts, device, created = record["facts"], record.get("device") or {}, record.get("created_s")
    when = (
        datetime.datetime.fromtimestamp(created).strftime("%d %b %Y, %H:%M").lstrip("0") if created else "not recorded"
    )
    temperature = record.get("temperature", 0.0)
    sampling = f"temperature {temperature:g}" if temperature else "greedy"
    trained = facts["rows_trained"]
    timings = ", ".join(
        f"{TIMINGS.get(name, name)} {seconds(value)}" for name, value in (record.get("timings") or {}).items()
    )
    precision = ", ".join(str(part) for part in (device.get("device"), device.get("dtype")) if part)
    rows = [
        ("When", when, ""),
        ("File", record.get("file", "not recorded"), ""),
        ("Its SHA-256", str(record.get("data_sha256", ""))[:16] or "not recorded", ""),
        ("Examples that every side answered", f"{record['examples']:,}", fact_link("examples")),
        ("Of these, trained on", f"{record['overlap']:,}", fact_link("overlap")),
        ("Rows learned from", "not known" if trained is None else f"{trained:,}", fact_link("rows_trained")),
        ("Rows of the file that are bad or repeated", f"{100 * facts['poor_share']:.0f} %", fact_link("poor_share")),
        ("Base", f"{record.get('base', 'not recorded')} {str(record.get('base_fingerprint', ''))[:8]}".strip(), ""),
        ("Device, precision", precision or "not recorded", ""),
        ("Replies", f"{sampling}, at most {record.get('max_tokens', '?')} tokens, seed {record.get('seed', '?')}", ""),
        ("Repeats", f"{record.get('repeats', 1)}", ""),
        ("Took", seconds(record.get("seconds")) + (f" ({timings})" if timings else ""), ""),
    ]
    about = record["about"]
    return {
        "rows": rows,
        "checks": [about[name]["words"] for name in record.get("checks") or () if name in about],
        "sides": [(side, _side_words(side), str(side.said.get("prompt") or "")) for side in sides_of(record)],
        "tried": str(record.get("tried") or ""),
        "methods": METHODS,
    }


def _side_words(side: Seen) -> str:
    said = side.said
    parts = [
        f"model {said.get('model', 'not recorded')}",
        f"SHA-256 {str(said.get('adapter_sha256'))[:16]}" if said.get("adapter_sha256") else "",
        f"{said.get('shots')} answered examples in every prompt" if said.get("shots") else "",
        f"passages of {said.get('documents')}" if said.get("documents") else "",
        f"trained in {seconds(said.get('training_s'))}" if said.get("training_s") else "",
    ]
    return ", ".join(part for part in parts if part)


def _lower(text: str) -> str:
    return re.sub(r"^\w", lambda first: first.group().lower(), text)
