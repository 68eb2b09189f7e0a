"""What each section of a report shows: a record -> the values that its template takes, None where it has nothing to
show."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from markupsafe import Markup

from playground.evaluation.comparison import TIMED, link, overlap_words, p_words
from playground.evaluation.cost import CHANGES_A_YEAR, Prices, break_even
from playground.evaluation.criterion import FIELD
from playground.evaluation.decision import GUARDS, LADDER, WORDS
from playground.evaluation.verdict import VOLUME
from playground.report import format as shown
from playground.report.charts import Line, curves, line_and_dot, radar, tag
from playground.report.format import Record, Seen, amount, figure, seconds, sides_of, signed, title_of

Context = dict[str, Any]
TIMINGS = {
    "answers_s": "answers",
    "repeats_s": "repeats",
    "timing_s": "answers one by one",
    "losses_s": "loss of the references",
    "forgetting_s": "what was forgotten",
    "refusals_s": "unanswerable questions",
    "judging_s": "the judge",
}
NOTES = ("words", "no_divergence")
"""What is said of each model's forgetting."""
IN_TABLE = ("prompt_tokens", "seconds")
"""Beside the main metric, what the first table holds; the ids of these figures are there."""
MOST_AXES = 12
COSTS = {
    "requests": "Requests",
    "training": "Training",
    "labels": "Labels",
    "retraining": "Training again",
    "relabelling": "Labels again",
    "hosting": "Hosting",
    "revisions": "Prompt revisions",
}
"""What a year's cost is made of -> its name in the table."""
OF_TRAINING = ("training", "labels", "retraining", "relabelling")
PARTS = {"format": "Form", "content": "Content", "cut_off": "Cut off"}
"""Metrics that the first table shows beside the one that decides."""
_ENDED = {"STOPPED": "was stopped early", "FAILED": "failed before its end"}


def answer(record: Record) -> Context:
    """The answer in a few words, one sentence of what it rests on, and every reason with the link to its figure."""
    state, second = record.get("state", "DONE"), WORDS.get(record["runner_up"], "")
    incomplete = f"This verdict is not complete: it {_ENDED.get(state, 'has not ended')}, and rests on the "
    incomplete += f"{record['examples']} examples that every side had answered."
    return {
        "headline": headline(record),
        "sentence": str(record["reason"]).removeprefix(f"{WORDS[record['choice']]}: ").strip(),
        "after": f"Next best: {second[:1].lower()}{second[1:]}." if second else "",
        "state": "" if state == "DONE" else incomplete,
        "reasons": [(reason["link"], _number(record, reason["link"]), reason["text"]) for reason in record["reasons"]],
    }


def headline(record: Record) -> str:
    """``Fine-tune.``, ``Keep the prompt.``, ``Not enough evidence; about 60 rows would tell.``"""
    rows = record["rows_needed"]
    if record["choice"] == "not-enough-evidence" and rows:
        return f"Not enough evidence; about {rows:,} rows would tell."
    return f"{WORDS[record['choice']]}."


def _number(record: Record, where: str) -> str:
    """A reason's figure in a few words, by its link."""
    for side in record["sides"]:
        for metric, one in side["metrics"].items():
            if where == link("side", side["side"], metric):
                return figure(record, metric, one["value"])
    return GUARDS.get(where.removeprefix("fact|"), "Your volume" if where.startswith("question|") else "The data")


