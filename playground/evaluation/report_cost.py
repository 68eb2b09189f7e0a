"""The money in a report: what a side costs, from how many requests training pays, from what prompt length, at which prices."""

from __future__ import annotations

from playground.evaluation.cost import Prices, break_even, is_training_known
from playground.evaluation.pictures import Curve, curves
from playground.evaluation.questions import TUNED
from playground.evaluation.shown import Record, Seen, a_thousand, amount, element_id, esc, heading, note, pairs_html, sides_of
from playground.evaluation.wording import cost_link, question_link

CHANGES = {"never": "never", "monthly": "about every month", "weekly": "about every week"}
PRICES = {
    "prompt_per_million": "a million tokens read", "completion_per_million": "a million tokens written",
    "tuned_prompt_per_million": "a million tokens read, tuned model", "tuned_completion_per_million": "a million tokens written, tuned model",
    "device_per_hour": "an hour of the device that answers", "training_per_hour": "an hour of the device that trains",
    "training": "one training, all told",
}  # fmt: skip
EXAMPLES = "These prices are made-up examples to be edited, nobody's offer. Put in your own: the figures follow, and nothing is asked again."


def pays_after(record: Record, tuned: str, untuned: str) -> int | None:
    """Requests from which a tuned side, its training included, is no dearer than an untuned one. None = never, or not known."""
    costs = {side["side"]: side["cost"] for side in record["sides"]}
    if costs[untuned]["per_request"] is None or costs[tuned]["per_request"] is None:
        return None
    return break_even(costs[untuned]["per_request"], costs[tuned]["per_request"], costs[tuned]["once"])


def cost_html(record: Record) -> str:
    """Costs of every side, the curve over requests with its break-even points, prompt lengths, the answers given, the prices."""
    prices = Prices(**record["prices"])
    pictures = f'<div class="v-two">{_curve(record, prices.unit)}{_lengths(record, prices.unit)}</div>'
    return (
        heading("What it costs", _basis(record))
        + _table(record, prices.currency)
        + pictures
        + questions_html(record)
        + prices_html(record)
    )


def _basis(record: Record) -> str:
    if Prices(**record["prices"]).made_up:
        return "By the tokens that are read and written. The prices are made up: put in your own before you rely on an amount."
    if record["prices"]["device_per_hour"] is not None:
        return "By the seconds an answer takes on the device, at the price of its hour."
    return "By the tokens that are read and written, at the prices below."


def _table(record: Record, currency: str) -> str:
    volume = record["questions"]["volume"]
    year = 12 * (volume or 10_000)
    rows = ""
    for side in sides_of(record):
        cost = side.said["cost"]
        training = amount(cost["once"], currency) if side.said["kind"] in TUNED else "none"
        total = amount(cost["once"] + year * cost["per_request"], currency) if _is_timed(side) else "not timed"
        if not _is_trained_known(record, side):
            training, total = "not known", total if total == "not timed" else f"{total} and its training"
        rows += (
            f'<tr id="{element_id(cost_link(side.name))}"><th scope="row">{side.who}</th><td class="n">{esc(a_thousand(side, currency))}</td>'
            f'<td class="n">{esc(training)}</td><td class="n opt">{esc(total)}</td></tr>'
        )
    head = "".join(f'<th scope="col"{c}>{t}</th>' for t, c in (
        ("Side", ""), ("1,000 requests", ' class="n"'), ("Training", ' class="n"'), (f"{year:,} requests", ' class="n opt"'),
    ))  # fmt: skip
    return f'<table class="v-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{_break_even(record)}'


def _is_timed(side: Seen) -> bool:
    """Whether the cost of an answer is known."""
    return side.said["cost"]["per_request"] is not None


def _is_trained_known(record: Record, side: Seen) -> bool:
    prices = record["prices"]
    known = is_training_known(side.said.get("training_s"), prices["training"], prices["training_per_hour"])
    return side.said["kind"] not in TUNED or known


def _break_even(record: Record) -> str:
    sides = sides_of(record)
    tuned, untuned = ([side for side in sides if (side.said["kind"] in TUNED) is which] for which in (True, False))
    lines = "".join(f"<li>{_sentence(record, one, other)}</li>" for one in tuned for other in untuned)
    return f'<ul class="v-list">{lines}</ul>' if lines else ""


