"""Figures in words, and the ids by which a reason points at its figure."""

from __future__ import annotations

from playground.evaluation.compared import Table
from playground.evaluation.intervals import Interval


def side_link(side: str, metric: str) -> str:
    """The id of one side's figure."""
    return f"side|{side}|{metric}"


def pair_link(a: str, b: str, metric: str) -> str:
    """The id of a pair's difference; sides in the order the table holds them."""
    return f"pair|{a}|{b}|{metric}"


def cost_link(side: str) -> str:
    """The id of what a side costs."""
    return f"cost|{side}"


def question_link(name: str) -> str:
    """The id of a question's answer: volume, changes, latency_s, budget."""
    return f"question|{name}"


def fact_link(name: str) -> str:
    """The id of a fact about the data: rows_trained, poor_share, overlap."""
    return f"fact|{name}"


def figure(table: Table, interval: Interval, metric: str) -> str:
    """``38 of 40`` for yes/no, else the number with two digits."""
    if table.about[metric].kind == "yes-no":
        return f"{round(interval.value * interval.n)} of {interval.n}"
    return f"{interval.value:.2f}"


def gain_words(table: Table, gain: float, metric: str) -> str:
    """A difference: percentage points for yes/no, else the number."""
    if table.about[metric].kind == "yes-no":
        points = round(abs(gain) * 100)
        return f"{points} point{'s' * (points != 1)}"
    return f"{abs(gain):.2f}"


def p_words(p: float) -> str:
    """A p-value, as one writes it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def money(amount: float, currency: str) -> str:
    """An amount with its currency; small ones keep two digits that say something."""
    return f"{amount:,.2f} {currency}" if amount >= 0.01 or amount == 0 else f"{amount:.2g} {currency}"