def table(record: Record) -> Context:
    """The sides along the ladder: the main metric as line and dot, with the bar as a line and the margin as a band;
    form and content apart; tokens, seconds and cost a thousand requests."""
    metric = record["main_metric"]
    if metric is None:
        return {"rows": ()}
    sides = sorted(sides_of(record), key=lambda side: LADDER.index(side.said["kind"]))
    cut_off = any(side.said["metrics"].get("cut_off", {}).get("value") for side in sides)
    parts = [name for name in PARTS if name in record["about"] and (name != "cut_off" or cut_off)]
    ends = " to ".join(figure(record, metric, end) for end in shown.scale_of(record, metric))
    columns = [
        (f"{title_of(record, metric)}, {record['examples']} examples", ""),
        (f"{ends}, with 95 % interval", "pic"),
        ("Share" if shown.kind_of(record, metric) == "yes-no" else "Figure", "n"),
        ("Interval", "n opt"),
        *((PARTS[name], "n") for name in parts),
        *((name, "n opt") for name in ("Tokens in", "Seconds", f"1,000 requests{_priced(record)}")),
    ]
    rows = []
    for side in sides:
        words, span, picture = _measured_words(record, metric, side)
        tokens, lasted = f"{side.said['prompt_tokens_mean']:,.0f}", figure(record, "seconds", side.said["seconds_mean"])
        drawn = f"; {apart}" if (apart := shown.draws_words(side.said)) else ""
        cells = [(picture, ""), (tag("b", words), link("side", side.name, metric)), (f"{span}{drawn}", "")]
        cells += [(figure(record, name, side.said["metrics"].get(name, {}).get("value")), "") for name in parts]
        for name, text in (("prompt_tokens", tokens), ("seconds", lasted)):
            cells.append((text, link("side", side.name, name) if name != metric else ""))
        cells.append((_a_thousand(side, str(record["prices"]["currency"])), ""))
        rows.append((side, "", side.name == record.get("chosen_side"), cells))
    note = "The dot is what was measured; the line is where the true figure lies in 95 cases of 100."
    notes = [f"{note}{_timing_words(record)} {_bar_words(record)}".strip()]
    return {"caption": "Every side by its main metric", "columns": columns, "rows": rows, "notes": notes}


def _priced(record: Record) -> str:
    """What stands beside every amount that rests on the app's own prices."""
    return ", example prices" if Prices(**record["prices"]).made_up else ""


def _timing_words(record: Record) -> str:
    timed = [side["metrics"]["seconds"]["n"] for side in record["sides"] if "seconds" in side["metrics"]]
    if not timed:
        return " Replies were not timed."
    few = f" Not timed well enough: {min(timed)} of a side's replies, {TIMED} are needed for a limit of seconds."
    return few if min(timed) < TIMED else ""


def _bar_words(record: Record) -> str:
    """What the dashed line and the band say; "" for a record of a time without a bar."""
    if not record["ladder"]:
        return ""
    bar, floor = 100 * record["bar"], 100 * (record["bar"] - record["margin"])
    return (
        f"The dashed line is your bar, {bar:g} %; the band below it your margin. A side is good enough where its share "
        f"is at the bar and the exact lower bound of it, which counts every rung asked, at {floor:g} % or above."
    )


def fields(record: Record) -> Context | None:
    """How often each field is right, side by side; None where the criterion does not go field by field."""
    names = [name for name in record["about"] if name.startswith(FIELD)]
    if not names:
        return None
    sides = sides_of(record)
    rows = []
    for name in names:
        values = [figure(record, name, side.said["metrics"].get(name, {}).get("value")) for side in sides]
        rows.append((name.removeprefix(FIELD), values))
    return {"sides": sides, "rows": rows}


def _measured_words(record: Record, metric: str, side: Seen, who: str = "") -> tuple[str, str, str]:
    one = side.said["metrics"].get(metric, {"value": None, "low": None, "high": None})
    words, span = figure(record, metric, one["value"]), shown.interval(record, metric, one["low"], one["high"])
    scale, label = shown.scale_of(record, metric), f"{who}{words}, 95 % interval {span}"
    judged = bool(record["ladder"]) and metric == record["main_metric"]
    band = (record["bar"] - record["margin"], record["bar"]) if judged else None
    return words, span, line_and_dot(one["value"], one["low"], one["high"], scale, side.colour, label, band)


def metrics(record: Record) -> Context:
    """Every metric: a picture of all sides, their figures with intervals, and folded the pairs."""
    return {"sides": sides_of(record), "metrics": [_metric(record, name) for name in shown.metrics_of(record)]}


def _metric(record: Record, metric: str) -> Context:
    about, title, rows = record["about"][metric], title_of(record, metric), []
    linked = metric != record["main_metric"] and metric not in IN_TABLE
    sides = {side.name: side for side in sides_of(record)}
    for side in sides.values():
        if metric in side.said["metrics"]:
            place = link("side", side.name, metric) if linked else ""
            rows.append((side, place, *_measured_words(record, metric, side, f"{side.name}: ")))
    words = str(about["words"])
    said = [words.split(": ", 1)[-1] if words.startswith(title) else words] if words != title else []
    text = "; ".join(part for part in (*said, "" if about["higher_is_better"] else "lower is better") if part)
    pairs = [pair for pair in record["pairs"] if pair["metric"] == metric]
    enough = sum(bool(pair["enough"]) for pair in pairs)
    return {
        "title": title,
        "decides": metric == record["main_metric"],
        "words": f"{text[:1].upper()}{text[1:]}." if text else "",
        "rows": rows,
        "pairs": [_pair(record, metric, pair, sides) for pair in pairs],
        "pairs_title": f"{len(pairs)} pair{'s' * (len(pairs) != 1)}, {enough or 'none'} with more than chance",
    }