def _sentence(record: Record, tuned: Seen, untuned: Seen) -> str:
    requests = pays_after(record, tuned.name, untuned.name)
    who = f"{tuned.badge} <b>{esc(tuned.name)}</b> against {untuned.badge} {esc(untuned.name)}: "
    if not (_is_timed(tuned) and _is_timed(untuned)):
        return who + "not known, since not both were timed."
    if not _is_trained_known(record, tuned):
        return who + "not known, since there is no record of what its training cost."
    if requests is None:
        return who + "its training is never paid back, since an answer costs no less."
    return who + (
        f"paid back after {requests:,} request{'s' * (requests != 1)}." if requests else "cheaper from the first request on."
    )


def _curve(record: Record, currency: str) -> str:
    points = record["cost_curve"]
    if not points:
        return ""
    sides = sides_of(record)
    untuned = [side for side in sides if side.said["kind"] not in TUNED]
    drawn = []
    for side in sides:
        marks = []
        for other in untuned if side.said["kind"] in TUNED else ():
            requests = pays_after(record, side.name, other.name)
            if requests:
                cost = side.said["cost"]
                marks.append((float(requests), cost["once"] + requests * cost["per_request"]))
        totals = [(float(point["at"]), float(point["totals"][side.name])) for point in points if side.name in point["totals"]]
        drawn += [Curve(f"{side.letter} {side.name}", side.colour, totals, marks)] if totals else []
    what = (
        "a year at your volume"
        if record["questions"]["volume"]
        else "a year at 10,000 requests a month, since no volume was given"
    )
    caption = f"Total cost in {currency}, training included: {what}. A ring marks where training is paid back."
    unknown = [side.name for side in sides if not _is_trained_known(record, side)]
    caption += f" What training {', '.join(unknown)} cost is not known, and not in it." if unknown else ""
    return f"<div><h4>Over many requests</h4>{curves(drawn, 'requests', _tick, caption)}</div>"


def _lengths(record: Record, currency: str) -> str:
    found = record.get("prompt_length")
    if not found:
        return ""
    colours = {side.name: side.colour for side in sides_of(record)}
    drawn = [
        Curve(label, colour, [(float(point["at"]), 1000 * float(point["totals"][name])) for point in found["points"]])
        for name, label, colour in (
            ("prompt", f"{found['untuned']}, told at every request", colours.get(found["untuned"], "a")),
            ("fine-tune", f"{found['tuned']}, trained once", colours.get(found["tuned"], "b")),
        )
    ]
    pays = found["pays_from"]
    said = f"At {found['requests']:,} requests, fine-tuning costs no more "
    said += (
        "whatever the length of the prompt" if pays == 0 else f"once the instructions are {pays:,} tokens long" if pays else ""
    )
    if pays is None:
        said = f"At {found['requests']:,} requests, no length of prompt makes fine-tuning the cheaper one"
    caption = (
        f"Cost of 1,000 requests in {currency}, by the tokens of instructions (prompt, examples, passages) that each one carries."
    )
    return f"<div><h4>How long a prompt may be</h4>{curves(drawn, 'tokens', _tick, caption)}{note(said + '.')}</div>"


def _tick(value: float) -> str:
    """An amount beside an axis."""
    return f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"


def questions_html(record: Record) -> str:
    """What was answered to the four questions."""
    said, currency = record["questions"], str(record["prices"]["currency"])

    def given(value: object, unit: str) -> str:
        return "not answered" if value is None else f"{value:,}{unit}"

    facts = [
        ("Requests a month", given(said["volume"], ""), question_link("volume")),
        ("The task changes", CHANGES.get(said["changes"], said["changes"]), question_link("changes")),
        ("Longest wait for an answer", given(said["latency_s"], " s"), question_link("latency_s")),
        ("Budget for training", given(said["budget"], f" {currency}"), question_link("budget")),
    ]
    return f"<h4>Your answers</h4>{pairs_html(facts)}"


def prices_html(record: Record) -> str:
    """The price table, named as what it is."""
    prices = record["prices"]
    facts = [
        (f"Price of {words}", f"{prices[name]:,g} {prices['currency']}" if prices[name] is not None else "the same" if "tuned" in name else "not used", "")
        for name, words in PRICES.items()
    ]  # fmt: skip
    title, warning = ("The prices: examples to edit", note(EXAMPLES)) if Prices(**prices).made_up else ("The prices", "")
    return f"<details><summary>{title}</summary>{warning}{pairs_html(facts)}</details>"
