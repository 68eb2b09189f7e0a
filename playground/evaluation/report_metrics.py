"""The measured part of a report: the sides at one glance, every metric with its intervals, the pairs, and the whole as a radar."""

from __future__ import annotations

from playground.evaluation.pictures import line_and_dot, radar
from playground.evaluation.shown import (
    HUNDREDS,
    UNBOUNDED,
    Record,
    Seen,
    a_thousand,
    element_id,
    esc,
    figure,
    heading,
    interval,
    kind_of,
    metrics_of,
    note,
    scale_of,
    sides_of,
    signed,
    title_of,
)
from playground.evaluation.wording import p_words, pair_link, side_link

IN_TABLE = ("prompt_tokens", "seconds")
"""Beside the main metric, what the first table holds; the ids of these figures are there."""
MOST_AXES = 10


def table_html(record: Record) -> str:
    """Every side's main metric as line and dot, its tokens, seconds and cost a thousand requests."""
    metric = record["main_metric"]
    if metric is None:
        return heading(
            "The sides", "Nothing that all sides share could be measured, so there is no figure to set them side by side by."
        )
    shown = sides_of(record)
    scale = scale_of(record, metric)
    head = "".join(f'<th scope="col"{kind}>{esc(text)}</th>' for text, kind in (
        (f"{title_of(record, metric)}, {record['examples']} examples", ""), (f"{figure(record, metric, scale[0])} to {figure(record, metric, scale[1])}, with 95 % interval", ' class="pic"'),
        ("Share" if kind_of(record, metric) == "yes-no" else "Figure", ' class="n"'), ("Interval", ' class="n opt"'),
        ("Tokens in", ' class="n opt"'), ("Seconds", ' class="n opt"'), ("1,000 requests", ' class="n opt"'),
    ))  # fmt: skip
    rows = "".join(_table_row(record, metric, scale, side) for side in shown)
    untimed = "" if any(side.said["seconds_mean"] is not None for side in shown) else " Replies were not timed."
    return (
        f'<table class="v-table"><caption class="v-sr">Every side by its main metric</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>" + note(f"The dot is what was measured; the line is where the true figure lies in 95 cases of 100.{untimed}")
    )  # fmt: skip


def _table_row(record: Record, metric: str, scale: tuple[float, float], side: Seen) -> str:
    one = side.said["metrics"].get(metric, {})
    value, low, high = (one.get(key) for key in ("value", "low", "high"))
    words, span = figure(record, metric, value), interval(record, metric, low, high)
    chosen = ' <span class="v-chosen">chosen</span>' if side.name == record.get("chosen_side") else ""
    ids = {name: f' id="{element_id(side_link(side.name, name))}"' for name in (metric, *IN_TABLE)}
    cost = a_thousand(side, str(record["prices"]["currency"]))
    return (
        f'<tr><th scope="row">{side.who}{chosen}</th><td class="pic">'
        f"{line_and_dot(value, low, high, scale, side.colour, f'{words}, 95 % interval {span}')}</td>"
        f'<td class="n"{ids[metric]}><b>{esc(words)}</b></td><td class="n opt">{esc(span)}</td>'
        f'<td class="n opt"{ids["prompt_tokens"] if metric != "prompt_tokens" else ""}>{side.said["prompt_tokens_mean"]:,.0f}</td>'
        f'<td class="n opt"{ids["seconds"] if metric != "seconds" else ""}>{esc(figure(record, "seconds", side.said["seconds_mean"]))}</td>'
        f'<td class="n opt">{esc(cost)}</td></tr>'
    )


def metrics_html(record: Record) -> str:
    """Every metric: a picture of all sides, their figures with intervals, and folded the pairs."""
    cards = "".join(_metric(record, metric) for metric in metrics_of(record))
    text = "Checks come first, then likeness to the reference, then effort. An interval says where the true figure lies in 95 cases of 100."
    who = "".join(side.who for side in sides_of(record))
    return f'{heading("Every metric", text)}<p class="v-key">{who}</p><div class="v-metrics">{cards}</div>'