def _pair(record: Record, metric: str, pair: Mapping[str, Any], sides: Mapping[str, Seen]) -> Context:
    enough = "Yes" if pair["enough"] else "No" if pair["difference"] else "No difference"
    ends = (signed(record, metric, pair[end]).removesuffix(" points") for end in ("low", "high"))
    cells = [(signed(record, metric, pair["difference"]), "n"), (" to ".join(ends), "n")]
    cells += [(p_words(pair["p_adjusted"]), "n"), (enough, "")]
    place = link("pair", pair["a"], pair["b"], metric)
    return {"a": sides[pair["a"]], "b": sides[pair["b"]], "link": place, "cells": cells}


def radar_axes(record: Record) -> list[str]:
    """The metrics that fit on one scale: more is better, 0 to 1, and every side has a figure."""

    def fits(metric: str) -> bool:
        found = [side["metrics"].get(metric, {}).get("value") for side in record["sides"]]
        if metric in (*shown.HUNDREDS, *shown.UNBOUNDED) or metric.startswith(FIELD):
            return False
        return record["about"][metric]["higher_is_better"] and all(x is not None and 0 <= x <= 1 for x in found)

    return list(filter(fits, shown.metrics_of(record)))[:MOST_AXES]


def overview(record: Record) -> Context | None:
    """The whole as a radar; None with fewer than three metrics that fit on one scale."""
    axes = radar_axes(record)
    values = [
        (f"{side.letter} {side.name}", side.colour, [float(side.said["metrics"][axis]["value"]) for axis in axes])
        for side in sides_of(record)
    ]
    picture = radar([title_of(record, axis) for axis in axes], values)
    return {"picture": picture} if picture else None


def cost(record: Record) -> Context:
    """Costs of every side, the curve over requests with its break-even points, prompt lengths, the answers given, the
    prices."""
    prices, sides = Prices(**record["prices"]), sides_of(record)
    year, times = 12 * (record["questions"]["volume"] or VOLUME), CHANGES_A_YEAR[record["questions"]["changes"]]
    tuned, untuned = ([side for side in sides if side.is_tuned is which] for which in (True, False))
    there = {"training"} | ({"labels"} if prices.label_each else set()).union(
        *(side.said["cost"]["items"] for side in sides)
    )
    named = [name for name in COSTS if name in there]
    priced = _priced(record)
    columns = [("Side", ""), (f"1,000 requests{priced}", "n"), *((COSTS[name], "n opt") for name in named)]
    cached = ", ".join(f"{side.name} {side.said.get('cached_tokens_mean', 0):,.0f}" for side in sides)
    notes = [
        f"Changes of the task: {times} a year, each with a training and its labels, or with a revised prompt."
        * bool(times),
        f"Tokens that every request of a side repeats, at the price of cached ones: {cached}."
        * (prices.cached_per_million is not None and prices.device_per_hour is None),
    ]
    return {
        "columns": [*columns, (f"A year, {year:,} requests{priced}", "n")],
        "rows": [(side, link("cost", side.name), False, _cost_cells(prices, side, named)) for side in sides],
        "notes": [text for text in notes if text],
        "paid_back": [(one, other, _paid_back(prices, one, other)) for one in tuned for other in untuned],
        "curve": _curve(record, prices, sides),
        "lengths": record.get("prompt_length"),
        "lengths_picture": _lengths(record, prices.unit, sides),
        "questions": {"forgets": None, **record["questions"]},
        "made_up": prices.made_up,
        "prices": asdict(prices),
    }


def _a_thousand(side: Seen, currency: str) -> str:
    cost = side.per_request
    return "not timed" if cost is None else amount(1000 * cost, currency)


def _beside(side: Seen) -> float:
    """What a year costs beside its requests."""
    return float(sum(amount for name, amount in side.said["cost"]["items"].items() if name != "requests"))


