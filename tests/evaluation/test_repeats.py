"""Repeats and passages: consistency, the worst of several, groundedness."""

from __future__ import annotations

import pytest

from playground.evaluation.checks import parse_check
from playground.evaluation.grounded import groundedness
from playground.evaluation.repeats import consistency, worst


@pytest.mark.parametrize(
    ("repeats", "labels", "share"),
    [
        (("a", "a ", "b"), None, 1 / 3),
        (("a", "a", "a", "b"), None, 3 / 6),
        (("a", "b"), None, 0),
        (("a",), None, None),
        ((), None, None),
        (("It is yes.", "yes"), ["yes", "no"], 1),
        (("It is yes.", "yes"), None, 0),
    ],
)
def test_consistency(repeats: tuple[str, ...], labels: list[str] | None, share: float | None) -> None:
    assert consistency(repeats, labels) == (None if share is None else pytest.approx(share))


def test_the_worst_of_several() -> None:
    check = parse_check("ends-with:end")
    assert worst(check, ("the end", "end")) == 1
    assert worst(check, ("the end", "start", "end")) == 0
    assert worst(check, ()) is None


@pytest.mark.parametrize(
    ("reply", "passages", "share"),
    [
        ("The lamp costs 40 euros.", ["A lamp is 40 euros"], 3 / 4),  # lamp, 40, euros; not costs
        ("It is by Ann.", ["Ann made it"], 1),  # a name counts at any length
        ("Ann is it.", [], None),  # three letters at the start of a sentence: no name, no content word
        ("Pulse 90, pressure 110/70", ["pressure of 110/70"], 2 / 4),
        ("Returns within 14 days.", ["a return is possible", "for 14 days"], 1),
        ("It was so.", ["anything"], None),
        ("Zebras run", ["no such animal"], 0),
    ],
)
def test_groundedness(reply: str, passages: list[str], share: float | None) -> None:
    assert groundedness(reply, passages) == (None if share is None else pytest.approx(share))