def _metric(record: Record, metric: str) -> str:
    about, scale = record["about"][metric], scale_of(record, metric)
    rows = ""
    for side in sides_of(record):
        one = side.said["metrics"].get(metric)
        if one is None:
            continue
        words, span = figure(record, metric, one["value"]), interval(record, metric, one["low"], one["high"])
        there = metric == record["main_metric"] or metric in IN_TABLE
        here = "" if there else f' id="{element_id(side_link(side.name, metric))}"'
        picture = line_and_dot(
            one["value"], one["low"], one["high"], scale, side.colour, f"{side.name}: {words}, 95 % interval {span}"
        )
        rows += (
            f'<div class="v-row"{here}>{side.badge}<span class="v-sr">{esc(side.name)}</span>{picture}'
            f"<span><b>{esc(words)}</b> <small>{esc(span)}</small></span></div>"
        )
    words = str(about["words"])
    title = title_of(record, metric)
    said = [words.split(": ", 1)[-1] if words.startswith(title) else words] if words != title else []
    if not about["higher_is_better"]:
        said.append("lower is better")
    main = ' <span class="v-chosen">decides</span>' if metric == record["main_metric"] else ""
    return f'<section class="v-metric"><h4>{esc(title)}{main}</h4>{note(_sentence("; ".join(part for part in said if part)))}{rows}{_pairs(record, metric)}</section>'


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _pairs(record: Record, metric: str) -> str:
    pairs = [pair for pair in record["pairs"] if pair["metric"] == metric]
    if not pairs:
        return ""
    letters = {side.name: side for side in sides_of(record)}
    lines = "".join(
        f'<tr id="{element_id(pair_link(pair["a"], pair["b"], metric))}"><th scope="row">{letters[pair["a"]].badge} less {letters[pair["b"]].badge}'
        f'<span class="v-sr">{esc(pair["a"])} less {esc(pair["b"])}</span></th><td class="n">{esc(signed(record, metric, pair["difference"]))}</td>'
        f'<td class="n">{esc(_ends(record, metric, pair))}</td><td class="n">{esc(p_words(pair["p_adjusted"]))}</td>'
        f"<td>{esc(_enough(pair))}</td></tr>"
        for pair in pairs
    )
    head = "".join(f'<th scope="col"{c}>{t}</th>' for t, c in (
        ("Pair", ""), ("Difference", ' class="n"'), ("Interval", ' class="n"'), ("p, adjusted", ' class="n"'), ("Enough?", ""),
    ))  # fmt: skip
    many = f"{len(pairs)} pair{'s' * (len(pairs) != 1)}"
    shown = sum(bool(pair["enough"]) for pair in pairs)
    return (
        f"<details><summary>{many}, {shown or 'none'} with more than chance</summary>"
        f'<div class="v-scroll"><table class="v-pairs"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div></details>'
    )


def _ends(record: Record, metric: str, pair: dict) -> str:
    ends = (signed(record, metric, pair[end]).removesuffix(" points") for end in ("low", "high"))
    return " to ".join(ends)


def _enough(pair: dict) -> str:
    if pair["enough"]:
        return "Yes"
    if not pair["difference"]:
        return "No difference"
    return f"No; about {pair['rows_needed']:,} examples would do" if pair["rows_needed"] else "No"


def radar_axes(record: Record) -> list[str]:
    """The metrics that fit on one scale: more is better, 0 to 1, and every side has a figure."""
    return [name for name in metrics_of(record) if record["about"][name]["higher_is_better"] and _fits(record, name)][:MOST_AXES]


def _fits(record: Record, metric: str) -> bool:
    """Whether every side has a figure from 0 to 1."""
    found = [side["metrics"].get(metric, {}).get("value") for side in record["sides"]]
    return metric not in (*HUNDREDS, *UNBOUNDED) and all(value is not None and 0 <= value <= 1 for value in found)


def radar_svg(record: Record) -> str:
    """The whole at a glance; says what is on it. Empty with fewer than three metrics that fit on one scale."""
    axes = radar_axes(record)
    sides = [
        (f"{side.letter} {side.name}", side.colour, [float(side.said["metrics"][axis]["value"]) for axis in axes])
        for side in sides_of(record)
    ]
    drawn = radar([title_of(record, axis) for axis in axes], sides)
    text = "Only metrics where more is better and that run from 0 (middle) to 1 (rim); effort, loss and cost are not on it. The area means nothing."
    return heading("The whole at a glance", text) + drawn if drawn else ""