def _pays_after(tuned: Seen, untuned: Seen) -> int | None:
    """Requests of a year from which a tuned side, its training included, is no dearer than an untuned one. None =
    never, or not known."""
    dear, cheap = untuned.per_request, tuned.per_request
    if dear is None or cheap is None:
        return None
    return break_even(dear, cheap, _beside(tuned) - _beside(untuned))


def _cost_cells(prices: Prices, side: Seen, named: Sequence[str]) -> list[tuple[object, str]]:
    items, known = side.said["cost"]["items"], side.said["cost"]["known"]
    absent = dict.fromkeys(OF_TRAINING, "none" if known else "not known") | {"requests": "not timed"}
    cells = [amount(items[name], prices.currency) if name in items else absent.get(name, "none") for name in named]
    total = amount(sum(items.values()), prices.currency) + " and its training" * (not known)
    return [
        (text, "")
        for text in (_a_thousand(side, prices.currency), *cells, total if "requests" in items else "not timed")
    ]


def _paid_back(prices: Prices, tuned: Seen, untuned: Seen) -> str:
    dear, cheap, at = untuned.per_request, tuned.per_request, ", at example prices" * prices.made_up
    if dear is None or cheap is None:
        return "not known, since not both were timed."
    if not tuned.said["cost"]["known"]:
        return "not known, since there is no record of what its training cost."
    requests, more = _pays_after(tuned, untuned), _beside(tuned) - _beside(untuned)
    if requests is None and more < 0:
        return f"cheaper up to {math.floor(-more / (cheap - dear)):,} requests a year{at}."
    if requests is None:
        return f"its training is never paid back, since an answer costs no less{at}."
    if not requests:
        return f"cheaper from the first request on{at}."
    return f"paid back after {requests:,} request{'s' * (requests != 1)}{at}."


def _curve(record: Record, prices: Prices, sides: Sequence[Seen]) -> str:
    points, drawn = record["cost_curve"], []
    for side in sides:
        marks = []
        for other in sides if side.is_tuned else ():
            if not other.is_tuned and (requests := _pays_after(side, other)):
                marks.append((float(requests), _beside(side) + requests * (side.per_request or 0.0)))
        totals = [
            (float(point["at"]), float(point["totals"][side.name])) for point in points if side.name in point["totals"]
        ]
        drawn += [Line(f"{side.letter} {side.name}", totals, side.colour, marks)] if totals else []
    volume = "your volume" if record["questions"]["volume"] else "10,000 requests a month, since no volume was given"
    caption = f"Total cost in {prices.unit}, all of the table included: a year at {volume}. "
    caption += "A ring marks where training is paid back."
    unknown = [side.name for side in sides if not side.said["cost"]["known"]]
    caption += f" What training {', '.join(unknown)} cost is not known, and not in it." if unknown else ""
    return curves(drawn, "requests", _tick, caption)


def _lengths(record: Record, currency: str, sides: Sequence[Seen]) -> str:
    """The curve over prompt lengths; empty where nothing was trained."""
    if not (found := record.get("prompt_length")):
        return ""
    colours = {side.name: side.colour for side in sides}
    drawn = [
        Line(label, [(float(point["at"]), 1000 * float(point["totals"][name])) for point in found["points"]], colour)
        for name, label, colour in (
            ("prompt", f"{found['untuned']}, told at every request", colours.get(found["untuned"], "a")),
            ("fine-tune", f"{found['tuned']}, trained once", colours.get(found["tuned"], "b")),
        )
    ]
    caption = f"Cost of 1,000 requests in {currency}, by the tokens of instructions "
    return curves(drawn, "tokens", _tick, f"{caption}(prompt, examples, passages) that each one carries.")


