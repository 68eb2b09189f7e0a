"""A record's names, figures and ids, as a report shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from playground.evaluation.checks import WORST, is_check
from playground.evaluation.comparison import money
from playground.evaluation.criterion import FIELD
from playground.evaluation.decision import TUNED
from playground.evaluation.form import LIKE_REFERENCES
from playground.plain import duration

Record = Mapping[str, Any]
Row = Mapping[str, Any]
Rows = Sequence[Row]

TITLES = {
    "pass": "Passes",
    "format": "Form right",
    "content": "Content right",
    "cut_off": "Cut off by the token limit",
    LIKE_REFERENCES: "Looks like the references",
    "accuracy": "Right label",
    "macro_f1": "F1 of the labels",
    "exact_match": "Exactly the reference",
    "token_f1": "Words in common (F1)",
    "rouge_l": "Order in common (ROUGE-L)",
    "bleu": "BLEU",
    "chrf": "chrF",
    "consistency": "Repeats that agree",
    "groundedness": "Stands in the passages",
    "loss": "Loss of the reference",
    "perplexity": "Perplexity of the reference",
    "seconds": "Seconds a reply",
    "prompt_tokens": "Tokens read",
    "completion_tokens": "Tokens written",
}
"""Metric -> its name for a person, in the order in which they are shown."""
HUNDREDS = ("bleu", "chrf")
"""Metrics that run from 0 to 100."""
UNBOUNDED = ("seconds", "prompt_tokens", "completion_tokens", "loss", "perplexity")
COLOURS = "ABCDEF"
"""A seventh side takes the first colour again; its letter goes on."""


@dataclass(frozen=True)
class Seen:
    """One side as it is shown. letter: stands for it everywhere. colour: one of six. said: its part of the record."""

    letter: str
    colour: str
    name: str
    said: Mapping[str, Any]

    @property
    def is_tuned(self) -> bool:
        return self.said["kind"] in TUNED

    @property
    def per_request(self) -> float | None:
        """What an answer costs; None by seconds, where none of the side's answers was timed."""
        cost: float | None = self.said["cost"]["per_request"]
        return cost


def sides_of(record: Record) -> list[Seen]:
    """The sides in their order, each with its letter."""
    return [
        Seen(chr(65 + at) if at < 26 else str(at), COLOURS[at % len(COLOURS)].lower(), str(side["side"]), side)
        for at, side in enumerate(record["sides"])
    ]


def element_id(link: str) -> str:
    """The element's id behind a reason's link: letters, digits and hyphens only, different for different links."""
    plain = re.sub(r"[^a-z0-9]+", "-", link.casefold()).strip("-")[:40]
    return f"v-{plain}-{sha256(link.encode()).hexdigest()[:8]}"


def title_of(record: Record, metric: str) -> str:
    if metric in TITLES:
        return TITLES[metric]
    if metric.startswith(FIELD):
        return f"{metric.removeprefix(FIELD)} right"
    words = str(record["about"].get(metric, {}).get("words", "")) if is_check(metric) or ":" in metric else ""
    return words or metric.replace("_", " ").capitalize()


def metrics_of(record: Record) -> list[str]:
    """The metrics as they are shown, whatever order a file keeps them in: what decides, the checks as they were
    written, the same in every repeat, likeness, loss, effort."""
    checks = list(record.get("checks") or ())

    def rank(name: str) -> tuple[int, int, str]:
        if name == record["main_metric"]:
            return 0, 0, name
        if name in TITLES:
            return 3, list(TITLES).index(name), name
        bare = name.removeprefix(WORST)
        return 1 + (bare != name), checks.index(bare) if bare in checks else len(checks), name

    return sorted(record["about"], key=rank)


def kind_of(record: Record, metric: str) -> str:
    return str(record["about"].get(metric, {}).get("kind", "mean"))


def figure(record: Record, metric: str, value: float | None) -> str:
    """A figure of a metric: a share in per cent, tokens whole, everything else with the digits that say something."""
    if value is None:
        return "–"
    if kind_of(record, metric) == "yes-no":
        return f"{100 * value:.0f} %"
    if metric in ("prompt_tokens", "completion_tokens"):
        return f"{value:,.0f}"
    if metric in HUNDREDS or metric == "seconds":
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def draws_words(side: Mapping[str, Any]) -> str:
    """How far the draws of a side are apart: ``5 shot draws pass 80 to 95 %``; "" for one."""
    if not (spread := side.get("spread")):
        return ""
    return f"{len(side['draws'])} {side['drawn']} pass {100 * spread[0]:.0f} to {100 * spread[1]:.0f} %"


def interval(record: Record, metric: str, low: float | None, high: float | None) -> str:
    """Both ends, the unit left to the figure: ``87 to 100``."""
    return " to ".join(figure(record, metric, end).removesuffix(" %") for end in (low, high))


def signed(record: Record, metric: str, value: float | None) -> str:
    """A difference with its sign; of shares in points."""
    if value is None:
        return "–"
    if kind_of(record, metric) == "yes-no":
        return f"{100 * value:+.0f} points"
    text = figure(record, metric, abs(value))
    return f"{'+' if value >= 0 else '−'}{text}"


def scale_of(record: Record, metric: str) -> tuple[float, float]:
    """The two ends of a metric's axis: 0 to 1 and 0 to 100 where it is bounded so, else from 0 to just past the largest
    end."""
    found = [side["metrics"][metric] for side in record["sides"] if metric in side["metrics"]]
    top = max((end for one in found for end in (one["value"], one["high"]) if end is not None), default=1.0)
    if metric in HUNDREDS:
        return 0.0, 100.0
    if metric in UNBOUNDED or top > 1:
        return 0.0, 1.05 * top or 1.0
    return 0.0, 1.0


def amount(value: float | None, currency: str) -> str:
    """As ``money``, where it is known."""
    return "–" if value is None else money(value, currency)


def seconds(value: float | None) -> str:
    return "not timed" if value is None else duration(value)
