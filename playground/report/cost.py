"""The money in a report: costs of a side, from how many requests and what prompt length training pays, prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from playground.evaluation.comparison import TUNED, cost_link, question_link
from playground.evaluation.cost import Prices, break_even, is_training_known
from playground.report.charts import Line, curves
from playground.report.format import Record, Seen, a_thousand, amount, sides_of

Context = dict[str, Any]
CHANGES = {"never": "never", "monthly": "about every month", "weekly": "about every week"}
PRICES = {
    "prompt_per_million": "a million tokens read",
    "completion_per_million": "a million tokens written",
    "tuned_prompt_per_million": "a million tokens read, tuned model",
    "tuned_completion_per_million": "a million tokens written, tuned model",
    "device_per_hour": "an hour of the device that answers",
    "training_per_hour": "an hour of the device that trains",
    "training": "one training, all told",
}


def cost(record: Record) -> Context:
    """Costs of every side, the curve over requests with its break-even points, prompt lengths, the answers given, the
    prices."""
    prices, sides = Prices(**record["prices"]), sides_of(record)
    year = 12 * (record["questions"]["volume"] or 10_000)
    basis = "By the tokens that are read and written"
    if prices.made_up:
        basis += ". The prices are made up: put in your own before you rely on an amount."
    elif prices.device_per_hour is not None:
        basis = "By the seconds an answer takes on the device, at the price of its hour."
    else:
        basis += ", at the prices below."
    tuned, untuned = ([side for side in sides if (side.said["kind"] in TUNED) is which] for which in (True, False))
    return {
        "basis": basis,
        "columns": [("Side", ""), ("1,000 requests", "n"), ("Training", "n"), (f"{year:,} requests", "n opt")],
        "rows": [_cost_row(record, side, prices.currency, year) for side in sides],
        "paid_back": [(one, other, _paid_back(record, one, other)) for one in tuned for other in untuned],
        "curve": _curve(record, prices.unit),
        "lengths": _lengths(record, prices.unit),
        "lengths_words": _lengths_words(record),
        "answers": _answers(record),
        "made_up": prices.made_up,
        "prices": [(f"Price of {words}", _price(record["prices"], name), "") for name, words in PRICES.items()],
    }


def _price(prices: Mapping[str, Any], name: str) -> str:
    if prices[name] is None:
        return "the same" if "tuned" in name else "not used"
    return f"{prices[name]:,g} {prices['currency']}"


def pays_after(record: Record, tuned: str, untuned: str) -> int | None:
    """Requests from which a tuned side, its training included, is no dearer than an untuned one. None = never, or not
    known."""
    costs = {side["side"]: side["cost"] for side in record["sides"]}
    if costs[untuned]["per_request"] is None or costs[tuned]["per_request"] is None:
        return None
    return break_even(costs[untuned]["per_request"], costs[tuned]["per_request"], costs[tuned]["once"])


def _cost_row(record: Record, side: Seen, currency: str, year: int) -> Context:
    spent, timed = side.said["cost"], _is_timed(side)
    training = amount(spent["once"], currency) if side.said["kind"] in TUNED else "none"
    total = amount(spent["once"] + year * spent["per_request"], currency) if timed else "not timed"
    if not _is_trained_known(record, side):
        training, total = "not known", f"{total} and its training" if timed else total
    thousand = a_thousand(side, currency)
    return {"side": side, "link": cost_link(side.name), "thousand": thousand, "training": training, "year": total}


def _is_timed(side: Seen) -> bool:
    """Whether the cost of an answer is known."""
    return side.said["cost"]["per_request"] is not None


def _is_trained_known(record: Record, side: Seen) -> bool:
    prices = record["prices"]
    known = is_training_known(side.said.get("training_s"), prices["training"], prices["training_per_hour"])
    return side.said["kind"] not in TUNED or known


def _paid_back(record: Record, tuned: Seen, untuned: Seen) -> str:
    if not (_is_timed(tuned) and _is_timed(untuned)):
        return "not known, since not both were timed."
    if not _is_trained_known(record, tuned):
        return "not known, since there is no record of what its training cost."
    requests = pays_after(record, tuned.name, untuned.name)
    if requests is None:
        return "its training is never paid back, since an answer costs no less."
    if not requests:
        return "cheaper from the first request on."
    return f"paid back after {requests:,} request{'s' * (requests != 1)}."


def _curve(record: Record, currency: str) -> str | None:
    points, sides = record["cost_curve"], sides_of(record)
    if not points:
        return None
    untuned = [side for side in sides if side.said["kind"] not in TUNED]
    drawn = []
    for side in sides:
        spent, marks = side.said["cost"], []
        for other in untuned if side.said["kind"] in TUNED else ():
            if requests := pays_after(record, side.name, other.name):
                marks.append((float(requests), spent["once"] + requests * spent["per_request"]))
        totals = [
            (float(point["at"]), float(point["totals"][side.name])) for point in points if side.name in point["totals"]
        ]
        drawn += [Line(f"{side.letter} {side.name}", totals, side.colour, marks)] if totals else []
    volume = "your volume" if record["questions"]["volume"] else "10,000 requests a month, since no volume was given"
    caption = (
        f"Total cost in {currency}, training included: a year at {volume}. A ring marks where training is paid back."
    )
    unknown = [side.name for side in sides if not _is_trained_known(record, side)]
    caption += f" What training {', '.join(unknown)} cost is not known, and not in it." if unknown else ""
    return curves(drawn, "requests", _tick, caption)


def _lengths(record: Record, currency: str) -> str | None:
    found = record.get("prompt_length")
    if not found:
        return None
    colours = {side.name: side.colour for side in sides_of(record)}
    drawn = [
        Line(label, [(float(point["at"]), 1000 * float(point["totals"][name])) for point in found["points"]], colour)
        for name, label, colour in (
            ("prompt", f"{found['untuned']}, told at every request", colours.get(found["untuned"], "a")),
            ("fine-tune", f"{found['tuned']}, trained once", colours.get(found["tuned"], "b")),
        )
    ]
    caption = f"Cost of 1,000 requests in {currency}, by the tokens of instructions "
    caption += "(prompt, examples, passages) that each one carries."
    return curves(drawn, "tokens", _tick, caption)


def _lengths_words(record: Record) -> str:
    if not (found := record.get("prompt_length")):
        return ""
    pays, at = found["pays_from"], f"At {found['requests']:,} requests,"
    if pays is None:
        return f"{at} no length of prompt makes fine-tuning the cheaper one."
    when = f"once the instructions are {pays:,} tokens long" if pays else "whatever the length of the prompt"
    return f"{at} fine-tuning costs no more {when}."


def _tick(value: float) -> str:
    """An amount beside an axis."""
    return f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"


def _answers(record: Record) -> list[tuple[str, str, str]]:
    """What was answered to the four questions."""
    said = record["questions"]

    def given(name: str, unit: str = "") -> str:
        return "not answered" if said[name] is None else f"{said[name]:,}{unit}"

    return [
        ("Requests a month", given("volume"), question_link("volume")),
        ("The task changes", CHANGES.get(said["changes"], said["changes"]), question_link("changes")),
        ("Longest wait for an answer", given("latency_s", " s"), question_link("latency_s")),
        ("Budget for training", given("budget", f" {record['prices']['currency']}"), question_link("budget")),
    ]