def _tick(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"


def forgetting(record: Record) -> Context | None:
    """Loss on general text and questions answered rightly, before and after; of several training seeds the mean, and
    from which to which they go. None where it was not measured."""
    found, rows, notes = record.get("forgetting") or {}, [], []
    for side in sides_of(record):
        draws = [draw["side"] for draw in side.said.get("draws") or ()] or [side.name]
        if not (ones := [found[name] for name in draws if name in found]):
            continue
        one, moved = ones[0], [known["divergence"] for known in ones if known.get("divergence") is not None]
        after, right = [known["loss_after"] for known in ones], [known["right_after"] for known in ones]
        ends = (_ends(one.get("harder"), "+.2f"), _ends([-lost for lost in one.get("lost") or ()], "+.0f", " points"))
        if len(ones) > 1:
            ends = _ends(after, ".2f", " by seed"), _ends(right, ".0f", " by seed")
        cells = (
            Markup("{}{}").format(f"{one['loss_before']:.2f} → {fmean(after):.2f}", ends[0]),
            Markup("{}{}").format(f"{one['right_before']} → {fmean(right):.3g} of {one['questions']}", ends[1]),
            f"{fmean(moved):.2f}" if moved else "–",
        )
        rows.append((side, "", False, [(text, "") for text in cells]))
        notes += [f"{name}: {found[name][key]}" for key in NOTES for name in draws if found.get(name, {}).get(key)]
    if (most := record["questions"].get("forgets")) is not None:
        notes.append(f"Your limit: {most:g} points of the questions lost at most, by the worse end of the interval.")
    return {"rows": rows, "notes": notes} if rows else None


def _ends(found: Sequence[float] | None, form: str, unit: str = "") -> Markup:
    """From the lowest to the highest of a figure, or the 95 % interval of a change, where it was kept."""
    low, high = (min(found), max(found)) if found else (0.0, 0.0)
    return tag("small", f"{low:{form}} to {high:{form}}{unit}") if found else Markup()


def refusals(record: Record) -> Context | None:
    """Whether sides with documents say so when these do not hold the answer; None where there are none."""
    rows = []
    for side in sides_of(record):
        if (one := (record.get("refusals") or {}).get(side.name)) is not None:
            share = f"{100 * one['low']:.0f} to {100 * one['high']:.0f} %"
            rows.append((side, "", False, [(f"{one['refused']} of {one['asked']}", ""), (share, "")]))
    return {"rows": rows} if rows else None


def measured(record: Record) -> Context:
    device, created, about = record.get("device") or {}, record.get("created_s"), record["about"]
    timings = (f"{TIMINGS.get(name, name)} {seconds(took)}" for name, took in (record.get("timings") or {}).items())
    when = datetime.datetime.fromtimestamp(created or 0).strftime("%d %b %Y, %H:%M").lstrip("0")
    said: dict[str, list[str]] = {"limit": list(record["left_out"])} if record["left_out"] else {}
    for guard in record["guards"]:
        said.setdefault(guard["name"], []).append(guard["sentence"])
    return {
        "record": record,
        "leaks": [
            (f"Of these, known to {side}", overlap_words(found), link("fact", "overlap"))
            for side, found in record["facts"].get("overlaps", {}).items()
        ],
        "guards": [(GUARDS[name], "; ".join(texts), link("fact", name)) for name, texts in said.items()],
        "when": when if created else "not recorded",
        "precision": ", ".join(str(device[name]) for name in ("engine", "device", "dtype") if device.get(name)),
        "took": seconds(record.get("seconds")),
        "spent": record.get("spent") or {},
        "timings": ", ".join(timings),
        "checks": [about[name]["words"] for name in record.get("checks") or () if name in about],
        "sides": [(side, _side_words(side), str(side.said.get("prompt") or "")) for side in sides_of(record)],
    }


def _side_words(side: Seen) -> str:
    said, server, file = side.said, side.said.get("endpoint"), side.said.get("recorded")
    other = str(side.said.get("base_fingerprint") or "")
    parts = [
        f"model {said.get('model', 'not recorded')}",
        f"{server['model']} at {server['host']}" if server else "",
        _recorded_words(file) if file else "",
        f"another base, {other[:8]}, whose loss and forgetting are left out" if other else "",
        f"SHA-256 {str(said.get('adapter_sha256'))[:16]}" if said.get("adapter_sha256") else "",
        f"{said.get('shots')} answered examples in every prompt" if said.get("shots") else "",
        f"passages of {said.get('documents')}" if said.get("documents") else "",
        f"held to {str(said.get('format'))[:200]}" if said.get("format") else "",
        f"trained in {seconds(said.get('training_s'))}" if said.get("training_s") else "",
        shown.draws_words(said),
        f"intervals over {said['interval_over']}" if said.get("interval_over") else "",
    ]
    return ", ".join(part for part in parts if part)


def _recorded_words(file: Mapping[str, Any]) -> str:
    words = f"replies of {file['file']}, SHA-256 {file['sha256'][:16]}, asked nothing and not timed"
    words += ", tokens counted by this base where the file does not count them"
    return words + f", {file['several']} rows with several different replies, of which the first counts" * bool(
        file["several"]
    )
