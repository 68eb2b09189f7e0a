"""Reading a refusal from a reply, and counting them."""

from __future__ import annotations

import pytest

from playground.evaluation.refusals import is_refusal, questions, refusals

SAYS_SO = (
    "I don't know.", "The passages do not mention a lighthouse keeper.", "I'm sorry, but I cannot find that.", "That is not stated.",
    "There is no information about the choir in the text.", "I am not sure.", "The fare isn't given.", "Unable to answer from the passages.",
    "The documents don’t say who won.", "It was not specifically mentioned.", "Unknown.",
)  # fmt: skip
ANSWERS = (
    "The telephone number is 555 0100.", "It was blue.", "He built three bridges.", "Vitals: 120/80 mmHg.", "", "Nobody won, it rained.",
    "He did not have breakfast.",
)  # fmt: skip


@pytest.mark.parametrize("reply", SAYS_SO)
def test_says_so(reply: str) -> None:
    assert is_refusal(reply)


@pytest.mark.parametrize("reply", ANSWERS)
def test_answers(reply: str) -> None:
    assert not is_refusal(reply)


def test_counted_with_an_interval() -> None:
    found = refusals([*SAYS_SO[:3], *ANSWERS])
    assert (found.asked, found.refused) == (10, 3)
    assert found.low == pytest.approx(0.1078, abs=1e-4)
    assert found.high == pytest.approx(0.6032, abs=1e-4)
    assert "3 of 10" in found.as_json()["words"]
    assert "answered all 7" in refusals(ANSWERS).words


def test_the_questions_differ_and_are_questions() -> None:
    asked = questions()
    assert len(set(asked)) == len(asked) == 20
    assert all(text.endswith("?") for text in asked)
